//! SIGHUP: whoever rotates the access log gets a new file, and the proxy stays. Alone in its process, since
//! the signal is the process's.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::time::Duration;

use clap::Parser;
use proxy::background::Background;
use proxy::config::{ACCESS_LOG_FILE, Settings};
use proxy::live::Live;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = proxy::clock::now() + Duration::from_secs(20);
    while !holds() {
        assert!(proxy::clock::now() < deadline, "never came true: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_hangup_reopens_the_access_log() {
    let dir = tempfile::tempdir().unwrap();
    // Bound and never listening: a port that refuses, and that nobody else gets.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let nobody = held.local_addr().unwrap();
    let flags = [
        "a8".to_owned(),
        format!("--data_dir={}", dir.path().display()),
        format!("--controller_url=http://{nobody}"),
    ];
    let config = Line::try_parse_from(flags).unwrap().settings.check().unwrap();
    let live = Live::open(&config, proxy::clock::now()).unwrap();
    let _background = Background::start(&config, config.node(config.http), &live).unwrap();
    // A poll that failed comes after the signal is listened for: both begin in the same breath.
    until("the background runs", || live.status.seen().error.is_some());

    let (log, moved) = (dir.path().join(ACCESS_LOG_FILE), dir.path().join("rotated"));
    for _ in 0..2 {
        std::fs::rename(&log, &moved).unwrap();
        let pid = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        until("there is a new file", || log.exists());
    }
}
