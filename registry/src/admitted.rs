//! A registration that may enter a catalog, measured before it does. Made outside every lock: what is only
//! computed from the registration itself must not keep others waiting.

use std::sync::Arc;
use std::time::Duration;

use registry_api::{ContentHash, Instance};
use serde::{Deserialize, Serialize};

use crate::lease;

/// What clients of another protocol said about an instance beyond its native record: text that only that
/// protocol's own module writes and reads. It is kept with the instance and no part of what watchers see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Extension(Arc<str>);

impl Extension {
    /// Takes any text.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().into())
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An instance with its exact lease, its content hash and its length on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    instance: Arc<Instance>,
    ttl: Duration,
    hash: ContentHash,
    bytes: usize,
    extension: Option<Extension>,
}

impl Admitted {
    /// Measures an instance. A heartbeat is no content, so its time is dropped. The lease is cut to what one can be
    /// ([`lease::whole`]).
    pub fn new(instance: Instance, ttl: Duration) -> Self {
        let instance = Instance { last_heartbeat: None, ..instance };
        // The canonical bytes of `Instance::content_hash`, which serve for the length as well.
        let json = serde_json::to_vec(&instance).expect("an instance is plain data and always encodes");
        Self {
            hash: ContentHash::of(&json),
            bytes: json.len() + 1,
            instance: Arc::new(instance),
            ttl: lease::whole(ttl),
            extension: None,
        }
    }

    /// The same with an extension, or without one.
    #[must_use]
    pub fn extended(self, extension: Option<Extension>) -> Self {
        Self { extension, ..self }
    }

    /// What another protocol keeps with it.
    pub fn extension(&self) -> Option<&Extension> {
        self.extension.as_ref()
    }

    /// What is shown to others; its `ttl` is the lease in whole seconds, rounded up.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The exact lease.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The content hash.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// About how long the instance is on the wire.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
