//! What an operator can see: metrics that count what happened, one log line per request that says the same, and an
//! explanation that agrees with both for the same request id.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::fs;

use conformance::caller::Connection;
use conformance::metrics::Scrape;
use conformance::{Cluster, Origin, Proxy, eventually, get};
use serde_json::{Value, json};

/// The fields of a line in the order of spec 3.8; the two additions of ours come after them.
const FIELDS: &[&str] = &[
    "status",
    "start_time",
    "request_time",
    "upstream_response_time",
    "src",
    "dst",
    "gremlin_recipe_id",
    "message",
    "module",
    "method",
    "path",
    "protocol",
    "response_flags",
    "x_forwarded",
    "user_agent",
    "request_id",
    "auth",
    "upstream_host",
];

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
    v1: Origin,
    v2: Origin,
}

fn scene() -> Scene {
    scene_with(&[])
}

fn scene_with(flags: &[(&str, &str)]) -> Scene {
    let cluster = Cluster::start();
    let (v1, v2) = (Origin::echo("v1"), Origin::echo("v2"));
    cluster.registry.register("reviews", &["version=v1", "zone=a"], v1.address());
    cluster.registry.register("reviews", &["version=v2"], v2.address());
    let proxy = cluster.proxy_with("productpage:version=v1", flags);
    proxy.await_instances(2);
    Scene { cluster, proxy, v1, v2 }
}

fn backends(backends: Value) -> Value {
    json!({"id": "route", "destination": "reviews", "route": {"backends": backends}})
}

