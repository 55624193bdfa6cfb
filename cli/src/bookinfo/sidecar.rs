//! Calls from one service to another, through the caller's own sidecar. Only the cookie `user` and the
//! request id travel on (spec/control-and-proxy.md 5.2).

use std::time::Duration;

use axum::http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use http::{Method, StatusCode};
use registry_api::client::{BadUrl, Caller};
use serde_json::Value;
use tracing::warn;

/// The way to other services.
#[derive(Debug)]
pub(super) struct Sidecar {
    caller: Caller,
}

/// What of a request goes on to further services.
#[derive(Debug)]
pub(super) struct Passed(HeaderMap);

impl Passed {
    /// Takes the request id and the cookie `user` from a request.
    pub(super) fn from(request: &HeaderMap) -> Self {
        let mut passed = HeaderMap::new();
        if let Some(id) = request.get("x-request-id") {
            passed.insert("x-request-id", id.clone());
        }
        let cookies = request.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let user =
            cookies.flat_map(|value| value.split(';')).map(str::trim).find(|pair| pair.starts_with("user="));
        if let Some(Ok(user)) = user.map(HeaderValue::from_str) {
            passed.insert(COOKIE, user);
        }
        Self(passed)
    }
}

impl Sidecar {
    /// `url` is the sidecar's listener.
    pub(super) fn new(url: &str) -> Result<Self, BadUrl> {
        Ok(Self { caller: Caller::new(&[url], None)? })
    }

    /// Asks a service; `None` when it does not answer well within `limit` at any of `attempts`.
    pub(super) async fn ask(
        &self,
        path: &str,
        passed: &Passed,
        limit: Duration,
        attempts: u32,
    ) -> Option<Value> {
        for attempt in 1..=attempts {
            let answer = self.caller.call_with(Method::GET, path, &passed.0, None, limit).await;
            match answer.and_then(|answer| answer.expect(&[StatusCode::OK])?.json()) {
                Ok(value) => return Some(value),
                Err(error) => warn!(path, attempt, %error, "no answer from another service"),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_user_and_the_request_id_travel_on() {
        let mut request = HeaderMap::new();
        request.insert("x-request-id", HeaderValue::from_static("r-1"));
        request.insert("authorization", HeaderValue::from_static("Bearer x"));
        request.append(COOKIE, HeaderValue::from_static("foo=bar; user=jason;ding=dong"));
        let Passed(passed) = Passed::from(&request);
        let mut names: Vec<_> =
            passed.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        names.sort_unstable();
        assert_eq!(names, [("cookie", "user=jason"), ("x-request-id", "r-1")]);
        assert!(Passed::from(&HeaderMap::new()).0.is_empty());
    }
}
