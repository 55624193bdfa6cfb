//! `a8 faults [on|off]`: the one switch of all faults of a namespace. It touches no rule: what the rules say happens
//! again as soon as the switch is on.

use std::time::Duration;

use clap::{Args, ValueEnum};
use control_api::Applied;
use serde::Serialize;

use super::rule::{WAIT_DEFAULT, everywhere, live};
use crate::client::{Servers, wait_for};
use crate::exit::Failure;
use crate::output::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct FaultsVerb {
    #[command(flatten)]
    servers: Servers,
    /// `off` ends all faults, `on` lets them happen again; nothing shows how it stands.
    #[arg(value_enum)]
    switch: Option<Switch>,
    /// Wait until every connected proxy serves the change, and say which do.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = WAIT_DEFAULT)]
    #[arg(value_parser = registry_api::duration::parse, requires = "switch")]
    wait: Option<Duration>,
    /// How to show the switch.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Faults happen as the rules say.
    On,
    /// No fault happens.
    Off,
}

/// How the switch stands, and where.
#[derive(Debug, Serialize)]
struct Shown {
    disabled: bool,
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

/// Performs the verb.
pub(crate) fn run(verb: &FaultsVerb) -> Result<(), Failure> {
    let control = verb.servers.control()?;
    wait_for(async {
        let Some(switch) = verb.switch else {
            let now = control.faults().await?;
            let shown = Shown { disabled: now.disabled, revision: Some(now.revision), applied: None };
            return output::show(verb.output, &shown, || shown.line());
        };
        let written = control.set_faults(switch == Switch::Off, verb.wait).await?;
        let live = live(&control, &written).await?;
        let done = everywhere(&written);
        let shown =
            Shown { disabled: switch == Switch::Off, revision: written.revision, applied: written.applied };
        output::show(verb.output, &shown, || shown.line() + &live)?;
        done
    })
}

impl Shown {
    fn line(&self) -> String {
        let stands = if self.disabled { "off" } else { "on" };
        let revision = self.revision.map(|revision| format!(" (revision {revision})")).unwrap_or_default();
        format!("faults are {stands}{revision}\n")
    }
}
