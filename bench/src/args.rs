//! The command line of the benches.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::cpu;

/// Clients that keep their connections; HAProxy reserves two files for each, and 20,000 are a usual limit.
const CROWD: usize = 8_000;
const CROWD_SMOKE: usize = 300;
/// Of our files, left for everything but the crowd.
const OTHER_FILES: u64 = 2_000;

/// Which bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// Processor time, throughput, latency and memory of both engines beside nginx, HAProxy and Envoy.
    Latency,
    /// Rule write until the first request that obeys it.
    Propagation,
    /// Heartbeats, registrations, lists, watchers and memory of the registry, and renewals of redis.
    Registry,
    /// Tail latency while a large table is replaced ten times a second.
    Swap,
}

/// Benches of the whole, against the peers found on this machine. The program under test is `A8_BIN`, or `a8` beside this
/// program.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct CommandLine {
    /// What to measure.
    pub(crate) bench: Bench,
    /// Seconds per measurement.
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds; the tables show medians.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these proxies, as in `a8-lane,haproxy`; `a8` is both engines (latency).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Every proxy writes an access log, and what ours costs is told; without it none does (latency).
    #[arg(long)]
    logs: bool,
    /// Clients that keep their connections while memory is measured (latency).
    #[arg(long)]
    idle: Option<usize>,
    /// Services that change with every swap (swap).
    #[arg(long, default_value_t = 100)]
    changed: usize,
    /// Where to write the results as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// A few seconds only: shows that it runs and that nothing is grossly wrong.
    #[arg(long)]
    smoke: bool,
}

/// What the command line comes to on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    /// Per measurement.
    pub(crate) time: Duration,
    /// How often.
    pub(crate) rounds: usize,
    /// See [`CommandLine`].
    pub(crate) logs: bool,
    /// Empty means all.
    pub(crate) only: Vec<String>,
    /// As many as the limit on files leaves.
    pub(crate) idle: usize,
    /// See [`CommandLine`].
    pub(crate) changed: usize,
    /// See [`CommandLine`].
    pub(crate) smoke: bool,
    /// The processor for proxies; `None` where there is only one, or no `taskset`.
    pub(crate) proxy_core: Option<usize>,
}

impl CommandLine {
    /// Fills in the defaults, and moves this process to its own processor where there is more than one.
    pub(crate) fn settle(&self) -> Args {
        let (seconds, rounds, idle) = if self.smoke { (0.4, 1, CROWD_SMOKE) } else { (2.2, 5, CROWD) };
        let files = cpu::raise_open_files().saturating_sub(OTHER_FILES);
        let pinned = self.bench != Bench::Propagation && cpu::cores() > 1 && cpu::pin_self(0);
        Args {
            time: Duration::from_secs_f64(self.seconds.unwrap_or(seconds).clamp(0.1, 600.0)),
            rounds: self.rounds.unwrap_or(rounds).max(1),
            logs: self.logs,
            only: self.only.clone(),
            idle: self.idle.unwrap_or(idle).min(usize::try_from(files).unwrap_or(usize::MAX)),
            changed: self.changed,
            smoke: self.smoke,
            proxy_core: pinned.then_some(1),
        }
    }
}

impl Args {
    /// Whether a proxy of this name is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let engine = name.strip_suffix("+log").unwrap_or(name);
        let is_meant =
            |only: &String| only == name || only == engine || only == "a8" && engine.starts_with("a8-");
        self.only.is_empty() || self.only.iter().any(is_meant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(only: &str) -> Vec<&'static str> {
        let line = CommandLine::parse_from(["bench", "propagation", "--only", only]);
        let args = line.settle();
        ["a8-lane", "a8-lane+log", "a8-general", "nginx"]
            .into_iter()
            .filter(|name| args.wants(name))
            .collect()
    }

    #[test]
    fn a_name_means_itself_and_a8_both_engines() {
        assert_eq!(wanted("a8"), ["a8-lane", "a8-lane+log", "a8-general"]);
        assert_eq!(wanted("a8-lane,nginx"), ["a8-lane", "a8-lane+log", "nginx"]);
        assert_eq!(wanted("a8-general"), ["a8-general"]);
    }
}
