//! Which header fields go on in either direction and what is added to them (spec/control-and-proxy.md 3.7). Pure:
//! it says what to do with a header map, the engines do it to theirs.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// A request id longer than this is replaced: it is written into every log on the way.
const REQUEST_ID_BYTES_MAX: usize = 256;

/// The fields of one hop that an answer must not carry further. Framing is not among them: it is checked by
/// [`check_answer`] and then meant for the engine.
const OF_ONE_HOP: [HeaderName; 7] =
    [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, UPGRADE];

/// The request id that a client gave, if it is one.
pub(crate) fn given_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let usable = !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.as_bytes().is_ascii();
    usable.then_some(id)
}

/// A fresh request id: a random UUID of version 4.
pub(crate) fn new_request_id(chance: u128) -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(chance.to_be_bytes()).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
        .expect("hexadecimal digits and hyphens are a value")
}

/// `X-Forwarded-For` with the caller appended to whatever came before.
pub(crate) fn forwarded_for(headers: &HeaderMap, caller: IpAddr) -> HeaderValue {
    let mut text = String::with_capacity(40);
    for value in headers.get_all(FORWARDED_FOR) {
        // What is no text is nobody's address either.
        if let Ok(value) = value.to_str() {
            text.push_str(value);
            text.push_str(", ");
        }
    }
    write!(text, "{}", caller.to_canonical()).expect("writing to a string cannot fail");
    HeaderValue::try_from(text).expect("visible ASCII and an address are a value")
}

/// Cookies that HTTP/2 split up, as HTTP/1.1 wants them (RFC 9113 8.2.3); `None` when there is nothing to join.
pub(crate) fn joined_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut crumbs = headers.get_all(http::header::COOKIE).iter();
    let first = crumbs.next()?;
    let second = crumbs.next()?;
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    HeaderValue::from_bytes(&joined).ok()
}

/// Whether the client takes trailers: all that goes on of its `TE`.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"trailers"))
}

/// Whether the client asks for another protocol, and for one that can be tunnelled. HTTP/2 by upgrade cannot.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let named = |value: &HeaderValue| tokens(value).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let mut protocols = headers.get_all(UPGRADE).iter();
    let Some(protocol) = protocols.next() else { return false };
    let single = protocols.next().is_none() && tokens(protocol).count() == 1;
    single
        && !tokens(protocol).any(|token| token.len() >= 3 && token[..3].eq_ignore_ascii_case(b"h2c"))
        && headers.get_all(CONNECTION).iter().any(named)
}

/// The fields that an answer must not carry to the client, those that its `Connection` field names among them.
pub(crate) fn dropped_from_answer(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut dropped = Vec::new();
    for connection in headers.get_all(CONNECTION) {
        for token in tokens(connection) {
            match HeaderName::from_bytes(token) {
                // Its framing belongs to the engine, whatever the instance says about it.
                Ok(name) if name != TRANSFER_ENCODING && name != CONTENT_LENGTH => dropped.push(name),
                _ => {}
            }
        }
    }
    dropped.extend(OF_ONE_HOP.iter().filter(|name| headers.contains_key(*name)).cloned());
    dropped.retain(|name| headers.contains_key(name));
    if headers.contains_key(CONNECTION) {
        dropped.push(CONNECTION);
    }
    dropped
}

/// What has to be done about the framing of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AnswerFraming {
    /// Nothing.
    Clear,
    /// The same length is given several times: give it once.
    Once(HeaderValue),
    /// It can be read in two ways.
    Ambiguous,
}

