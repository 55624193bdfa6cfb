//! What all handlers share. Built once by [`crate::server`], never changed afterwards.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::auth::Modes;
use super::body::Bodies;
use super::eureka::Eureka;
use super::messages::Messages;
use crate::checks::Checks;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::registration::TtlLimits;
use crate::tenants::Tenants;

/// The registry as handlers see it.
#[derive(Debug)]
pub struct App {
    /// All namespaces.
    pub tenants: Tenants,
    /// The time.
    pub clock: Clock,
    /// How tokens become namespaces.
    pub modes: Modes,
    /// Whether API requests must have come over HTTPS.
    pub require_https: bool,
    /// How long leases may last.
    pub ttl: TtlLimits,
    /// What the Eureka API shares.
    pub eureka: Eureka,
    /// Sentences in other languages.
    pub messages: Messages,
    /// How the components are.
    pub checks: Checks,
    /// The room for bodies.
    pub bodies: Bodies,
    /// The series.
    pub metrics: Metrics,
    /// True once the registry is going down; waiting polls end then.
    pub closing: watch::Receiver<bool>,
    /// Names of requests.
    pub request_ids: RequestIds,
}

/// Makes the value of the header `REQUEST_ID`: letters of this process, the time, and a count.
#[derive(Debug)]
pub struct RequestIds {
    letters: String,
    count: AtomicU64,
}

impl RequestIds {
    /// `letters` are those of this process.
    pub fn new(letters: String) -> Self {
        Self { letters, count: AtomicU64::new(1) }
    }

    /// The next one, at so many nanoseconds after the Unix epoch.
    pub fn next(&self, nanos: u128) -> String {
        format!("{}_{nanos}_{}", self.letters, self.count.fetch_add(1, Ordering::Relaxed))
    }
}
