//! The answers the proxy makes itself: one envelope, one header, one table of ids and statuses
//! (spec/control-and-proxy.md 3.7). Whether and when one is due is decided elsewhere, and who writes it as well.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use routing::Refusal;
use serde::Serialize;

use crate::head::Malformed;

/// The header that names the error.
pub(crate) const ERROR_HEADER: &str = "X-A8-Error";

/// An answer made by the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// What is sent.
    pub(crate) status: u16,
    /// What programs compare.
    pub(crate) id: &'static str,
    /// What people read.
    pub(crate) description: Cow<'static, str>,
}

impl Reply {
    const fn new(status: u16, id: &'static str, description: &'static str) -> Self {
        Self { status, id, description: Cow::Borrowed(description) }
    }

    /// The request cannot be understood in one way only.
    pub(crate) fn malformed(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Bad(why) => Self::bad_request(why),
            Malformed::TooLarge(why) => Self::new(431, "bad_request", why),
        }
    }

    /// The request cannot be understood in one way only.
    pub(crate) const fn bad_request(why: &'static str) -> Self {
        Self::new(400, "bad_request", why)
    }

    /// The client took too long to send its request.
    pub(crate) const fn request_timeout(why: &'static str) -> Self {
        Self::new(408, "bad_request", why)
    }

    /// The table refuses. `destination` is the first segment of the path.
    pub(crate) fn refused(refusal: Refusal, destination: &str) -> Self {
        let (status, id) = refusal.status_and_id();
        let description = match refusal {
            Refusal::UnknownService if destination.is_empty() => "the path names no service".to_owned(),
            Refusal::UnknownService => format!("there is no service `{destination}`"),
            Refusal::NoRoute => format!("no route rule of `{destination}` matches the request"),
            Refusal::NoInstances => format!("`{destination}` has no instance for the request"),
        };
        Self { status, id, description: Cow::Owned(description) }
    }

    /// An action rule fails the request.
    pub(crate) const fn fault(status: u16) -> Self {
        Self::new(status, "fault_abort", "the request was failed by an action rule")
    }

    /// A limit of the backend is reached.
    pub(crate) const fn overloaded() -> Self {
        Self::new(503, "overloaded", "too many requests to the backend are in progress")
    }

    /// No instance could be connected to.
    pub(crate) const fn unreachable() -> Self {
        Self::new(503, "upstream_connect", "no instance could be connected to")
    }

    /// The instance closed the connection instead of answering.
    pub(crate) const fn unanswered() -> Self {
        Self::new(503, "upstream_connect", "the instance closed the connection without an answer")
    }

    /// What the instance sent is no answer.
    pub(crate) const fn unintelligible() -> Self {
        Self::new(502, "upstream_connect", "the answer of the instance is malformed")
    }

    /// The time of the request ran out.
    pub(crate) const fn late() -> Self {
        Self::new(504, "upstream_timeout", "no instance answered in time")
    }

    /// Something in here went wrong.
    pub(crate) const fn internal() -> Self {
        Self::new(500, "internal", "the proxy failed")
    }

    /// The envelope. Statuses without a body have none.
    pub(crate) fn body(&self) -> Bytes {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: &'a str,
            description: &'a str,
        }
        if matches!(self.status, 100..=199 | 204 | 205 | 304) {
            return Bytes::new();
        }
        let envelope = Envelope { error: self.id, description: &self.description };
        serde_json::to_vec(&envelope).expect("two strings always encode").into()
    }

    /// The whole answer for a connection that ends with it.
    pub(crate) fn final_http1(&self) -> Vec<u8> {
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let body = self.body();
        let mut answer = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nX-A8-Error: {}\r\nConnection: close\r\n\r\n",
            self.status,
            reason.unwrap_or_default(),
            body.len(),
            self.id,
        )
        .into_bytes();
        answer.extend_from_slice(&body);
        answer
    }
}

/// The gRPC status that stands for an HTTP status (the mapping of the gRPC project).
pub(crate) fn grpc_status(status: u16) -> u16 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_has_the_status_and_id_of_the_spec() {
        for (reply, status, id) in [
            (Reply::malformed(Malformed::Bad("x")), 400, "bad_request"),
            (Reply::malformed(Malformed::TooLarge("x")), 431, "bad_request"),
            (Reply::request_timeout("x"), 408, "bad_request"),
            (Reply::refused(Refusal::UnknownService, "x"), 404, "unknown_service"),
            (Reply::refused(Refusal::NoRoute, "x"), 404, "no_route"),
            (Reply::refused(Refusal::NoInstances, "x"), 503, "no_instances"),
            (Reply::overloaded(), 503, "overloaded"),
            (Reply::unreachable(), 503, "upstream_connect"),
            (Reply::late(), 504, "upstream_timeout"),
            (Reply::fault(418), 418, "fault_abort"),
        ] {
            assert_eq!((reply.status, reply.id), (status, id));
            let body: serde_json::Value = serde_json::from_slice(&reply.body()).unwrap();
            assert_eq!(body["error"], id);
            assert!(!body["description"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn a_destination_is_escaped_and_bodiless_statuses_have_no_body() {
        let body = Reply::refused(Refusal::NoRoute, "a\"b").body();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()["description"],
            "no route rule of `a\"b` matches the request"
        );
        assert!(Reply::fault(204).body().is_empty());
    }

    #[test]
    fn a_final_answer_is_complete() {
        let answer = String::from_utf8(Reply::bad_request("why").final_http1()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(head.contains("X-A8-Error: bad_request\r\n"));
        assert_eq!(body, r#"{"error":"bad_request","description":"why"}"#);
    }
}
