//! Processor time, throughput, latency and memory of both engines beside nginx, HAProxy and Envoy in one run: origins and
//! generator on the first processor, each proxy alone on the second, in turn; medians over rounds. It prints tables and
//! judges only what is grossly wrong.

mod goals;
mod memory;
mod rounds;
mod tables;

use std::io;
use std::path::Path;

use conformance::Feed;
use serde_json::{Value, json};

use crate::args::Args;
use crate::load::Rig;
use crate::peers::Stage;
use crate::report::say;
use crate::world::World;

use memory::Memory;
use rounds::{Load, Results};

const KIB: usize = 1 << 10;
/// The body of an answer where nothing else is said.
const BODY_BYTES: usize = KIB;
const BIG_BYTES: usize = 64 * KIB;
const HUGE_BYTES: usize = KIB * KIB;

/// Generous on purpose: a gate in CI is for disasters, the tables are for people. Per engine: plain against HAProxy, and
/// either world against Envoy.
const GATES: [(&str, f64, f64); 2] = [("a8-lane", 1.6, 1.0), ("a8-general", 4.0, 1.0)];

/// What was measured.
struct Measured {
    plain: Results,
    feature: Results,
    memory: Memory,
}

/// Runs it; `Err` when a gate is broken.
pub(crate) fn run(args: &Args, dir: &Path) -> io::Result<Result<Value, String>> {
    let plain = in_world(args, dir, "plain", |rig, stage| rounds::measure(rig, stage, args, &Load::ALL))?;
    tables::latency("plain", &plain);
    tables::bodies(&plain);
    tables::http2(&plain);
    let feature = in_world(args, dir, "feature", |rig, stage| {
        rounds::measure(rig, stage, args, &[Load::OPEN, Load::CLOSED])
    })?;
    tables::latency("feature", &feature);
    let memory = in_world(args, dir, "memory", |rig, stage| memory::measure(rig, stage, args))?;
    tables::memory(&memory, args.idle);
    let measured = Measured { plain, feature, memory };
    tables::conditions(args, &measured.plain);
    let goals = goals::judge(&measured);
    if !args.logs {
        say(&goals.text());
    }
    let broken = broken(&measured, args.idle);
    Ok(if broken.is_empty() {
        Ok(json!({
            "plain": measured.plain.json(), "feature": measured.feature.json(),
            "memory": measured.memory.json(), "goals": goals.json(),
        }))
    } else {
        Err(broken.join("; "))
    })
}

/// Sets up origins, world and feed, and has something done there.
fn in_world<T>(
    args: &Args,
    dir: &Path,
    name: &'static str,
    measure: impl FnOnce(&mut Rig, &Stage<'_>) -> io::Result<T>,
) -> io::Result<T> {
    let feature = name != "plain";
    let mut rig = Rig::new(World::origins_needed(feature), &[BODY_BYTES, BIG_BYTES, HUGE_BYTES])?;
    let world = World::new(feature, args.logs, rig.addresses()?);
    let feed = Feed::start(world.snapshot());
    measure(&mut rig, &Stage { name, world: &world, core: args.proxy_core, dir, feed: &feed })
}

fn broken(measured: &Measured, idle: usize) -> Vec<String> {
    let mut broken = Vec::new();
    for held in measured.memory.0.iter().filter(|held| held.name.starts_with("a8-")) {
        // On a machine with few files for the proxy a part of them is turned away.
        if held.clients < idle / 2 {
            broken
                .push(format!("{} of {idle} idle clients of {} got in and stayed", held.clients, held.name));
        }
    }
    for (world, results) in [("plain", &measured.plain), ("feature", &measured.feature)] {
        for name in results.names().filter(|name| name.starts_with("a8-")) {
            let failed = results.failed(name);
            if failed > 0 {
                broken.push(format!("{world}: {failed} requests through {name} failed"));
            }
        }
        for (name, of_haproxy, of_envoy) in GATES {
            let limits = [("haproxy", of_haproxy), ("envoy", of_envoy)];
            let limits = limits.into_iter().filter(|(peer, _)| *peer == "envoy" || world == "plain");
            for (peer, limit) in limits {
                let ratio = results.ratio(name, peer, Load::CLOSED, |phase| phase.cpu_us);
                if ratio > limit {
                    broken.push(format!(
                        "{world}: CPU per request of {name} is {ratio:.2} times that of {peer}, more than {limit}"
                    ));
                }
            }
        }
    }
    broken
}