#[test]
fn each_request_is_counted_once_under_its_service_backend_rule_and_code() {
    let scene = scene();
    scene.cluster.control.write(json!([
        backends(json!([{"tags": ["zone=a", "version=v1"]}])),
        {"id": "act", "destination": "reviews", "match": {"headers": {"X-Fail": "yes"}},
         "actions": [{"action": "abort", "return_code": 418}]},
    ]));
    for _ in 0..7 {
        scene.proxy.get("/reviews/x").by();
    }
    for _ in 0..3 {
        assert_eq!(get("/reviews/x").header("X-Fail", "yes").call(scene.proxy.http).status, 418);
    }
    for _ in 0..2 {
        assert_eq!(scene.proxy.get("/nobody/x").status, 404);
    }
    let count = |labels: &[&str]| scene.proxy.metrics().sum("a8_proxy_requests_total", labels);
    // A request is counted when it has been logged, which may be a moment after its answer.
    eventually("all twelve are counted", || match count(&[]) {
        12.0 => Ok(()),
        other => Err(other),
    });
    let own = [r#"service="reviews""#, r#"backend="version=v1,zone=a""#, r#"rule="route""#];
    assert_eq!(count(&[&own[..], &[r#"code="200""#]].concat()), 7.0);
    assert_eq!(count(&[&own[..], &[r#"code="418""#]].concat()), 3.0);
    assert_eq!(count(&[r#"code="404""#]), 2.0);
    let metrics = scene.proxy.metrics();
    assert_eq!(
        metrics.labels("a8_proxy_requests_total").into_iter().collect::<Vec<_>>(),
        ["backend", "code", "rule", "service"]
    );
    assert_eq!(metrics.sum("a8_proxy_faults_total", &[r#"service="reviews""#, r#"action="abort""#]), 3.0);
    assert_eq!(metrics.sum("a8_proxy_request_duration_seconds_count", &[r#"service="reviews""#]), 10.0);
    assert_eq!(metrics.sum("a8_proxy_instances", &[r#"service="reviews""#]), 2.0);
    for (name, kind) in [
        ("a8_proxy_requests_total", "counter"),
        ("a8_proxy_request_duration_seconds", "histogram"),
        ("a8_proxy_faults_total", "counter"),
        ("a8_proxy_instances", "gauge"),
        ("a8_proxy_active_connections", "gauge"),
        ("a8_control_last_success_timestamp_seconds", "gauge"),
    ] {
        assert_eq!(metrics.types.get(name).map(String::as_str), Some(kind), "{name}");
    }
    for source in [r#"source="rules""#, r#"source="discovery""#] {
        assert!(metrics.sum("a8_control_last_success_timestamp_seconds", &[source]) > 1.6e9, "{source}");
    }
    let page = scene.proxy.admin("/metrics");
    assert!(page.header("Content-Type").starts_with("text/plain; version=0.0.4"), "{page:?}");
}

#[test]
fn strangers_cannot_make_the_metrics_grow() {
    let scene = scene();
    scene.proxy.get("/warm/up");
    let before = scene.proxy.metrics().series.len();
    for number in 0..200 {
        assert_eq!(scene.proxy.get(&format!("/stranger-{number}/{number}")).status, 404);
    }
    let after = scene.proxy.metrics().series.len();
    // The first unknown service may have brought a few series of its own; the others bring none.
    assert!(after <= before + 20, "{before} series became {after}");
}

#[test]
fn open_connections_are_counted() {
    let scene = scene();
    let open = |proxy: &Proxy| proxy.metrics().sum("a8_proxy_active_connections", &[]);
    let held: Vec<_> = (0..5)
        .map(|_| {
            let mut connection = Connection::open(scene.proxy.http).unwrap();
            connection.send(&get("/reviews/x")).unwrap();
            connection.answer("GET").unwrap();
            connection
        })
        .collect();
    eventually("five are open", || if open(&scene.proxy) == 5.0 { Ok(()) } else { Err(open(&scene.proxy)) });
    drop(held);
    eventually("none is open", || if open(&scene.proxy) == 0.0 { Ok(()) } else { Err(open(&scene.proxy)) });
}

#[test]
fn without_an_access_log_requests_are_still_counted() {
    let scene = scene_with(&[("access_log", "off")]);
    let _ = get("/reviews/a").call(scene.proxy.http).expect(200);
    eventually("the request is counted", || {
        match scene.proxy.metrics().sum("a8_proxy_requests_total", &[]) {
            1.0 => Ok(()),
            other => Err(other),
        }
    });
    assert!(!scene.proxy.data_dir().join("a8_access.log").exists());
}

#[test]
fn a_line_of_the_access_log_says_what_happened_in_the_fields_of_the_spec() {
    let scene = scene();
    scene.cluster.control.write(json!([backends(json!([{"tags": ["version=v1"]}]))]));
    let odd = "agent \"7\"\\\t";
    let request = get("/reviews/a/b?c=%22d")
        .header("X-Request-Id", "line-1")
        .header("User-Agent", odd.trim())
        .header("Host", "shop.example:6379")
        .header("X-Forwarded-For", "203.0.113.9");
    let _ = request.call(scene.proxy.http).expect(200);
    let line = scene.proxy.logged("line-1");
    for (field, expected) in [
        ("status", json!("200")),
        ("src", json!("productpage:version=v1")),
        ("dst", json!("reviews:version=v1")),
        ("gremlin_recipe_id", json!("-")),
        ("method", json!("GET")),
        ("path", json!("/reviews/a/b?c=%22d")),
        ("message", json!("GET /reviews/a/b?c=%22d 200")),
        ("protocol", json!("HTTP/1.1")),
        ("response_flags", json!("-")),
        ("user_agent", json!(odd.trim())),
        ("request_id", json!("line-1")),
        ("auth", json!("shop.example:6379")),
        ("upstream_host", json!(scene.v1.address().to_string())),
    ] {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    assert!(
        line["request_time"].is_number() && line["timestamp_ms"].as_u64().unwrap() > 1_600_000_000_000,
        "{line}"
    );
    assert!(line["upstream_response_time"].as_str().unwrap().parse::<f64>().is_ok(), "{line}");
    assert!(line["upstream_response_time_s"].is_number(), "{line}");
    assert!(line["start_time"].as_str().unwrap().ends_with('Z'), "{line}");
    assert!(line["x_forwarded"].as_str().unwrap().starts_with("203.0.113.9"), "{line}");

    // The order is that of the spec: people read these lines, and old shippers parse them by position.
    let text = fs::read_to_string(scene.proxy.data_dir().join("a8_access.log")).unwrap();
    let raw = text.lines().find(|line| line.contains("line-1")).unwrap();
    let places: Vec<_> = FIELDS
        .iter()
        .map(|field| raw.find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("no {field}: {raw}")))
        .collect();
    assert!(places.is_sorted(), "{raw}");
}

#[test]
fn refusals_and_faults_leave_their_flags_in_the_log() {
    let scene = scene();
    scene.cluster.registry.register("dead", &[], conformance::origin::REFUSING);
    scene.proxy.await_instances(3);
    scene.cluster.control.write(json!([
        {"id": "none", "destination": "empty", "route": {"backends": [{"tags": ["x"]}]}},
        {"id": "slow", "destination": "reviews", "match": {"headers": {"X-F": "delay"}}, "actions": [{"action": "delay", "duration": 0.05}]},
        {"id": "fail", "destination": "reviews", "match": {"headers": {"X-F": "abort"}}, "actions": [{"action": "abort", "return_code": 500}]},
    ]));
    for (id, target, fault, status, flag) in [
        ("f-nr", "/stranger/x", "", "404", "NR"),
        ("f-uh", "/empty/x", "", "503", "UH"),
        ("f-uf", "/dead/x", "", "503", "UF"),
        ("f-di", "/reviews/x", "delay", "200", "DI"),
        ("f-fi", "/reviews/x", "abort", "500", "FI"),
    ] {
        get(target).header("X-Request-Id", id).header("X-F", fault).call(scene.proxy.http);
        let line = scene.proxy.logged(id);
        assert_eq!(line["status"], status, "{line}");
        let flags: Vec<_> = line["response_flags"].as_str().unwrap().split(',').collect();
        assert!(flags.contains(&flag), "{flag}: {line}");
    }
}

#[test]
fn the_log_is_reopened_on_hangup() {
    let scene = scene();
    let path = scene.proxy.data_dir().join("a8_access.log");
    assert_eq!(get("/reviews/x").header("X-Request-Id", "before").call(scene.proxy.http).status, 200);
    scene.proxy.logged("before");
    let rotated = path.with_extension("old");
    fs::rename(&path, &rotated).unwrap();
    scene.proxy.process.signal("HUP");
    eventually("a new file is written", || {
        assert_eq!(get("/reviews/x").header("X-Request-Id", "after").call(scene.proxy.http).status, 200);
        if path.exists() { Ok(()) } else { Err("not yet") }
    });
    scene.proxy.logged("after");
    assert!(fs::read_to_string(rotated).unwrap().contains("before"));
}

#[test]
fn an_explanation_agrees_with_what_happens_to_the_same_request_id() {
    let scene = scene();
    scene.cluster.control.write(json!([
        {"id": "jason", "priority": 2, "destination": "reviews", "match": {"headers": {"Cookie": "^(.*?;)?(user=jason)(;.*)?$"}},
         "route": {"backends": [{"tags": ["version=v2"]}]}},
        {"id": "split", "priority": 1, "destination": "reviews", "route": {"backends": [
            {"tags": ["version=v2"], "weight": 0.5}, {"tags": ["version=v1"]}]}},
        {"id": "fault", "destination": "reviews", "actions": [
            {"action": "abort", "return_code": 418, "probability": 0.5, "tags": ["version=v1"]}]},
    ]));
    let mut fates = std::collections::BTreeSet::new();
    for number in 0..40 {
        let id = format!("explain-{number}");
        let explained =
            scene.proxy.admin(&format!("/explain?path=/reviews/x&method=GET&request_id={id}")).expect(200);
        let answer = get("/reviews/x").header("X-Request-Id", &id).call(scene.proxy.http);
        let (fate, words): (_, Vec<&str>) = match answer.status {
            418 => ("abort", vec!["418", "version=v1", "split"]),
            _ if answer.by() == "v1" => ("v1", vec!["version=v1", "split"]),
            _ => ("v2", vec!["version=v2", "split"]),
        };
        fates.insert(fate);
        for word in words {
            assert!(explained.text().contains(word), "{id} was {fate}, but: {}", explained.text());
        }
        assert_eq!(outcome_of(&explained.json()), fate, "{}", explained.text());
    }
    assert_eq!(fates.into_iter().collect::<Vec<_>>(), ["abort", "v1", "v2"]);
    let jason = "/explain?path=/reviews/x&method=GET&header=Cookie:user%3Djason&request_id=j";
    let explained = scene.proxy.admin(jason).expect(200);
    assert!(
        explained.text().contains("jason") && outcome_of(&explained.json()) == "v2",
        "{}",
        explained.text()
    );
    let stranger = scene.proxy.admin("/explain?path=/stranger/x").expect(200);
    assert!(stranger.text().contains("unknown_service"), "{}", stranger.text());
    assert_eq!(scene.proxy.metrics().sum("a8_proxy_requests_total", &[]), 40.0, "explaining is no request");
    assert!(scene.v1.count() + scene.v2.count() <= 40);
}

/// What an explanation comes to.
fn outcome_of(explanation: &Value) -> &'static str {
    let outcome = explanation["outcome"].to_string();
    match () {
        () if outcome.contains("418") => "abort",
        () if outcome.contains("version=v1") => "v1",
        () if outcome.contains("version=v2") => "v2",
        () => "other",
    }
}

#[test]
fn the_admin_listener_tells_health_state_and_readiness() {
    let scene = scene();
    let revision = scene.cluster.control.write(json!([backends(json!([{"tags": ["version=v1"]}]))]));
    for target in ["/health", "/healthz", "/readyz"] {
        assert_eq!(scene.proxy.admin(target).status, 200, "{target}");
    }
    let state = scene.proxy.admin("/state").expect(200).json();
    assert_eq!((&state["revision"], state["rules"].as_array().unwrap().len()), (&json!(revision), 1));
    assert_eq!(state["rules"][0]["id"], "route");
    assert_eq!(state["instances"].as_array().unwrap().len(), 2);
    assert_eq!(scene.proxy.admin("/nowhere").status, 404);
    assert!(scene.proxy.admin.ip().is_loopback());
}

#[test]
fn registry_and_control_have_metrics_a_scraper_can_read() {
    let scene = scene();
    scene.cluster.control.write(json!([backends(json!([{"tags": ["version=v1"]}]))]));
    let _ = get("/v1/rules").call(scene.cluster.control.address()).expect(200);
    let control = get("/metrics").call(scene.cluster.control.address()).expect(200);
    let control = Scrape::read(&control.text()).unwrap_or_else(|error| panic!("{error}\n{}", control.text()));
    let propagated = control.sum("a8_control_propagation_seconds_count", &[]);
    assert!(propagated >= 1.0, "a change that was applied has a time: {propagated}");
    for operation in ["add_rules", "get_rules"] {
        let label = format!("operation=\"{operation}\"");
        let counted: f64 = control
            .series
            .iter()
            .filter(|(series, _)| series.contains(&label) && series.contains(r#"result="success""#))
            .map(|(_, value)| value)
            .sum();
        assert!(counted >= 1.0, "{operation}");
    }
    let registry = get("/metrics").call(scene.cluster.registry.address()).expect(200);
    let registry =
        Scrape::read(&registry.text()).unwrap_or_else(|error| panic!("{error}\n{}", registry.text()));
    assert!(!registry.series.is_empty());
}

#[test]
fn tokens_appear_in_no_log_and_on_no_page() {
    let secret = "tenant-secret-4711";
    let trusted = [("auth_mode", "trusted"), ("log_level", "debug")];
    let cluster = Cluster::start_with(&trusted, &trusted);
    let origin = Origin::echo("o");
    cluster.registry.register_as(Some(secret), "s", &["v1"], origin.address());
    let proxy = cluster.proxy_with("gateway", &[("log_level", "debug"), ("controller_token", secret)]);
    proxy.await_instances(1);
    // In trusted mode the token is the tenant's name. The proxy knows only the token, so it must not appear there at all.
    let _ = get("/s/x").token("callers-own-token").header("X-Request-Id", "t").call(proxy.http).expect(200);
    proxy.logged("t");
    let said = [
        proxy.process.stderr(),
        proxy.process.stdout(),
        fs::read_to_string(proxy.data_dir().join("a8_access.log")).unwrap(),
        proxy.admin("/metrics").text(),
        proxy.admin("/state").text(),
    ];
    for text in &said {
        assert!(!text.contains(secret) && !text.contains("callers-own-token"), "{text}");
    }
    for process in [&cluster.registry.process, &cluster.control.process].into_iter().flatten() {
        assert!(!process.stderr().contains(&format!("Bearer {secret}")), "{}", process.stderr());
    }
}

#[test]
fn logs_can_be_json_line_by_line() {
    let mut scene = scene_with(&[("log_format", "json")]);
    scene.proxy.get("/reviews/x").by();
    let ended = scene.proxy.process.terminate();
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(!lines.is_empty(), "a life-cycle has events");
    for line in lines {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "no JSON: {line}");
    }
}
