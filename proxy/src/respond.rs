//! The answers the proxy makes itself: one envelope, one header, one table of ids and statuses
//! (spec/control-and-proxy.md 3.7). Whether and when one is due is decided elsewhere, and who writes it as well.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use control_api::header::Field;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};
use routing::Refusal;
use serde::Serialize;

use crate::grpc;
use crate::head::Malformed;
use crate::lines::{connection, line, status_line};

/// The header that names the error.
pub(crate) const ERROR_HEADER: &str = "X-A8-Error";
/// The id of an error of time (spec/control-and-proxy.md 3.7).
const LATE: &str = "upstream_timeout";
/// The id of an answer that cannot be held.
const TOO_LARGE: &str = "answer_too_large";
/// What people read of an injected failure.
const FAULT: &str = "the request was failed by an action rule";
/// Room for most answers.
const HTTP1_BYTES_USUAL: usize = 512;

/// An answer made by the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// What is sent.
    pub(crate) status: u16,
    pub(crate) says: Says,
    /// When another request may fare better, in seconds.
    pub(crate) retry_after_s: Option<u64>,
}

/// What an answer says beside its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Says {
    /// What went wrong: what programs compare, and what people read.
    Error { id: &'static str, description: Cow<'static, str> },
    /// What a rule wants. The fields never frame the body.
    Given { fields: Vec<Field>, body: Bytes },
}

/// What an answer holds beside its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing, by its status: not even a length.
    Unframed,
    /// Nothing.
    Empty,
    /// All that it says.
    Body,
}

impl Reply {
    const fn new(status: u16, id: &'static str, description: &'static str) -> Self {
        Self {
            status,
            says: Says::Error { id, description: Cow::Borrowed(description) },
            retry_after_s: None,
        }
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
        Self { status, says: Says::Error { id, description: Cow::Owned(description) }, retry_after_s: None }
    }

    /// An action rule fails the request.
    pub(crate) const fn fault(status: u16) -> Self {
        Self::new(status, "fault_abort", FAULT)
    }

    /// An action rule fails the request as a gRPC call; whoever knows no trailers finds the status in the header.
    pub(crate) fn grpc_fault(status: u8) -> Self {
        let fields = vec![
            (HeaderName::from_static("x-a8-error"), HeaderValue::from_static("fault_abort")),
            (CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
            (HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(status))),
            (HeaderName::from_static("grpc-message"), HeaderValue::from_static(FAULT)),
        ];
        Self { status: 200, says: Says::Given { fields, body: Bytes::new() }, retry_after_s: None }
    }

    /// What a rule answers.
    pub(crate) fn given(status: u16, fields: Vec<Field>, body: Bytes) -> Self {
        Self { status, says: Says::Given { fields, body }, retry_after_s: None }
    }

