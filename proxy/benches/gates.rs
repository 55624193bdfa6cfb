//! Takes one request through the law so many times, for whoever counts instructions: `gates NAME COUNT`; without
//! arguments it names what there is. What things may cost is in `.ci/gates.txt`, and `.ci/gates` compares.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and stops when its world is wrong"
)]

use std::hint::black_box;
use std::sync::Arc;

use control_api::{Rule, Snapshot};
use http::{HeaderMap, HeaderValue};
use proxy::gates::Law;
use registry_api::Instance;
use serde_json::{Value, json};

const NAMES: [&str; 2] = ["request_plain", "request_with_retries_and_breakers"];
const INSTANCES: usize = 10;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(count)) = (args.next(), args.next().and_then(|count| count.parse().ok())) else {
        return NAMES.iter().for_each(|name| println!("{name}"));
    };
    match name.as_str() {
        "request_plain" => request(count, "/plain/x"),
        "request_with_retries_and_breakers" => request(count, "/guarded/x"),
        // Whoever runs all benches asks for none of these.
        _ => {}
    }
}

fn request(count: usize, path: &str) {
    let law = Law::of(&world());
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("gateway"));
    let id = HeaderValue::from_static("6fa459ea-ee8a-3ca4-894e-db77e160355e");
    for _ in 0..count {
        assert!(law.request(black_box(path), &headers, &id), "it is sent on and answered");
    }
}

/// Two services that differ in what their routes say about failures, and in nothing else.
fn world() -> Snapshot {
    let rules = [
        json!({"id": "plain", "destination": "plain", "route": {"backends": [{"tags": ["version=v1"]}]}}),
        json!({"id": "guarded", "destination": "guarded", "route": {
            "retries": {"count": 3, "on": ["5xx", "429", "connect-failure"], "methods": ["GET", "HEAD", "PUT"],
                "budget_percent": 10, "backoff_ms": 20},
            "backends": [{"tags": ["version=v1"], "resilience": {"max_connections": 100, "max_pending_requests": 100,
                "max_requests": 150, "consecutive_errors": 3, "sleep_window": 10, "detection_interval": 5}}]}}),
    ];
    let rules = rules.into_iter().map(|text| Arc::new(serde_json::from_value::<Rule>(text).unwrap()));
    let of = |service: &'static str| (0..INSTANCES).map(move |number| Arc::new(instance(service, number)));
    Snapshot::new(1, rules, of("plain").chain(of("guarded")))
}

fn instance(service: &str, number: usize) -> Instance {
    let text: Value = json!({"id": format!("{service}-{number:02}"), "service_name": service, "status": "UP",
        "tags": ["version=v1"], "endpoint": {"type": "http", "value": format!("10.0.{number}.1:9080")}});
    serde_json::from_value(text).unwrap()
}
