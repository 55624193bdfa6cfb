//! A call that came in HTTP/1.1 in the words of HTTP/2, and its answer the other way round (gRPC over HTTP/2). Pure: it says
//! what is said, and neither when nor to whom.

use bytes::{Buf, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, TE, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::answer::{ANSWER_FIELDS_MAX, ANSWER_HEAD_BYTES_MAX};
use crate::chunks::{Chunks, Stretch};
use crate::fields::{self, Lines};
use crate::forward::is_of_one_hop;
use crate::grpc;
use crate::lines::{line, status_line};

/// What clients may send, and more than the proxy adds to it.
pub(super) const HEAD_BYTES_MAX: usize = 2 * crate::head::HEAD_BYTES_MAX;

/// A request of HTTP/1.1 in the words of HTTP/2.
pub(super) struct Call {
    pub(super) header: RequestHeader,
    pub(super) rest: Rest,
    /// Its body comes when it is asked for.
    pub(super) expects: bool,
}

/// What is to come of the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    None,
    Length(u64),
    Chunked(Chunks),
}

/// The call that a whole head asks for. The engine wrote that, so that what it cannot say is nothing to repair.
pub(super) fn call(head: &[u8], scheme: &str) -> Option<Call> {
    let mut lines = Lines::new(head);
    let request_line = &head[lines.line().ok()??];
    let mut parts = request_line.split(|byte| *byte == b' ');
    let (method, target) = (Method::from_bytes(parts.next()?).ok()?, parts.next()?);
    let mut header = RequestHeader::build_no_case(method, target, None).ok()?;
    let (mut rest, mut expects, mut authority) = (Rest::None, false, None);
    while let Some(field) = lines.field().ok()? {
        let (name, value) = (HeaderName::from_bytes(field.name(head)).ok()?, field.value(head));
        if name == HOST {
            authority = Some(value);
        } else if name == TRANSFER_ENCODING {
            rest = Rest::Chunked(Chunks::new());
        } else if name == EXPECT {
            expects = true;
        } else if !is_of_one_hop(name.as_str().as_bytes()) {
            if name == CONTENT_LENGTH {
                rest = fields::length(value).filter(|length| *length > 0).map_or(rest, Rest::Length);
            }
            header.append_header(name, HeaderValue::from_bytes(value).ok()?).ok()?;
        }
    }
    header.insert_header(TE, HeaderValue::from_static("trailers")).ok()?;
    let path = PathAndQuery::try_from(target).ok()?;
    header.set_uri(Uri::builder().scheme(scheme).authority(authority?).path_and_query(path).build().ok()?);
    Some(Call { header, rest, expects })
}

/// Moves as much of the body as `held` has to `data`; whether it ends there. `None` for what is no body.
pub(super) fn sift(rest: &mut Rest, held: &mut BytesMut, data: &mut BytesMut) -> Option<bool> {
    match rest {
        Rest::None => Some(true),
        Rest::Length(left) => {
            let len = usize::try_from(*left).unwrap_or(usize::MAX).min(held.len());
            *left -= len as u64;
            data.unsplit(held.split_to(len));
            Some(*left == 0)
        }
        Rest::Chunked(chunks) => {
            while !held.is_empty() && !chunks.is_done() {
                let of_data = chunks.left_of_chunk().min(held.len());
                match chunks.next(&held[..of_data.max(1)]).ok()? {
                    Stretch::Kept(len) if of_data > 0 => data.unsplit(held.split_to(len)),
                    Stretch::Kept(len) | Stretch::Dropped(len) => held.advance(len),
                }
            }
            Some(chunks.is_done())
        }
    }
}

/// Whether the header of an answer says already what became of the call.
pub(super) fn has_status(head: &ResponseHeader) -> bool {
    head.headers.contains_key(grpc::STATUS)
}

