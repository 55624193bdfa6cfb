//! What operators get from a proxy's admin endpoint, page by page.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::sync::Arc;

use clap::Parser;
use control_api::Snapshot;
use http::{Method, Response, Uri};
use proxy::admin::Admin;
use proxy::config::Settings;
use proxy::feed::Source;
use proxy::live::Live;
use proxy::server::Server;
use registry_api::Position;
use serde_json::{Value, json};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

struct World {
    live: Live,
    admin: Admin,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = format!("--data_dir={}", dir.path().display());
    let flags = ["a8", &data_dir, "--service=productpage:v1", "--node=n-1"];
    let config = Line::try_parse_from(flags).unwrap().settings.check().unwrap();
    let live = Live::open(&config, proxy::clock::now()).unwrap();
    let admin = Admin::new(&live, config.node(config.http));
    World { live, admin, _dir: dir }
}

fn snapshot() -> Snapshot {
    let rules = json!([
        {"id": "jason", "priority": 2, "destination": "reviews",
         "match": {"headers": {"Cookie": "^(.*?;)?(user=jason)(;.*)?$"}},
         "route": {"backends": [{"tags": ["version=v2"]}]}},
        {"id": "rest", "priority": 1, "destination": "reviews",
         "route": {"backends": [{"tags": ["version=v1"]}]}},
        {"id": "slow", "destination": "reviews", "actions": [{"action": "abort", "return_code": 418}],
         "match": {"headers": {"X-Request-Id": "teapot"}}},
    ]);
    let instances = json!([
        {"id": "r1", "service_name": "reviews", "endpoint": {"type": "http", "value": "127.0.0.1:1"},
         "status": "UP", "tags": ["version=v1"]},
        {"id": "r2", "service_name": "reviews", "endpoint": {"type": "http", "value": "127.0.0.1:2"},
         "status": "UP", "tags": ["version=v2"]},
    ]);
    // From text: metadata is kept as raw text, which a value cannot give.
    let rules: Vec<_> = serde_json::from_str(&rules.to_string()).unwrap();
    let instances: Vec<_> = serde_json::from_str(&instances.to_string()).unwrap();
    Snapshot::new(7, rules, instances)
}

impl World {
    fn apply(&self) {
        let snapshot = snapshot();
        let table = self.live.stage.compile(&Snapshot::default(), &snapshot);
        let position = Position { epoch: "e".to_owned(), index: 42, hash: snapshot.hash() };
        self.live.stage.swap(table, Source::Control, Arc::new(snapshot), position);
    }

    fn ask(&self, method: Method, target: &str) -> Response<Vec<u8>> {
        self.admin.answer(&method, &target.parse::<Uri>().unwrap())
    }

    fn get(&self, target: &str) -> (u16, String) {
        let response = self.ask(Method::GET, target);
        let length = response.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap();
        assert_eq!(length, response.body().len());
        (response.status().as_u16(), String::from_utf8(response.into_body()).unwrap())
    }

    fn json(&self, target: &str) -> (u16, Value) {
        let (status, body) = self.get(target);
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}")))
    }
}

#[test]
fn health_is_always_well() {
    let world = world();
    assert_eq!(world.get("/health").0, 200);
    assert_eq!(world.get("/healthz").0, 200);
    world.ask(Method::POST, "/drain");
    assert_eq!(world.get("/healthz").0, 200);
}

#[test]
fn metrics_are_in_the_text_format_with_the_numbers_of_the_applied_snapshot() {
    let world = world();
    world.apply();
    let response = world.ask(Method::GET, "/metrics");
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
    let page = String::from_utf8(response.into_body()).unwrap();
    for line in [
        "# TYPE a8_proxy_instances gauge",
        r#"a8_proxy_instances{service="reviews"} 2"#,
        "# TYPE a8_proxy_table_swaps_total counter",
        "a8_proxy_table_swaps_total 1",
        "a8_proxy_snapshot_index 42",
        "a8_proxy_snapshot_revision 7",
    ] {
        assert!(page.lines().any(|have| have == line), "{line}\nis not in\n{page}");
    }
}

