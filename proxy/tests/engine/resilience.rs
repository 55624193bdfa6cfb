//! Instances that are new or unwell, seen from outside: who gets less than its part, and who is left alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::support::{Instance, Proxy, field, nobody, ok, route, soon};

/// How many of `count` requests each instance answered, by its name. The ids, and so the draws, are the same every time.
async fn turns(proxy: &Proxy, count: usize) -> BTreeMap<String, usize> {
    let (mut conn, mut turns) = (proxy.connect().await, BTreeMap::new());
    for id in 0..count {
        conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\nX-Request-Id: id-{id}\r\n\r\n")).await;
        *turns.entry(conn.answer().await.body).or_default() += 1;
    }
    turns
}

#[tokio::test]
async fn an_instance_that_comes_up_later_gets_a_tenth_of_its_part_at_first() {
    let mut instances = Vec::new();
    for name in ["a", "b", "c"] {
        instances.push(("s", "v1", Instance::named(name).await.to_string()));
    }
    let rules = |window: u32| [route(json!({"backends": [{"tags": ["v1"], "slow_start": window}]}))];
    let proxy = Proxy::with(&rules(3600), &instances[..2]);
    assert_eq!(turns(&proxy, 60).await["a"], 30, "who was there at the start is not new");
    proxy.stage.board.settle();
    proxy.apply(&rules(3600), &instances);
    let while_new = turns(&proxy, 300).await;
    // 100 turns, of which it keeps a tenth; five standard deviations are 15.
    assert!((1..25).contains(&while_new["c"]), "{while_new:?}");
    assert!(while_new["a"].abs_diff(while_new["b"]) < 40, "{while_new:?}");
    proxy.apply(&rules(0), &instances);
    let even = turns(&proxy, 300).await;
    assert_eq!(even["c"], 100, "without the rule it has its whole part: {even:?}");
}

