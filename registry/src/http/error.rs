//! Every refusal of the API, with its status and its sentence. The one place where errors of the domain
//! become status codes of the native protocol (spec/registry.md 0.4 and 1).

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::JSON;
use super::auth::NotAuthorized;
use crate::catalog::Refused;
use crate::query::BadQuery;
use crate::registration::Mistake;
use crate::tenants::TooMany;

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refusal {
    #[error("the path is unknown")]
    NotFound,
    #[error("the method is not allowed here; allowed: {allow}")]
    MethodNotAllowed { allow: &'static str },
    #[error("the body must be application/json in UTF-8")]
    UnsupportedMediaType,
    #[error("the body's content encoding is not gzip")]
    UnsupportedEncoding,
    #[error("the body is longer than {} bytes", super::body::BODY_BYTES_MAX)]
    BodyTooLong,
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    #[error("too many long bodies are being read at once")]
    NoRoom,
    #[error("the body cannot be read: {0}")]
    BodyBroken(String),
    #[error("the request should have come over https")]
    Insecure { location: String },
    #[error(transparent)]
    NotAuthorized(#[from] NotAuthorized),
    #[error("the body is no registration: {0}")]
    NotARegistration(String),
    #[error("the registration is refused: {0}")]
    Mistake(#[from] Mistake),
    #[error("the query is refused: {0}")]
    Query(#[from] BadQuery),
    #[error("the parameter {name} is refused: {problem}")]
    Parameter { name: &'static str, problem: String },
    #[error("the body is no list of ids: {0}")]
    NotIds(String),
    #[error("the list has more than {} ids", super::native::RENEWED_MAX)]
    TooManyIds,
    #[error("the instance id is missing")]
    IdMissing,
    #[error("the path is not UTF-8 after decoding")]
    PathNotText,
    #[error(transparent)]
    Catalog(#[from] Refused),
    #[error("no instance of the service is registered")]
    ServiceUnknown,
    #[error(transparent)]
    TooManyNamespaces(#[from] TooMany),
    #[error("something went wrong in the registry")]
    Internal,
}

impl Refusal {
    /// The status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Insecure { .. } => StatusCode::MOVED_PERMANENTLY,
            Self::BodyBroken(_)
            | Self::NotARegistration(_)
            | Self::Mistake(_)
            | Self::Query(_)
            | Self::Parameter { .. }
            | Self::NotIds(_)
            | Self::TooManyIds
            | Self::IdMissing
            | Self::PathNotText => StatusCode::BAD_REQUEST,
            Self::NotAuthorized(NotAuthorized::Unreachable) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotAuthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Catalog(Refused::Full) | Self::TooManyNamespaces(_) => StatusCode::FORBIDDEN,
            Self::NotFound | Self::ServiceUnknown => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Catalog(Refused::Unknown) => StatusCode::GONE,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "Error")]
    error: &'a str,
}

/// An answer that says what went wrong (spec/registry.md 0.4).
pub(super) fn envelope(status: StatusCode, sentence: &str) -> Response {
    let body = serde_json::to_vec(&Envelope { error: sentence }).expect("a sentence always encodes");
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        if let Self::Insecure { location } = &self {
            // The host came in a header and the target in a URI, so both are header text again.
            let location = HeaderValue::from_str(location);
            return location.map_or_else(
                |_| Self::BodyBroken("the host is no header text".to_owned()).into_response(),
                |location| (status, [(LOCATION, location)]).into_response(),
            );
        }
        let mut response = envelope(status, &self.to_string());
        match self {
            Self::MethodNotAllowed { allow } => {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            }
            Self::NotAuthorized(_) if status == StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
