//! `a8 rule create|list|get|update|delete`: the operator's rules. It checks nothing about a rule itself;
//! control does, and answers with the reason.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use control_api::client::{ControlClient, RuleFilter, RuleSet, Written};

use crate::client::{Servers, wait_for};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::{rule_file, rule_text};

/// How long `--wait` without a time waits.
pub(super) const WAIT_DEFAULT: &str = "10s";

#[derive(Debug, Args)]
pub(crate) struct RuleVerb {
    #[command(flatten)]
    servers: Servers,
    #[command(subcommand)]
    edit: RuleCommand,
}

#[derive(Debug, Subcommand)]
enum RuleCommand {
    /// Create rules, or replace those with the same id; all or none.
    Create(Write),
    /// List rules as a table.
    List(List),
    /// Show whole rules.
    Get(Get),
    /// Replace existing rules by id; all or none.
    Update(Write),
    /// Delete rules.
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Write {
    /// A .json or .yaml file; `-` or nothing reads standard input. A rule, a list, or `rules:`.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    written: WrittenOptions,
}

#[derive(Debug, Args)]
struct WrittenOptions {
    /// Wait until every connected proxy serves the change, and say which do.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = WAIT_DEFAULT)]
    #[arg(value_parser = registry_api::duration::parse)]
    wait: Option<Duration>,
    /// How to show the result.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Args)]
struct Selection {
    /// Select by rule id.
    #[arg(short, long, value_name = "ID", value_delimiter = ',')]
    id: Vec<String>,
    /// Select by tag of the rule.
    #[arg(short, long, value_name = "TAG", value_delimiter = ',')]
    tag: Vec<String>,
    /// Select by destination.
    #[arg(short, long, value_name = "SERVICE", value_delimiter = ',')]
    destination: Vec<String>,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    selection: Selection,
    /// How to show the rules.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Args)]
struct Get {
    /// Ids of rules.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Every rule.
    #[arg(short, long)]
    all: bool,
    /// How to show the rules.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Debug, Args)]
struct Delete {
    /// Ids of rules.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Every rule.
    #[arg(short, long)]
    all: bool,
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    written: WrittenOptions,
}

impl Selection {
    fn filter(self, positional: Vec<String>) -> RuleFilter {
        let ids = positional.into_iter().chain(self.id).collect();
        RuleFilter { ids, tags: self.tag, destinations: self.destination }
    }
}

/// Performs the verb.
pub(crate) fn run(verb: RuleVerb) -> Result<(), Failure> {
    let control = verb.servers.control()?;
    match verb.edit {
        RuleCommand::Create(write) => {
            let rules = rule_file::read(write.file.as_deref())?;
            wait_for(async {
                let written = control.create(&rules, write.written.wait).await?;
                report("created", &control, written, &write.written).await
            })
        }
        RuleCommand::Update(write) => {
            let rules = rule_file::read(write.file.as_deref())?;
            wait_for(async {
                let mut written = control.update(&rules, write.written.wait).await?;
                written.ids = rules.into_iter().map(|rule| rule.id).collect();
                report("updated", &control, written, &write.written).await
            })
        }
        RuleCommand::List(list) => show(&control, list.selection.filter(Vec::new()), list.output),
        RuleCommand::Get(get) => {
            let filter = selected(get.all, get.selection.filter(get.ids))?;
            show(&control, filter, get.output)
        }
        RuleCommand::Delete(delete) => {
            let filter = selected(delete.all, delete.selection.filter(delete.ids))?;
            if delete.all && !delete.force && !confirmed()? {
                return Err(Failure::new("nothing was deleted"));
            }
            wait_for(async {
                let written = control.delete(&filter, delete.written.wait).await?;
                report("deleted", &control, written, &delete.written).await
            })
        }
    }
}

/// Refuses to take an empty selection for everything, and a selection beside everything.
fn selected(all: bool, filter: RuleFilter) -> Result<RuleFilter, Failure> {
    match (all, filter == RuleFilter::default()) {
        (false, true) => Err(Failure::new("select rules by id, --tag or --destination, or all with --all")),
        (true, false) => Err(Failure::new("--all and a selection exclude each other")),
        _ => Ok(filter),
    }
}

fn confirmed() -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        output::raw("Do you really want to delete all rules? [y/N]: ")?;
    }
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(Failure::new)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn show(control: &ControlClient, filter: RuleFilter, format: Format) -> Result<(), Failure> {
    let mut set: RuleSet = wait_for(async { Ok(control.rules(&filter).await?) })?;
    set.rules.sort_by(|a, b| a.destination.cmp(&b.destination).then_with(|| a.precedence(b)));
    output::show(format, &set, || rule_text::table(&set.rules))
}

async fn report(
    done: &str,
    control: &ControlClient,
    written: Written,
    options: &WrittenOptions,
) -> Result<(), Failure> {
    let mut text = done.to_owned();
    if !written.ids.is_empty() {
        text.push_str(&format!(" {}", written.ids.join(", ")));
    }
    if let Some(revision) = written.revision {
        text.push_str(&format!(" (revision {revision})"));
    }
    text.push('\n');
    text.push_str(&live(control, &written).await?);
    output::show(options.output, &written, || text)?;
    everywhere(&written)
}

/// A line that says where a write is live; empty when nobody waited.
pub(super) async fn live(control: &ControlClient, written: &Written) -> Result<String, Failure> {
    let Some(applied) = &written.applied else { return Ok(String::new()) };
    let serving = serving(control, written.revision.unwrap_or(0)).await?;
    let names = if serving.is_empty() { String::new() } else { format!(": {}", serving.join(", ")) };
    Ok(format!("live on {}/{} proxies{names}\n", applied.serving, applied.proxies))
}

/// Refuses to call a write done that was waited for and did not come everywhere.
pub(super) fn everywhere(written: &Written) -> Result<(), Failure> {
    match &written.applied {
        Some(applied) if !applied.laggards.is_empty() => {
            Err(Failure::unmet(format!("not live on {}", applied.laggards.join(", "))))
        }
        _ => Ok(()),
    }
}

async fn serving(control: &ControlClient, revision: u64) -> Result<Vec<String>, Failure> {
    let mut nodes: Vec<String> = control
        .proxies()
        .await?
        .into_iter()
        .filter(|proxy| proxy.connected && proxy.revision >= revision)
        .map(|proxy| proxy.node)
        .collect();
    nodes.sort();
    Ok(nodes)
}
