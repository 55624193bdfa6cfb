//! Ejections and breakers over random histories, beside models that were written from what the rules promise. The time
//! is told, and a seed that fails is named.

use super::*;

const HISTORIES: u64 = 300;
const STEPS: usize = 300;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What is promised of an instance (spec/control-and-proxy.md 2.4). Times are since the start.
#[derive(Debug, Default)]
struct Promised {
    row: u32,
    ejections: u32,
    until: Duration,
}

impl Promised {
    fn is_out(&self, now: Duration) -> bool {
        now < self.until
    }

    /// Whether one more failure ejects.
    fn fails(&mut self, now: Duration, limits: &Limits) -> bool {
        if self.is_out(now) {
            return false;
        }
        self.row += 1;
        if self.row < limits.consecutive_errors {
            return false;
        }
        self.row = 0;
        let spent_in = (now - self.until).as_millis() / limits.detection_interval.as_millis();
        let forgiven = u32::try_from(spent_in).unwrap_or(u32::MAX);
        self.ejections = self.ejections.saturating_sub(forgiven) + 1;
        let longest = limits.sleep_window.max(secs(300));
        self.until = now + (limits.sleep_window * self.ejections).min(longest);
        true
    }
}

#[test]
fn an_instance_is_out_for_as_long_as_its_history_earns() {
    let mut ejected = 0;
    for seed in 0..HISTORIES {
        let mut chance = fastrand::Rng::with_seed(seed);
        let world = world();
        let limits = Limits {
            consecutive_errors: chance.u32(1..6),
            detection_interval: millis(chance.u64(1..5_000)),
            sleep_window: millis(chance.u64(1..200_000)),
            ..Limits::default()
        };
        let (endpoint, mut promised) = (world.endpoint("a", "127.0.0.1:1"), Promised::default());
        let mut now = Duration::ZERO;
        for step in 0..STEPS {
            // Now and then long enough for what is in the way to pass.
            now += millis(if chance.u8(..10) == 0 { chance.u64(..400_000) } else { chance.u64(..500) });
            let at = world.start + now;
            if chance.u8(..8) == 0 {
                endpoint.succeeded(&limits);
                promised.row = 0;
            } else {
                let ejects = endpoint.failed(at, &limits, always);
                assert_eq!(ejects, promised.fails(now, &limits), "seed {seed}, step {step}");
                ejected += u32::from(ejects);
            }
            assert_eq!(endpoint.usable(at), !promised.is_out(now), "seed {seed}, step {step}");
        }
    }
    assert!(ejected > 1_000, "{ejected}: the histories are too tame to prove anything");
}

#[test]
fn a_backend_has_never_more_than_its_rule_allows_whatever_the_rule_becomes() {
    let mut refused = 0;
    for seed in 0..HISTORIES {
        let mut chance = fastrand::Rng::with_seed(seed);
        let world = world();
        let allow =
            |max: u64| world.backend("r", Resilience { max_requests: Some(max), ..Resilience::default() });
        let mut max = chance.u64(1..8);
        let (mut backend, mut held) = (allow(max), Vec::new());
        for step in 0..STEPS {
            match chance.u8(..8) {
                0 => {
                    max = chance.u64(1..8);
                    backend = allow(max);
                }
                1..=3 if !held.is_empty() => drop(held.swap_remove(chance.usize(..held.len()))),
                _ => {
                    let permit = backend.admit();
                    let room = (held.len() as u64) < max;
                    assert_eq!(permit.is_some(), room, "seed {seed}, step {step}");
                    refused += u32::from(permit.is_none());
                    held.extend(permit);
                }
            }
            assert_eq!(backend.in_flight() as usize, held.len(), "seed {seed}, step {step}");
        }
        held.clear();
        assert_eq!(backend.in_flight(), 0, "seed {seed}");
    }
    assert!(refused > 1_000, "{refused}: the histories are too tame to prove anything");
}

#[test]
fn retries_stay_within_their_part_and_what_was_saved() {
    for seed in 0..HISTORIES {
        let mut chance = fastrand::Rng::with_seed(seed);
        let world = world();
        let backend = world.backend("r", Resilience::default());
        let percent = f64::from(chance.u32(0..60));
        let (mut active, mut retrying, mut beyond) = (Vec::new(), Vec::new(), 0_u32);
        let mut now = Duration::ZERO;
        for step in 0..STEPS {
            now += millis(chance.u64(..100));
            match chance.u8(..8) {
                0 | 1 => active.extend(backend.admit()),
                2 if !active.is_empty() => drop(active.swap_remove(chance.usize(..active.len()))),
                3 if !retrying.is_empty() => drop(retrying.swap_remove(chance.usize(..retrying.len()))),
                _ => {
                    let retry = backend.retry(percent, world.start + now);
                    let within = (retrying.len() + 1) as f64 <= active.len() as f64 * percent / 100.0;
                    assert!(retry.is_some() || !within, "seed {seed}, step {step}: its part is free");
                    beyond += u32::from(retry.is_some() && !within);
                    retrying.extend(retry);
                }
            }
            // Three a second, and those of ten seconds saved up.
            let allowed = 30.0 + 3.0 * now.as_secs_f64() + 1e-3;
            assert!(f64::from(beyond) <= allowed, "seed {seed}, step {step}: {beyond} of {allowed}");
        }
    }
}
