//! What a request may carry: JSON in UTF-8, at most a megabyte, in reasonable time (spec/registry.md 0.4).
//! It reads bodies and judges their label; what they mean is for the handlers.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::error::Refusal;
use crate::gzip::{self, Undecodable};

/// The longest body, also after decompression.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a body that is too long is read and thrown away, so that the client gets to the answer.
const DRAIN_BYTES_MAX: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Refuses a request by its body's label and length, before routing and before authentication.
pub async fn admit(request: Request) -> Result<Request, Refusal> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.map(|length| length.parse::<u64>()) {
        Some(Ok(0)) => Ok(request),
        Some(Ok(length)) => {
            if !is_json(request.headers()) {
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
            let bytes = collect(body).await?;
            if !bytes.is_empty() && !is_json(&parts.headers) {
                return Err(Refusal::UnsupportedMediaType);
            }
            Ok(Request::from_parts(parts, Body::from(bytes)))
        }
    }
}

/// The whole body, decompressed.
pub async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let bytes = collect(body).await?;
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

async fn collect(body: Body) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLong),
        Ok(Err(error)) => Err(Refusal::BodyBroken(error.to_string())),
        Err(_) => Err(Refusal::BodyTooSlow),
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

/// `application/json`, with UTF-8 if a charset is named.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(text) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let mut parts = text.split(';');
    let media_type = parts.next().unwrap_or_default().trim();
    let charset = parts
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim().trim_matches('"'));
    media_type.eq_ignore_ascii_case("application/json")
        && charset.is_none_or(|charset| charset.eq_ignore_ascii_case("utf-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_json_in_utf_8_is_taken() {
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
            assert_eq!(is_json(&headers), taken, "{label}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
