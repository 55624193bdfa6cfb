//! The handful of points in which Netflix clients and Amalgam8 clients expect different things
//! (spec/registry.md 0.2). Everything that both accept is not here.

use std::borrow::Cow;

use http::StatusCode;
use registry_api::setting::BadSetting;

use crate::catalog::folded;

/// The settings of the Eureka API.
#[derive(clap::Args, Debug, Clone)]
pub struct EurekaSettings {
    /// Whose clients the Eureka API suits where they differ: netflix, amalgam8.
    #[arg(long = "eureka_compat", env = "A8_EUREKA_COMPAT", default_value = "netflix")]
    pub eureka_compat: String,
}

impl EurekaSettings {
    /// Checks the settings and names the first that cannot be used.
    pub fn check(&self) -> Result<Compat, BadSetting> {
        match self.eureka_compat.as_str() {
            "netflix" => Ok(Compat::Netflix),
            "amalgam8" => Ok(Compat::Amalgam8),
            other => Err(BadSetting::new("eureka_compat", format!("`{other}` is none of netflix, amalgam8"))),
        }
    }
}

/// Whose clients are suited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compat {
    /// The clients of Netflix Eureka, and all that were written after them.
    #[default]
    Netflix,
    /// The clients of the Amalgam8 registry.
    Amalgam8,
}

impl Compat {
    /// The status for a renewal or cancellation of an unknown instance (C1, C2).
    pub fn unknown_instance(self) -> StatusCode {
        match self {
            Self::Netflix => StatusCode::NOT_FOUND,
            Self::Amalgam8 => StatusCode::GONE,
        }
    }

    /// An application's name in answers (C5).
    pub fn shown(self, name: &str) -> Cow<'_, str> {
        match self {
            Self::Netflix => Cow::Owned(folded(name)),
            Self::Amalgam8 => Cow::Borrowed(name),
        }
    }

    /// Whether two spellings name one application (C5, C8).
    pub fn is_same_app(self, left: &str, right: &str) -> bool {
        match self {
            Self::Netflix => left == right || folded(left) == folded(right),
            Self::Amalgam8 => left == right,
        }
    }
}
