//! Added latency, throughput and processor time per request, ours beside nginx, HAProxy and Envoy in one run: one origin and
//! generator on the first processor, each proxy alone on the second, in turn; medians over rounds.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use conformance::Feed;
use serde_json::{Value, json};

use crate::args::Args;
use crate::load::{Outcome, Pace, Plan, Rig};
use crate::peers::{Peer, START_PATIENCE, Stage};
use crate::report::{Table, cell, median, micros, say};
use crate::world::World;
use crate::{clock, cpu};

const OPEN_RATE: f64 = 2_000.0;
const OPEN_CONNECTIONS: usize = 32;
const CLOSED_CONNECTIONS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(300);
/// Generous on purpose: a gate in CI is for disasters, the table is for people.
const GATE_CPU_OF_ENVOY: f64 = 1.0;
/// See [`GATE_CPU_OF_ENVOY`].
const GATE_CPU_OF_HAPROXY: f64 = 4.0;

/// One peer in one round.
#[derive(Debug, Clone, Copy)]
struct Measured {
    p50: f64,
    p99: f64,
    p999: f64,
    open_cpu: f64,
    per_second: f64,
    closed_p99: f64,
    closed_cpu: f64,
    failed: u64,
}

/// Runs it; `Err` when a gate is broken.
pub(crate) fn run(args: &Args, dir: &Path) -> io::Result<Result<Value, String>> {
    let mut json = serde_json::Map::new();
    let mut broken = Vec::new();
    for feature in [false, true] {
        let (table, gates) = measure(args, dir, feature)?;
        json.insert(if feature { "feature" } else { "plain" }.to_owned(), table);
        broken.extend(gates);
    }
    Ok(if broken.is_empty() { Ok(Value::Object(json)) } else { Err(broken.join("; ")) })
}

fn measure(args: &Args, dir: &Path, feature: bool) -> io::Result<(Value, Vec<String>)> {
    let mut rig = Rig::new(World::origins_needed(feature), args.body_bytes)?;
    let world = World::new(feature, args.peers_log, rig.addresses()?);
    let feed = Feed::start(world.snapshot());
    let stage = Stage { world: &world, core: args.proxy_core, dir, feed: &feed };
    let (peers, missing) = gather(&stage, args)?;
    for peer in &peers {
        await_peer(&mut rig, peer, &world, args)?;
    }
    let mut rounds: BTreeMap<&str, Vec<Measured>> = BTreeMap::new();
    for _ in 0..args.rounds {
        for peer in &peers {
            rounds.entry(peer.name).or_default().push(one(&mut rig, peer, &world, args)?);
        }
    }
    let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
    let memory = |name: &str| {
        let peer = peers.iter().find(|peer| peer.name == name)?;
        cpu::memory_kib(peer.process.as_ref()?.id())
    };
    Ok(report(args, &world, &names, &missing, &rounds, memory))
}

/// Starts what is wanted; the second list names what is not installed.
fn gather(stage: &Stage<'_>, args: &Args) -> io::Result<(Vec<Peer>, Vec<&'static str>)> {
    let (mut peers, mut missing) = (vec![stage.direct()], Vec::new());
    for name in ["a8", "nginx", "haproxy", "envoy"] {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        let peer = match name {
            "nginx" => stage.nginx()?,
            "haproxy" => stage.haproxy()?,
            "envoy" => stage.envoy()?,
            _ => Some(stage.a8()),
        };
        match peer {
            Some(peer) => peers.push(peer),
            None => missing.push(name),
        }
    }
    Ok((peers, missing))
}

/// Waits until the peer serves every target.
fn await_peer(rig: &mut Rig, peer: &Peer, world: &World, args: &Args) -> io::Result<()> {
    let started = clock::now();
    let mut plan = plan(peer, world, args, Pace::Closed, 1, WARM_UP);
    let mut last = String::new();
    while started.elapsed() < START_PATIENCE {
        match rig.run(&plan) {
            Ok(outcome) if outcome.failed == 0 && outcome.good > 0 => {
                plan.connections = CLOSED_CONNECTIONS;
                rig.run(&plan)?;
                return Ok(());
            }
            Ok(outcome) => last = outcome.failures.join("; "),
            // It does not listen yet.
            Err(error) => {
                last = error.to_string();
                rig.serve({
                    let again = clock::now() + Duration::from_millis(50);
                    move || clock::now() > again
                })?;
            }
        }
    }
    let said = peer.process.as_ref().map(|process| process.stderr()).unwrap_or_default();
    Err(io::Error::other(format!("{} does not serve: {last}\n{said}", peer.name)))
}

fn plan(peer: &Peer, world: &World, args: &Args, pace: Pace, connections: usize, time: Duration) -> Plan {
    let targets = world.targets();
    Plan { to: peer.address, targets, connections, pace, time, body_bytes: args.body_bytes }
}

