//! What a proxy holds: with the table of `feature` before any request, after load, and with clients that made a request
//! and then keep their connections. One proxy at a time: processes that share pages would each look smaller. What the
//! kernel holds for their sockets is the same for all of them and not counted.

use std::io;

use serde_json::{Value, json};

use super::rounds::{self, Load};
use crate::args::Args;
use crate::clock;
use crate::cpu::{self, Quiet};
use crate::load::{Crowd, Rig};
use crate::peers::{self, Peer, Stage};
use crate::report::{number, say};

/// One proxy's memory in KiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) name: &'static str,
    pub(super) start: f64,
    pub(super) loaded: f64,
    pub(super) with_idle: f64,
    /// How many clients got in and stayed.
    pub(super) clients: usize,
}

/// What all of them hold.
#[derive(Debug, Default)]
pub(super) struct Memory(pub(super) Vec<Held>);

/// Starts, loads and ends one after the other.
pub(super) fn measure(rig: &mut Rig, stage: &Stage<'_>, args: &Args) -> io::Result<Memory> {
    let mut memory = Memory::default();
    // The log makes no difference here.
    for name in peers::wanted(args)
        .into_iter()
        .filter(|name| !(args.logs && name.starts_with("a8-") && !name.ends_with("+log")))
    {
        let Some(mut peer) = stage.start(name)? else { continue };
        memory.0.push(of_one(rig, stage, &peer, args)?);
        if let Some(process) = &mut peer.process {
            // Nothing is under way, and a graceful end takes its time.
            process.kill();
        }
    }
    Ok(memory)
}

fn of_one(rig: &mut Rig, stage: &Stage<'_>, peer: &Peer, args: &Args) -> io::Result<Held> {
    let nobody = &mut Crowd::default();
    let start = settled(rig, peer, nobody)?;
    rounds::warm_up(rig, stage, peer)?;
    let plan = Load::CLOSED.plan(stage, peer, args.time);
    rig.run(&plan)?;
    let loaded = settled(rig, peer, nobody)?;
    let mut crowd = rig.crowd(&plan, args.idle)?;
    for failure in &crowd.outcome.failures {
        say(&format!("{}: {failure}", peer.name));
    }
    let with_idle = settled(rig, peer, &mut crowd)?;
    Ok(Held { name: peer.name, start, loaded, with_idle, clients: crowd.len() })
}

/// Once it has nothing more to do.
fn settled(rig: &mut Rig, peer: &Peer, crowd: &mut Crowd) -> io::Result<f64> {
    let Some(pid) = peer.process.as_ref().map(|process| process.id()) else { return Ok(f64::NAN) };
    let mut quiet = Quiet::of(pid, clock::now());
    rig.keep(crowd, || quiet.is_there(clock::now()))?;
    Ok(cpu::memory_kib(pid).map_or(f64::NAN, |kib| kib as f64))
}

impl Held {
    /// What one idle client costs, in KiB.
    pub(super) fn per_client(&self) -> f64 {
        (self.with_idle - self.loaded) / if self.clients > 0 { self.clients as f64 } else { f64::NAN }
    }
}

impl Memory {
    /// One proxy's.
    pub(super) fn of(&self, name: &str) -> Option<&Held> {
        self.0.iter().find(|held| held.name == name)
    }

    /// Everything.
    pub(super) fn json(&self) -> Value {
        let peers = self.0.iter().map(|held| {
            let value = json!({
                "start_kib": number(held.start), "loaded_kib": number(held.loaded), "idle_kib": number(held.with_idle),
                "idle_clients": held.clients, "kib_per_idle_client": number(held.per_client()),
            });
            (held.name.to_owned(), value)
        });
        Value::Object(peers.collect())
    }
}
