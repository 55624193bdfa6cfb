//! `a8 version`: the version, and which roles this build can run.

use crate::exit::Failure;
use crate::output;

/// Performs the verb.
pub(crate) fn run() -> Result<(), Failure> {
    let roles = [
        ("registry", cfg!(feature = "registry")),
        ("control", cfg!(feature = "control")),
        ("proxy", cfg!(feature = "proxy")),
        ("up", cfg!(feature = "up")),
    ];
    let built: Vec<&str> = roles.into_iter().filter_map(|(role, there)| there.then_some(role)).collect();
    output::line(&format!("a8 {} ({})", env!("CARGO_PKG_VERSION"), built.join(", ")))
}
