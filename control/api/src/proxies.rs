//! What control knows of its proxies: who they are, what they serve, and whether a write is live everywhere.

use registry_api::ServiceName;
use serde::{Deserialize, Serialize};

/// Which service and tags a proxy stands for; `match.source` is evaluated against it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The service; `None` for a proxy that stands for none.
    pub service: Option<ServiceName>,
    /// Its tags.
    pub tags: Vec<String>,
}

impl Identity {
    /// Reads `name:tag1,tag2`, split at the first colon; no colon means no tags; empty means nobody.
    pub fn parse(text: &str) -> Self {
        let (name, tags) = text.split_once(':').unwrap_or((text, ""));
        let tags = tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        Self { service: ServiceName::new(name).ok(), tags }
    }

    /// `name:tag1,tag2`, the name alone without tags, or empty.
    pub fn label(&self) -> String {
        let name = self.service.as_ref().map(ServiceName::as_str).unwrap_or_default();
        if self.tags.is_empty() { name.to_owned() } else { format!("{name}:{}", self.tags.join(",")) }
    }
}

/// A snapshot that a proxy could not use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rejected {
    pub index: u64,
    pub reason: String,
    /// RFC 3339.
    pub at: String,
}

/// One proxy at `GET /v1/proxies`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ProxyReport {
    pub node: String,
    pub service: String,
    pub tags: Vec<String>,
    /// The index that is serving traffic there.
    pub index: u64,
    /// The revision that is serving traffic there.
    pub revision: u64,
    /// How long ago the first snapshot was published that is not served there yet; 0 when none is.
    pub lag_ms: u64,
    /// A poll is in flight or ended less than 5 s ago.
    pub connected: bool,
    pub last_seen_ms: u64,
    pub address: String,
    pub version: String,
    pub rejected: Option<Rejected>,
}

/// Whether a write is live: part of the answer to `?wait=applied`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Connected proxies of the namespace.
    pub proxies: usize,
    /// Of these, how many serve the revision.
    pub serving: usize,
    /// The nodes of the others.
    pub laggards: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_written_as_name_and_tags() {
        for text in ["reviews:v1,env=prod", "reviews", ""] {
            assert_eq!(Identity::parse(text).label(), text);
        }
        assert_eq!(Identity::parse("a:b:c").tags, ["b:c"]);
    }
}
