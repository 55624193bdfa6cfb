//! What routes say about how often: limits, and trying again. When a limit is reached is tested where it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::support::{Instance, Proxy, get, ok, post, route};

#[tokio::test]
async fn more_requests_than_the_route_lets_pass_are_told_when_to_come_again() {
    let instance = Instance::named("x").await;
    let rule = route(json!({"rate_limit": {"requests_per_s": 0.01, "burst": 2}}));
    let abort = json!({"id": "a", "destination": "s", "match": {"headers": {"X": "abort"}},
        "actions": [{"action": "abort", "return_code": 418}]});
    let proxy = Proxy::with(&[rule, abort], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    for _ in 0..3 {
        // What a rule fails is nobody's burden.
        conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX: abort\r\n\r\n").await;
        assert_eq!(conn.answer().await.status, 418);
    }
    for request in [get("/s"), post("/s", "body")] {
        conn.send(request).await;
        assert_eq!(conn.answer().await.body, "x");
    }
    for request in [get("/s"), post("/s", "body")] {
        conn.send(request).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (429, "rate_limited"));
        let wait: u64 = answer.field("retry-after").unwrap().parse().unwrap();
        assert!((90..=100).contains(&wait), "{wait}");
        assert!(answer.goes_on());
    }
    let log = proxy.log(7).await;
    assert_eq!(log.iter().filter(|line| line["response_flags"] == "RL").count(), 2, "{log:?}");
    assert_eq!(proxy.metric(r#"a8_proxy_rate_limited_total{rule="r",service="s"}"#), Some(2.0));
}

#[tokio::test]
async fn a_limit_by_key_leaves_other_keys_alone() {
    let instance = Instance::named("x").await;
    let rule = route(json!({"rate_limit": {"requests_per_s": 0.01, "burst": 1, "key": {"header": "X-Key"}}}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    for (key, status) in [("a", 200), ("b", 200), ("a", 429), ("b", 429), ("c", 200)] {
        conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\n\r\n")).await;
        assert_eq!(conn.answer().await.status, status, "{key}");
    }
}

/// An instance that fails with a status, and how often it was asked.
async fn failing(status: u16) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let at = Instance::answering(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    (at.to_string(), asked)
}

#[tokio::test]
async fn retries_end_with_their_budget() {
    let (at, asked) = failing(500).await;
    let proxy = Proxy::with(
        &[route(json!({"retries": {"count": 90, "backoff_ms": 1},
        "backends": [{"tags": ["v1"], "resilience": {"consecutive_errors": 1000}}]}))],
        &[("s", "v1", at)],
    );
    // Thirty are saved up, and three more come every second.
    assert_eq!(proxy.ask(&get("/s")).await.status, 500);
    let asked = asked.load(Ordering::Relaxed);
    assert!((31..60).contains(&asked), "{asked}");
    assert_eq!(proxy.metric(r#"a8_proxy_retry_budget_exhausted_total{service="s"}"#), Some(1.0));
}

#[tokio::test]
async fn a_route_names_what_is_tried_again() {
    for (status, method, times) in [(503, "GET", 3), (500, "GET", 1), (429, "GET", 3), (503, "DELETE", 1)] {
        let (at, asked) = failing(status).await;
        let rule =
            route(json!({"retries": {"count": 2, "on": ["gateway-error", "429"], "methods": ["GET"]}}));
        let proxy = Proxy::with(&[rule], &[("s", "v1", at)]);
        let answer = proxy.ask(&format!("{method} /s HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!((answer.status, asked.load(Ordering::Relaxed)), (status, times), "{method}");
    }
}

#[tokio::test]
async fn a_client_without_a_key_of_its_own_is_known_by_its_address() {
    let mut instances = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        instances.push(("s", "v1", Instance::answering(move |_, _| ok(name)).await.to_string()));
    }
    let rule =
        route(json!({"backends": [{"tags": ["v1"], "lb_type": "ring_hash", "hash_on": {"source": true}}]}));
    let proxy = Proxy::with(&[rule], &instances);
    let first = proxy.ask(&get("/s")).await.body;
    for _ in 0..10 {
        assert_eq!(proxy.ask(&get("/s")).await.body, first);
    }
}

#[tokio::test]
async fn a_slow_instance_is_asked_less_often() {
    let fast = Instance::named("fast").await;
    let mut slow = Instance::start().await;
    let at = slow.at;
    tokio::spawn(async move {
        loop {
            let mut conn = slow.accept().await;
            while let Some(_head) = conn.try_head().await {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                conn.send(ok("slow")).await;
            }
        }
    });
    let rule = route(json!({"backends": [{"tags": ["v1"], "lb_type": "p2c_ewma"}]}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", fast.to_string()), ("s", "v1", at.to_string())]);
    let mut conn = proxy.connect().await;
    let mut count = 0;
    for _ in 0..30 {
        conn.send(get("/s")).await;
        count += usize::from(conn.answer().await.body == "slow");
    }
    assert!(count <= 2, "{count}");
}
