//! What a request may carry: JSON in UTF-8, at most a megabyte, in reasonable time (spec/registry.md 0.4).
//! It reads bodies and judges their label; what they mean is for the handlers.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use bytes::BytesMut;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::{BodyExt, Limited};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Refusal;
use super::eureka;
use super::eureka::route::Mounted;
use crate::gzip::{self, Undecodable};

/// The longest body, also after decompression.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a body is read without asking for room; an ordinary registration is far below. So whoever uses
/// the room up with long bodies keeps no instance from registering.
pub const BODY_BYTES_FREE: usize = 16 << 10;
/// How much room there is for what is longer, in all bodies that are being read.
pub const BODIES_BYTES_MAX: usize = 64 << 20;
/// How much of a body that is too long is read and thrown away, so that the client gets to the answer.
const DRAIN_BYTES_MAX: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The room for bodies that are being read.
#[derive(Debug)]
pub struct Bodies(Semaphore);

impl Default for Bodies {
    fn default() -> Self {
        Self(Semaphore::new(BODIES_BYTES_MAX))
    }
}

impl Bodies {
    async fn collect(&self, body: Body) -> Result<Bytes, Refusal> {
        let collected = tokio::time::timeout(BODY_TIMEOUT, self.collect_slowly(body)).await;
        collected.unwrap_or(Err(Refusal::BodyTooSlow))
    }

    async fn collect_slowly(&self, mut body: Body) -> Result<Bytes, Refusal> {
        let mut collected = BytesMut::new();
        let mut room: Option<SemaphorePermit<'_>> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::BodyBroken(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = collected.len() + data.len();
            if length > BODY_BYTES_MAX {
                return Err(Refusal::BodyTooLong);
            }
            let held = room.as_ref().map_or(0, SemaphorePermit::num_permits);
            let wanted = length.saturating_sub(BODY_BYTES_FREE + held);
            if wanted > 0 {
                let wanted = u32::try_from(wanted).expect("a body is no longer than BODY_BYTES_MAX");
                let more = self.0.try_acquire_many(wanted).map_err(|_| Refusal::NoRoom)?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
            }
            collected.extend_from_slice(&data);
        }
        Ok(collected.freeze())
    }
}

/// Refuses a request by its body's label and length, before routing and before authentication.
pub async fn admit(request: Request, bodies: &Bodies) -> Result<Request, Refusal> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.map(|length| length.parse::<u64>()) {
        Some(Ok(0)) => Ok(request),
        Some(Ok(length)) => {
            if !is_taken(request.headers(), request.uri().path()) {
                return Err(Refusal::UnsupportedMediaType);
            }
            if length > BODY_BYTES_MAX as u64 {
                drain(request).await;
                return Err(Refusal::BodyTooLong);
            }
            Ok(request)
        }
        _ if hyper::body::Body::is_end_stream(request.body()) => Ok(request),
        // The length is unknown: only reading shows whether there is a body at all.
        _ => {
            let (parts, body) = request.into_parts();
            let bytes = bodies.collect(body).await?;
            if !bytes.is_empty() && !is_taken(&parts.headers, parts.uri.path()) {
                return Err(Refusal::UnsupportedMediaType);
            }
            Ok(Request::from_parts(parts, Body::from(bytes)))
        }
    }
}

/// The whole body, decompressed.
pub async fn read(headers: &HeaderMap, body: Body, bodies: &Bodies) -> Result<Bytes, Refusal> {
    let bytes = bodies.collect(body).await?;
    match headers.get(CONTENT_ENCODING).map(|coding| coding.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"" | b"identity") => Ok(bytes),
        Some(b"gzip" | b"x-gzip") => match gzip::decompress(&bytes, BODY_BYTES_MAX) {
            Ok(plain) => Ok(plain.into()),
            Err(Undecodable::TooLong) => Err(Refusal::BodyTooLong),
            Err(Undecodable::Damaged) => Err(Refusal::BodyBroken("it is no gzip".to_owned())),
        },
        Some(_) => Err(Refusal::UnsupportedEncoding),
    }
}

async fn drain(request: Request) {
    // A client that waits for leave to send has sent nothing, and is not given leave.
    if request.headers().contains_key(EXPECT) {
        return;
    }
    let mut body = Limited::new(request.into_body(), DRAIN_BYTES_MAX);
    let reading = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whether it ended, broke or took too long: the answer is the same.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
}

/// `application/json`, with UTF-8 if a charset is named; for Eureka clients also XML.
fn is_taken(headers: &HeaderMap, path: &str) -> bool {
    let Some(text) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let mut parts = text.split(';');
    let media_type = parts.next().unwrap_or_default().trim();
    let charset = parts
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim().trim_matches('"'));
    let is_json = media_type.eq_ignore_ascii_case("application/json");
    (is_json || eureka::format::is_xml(media_type) && Mounted::cut(path).is_some())
        && charset.is_none_or(|charset| charset.eq_ignore_ascii_case("utf-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[tokio::test]
    async fn long_bodies_share_the_room_and_short_ones_need_none() {
        let bodies = Bodies(Semaphore::new(10));
        let of = |length: usize| Body::from(vec![b' '; length]);
        for (length, taken) in [(11, false), (10, true), (10, true), (0, true)] {
            let collected = bodies.collect(of(BODY_BYTES_FREE + length)).await;
            let expected = if taken { Ok(BODY_BYTES_FREE + length) } else { Err(Refusal::NoRoom) };
            assert_eq!(collected.map(|bytes| bytes.len()), expected);
        }
        let _used = bodies.0.try_acquire_many(10).unwrap();
        assert_eq!(bodies.collect(of(BODY_BYTES_FREE + 1)).await, Err(Refusal::NoRoom));
        assert!(bodies.collect(of(BODY_BYTES_FREE)).await.is_ok());
    }

    #[test]
    fn only_json_in_utf_8_is_taken_and_from_eureka_clients_xml() {
        for (label, taken) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/json;charset=\"UTF-8\"", true),
            ("application/json; x=y", true),
            ("application/json; charset=latin1", false),
            ("application/xml", false),
            ("text/plain", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(label));
            assert_eq!(is_taken(&headers, "/api/v1/instances"), taken, "{label}");
            let taken = taken || label == "application/xml";
            assert_eq!(is_taken(&headers, "/eureka/apps/A"), taken, "{label}");
        }
        assert!(!is_taken(&HeaderMap::new(), "/eureka/apps/A"));
    }
}
