//! The benches of the whole: `bench latency | propagation | swap | registry`. Each prints a table, writes JSON on request, and fails
//! only when something is grossly wrong; judging figures is for people who know the machine.

mod args;
mod body;
mod client;
mod clock;
mod cpu;
mod histogram;
mod latency;
mod load;
mod multiplex;
mod origins;
mod peers;
mod propagation;
mod registry;
mod report;
mod swap;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Bench, CommandLine};
use crate::report::{say, write_json};

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let args = line.settle();
    let outcome = tempfile::tempdir().and_then(|dir| match line.bench {
        Bench::Latency => latency::run(&args, dir.path()),
        Bench::Propagation => propagation::run(&args),
        Bench::Registry => registry::run(&args, dir.path()),
        Bench::Swap => swap::run(&args, dir.path()),
    });
    let verdict = outcome.and_then(|outcome| match outcome {
        Ok(json) => write_json(line.json.as_deref(), &json).map(|()| None),
        Err(broken) => Ok(Some(broken)),
    });
    match verdict {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(broken)) => {
            say(&format!("FAILED: {broken}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("cannot measure: {error}"));
            ExitCode::FAILURE
        }
    }
}
