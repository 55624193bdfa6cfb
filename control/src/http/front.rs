//! What happens to every request before and after its route, in the order of spec/control-and-proxy.md 1.2:
//! panic guard, host, content type, request id, log line, HTTPS. Authentication comes later, with the route.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use registry_api::host;
use tracing::debug;

use super::panic::{Panicked, guarded};
use super::{App, Peer, error, routes};
use crate::clock::Clock;

const REQUEST_ID: HeaderName = HeaderName::from_static("a8-request-id");
/// A longer id of a caller is replaced.
const REQUEST_ID_MAX_BYTES: usize = 256;

/// Takes every request. Until [`Front::open`] it answers 503.
pub(crate) struct Front {
    clock: Clock,
    require_https: bool,
    router: OnceLock<TowerToHyperService<Router>>,
}

impl Front {
    pub(crate) fn new(clock: Clock, require_https: bool) -> Self {
        Self { clock, require_https, router: OnceLock::new() }
    }

    /// From now on the routes answer.
    pub(crate) fn open(&self, app: Arc<App>) {
        // A second call would find the same routes; the first stay.
        let _ = self.router.set(TowerToHyperService::new(routes(app)));
    }

    pub(crate) async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Response {
        let begun = self.clock.now();
        let id = request_id(request.headers());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut response = match guarded(self.answer(request, peer)).await {
            Ok(response) => response,
            Err(Panicked) => error::panicked(),
        };
        let took_ms = self.clock.now().since(begun).as_millis();
        let status = response.status().as_u16();
        debug!(request_id = ?id, %method, %uri, status, took_ms, "request");
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    async fn answer(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Response {
        if !host::is_named(&request) {
            return error::bad_host();
        }
        let Some(router) = self.router.get() else {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        };
        if !is_json_or_nothing(request.headers()) {
            return error::bad_content_type();
        }
        if self.require_https && !is_secure(request.headers()) {
            return to_https(&request);
        }
        request.extensions_mut().insert(Peer(peer));
        match router.call(request).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| (1..=REQUEST_ID_MAX_BYTES).contains(&id.len()));
    given.cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().hyphenated().to_string();
        HeaderValue::try_from(id).expect("a UUID is hexadecimal digits and hyphens")
    })
}

/// A body of known length must be JSON in UTF-8; a chunked one is not checked.
fn is_json_or_nothing(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.is_none_or(|length| length.trim() == "0") {
        return true;
    }
    let Some(text) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let mut parts = text.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/json"));
    let is_utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    is_json && parts.all(is_utf8)
}

fn is_secure(headers: &HeaderMap) -> bool {
    let says_https =
        |name: &str| headers.get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"));
    says_https("x-forwarded-proto") || says_https("$wssc")
}

fn to_https(request: &Request<Incoming>) -> Response {
    let header = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or_else(header);
    let Some(host) = host.filter(|host| !host.is_empty()) else { return error::missing_host() };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    match HeaderValue::try_from(format!("https://{host}{path}")) {
        Ok(location) => (StatusCode::MOVED_PERMANENTLY, [(LOCATION, location)]).into_response(),
        Err(_) => error::missing_host(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_known_length_must_be_json_in_utf8() {
        for (length, content_type, expected) in [
            (None, None, true),
            (None, Some("text/plain"), true),
            (Some("0"), None, true),
            (Some("0"), Some("text/plain"), true),
            (Some("2"), None, false),
            (Some("2"), Some(""), false),
            (Some("2"), Some("text/plain"), false),
            (Some("2"), Some("application/json5"), false),
            (Some("2"), Some("application/json"), true),
            (Some("2"), Some("Application/JSON ; charset=UTF-8"), true),
            (Some("2"), Some("application/json;charset=\"utf-8\""), true),
            (Some("2"), Some("application/json; charset=latin1"), false),
            (Some("2"), Some("application/json; version=1"), true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(length) = length {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            if let Some(content_type) = content_type {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            assert_eq!(is_json_or_nothing(&headers), expected, "{length:?} {content_type:?}");
        }
    }

    #[test]
    fn an_id_is_kept_or_made() {
        let mut headers = HeaderMap::new();
        assert_eq!(request_id(&headers).len(), 36);
        headers.insert(REQUEST_ID, HeaderValue::from_static("mine"));
        assert_eq!(request_id(&headers), "mine");
        headers.insert(REQUEST_ID, HeaderValue::from_static(""));
        assert_eq!(request_id(&headers).len(), 36);
    }
}