/// Instances by these names, each of which fails whatever names it in `X-Fail`.
async fn fragile(names: &[&'static str]) -> Vec<(&'static str, &'static str, String)> {
    let mut instances = Vec::new();
    for name in names.iter().copied() {
        let at = Instance::answering(move |head, _| match field(head, "x-fail") {
            Some(failing) if failing.contains(name) => {
                "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
            _ => ok(name),
        });
        instances.push(("s", "v1", at.await.to_string()));
    }
    instances
}

/// Asks so many times, and makes these instances fail it. Nothing is tried again.
async fn ask_failing(proxy: &Proxy, failing: &str, count: usize) {
    let mut conn = proxy.connect().await;
    for _ in 0..count {
        conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\nX-Fail: {failing}\r\n\r\n")).await;
        conn.answer().await;
    }
}

fn resilient(resilience: Value) -> Value {
    let once = json!({"on": ["reset"]});
    route(json!({"backends": [{"tags": ["v1"], "resilience": resilience}], "retries": once}))
}

const IN_A_ROW: &str = r#"a8_proxy_ejections_total{kind="consecutive_errors",service="s"}"#;
const BY_RATE: &str = r#"a8_proxy_ejections_total{kind="success_rate",service="s"}"#;
const PANICKING: &str = r#"a8_proxy_panicking_backends{service="s"}"#;

#[tokio::test]
async fn an_instance_that_does_worse_than_the_others_is_left_alone() {
    let instances = fragile(&["a", "b", "c", "d", "e"]).await;
    // Far from as many failures in a row as eject.
    let rule = resilient(json!({"success_rate": {"minimum_requests": 4}, "detection_interval": 0.3,
        "consecutive_errors": 100_000, "sleep_window": 1000}));
    let proxy = Proxy::with(std::slice::from_ref(&rule), &instances);
    soon("an ejection", async {
        while proxy.metric(BY_RATE).is_none() {
            ask_failing(&proxy, "c", 10).await;
        }
    })
    .await;
    assert_eq!((proxy.metric(BY_RATE), proxy.metric(IN_A_ROW)), (Some(1.0), None));
    let left = turns(&proxy, 40).await;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["a", "b", "d", "e"], "{left:?}");
    proxy.apply(&[rule], &instances);
    assert_eq!(turns(&proxy, 40).await.len(), 4, "another table does not pardon");
}

#[tokio::test]
async fn failures_eject_no_more_at_once_than_the_rule_lets() {
    for (percent, most) in [(10, 1.0), (50, 2.0), (100, 4.0), (0, 4.0)] {
        let instances = fragile(&["a", "b", "c", "d"]).await;
        let rule = resilient(
            json!({"consecutive_errors": 2, "sleep_window": 1000, "max_ejection_percent": percent}),
        );
        let proxy = Proxy::with(&[rule], &instances);
        ask_failing(&proxy, "abcd", 60).await;
        assert_eq!(proxy.metric(IN_A_ROW), Some(most), "{percent}%");
        let left = turns(&proxy, 40).await.len();
        // Nobody left is nobody left alone.
        assert_eq!(left, if most == 4.0 { 4 } else { 4 - most as usize }, "{percent}%");
    }
}

#[tokio::test]
async fn all_are_used_when_too_few_are_left() {
    let instances = fragile(&["a", "b", "c"]).await;
    let limits = |threshold: u32| {
        resilient(
            json!({"consecutive_errors": 1, "sleep_window": 1000, "panic_threshold_percent": threshold}),
        )
    };
    let proxy = Proxy::with(&[limits(50)], &instances);
    ask_failing(&proxy, "ab", 3).await;
    assert_eq!(proxy.metric(IN_A_ROW), Some(2.0));
    let all = turns(&proxy, 30).await;
    assert_eq!(all, [("a", 10), ("b", 10), ("c", 10)].map(|(name, count)| (name.to_owned(), count)).into());
    proxy.metric_becomes(PANICKING, 1.0).await;
    proxy.apply(&[limits(30)], &instances);
    assert_eq!(turns(&proxy, 30).await["c"], 30, "a third is enough for thirty percent");
    proxy.metric_becomes(PANICKING, 0.0).await;
}

fn checked(check: Value) -> Value {
    let mut fields =
        json!({"interval_s": 0.1, "timeout_s": 1, "unhealthy_threshold": 2, "healthy_threshold": 2});
    check.as_object().unwrap().iter().for_each(|(key, value)| fields[key] = value.clone());
    json!({"id": "h", "destination": "s", "health_check": fields})
}

const UNHEALTHY: &str = r#"a8_proxy_unhealthy_instances{service="s"}"#;

/// An instance that answers requests whatever it says of its health, and how it says that.
async fn sickly(name: &'static str) -> (SocketAddr, Arc<AtomicU16>) {
    let health = Arc::new(AtomicU16::new(200));
    let said = Arc::clone(&health);
    let at = Instance::answering(move |head, _| {
        if head.starts_with("GET /health?deep HTTP/1.1\r\n") {
            assert_eq!(field(head, "user-agent"), Some("a8-health-check"));
            let status = said.load(Ordering::Relaxed);
            return format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        }
        ok(name)
    });
    (at.await, health)
}

#[tokio::test]
async fn an_instance_that_says_it_is_unwell_gets_no_requests_until_it_says_otherwise() {
    let ((a, health), (b, _)) = (sickly("a").await, sickly("b").await);
    let instances = [a, b].map(|at| ("s", "v1", at.to_string()));
    let rule = checked(json!({"type": "http", "path": "/health?deep"}));
    let proxy = Proxy::with(std::slice::from_ref(&rule), &instances);
    assert_eq!(turns(&proxy, 20).await.len(), 2, "healthy until found otherwise");
    for status in [500, 302] {
        health.store(status, Ordering::Relaxed);
        proxy.metric_becomes(UNHEALTHY, 1.0).await;
        assert_eq!(turns(&proxy, 20).await["b"], 20);
        proxy.apply(std::slice::from_ref(&rule), &instances);
        assert_eq!(turns(&proxy, 20).await["b"], 20, "a new table knows as well");
        health.store(204, Ordering::Relaxed);
        proxy.metric_becomes(UNHEALTHY, 0.0).await;
        assert_eq!(turns(&proxy, 20).await["a"], 10);
    }
    assert!(proxy.metric(r#"a8_proxy_health_checks_total{result="failure",service="s"}"#).unwrap() >= 4.0);
    health.store(500, Ordering::Relaxed);
    proxy.metric_becomes(UNHEALTHY, 1.0).await;
    proxy.apply(&[], &instances);
    proxy.metric_becomes(UNHEALTHY, 0.0).await;
    assert_eq!(turns(&proxy, 20).await["a"], 10, "without the rule nobody knows");
}

#[tokio::test]
async fn an_instance_that_is_away_or_silent_is_found_before_a_request_finds_it() {
    let named = Instance::named("up").await;
    let silent = Instance::start().await;
    for (down, check) in [
        (nobody().await, json!({"type": "tcp"})),
        (nobody().await, json!({"type": "http"})),
        (silent.at, json!({"type": "http"})),
        (silent.at, json!({"type": "grpc"})),
    ] {
        let instances = [named, down].map(|at| ("s", "v1", at.to_string()));
        // Whoever is up speaks no gRPC either; one that is unhealthy with everybody else is asked all the same.
        let unhealthy = if check["type"] == "grpc" { 2.0 } else { 1.0 };
        let proxy = Proxy::with(&[checked(check.clone())], &instances);
        proxy.metric_becomes(UNHEALTHY, unhealthy).await;
        if unhealthy == 1.0 {
            assert_eq!(turns(&proxy, 20).await["up"], 20, "{check}");
            assert_eq!(proxy.metric(r#"a8_proxy_retries_total{service="s"}"#), None, "{check}");
        }
    }
}

#[tokio::test]
async fn another_port_may_answer_for_the_instance_and_panic_goes_for_the_unhealthy_too() {
    let (named, (health_port, health)) = (Instance::named("x").await, sickly("y").await);
    let check = checked(json!({"type": "http", "path": "/health?deep", "port": health_port.port()}));
    let panic = resilient(json!({"panic_threshold_percent": 60}));
    let other = Instance::named("z").await;
    let instances = [("s", "v1", named.to_string()), ("s", "v1", other.to_string())];
    let proxy = Proxy::with(&[check.clone(), panic], &instances);
    health.store(503, Ordering::Relaxed);
    // Both are asked at the same place.
    proxy.metric_becomes(UNHEALTHY, 2.0).await;
    proxy.metric_becomes(PANICKING, 1.0).await;
    assert_eq!(turns(&proxy, 20).await["x"], 10);
    health.store(200, Ordering::Relaxed);
    proxy.metric_becomes(UNHEALTHY, 0.0).await;
    proxy.metric_becomes(PANICKING, 0.0).await;
}