#[test]
fn readiness_begins_with_the_first_table_and_ends_with_a_drain() {
    let world = world();
    let (status, body) = world.json("/readyz");
    assert_eq!((status, &body["ready"], &body["feed"]["source"]), (503, &json!(false), &json!("nobody")));
    world.apply();
    let (status, body) = world.json("/readyz");
    assert_eq!((status, &body["ready"]), (200, &json!(true)));
    assert_eq!((&body["feed"]["index"], &body["feed"]["revision"]), (&json!(42), &json!(7)));
    assert_eq!(world.json("/drain"), (200, json!({ "draining": false })));
    assert_eq!(world.ask(Method::POST, "/drain").status(), 200);
    assert!(world.live.drain.has_begun());
    assert_eq!(world.json("/drain"), (200, json!({ "draining": true })));
    let (status, body) = world.json("/readyz");
    assert_eq!((status, &body["draining"]), (503, &json!(true)));
}

#[test]
fn state_is_what_was_last_applied() {
    let world = world();
    let (status, empty) = world.json("/state");
    assert_eq!((status, &empty["revision"], &empty["rules"]), (200, &json!(0), &json!([])));
    assert_eq!(empty["instances"], json!([]));
    world.apply();
    let (_, state) = world.json("/state");
    assert_eq!(state["revision"], 7);
    let ids = |list: &Value| {
        list.as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&state["rules"]), ["jason", "rest", "slow"]);
    assert_eq!(ids(&state["instances"]), ["r1", "r2"]);
    assert_eq!(state["instances"][0]["endpoint"], json!({"type": "http", "value": "127.0.0.1:1"}));
    assert_eq!((&state["node"], &state["identity"]), (&json!("n-1"), &json!("productpage:v1")));
    assert_eq!((&state["feed"]["epoch"], &state["feed"]["source"]), (&json!("e"), &json!("control")));
}

#[test]
fn explain_says_where_a_request_goes_and_why() {
    let world = world();
    world.apply();
    let (status, plain) = world.json("/explain?path=/reviews/x%3Fa=b&request_id=id-1");
    assert_eq!(status, 200);
    assert_eq!((&plain["service"], &plain["request_id"]), (&json!("reviews"), &json!("id-1")));
    assert_eq!(plain["outcome"]["kind"], "forward");
    assert_eq!(
        (&plain["outcome"]["dst"], &plain["outcome"]["path"]),
        (&json!("reviews:version=v1"), &json!("/x"))
    );
    assert_eq!((&plain["rules"][0]["id"], &plain["rules"][0]["matched"]), (&json!("jason"), &json!(false)));

    let (_, jason) = world.json("/explain?path=/reviews&header=Cookie:a=b;user%3Djason&method=POST");
    assert_eq!(jason["outcome"]["dst"], "reviews:version=v2");
    assert_eq!(jason["instances"], json!([{"id": "r2", "address": "127.0.0.1:2"}]));
    assert_eq!(jason["request_id"].as_str().unwrap().len(), 36, "a new id, as the proxy makes one");

    let (_, teapot) = world.json("/explain?path=/reviews&request_id=teapot");
    assert_eq!((&teapot["outcome"]["kind"], &teapot["outcome"]["code"]), (&json!("abort"), &json!(418)));

    let (_, nobody) = world.json("/explain?path=/nobody");
    assert_eq!(nobody["outcome"], json!({"kind": "refuse", "status": 404, "error": "unknown_service"}));

    let (status, text) = world.get("/explain?path=/reviews&request_id=id-1&format=text");
    assert_eq!(status, 200);
    assert!(text.starts_with("request id id-1\n") && text.contains("reviews:version=v1"), "{text}");
}

#[test]
fn a_question_that_is_none_is_refused() {
    let world = world();
    for query in ["", "?path=reviews", "?path=/%zz", "?path=/x&header=odd", "?path=/x&nonsense=1"] {
        let (status, body) = world.json(&format!("/explain{query}"));
        assert_eq!((status, &body["error"]), (400, &json!("bad_request")), "{query}");
    }
}

