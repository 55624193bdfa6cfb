//! The registry as its clients meet it: registration, leases, lists, the watch, and what it refuses. The exact texts and
//! limits are held by the registry's own tests; here it is the shipped program that answers.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::time::Duration;

use conformance::{
    Connection, Launch, Registry, Request, delete, eventually, get, never, post, program, put, within,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn registry(flags: &[(&str, &str)]) -> (Registry, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Registry::start(dir.path(), flags), dir)
}

fn registration(service: &str, value: &str) -> Value {
    json!({"service_name": service, "endpoint": {"type": "http", "value": value}})
}

#[test]
fn a_registration_can_be_listed_renewed_and_taken_back() {
    let (registry, _dir) = registry(&[]);
    let at = registry.address();
    let answer = post("/api/v1/instances", &registration("reviews", "10.0.0.1:9080")).call(at).expect(201);
    // spec/registry.md 0.3: the id depends on service, type and value alone.
    assert_eq!(answer.json()["id"], "e3527005a80b2e25");
    assert_eq!(answer.json()["ttl"], 30);
    let own = format!("http://{at}/api/v1/instances/e3527005a80b2e25");
    assert_eq!(answer.header("Location"), own);
    assert_eq!(answer.json()["links"]["heartbeat"], format!("{own}/heartbeat"));

    let list = get("/api/v1/instances").call(at).expect(200).json();
    assert_eq!(list["instances"][0]["status"], "UP");
    assert_eq!(list["instances"][0]["endpoint"]["value"], "10.0.0.1:9080");
    assert_eq!(get("/api/v1/services").call(at).json(), json!({"services": ["reviews"]}));
    assert_eq!(get("/api/v1/services/reviews").call(at).expect(200).json()["service_name"], "reviews");

    let heartbeat = Request::new("PUT", "/api/v1/instances/e3527005a80b2e25/heartbeat");
    assert!(heartbeat.call(at).expect(200).body.is_empty());
    let _ = delete("/api/v1/instances/e3527005a80b2e25").call(at).expect(200);
    let _ = heartbeat.call(at).expect(410);
    let _ = delete("/api/v1/instances/e3527005a80b2e25").call(at).expect(410);
    assert_eq!(get("/api/v1/instances").call(at).json(), json!({"instances": []}));
    let _ = get("/api/v1/services/reviews").call(at).expect(404);
}

#[test]
fn an_instance_that_falls_silent_is_gone_within_a_second_after_its_ttl_and_never_before() {
    let (registry, _dir) = registry(&[("min_ttl", "1s")]);
    let at = registry.address();
    let silent = json!({"service_name": "a", "ttl": 2, "endpoint": {"type": "tcp", "value": "h:1"}});
    let kept = json!({"service_name": "b", "ttl": 2, "endpoint": {"type": "tcp", "value": "h:2"}});
    let out = json!({"service_name": "c", "ttl": 2, "status": "OUT_OF_SERVICE", "endpoint": {"type": "tcp", "value": "h:3"}});
    let _ = post("/api/v1/instances", &out).call(at).expect(201);
    let id = post("/api/v1/instances", &kept).call(at).expect(201).json()["id"].as_str().unwrap().to_owned();
    let _ = post("/api/v1/instances", &silent).call(at).expect(201);
    let there = |name: &str| get(format!("/api/v1/services/{name}")).call(at).status == 200;
    // Half a TTL less the time the calls take: it must still be there all along.
    never(Duration::from_millis(1_800), "the lease holds", || {
        let _ = Request::new("PUT", format!("/api/v1/instances/{id}/heartbeat")).call(at).expect(200);
        if there("a") { Ok(()) } else { Err("gone before its TTL") }
    });
    within(Duration::from_millis(1_500), "the silent one is gone", || {
        let _ = Request::new("PUT", format!("/api/v1/instances/{id}/heartbeat")).call(at).expect(200);
        if there("a") { Err("still there") } else { Ok(()) }
    });
    assert!(there("b"), "the renewed one stays");
    assert!(there("c"), "an instance that is out of service does not expire");
}

