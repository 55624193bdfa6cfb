//! The verbs of the program, one file each, and the choice between them.

use std::ffi::OsString;

use clap::{Command, FromArgMatches, Subcommand};

use crate::argv;
use crate::exit::{BAD_COMMAND_LINE, FAILED, Failure, STATUSES_HELP};
use crate::layers::Unparsed;
use crate::role;

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

/// The whole command line as this build offers it.
pub(crate) fn program() -> Command {
    let program = Command::new("a8")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A microservices fabric in one program: registry, control and proxy")
        .subcommand_required(true)
        .arg_required_else_help(true);
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

/// Performs what a normalised command line asks for.
pub(crate) fn run(argv: &[OsString]) -> Result<(), Unparsed> {
    let program = program();
    match argv::verb(argv, &program) {
        #[cfg(feature = "registry")]
        Some("registry") => role::start::<registry::Registry>(&program, argv),
        #[cfg(feature = "control")]
        Some("control") => role::start::<control::Control>(&program, argv),
        #[cfg(feature = "proxy")]
        Some("proxy") => role::start::<proxy::Proxy>(&program, argv),
        #[cfg(feature = "up")]
        Some("up") => role::start::<crate::up::Up>(&program, argv),
        #[cfg(feature = "up")]
        Some("demo") => role::start::<crate::bookinfo::Demo>(&program, argv),
        verb => operator(program.clone(), argv, if verb.is_some() { FAILED } else { BAD_COMMAND_LINE }),
    }
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
