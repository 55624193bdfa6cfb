//! The soft state of one instance: when it was last renewed and how long that lasts. It knows neither the
//! instance nor who removes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::timestamp::Timestamp;

/// A promise to come back within `ttl`.
#[derive(Debug)]
pub struct Lease {
    renewed_at_ms: AtomicU64,
    ttl: Duration,
}

impl Lease {
    /// Begins now.
    pub fn begin(ttl: Duration, now: Timestamp) -> Self {
        Self { renewed_at_ms: AtomicU64::new(now.as_millis()), ttl }
    }

    /// Begins anew. Lazy: nothing but this number moves, and a shared reference is enough, so that
    /// heartbeats do not wait for each other (notes/scale.md 5).
    pub fn renew(&self, now: Timestamp) {
        // The later of two racing heartbeats counts, in whichever order they arrive here.
        self.renewed_at_ms.fetch_max(now.as_millis(), Ordering::Relaxed);
    }

    /// When it was last renewed.
    pub fn renewed_at(&self) -> Timestamp {
        Timestamp::from_millis(self.renewed_at_ms.load(Ordering::Relaxed))
    }

    /// How long one renewal lasts.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The instance may be removed strictly after this moment, never at it (spec/registry.md 1.6).
    pub fn deadline(&self) -> Timestamp {
        self.renewed_at().plus(self.ttl)
    }

    /// Whether the deadline has passed.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now > self.deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_lease_still_holds_at_its_deadline() {
        let lease = Lease::begin(Duration::from_secs(30), at(0));
        assert!(!lease.is_over(at(30_000)));
        assert!(lease.is_over(at(30_001)));
    }

    #[test]
    fn an_older_renewal_that_arrives_late_takes_nothing_away() {
        let lease = Lease::begin(Duration::from_secs(1), at(0));
        lease.renew(at(500));
        lease.renew(at(400));
        assert_eq!(lease.deadline(), at(1_500));
    }
}
