//! Every refusal of control's HTTP: the one place where statuses, ids and texts are decided. Two envelopes:
//! `{"Error"}` for what the framework refuses, `{"error","description"}` for what the application refuses.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use crate::rulebook::Refused;
use crate::space::NotWritten;
use crate::spaces::TooMany;

use super::json as answer;

/// What a route refuses (spec/control-and-proxy.md 1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    InvalidJson,
    NoRules,
    InvalidRule(String),
    TooManyRules(String),
    RuleNotFound(String),
    AuthMissing,
    AuthMalformed,
    NotAuthorized,
    AuthUnreachable,
    NamespaceMissing,
    InvalidParameter(String),
    BodyTooLarge,
    BodyTooSlow,
    NotReady,
    TooMuch(&'static str),
    Internal,
}

/// The application's envelope, in the order in which it has always been written.
#[derive(Serialize)]
struct Envelope {
    error: &'static str,
    description: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        use StatusCode as S;
        let (status, id, text) = match self {
            Self::BodyTooLarge => return framework(S::PAYLOAD_TOO_LARGE, "Request body too large"),
            Self::BodyTooSlow => return framework(S::REQUEST_TIMEOUT, "Request body took too long"),
            Self::InvalidJson => {
                (S::BAD_REQUEST, "error_invalid_json", "Could not parse JSON, invalid JSON provided".into())
            }
            Self::NoRules => (S::BAD_REQUEST, "error_no_rules_provided", "No rules provided".to_owned()),
            Self::InvalidRule(why) => {
                (S::BAD_REQUEST, "error_invalid_rule", format!("Invalid rule provided: {why}"))
            }
            Self::TooManyRules(why) => {
                (S::BAD_REQUEST, "error_too_many_rules", format!("Too many rules: {why}"))
            }
            Self::RuleNotFound(id) => {
                (S::NOT_FOUND, "error_rule_not_found", format!("Rule not found: `{id}`"))
            }
            Self::AuthMissing => (
                S::UNAUTHORIZED,
                "error_auth_header_missing",
                "Missing request Authorization header".to_owned(),
            ),
            Self::AuthMalformed => (
                S::UNAUTHORIZED,
                "error_auth_header_malformed",
                "Malformed request Authorization header, expecting Bearer Token".to_owned(),
            ),
            Self::NotAuthorized => (
                S::UNAUTHORIZED,
                "error_auth_not_authorized",
                "Authorization failure, invalid token".to_owned(),
            ),
            Self::AuthUnreachable => (
                S::SERVICE_UNAVAILABLE,
                "error_auth_failed_validation",
                "Authorization failure, unable to validate token with issuer".to_owned(),
            ),
            Self::NamespaceMissing => {
                (S::BAD_REQUEST, "missing_namespace_header", "missing_namespace_header".to_owned())
            }
            Self::InvalidParameter(why) => {
                (S::BAD_REQUEST, "error_invalid_parameter", format!("Invalid query parameter: {why}"))
            }
            Self::NotReady => (
                S::SERVICE_UNAVAILABLE,
                "error_not_ready",
                "The instances of the namespace are not known yet".to_owned(),
            ),
            Self::TooMuch(what) => (S::SERVICE_UNAVAILABLE, "error_too_much", format!("Too many {what}")),
            Self::Internal => {
                (S::INTERNAL_SERVER_ERROR, "error_internal", "Internal system error".to_owned())
            }
        };
        answer(status, &Envelope { error: id, description: text })
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoRules => Self::NoRules,
            Refused::Invalid { .. } => Self::InvalidRule(refused.to_string()),
            Refused::TooMuch => Self::TooManyRules(refused.to_string()),
            Refused::NotFound { id } => Self::RuleNotFound(id),
        }
    }
}

impl From<NotWritten> for Refusal {
    fn from(not: NotWritten) -> Self {
        match not {
            NotWritten::Refused(refused) => refused.into(),
            NotWritten::Failed => Self::Internal,
        }
    }
}

impl From<TooMany> for Refusal {
    fn from(_: TooMany) -> Self {
        Self::TooMuch("namespaces")
    }
}

/// An error of the framework.
fn framework(status: StatusCode, text: &str) -> Response {
    answer(status, &json!({"Error": text}))
}

pub(super) fn not_found() -> Response {
    framework(StatusCode::NOT_FOUND, "Resource not found")
}

pub(super) fn method_not_allowed() -> Response {
    framework(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
}

pub(super) fn bad_content_type() -> Response {
    framework(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Bad Content-Type or charset, expected 'application/json'")
}

pub(super) fn panicked() -> Response {
    framework(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}

pub(super) fn bad_host() -> Response {
    framework(StatusCode::BAD_REQUEST, "Host header missing, repeated or malformed")
}

pub(super) fn missing_host() -> Response {
    framework(StatusCode::BAD_REQUEST, "Missing Host header")
}
