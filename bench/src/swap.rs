//! Tail latency while a table of 10,000 services with 10 instances each is replaced ten times a second, and whether any
//! request fails. The proxy compiles on the processor on which it serves.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use conformance::{Feed, Proxy};
use control_api::{Delta, Snapshot};
use registry_api::{Instance, Reason};
use serde_json::{Value, json};

use crate::args::Args;
use crate::load::{Outcome, Pace, Plan, Rig};
use crate::report::{Table, cell, median, micros, say};
use crate::world::instance;
use crate::{clock, cpu};

const SERVICES: usize = 10_000;
const SERVICES_SMOKE: usize = 2_000;
const INSTANCES: usize = 10;
const SWAP_EVERY: Duration = Duration::from_millis(100);
const RATE: f64 = 2_000.0;
const CONNECTIONS: usize = 32;
/// Services under load; all of them are among those that change.
const LOADED: usize = 100;
const BODY_BYTES: usize = 1_024;
/// Building 100,000 instances takes the proxy a while, more so on a busy machine.
const TABLE_PATIENCE: Duration = Duration::from_secs(120);

/// Two tables that take turns, and the way from each to the other.
struct Turns {
    tables: [Arc<Snapshot>; 2],
    ways: [Delta; 2],
}

impl Turns {
    /// All services with instances at the origins; `changed` of them differ in every instance between the two tables.
    fn new(services: usize, changed: usize, origins: &[String]) -> Self {
        let table = |version: &str| {
            let instances = (0..services).flat_map(|service| {
                let version = if service < changed { version.to_owned() } else { "v0".to_owned() };
                (0..INSTANCES).map(move |at| (service, version.clone(), at))
            });
            let instances = instances.map(|(service, version, at)| -> Arc<Instance> {
                instance(service, &version, at, &origins[(service * INSTANCES + at) % origins.len()]).into()
            });
            Snapshot::new(1, [], instances)
        };
        let tables = [Arc::new(table("v1")), Arc::new(table("v2"))];
        let way = |from: usize, to: usize| tables[from].delta_to(&tables[to], |_| Reason::Deregistered);
        Self { ways: [way(1, 0), way(0, 1)], tables }
    }

    /// The table of this turn, and how to get there from the one before.
    fn at(&self, turn: usize) -> (Arc<Snapshot>, Delta) {
        (Arc::clone(&self.tables[turn % 2]), self.ways[turn % 2].clone())
    }
}

/// Runs it; `Err` when a gate is broken.
pub(crate) fn run(args: &Args, dir: &Path) -> io::Result<Result<Value, String>> {
    let services = if args.smoke { SERVICES_SMOKE } else { SERVICES };
    let changed = args.changed.clamp(LOADED, services);
    let mut rig = Rig::new(10, &[BODY_BYTES])?;
    let origins: Vec<String> = rig.addresses()?.iter().map(ToString::to_string).collect();
    let turns = Turns::new(services, changed, &origins);
    let feed = Feed::start((*turns.tables[0]).clone());
    let flags = [("threads", "1"), ("log_level", "error")];
    let launch = Proxy::launch(&dir.join("swap"), "gateway", "bench", feed.address(), &flags);
    let launch = args.proxy_core.map_or(launch.clone(), |core| launch.pinned(core));
    let process = launch.start("a8");
    let (http, admin, pid) = (process.address("http"), process.address("admin"), process.id());
    conformance::within(TABLE_PATIENCE, "the first table is served", || {
        if feed.acknowledged() >= 1 { Ok(()) } else { Err("not yet") }
    });
    let plan = Plan {
        to: http,
        targets: (0..LOADED).map(|service| format!("/s{service}/{BODY_BYTES}")).collect(),
        connections: CONNECTIONS,
        pace: Pace::Open(RATE),
        time: args.time,
        body_bytes: BODY_BYTES,
    };
    rig.run(&Plan { time: Duration::from_millis(500), ..plan.clone() })?;
    let swaps = || {
        let page = conformance::get("/metrics").call(admin).expect(200);
        conformance::metrics::Scrape::read(&page.text())
            .map_or(0.0, |m| m.sum("a8_proxy_table_swaps_total", &[]))
    };
    let mut measured: [Vec<Round>; 2] = [vec![], vec![]];
    let mut turn = 1;
    for _ in 0..args.rounds {
        for (swapping, rounds) in measured.iter_mut().enumerate() {
            let (before, spent) = (swaps(), cpu::spent(pid).unwrap_or_default());
            let (outcome, next) = if swapping == 1 {
                under_swaps(&mut rig, &plan, &feed, &turns, turn)?
            } else {
                (rig.run(&plan)?, turn)
            };
            turn = next;
            let core = (cpu::spent(pid).unwrap_or_default().saturating_sub(spent)).as_secs_f64();
            // What is still on its way belongs to this round.
            conformance::within(TABLE_PATIENCE, "the proxy has caught up", || {
                if feed.acknowledged() >= turn as u64 { Ok(()) } else { Err(feed.acknowledged()) }
            });
            rounds.push(Round { swaps: swaps() - before, core: core / args.time.as_secs_f64(), outcome });
        }
    }
    let memory = cpu::memory_kib(pid).map_or(f64::NAN, |kib| kib as f64 / 1024.0);
    Ok(report(args, services, changed, &measured, memory))
}

