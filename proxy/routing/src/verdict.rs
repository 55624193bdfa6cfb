//! Whether a failed attempt is followed by another (spec 3.7). It knows neither sockets nor clocks: what is
//! left of attempts and time is told to it.

use std::time::Duration;

use control_api::Draw;

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about, in time or at all.
    Connect,
    /// An HTTP/2 instance refused the stream unprocessed.
    RefusedStream,
    /// The connection ended, or broke the protocol, before the head of an answer was complete.
    Closed,
    /// The instance answered with this status.
    Status(u16),
}

/// What is left to try with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Extra attempts not yet used.
    pub attempts_left: u32,
    /// Until the deadline of the whole request.
    pub time_left: Duration,
    /// Whether everything sent so far can be sent again, or nothing was sent.
    pub replayable: bool,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try another instance, this much later.
    Retry {
        /// How long to wait before.
        after: Duration,
    },
    /// Answer with the failure, or with the instance's own answer.
    GiveUp,
}

/// The longest wait before the first retry; it doubles with every further one.
pub const BACKOFF_BASE: Duration = Duration::from_millis(25);
/// The longest wait before any retry.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// Judges a failed attempt. `attempt` counts from 0 for the first; `draw` is that of
/// [`Purpose::Backoff`](crate::Purpose::Backoff) for it.
///
/// The policy is `5xx, connect-failure, refused-stream` for every method (spec 3.7): an instance that
/// answers below 500 has answered. An injected abort is no failure and never comes here.
pub fn verdict(failure: Failure, budget: Budget, attempt: u32, draw: Draw) -> Verdict {
    let retryable = match failure {
        Failure::Connect | Failure::RefusedStream | Failure::Closed => true,
        Failure::Status(status) => (500..=599).contains(&status),
    };
    let after = backoff(attempt, draw);
    if retryable && budget.replayable && budget.attempts_left > 0 && after < budget.time_left {
        Verdict::Retry { after }
    } else {
        Verdict::GiveUp
    }
}

/// Between half and all of the step, so that those who failed together do not come back together.
fn backoff(attempt: u32, draw: Draw) -> Duration {
    let step = BACKOFF_BASE.saturating_mul(1 << attempt.min(8)).min(BACKOFF_MAX);
    step.mul_f64(0.5 + draw.get() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Budget = Budget { attempts_left: 1, time_left: Duration::from_secs(15), replayable: true };

    fn retries(failure: Failure, budget: Budget) -> bool {
        verdict(failure, budget, 0, Draw::from_bits(0)) != Verdict::GiveUp
    }

    #[test]
    fn connect_failures_refused_streams_silence_and_5xx_are_retried_and_nothing_else() {
        for failure in [Failure::Connect, Failure::RefusedStream, Failure::Closed] {
            assert!(retries(failure, PLENTY), "{failure:?}");
        }
        for status in 100..=999 {
            assert_eq!(retries(Failure::Status(status), PLENTY), (500..600).contains(&status), "{status}");
        }
    }

    #[test]
    fn without_attempts_time_or_the_body_nothing_is_retried() {
        for budget in [
            Budget { attempts_left: 0, ..PLENTY },
            Budget { time_left: Duration::from_millis(5), ..PLENTY },
            Budget { time_left: Duration::ZERO, ..PLENTY },
            Budget { replayable: false, ..PLENTY },
        ] {
            assert!(!retries(Failure::Connect, budget), "{budget:?}");
        }
    }

    #[test]
    fn the_wait_is_half_to_all_of_a_step_that_doubles_up_to_its_bound() {
        for (attempt, step) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (9, 250), (u32::MAX, 250)] {
            let step = Duration::from_millis(step);
            for draw in Draw::evenly_spaced(10) {
                let Verdict::Retry { after } = verdict(Failure::Connect, PLENTY, attempt, draw) else {
                    panic!("there is time and an attempt left");
                };
                assert!(step / 2 <= after && after <= step, "{attempt}: {after:?}");
            }
        }
    }
}
