//! Which header fields go on in either direction and what is added to them (spec/control-and-proxy.md 3.7). Pure:
//! it says what to do with fields, the engines do it to theirs.

use std::io::Write as _;
use std::net::IpAddr;

use control_api::Edits;
use control_api::header::Field;
use http::header::{CONNECTION, HeaderName, TE, UPGRADE};
use http::{HeaderMap, HeaderValue};

use crate::fields;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request id longer than this is replaced: it is written into every log on the way.
const REQUEST_ID_BYTES_MAX: usize = 256;

/// The request id that a client gave, if it is one.
pub(crate) fn given_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(REQUEST_ID).filter(|id| is_request_id(id.as_bytes()))
}

/// Whether a client's request id is kept.
pub(crate) fn is_request_id(id: &[u8]) -> bool {
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.is_ascii()
}

/// A fresh request id: a random UUID of version 4.
pub(crate) fn new_request_id(chance: u128) -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(chance.to_be_bytes()).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
        .expect("hexadecimal digits and hyphens are a value")
}

/// Writes `X-Forwarded-For` with the caller appended to whatever came before. It is always text.
pub(crate) fn forwarded_for<'a>(before: impl Iterator<Item = &'a [u8]>, caller: IpAddr, out: &mut Vec<u8>) {
    for value in before {
        // What is no text is nobody's address either.
        if value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    }
    write!(out, "{}", caller.to_canonical()).expect("memory takes everything");
}

/// What `X-Forwarded-Proto` says of a client.
pub(crate) fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
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

/// Whether any `Connection` field says that the connection ends.
pub(crate) fn asks_to_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"close"))
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

/// The fields that an answer must not carry to the client.
pub(crate) fn dropped_from_answer(headers: &HeaderMap) -> Vec<HeaderName> {
    let connection = || headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    headers.keys().filter(|name| stays_behind(name.as_str().as_bytes(), connection())).cloned().collect()
}

/// Whether a field of an answer was meant for one hop only; `connection` are the values of its `Connection` field.
pub(crate) fn stays_behind<'a>(name: &[u8], mut connection: impl Iterator<Item = &'a [u8]>) -> bool {
    let named = |value| fields::tokens(value).any(|token| token.eq_ignore_ascii_case(name));
    is_of_one_hop(name) || (!is_of_framing(name) && connection.any(named))
}

/// Whether a field is for one hop whatever the message says. The framing is so as well, but is not dropped: it is
/// checked by [`check_answer`] and then meant for the engine.
pub(crate) fn is_of_one_hop(name: &[u8]) -> bool {
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 => is(b"te"),
        7 => is(b"trailer") || is(b"upgrade"),
        10 => is(b"connection") || is(b"keep-alive"),
        16 => is(b"proxy-connection"),
        18 => is(b"proxy-authenticate"),
        19 => is(b"proxy-authorization"),
        _ => false,
    }
}

/// The names whose values do not go on.
pub(crate) fn replaced(edits: &Edits) -> impl Iterator<Item = &HeaderName> {
    edits.remove.iter().chain(edits.set.iter().map(|(name, _)| name))
}

/// The fields that go on beside what is left.
pub(crate) fn put(edits: &Edits) -> impl Iterator<Item = &Field> {
    edits.set.iter().chain(&edits.add)
}

/// Whether a field says where the body ends.
pub(crate) fn is_of_framing(name: &[u8]) -> bool {
    match name.len() {
        14 => name.eq_ignore_ascii_case(b"content-length"),
        17 => name.eq_ignore_ascii_case(b"transfer-encoding"),
        _ => false,
    }
}

/// What the framing fields of an answer say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerFraming {
    /// Nothing.
    Unstated,
    /// The body comes in chunks.
    Chunked,
    /// The body has a length; `repeated` when it is given several times and is to be sent on once.
    Length { length: u64, repeated: bool },
    /// It can be read in two ways.
    Ambiguous,
}

