//! Whether a failed attempt is followed by another (spec 3.7). It knows neither sockets nor clocks: what is
//! left of attempts and time is told to it.

use std::time::Duration;

use control_api::{Draw, Retries, RetryOn};

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about, in time or at all.
    Connect,
    /// An HTTP/2 instance refused the stream unprocessed.
    RefusedStream,
    /// The connection ended, or broke the protocol, before the head of an answer was complete.
    Closed,
    /// One try took longer than its route allows.
    TryTimeout,
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
/// How many times as long as the first wait any later one may get.
const BACKOFF_GROWTH_MAX: u32 = 10;
/// The longest wait before any retry.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// Judges a failed attempt. `attempt` counts from 0 for the first; `draw` is that of
/// [`Purpose::Backoff`](crate::Purpose::Backoff) for it.
///
/// The policy is `5xx, connect-failure, refused-stream` for every method (spec 3.7): an instance that
/// answers below 500 has answered. An injected abort is no failure and never comes here.
pub fn verdict(failure: Failure, budget: Budget, attempt: u32, draw: Draw) -> Verdict {
    verdict_of(None, "", failure, budget, attempt, draw)
}

/// As [`verdict`], by the policy of a route: what it names is tried again and nothing else, for its methods, with
/// its back-off. Where it says nothing, [`verdict`]'s policy holds.
pub fn verdict_of(
    policy: Option<&Retries>,
    method: &str,
    failure: Failure,
    budget: Budget,
    attempt: u32,
    draw: Draw,
) -> Verdict {
    let named = policy.map(|policy| policy.on.as_slice()).filter(|on| !on.is_empty());
    let named = named.unwrap_or(&[RetryOn::ServerError]);
    let for_method =
        policy.is_none_or(|policy| policy.methods.is_empty() || policy.methods.iter().any(|m| m == method));
    let retryable = for_method && named.iter().any(|on| covers(*on, failure));
    let base = policy.and_then(|policy| policy.backoff).unwrap_or(BACKOFF_BASE);
    let after = backoff(base, attempt, draw);
    if retryable && budget.replayable && budget.attempts_left > 0 && after < budget.time_left {
        Verdict::Retry { after }
    } else {
        Verdict::GiveUp
    }
}

fn covers(on: RetryOn, failure: Failure) -> bool {
    match (on, failure) {
        (RetryOn::ServerError, Failure::Status(status)) => (500..=599).contains(&status),
        (RetryOn::GatewayError, Failure::Status(status)) => (502..=504).contains(&status),
        (RetryOn::Status(wanted), Failure::Status(status)) => wanted == status,
        (RetryOn::ServerError, _)
        | (RetryOn::Connect, Failure::Connect)
        | (RetryOn::RefusedStream, Failure::RefusedStream)
        | (RetryOn::Reset, Failure::Closed)
        | (RetryOn::Timeout, Failure::TryTimeout) => true,
        _ => false,
    }
}

/// Between half and all of the step, so that those who failed together do not come back together.
fn backoff(base: Duration, attempt: u32, draw: Draw) -> Duration {
    let step = base.saturating_mul(1 << attempt.min(8)).min(base * BACKOFF_GROWTH_MAX);
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
    fn a_policy_names_what_is_tried_again_and_for_which_methods() {
        let policy = |on: &[&str], methods: &[&str]| {
            let rule = serde_json::json!({"id": "r", "destination": "d", "route": {"backends": [{"tags": ["a"]}],
                "retries": {"count": 1, "on": on, "methods": methods, "backoff_ms": 4}}});
            let rule: control_api::Rule = serde_json::from_value(rule).unwrap();
            rule.route().unwrap().retry.clone().unwrap()
        };
        let failures = [
            Failure::Connect,
            Failure::RefusedStream,
            Failure::Closed,
            Failure::TryTimeout,
            Failure::Status(500),
            Failure::Status(503),
            Failure::Status(429),
        ];
        for (on, expected) in [
            (&[][..], [true, true, true, true, true, true, false]),
            (&["5xx"], [true, true, true, true, true, true, false]),
            (&["gateway-error"], [false, false, false, false, false, true, false]),
            (&["connect-failure"], [true, false, false, false, false, false, false]),
            (&["refused-stream", "reset"], [false, true, true, false, false, false, false]),
            (&["timeout", "429"], [false, false, false, true, false, false, true]),
        ] {
            let policy = policy(on, &["GET"]);
            let draw = Draw::from_bits(u64::MAX);
            let judged = |failure| verdict_of(Some(&policy), "GET", failure, PLENTY, 9, draw);
            assert_eq!(failures.map(|failure| judged(failure) != Verdict::GiveUp), expected, "{on:?}");
            let waits = failures.map(judged).into_iter().filter_map(|verdict| match verdict {
                Verdict::Retry { after } => Some(after),
                Verdict::GiveUp => None,
            });
            assert!(waits.into_iter().all(|wait| wait <= Duration::from_millis(40)));
            let other = failures.map(|failure| verdict_of(Some(&policy), "POST", failure, PLENTY, 0, draw));
            assert_eq!(other, [Verdict::GiveUp; 7]);
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