/// The head of the answer in HTTP/1.1, of which the trailers are a part; the body behind it has this length. `None` for an
/// answer that does not say what became of the call, or says too much.
///
/// What has another status than 200 is no answer of gRPC and says nothing more (gRPC over HTTP/2, Responses).
pub(super) fn answer(
    head: &ResponseHeader,
    trailers: Option<&HeaderMap>,
    body_len: usize,
) -> Option<Vec<u8>> {
    let status = head.status.as_u16();
    let says = |name: &str| trailers.is_some_and(|trailers| trailers.contains_key(name));
    if status == 200 && !has_status(head) && !says(grpc::STATUS) {
        return None;
    }
    let mut out = Vec::with_capacity(512);
    status_line(status, head.status.canonical_reason().unwrap_or_default().as_bytes(), &mut out);
    let of_head = head.headers.iter().filter(|(name, _)| {
        // The last word on the call is the trailers'.
        !(matches!(name.as_str(), grpc::STATUS | grpc::MESSAGE) && says(name.as_str()))
    });
    let of_trailers = trailers.into_iter().flatten().filter(|(name, _)| **name != CONTENT_TYPE);
    let mut count = 1;
    for (name, value) in of_head.chain(of_trailers).filter(|(name, _)| goes_on(name)) {
        line(&mut out, name.as_str().as_bytes(), value.as_bytes());
        count += 1;
    }
    if !matches!(status, 100..=199 | 204 | 304) {
        line(&mut out, b"Content-Length", body_len.to_string().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    (count <= ANSWER_FIELDS_MAX && out.len() <= ANSWER_HEAD_BYTES_MAX).then_some(out)
}

/// Whether a field is for the client, and not for one hop or about framing.
fn goes_on(name: &HeaderName) -> bool {
    *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && !is_of_one_hop(name.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    const HEAD: &str = "POST /pkg.S/M?x HTTP/1.1\r\nHost: shop.example:81\r\nContent-Type: application/grpc\r\nX-Bin: 1\r\n\
        x-bin: 2\r\nTE: gzip\r\nConnection: te, close\r\nKeep-Alive: 5\r\n";

    fn said(fields: &str) -> Option<Call> {
        call(format!("{HEAD}{fields}\r\n").as_bytes(), "http")
    }

    #[test]
    fn a_call_is_said_in_the_words_of_http2() {
        let Call { header, rest, expects } = said("Transfer-Encoding: chunked\r\n").unwrap();
        assert_eq!((rest, expects), (Rest::Chunked(Chunks::new()), false));
        assert_eq!(header.uri, "http://shop.example:81/pkg.S/M?x");
        assert_eq!(header.method, Method::POST);
        let fields: Vec<_> =
            header.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let expected =
            [("content-type", "application/grpc"), ("x-bin", "1"), ("x-bin", "2"), ("te", "trailers")];
        assert_eq!(fields, expected);
        let Call { header, rest, expects } = said("Content-Length: 7\r\nExpect: 100-continue\r\n").unwrap();
        assert_eq!(
            (rest, expects, header.headers[CONTENT_LENGTH].to_str().unwrap()),
            (Rest::Length(7), true, "7")
        );
        assert_eq!(said("Content-Length: 0\r\n").unwrap().rest, Rest::None);
        assert_eq!(said("").unwrap().rest, Rest::None);
    }

    #[test]
    fn what_cannot_be_said_is_no_call() {
        for head in
            ["", "\r\n", "POST /\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nHost: a%b\r\n\r\n"]
        {
            assert!(call(head.as_bytes(), "http").is_none(), "{head:?}");
        }
    }

    #[test]
    fn a_body_comes_out_at_any_pace_without_its_framing() {
        let chunked = "4\r\nmess\r\n3\r\nage\r\n0\r\nT: x\r\n\r\n";
        for step in 1..chunked.len() {
            for (text, mut rest) in [(chunked, Rest::Chunked(Chunks::new())), ("message", Rest::Length(7))] {
                let (mut held, mut data, mut ended) = (BytesMut::new(), BytesMut::new(), false);
                for piece in text.as_bytes().chunks(step) {
                    assert!(!ended, "{step} {text}");
                    held.extend_from_slice(piece);
                    ended = sift(&mut rest, &mut held, &mut data).unwrap();
                }
                assert!(ended && held.is_empty() && data == "message", "{step} {text}");
            }
        }
        let mut bad = BytesMut::from("x");
        assert_eq!(sift(&mut Rest::Chunked(Chunks::new()), &mut bad, &mut BytesMut::new()), None);
    }

    fn answered(
        status: u16,
        head: &[(&'static str, &'static str)],
        trailers: Option<&[(&'static str, &'static str)]>,
    ) -> Option<String> {
        let mut answer = ResponseHeader::build(status, None).unwrap();
        answer.set_version(Version::HTTP_2);
        for (name, value) in head {
            answer.append_header(*name, *value).unwrap();
        }
        let trailers = trailers.map(|trailers| {
            trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        });
        super::answer(&answer, trailers.as_ref(), 7).map(|head| String::from_utf8(head).unwrap())
    }

    #[test]
    fn the_header_of_an_answer_says_what_its_trailers_said() {
        let head = [
            ("content-type", "application/grpc"),
            ("content-length", "9"),
            ("te", "x"),
            ("grpc-status", "2"),
        ];
        let trailers =
            [("grpc-status", "0"), ("x-a", "1"), ("transfer-encoding", "chunked"), ("content-type", "x")];
        assert_eq!(
            answered(200, &head, Some(&trailers)).unwrap(),
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 0\r\nx-a: 1\r\nContent-Length: 7\r\n\r\n"
        );
        assert_eq!(
            answered(200, &[("grpc-status", "7")], None).unwrap(),
            "HTTP/1.1 200 OK\r\ngrpc-status: 7\r\nContent-Length: 7\r\n\r\n"
        );
        assert_eq!(answered(404, &[], None).unwrap(), "HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\n");
        assert_eq!(answered(204, &[], None).unwrap(), "HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn an_answer_that_says_nothing_of_the_call_or_too_much_is_none() {
        assert_eq!(answered(200, &[("x", "y")], None), None);
        assert_eq!(answered(200, &[], Some(&[("x", "y")])), None);
        let status = ("grpc-status", "0");
        assert!(answered(200, &[("x", "y"); ANSWER_FIELDS_MAX - 2], Some(&[status])).is_some());
        assert_eq!(answered(200, &[("x", "y"); ANSWER_FIELDS_MAX - 1], Some(&[status])), None);
        let long = "x".repeat(ANSWER_HEAD_BYTES_MAX).leak();
        assert_eq!(answered(200, &[status, ("x", long)], None), None);
    }
}
