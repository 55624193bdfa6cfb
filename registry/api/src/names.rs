//! The names that form keys. Opaque, non-empty, cheap to clone; limits of length belong to the
//! operation that accepts them (spec/registry.md 0.3), because files and rules follow other limits.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The text was empty where a name is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name is empty")]
pub struct EmptyName;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes any non-empty text.
            pub fn new(text: impl AsRef<str>) -> Result<Self, EmptyName> {
                let text = text.as_ref();
                if text.is_empty() { Err(EmptyName) } else { Ok(Self(text.into())) }
            }

            /// The name as it appears on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = EmptyName;
            fn try_from(text: String) -> Result<Self, EmptyName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// The isolation key of a tenant: part of every key of every map. Case-sensitive and opaque.
    Namespace
}
name! {
    /// What instances register as and what rules are written for. Case-sensitive.
    ServiceName
}
name! {
    /// Identifies one instance within its namespace.
    InstanceId
}

impl Default for Namespace {
    /// The namespace of callers without a token when no authentication is configured.
    fn default() -> Self {
        Self("default".into())
    }
}
