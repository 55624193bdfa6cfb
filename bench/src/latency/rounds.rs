//! Rounds of loads: every proxy runs all the time, one is under load at a time, and each round visits all of them. It
//! keeps every measurement; ratios are taken within a round, where the neighbours of the machine weigh on both alike.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::{BIG_BYTES, BODY_BYTES, HUGE_BYTES};
use crate::args::Args;
use crate::load::{Pace, Plan, Rig};
use crate::peers::{self, Peer, START_PATIENCE, Stage};
use crate::report::{median, micros, number, say};
use crate::{clock, cpu};

pub(super) const OPEN_RATE: f64 = 2_000.0;
const OPEN_CONNECTIONS: usize = 32;
pub(super) const CLOSED_CONNECTIONS: usize = 64;
/// Of each HTTP/2 connection; there are as many connections.
const STREAMS: usize = 8;
const WARM_UP: Duration = Duration::from_millis(300);

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Its name in results.
    pub(super) name: &'static str,
    pace: Pace,
    connections: usize,
    body_bytes: usize,
}

impl Load {
    pub(super) const OPEN: Self = Self {
        name: "open",
        pace: Pace::Open(OPEN_RATE),
        connections: OPEN_CONNECTIONS,
        body_bytes: BODY_BYTES,
    };
    pub(super) const CLOSED: Self = Self::closed("closed", BODY_BYTES);
    pub(super) const BIG: Self = Self::closed("64k", BIG_BYTES);
    pub(super) const HUGE: Self = Self::closed("1m", HUGE_BYTES);

    pub(super) const HTTP2: Self =
        Self { pace: Pace::Multiplexed(STREAMS), connections: STREAMS, ..Self::closed("http2", BODY_BYTES) };

    /// All there are.
    pub(super) const ALL: [Self; 5] = [Self::OPEN, Self::CLOSED, Self::BIG, Self::HUGE, Self::HTTP2];

    const fn closed(name: &'static str, body_bytes: usize) -> Self {
        Self { name, pace: Pace::Closed, connections: CLOSED_CONNECTIONS, body_bytes }
    }

    /// This load on a peer.
    pub(super) fn plan(self, stage: &Stage<'_>, peer: &Peer, time: Duration) -> Plan {
        let to =
            if self.name == Self::HTTP2.name { peer.http2.unwrap_or(peer.address) } else { peer.address };
        let Self { pace, connections, body_bytes, .. } = self;
        let targets = stage.world.targets(body_bytes);
        Plan { to, targets, connections, pace, time, body_bytes }
    }
}

/// One load on one peer in one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    /// Of the proxy, per request; NaN for `direct`.
    pub(super) cpu_us: f64,
    pub(super) per_second: f64,
    failed: u64,
}

/// All measurements of one world.
#[derive(Debug, Default)]
pub(super) struct Results {
    names: Vec<&'static str>,
    /// What is not installed here.
    pub(super) missing: Vec<&'static str>,
    phases: BTreeMap<(&'static str, &'static str), Vec<Phase>>,
}

/// Starts all that are wanted and measures them in turn.
pub(super) fn measure(rig: &mut Rig, stage: &Stage<'_>, args: &Args, loads: &[Load]) -> io::Result<Results> {
    let mut results = Results::default();
    let mut peers = vec![stage.direct()];
    for name in peers::wanted(args) {
        match stage.start(name)? {
            Some(peer) => peers.push(peer),
            None => results.missing.push(name),
        }
    }
    results.names = peers.iter().map(|peer| peer.name).collect();
    for peer in &peers {
        warm_up(rig, stage, peer)?;
    }
    for _ in 0..args.rounds {
        for peer in &peers {
            // Origins speak no HTTP/2.
            let speaks = |load: &&Load| peer.http2.is_some() || load.name != Load::HTTP2.name;
            for load in loads.iter().filter(speaks) {
                let phase = one(rig, peer, &load.plan(stage, peer, args.time))?;
                results.phases.entry((peer.name, load.name)).or_default().push(phase);
            }
        }
    }
    Ok(results)
}

/// Waits until the peer serves every target, and sees that it adds to requests what all are to add.
pub(super) fn warm_up(rig: &mut Rig, stage: &Stage<'_>, peer: &Peer) -> io::Result<()> {
    let started = clock::now();
    let mut plan = Load::CLOSED.plan(stage, peer, WARM_UP);
    plan.connections = 1;
    let wrong = loop {
        let wrong = match rig.inspect(&plan) {
            Ok((outcome, seen)) if outcome.failed == 0 && outcome.good > 0 => {
                if peer.process.is_none() || seen.missing == 0 {
                    plan.connections = CLOSED_CONNECTIONS;
                    return rig.run(&plan).map(|_| ());
                }
                break format!("it leaves out what others add:\n{}", seen.example);
            }
            Ok((outcome, _)) => outcome.failures.join("; "),
            Err(error) => error.to_string(),
        };
        if started.elapsed() > START_PATIENCE {
            break wrong;
        }
    };
    let said = peer.process.as_ref().map(|process| process.stderr()).unwrap_or_default();
    Err(io::Error::other(format!("{} does not serve: {wrong}\n{said}", peer.name)))
}