    /// More requests than the route lets pass.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let reply = Self::new(429, "rate_limited", "more requests than the route lets pass");
        // Rounded up: whoever comes a moment too early has waited for nothing.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after_s: Some(seconds.max(1)), ..reply }
    }

    /// A limit of the backend is reached.
    pub(crate) const fn overloaded() -> Self {
        Self::new(503, "overloaded", "too many requests to the backend are in progress")
    }

    /// No instance could be connected to.
    pub(crate) const fn unreachable() -> Self {
        Self::new(503, "upstream_connect", "no instance could be connected to")
    }

    /// The proxy lacks what a connection takes.
    pub(crate) const fn exhausted() -> Self {
        Self::new(503, "proxy_exhausted", "the proxy has no port, descriptor or memory left to connect with")
    }

    /// The instance closed the connection instead of answering.
    pub(crate) const fn unanswered() -> Self {
        Self::new(503, "upstream_connect", "the instance closed the connection without an answer")
    }

    /// What the instance sent is no answer.
    pub(crate) const fn unintelligible() -> Self {
        Self::new(502, "upstream_connect", "the answer of the instance is malformed")
    }

    /// What the instance sent is longer than what can be held of it.
    pub(crate) const fn oversized() -> Self {
        Self::new(502, TOO_LARGE, "the answer of the instance is too large for a call over HTTP/1.1")
    }

    /// The time of the request ran out.
    pub(crate) const fn late() -> Self {
        Self::new(504, LATE, "no instance answered in time")
    }

    /// Something in here went wrong.
    pub(crate) const fn internal() -> Self {
        Self::new(500, "internal", "the proxy failed")
    }

    /// As a client of HTTP/1.1 gets it whose gRPC call is passed on in HTTP/2: what says that such a call failed has the status that
    /// an instance's would have.
    pub(crate) fn bridged(&self) -> Cow<'_, Self> {
        let failed = |(name, value): &Field| *name == grpc::STATUS && grpc::has_failed(value.as_bytes());
        match &self.says {
            Says::Given { fields, .. } if self.status == 200 && fields.iter().any(failed) => {
                Cow::Owned(Self { status: grpc::FAILED_STATUS, ..self.clone() })
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// The gRPC status that stands for it: that of its HTTP status (the mapping of the gRPC project), unless it is known
    /// that the time ran out.
    pub(crate) fn grpc_status(&self) -> u16 {
        match (&self.says, self.status) {
            (Says::Error { id: LATE, .. }, _) => grpc::DEADLINE_EXCEEDED,
            (Says::Error { id: TOO_LARGE, .. }, _) => grpc::RESOURCE_EXHAUSTED,
            (_, 400) => 13,
            (_, 401) => 16,
            (_, 403) => 7,
            (_, 404) => 12,
            (_, 429 | 502..=504) => 14,
            _ => 2,
        }
    }

    /// What is written about the body.
    pub(crate) fn content(&self) -> Content {
        match self.status {
            100..=199 | 204 | 304 => Content::Unframed,
            205 => Content::Empty,
            _ => Content::Body,
        }
    }

    /// What is sent behind the head: the envelope, or what a rule wants. Statuses without a body have none.
    pub(crate) fn body(&self) -> Bytes {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: &'a str,
            description: &'a str,
        }
        if self.content() != Content::Body {
            return Bytes::new();
        }
        match &self.says {
            Says::Given { body, .. } => body.clone(),
            Says::Error { id, description } => {
                let envelope = Envelope { error: id, description };
                serde_json::to_vec(&envelope).expect("two strings always encode").into()
            }
        }
    }

    /// The whole answer for a connection that ends with it.
    pub(crate) fn final_http1(&self) -> Vec<u8> {
        let mut answer = Vec::with_capacity(HTTP1_BYTES_USUAL);
        self.write_http1(false, true, &mut answer);
        answer
    }

    /// Appends the answer to `out` as a client of HTTP/1.1 gets it: without its body when it answers a HEAD (`to_head`),
    /// and saying that the connection ends when it does (`close`). What only announces an answer cannot be one, so the
    /// connection ends behind it in any case.
    pub(crate) fn write_http1(&self, to_head: bool, close: bool, out: &mut Vec<u8>) {
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let body = self.body();
        status_line(self.status, reason.unwrap_or_default().as_bytes(), out);
        match &self.says {
            Says::Error { id, .. } => line(out, ERROR_HEADER.as_bytes(), id.as_bytes()),
            Says::Given { fields, .. } => {
                fields.iter().for_each(|(name, value)| line(out, name.as_str().as_bytes(), value.as_bytes()));
            }
        }
        if self.content() != Content::Unframed {
            write!(out, "Content-Length: {}\r\n", body.len()).expect("memory takes everything");
        }
        if matches!(self.says, Says::Error { .. }) && self.content() == Content::Body {
            line(out, b"Content-Type", b"application/json");
        }
        if let Some(seconds) = self.retry_after_s {
            write!(out, "Retry-After: {seconds}\r\n").expect("memory takes everything");
        }
        out.extend_from_slice(connection(close || self.status < 200));
        out.extend_from_slice(b"\r\n");
        if !to_head {
            out.extend_from_slice(&body);
        }
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
            (Reply::oversized(), 502, "answer_too_large"),
            (Reply::unreachable(), 503, "upstream_connect"),
            (Reply::late(), 504, "upstream_timeout"),
            (Reply::rate_limited(Duration::from_millis(1)), 429, "rate_limited"),
            (Reply::fault(418), 418, "fault_abort"),
        ] {
            assert_eq!(reply.status, status);
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

    #[test]
    fn what_a_rule_answers_is_sent_as_it_is_and_framed_here() {
        let fields = || vec![(HeaderName::from_static("x-a"), HeaderValue::from_static("1"))];
        for (status, to_head, rest) in [
            (200, false, "x-a: 1\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"),
            (200, true, "x-a: 1\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n"),
            (304, false, "x-a: 1\r\nConnection: keep-alive\r\n\r\n"),
            (205, false, "x-a: 1\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"),
        ] {
            let mut out = Vec::new();
            Reply::given(status, fields(), Bytes::from_static(b"hi")).write_http1(to_head, false, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.split_once("\r\n").unwrap().1, rest, "{status}");
        }
    }

    #[test]
    fn an_answer_has_what_its_status_and_its_client_allow() {
        let json = "Content-Type: application/json\r\n";
        for (status, to_head, close, head, bodied) in [
            (418, false, false, "HTTP/1.1 418 I'm a teapot\r\n{id}{length}{json}{keep}\r\n", true),
            (503, false, true, "HTTP/1.1 503 Service Unavailable\r\n{id}{length}{json}{close}\r\n", true),
            (503, true, false, "HTTP/1.1 503 Service Unavailable\r\n{id}{length}{json}{keep}\r\n", false),
            (599, false, false, "HTTP/1.1 599 \r\n{id}{length}{json}{keep}\r\n", true),
            (205, false, false, "HTTP/1.1 205 Reset Content\r\n{id}Content-Length: 0\r\n{keep}\r\n", false),
            (204, false, false, "HTTP/1.1 204 No Content\r\n{id}{keep}\r\n", false),
            (304, true, true, "HTTP/1.1 304 Not Modified\r\n{id}{close}\r\n", false),
            (100, false, false, "HTTP/1.1 100 Continue\r\n{id}{close}\r\n", false),
            (199, true, false, "HTTP/1.1 199 \r\n{id}{close}\r\n", false),
        ] {
            let reply = Reply::fault(status);
            let mut out = b"before ".to_vec();
            reply.write_http1(to_head, close, &mut out);
            let mut expected = head
                .replace("{id}", "X-A8-Error: fault_abort\r\n")
                .replace("{length}", &format!("Content-Length: {}\r\n", reply.body().len()))
                .replace("{json}", json)
                .replace("{keep}", "Connection: keep-alive\r\n")
                .replace("{close}", "Connection: close\r\n");
            if bodied {
                expected.push_str(
                    r#"{"error":"fault_abort","description":"the request was failed by an action rule"}"#,
                );
            }
            assert_eq!(std::str::from_utf8(&out).unwrap(), format!("before {expected}"));
        }
    }
}
