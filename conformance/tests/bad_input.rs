//! Starts that must fail, and bodies that are too much. A failed start is one line that names the setting and where its
//! value came from, and exit code 1; a bad command line is exit code 2 (design.md 6).

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::fs;
use std::net::TcpListener;

use conformance::{Cluster, Finished, Launch, Request, get};
use tempfile::TempDir;

/// Holds a failed start to its promise.
#[track_caller]
fn refused(launch: &Launch, words: &[&str]) {
    let Finished { code, stdout, stderr } = launch.finish();
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(!stdout.contains("listening"), "{stdout}");
    let lines: Vec<_> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let [line] = lines.as_slice() else { panic!("not one line: {stderr}") };
    for word in words {
        assert!(line.contains(word), "`{word}` is missing in: {line}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A role that would start on free ports but for what is added.
fn role(role: &str, dir: &TempDir) -> Launch {
    let launch = Launch::a8([role]).flag("data_dir", dir.path());
    match role {
        "proxy" => launch
            .env("A8_HTTP_LISTENER_PORT", "0")
            .env("A8_ADMIN_PORT", "0")
            .env("A8_HTTP_LISTENER_HOST", "127.0.0.1"),
        _ => launch.env("A8_API_PORT", "0").env("A8_API_HOST", "127.0.0.1"),
    }
}

#[test]
fn a_port_in_use_is_named_with_its_origin() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (name, setting, host) in [
        ("registry", "api_port", "api_host"),
        ("control", "api_port", "api_host"),
        ("proxy", "http_listener_port", "http_listener_host"),
        ("proxy", "admin_port", "admin_host"),
    ] {
        let dir = dir();
        let launch = role(name, &dir).flag(setting, &port).flag(host, "127.0.0.1");
        refused(&launch, &[name, setting, "in use", "command line"]);
        let upper = format!("A8_{}", setting.to_uppercase());
        let launch = role(name, &dir).env(&upper, &port).flag(host, "127.0.0.1");
        refused(&launch, &[name, setting, "in use", &upper]);
    }
}

#[test]
fn a_bad_value_is_named_with_its_origin() {
    let dir = dir();
    let cases: &[(&str, &str, &str)] = &[
        ("registry", "auth_mode", "magic"),
        ("registry", "min_ttl", "20m"),
        ("registry", "store", "cloud"),
        ("control", "auth_mode", "magic"),
        ("control", "database_type", "gihanson"),
        ("control", "encryption_key", "short"),
        ("control", "registry_url", "123456"),
        ("proxy", "controller_url", "123456"),
        ("proxy", "proxy_adapter", "nginx"),
    ];
    for (name, setting, value) in cases {
        refused(&role(name, &dir).flag(setting, *value), &[name, setting, "command line"]);
        let upper = format!("A8_{}", setting.to_uppercase());
        refused(&role(name, &dir).env(&upper, *value), &[name, setting, &upper]);
    }
    for name in ["registry", "control", "proxy"] {
        refused(&role(name, &dir).flag("log_level", "loud"), &["log_level", "loud"]);
    }
}

#[test]
fn a_file_is_refused_by_name() {
    let dir = dir();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let missing = dir.path().join("missing.yaml");
    for name in ["registry", "control", "proxy"] {
        refused(&role(name, &dir).flag("config", &missing), &["config", "missing.yaml"]);
        refused(&role(name, &dir).env("A8_CONFIG", &missing), &["config", "missing.yaml"]);
        let odd = file("odd.yaml", "colour: red\n");
        refused(&role(name, &dir).flag("config", odd), &["colour", "odd.yaml"]);
        let broken = file("broken.yaml", "a: [\n");
        refused(&role(name, &dir).flag("config", broken), &["broken.yaml"]);
    }
    let bad = file("bad.yaml", "auth_mode: magic\n");
    refused(&role("registry", &dir).flag("config", bad), &["auth_mode", "bad.yaml"]);
}

#[test]
fn a_bad_command_line_is_two() {
    for words in [vec!["registry", "--colour", "red"], vec!["nonsense"], vec![]] {
        let finished = Launch::a8(words.clone()).finish();
        assert_eq!(finished.code, Some(2), "{words:?}: {finished:?}");
    }
}

#[test]
fn a_data_directory_serves_one_process_at_a_time() {
    for name in ["registry", "control", "proxy"] {
        let dir = dir();
        let first = role(name, &dir).start(name);
        refused(&role(name, &dir), &[name, "data_dir", "in use"]);
        drop(first);
        // And the next one after it.
        let _next = role(name, &dir).start(name);
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let dir = dir();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for name in ["registry", "control", "proxy"] {
        let launch = Launch::a8([name]).flag("data_dir", file.join("below"));
        let launch =
            launch.env("A8_API_PORT", "0").env("A8_HTTP_LISTENER_PORT", "0").env("A8_ADMIN_PORT", "0");
        refused(&launch, &[name, "data_dir"]);
    }
}

#[test]
fn a_rule_store_that_is_damaged_is_named_and_left_alone() {
    let dir = dir();
    drop(role("control", &dir).start("control"));
    let store = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path());
    let store = store.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::write(&store, "this is no database").unwrap();
    refused(&role("control", &dir), &["control", "data_dir"]);
    assert_eq!(fs::read_to_string(&store).unwrap(), "this is no database");
}

#[test]
fn bodies_beyond_a_mebibyte_are_refused_with_413() {
    let cluster = Cluster::start();
    let large = vec![b' '; (1 << 20) + 1];
    for (at, target) in
        [(cluster.registry.address(), "/api/v1/instances"), (cluster.control.address(), "/v1/rules")]
    {
        let request = |body: Vec<u8>| {
            Request::new("POST", target).header("Content-Type", "application/json").body(body)
        };
        let answer = request(large.clone()).call(at).expect(413);
        assert!(answer.json()["Error"].as_str().is_some_and(|text| !text.is_empty()), "{answer:?}");
        let _ = request(vec![b' '; 1 << 20]).call(at).expect(400);
        let _ = get("/").send(at).expect("it is still there");
    }
}

#[test]
fn noise_on_any_port_ends_nothing() {
    use conformance::caller::Connection;
    let cluster = Cluster::start();
    let proxy = cluster.proxy("gateway");
    let ports = [cluster.registry.address(), cluster.control.address(), proxy.http, proxy.admin];
    let noise: Vec<Vec<u8>> = vec![
        vec![],
        vec![0; 4096],
        (0..=255).cycle().take(20_000).collect(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\xff\x04\x00\x00\x00\x00\x01".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST /v1/rules HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        [b"GET /".to_vec(), vec![b'%'; 30_000], b" HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()].concat(),
    ];
    for at in ports {
        for bytes in &noise {
            let mut connection = Connection::open(at).unwrap();
            let _ = connection.write(bytes);
            let _ = connection.finish_writing();
            let _ = connection.answer("GET");
        }
    }
    assert_eq!(get("/").call(cluster.registry.address()).status, 200);
    assert_eq!(get("/health").call(cluster.control.address()).status, 200);
    assert_eq!(proxy.admin("/health").status, 200);
    proxy.get("/nobody/x").expect_refusal(404, "unknown_service");
    for said in [&cluster.registry.process, &cluster.control.process].into_iter().flatten() {
        assert!(!said.stderr().contains("panicked"), "{}", said.stderr());
    }
    assert!(!proxy.process.stderr().contains("panicked"), "{}", proxy.process.stderr());
}
