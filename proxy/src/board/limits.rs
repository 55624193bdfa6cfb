//! A backend's limits with the defaults of spec/control-and-proxy.md 2.4, and the law of ejection. Pure.

use std::time::Duration;

use control_api::{Resilience, SuccessRate};

/// Each of `max_connections`, `max_pending_requests` and `max_requests`, when a rule does not say.
const COUNT_DEFAULT: u64 = 1024;
const CONSECUTIVE_ERRORS_DEFAULT: u64 = 5;
const DETECTION_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// All of them may be (spec/control-and-proxy.md 2.4).
const EJECTION_PERCENT_DEFAULT: u32 = 100;
const SLEEP_WINDOW_DEFAULT: Duration = Duration::from_secs(30);
/// The longest ejection, unless the sleep window itself is longer: an instance that failed for a day is
/// looked at again within minutes.
const EJECTION_MAX: Duration = Duration::from_secs(300);

/// What a rule allows a backend, defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests at once. The least of `max_requests` and `max_connections` + `max_pending_requests`: where a
    /// connection carries one request at a time, that is where waiting would have ended.
    pub requests_max: u32,
    /// Requests that one connection to an instance carries.
    pub requests_per_connection: u32,
    /// Failures in a row that eject an instance.
    pub consecutive_errors: u32,
    /// An instance that stays in for this long is forgiven one earlier ejection.
    pub detection_interval: Duration,
    /// The first ejection's length.
    pub sleep_window: Duration,
    /// Who is ejected for doing worse than the others.
    pub success_rate: Option<SuccessRate>,
    /// How many percent of the instances may be ejected at once; one always may.
    pub max_ejection_percent: u32,
}

impl Limits {
    /// Fills in the defaults.
    pub fn of(written: &Resilience) -> Self {
        let count = |written: Option<u64>| written.unwrap_or(COUNT_DEFAULT);
        let held = count(written.max_connections).saturating_add(count(written.max_pending_requests));
        let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            requests_max: number(count(written.max_requests).min(held)),
            requests_per_connection: written.max_requests_per_connection.map_or(u32::MAX, number),
            consecutive_errors: number(written.consecutive_errors.unwrap_or(CONSECUTIVE_ERRORS_DEFAULT)),
            detection_interval: written.detection_interval.unwrap_or(DETECTION_INTERVAL_DEFAULT),
            sleep_window: written.sleep_window.unwrap_or(SLEEP_WINDOW_DEFAULT),
            success_rate: written.success_rate,
            max_ejection_percent: written.max_ejection_percent.unwrap_or(EJECTION_PERCENT_DEFAULT),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&Resilience::default())
    }
}

/// How often an instance was ejected of late, and until when. Times are since the board's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ejections {
    count: u32,
    /// Zero: never.
    until: Duration,
}

impl Ejections {
    /// One more ejection at `now`: it lasts the sleep window times the number of ejections, where every
    /// detection interval spent in since the last one takes one off that number.
    pub(super) fn another(self, now: Duration, limits: &Limits) -> Self {
        let spent_in = now.saturating_sub(self.until).as_nanos();
        let forgiven = spent_in / limits.detection_interval.as_nanos().max(1);
        let count = self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)).saturating_add(1);
        let lasts = limits.sleep_window.saturating_mul(count).min(EJECTION_MAX.max(limits.sleep_window));
        Self { count, until: now + lasts }
    }

    pub(super) fn until(self) -> Duration {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn defaults_are_those_of_the_spec_and_the_strictest_count_holds() {
        let limits = Limits::default();
        assert_eq!((limits.requests_max, limits.consecutive_errors), (1024, 5));
        assert_eq!(limits.requests_per_connection, u32::MAX);
        assert_eq!((limits.detection_interval, limits.sleep_window), (secs(10), secs(30)));
        for (connections, pending, requests, max) in [
            (Some(1), Some(1), None, 2),
            (Some(1), None, None, 1024),
            (None, None, Some(7), 7),
            (Some(2), Some(3), Some(9), 5),
            (Some(u64::MAX), Some(u64::MAX), Some(u64::MAX), u32::MAX),
        ] {
            let written = Resilience {
                max_connections: connections,
                max_pending_requests: pending,
                max_requests: requests,
                ..Resilience::default()
            };
            assert_eq!(Limits::of(&written).requests_max, max, "{written:?}");
        }
    }

    #[test]
    fn each_ejection_lasts_one_window_longer_up_to_the_bound() {
        let limits = Limits::default();
        let mut ejections = Ejections::default();
        let mut now = secs(100);
        for lasts in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
            ejections = ejections.another(now, &limits);
            assert_eq!(ejections.until() - now, secs(lasts));
            now = ejections.until();
        }
        let long = Limits { sleep_window: secs(1000), ..limits };
        assert_eq!(
            Ejections::default().another(secs(0), &long).another(secs(1000), &long).until(),
            secs(2000)
        );
    }

    #[test]
    fn good_conduct_shortens_the_next_ejection() {
        let limits = Limits::default();
        let third = (0..3).fold(Ejections::default(), |ejections, _| {
            ejections.another(ejections.until().max(secs(100)), &limits)
        });
        for (good_secs, lasts) in [(0, 120), (9, 120), (10, 90), (20, 60), (30, 30), (100_000, 30)] {
            let now = third.until() + secs(good_secs);
            assert_eq!(third.another(now, &limits).until() - now, secs(lasts), "after {good_secs} s");
        }
    }
}
