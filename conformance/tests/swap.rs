//! No request fails because rules or instances change (spec 3.7): a steady load while the table is replaced fifty times a
//! second. Latency under swaps is the bench's business.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use conformance::caller::Connection;
use conformance::eventually::pause;
use conformance::{Cluster, Feed, Origin, Proxy, eventually, get, post};
use control_api::{Rule, Snapshot};
use registry_api::Instance;
use serde_json::json;

/// Fifty a second.
const SWAP_EVERY: Duration = Duration::from_millis(20);
const SWAPS: u64 = 150;
const CLIENTS: usize = 8;

/// Two live instances that come and go in turn, a rule that moves the traffic, and a crowd of services that change too.
fn snapshot(round: u64, origins: &[Origin; 2]) -> Snapshot {
    let tag = if round.is_multiple_of(2) { "even" } else { "odd" };
    let rule: Rule = serde_json::from_value(json!({"id": "r", "destination": "s", "route": {"backends": [
        {"tags": [tag], "weight": 0.9}, {"tags": ["live"]}]}}))
    .unwrap();
    let live = origins.iter().enumerate().map(|(at, origin)| {
        instance("s", &format!("live-{at}"), &origin.address().to_string(), &["live", "even", "odd"])
    });
    let crowd = (0..200).map(|at| {
        let generation = if at % 10 == round % 10 { round } else { 0 };
        let service = format!("crowd-{}", at % 50);
        instance(
            &service,
            &format!("c{at}-{generation}"),
            &format!("10.0.0.{}:{generation}", at % 250),
            &["v1"],
        )
    });
    let coming_and_going = instance("s", &format!("copy-{round}"), &origins[0].address().to_string(), &[tag]);
    Snapshot::new(round, [rule.into()], live.chain(crowd).chain([coming_and_going]).map(Arc::new))
}

fn instance(service: &str, id: &str, address: &str, tags: &[&str]) -> Instance {
    serde_json::from_value(json!({"id": id, "service_name": service, "status": "UP", "tags": tags, "ttl": 30,
        "endpoint": {"type": "http", "value": address}}))
    .unwrap()
}

/// Sends requests on kept connections until `while_running` is done; returns how many, and every failure.
fn load<R>(proxy: &Proxy, while_running: impl FnOnce() -> R) -> (R, usize, Vec<String>) {
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| client(proxy.http, &stop, &sent))).collect();
        let result = while_running();
        stop.store(true, Ordering::SeqCst);
        let failures = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (result, sent.load(Ordering::SeqCst), failures)
    })
}

fn client(address: SocketAddr, stop: &AtomicBool, sent: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection = Connection::open(address).unwrap();
    while !stop.load(Ordering::SeqCst) && failures.len() < 5 {
        let answer = connection.send(&get("/s/x")).and_then(|()| connection.answer("GET"));
        sent.fetch_add(1, Ordering::SeqCst);
        match answer {
            Ok(answer) if answer.status == 200 && answer.json()["by"] == "origin" => {}
            other => {
                failures.push(format!("{other:?}"));
                connection = Connection::open(address).unwrap();
            }
        }
    }
    failures
}

fn swaps(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("a8_proxy_table_swaps_total", &[])
}

#[test]
fn no_request_fails_while_tables_are_swapped_fifty_times_a_second() {
    let origins = [Origin::echo("origin"), Origin::echo("origin")];
    let feed = Feed::start(snapshot(0, &origins));
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), "gateway", "swapper", feed.address(), &[]);
    proxy.await_instances(203);
    let before = swaps(&proxy);
    let (last, sent, failures) = load(&proxy, || {
        let last = (1..=SWAPS).fold(0, |_, round| {
            pause(SWAP_EVERY);
            feed.publish(snapshot(round, &origins))
        });
        eventually("the last table is served", || {
            if feed.acknowledged() == last { Ok(()) } else { Err(feed.acknowledged()) }
        });
        last
    });
    assert!(failures.is_empty(), "{} of {sent} failed: {failures:#?}", failures.len());
    assert!(sent > 300, "only {sent} requests: that proves nothing");
    let swapped = swaps(&proxy) - before;
    // A proxy that cannot keep up skips snapshots, which is its right; it must have swapped many all the same.
    assert!(swapped >= 50.0, "{swapped} swaps for {last} snapshots");
    assert_eq!(proxy.state().unwrap().revision, SWAPS);
}

#[test]
fn no_request_fails_while_real_rules_and_instances_change() {
    let cluster = Cluster::start();
    let origins = [Origin::echo("origin"), Origin::echo("origin")];
    for origin in &origins {
        cluster.registry.register("s", &["live"], origin.address());
    }
    let proxy = cluster.proxy("gateway");
    proxy.await_instances(2);
    let (registry, control) = (cluster.registry.address(), cluster.control.address());
    let ((), sent, failures) = load(&proxy, || {
        for round in 0..60 {
            let weight = f64::from(round % 9 + 1) / 10.0;
            let rule = json!({"id": "r", "destination": "s", "route": {"backends": [
                {"tags": ["live"], "weight": weight}, {"tags": ["live"]}]}});
            let _ = post("/v1/rules", &json!({"rules": [rule]})).call(control).expect(201);
            let id = cluster.registry.register(
                "s",
                &["live", "copy"],
                format!("localhost:{}", origins[0].address().port()),
            );
            let _ = conformance::delete(format!("/api/v1/instances/{id}")).call(registry).expect(200);
        }
    });
    assert!(failures.is_empty(), "{} of {sent} failed: {failures:#?}", failures.len());
    assert!(sent > 100, "only {sent} requests: that proves nothing");
}
