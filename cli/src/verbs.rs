//! The verbs of the program, one file each, and the choice between them.

use std::ffi::OsString;

use clap::{Command, FromArgMatches, Subcommand};

use crate::argv;
use crate::exit::{BAD_COMMAND_LINE, FAILED, Failure, STATUSES_HELP};
use crate::layers::Unparsed;
use crate::role::{self, Role};

mod completions;
#[cfg(feature = "control")]
mod control;
mod explain;
mod faults;
mod instances;
mod proxies;
#[cfg(feature = "proxy")]
mod proxy;
#[cfg(feature = "registry")]
mod registry;
mod rule;
mod services;
mod version;

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create, list, show, replace and delete rules.
    #[command(after_help = STATUSES_HELP)]
    Rule(rule::RuleVerb),
    /// List services and their versions.
    #[command(after_help = STATUSES_HELP)]
    Services(services::ServicesVerb),
    /// List instances.
    #[command(after_help = STATUSES_HELP)]
    Instances(instances::InstancesVerb),
    /// List proxies, what they serve and how far behind they are.
    #[command(after_help = STATUSES_HELP)]
    Proxies(proxies::ProxiesVerb),
    /// Show whether faults happen; `off` ends every one of the namespace at once, `on` lets them happen again.
    #[command(after_help = STATUSES_HELP)]
    Faults(faults::FaultsVerb),
    /// Ask a proxy what it would do with a request, and why.
    #[command(after_help = STATUSES_HELP)]
    Explain(explain::ExplainVerb),
    /// Print the version and the roles of this build.
    Version,
    /// Print a completion script.
    Completions(completions::CompletionsVerb),
}

/// What a command line asks for.
type Work = Box<dyn FnOnce() -> Result<(), Unparsed>>;

/// Performs what a command line asks for.
pub(crate) fn run(argv: Vec<OsString>) -> Result<(), Unparsed> {
    // Nothing of what it took to read the command line is held while a role runs.
    let work = read(argv)?;
    work()
}

fn read(argv: Vec<OsString>) -> Result<Work, Unparsed> {
    if let Some(work) = of_role(&argv) {
        return work;
    }
    let program = program();
    let argv = argv::normalise(argv, &program);
    // The verb of a role may have stood behind options.
    of_role(&argv).unwrap_or_else(|| {
        let is_known = argv::verb(&argv, &program).is_some();
        let usage_status = if is_known { FAILED } else { BAD_COMMAND_LINE };
        Ok(Box::new(move || operator(program, &argv, usage_status)))
    })
}

/// `None` for an operator's verb, and for none.
fn of_role(argv: &[OsString]) -> Option<Result<Work, Unparsed>> {
    Some(match argv.get(1)?.to_str()? {
        #[cfg(feature = "registry")]
        "registry" => read_role::<registry::Registry>(argv),
        #[cfg(feature = "control")]
        "control" => read_role::<control::Control>(argv),
        #[cfg(feature = "proxy")]
        "proxy" => read_role::<proxy::Proxy>(argv),
        #[cfg(feature = "up")]
        "up" => read_role::<crate::up::Up>(argv),
        #[cfg(feature = "up")]
        "demo" => read_role::<crate::bookinfo::Demo>(argv),
        _ => return None,
    })
}

/// Knows no other verb: what runs for long would pay for the texts of all of them.
fn read_role<R: Role + 'static>(argv: &[OsString]) -> Result<Work, Unparsed> {
    let program = bare().subcommand(role::command::<R>());
    let argv = argv::normalise(argv.to_vec(), &program);
    let ready = role::read::<R>(&program, &argv)?;
    Ok(Box::new(|| ready.run()))
}

fn bare() -> Command {
    Command::new("a8")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A microservices fabric in one program: registry, control and proxy")
        .subcommand_required(true)
        .arg_required_else_help(true)
}

/// The whole command line as this build offers it.
fn program() -> Command {
    let program = bare();
    #[cfg(feature = "registry")]
    let program = program.subcommand(role::command::<registry::Registry>());
    #[cfg(feature = "control")]
    let program = program.subcommand(role::command::<control::Control>());
    #[cfg(feature = "proxy")]
    let program = program.subcommand(role::command::<proxy::Proxy>());
    #[cfg(feature = "up")]
    let program = program
        .subcommand(role::command::<crate::up::Up>())
        .subcommand(role::command::<crate::bookinfo::Demo>().hide(true));
    Verb::augment_subcommands(program)
}

fn operator(program: Command, argv: &[OsString], usage_status: u8) -> Result<(), Unparsed> {
    let unread = |error: clap::Error| Unparsed::Clap(Box::new(error), usage_status);
    let matches = program.clone().try_get_matches_from(argv).map_err(unread)?;
    let verb = Verb::from_arg_matches(&matches).map_err(unread)?;
    let (name, done) = match verb {
        Verb::Rule(verb) => ("rule", rule::run(verb)),
        Verb::Services(verb) => ("services", services::run(verb)),
        Verb::Instances(verb) => ("instances", instances::run(verb)),
        Verb::Proxies(verb) => ("proxies", proxies::run(verb)),
        Verb::Faults(verb) => ("faults", faults::run(&verb)),
        Verb::Explain(verb) => ("explain", explain::run(verb)),
        Verb::Version => ("version", version::run()),
        Verb::Completions(verb) => ("completions", completions::run(&verb, program)),
    };
    done.map_err(|failure| {
        Unparsed::Refused(Failure { line: format!("a8 {name}: {}", failure.line), ..failure })
    })
}