/// Reads the values of `Transfer-Encoding` and of `Content-Length` of an answer.
pub(crate) fn check_answer<'a>(
    mut codings: impl Iterator<Item = &'a [u8]>,
    mut lengths: impl Iterator<Item = &'a [u8]>,
) -> AnswerFraming {
    if let Some(coding) = codings.next() {
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        let sole = codings.next().is_none() && lengths.next().is_none();
        return if chunked && sole { AnswerFraming::Chunked } else { AnswerFraming::Ambiguous };
    }
    let (mut stated, mut first, mut repeated) = (false, None, false);
    for value in lengths {
        repeated |= std::mem::replace(&mut stated, true);
        for element in fields::tokens(value) {
            repeated |= element.len() < value.len();
            if *first.get_or_insert(element) != element {
                return AnswerFraming::Ambiguous;
            }
        }
    }
    match first.and_then(fields::length) {
        Some(length) => AnswerFraming::Length { length, repeated },
        None if stated => AnswerFraming::Ambiguous,
        None => AnswerFraming::Unstated,
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    fields::tokens(value.as_bytes())
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
            let mut out = b"X: ".to_vec();
            let before = before.iter().map(|(_, value)| value.as_bytes());
            forwarded_for(before, caller, &mut out);
            assert_eq!(out, format!("X: {after}").as_bytes());
        }
        let mut out = Vec::new();
        forwarded_for([&b"\xe9"[..], b"\0", b"a\tb"].into_iter(), caller, &mut out);
        assert_eq!(out, b"a\tb, 10.0.0.9");
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
    fn names_of_one_hop_are_known_in_any_case() {
        for name in [
            "Connection",
            "KEEP-ALIVE",
            "proxy-connection",
            "Proxy-Authenticate",
            "Proxy-Authorization",
            "TE",
            "Trailer",
            "Upgrade",
        ] {
            assert!(is_of_one_hop(name.as_bytes()), "{name}");
        }
        for name in ["Content-Length", "Transfer-Encoding", "Trailers", "Host", "", "Authorization"] {
            assert!(!is_of_one_hop(name.as_bytes()), "{name}");
        }
        assert!(stays_behind(b"x-SECRET", [&b"close"[..], b"a, X-secret"].into_iter()));
        assert!(!stays_behind(b"x-secret", [&b"x-secret2"[..]].into_iter()));
        assert!(!stays_behind(b"Transfer-Encoding", [&b"transfer-encoding"[..]].into_iter()));
    }

    #[test]
    fn an_answer_has_one_framing_or_none() {
        let length = |repeated| AnswerFraming::Length { length: 5, repeated };
        for (codings, lengths, framing) in [
            (&[][..], &[][..], AnswerFraming::Unstated),
            (&[], &["5"], length(false)),
            (&["Chunked"], &[], AnswerFraming::Chunked),
            (&[], &["5, 5"], length(true)),
            (&[], &["5", "5"], length(true)),
            (&[], &["5,"], length(true)),
            (&[], &["", "5"], length(true)),
            (&[], &["5", "6"], AnswerFraming::Ambiguous),
            (&[], &["5", "05"], AnswerFraming::Ambiguous),
            (&[], &["5, 6"], AnswerFraming::Ambiguous),
            (&[], &["+5"], AnswerFraming::Ambiguous),
            (&[], &[""], AnswerFraming::Ambiguous),
            (&[], &["", ""], AnswerFraming::Ambiguous),
            (&[], &["1111111111111111111"], AnswerFraming::Ambiguous),
            (&["gzip, chunked"], &[], AnswerFraming::Ambiguous),
            (&["chunked", "chunked"], &[], AnswerFraming::Ambiguous),
            (&["identity"], &[], AnswerFraming::Ambiguous),
            (&[""], &[], AnswerFraming::Ambiguous),
            (&["chunked"], &["5"], AnswerFraming::Ambiguous),
            (&["chunked"], &[""], AnswerFraming::Ambiguous),
        ] {
            let values = |list: &'static [&str]| list.iter().map(|value| value.as_bytes());
            assert_eq!(check_answer(values(codings), values(lengths)), framing, "{codings:?} {lengths:?}");
        }
    }
}