/// Reads the framing fields of an answer.
pub(crate) fn check_answer(headers: &HeaderMap) -> AnswerFraming {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        // The length beside it was dropped when the answer was read; nobody downstream sees both.
        return if chunked { AnswerFraming::Clear } else { AnswerFraming::Ambiguous };
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return AnswerFraming::Clear };
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if lengths.next().is_none() && is_number(first.as_bytes()) {
        return AnswerFraming::Clear;
    }
    let mut all = headers.get_all(CONTENT_LENGTH).iter().flat_map(tokens);
    match all.next().filter(|length| is_number(length)) {
        Some(length) if all.all(|other| other == length) => {
            HeaderValue::from_bytes(length).map_or(AnswerFraming::Ambiguous, AnswerFraming::Once)
        }
        _ => AnswerFraming::Ambiguous,
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_caller_is_appended_to_those_before_it() {
        let caller: IpAddr = "::ffff:10.0.0.9".parse().unwrap();
        for (before, after) in [
            (&[][..], "10.0.0.9"),
            (&[("x-forwarded-for", "1.1.1.1")][..], "1.1.1.1, 10.0.0.9"),
            (
                &[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", "::1")][..],
                "1.1.1.1, 2.2.2.2, ::1, 10.0.0.9",
            ),
        ] {
            assert_eq!(forwarded_for(&map(before), caller), after);
        }
    }

    #[test]
    fn a_request_id_is_kept_unless_it_is_none() {
        assert_eq!(given_request_id(&map(&[("x-request-id", "abc")])).unwrap(), "abc");
        assert!(given_request_id(&map(&[("x-request-id", "")])).is_none());
        assert!(given_request_id(&map(&[])).is_none());
        let fresh = new_request_id(7);
        assert_eq!(fresh.len(), 36);
        assert_eq!(fresh.as_bytes()[14], b'4');
        assert_ne!(fresh, new_request_id(8));
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        assert_eq!(
            joined_cookies(&map(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c")])).unwrap(),
            "a=1; b=2; c"
        );
        assert!(joined_cookies(&map(&[("cookie", "a=1")])).is_none());
    }

    #[test]
    fn an_upgrade_needs_both_fields_and_a_protocol_that_can_be_tunnelled() {
        for (fields, wanted) in [
            (&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")][..], true),
            (&[("upgrade", "tcp"), ("connection", "upgrade")][..], true),
            (&[("upgrade", "websocket")][..], false),
            (&[("connection", "upgrade")][..], false),
            (&[("upgrade", "h2c"), ("connection", "upgrade")][..], false),
            (&[("upgrade", "websocket, h2c"), ("connection", "upgrade")][..], false),
            (&[("upgrade", "websocket"), ("upgrade", "x"), ("connection", "upgrade")][..], false),
        ] {
            assert_eq!(wants_upgrade(&map(fields)), wanted, "{fields:?}");
        }
    }

    #[test]
    fn an_answer_loses_what_was_for_one_hop() {
        let mut dropped = dropped_from_answer(&map(&[
            ("connection", "close, X-Secret, content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "5"),
            ("x-kept", "1"),
        ]));
        dropped.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        assert_eq!(dropped, ["connection", "keep-alive", "x-secret"]);
        assert!(dropped_from_answer(&map(&[("x-kept", "1")])).is_empty());
    }

    #[test]
    fn an_answer_has_one_framing_or_none() {
        for (fields, framing) in [
            (&[][..], AnswerFraming::Clear),
            (&[("content-length", "5")][..], AnswerFraming::Clear),
            (&[("transfer-encoding", "Chunked")][..], AnswerFraming::Clear),
            (&[("content-length", "5, 5")][..], AnswerFraming::Once(HeaderValue::from_static("5"))),
            (
                &[("content-length", "5"), ("content-length", "5")][..],
                AnswerFraming::Once(HeaderValue::from_static("5")),
            ),
            (&[("content-length", "5"), ("content-length", "6")][..], AnswerFraming::Ambiguous),
            (&[("content-length", "+5")][..], AnswerFraming::Ambiguous),
            (&[("transfer-encoding", "gzip, chunked")][..], AnswerFraming::Ambiguous),
            (
                &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")][..],
                AnswerFraming::Ambiguous,
            ),
            (&[("transfer-encoding", "identity")][..], AnswerFraming::Ambiguous),
        ] {
            assert_eq!(check_answer(&map(fields)), framing, "{fields:?}");
        }
    }
}