fn one(rig: &mut Rig, peer: &Peer, world: &World, args: &Args) -> io::Result<Measured> {
    let pid = peer.process.as_ref().map(|process| process.id());
    let spent = || pid.and_then(cpu::spent).unwrap_or_default();
    let mut phase = |pace, connections| -> io::Result<(Outcome, f64)> {
        let before = spent();
        let outcome = rig.run(&plan(peer, world, args, pace, connections, args.time))?;
        let per_request = micros(spent().saturating_sub(before)) / outcome.good.max(1) as f64;
        Ok((outcome, if pid.is_some() { per_request } else { f64::NAN }))
    };
    let (open, open_cpu) = phase(Pace::Open(OPEN_RATE), OPEN_CONNECTIONS)?;
    let (closed, closed_cpu) = phase(Pace::Closed, CLOSED_CONNECTIONS)?;
    for failure in open.failures.iter().chain(&closed.failures) {
        say(&format!("{}: failed: {failure}", peer.name));
    }
    Ok(Measured {
        p50: micros(open.latency.quantile(0.5)),
        p99: micros(open.latency.quantile(0.99)),
        p999: micros(open.latency.quantile(0.999)),
        open_cpu,
        per_second: closed.per_second(),
        closed_p99: micros(closed.latency.quantile(0.99)),
        closed_cpu,
        failed: open.failed + closed.failed,
    })
}

fn report(
    args: &Args,
    world: &World,
    names: &[&str],
    missing: &[&str],
    rounds: &BTreeMap<&str, Vec<Measured>>,
    memory: impl Fn(&str) -> Option<u64>,
) -> (Value, Vec<String>) {
    let of =
        |name: &str, what: fn(&Measured) -> f64| median(rounds.get(name).into_iter().flatten().map(what));
    let mut table = Table::new(&[
        world.name(),
        "CPU us/req",
        "x haproxy",
        "x envoy",
        "req/s",
        "p99 us",
        "open p50",
        "p99",
        "p99.9",
        "added p50",
        "added p99",
        "CPU us",
        "MiB",
        "failed",
    ]);
    let mut json = serde_json::Map::new();
    for &name in names {
        let failed: u64 = rounds.get(name).into_iter().flatten().map(|round| round.failed).sum();
        let mib = memory(name).map_or(f64::NAN, |kib| kib as f64 / 1024.0);
        let cpu = of(name, |m| m.closed_cpu);
        let added = |what: fn(&Measured) -> f64| {
            if name == "direct" { f64::NAN } else { of(name, what) - of("direct", what) }
        };
        table.row(vec![
            name.to_owned(),
            cell(cpu, 1),
            cell(cpu / of("haproxy", |m| m.closed_cpu), 2),
            cell(cpu / of("envoy", |m| m.closed_cpu), 2),
            cell(of(name, |m| m.per_second), 0),
            cell(of(name, |m| m.closed_p99), 0),
            cell(of(name, |m| m.p50), 0),
            cell(of(name, |m| m.p99), 0),
            cell(of(name, |m| m.p999), 0),
            cell(added(|m| m.p50), 0),
            cell(added(|m| m.p99), 0),
            cell(of(name, |m| m.open_cpu), 1),
            cell(mib, 1),
            failed.to_string(),
        ]);
        json.insert(
            name.to_owned(),
            json!({
                "cpu_us_per_request": number(cpu), "requests_per_second": number(of(name, |m| m.per_second)),
                "closed_p99_us": number(of(name, |m| m.closed_p99)),
                "cpu_of_haproxy": number(cpu / of("haproxy", |m| m.closed_cpu)),
                "cpu_of_envoy": number(cpu / of("envoy", |m| m.closed_cpu)),
                "open": {"p50_us": number(of(name, |m| m.p50)), "p99_us": number(of(name, |m| m.p99)),
                         "p999_us": number(of(name, |m| m.p999)), "cpu_us_per_request": number(of(name, |m| m.open_cpu))},
                "added": {"p50_us": number(added(|m| m.p50)), "p99_us": number(added(|m| m.p99)),
                          "p999_us": number(added(|m| m.p999))},
                "memory_mib": number(mib), "failed": failed,
            }),
        );
    }
    say(&table.text());
    say(&format!(
        "{} rounds of {:?}; closed loop {CLOSED_CONNECTIONS} connections, open loop {OPEN_RATE} req/s on {OPEN_CONNECTIONS}; body {} bytes; pinned: {}; access logs: {}; not found: {}\n",
        args.rounds,
        args.time,
        args.body_bytes,
        args.proxy_core.is_some(),
        if args.peers_log { "all" } else { "a8 only" },
        if missing.is_empty() { "none".to_owned() } else { missing.join(", ") }
    ));
    let mut broken = Vec::new();
    let failed: u64 = rounds.get("a8").into_iter().flatten().map(|round| round.failed).sum();
    if failed > 0 {
        broken.push(format!("{}: {failed} requests through a8 failed", world.name()));
    }
    for (peer, limit) in [("envoy", GATE_CPU_OF_ENVOY), ("haproxy", GATE_CPU_OF_HAPROXY)] {
        let ratio = of("a8", |m| m.closed_cpu) / of(peer, |m| m.closed_cpu);
        if ratio > limit {
            broken.push(format!(
                "{}: CPU per request is {ratio:.2} times that of {peer}, more than {limit}",
                world.name()
            ));
        }
    }
    (Value::Object(json), broken)
}

fn number(value: f64) -> Value {
    serde_json::Number::from_f64((value * 100.0).round() / 100.0).map_or(Value::Null, Value::Number)
}
