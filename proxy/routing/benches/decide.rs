//! Prints what a decision and a table cost: 10,000 services of 10 instances, each with a split, 100 rules on
//! the busiest. It compares with nothing; the figures to hold are in the issue that asks for them.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and stops when its world is wrong"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_api::{Identity, Rule, Snapshot};
use http::{HeaderMap, HeaderName, HeaderValue};
use registry_api::{Endpoint, EndpointType, Instance, InstanceId, ServiceName, Status};
use routing::{At, RequestHead, RouteTable, Seed};
use serde_json::json;

const SERVICES: usize = 10_000;
const INSTANCES: usize = 10;
const RULES: usize = 100;
/// Many short ones: the best of them shows what it costs where nobody else is at work.
const ROUNDS: usize = 100;
const COMPILE_ROUNDS: usize = 9;

fn main() {
    let snapshot = world();
    let identity = Identity::parse("gateway");
    let table = RouteTable::compile(&snapshot, &identity, &());
    for (what, path, cookie) in [
        ("split, no header asked", "/service-04711/x", ""),
        ("100 rules on one header, the first matches", "/service-00000/x", "a=b;user=user-000"),
        (
            "100 rules on one header, the last matches",
            "/service-00000/x",
            "session=0123456789abcdef;user=user-099;theme=dark",
        ),
        ("100 rules on one header, none matches", "/service-00000/x", "session=0123456789abcdef;theme=dark"),
        ("100 rules on one header, which is absent", "/service-00000/x", ""),
        ("unknown service", "/nobody/x", ""),
    ] {
        println!("decide     {:>8.1} ns   {what}", decide(&table, path, cookie));
    }
    println!(
        "compile    {:>8.1} ms   everything",
        millis(|| black_box(RouteTable::compile(&snapshot, &identity, &())))
    );
    let changed = with_one_change(&snapshot);
    let recompile = |to: &Snapshot| black_box(table.recompile(&snapshot, to, &identity, &()));
    println!("recompile  {:>8.1} ms   one instance changed", millis(|| recompile(&changed)));
    let mut ruled = snapshot.clone();
    ruled.put_rule(Arc::new(rule(json!({"id": "new", "destination": "service-04711", "priority": 5,
        "match": {"headers": {"X": "1"}}, "route": {"backends": [{"tags": ["version=v1"]}]}}))));
    println!("recompile  {:>8.1} ms   one rule added", millis(|| recompile(&ruled)));
    let mut grown = snapshot.clone();
    grown.put_instance(Arc::new(instance("a-new-service", 0)));
    println!("recompile  {:>8.1} ms   one service added", millis(|| recompile(&grown)));
}

fn decide(table: &RouteTable, path: &str, cookie: &str) -> f64 {
    const COUNT: u32 = 10_000;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "gateway"),
        ("user-agent", "bench"),
        ("accept", "*/*"),
        ("x-request-id", "1"),
        ("cookie", cookie),
    ] {
        if !value.is_empty() {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
    }
    let head = RequestHead { method: "GET", path, query: "", authority: "gateway", headers: &headers };
    let elapsed = best(ROUNDS, || {
        for number in 0..COUNT {
            black_box(table.decide(black_box(&head), Seed::of(&number.to_le_bytes()), &At(0)));
        }
    });
    elapsed.as_secs_f64() * 1e9 / f64::from(COUNT)
}

fn millis<T>(step: impl FnMut() -> T) -> f64 {
    best(COMPILE_ROUNDS, step).as_secs_f64() * 1e3
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock; the crate never does")]
fn best<T>(rounds: usize, mut step: impl FnMut() -> T) -> Duration {
    let once = |_| {
        let start = Instant::now();
        let made = step();
        let elapsed = start.elapsed();
        // The proxy drops old tables on a thread aside.
        drop(made);
        elapsed
    };
    (0..rounds).map(once).min().unwrap_or_default()
}

fn world() -> Snapshot {
    let name = |service: usize| format!("service-{service:05}");
    let splits = (0..SERVICES).map(|service| {
        json!({"id": format!("split-{service}"), "destination": name(service), "route": {"backends": [
            {"tags": ["version=v1"], "weight": 0.25}, {"tags": ["version=v0"]}]}})
    });
    let users = (0..RULES - 1).map(|user| {
        json!({"id": format!("user-{user:03}"), "priority": 1000 - user, "destination": name(0),
            "match": {"headers": {"Cookie": format!("^(.*?;)?(user=user-{user:03})(;.*)?$")}},
            "route": {"backends": [{"tags": ["version=v1"]}]}})
    });
    let rules = splits.chain(users).map(|text| Arc::new(rule(text)));
    let instances = (0..SERVICES)
        .flat_map(|service| (0..INSTANCES).map(move |number| Arc::new(instance(&name(service), number))));
    Snapshot::new(1, rules, instances)
}

fn with_one_change(snapshot: &Snapshot) -> Snapshot {
    let mut changed = snapshot.clone();
    let other = Instance { status: Status::new(Status::OUT_OF_SERVICE), ..instance("service-04711", 3) };
    changed.put_instance(Arc::new(other));
    changed
}

fn rule(text: serde_json::Value) -> Rule {
    serde_json::from_value(text).unwrap()
}

fn instance(service: &str, number: usize) -> Instance {
    Instance {
        id: InstanceId::new(format!("{service}-{number:02}")).unwrap(),
        service_name: ServiceName::new(service).unwrap(),
        endpoint: Endpoint { kind: EndpointType::Http, value: format!("10.0.{number}.1:9080") },
        ttl: 30,
        status: Status::new(Status::UP),
        tags: vec![format!("version=v{}", number % 2), "zone=a".to_owned()],
        metadata: None,
        last_heartbeat: None,
    }
}
