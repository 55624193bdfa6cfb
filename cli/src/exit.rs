//! How the program ends when it does not end well: one line and a status. Which status means what is
//! decided here and nowhere else.

use std::fmt;

use registry_api::client::{BadUrl, CallError};

/// One line for the operator, and the exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) line: String,
}

/// A role that does not start, a file that cannot be used, a wrong call of an operator's verb.
pub(crate) const FAILED: u8 = 1;
/// A command line that cannot be read; for an operator's verb: the server cannot be reached.
pub(crate) const BAD_COMMAND_LINE: u8 = 2;
const UNREACHABLE: u8 = 2;
const REFUSED: u8 = 3;
const UNMET: u8 = 4;

/// The statuses of the operator's verbs, for their help.
pub(crate) const STATUSES_HELP: &str = "Exit status: 0 done; 1 wrong usage or an unusable file; 2 the server \
cannot be reached; 3 the server refused; 4 done, but not live everywhere when the wait ended.";

impl Failure {
    /// Status 1.
    pub(crate) fn new(line: impl fmt::Display) -> Self {
        Self { status: FAILED, line: line.to_string() }
    }

    /// Status 4: accepted, but what was waited for did not come.
    pub(crate) fn unmet(line: impl fmt::Display) -> Self {
        Self { status: UNMET, line: line.to_string() }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let status = match &error {
            CallError::Unreachable { .. } => UNREACHABLE,
            CallError::Refused { .. } | CallError::Garbled { .. } => REFUSED,
        };
        Self { status, line: error.to_string() }
    }
}

impl From<BadUrl> for Failure {
    fn from(error: BadUrl) -> Self {
        Self::new(error)
    }
}