#[test]
fn other_paths_and_methods_are_refused() {
    let world = world();
    for (method, path, status, allow) in [
        (Method::GET, "/", 404, None),
        (Method::GET, "/metrics/", 404, None),
        (Method::POST, "/metrics", 405, Some("GET, HEAD")),
        (Method::DELETE, "/drain", 405, Some("GET, HEAD, POST")),
    ] {
        let response = world.ask(method, path);
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers().get("allow").map(|value| value.to_str().unwrap()), allow);
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert!(body["error"].is_string() && body["description"].is_string());
    }
}

#[test]
fn head_is_told_the_length_and_sent_nothing() {
    let world = world();
    for path in ["/metrics", "/state", "/health", "/readyz"] {
        let response = world.ask(Method::HEAD, path);
        assert!(response.body().is_empty());
        assert_ne!(response.headers()["content-length"], "0", "{path}");
    }
}

#[test]
fn a_head_does_not_begin_a_drain() {
    let world = world();
    world.ask(Method::HEAD, "/drain");
    world.ask(Method::GET, "/drain");
    assert!(!world.live.drain.has_begun());
}

/// Reads one answer off a connection that stays open: its head, and as much body as it announces.
fn read_answer(request: &str, connection: &mut impl std::io::BufRead, with_body: bool) -> (String, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(
            connection.read_line(&mut head).unwrap(),
            0,
            "the connection ended before the answer to {request}: {head}"
        );
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; if with_body { length.unwrap() } else { 0 }];
    connection.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn one_connection_carries_page_after_page_whatever_the_method_and_its_body() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = format!("--data_dir={}", dir.path().display());
    let flags =
        ["a8", &data_dir, "--http_listener_host=127.0.0.1", "--http_listener_port=0", "--admin_port=0"];
    let config = Line::try_parse_from(flags).unwrap().settings.check().unwrap();
    let server = Server::bind(&config).unwrap();
    let (name, address) = server.addresses().swap_remove(1);
    assert_eq!(name, "admin");
    let admin = Admin::new(server.live(), config.node(server.http()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = std::thread::spawn(move || server.serve(admin, async { drop(stopped.await) }).unwrap());

    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut answers = std::io::BufReader::new(stream.try_clone().unwrap());
    for (request, status, body) in [
        ("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", "200", Some("ok\n")),
        ("HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n", "200", None),
        (
            "POST /drain HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
            "200",
            Some("{\"draining\":true}"),
        ),
        ("GET /drain HTTP/1.1\r\nHost: h\r\n\r\n", "200", Some("{\"draining\":true}")),
        (
            "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n",
            "404",
            Some("{\"description\":\"no such page\",\"error\":\"not_found\"}"),
        ),
    ] {
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let (head, got) = read_answer(request, &mut answers, body.is_some());
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        assert_eq!(got, body.unwrap_or_default(), "{request}");
    }
    drop(stream);
    stop.send(()).unwrap();
    serving.join().unwrap();
}

#[test]
fn an_explanation_marks_the_instances_that_are_left_alone() {
    let world = world();
    world.apply();
    let table = world.live.tables.pin();
    let reviews = table.service(table.find("reviews").unwrap());
    assert!(reviews.endpoints()[0].live.eject(proxy::clock::now(), &proxy::board::Limits::default()));
    let (status, page) = world.get("/explain?path=/reviews");
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(
        (status, &page["instances"]),
        (200, &json!([{"id": "r1", "address": "127.0.0.1:1", "state": "ejected"}]))
    );
    let (_, text) = world.get("/explain?path=/reviews&format=text");
    assert!(text.contains("round_robin over r1 127.0.0.1:1 (ejected)\n"), "{text}");
    let (_, other) = world.get("/explain?path=/reviews&header=Cookie:user%3Djason&format=text");
    assert!(other.contains("round_robin over r2 127.0.0.1:2\n"), "{other}");
}
