//! The command line of the benches.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::cpu;

/// Which bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// Added latency, throughput and processor time per request beside nginx, HAProxy and Envoy.
    Latency,
    /// Rule write until the first request that obeys it.
    Propagation,
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
    /// Rounds; the table shows medians.
    #[arg(long)]
    rounds: Option<usize>,
    /// Bytes of an answer's body (latency).
    #[arg(long = "body_bytes", default_value_t = 1_024)]
    body_bytes: usize,
    /// Only these proxies, as in `a8,haproxy` (latency).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Let the peers write an access log too; ours always does (latency).
    #[arg(long = "peers_log")]
    peers_log: bool,
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
    pub(crate) body_bytes: usize,
    /// See [`CommandLine`].
    pub(crate) peers_log: bool,
    /// Empty means all.
    pub(crate) only: Vec<String>,
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
        let (seconds, rounds) = if self.smoke { (0.7, 1) } else { (2.2, 5) };
        let pinned = self.bench != Bench::Propagation && cpu::cores() > 1 && cpu::pin_self(0);
        Args {
            time: Duration::from_secs_f64(self.seconds.unwrap_or(seconds).clamp(0.1, 600.0)),
            rounds: self.rounds.unwrap_or(rounds).max(1),
            body_bytes: self.body_bytes,
            peers_log: self.peers_log,
            only: self.only.clone(),
            changed: self.changed,
            smoke: self.smoke,
            proxy_core: pinned.then_some(1),
        }
    }
}
