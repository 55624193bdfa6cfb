//! The command line as users meet it: help, version, completions, spelling, and how a wrong one ends.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::process::Stdio;

use support::{a8, run};

#[test]
fn every_verb_has_a_help_text() {
    let all = run(&["--help"]);
    assert_eq!(all.status, 0);
    for verb in [
        "registry",
        "control",
        "proxy",
        "up",
        "rule",
        "services",
        "instances",
        "proxies",
        "explain",
        "faults",
        "version",
        "completions",
    ] {
        assert!(all.stdout.contains(&format!("\n  {verb} ")), "{verb} is listed in {}", all.stdout);
        let help = run(&[verb, "--help"]);
        assert_eq!((help.status, help.stderr.as_str()), (0, ""), "{verb}");
        assert!(help.stdout.contains("Usage: a8 "), "{verb}");
    }
    for verb in ["create", "list", "get", "update", "delete"] {
        let help = run(&["rule", verb, "--help"]);
        assert_eq!(help.status, 0, "{verb}");
        assert!(help.stdout.contains(&format!("Usage: a8 rule {verb}")), "{verb}");
    }
    // The application's servers are not a user's business.
    assert!(!all.stdout.contains("\n  demo"));
}

#[test]
fn exit_statuses_are_documented_where_they_differ() {
    assert!(run(&["rule", "--help"]).stdout.contains("Exit status: 0 done; 1 wrong usage"));
    assert!(run(&["registry", "--help"]).stdout.contains("Exit status: 1 when a value cannot be used"));
}

#[test]
fn the_version_names_the_roles_of_the_build() {
    let version = run(&["version"]);
    assert_eq!(version.stdout, format!("a8 {} (registry, control, proxy, up)\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run(&["--version"]).stdout, format!("a8 {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_exist_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert_eq!(script.status, 0, "{shell}");
        assert!(script.stdout.contains("explain") && script.stdout.contains("controller_url"), "{shell}");
    }
}

#[test]
fn a_command_line_that_cannot_be_read_ends_with_its_own_status() {
    for (args, status, text) in [
        (vec![], 2, "Usage: a8"),
        (vec!["fly"], 2, "unrecognized subcommand 'fly'"),
        (vec!["registry", "--no_such_flag"], 2, "unexpected argument '--no_such_flag'"),
        (vec!["up", "--ports"], 1, "a8 up: ports: ``: "),
        (vec!["up", "--ports", "many"], 1, "a8 up: ports: `many`: expected one of default, free"),
        // An operator's verb keeps 2 for servers that cannot be reached.
        (vec!["rule", "list", "--no_such_flag"], 1, "unexpected argument '--no_such_flag'"),
        (vec!["services", "-o", "xml"], 1, "invalid value 'xml'"),
        (vec!["completions", "ksh"], 1, "invalid value 'ksh'"),
        (vec!["explain"], 1, "required arguments were not provided"),
    ] {
        let ran = run(&args);
        assert_eq!(ran.status, status, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(text), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
    }
}

#[test]
fn the_operators_addresses_may_stand_before_the_verb() {
    for args in [
        ["--controller_url", "http://127.0.0.1:1", "rule", "list"],
        ["-controller-url", "http://127.0.0.1:1", "rule", "list"],
        ["rule", "--controller-url", "http://127.0.0.1:1", "list"],
        ["rule", "list", "--controller_url", "http://127.0.0.1:1"],
    ] {
        let ran = run(&args);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with("a8 rule: cannot reach http://127.0.0.1:1"),
            "{args:?}: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child =
        a8().args(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
