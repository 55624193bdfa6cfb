//! What a lease costs without a network: a catalog in this process, filled and then renewed in no order that a cache could
//! guess, and swept while none of it is over. It measures this process, so nothing else may grow in it meanwhile; times are
//! of the processor, so what else the machine does counts only as far as it takes from the caches.

use std::hint::black_box;
use std::time::Duration;

use registry::admitted::Admitted;
use registry::catalog::{Catalog, Command};
use registry::timestamp::Timestamp;
use registry_api::{Instance, InstanceId};
use serde_json::json;

use crate::cpu;

const TTL_MS: u64 = 30_000;
/// The registry's own sweeps are as far apart.
const SWEEP_MS: u64 = 100;
/// As many as a request may renew at once under one lock.
const BATCH: usize = 512;
/// The last renewals are spread over this time, as they are in life, so that not all come up at once.
const SPREAD_MS: u64 = 10_000;
/// How often each renewal is measured; the best counts, because what the machine does beside it only ever adds.
const ROUNDS: u64 = 5;
/// Numbers to walk through, far more than the nearer caches hold.
const WALK: usize = 8 << 20;
const STEPS: usize = 1 << 20;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Core {
    /// How many leases there were.
    pub(crate) leases: usize,
    /// One renewal, of leases one after the other.
    pub(crate) renewal_ns: f64,
    /// One of many that are renewed in one go.
    pub(crate) batched_ns: f64,
    /// A sweep of what comes up in a tenth of a second when all are renewed in time: the median, and the longest.
    pub(crate) sweep_ms: (f64, f64),
    /// A read from memory whose place only the one before it tells: what nothing that looks up one lease can be below.
    pub(crate) read_ns: f64,
    /// What an instance takes beyond its text on the wire.
    pub(crate) bytes_each: f64,
}

/// Fills a catalog with so many leases, spread over the time of one, renews them and sweeps.
pub(crate) fn measure(leases: usize) -> Core {
    let own = std::process::id();
    let before = cpu::memory_kib(own).unwrap_or_default();
    let mut catalog = Catalog::new(None);
    let mut text = 0;
    for number in 0..leases {
        let admitted = instance(number);
        text += admitted.bytes();
        let moment = Timestamp::from_millis((number as u64).wrapping_mul(7_919) % TTL_MS);
        let registered = catalog.apply(Command::Register(admitted), moment);
        registered.expect("a catalog without a bound takes everything");
    }
    let held = cpu::memory_kib(own).unwrap_or_default().saturating_sub(before) * 1_024;
    let mut ids: Vec<InstanceId> = catalog.instances().map(|leased| leased.instance.id.clone()).collect();
    shuffle(&mut ids);
    // One after the other in memory, as they come in a request; where the leases lie is the catalog's affair.
    let wanted: String = ids.iter().map(|id| format!("{id}\n")).collect();
    let wanted: Vec<&str> = wanted.lines().collect();
    drop(ids);
    // Later from lease to lease, over the time that is left to all of them.
    let at = |done: usize| {
        let spread = SPREAD_MS * done as u64 / leases.max(1) as u64;
        Timestamp::from_millis(TTL_MS - SPREAD_MS + spread)
    };
    let renewal_ns = best(leases, || {
        let each = wanted.iter().enumerate();
        each.filter(|(done, id)| black_box(catalog.renew(**id, at(*done))).is_ok()).count()
    });
    let batched_ns = best(leases, || {
        let mut renewed = 0;
        for (done, some) in wanted.chunks(BATCH).enumerate() {
            catalog.renew_all(some, at(done * BATCH), |is_known| renewed += usize::from(black_box(is_known)));
        }
        renewed
    });
    Core {
        leases,
        renewal_ns,
        batched_ns,
        sweep_ms: sweep_ms(&mut catalog),
        read_ns: read_ns(),
        bytes_each: held.saturating_sub(text as u64) as f64 / leases.max(1) as f64,
    }
}

/// What each of so many renewals takes, in the best of some rounds.
fn best(leases: usize, mut renewed: impl FnMut() -> usize) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let before = cpu::spent_here();
        assert_eq!(renewed(), leases, "every lease is known");
        let spent = cpu::spent_here().saturating_sub(before);
        best = best.min(spent.as_nanos() as f64 / leases.max(1) as f64);
    }
    best
}

/// Sweeps until just before the first lease is over.
fn sweep_ms(catalog: &mut Catalog) -> (f64, f64) {
    // What lies before the first sweep would all come up in it.
    catalog.expire(Timestamp::from_millis(TTL_MS));
    let moments = (TTL_MS + SWEEP_MS..2 * TTL_MS - SPREAD_MS).step_by(SWEEP_MS as usize);
    let mut sweeps: Vec<_> = moments
        .map(|moment| {
            let before = cpu::spent_here();
            assert!(catalog.expire(Timestamp::from_millis(moment)).is_empty(), "no lease is over yet");
            cpu::spent_here().saturating_sub(before)
        })
        .collect();
    sweeps.sort_unstable();
    let millis = |at: usize| sweeps[at].as_secs_f64() * 1e3;
    (millis(sweeps.len() / 2), millis(sweeps.len() - 1))
}

fn read_ns() -> f64 {
    let mut next: Vec<u32> = (0..WALK as u32).collect();
    // A single cycle through all of them, so that no walk stays where the caches reach.
    let mut state = 1_u64;
    for at in (1..WALK).rev() {
        next.swap(at, draw(&mut state, at));
    }
    let mut at = 0;
    let before = cpu::spent_here();
    for _ in 0..STEPS {
        at = next[at as usize];
    }
    let spent = cpu::spent_here().saturating_sub(before);
    black_box(at);
    spent.as_nanos() as f64 / STEPS as f64
}

fn instance(number: usize) -> Admitted {
    let instance: Instance = serde_json::from_value(json!({
        "id": format!("{:016x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        "service_name": format!("service-{}", number % 5_000), "ttl": 30, "status": "UP", "tags": ["version=v1", "zone=a"],
        "endpoint": {"type": "http", "value": format!("10.{}.{}.1:8080", number / 256 % 256, number % 256)},
        "metadata": {"owner": "bench"},
    }))
    .expect("an instance with all its fields decodes");
    Admitted::new(instance, Duration::from_millis(TTL_MS))
}

/// By a fixed sequence: every run renews in the same order.
fn shuffle(ids: &mut [InstanceId]) {
    let mut state = 1_u64;
    for at in (1..ids.len()).rev() {
        ids.swap(at, draw(&mut state, at + 1));
    }
}

/// The next number of the sequence, below `end`.
fn draw(state: &mut u64, end: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lease_is_filled_and_renewed() {
        let core = measure(500);
        assert_eq!(core.leases, 500);
        assert!(
            core.renewal_ns > 0.0 && core.batched_ns > 0.0 && core.sweep_ms.1 > 0.0 && core.read_ns > 0.0
        );
    }
}
