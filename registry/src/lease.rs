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

    /// The instance may be removed strictly after this moment, never at it (spec/registry.md 1.6). Time
    /// before `heard_since` does not count, since no renewal could be heard then.
    pub fn deadline(&self, heard_since: Timestamp) -> Timestamp {
        self.renewed_at().max(heard_since).plus(self.ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn time_in_which_nobody_could_be_heard_does_not_count() {
        let lease = Lease::begin(Duration::from_secs(30), at(1_000));
        assert_eq!(lease.deadline(at(0)), at(31_000));
        assert_eq!(lease.deadline(at(20_000)), at(50_000));
        assert_eq!(lease.renewed_at(), at(1_000));
    }

    #[test]
    fn an_older_renewal_that_arrives_late_takes_nothing_away() {
        let lease = Lease::begin(Duration::from_secs(1), at(0));
        lease.renew(at(500));
        lease.renew(at(400));
        assert_eq!(lease.deadline(at(0)), at(1_500));
    }
}
