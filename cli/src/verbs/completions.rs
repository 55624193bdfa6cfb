//! `a8 completions <shell>`: a completion script on standard output.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::Failure;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct CompletionsVerb {
    /// The shell to write for.
    shell: Shell,
}

/// Performs the verb.
pub(crate) fn run(verb: &CompletionsVerb, mut program: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(verb.shell, &mut program, "a8", &mut script);
    output::raw(&String::from_utf8_lossy(&script))
}
