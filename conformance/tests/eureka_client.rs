//! A client that others wrote lives through its whole life against the registry (spec/registry.md 3.18). What it does is
//! in `eureka_client.py`; without Python and the package the test says so and is passed over, unless it is required.

use std::io::Write;
use std::process::Command;

use conformance::Registry;

/// What `TEST_REQUIRE` and the package registry call it.
const PACKAGE: &str = "py-eureka-client";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/eureka_client.py");

fn is_here() -> bool {
    let found = Command::new("python3").args(["-c", "import py_eureka_client"]).output();
    found.is_ok_and(|found| found.status.success())
}

#[test]
fn section_3_18_an_unmodified_python_client_lives_its_whole_life() {
    if !is_here() {
        let required = std::env::var("TEST_REQUIRE").unwrap_or_default();
        let required = required.split(',').any(|name| name == PACKAGE);
        assert!(!required, "TEST_REQUIRE names {PACKAGE}, which is not here");
        writeln!(std::io::stderr(), "passed over: python3 with {PACKAGE} is not here").unwrap();
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(home.path(), &[]);
    let done = Command::new("python3").arg(SCRIPT).arg(registry.address().to_string()).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && said.ends_with("done\n"), "{said}\n{complained}");
}
