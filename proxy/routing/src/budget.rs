//! How many retries there may be: a share of the requests in flight, and a few a second whatever the share says, so
//! that quiet services can retry at all. It counts nothing but its own few; time and counts are told to it.

use std::time::Duration;

use crate::bucket::{Bucket, Level};

/// Retries a second that are always allowed.
pub const RETRIES_PER_S_MIN: u32 = 3;
/// For so many seconds they are saved up, so that a quiet service gets over a short failure of one of its instances.
const SAVED_S: u32 = 10;

/// The retry budget of one service.
#[derive(Debug, Clone, Copy, Default)]
pub struct RetryBudget {
    floor: Level,
}

impl RetryBudget {
    /// Whether one more retry may begin. `active` counts the requests in flight, this one too, and `retrying` those
    /// of them that are retries; `percent` is that of the rule.
    pub fn admit(&mut self, percent: f64, active: u32, retrying: u32, now: Duration) -> bool {
        if f64::from(retrying) + 1.0 <= f64::from(active) * percent / 100.0 {
            return true;
        }
        let floor = Bucket::new(RETRIES_PER_S_MIN.into(), RETRIES_PER_S_MIN * SAVED_S);
        match floor.take(self.floor, now) {
            Ok(level) => {
                self.floor = level;
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fifth_of_those_in_flight_may_be_retries() {
        let mut budget = RetryBudget::default();
        // Use up what is always allowed.
        while budget.admit(20.0, 0, 0, Duration::ZERO) {}
        let admitted = |retrying| budget.clone().admit(20.0, 100, retrying, Duration::ZERO);
        assert!((0..20).all(admitted) && !(20..100).any(admitted));
    }

    proptest! {
        #[test]
        fn beyond_the_share_there_are_never_more_than_three_a_second_and_what_was_saved(
            calls in prop::collection::vec((0..500_u64, 0..50_u32, 0..50_u32), 1..200),
        ) {
            let (mut budget, mut now, mut beyond) = (RetryBudget::default(), Duration::ZERO, 0_u32);
            for (pause, active, retrying) in calls {
                now += Duration::from_millis(pause);
                let within = (retrying + 1) * 5 <= active;
                let admitted = budget.admit(20.0, active, retrying, now);
                prop_assert!(admitted || !within);
                beyond += u32::from(admitted && !within);
                prop_assert!(f64::from(beyond) <= 30.0 + 3.0 * now.as_secs_f64() + 1e-3);
            }
        }
    }
}
