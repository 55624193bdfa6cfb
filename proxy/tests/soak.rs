//! The lane under clients of HTTP/1.1 and HTTP/2 and instances that break off anywhere, slow readers, large bodies and tables
//! that change twenty times a second; at the end nothing may be left of any of it. It measures no speed.
//!
//! `SOAK_SECONDS` says for how long; `SOAK_SEED` repeats the choices of a run, though not its timing.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

#[path = "soak/client.rs"]
mod client;
#[path = "soak/instance.rs"]
mod instance;
#[path = "soak/multiplexed.rs"]
mod multiplexed;
#[path = "engine/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the suite of one engine needs more of it")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proxy::server::Limits;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::client::Tally;
use self::instance::Instance;
use self::support::{Proxy, get, soon};

mod chosen {
    pub(crate) const ENGINE: &str = "lane";
}

/// Run unless the environment says otherwise; by hand it should be 120.
const SECONDS: u64 = 5;
const CLIENTS: u64 = 48;
/// Those of HTTP/2, each with several requests at once.
const MULTIPLEXED: u64 = 12;
const INSTANCES: usize = 3;
const SWAP_EVERY: Duration = Duration::from_millis(50);
/// How long what was begun may take to end.
const LAST_ONES_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_clients_and_instances_that_break_off_anywhere() {
    let seconds = number("SOAK_SECONDS").unwrap_or(SECONDS);
    let seed = number("SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("SOAK_SEED={seed}");
    let instances = start(INSTANCES, seed).await;
    let limits = Limits { drain_within: LAST_ONES_WITHIN, ..Limits::default() };
    let proxy = Arc::new(Proxy::running(chosen::ENGINE, limits, &[], &[]));
    apply(&proxy, &instances, 0);
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (at, done) = (proxy.http, Arc::clone(&done));
        clients.spawn(client::run(at, seed.wrapping_add(number), done));
    }
    let mut many = JoinSet::new();
    for number in 0..MULTIPLEXED {
        let (at, done) = (proxy.http, Arc::clone(&done));
        many.spawn(multiplexed::run(at, seed.wrapping_add(CLIENTS + number), done));
    }
    let rounds = Duration::from_secs(seconds).as_millis() / SWAP_EVERY.as_millis();
    for round in 0..rounds {
        // This is the pace of the swaps; nothing is waited for.
        tokio::time::sleep(SWAP_EVERY).await;
        apply(&proxy, &instances, usize::try_from(round).unwrap());
    }
    done.store(true, Ordering::Relaxed);
    for mut clients in [clients, many] {
        let mut tally = Tally::default();
        let ending = async {
            while let Some(client) = clients.join_next().await {
                tally.add(&client.unwrap());
            }
        };
        tokio::time::timeout(LAST_ONES_WITHIN, ending).await.expect("every client comes to its end");
        println!("{tally:?}");
        tally.covers(seconds);
    }
    for instance in &instances {
        assert_eq!(instance.complaints(), [""; 0], "requests that are none");
    }
    leaves_nothing(&proxy).await;
    still_serves(&proxy, &instances).await;
    leaves_nothing(&proxy).await;
    // A request that nobody ended would hold the end up.
    Arc::into_inner(proxy).expect("every client has ended").ended().await;
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

async fn start(count: usize, seed: u64) -> Vec<Instance> {
    let mut instances = Vec::new();
    for number in 0..count {
        instances.push(Instance::start(seed ^ number as u64).await);
    }
    instances
}

/// Another table each round: one instance comes and goes, and so do rules.
fn apply(proxy: &Proxy, instances: &[Instance], round: usize) {
    let present = instances.len() - usize::from(round % 3 == 1);
    let instances: Vec<_> =
        instances[..present].iter().map(|instance| ("s", "v1", instance.at.to_string())).collect();
    let mut rules: Vec<Value> = vec![
        json!({"id": "delay", "destination": "s", "match": {"headers": {"X-Fault": "delay"}},
            "actions": [{"action": "delay", "duration": 0.05}]}),
        json!({"id": "abort", "destination": "s", "match": {"headers": {"X-Fault": "abort"}},
            "actions": [{"action": "abort", "return_code": 418}]}),
    ];
    if round.is_multiple_of(2) {
        rules.push(json!({"id": "route", "destination": "s", "route": {"backends": [{"tags": ["v1"]}]}}));
    }
    proxy.apply(&rules, &instances);
}

/// All clients are gone, so everything that was for them must be.
async fn leaves_nothing(proxy: &Proxy) {
    proxy.metric_becomes("a8_proxy_active_connections", 0.0).await;
    soon("no attempt to be counted as in flight", async {
        while in_flight(proxy) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    if chosen::ENGINE == "lane" {
        proxy.metric_becomes("a8_proxy_lane_buffers", 0.0).await;
        let kept = proxy.metric("a8_proxy_upstream_connections").expect("the lane counts what it keeps");
        assert!((0.0..=4096.0).contains(&kept), "{kept} connections are kept");
    }
    assert_eq!(proxy.metric("a8_proxy_access_log_dropped_total"), Some(0.0));
}

/// Requests counted for backends and attempts counted for instances.
fn in_flight(proxy: &Proxy) -> u32 {
    let table = proxy.stage.tables.pin();
    let mut count = 0;
    for service in table.services() {
        count += service.endpoints().iter().map(|endpoint| endpoint.live.active()).sum::<u32>();
        for backend in service.backends() {
            count += backend.live.in_flight();
            count += backend.endpoints.iter().map(|endpoint| endpoint.live.active()).sum::<u32>();
        }
    }
    count
}

/// With instances that behave, after whatever they were ejected for.
async fn still_serves(proxy: &Proxy, instances: &[Instance]) {
    for instance in instances {
        instance.behave();
    }
    // A place that has never failed: the old ones may still be left alone for what they did.
    let fresh = Instance::start(0).await;
    fresh.behave();
    proxy.apply(&[], &[("s", "v1", fresh.at.to_string())]);
    let mut conn = proxy.connect().await;
    let request = get("/s/after").replace("Host", "X-Id: after\r\nHost");
    for _ in 0..20 {
        conn.send(&request).await;
        let answer = conn.answer().await;
        assert!(answer.field("x-a8-error").is_none(), "{answer:?}");
    }
}
