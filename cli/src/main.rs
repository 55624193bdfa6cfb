//! The program `a8`: three roles, a demonstration, and the operator's verbs. Here it is only decided which
//! verb runs and how the process ends.

mod allocator;
mod argv;
#[cfg(feature = "up")]
mod bookinfo;
mod client;
mod config_file;
mod exit;
mod layers;
mod logging;
mod output;
mod role;
mod rule_file;
mod rule_text;
mod table;
#[cfg(feature = "up")]
mod up;
mod verbs;

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::layers::Unparsed;

fn main() -> ExitCode {
    match verbs::run(std::env::args_os().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Unparsed::Refused(failure)) => {
            output::complain(&failure.line);
            ExitCode::from(failure.status)
        }
        Err(Unparsed::Clap(error, status)) => {
            // Nothing can be done when even this cannot be written.
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            if asked_for { ExitCode::SUCCESS } else { ExitCode::from(status) }
        }
    }
}
