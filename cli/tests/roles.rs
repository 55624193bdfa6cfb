//! The life of a role: where it says it listens, and that it ends when told, by whichever way.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;
use support::{Role, a8};

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