#[test]
fn lists_are_filtered_and_projected() {
    let (registry, _dir) = registry(&[]);
    let at = registry.address();
    for (value, status, tags) in
        [("h:1", "UP", ["a", "b"]), ("h:2", "STARTING", ["a", "c"]), ("h:3", "out_of_service", ["a", "d"])]
    {
        let body = json!({"service_name": "s", "status": status, "tags": tags, "metadata": {"n": 1.50},
                          "endpoint": {"type": "http", "value": value}});
        let _ = post("/api/v1/instances", &body).call(at).expect(201);
    }
    let count = |query: &str| {
        let list = get(format!("/api/v1/instances{query}")).call(at).expect(200).json();
        list["instances"].as_array().unwrap().len()
    };
    for (query, expected) in [
        ("", 1),
        ("?status=ALL", 3),
        ("?status=starting", 1),
        ("?status=OUT_OF_SERVICE", 1),
        ("?service_name=s", 3),
        ("?service_name=S", 0),
        ("?tags=a", 3),
        ("?tags=a,b", 1),
        ("?tags=", 0),
        ("?service_name=s&tags=c", 1),
    ] {
        assert_eq!(count(query), expected, "{query}");
    }
    let answer = get("/api/v1/instances?fields=status").call(at).json();
    let keys: Vec<_> = answer["instances"][0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["endpoint", "id", "status"]);
    for query in ["?colour=red", "?ttl=30", "?fields=colour", "?fields=id, status"] {
        let query = query.replace(' ', "%20");
        let answer = get(format!("/api/v1/instances{query}")).call(at).expect(400);
        assert!(answer.json()["Error"].as_str().is_some_and(|text| !text.is_empty()), "{query}");
    }
}

