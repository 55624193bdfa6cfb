//! What surrounds every request, matched or not: admission of its body, a net for panics, compression, the
//! headers of every answer, the metrics and one line of access log (spec/registry.md 0.4 and 8).

use std::fmt;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::body::Body as _;

use super::auth::Tag;
use super::error::Refusal;
use super::eureka;
use super::eureka::route;
use super::listen::Hostless;
use super::state::App;
use super::{JSON, body, operation};
use crate::gzip;

const REQUEST_ID: HeaderName = HeaderName::from_static("request_id");
const CLIENT_IP: HeaderName = HeaderName::from_static("x-client-ip");
/// Longer answers are compressed beside the request threads.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// How much of a claimed client address is logged.
const CLIENT_BYTES_MAX: usize = 64;

/// The outermost layer.
pub(super) async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = app.clock.uptime();
    let id = app.request_ids.next(app.clock.since_epoch().as_nanos());
    let tag = Tag::default();
    let line = Line::of(&request, tag.clone(), &app);
    // The answer to a HEAD is empty, and an empty one is never compressed.
    let accepts_gzip = takes_gzip(request.headers()) && request.method() != Method::HEAD;
    let language = (!app.messages.is_empty())
        .then(|| header(request.headers(), ACCEPT_LANGUAGE).unwrap_or_default().to_owned());
    request.extensions_mut().insert(tag);

    let is_hostless = request.extensions().get::<Hostless>().is_some();
    let answered = caught(async {
        if is_hostless {
            return Refusal::Hostless.into_response();
        }
        match body::admit(request, &app.bodies).await {
            Ok(request) => next.run(request).await,
            Err(refusal) => refusal.into_response(),
        }
    });
    let mut response = answered.await;
    if let Some(language) = language {
        response = app.messages.translated(response, &language);
    }
    // The names are compared with the description; so a route that was added and not described is noticed by its first test.
    debug_assert!(
        line.operation != operation::UNROUTED || !response.status().is_success(),
        "a route without a name answers"
    );
    if accepts_gzip {
        response = compressed(response).await;
    }
    dress(&mut response, &id);
    let elapsed = app.clock.uptime() - began;
    app.metrics.answered(line.operation, response.status(), elapsed.as_secs_f64());
    line.write(&id, &response, elapsed);
    response
}

/// Whether the client takes gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    header(headers, ACCEPT_ENCODING).is_some_and(gzip::is_accepted)
}

/// Turns a panic of a handler into an answer. The state is shared, but every lock in it survives a panic.
async fn caught(answer: impl Future<Output = Response>) -> Response {
    let mut answer = pin!(answer);
    std::future::poll_fn(|context| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
        polled.unwrap_or_else(|_| {
            tracing::error!(module = "API", "a handler panicked");
            Poll::Ready(Refusal::Internal.into_response())
        })
    })
    .await
}

async fn compressed(response: Response) -> Response {
    let has_body = response.body().size_hint().exact().is_none_or(|length| length > 0);
    if !has_body || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // Every body of ours is in memory already, so this neither waits nor fails.
    let Ok(plain) = axum::body::to_bytes(body, usize::MAX).await else {
        return Refusal::Internal.into_response();
    };
    if plain.is_empty() {
        return Response::from_parts(parts, Body::empty());
    }
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(smaller(plain).await))
}

async fn smaller(plain: Bytes) -> Vec<u8> {
    if plain.len() <= INLINE_BYTES_MAX {
        return gzip::compress(&plain);
    }
    let elsewhere = plain.clone();
    let compressed = tokio::task::spawn_blocking(move || gzip::compress(&elsewhere)).await;
    // Only a runtime that is shutting down refuses.
    compressed.unwrap_or_else(|_| gzip::compress(&plain))
}

/// The headers of every answer. One without a body by definition (304) has no type either.
fn dress(response: &mut Response, id: &str) {
    let unchanged = response.status() == StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    if !unchanged && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The access log's line about one request, begun before the request is consumed.
struct Line {
    client: String,
    method: Method,
    target: Target,
    version: http::Version,
    operation: &'static str,
    protocol: &'static str,
    tag: Tag,
}

impl Line {
    fn of(request: &Request, tag: Tag, app: &App) -> Self {
        let claimed = header(request.headers(), CLIENT_IP).filter(|client| !client.is_empty());
        let client = claimed.map(|client| client.chars().take(CLIENT_BYTES_MAX).collect());
        let peer =
            || request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_string());
        let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let (path, method) = (request.uri().path(), request.method());
        let eureka = eureka::operation(path, method, app.eureka.compat);
        Self {
            client: client.or_else(peer).unwrap_or_else(|| "-".to_owned()),
            method: request.method().clone(),
            target: Target(request.uri().clone()),
            version: request.version(),
            operation: eureka.unwrap_or_else(|| operation::name(matched, method)),
            protocol: if eureka.is_some() { "Eureka" } else { "Amalgam8" },
            tag,
        }
    }

    /// The phrase is not constant because spec/registry.md 8 prescribes it.
    fn write(&self, id: &str, response: &Response, elapsed: Duration) {
        let routed = self.operation != operation::UNROUTED;
        tracing::info!(
            module = "ACCESS",
            apptype = "service-discovery",
            "sd-request-id" = id,
            namespace = self.tag.0.get().map_or("", |namespace| namespace.as_str()),
            method = if routed { self.operation } else { self.method.as_str() },
            protocol = if routed { self.protocol.to_owned() } else { format!("{:?}", self.version) },
            returncode = response.status().as_u16(),
            byteswritten = response.body().size_hint().lower(),
            elapsedtime = ?elapsed,
            "{} {} {} {:?}",
            self.client,
            self.method,
            self.target,
            self.version
        );
    }
}

/// The target as it may be logged: Eureka clients have their token in the path.
struct Target(http::Uri);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(uri) = self;
        match (route::masked(uri.path()), uri.query()) {
            (None, _) => uri.fmt(f),
            (Some(path), None) => f.write_str(&path),
            (Some(path), Some(query)) => write!(f, "{path}?{query}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_answer() {
        let response = caught(async { panic!("on purpose") }).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        assert!(body.starts_with(b"{\"Error\":\""), "{body:?}");
    }

    #[test]
    fn no_token_is_logged() {
        for (target, logged) in [
            ("/api/eureka/secret/v2/apps/A?x=1", "/api/eureka/***/v2/apps/A?x=1"),
            ("http://h:1/api/eureka/secret/v2/apps", "/api/eureka/***/v2/apps"),
            ("/api/eureka//v2/apps", "/api/eureka//v2/apps"),
            ("/api/v1/instances?tags=a", "/api/v1/instances?tags=a"),
        ] {
            assert_eq!(Target(target.parse().unwrap()).to_string(), logged);
        }
    }

    #[tokio::test]
    async fn an_empty_body_is_never_announced_as_compressed() {
        let empty = compressed(StatusCode::OK.into_response()).await;
        assert!(!empty.headers().contains_key(CONTENT_ENCODING));
        let text = compressed("x".repeat(100_000).into_response()).await;
        assert_eq!(text.headers()[CONTENT_ENCODING], "gzip");
        let encoded = ([(CONTENT_ENCODING, "gzip")], "already").into_response();
        let body = axum::body::to_bytes(compressed(encoded).await.into_body(), 1_000).await.unwrap();
        assert_eq!(body, "already");
    }
}
