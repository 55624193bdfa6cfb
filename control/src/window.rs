//! When the next snapshot is due: changes are gathered for a moment when it is quiet, and for longer the
//! more each publication costs. Pure numbers; the publisher does the waiting.

use std::time::Duration;

use crate::moment::Moment;

/// The shortest time between two publications of a namespace, and how long the first change of a burst
/// waits for the others.
pub const WINDOW_MIN: Duration = Duration::from_millis(20);
/// The longest.
pub const WINDOW_MAX: Duration = Duration::from_secs(1);

/// Waking, answering and accepting the next poll of one waiter, measured at 16 to 25 microseconds.
const WAITER_COST: Duration = Duration::from_micros(20);
/// The part of the cores that may be spent on waking waiters.
const CORES_SHARE: f64 = 0.5;
/// What may leave the machine for snapshots: half of a gigabit per second.
const EGRESS_BYTES_PER_SECOND: f64 = 62.5e6;

/// What one publication costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Polls that it would wake.
    pub waiters: usize,
    /// Bytes that each would get.
    pub answer_bytes: usize,
    /// Cores of the machine.
    pub cores: usize,
}

/// The time between two publications at which their cost stays within the budget.
pub fn window(load: Load) -> Duration {
    let waiters = load.waiters as f64;
    let cpu = waiters * WAITER_COST.as_secs_f64() / (load.cores.max(1) as f64 * CORES_SHARE);
    let bytes = waiters * load.answer_bytes as f64 / EGRESS_BYTES_PER_SECOND;
    Duration::from_secs_f64(cpu.max(bytes).min(WINDOW_MAX.as_secs_f64())).max(WINDOW_MIN)
}

/// What waits to be published, by when it began to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// The first rule write.
    pub rules: Option<Moment>,
    /// The first change of instances.
    pub instances: Option<Moment>,
}

/// When to publish, or `None` when nothing waits. An operator's write waits for nothing but the shortest
/// window since the last publication; instances are gathered.
pub fn due(pending: Pending, last: Option<Moment>, window: Duration) -> Option<Moment> {
    let not_before = |since: Moment, gap: Duration| last.map_or(since, |last| since.max(last + gap));
    let rules = pending.rules.map(|since| not_before(since, WINDOW_MIN));
    let instances = pending.instances.map(|since| not_before(since + WINDOW_MIN, window));
    [rules, instances].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_waiters_and_bytes_and_has_two_ends() {
        for (waiters, answer_bytes, cores, millis) in [
            (0, 0, 4, 20),
            (100, 1_000, 4, 20),
            (10_000, 256, 1, 400),
            (10_000, 256, 4, 100),
            (10_000, 2_000, 4, 320),
            (10_000, 300_000, 4, 1_000),
            (usize::MAX, usize::MAX, 0, 1_000),
        ] {
            let load = Load { waiters, answer_bytes, cores };
            assert_eq!(window(load).as_millis(), millis, "{load:?}");
        }
    }

    #[test]
    fn a_rule_write_is_published_at_once_and_never_waits_for_the_adaptive_window() {
        let wide = WINDOW_MAX;
        let at = Moment::millis;
        for (rules, instances, last, expected) in [
            (None, None, None, None),
            (Some(100), None, None, Some(100)),
            (Some(100), None, Some(10), Some(100)),
            (Some(100), None, Some(95), Some(115)),
            (Some(100), Some(90), Some(95), Some(115)),
            (None, Some(100), None, Some(120)),
            (None, Some(100), Some(95), Some(1_095)),
            (None, Some(5_000), Some(95), Some(5_020)),
        ] {
            let pending = Pending { rules: rules.map(at), instances: instances.map(at) };
            assert_eq!(due(pending, last.map(at), wide), expected.map(at), "{pending:?} {last:?}");
        }
    }
}
