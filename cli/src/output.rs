//! The one place that writes to standard output and standard error. A reader that went away is no error:
//! `a8 rule list | head -1` ends quietly.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::exit::Failure;

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Writes text and a line end, and flushes.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    quiet_when_closed(write(io::stdout().lock(), text, "\n"))
}

/// Writes text as it is.
pub(crate) fn raw(text: &str) -> Result<(), Failure> {
    quiet_when_closed(write(io::stdout().lock(), text, ""))
}

/// Writes a line for the operator to standard error. Nothing can be done when that fails.
pub(crate) fn complain(text: &str) {
    let _ = write(io::stderr().lock(), text, "\n");
}

/// Shows a value in the asked form; `table` is only called for a table.
pub(crate) fn show<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match format {
        Format::Table => raw(&table()),
        Format::Json => line(&serde_json::to_string_pretty(value).map_err(Failure::new)?),
        Format::Yaml => raw(&serde_yaml_ng::to_string(value).map_err(Failure::new)?),
    }
}

fn write(mut to: impl Write, text: &str, end: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.write_all(end.as_bytes())?;
    to.flush()
}

fn quiet_when_closed(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}