struct Round {
    outcome: Outcome,
    swaps: f64,
    core: f64,
}

/// The same load while tables take turns. Returns the next turn.
fn under_swaps(
    rig: &mut Rig,
    plan: &Plan,
    feed: &Feed,
    turns: &Turns,
    first: usize,
) -> io::Result<(Outcome, usize)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            cpu::stand_back();
            let started = clock::now();
            let mut published = 0_u32;
            while !stop.load(Ordering::SeqCst) {
                let (table, way) = turns.at(first + published as usize);
                feed.publish_way(table, way);
                published += 1;
                thread::sleep((started + SWAP_EVERY * published).saturating_duration_since(clock::now()));
            }
            first + published as usize
        });
        let outcome = rig.run(plan);
        stop.store(true, Ordering::SeqCst);
        let next = publisher.join().map_err(|_| io::Error::other("the publisher panicked"))?;
        Ok((outcome?, next))
    })
}

fn report(
    args: &Args,
    services: usize,
    changed: usize,
    measured: &[Vec<Round>; 2],
    memory: f64,
) -> Result<Value, String> {
    let mut table = Table::new(&[
        "2,000 req/s",
        "swaps/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "best p99.9",
        "core",
        "failed",
    ]);
    let mut json = serde_json::Map::new();
    let mut best = [f64::NAN; 2];
    for (at, (name, rounds)) in ["no swap", "swapping"].into_iter().zip(measured).enumerate() {
        let quantile = |part: f64| median(rounds.iter().map(|r| micros(r.outcome.latency.quantile(part))));
        best[at] =
            rounds.iter().map(|r| micros(r.outcome.latency.quantile(0.999))).fold(f64::INFINITY, f64::min);
        let failed: u64 = rounds.iter().map(|r| r.outcome.failed).sum();
        let rate = median(rounds.iter().map(|r| r.swaps / args.time.as_secs_f64()));
        let core = median(rounds.iter().map(|r| r.core));
        table.row(vec![
            name.to_owned(),
            cell(rate, 1),
            cell(quantile(0.5), 0),
            cell(quantile(0.99), 0),
            cell(quantile(0.999), 0),
            cell(best[at], 0),
            cell(core, 2),
            failed.to_string(),
        ]);
        json.insert(
            name.replace(' ', "_"),
            json!({"swaps_per_second": rate, "p50_us": quantile(0.5), "p99_us": quantile(0.99),
                   "p999_us": quantile(0.999), "best_p999_us": best[at], "core": core, "failed": failed}),
        );
    }
    say(&table.text());
    say(&format!(
        "{services} services x {INSTANCES} instances, {changed} services change in every instance per swap; best p99.9 under swaps is {} x that without; {} MiB; {} rounds of {:?}\n",
        cell(best[1] / best[0], 2),
        cell(memory, 0),
        args.rounds,
        args.time,
    ));
    json.insert("services".to_owned(), json!(services));
    json.insert("changed".to_owned(), json!(changed));
    let failures: Vec<_> = measured.iter().flatten().flat_map(|r| r.outcome.failures.clone()).collect();
    let failed: u64 = measured.iter().flatten().map(|r| r.outcome.failed).sum();
    if failed > 0 {
        return Err(format!("{failed} requests failed: {}", failures.join("; ")));
    }
    if measured[1].iter().all(|round| round.swaps < 1.0) {
        return Err("no table was swapped".to_owned());
    }
    Ok(Value::Object(json))
}
