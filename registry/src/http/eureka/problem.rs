//! Every way in which a request of the Eureka API is not carried out, with its status (spec/registry.md 3.9 to 3.17).
//! The one place where errors of the domain become status codes of this protocol; the envelope is the native one.

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::admit::Mistake;
use super::compat::Compat;
use super::route::Lost;
use crate::catalog::Refused;
use crate::http::auth::NotAuthorized;
use crate::http::error::{Refusal, envelope};
use crate::tenants::TooMany;

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum Problem {
    #[error(transparent)]
    General(#[from] Refusal),
    #[error("the instance is not registered")]
    NotRegistered(Compat),
    #[error("nothing of that name is registered")]
    NotFound,
    #[error("the instance has to register again")]
    MustRegister,
    #[error("the body cannot be understood: {0}")]
    Unreadable(String),
    #[error("the registration is refused: {0}")]
    Mistake(#[from] Mistake),
    #[error("the parameter {0} is missing or cannot be used")]
    Parameter(&'static str),
    #[error("there are no scaling groups here")]
    NoScalingGroups,
}

impl Problem {
    /// The status code.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::General(refusal) => refusal.status(),
            Self::NotRegistered(compat) => compat.unknown_instance(),
            Self::NotFound | Self::MustRegister => StatusCode::NOT_FOUND,
            Self::Unreadable(_) | Self::Mistake(_) | Self::Parameter(_) | Self::NoScalingGroups => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

impl Problem {
    /// What the ancestor calls the sentence in its message files (spec/registry.md 8).
    fn message(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotRegistered(_) => "error_instance_not_found",
            Self::NotFound => "eureka_error_application_not_found",
            Self::Unreadable(_) => "error_encoding_generic",
            Self::Mistake(Mistake::AppMismatch) => "eureka_error_application_mismatch",
            Self::Mistake(Mistake::AppMissing) => "eureka_error_application_id_missing",
            Self::Mistake(Mistake::HostMissing | Mistake::IpMissing | Mistake::VipMissing) => {
                "eureka_error_required_fields_missing"
            }
            Self::Mistake(Mistake::MetadataNotObject) => "error_instance_metadata_invalid",
            Self::Mistake(Mistake::StatusUnknown) => "error_instance_status_invalid",
            Self::Parameter("value") => "eureka_error_status_missing",
            _ => return None,
        })
    }
}

impl From<Lost> for Problem {
    fn from(lost: Lost) -> Self {
        Self::General(match lost {
            Lost::Unknown => Refusal::NotFound,
            Lost::NameMissing => Refusal::IdMissing,
            Lost::NotText => Refusal::PathNotText,
        })
    }
}

impl From<NotAuthorized> for Problem {
    fn from(problem: NotAuthorized) -> Self {
        Self::General(problem.into())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown => Self::NotFound,
            Refused::Full => Self::General(Refused::Full.into()),
        }
    }
}

impl From<TooMany> for Problem {
    fn from(problem: TooMany) -> Self {
        Self::General(problem.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::General(refusal) => refusal.into_response(),
            other => envelope(other.status(), &other.to_string(), other.message()),
        }
    }
}
