//! Every refusal of the API, with its status and its sentence. The one place where errors of the domain
//! become status codes of the native protocol (spec/registry.md 0.4 and 1).

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::JSON;
use super::auth::NotAuthorized;
use super::messages::Message;
use crate::catalog::Refused;
use crate::query::BadQuery;
use crate::registration::Mistake;
use crate::tenants::TooMany;

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refusal {
    #[error("the Host field is missing, repeated or malformed")]
    Hostless,
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
            Self::Hostless
            | Self::BodyBroken(_)
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

    /// What the ancestor calls the sentence in its message files (spec/registry.md 8); not every refusal is one of its.
    fn message(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotAuthorized(NotAuthorized::Missing) => "error_auth_header_missing",
            Self::NotAuthorized(NotAuthorized::Malformed) => "error_auth_header_malformed",
            Self::NotAuthorized(NotAuthorized::Unrecognised) => "error_auth_not_authorized",
            Self::NotAuthorized(NotAuthorized::Unreachable) => "error_auth_failed_validation",
            Self::BodyBroken(_) | Self::NotARegistration(_) | Self::NotIds(_) => "error_encoding_generic",
            Self::Mistake(Mistake::ServiceNameMissing) => "error_service_name_missing",
            Self::Mistake(Mistake::EndpointMissing) => "error_instance_endpoint_missing",
            Self::Mistake(Mistake::EndpointPartMissing) => "error_instance_endpoint_missing_type_or_value",
            Self::Mistake(Mistake::EndpointTypeUnknown) => "error_instance_endpoint_type_invalid",
            Self::Mistake(Mistake::StatusUnknown) => "error_instance_status_invalid",
            Self::Query(BadQuery::UnknownField) => "error_filter_bad_fields",
            Self::Query(BadQuery::UnknownFilter) => "error_filter_selection_criteria",
            Self::Query(BadQuery::NotFilterable(_)) => "error_filter_generic",
            Self::IdMissing => "error_instance_identifier_missing",
            Self::Catalog(Refused::Unknown) => "error_instance_not_found",
            Self::Catalog(Refused::Full) => "error_instance_registration_failure",
            Self::ServiceUnknown => "error_service_not_found",
            Self::Internal => "error_internal",
            _ => return None,
        })
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "Error")]
    error: &'a str,
}

/// The body of an answer that says what went wrong (spec/registry.md 0.4).
pub(super) fn envelope_bytes(sentence: &str) -> Vec<u8> {
    serde_json::to_vec(&Envelope { error: sentence }).expect("a sentence always encodes")
}

/// An answer that says what went wrong; the message is what its sentence is called where it is translated.
pub(super) fn envelope(status: StatusCode, sentence: &str, message: Option<&'static str>) -> Response {
    let mut response = (status, [(CONTENT_TYPE, JSON)], envelope_bytes(sentence)).into_response();
    if let Some(message) = message {
        response.extensions_mut().insert(Message(message));
    }
    response
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
        let mut response = envelope(status, &self.to_string(), self.message());
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
