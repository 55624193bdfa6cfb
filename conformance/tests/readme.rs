//! The README's session, run as it stands: every `sh` block in order, against a fabric on free ports. The ports and the
//! program are put in place of those a newcomer would have; nothing else is changed.

use std::process::Command;
use std::time::Duration;

use conformance::eventually::within;
use conformance::process::{Launch, Process};
use conformance::program;

const README: &str = include_str!("../../README.md");
/// Thirteen processes on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What a role says about itself on the screen, as in `gateway  admin 127.0.0.1:1  http 127.0.0.1:2  pid 3`.
fn address(screen: &str, role: &str, name: &str) -> Option<String> {
    let line = screen.lines().find(|line| line.split_whitespace().next() == Some(role))?;
    let mut words = line.split_whitespace();
    words.find(|word| *word == name)?;
    words.next().map(str::to_owned)
}

fn fabric() -> (Process, String) {
    let up = Launch::a8(["up", "--ports", "free"]).spawn("up");
    let screen = within(START_PATIENCE, "the screen of `a8 up`", || {
        let screen = up.stdout();
        if screen.contains("Every rule change") {
            Ok(screen)
        } else {
            Err(format!("{screen}{}", up.stderr()))
        }
    });
    (up, screen)
}

fn blocks() -> impl Iterator<Item = &'static str> {
    README.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a split has a first part"))
}

fn run(block: &str) -> String {
    let done = Command::new("sh").args(["-c", block]).output().expect("there is a shell");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{block}\n{text}{}", String::from_utf8_lossy(&done.stderr));
    text
}

/// The README's own output after the block that holds `command`, blanks at the ends of lines aside.
fn shown(command: &str) -> Vec<&'static str> {
    let after = README.split("```\n").skip_while(|part| !part.contains(command)).nth(1);
    let after = after.expect("text follows every block");
    after
        .lines()
        .map_while(|line| (line.is_empty() || line.starts_with("    ")).then_some(line.trim()))
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn the_session_of_the_readme_runs_and_prints_what_it_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        let required = std::env::var("TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "curl"),
            "TEST_REQUIRE names curl, which is not here"
        );
        return;
    }
    let (mut up, screen) = fabric();
    let place = |role: &str, name: &str| address(&screen, role, name).unwrap();
    let (control, http, admin) =
        (place("control", "api"), place("gateway", "http"), place("gateway", "admin"));
    let a8 = format!("{} explain --admin_url http://{admin}", program::a8().display());
    let outputs: Vec<String> = blocks()
        .map(|block| {
            let block = block.replace("localhost:8081", &control).replace("localhost:6379", &http);
            run(&block.replace("localhost:6380", &admin).replace("cargo run -q -- explain", &a8))
        })
        .collect();
    let [written, split, fate, why, metrics] = &outputs[..] else { panic!("{} blocks", outputs.len()) };

    assert_eq!([written.as_str()], *shown("/v1/rules"));
    let count = |version: &str| -> u32 {
        let line = split.lines().find(|line| line.contains(version)).unwrap_or("0");
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    // Four standard deviations of 200 draws at a quarter.
    assert!((26..=74).contains(&count("v1")) && count("v1") + count("v3") == 200, "{split}");
    for line in shown("X-Request-ID") {
        assert!(fate.contains(line), "`{line}` is not in\n{fate}");
    }
    for line in shown("--request-id").into_iter().filter(|line| !line.starts_with("round_robin")) {
        assert!(why.contains(line), "`{line}` is not in\n{why}");
    }
    for line in shown("localhost:6380/metrics") {
        let series = line.rsplit_once(' ').unwrap().0;
        assert!(metrics.contains(series), "`{series}` is not in\n{metrics}");
    }
    assert_eq!(up.terminate().code, Some(0));
}
