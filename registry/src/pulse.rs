//! Notices that the process stood still: stopped, starved, or its machine paused. Pure; what follows from it
//! for the leases is the catalog's.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// A longer time between two beats is a standstill. Many times the pause between sweeps, and short beside
/// any lease worth having.
pub const STANDSTILL: Duration = Duration::from_secs(2);

/// The time of the last beat.
#[derive(Debug)]
pub struct Pulse {
    last: Timestamp,
}

impl Pulse {
    /// Begins to beat.
    pub fn start(now: Timestamp) -> Self {
        Self { last: now }
    }

    /// Beats, and says whether the process stood still since the beat before.
    pub fn stood_still(&mut self, now: Timestamp) -> bool {
        let before = std::mem::replace(&mut self.last, now);
        now > before.plus(STANDSTILL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gap_longer_than_the_bound_is_a_standstill_and_only_once() {
        let mut pulse = Pulse::start(Timestamp::from_millis(1_000));
        for (now, still) in
            [(1_100, false), (3_100, false), (5_101, true), (5_101, false), (5_201, false), (90_000, true)]
        {
            assert_eq!(pulse.stood_still(Timestamp::from_millis(now)), still, "{now}");
        }
    }
}