fn one(rig: &mut Rig, peer: &Peer, plan: &Plan) -> io::Result<Phase> {
    let pid = peer.process.as_ref().map(|process| process.id());
    let spent = || pid.and_then(cpu::spent).unwrap_or_default();
    let before = spent();
    let outcome = rig.run(plan)?;
    let used = micros(spent().saturating_sub(before));
    for failure in &outcome.failures {
        say(&format!("{}: failed: {failure}", peer.name));
    }
    let quantile = |part| micros(outcome.latency.quantile(part));
    Ok(Phase {
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        // By all that were answered: those after the time cost as much.
        cpu_us: if pid.is_some() { used / (outcome.good + outcome.failed).max(1) as f64 } else { f64::NAN },
        per_second: outcome.per_second(),
        failed: outcome.failed,
    })
}

impl Results {
    /// Who was measured, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().copied()
    }

    fn phases(&self, name: &str, load: Load) -> &[Phase] {
        self.phases
            .iter()
            .find(|((peer, kind), _)| *peer == name && *kind == load.name)
            .map_or(&[], |(_, phases)| phases)
    }

    /// Over the rounds; NaN when it was not measured.
    pub(super) fn median(&self, name: &str, load: Load, what: impl Fn(&Phase) -> f64) -> f64 {
        median(self.phases(name, load).iter().map(what))
    }

    /// The median of the rounds' ratios; NaN when one of the two was not measured.
    pub(super) fn ratio(&self, name: &str, to: &str, load: Load, what: impl Fn(&Phase) -> f64) -> f64 {
        let pairs = self.phases(name, load).iter().zip(self.phases(to, load));
        median(pairs.map(|(one, other)| what(one) / what(other)))
    }

    /// The median of the rounds' differences; NaN when one of the two was not measured.
    pub(super) fn more(&self, name: &str, than: &str, load: Load, what: impl Fn(&Phase) -> f64) -> f64 {
        let pairs = self.phases(name, load).iter().zip(self.phases(than, load));
        median(pairs.map(|(one, other)| what(one) - what(other)))
    }

    /// Requests that had no good answer, over all loads.
    pub(super) fn failed(&self, name: &str) -> u64 {
        let of_peer = self.phases.iter().filter(|((peer, _), _)| *peer == name);
        of_peer.flat_map(|(_, phases)| phases).map(|phase| phase.failed).sum()
    }

    /// Everything, as medians.
    pub(super) fn json(&self) -> Value {
        let peers = self.names().map(|name| {
            let loads = Load::ALL;
            let measured = loads.into_iter().filter(|load| !self.phases(name, *load).is_empty());
            let mut peer: serde_json::Map<_, _> =
                measured.map(|load| (load.name.to_owned(), self.json_of(name, load))).collect();
            peer.insert("failed".to_owned(), self.failed(name).into());
            (name.to_owned(), Value::Object(peer))
        });
        Value::Object(peers.collect())
    }

    fn json_of(&self, name: &str, load: Load) -> Value {
        let value = |what: fn(&Phase) -> f64| number(self.median(name, load, what));
        let ratio = |to, what: fn(&Phase) -> f64| number(self.ratio(name, to, load, what));
        json!({
            "cpu_us_per_request": value(|p| p.cpu_us), "requests_per_second": value(|p| p.per_second),
            "p50_us": value(|p| p.p50_us), "p99_us": value(|p| p.p99_us), "p999_us": value(|p| p.p999_us),
            "cpu_of_haproxy": ratio("haproxy", |p| p.cpu_us), "cpu_of_envoy": ratio("envoy", |p| p.cpu_us),
            "requests_of_haproxy": ratio("haproxy", |p| p.per_second), "p50_of_haproxy": ratio("haproxy", |p| p.p50_us),
            "added_p50_us": number(self.more(name, "direct", load, |p| p.p50_us)),
            "added_p99_us": number(self.more(name, "direct", load, |p| p.p99_us)),
        })
    }
}

#[cfg(test)]
impl Results {
    /// As if this processor time per request had been measured with every load, one value per round.
    pub(super) fn of(cpu_us: &[(&'static str, &[f64])]) -> Self {
        let mut results = Self::default();
        for (name, rounds) in cpu_us {
            results.names.push(name);
            for load in Load::ALL {
                let phase = |cpu: &f64| Phase {
                    p50_us: *cpu,
                    p99_us: *cpu,
                    p999_us: *cpu,
                    cpu_us: *cpu,
                    per_second: 1e6 / cpu,
                    failed: 0,
                };
                results.phases.insert((name, load.name), rounds.iter().map(phase).collect());
            }
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_and_differences_are_taken_within_a_round() {
        // The machine was twice as slow in the second round, and three times in the third.
        let results = Results::of(&[("a8-lane", &[5.0, 10.0, 15.0]), ("haproxy", &[10.0, 20.0, 30.0])]);
        let ratio = |to| results.ratio("a8-lane", to, Load::CLOSED, |phase| phase.cpu_us);
        assert_eq!(ratio("haproxy"), 0.5);
        assert!(ratio("envoy").is_nan());
        assert_eq!(results.more("haproxy", "a8-lane", Load::OPEN, |phase| phase.p50_us), 10.0);
        assert_eq!(results.median("haproxy", Load::BIG, |phase| phase.cpu_us), 20.0);
    }
}