#[test]
fn refusals_have_their_codes_and_one_envelope() {
    let (registry, _dir) = registry(&[("namespace_capacity", "1")]);
    let at = registry.address();
    let json_post = |body: &str| {
        Request::new("POST", "/api/v1/instances").header("Content-Type", "application/json").body(body)
    };
    let _ = post("/api/v1/instances", &registration("full", "h:1")).call(at).expect(201);
    let cases: &[(&str, Request, u16)] = &[
        ("no body", json_post(""), 400),
        ("no json", json_post("{"), 400),
        (
            "negative ttl",
            json_post(r#"{"service_name":"a","endpoint":{"type":"tcp","value":"h"},"ttl":-1}"#),
            400,
        ),
        ("no service", json_post(r#"{"endpoint":{"type":"tcp","value":"h"}}"#), 400),
        ("no endpoint", json_post(r#"{"service_name":"a"}"#), 400),
        ("type", json_post(r#"{"service_name":"a","endpoint":{"type":"TCP","value":"h"}}"#), 400),
        ("long name", post("/api/v1/instances", &registration(&"n".repeat(65), "h")), 400),
        ("long value", post("/api/v1/instances", &registration("a", &"v".repeat(129))), 400),
        ("capacity", post("/api/v1/instances", &registration("other", "h:2")), 403),
        (
            "media type",
            Request::new("POST", "/api/v1/instances").header("Content-Type", "text/plain").body("x"),
            415,
        ),
        (
            "media type before routing",
            Request::new("POST", "/nowhere").header("Content-Type", "text/plain").body("x"),
            415,
        ),
        ("unknown path", get("/nowhere"), 404),
        ("trailing slash", get("/api/v1/services/"), 404),
        ("method", get("/api/v1/instances/x"), 405),
        ("options", Request::new("OPTIONS", "/api/v1/instances"), 405),
        ("empty id", put("/api/v1/instances//heartbeat", &json!({})), 400),
        ("foreign token", get("/api/v1/instances").token("somebody"), 401),
        ("scheme", get("/api/v1/instances").header("Authorization", "Basic x"), 401),
        ("watch index", get("/api/v1/watch?index=x"), 400),
        ("watch wait", get("/api/v1/watch?wait=soon"), 400),
    ];
    for (name, request, status) in cases {
        let answer = request.call(at);
        assert_eq!(answer.status, *status, "{name}: {answer:?}");
        assert!(answer.json()["Error"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {answer:?}");
        assert_eq!(answer.header("Content-Type"), "application/json; charset=utf-8", "{name}");
        assert!(!answer.header("REQUEST_ID").is_empty(), "{name}");
    }
    let head = Request::new("HEAD", "/api/v1/instances").call(at).expect(405);
    assert!(head.body.is_empty());
    // The same instance again is no new one.
    let _ = post("/api/v1/instances", &registration("full", "h:1")).call(at).expect(201);
}

#[test]
fn a_watch_answers_fully_then_in_deltas_and_otherwise_with_304() {
    let (registry, _dir) = registry(&[]);
    let at = registry.address();
    registry.register("a", &[], "h:1");
    registry.register("b", &[], "h:2");
    let full = get("/api/v1/watch?index=0").call(at).expect(200);
    let body = full.json();
    assert_eq!(body["full"], true);
    assert_eq!(body["instances"].as_array().unwrap().len(), 2);
    assert_eq!(full.header("A8-Index"), body["index"].to_string());
    assert_eq!(full.header("A8-Epoch"), body["epoch"].as_str().unwrap());
    assert_eq!(full.header("A8-Hash"), body["hash"].as_str().unwrap());

    let (epoch, index) = (body["epoch"].as_str().unwrap().to_owned(), body["index"].as_u64().unwrap());
    let poll = |index: u64, rest: &str| get(format!("/api/v1/watch?epoch={epoch}&index={index}{rest}"));
    let quiet = poll(index, "&wait=100ms").call(at).expect(304);
    assert!(quiet.body.is_empty() && quiet.took >= Duration::from_millis(100), "{quiet:?}");

    // Enough instances that one change is worth a delta.
    for port in 10..30 {
        registry.register("c", &[], format!("h:{port}"));
    }
    let held = get("/api/v1/watch?index=0").call(at).expect(200).json()["index"].as_u64().unwrap();
    let waiting = std::thread::spawn({
        let poll = poll(held, "&wait=20s");
        move || poll.call(at)
    });
    let id = registry.register("d", &["x"], "h:4");
    let news = waiting.join().unwrap().expect(200);
    assert!(news.took < Duration::from_secs(10), "a change wakes the watcher: {news:?}");
    let body = news.json();
    assert_eq!((&body["full"], &body["from"]), (&json!(false), &json!(held)), "{body}");
    assert_eq!(body["changes"][0]["op"], "put");
    assert_eq!(body["changes"][0]["instance"]["id"], id.as_str());
    assert!(body["changes"][0]["instance"].get("last_heartbeat").is_none(), "{body}");

    let held = body["index"].as_u64().unwrap();
    // A renewal and an identical registration are no changes.
    let _ = Request::new("PUT", format!("/api/v1/instances/{id}/heartbeat")).call(at).expect(200);
    registry.register("d", &["x"], "h:4");
    let _ = poll(held, "&wait=150ms").call(at).expect(304);
    registry.deregister(&id);
    let gone = poll(held, "&wait=10s").call(at).expect(200).json();
    assert_eq!(gone["changes"][0]["op"], "delete");
    assert_eq!(gone["changes"][0]["reason"], "deregistered");

    let foreign = get(format!("/api/v1/watch?epoch=elsewhere&index={held}&wait=10s")).call(at).expect(200);
    assert_eq!(foreign.json()["full"], true, "a foreign epoch gets everything");
}

#[test]
fn a_filtered_watcher_sleeps_through_changes_of_other_services() {
    let (registry, _dir) = registry(&[]);
    let at = registry.address();
    registry.register("mine", &[], "h:1");
    let held = get("/api/v1/watch?index=0&service=mine").call(at).expect(200);
    let body = held.json();
    assert_eq!(body["instances"].as_array().unwrap().len(), 1);
    let poll = format!(
        "/api/v1/watch?epoch={}&index={}&hash={}&service=mine&wait=600ms",
        held.header("A8-Epoch"),
        held.header("A8-Index"),
        held.header("A8-Hash")
    );
    let waiting = std::thread::spawn(move || get(poll).call(at));
    for port in 0..20 {
        registry.register("other", &[], format!("o:{port}"));
    }
    let _ = waiting.join().unwrap().expect(304);
}

#[test]
fn the_registry_tells_its_health_and_its_metrics() {
    let (registry, _dir) = registry(&[]);
    let at = registry.address();
    registry.register("a", &[], "h:1");
    assert!(get("/").call(at).expect(200).body.is_empty());
    assert_eq!(get("/uptime").call(at).expect(200).json()["UPTIME"]["healthy"], true);
    eventually("metrics are well formed and counted", || {
        let page = get("/metrics").call(at).expect(200);
        let scrape = conformance::metrics::Scrape::read(&page.text())?;
        if scrape.series.is_empty() { Err(page.text()) } else { Ok(()) }
    });
}

#[test]
fn section_8_requests_are_logged_with_the_fields_and_names_of_the_ancestor() {
    for (format, time, message) in [("json", "time", "msg"), ("logstash", "@timestamp", "message")] {
        let (registry, _dir) = registry(&[("log_format", format)]);
        let address = registry.address();
        let asked = [
            (post("/api/v1/instances", &registration("s", "h:1")), 201),
            (get("/api/v1/services?x=1").header("X-Client-Ip", "192.0.2.7"), 200),
            (get("/api/eureka/hunter2/v2/apps"), 401),
            (get("/nowhere"), 404),
        ];
        for (request, status) in &asked {
            assert_eq!(request.call(address).status, *status);
        }
        let lines = eventually("the lines are written", || {
            let said = registry.process.as_ref().unwrap().stderr();
            let lines = said
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).map_err(|error| error.to_string()));
            let lines = lines.collect::<Result<Vec<_>, _>>()?;
            let lines: Vec<_> = lines.into_iter().filter(|line| line["module"] == "ACCESS").collect();
            if lines.len() == asked.len() { Ok(lines) } else { Err(said) }
        });
        let phrases = [
            "127.0.0.1 POST /api/v1/instances HTTP/1.1",
            "192.0.2.7 GET /api/v1/services?x=1 HTTP/1.1",
            "127.0.0.1 GET /api/eureka/***/v2/apps HTTP/1.1",
            "127.0.0.1 GET /nowhere HTTP/1.1",
        ];
        let operations = [
            ("Register", "Amalgam8", "default", 201),
            ("ListServices", "Amalgam8", "default", 200),
            ("ListServices", "Eureka", "", 401),
            ("GET", "HTTP/1.1", "", 404),
        ];
        for ((line, phrase), (method, protocol, namespace, code)) in lines.iter().zip(phrases).zip(operations)
        {
            assert_eq!(
                (line["level"].as_str(), line[message].as_str()),
                (Some("info"), Some(phrase)),
                "{line}"
            );
            assert!(line[time].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
            assert_eq!(line["apptype"], "service-discovery", "{line}");
            assert_eq!((&line["method"], &line["protocol"]), (&json!(method), &json!(protocol)), "{line}");
            assert_eq!(
                (&line["namespace"], &line["returncode"]),
                (&json!(namespace), &json!(code)),
                "{line}"
            );
            assert!(line["byteswritten"].is_u64(), "{line}");
            for text in ["sd-request-id", "elapsedtime"] {
                assert!(line[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {line}");
            }
            assert_eq!(line["@version"].as_str(), (format == "logstash").then_some("1"), "{line}");
        }
    }
}

#[test]
fn clients_that_hold_every_connection_leave_files_for_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    // 0 is the program, so that the shell's limit is the registry's.
    let limited = Launch::other("sh").arg("-c").arg(r#"ulimit -n 150 && exec "$0" "$@""#).arg(program::a8());
    let limited = limited.arg("registry").flag("api_host", "127.0.0.1").flag("data_dir", dir.path());
    let process = limited.env("A8_API_PORT", "0").start("registry");
    let at = process.address("api");
    let mut kept = Connection::open(at).unwrap();
    let idle: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(at).unwrap()).collect();
    for number in 0..3 {
        kept.send(&post("/api/v1/instances", &registration(&format!("s{number}"), "h:1"))).unwrap();
        assert_eq!(kept.answer("POST").unwrap().status, 201);
        eventually("it is on disk", || match std::fs::read_to_string(dir.path().join("registry.snapshot")) {
            Ok(text) if text.contains(&format!("\"s{number}\"")) => Ok(()),
            other => Err(format!("{other:.80?}")),
        });
    }
    drop(idle);
    let _ = get("/uptime").call(at).expect(200);
}

#[test]
fn section_0_4_refusals_are_told_in_the_language_of_the_client_where_there_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let locales = dir.path().join("locales");
    std::fs::create_dir(&locales).unwrap();
    let german = json!([{"id": "error_service_not_found", "translation": "den Dienst gibt es nicht"}]);
    std::fs::write(locales.join("de.json"), german.to_string()).unwrap();
    std::fs::write(locales.join("fr.json"), "no messages").unwrap();
    let there = Launch::other("sh").arg("-c").arg(r#"cd "$1" && shift && exec "$0" "$@""#).arg(program::a8());
    let there = there.arg(dir.path()).arg("registry").flag("api_host", "127.0.0.1").env("A8_API_PORT", "0");
    let process = there.start("registry");
    let at = process.address("api");
    let said = |path: &str, language: &str| {
        let answer = get(path).header("Accept-Language", language).call(at).expect(404);
        assert_eq!(answer.header("Content-Type"), "application/json; charset=utf-8");
        answer.json()["Error"].as_str().unwrap().to_owned()
    };
    let unknown = "/api/v1/services/unknown";
    let (german, ours) = ("den Dienst gibt es nicht", said(unknown, "en"));
    for (path, language, expected) in
        [(unknown, "de-CH, en;q=0.5", Some(german)), (unknown, "fr", Some(&*ours)), ("/nowhere", "de", None)]
    {
        let sentence = said(path, language);
        assert!(expected.is_none_or(|expected| expected == sentence), "{path} {language}: {sentence}");
        assert!(!sentence.is_empty());
    }
    eventually("the bad file is reported", || match process.stderr() {
        said if said.contains("messages passed over") && said.contains("fr.json") => Ok(()),
        said => Err(said),
    });
}
