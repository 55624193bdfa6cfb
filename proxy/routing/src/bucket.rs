//! A token bucket as one number, and limits for many keys within a bound. Time is an argument; whoever holds a limit
//! decides what a refusal means.

use std::collections::BTreeMap;
use std::time::Duration;

use control_api::RateLimit;

/// How fast tokens come, and how many there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// From one token to the next.
    step_ns: u64,
    /// As long as it takes to fill it.
    room_ns: u64,
}

/// How full a bucket is: the moment at which it will be full. A new one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level(u64);

impl Bucket {
    /// `rate` tokens a second, at most `burst` at once; both more than 0.
    pub fn new(rate: f64, burst: u32) -> Self {
        // A cast from a float saturates.
        let step_ns = ((1e9 / rate) as u64).max(1);
        Self { step_ns, room_ns: step_ns.saturating_mul(burst.max(1).into()) }
    }

    /// The level after one token was taken, or how long it takes until there is one. Times are since some
    /// origin that the holder keeps; they may be told out of order.
    pub fn take(self, level: Level, now: Duration) -> Result<Level, Duration> {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let full_at = level.0.max(now_ns).saturating_add(self.step_ns);
        match (full_at - now_ns).checked_sub(self.room_ns) {
            None | Some(0) => Ok(Level(full_at)),
            Some(missing) => Err(Duration::from_nanos(missing)),
        }
    }
}

/// How many keys a limit remembers.
pub const KEYS_MAX: usize = 10_000;

/// The limit of one route, with a bucket for every key.
///
/// Remembers between half of [`KEYS_MAX`] and all of it, those last seen; a key that was forgotten begins with a full
/// bucket. Requests without a key share a bucket of their own.
#[derive(Debug, Clone)]
pub struct Limiter {
    bucket: Bucket,
    shared: Level,
    recent: BTreeMap<u64, Level>,
    older: BTreeMap<u64, Level>,
}

impl Limiter {
    /// The limit of a rule, untouched.
    pub fn new(limit: &RateLimit) -> Self {
        let bucket = Bucket::new(limit.requests_per_s, limit.burst);
        Self { bucket, shared: Level::default(), recent: BTreeMap::new(), older: BTreeMap::new() }
    }

    /// Admits one request, or says how long to wait. `key` is [`Decision::limit_key`](crate::Decision::limit_key).
    pub fn admit(&mut self, key: Option<u64>, now: Duration) -> Result<(), Duration> {
        let Some(key) = key else {
            self.shared = self.bucket.take(self.shared, now)?;
            return Ok(());
        };
        let level = self.recent.get(&key).or_else(|| self.older.get(&key)).copied().unwrap_or_default();
        let taken = self.bucket.take(level, now);
        if self.recent.len() >= KEYS_MAX / 2 && !self.recent.contains_key(&key) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, taken.unwrap_or(level));
        taken.map(|_| ())
    }

    /// How many keys it remembers.
    pub fn keys(&self) -> usize {
        self.recent.len() + self.older.keys().filter(|key| !self.recent.contains_key(key)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(rate: f64, burst: u32) -> Limiter {
        let rule = serde_json::json!({"id": "r", "destination": "d", "route": {"backends": [{"tags": ["a"]}],
            "rate_limit": {"requests_per_s": rate, "burst": burst}}});
        let rule: control_api::Rule = serde_json::from_value(rule).unwrap();
        Limiter::new(rule.route().unwrap().rate_limit.as_ref().unwrap())
    }

    #[test]
    fn a_burst_passes_and_then_one_per_step() {
        let mut limit = limiter(2.0, 3);
        let mut at = |millis| limit.admit(None, Duration::from_millis(millis));
        assert_eq!([at(0), at(0), at(0)], [Ok(()); 3]);
        assert_eq!(at(0), Err(SECOND / 2));
        assert_eq!(at(400), Err(SECOND / 10));
        assert_eq!([at(500), at(1_000)], [Ok(()); 2]);
        assert_eq!(at(1_400), Err(SECOND / 10));
        assert_eq!([at(9_000), at(9_000), at(9_000)], [Ok(()); 3], "never more than the burst");
        assert!(at(9_000).is_err());
    }

    #[test]
    fn keys_do_not_share_and_the_memory_is_bounded() {
        let mut limit = limiter(0.001, 1);
        assert_eq!((limit.admit(Some(1), SECOND), limit.admit(Some(2), SECOND)), (Ok(()), Ok(())));
        assert!(limit.admit(Some(1), SECOND).is_err());
        // As long as there are no more keys than half of the bound, none is forgotten.
        for key in 0..KEYS_MAX as u64 / 2 {
            let _ = limit.admit(Some(key), SECOND);
        }
        assert!((0..KEYS_MAX as u64 / 2).all(|key| limit.admit(Some(key), SECOND).is_err()));
        for key in 0..5 * KEYS_MAX as u64 {
            let _ = limit.admit(Some(key), SECOND);
        }
        assert!(limit.keys() <= KEYS_MAX, "{}", limit.keys());
    }

    proptest! {
        #[test]
        fn over_any_history_no_more_pass_than_burst_and_rate_allow(
            rate in 1..50_u32, burst in 1..20_u32, pauses in prop::collection::vec(0..400_u64, 1..200),
        ) {
            let mut limit = limiter(f64::from(rate), burst);
            let (mut now, mut passed) = (Duration::ZERO, 0_u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                match limit.admit(None, now) {
                    Ok(()) => passed += 1,
                    // Whoever waits as told gets through.
                    Err(wait) => {
                        prop_assert!(limit.clone().admit(None, now + wait).is_ok());
                        prop_assert!(wait <= Duration::from_secs_f64(1.0 / f64::from(rate)));
                    }
                }
                let allowed = f64::from(burst) + now.as_secs_f64() * f64::from(rate) + 1e-3;
                prop_assert!(f64::from(passed) <= allowed, "{passed} of {allowed}");
            }
        }

        #[test]
        fn no_rate_and_no_time_overflows(rate in 1e-300..1e6_f64, burst: u32, level: u64, now: u64) {
            let bucket = Bucket::new(rate, burst);
            let now = Duration::from_nanos(now);
            let _ = bucket.take(Level(level), now);
            let _ = bucket.take(Level(level), Duration::MAX);
        }
    }
}
