//! Finds the program under test: `A8_BIN`, else `a8` in the target directory of the running test. It builds the program
//! only when there is none, because a test run that starts with a build has a second build system.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of `a8`. The first call of all test processes builds it when it is missing; the others wait.
///
/// # Panics
/// When it can neither be found nor built: no test can say anything then.
pub fn a8() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| match env::var_os("A8_BIN") {
        Some(path) => fs::canonicalize(&path)
            .unwrap_or_else(|error| panic!("A8_BIN={}: {error}", path.to_string_lossy())),
        None => beside_this_executable(),
    })
}

fn beside_this_executable() -> PathBuf {
    let this = env::current_exe().expect("the running executable has a path");
    let parent = this.parent().expect("an executable lies in a directory");
    let dir = if parent.ends_with("deps") { parent.parent().unwrap_or(parent) } else { parent };
    let program = dir.join("a8");
    if !program.exists() {
        build(dir);
    }
    assert!(program.exists(), "no program at {}; run `cargo build -p cli` first", program.display());
    program
}

fn build(dir: &Path) {
    let lock = File::create(dir.join(".conformance-builds-a8")).expect("the target directory is writable");
    lock.lock().expect("locks work in the target directory");
    if dir.join("a8").exists() {
        return;
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "cli"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "cargo build -p cli failed: {status}");
}
