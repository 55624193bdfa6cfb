//! What a lease costs without a network: a catalog in this process, filled and then renewed in no order that a cache could
//! guess. It measures this process, so nothing else may grow in it meanwhile.

use std::hint::black_box;
use std::time::Duration;

use registry::admitted::Admitted;
use registry::catalog::{Catalog, Command};
use registry::timestamp::Timestamp;
use registry_api::{Instance, InstanceId};
use serde_json::json;

use crate::clock;
use crate::cpu;

const TTL: Duration = Duration::from_secs(30);

/// What was measured.
#[derive(Debug)]
pub(crate) struct Core {
    /// How many leases there were.
    pub(crate) leases: usize,
    /// One renewal.
    pub(crate) renewal_ns: f64,
    /// What an instance takes beyond its text on the wire.
    pub(crate) bytes_each: f64,
}

/// Fills a catalog with so many leases and renews each once.
pub(crate) fn measure(leases: usize) -> Core {
    let own = std::process::id();
    let before = cpu::memory_kib(own).unwrap_or_default();
    let mut catalog = Catalog::new(None);
    let mut text = 0;
    for number in 0..leases {
        let admitted = instance(number);
        text += admitted.bytes();
        let registered = catalog.apply(Command::Register(admitted), Timestamp::from_millis(1));
        registered.expect("a catalog without a bound takes everything");
    }
    let held = cpu::memory_kib(own).unwrap_or_default().saturating_sub(before) * 1_024;
    let mut ids: Vec<InstanceId> = catalog.instances().map(|leased| leased.instance.id.clone()).collect();
    shuffle(&mut ids);
    // One after the other in memory, as they come in a request; where the leases lie is the catalog's affair.
    let wanted: String = ids.iter().map(|id| format!("{id}\n")).collect();
    let began = clock::now();
    for id in wanted.lines() {
        let _ = black_box(catalog.renew(id, Timestamp::from_millis(2)));
    }
    let elapsed = began.elapsed();
    Core {
        leases,
        renewal_ns: elapsed.as_nanos() as f64 / leases.max(1) as f64,
        bytes_each: held.saturating_sub(text as u64) as f64 / leases.max(1) as f64,
    }
}

fn instance(number: usize) -> Admitted {
    let instance: Instance = serde_json::from_value(json!({
        "id": format!("{:016x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        "service_name": format!("service-{}", number % 5_000), "ttl": 30, "status": "UP", "tags": ["version=v1", "zone=a"],
        "endpoint": {"type": "http", "value": format!("10.{}.{}.1:8080", number / 256 % 256, number % 256)},
        "metadata": {"owner": "bench"},
    }))
    .expect("an instance with all its fields decodes");
    Admitted::new(instance, TTL)
}

/// By a fixed sequence: every run renews in the same order.
fn shuffle(ids: &mut [InstanceId]) {
    let mut state = 1_u64;
    for at in (1..ids.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ids.swap(at, (state >> 33) as usize % (at + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lease_is_filled_and_renewed() {
        let core = measure(500);
        assert_eq!(core.leases, 500);
        assert!(core.renewal_ns > 0.0);
    }
}
