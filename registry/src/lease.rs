//! The soft state of one instance: when it was last renewed and how long that lasts. It knows neither the
//! instance nor who removes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::timestamp::Timestamp;

/// The longest lease: as many seconds as a registration can ask for (spec/registry.md 1.2), 136 years.
pub const TTL_MAX: Duration = Duration::from_secs(u32::MAX as u64);

/// A promise to come back within `ttl`. Small, because every renewal brings it into the cache.
#[derive(Debug)]
pub struct Lease {
    renewed_at_ms: AtomicU64,
    ttl_secs: u32,
    // Below a thousand.
    ttl_millis: u16,
    ours: bool,
}

impl Lease {
    /// Begins now, for whole milliseconds up to [`TTL_MAX`].
    pub fn begin(ttl: Duration, now: Timestamp) -> Self {
        let ttl = whole(ttl);
        let ttl_secs = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let ttl_millis = ttl.subsec_millis() as u16;
        Self { renewed_at_ms: AtomicU64::new(now.as_millis()), ttl_secs, ttl_millis, ours: true }
    }

    /// That of an instance which lives elsewhere: nobody renews it here (spec/registry.md 7.1).
    pub fn elsewhere(ttl: Duration, now: Timestamp) -> Self {
        Self { ours: false, ..Self::begin(ttl, now) }
    }

    /// Whether it may be renewed here.
    pub fn is_ours(&self) -> bool {
        self.ours
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
        Duration::from_secs(self.ttl_secs.into()) + Duration::from_millis(self.ttl_millis.into())
    }

    /// The instance may be removed strictly after this moment, never at it (spec/registry.md 1.6). Time
    /// before `heard_since` does not count, since no renewal could be heard then.
    pub fn deadline(&self, heard_since: Timestamp) -> Timestamp {
        self.renewed_at().max(heard_since).plus(self.ttl())
    }
}

/// As long as a lease can be: whole milliseconds, at most [`TTL_MAX`].
pub fn whole(ttl: Duration) -> Duration {
    let ttl = ttl.min(TTL_MAX);
    Duration::new(ttl.as_secs(), ttl.subsec_millis() * 1_000_000)
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

    #[test]
    fn a_lease_lasts_whole_milliseconds_up_to_its_maximum() {
        for (asked, lasts) in [
            (Duration::from_millis(1_999), Duration::from_millis(1_999)),
            (Duration::from_micros(1_500), Duration::from_millis(1)),
            (TTL_MAX, TTL_MAX),
            (Duration::MAX, TTL_MAX),
        ] {
            assert_eq!((Lease::begin(asked, at(0)).ttl(), whole(asked)), (lasts, lasts));
        }
    }
}
