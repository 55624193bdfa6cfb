//! The tables that people read: one per part. They show what was measured and judge nothing.

use super::memory::Memory;
use super::rounds::{CLOSED_CONNECTIONS, Load, OPEN_RATE, Phase, Results};
use crate::args::Args;
use crate::report::{Table, cell, say};

/// Below this multiple of a proxy's throughput the generator itself is a part of what is measured.
const GENERATOR_MARGIN: f64 = 1.3;
const KIB_PER_MIB: f64 = 1_024.0;

const CPU: fn(&Phase) -> f64 = |phase| phase.cpu_us;
const PER_SECOND: fn(&Phase) -> f64 = |phase| phase.per_second;
const P50: fn(&Phase) -> f64 = |phase| phase.p50_us;

/// Closed and open loop of one world.
pub(super) fn latency(world: &str, results: &Results) {
    let mut table = Table::new(&[
        world,
        "CPU us/req",
        "x haproxy",
        "x envoy",
        "req/s",
        "x haproxy",
        "p99 us",
        "open p50",
        "x haproxy",
        "p99",
        "p99.9",
        "added p50",
        "CPU us",
        "failed",
    ]);
    for name in results.names() {
        let of = |load, what: fn(&Phase) -> f64| results.median(name, load, what);
        let ratio = |to, load, what: fn(&Phase) -> f64| cell(results.ratio(name, to, load, what), 2);
        let added = if name == "direct" { f64::NAN } else { results.more(name, "direct", Load::OPEN, P50) };
        table.row(vec![
            name.to_owned(),
            cell(of(Load::CLOSED, CPU), 1),
            ratio("haproxy", Load::CLOSED, CPU),
            ratio("envoy", Load::CLOSED, CPU),
            cell(of(Load::CLOSED, PER_SECOND), 0),
            ratio("haproxy", Load::CLOSED, PER_SECOND),
            cell(of(Load::CLOSED, |phase| phase.p99_us), 0),
            cell(of(Load::OPEN, P50), 0),
            ratio("haproxy", Load::OPEN, P50),
            cell(of(Load::OPEN, |phase| phase.p99_us), 0),
            cell(of(Load::OPEN, |phase| phase.p999_us), 0),
            cell(added, 0),
            cell(of(Load::OPEN, CPU), 1),
            results.failed(name).to_string(),
        ]);
    }
    say(&table.text());
    doubt_generator(world, results, Load::CLOSED);
    let cost = |load| results.more("a8-lane+log", "a8-lane", load, CPU);
    if cost(Load::CLOSED).is_finite() {
        say(&format!(
            "{world}: the access log costs a8-lane {} us per request under full load, {} us at {OPEN_RATE} req/s\n",
            cell(cost(Load::CLOSED), 2),
            cell(cost(Load::OPEN), 2),
        ));
    }
}

/// Larger bodies.
pub(super) fn bodies(results: &Results) {
    let mut table =
        Table::new(&["bodies", "64 KiB CPU us", "x haproxy", "req/s", "1 MiB CPU us", "x haproxy", "req/s"]);
    for name in results.names() {
        let mut row = vec![name.to_owned()];
        for load in [Load::BIG, Load::HUGE] {
            row.push(cell(results.median(name, load, CPU), 1));
            row.push(cell(results.ratio(name, "haproxy", load, CPU), 2));
            row.push(cell(results.median(name, load, PER_SECOND), 0));
        }
        table.row(row);
    }
    say(&table.text());
    for load in [Load::BIG, Load::HUGE] {
        doubt_generator("bodies", results, load);
    }
}

/// HTTP/2 towards the client, HTTP/1.1 towards the origins.
pub(super) fn http2(results: &Results) {
    let mut table = Table::new(&["http/2", "CPU us/req", "x haproxy", "x envoy", "req/s", "p99 us"]);
    for name in results.names().filter(|name| *name != "direct") {
        table.row(vec![
            name.to_owned(),
            cell(results.median(name, Load::HTTP2, CPU), 1),
            cell(results.ratio(name, "haproxy", Load::HTTP2, CPU), 2),
            cell(results.ratio(name, "envoy", Load::HTTP2, CPU), 2),
            cell(results.median(name, Load::HTTP2, PER_SECOND), 0),
            cell(results.median(name, Load::HTTP2, |phase| phase.p99_us), 0),
        ]);
    }
    say(&table.text());
}

/// What each holds.
pub(super) fn memory(memory: &Memory, wanted: usize) {
    let mut table = Table::new(&[
        "memory, feature",
        "start MiB",
        "after load",
        "with idle",
        "idle clients",
        "KiB per client",
    ]);
    for held in &memory.0 {
        table.row(vec![
            held.name.to_owned(),
            cell(held.start / KIB_PER_MIB, 1),
            cell(held.loaded / KIB_PER_MIB, 1),
            cell(held.with_idle / KIB_PER_MIB, 1),
            held.clients.to_string(),
            cell(held.per_client(), 2),
        ]);
    }
    say(&table.text());
    for held in memory.0.iter().filter(|held| held.clients < wanted) {
        say(&format!("{}: {} of {wanted} idle clients got in and stayed\n", held.name, held.clients));
    }
}

/// Under which conditions all this was measured.
pub(super) fn conditions(args: &Args, results: &Results) {
    say(&format!(
        "{} rounds of {:?}, medians, ratios within rounds; closed loop {CLOSED_CONNECTIONS} connections, open loop {OPEN_RATE} req/s; \
         status, length and content of every answer checked; pinned: {}; access logs: {}; not found: {}\n",
        args.rounds,
        args.time,
        args.proxy_core.is_some(),
        if args.logs { "all but a8-lane" } else { "none" },
        if results.missing.is_empty() { "none".to_owned() } else { results.missing.join(", ") }
    ));
}

/// Says so where origins and generator together are hardly faster than a proxy.
fn doubt_generator(part: &str, results: &Results, load: Load) {
    for name in results.names().filter(|name| *name != "direct") {
        let margin = results.ratio("direct", name, load, PER_SECOND);
        if margin < GENERATOR_MARGIN {
            say(&format!(
                "{part}, {}: direct is only {margin:.2} times {name}: its req/s is the generator's; compare CPU\n",
                load.name
            ));
        }
    }
}
