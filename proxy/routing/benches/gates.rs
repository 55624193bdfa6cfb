//! Does one thing so many times, for whoever counts instructions: `gates NAME COUNT`; without arguments it names what
//! there is. What things may cost is in `.ci/gates.txt`, and `.ci/gates` compares.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and stops when its world is wrong"
)]

use std::hint::black_box;
use std::sync::Arc;

use control_api::{Identity, Rule, Snapshot};
use http::{HeaderMap, HeaderName, HeaderValue};
use registry_api::Instance;
use routing::{At, RequestHead, RouteTable, Seed};
use serde_json::{Value, json};

/// Services of a world, and instances of each: as many as can be set up in a moment while somebody counts.
const SERVICES: usize = 100;
const INSTANCES: usize = 10;
/// Rules on the service that has many.
const RULES: usize = 100;

const NAMES: [&str; 8] = [
    "decide_split",
    "decide_last_of_100_headers",
    "decide_method_path_query",
    "decide_sticky",
    "decide_faults",
    "decide_unknown_service",
    "compile_per_service",
    "recompile_one_instance",
];

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(count)) = (args.next(), args.next().and_then(|count| count.parse().ok())) else {
        return NAMES.iter().for_each(|name| println!("{name}"));
    };
    match name.as_str() {
        "decide_split" => decide(count, "/service-0047/x", &[]),
        "decide_last_of_100_headers" => {
            decide(count, "/many/x", &[("cookie", "session=0123456789abcdef;user=user-099;theme=dark")]);
        }
        "decide_method_path_query" => decide(count, "/asking/orders/17", &[]),
        "decide_sticky" => decide(count, "/sticky/x", &[("x-user", "jason")]),
        "decide_faults" => decide(count, "/faulty/x", &[]),
        "decide_unknown_service" => decide(count, "/nobody/x", &[]),
        "compile_per_service" => compile(count),
        "recompile_one_instance" => recompile(count),
        // Whoever runs all benches asks for none of these.
        _ => {}
    }
}

fn decide(count: usize, path: &str, fields: &[(&'static str, &'static str)]) {
    let table: RouteTable = RouteTable::compile(&world(), &identity(), &());
    let mut headers = HeaderMap::new();
    let usual = [("host", "gateway"), ("user-agent", "bench"), ("accept", "*/*"), ("x-request-id", "1")];
    for (name, value) in usual.iter().chain(fields) {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let head =
        RequestHead { method: "GET", path, query: "page=2&debug=1", authority: "gateway", headers: &headers };
    for number in 0..count {
        black_box(table.decide(black_box(&head), Seed::of(&number.to_le_bytes()), &At(0)));
    }
}

fn compile(count: usize) {
    let snapshot = world();
    // A part of the services each time would not be the same work: everything, so many times in so many services.
    for _ in 0..count.div_ceil(SERVICES) {
        let table: RouteTable = RouteTable::compile(black_box(&snapshot), &identity(), &());
        black_box(&table);
    }
}

fn recompile(count: usize) {
    let (snapshot, identity) = (world(), identity());
    let mut changed = snapshot.clone();
    changed.put_instance(Arc::new(instance("service-0047", 3, "OUT_OF_SERVICE")));
    let table: RouteTable = RouteTable::compile(&snapshot, &identity, &());
    for _ in 0..count {
        black_box(table.recompile(black_box(&snapshot), &changed, &identity, &()));
    }
}

fn identity() -> Identity {
    Identity::parse("gateway")
}

fn world() -> Snapshot {
    let name = |service: usize| format!("service-{service:04}");
    let one = || json!([{"tags": ["version=v1"]}]);
    let splits = (0..SERVICES).map(|service| {
        json!({"id": format!("split-{service}"), "destination": name(service), "route": {"backends": [
            {"tags": ["version=v1"], "weight": 0.25}, {"tags": ["version=v0"]}]}})
    });
    let users = (0..RULES).map(|user| {
        json!({"id": format!("user-{user:03}"), "priority": 1000 - user, "destination": "many",
            "match": {"headers": {"Cookie": format!("^(.*?;)?(user=user-{user:03})(;.*)?$")}},
            "route": {"backends": one()}})
    });
    let others = [
        json!({"id": "asking", "destination": "asking", "route": {"backends": one()}, "match": {
            "method": ["GET", "HEAD"], "path": {"regex": "/asking/orders/[0-9]+"}, "query": {"debug": "1|true"}}}),
        json!({"id": "sticky", "destination": "sticky", "route": {"sticky": {"header": "X-User"}, "backends": [
            {"tags": ["version=v1"], "weight": 0.25}, {"tags": ["version=v0"]}]}}),
        json!({"id": "faults", "destination": "faulty", "actions": [
            {"action": "delay", "duration": 1, "probability": 0.1}, {"action": "delay", "exponential": {"mean": 1}},
            {"action": "abort", "return_code": 503, "probability": 0.5}]}),
    ];
    let rules = splits.chain(users).chain(others).map(|text| Arc::new(rule(text)));
    let named = ["many", "asking", "sticky", "faulty"].map(str::to_owned);
    let services = (0..SERVICES).map(name).chain(named);
    let instances = services
        .flat_map(|service| (0..INSTANCES).map(move |number| Arc::new(instance(&service, number, "UP"))));
    Snapshot::new(1, rules, instances)
}

fn rule(text: Value) -> Rule {
    serde_json::from_value(text).unwrap()
}

fn instance(service: &str, number: usize, status: &str) -> Instance {
    let text = json!({"id": format!("{service}-{number:02}"), "service_name": service, "status": status,
        "tags": [format!("version=v{}", number % 2), "zone=a"],
        "endpoint": {"type": "http", "value": format!("10.0.{number}.1:9080")}});
    serde_json::from_value(text).unwrap()
}
