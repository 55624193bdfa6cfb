//! The life of a role: where it says it listens, and that it ends when told, by whichever way.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::Value;
use support::{PATIENCE, Role, a8};

fn roles(folder: &std::path::Path) -> Vec<(Vec<String>, &'static str, Vec<&'static str>)> {
    let dir = |name: &str| format!("--data_dir={}", folder.join(name).display());
    let nowhere = "http://127.0.0.1:1";
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        (words(&["registry", "--api_port=0", &dir("registry")]), "registry", vec!["api"]),
        (
            words(&["control", "--api_port=0", &dir("control"), "--registry_url", nowhere]),
            "control",
            vec!["api"],
        ),
        (
            words(&[
                "proxy",
                "--http_listener_port=0",
                "--admin_port=0",
                &dir("proxy"),
                "--controller_url",
                nowhere,
            ]),
            "proxy",
            vec!["http", "admin"],
        ),
        (words(&["demo", "ratings", "--port=0", "--registry_url", nowhere]), "ratings", vec!["http"]),
    ]
}

fn start(args: &[String]) -> Role {
    Role::start(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn every_role_says_where_it_listens_and_ends_well_on_signals_and_when_orphaned() {
    type End = fn(Role) -> i32;
    let ends: [(&str, End); 3] = [
        ("SIGTERM", |role| role.signal("-TERM")),
        ("SIGINT", |role| role.signal("-INT")),
        ("a parent that is gone", Role::orphan),
    ];
    for (how, end) in ends {
        let folder = tempfile::tempdir().unwrap();
        for (args, name, listeners) in roles(folder.path()) {
            let role = start(&args);
            assert!(role.line().starts_with(&format!("listening role={name} ")), "{}", role.line());
            for listener in listeners {
                assert!(role.port(listener) > 0, "{}", role.line());
            }
            assert_eq!(end(role), 0, "{name} on {how}");
        }
    }
}

/// The first message of a server that cannot reach its registry.
fn first_message(format: &str) -> String {
    let mut command = a8();
    command.args([
        "demo",
        "ratings",
        "--port",
        "0",
        "--registry_url",
        "http://127.0.0.1:1",
        "--log_format",
        format,
    ]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    line
}

#[test]
fn a_reader_of_messages_that_is_stuck_stops_no_role() {
    let data = tempfile::tempdir().unwrap();
    let mut command = a8();
    command.args(["registry", "--api_host=127.0.0.1", "--api_port=0", "--log_level=debug", "--data_dir"]);
    command.arg(data.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit_once('=').unwrap().1.to_owned();
    // More messages than a pipe holds, and nobody reads them.
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    for number in 0..2_000 {
        stream.write_all(b"GET /api/v1/services HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut bytes = 0;
        loop {
            let mut line = String::new();
            answers.read_line(&mut line).unwrap_or_else(|error| panic!("request {number}: {error}"));
            let line = line.to_ascii_lowercase();
            if let Some(length) = line.strip_prefix("content-length:") {
                bytes = length.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        answers.read_exact(&mut vec![0; bytes]).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn messages_have_the_asked_form() {
    let text = first_message("text");
    assert!(
        text.starts_with("time=")
            && text.contains(" level=warn msg=\"cannot register or renew\" ")
            && text.contains(" service=ratings"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&first_message("json")).unwrap();
    assert_eq!((&json["level"], &json["service"]), (&"warn".into(), &"ratings".into()), "{json}");
    assert_eq!(json["msg"], "cannot register or renew", "{json}");
    assert!(json["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{json}");
    let logstash: Value = serde_json::from_str(&first_message("logstash")).unwrap();
    assert_eq!(logstash["@version"], "1", "{logstash}");
    assert_eq!(logstash["message"], "cannot register or renew", "{logstash}");
    assert_eq!(logstash["logger_name"], "a8::bookinfo::lease", "{logstash}");
    assert!(logstash["@timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{logstash}");
}
