//! Connections to instances: how many requests one carries, and what follows when none comes about.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Instance, Proxy, get, nobody, ok, post, route};

#[tokio::test]
async fn a_connection_carries_no_more_requests_than_the_rule_allows() {
    for max in [1, 2] {
        let mut instance = Instance::start().await;
        let at = instance.at;
        let rule = route(json!({"backends": [{"tags": ["v1"],
            "resilience": {"max_requests_per_connection": max}}]}));
        let proxy = Proxy::with(&[rule], &[("s", "v1", at.to_string())]);
        let (most, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen_most, seen_all) = (Arc::clone(&most), Arc::clone(&all));
        tokio::spawn(async move {
            loop {
                let mut conn = instance.accept().await;
                let (most, all) = (Arc::clone(&seen_most), Arc::clone(&seen_all));
                tokio::spawn(async move {
                    let mut carried = 0;
                    while let Some(head) = conn.try_head().await {
                        conn.body_of(&head).await;
                        carried += 1;
                        most.fetch_max(carried, Ordering::Relaxed);
                        all.fetch_add(1, Ordering::Relaxed);
                        conn.send(ok("x")).await;
                    }
                });
            }
        });
        let mut conn = proxy.connect().await;
        for request in [get("/s"), post("/s", "body"), get("/s"), get("/s"), post("/s", "body")] {
            conn.send(request).await;
            assert_eq!(conn.answer().await.body, "x");
        }
        // A client that takes trailers says so in the same field.
        conn.send("GET /s HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n").await;
        assert_eq!(conn.answer().await.body, "x");
        assert_eq!(all.load(Ordering::Relaxed), 6);
        let most = most.load(Ordering::Relaxed);
        assert!((1..=max).contains(&most), "{most} of {max}");
    }
}

/// Instances of which only the last is there.
async fn one_of(dead: usize) -> Vec<(&'static str, &'static str, String)> {
    let mut instances = Vec::new();
    for _ in 0..dead {
        instances.push(("s", "v1", nobody().await.to_string()));
    }
    instances.push(("s", "v1", Instance::named("alive").await.to_string()));
    instances
}

#[tokio::test]
async fn no_client_learns_that_instances_are_gone_while_another_lives() {
    let one_retry = route(json!({"http_req_retries": 1}));
    for rules in [&[][..], &[one_retry]] {
        let proxy = Proxy::with(rules, &one_of(9).await);
        let mut conn = proxy.connect().await;
        for request in [get("/s"), post("/s", "pay"), get("/s")] {
            conn.send(request).await;
            assert_eq!(conn.answer().await.body, "alive");
        }
    }
}

#[tokio::test]
async fn each_instance_that_is_gone_is_asked_once_and_then_the_client_is_told() {
    let gone = [nobody().await, nobody().await, nobody().await, nobody().await];
    let instances = gone.map(|at| ("s", "v1", at.to_string()));
    let proxy = Proxy::with(&[route(json!({"http_req_retries": 1}))], &instances);
    let answer = proxy.ask(&get("/s")).await;
    assert_eq!((answer.status, &*answer.error()), (503, "upstream_connect"));
    assert_eq!(proxy.metric(r#"a8_proxy_retries_total{service="s"}"#), Some(3.0));
}

#[tokio::test]
async fn what_an_instance_may_have_seen_is_not_sent_to_another_beyond_the_rule() {
    let asked = Arc::new(AtomicUsize::new(0));
    let mut instances: Vec<(&str, &str, String)> = Vec::new();
    for _ in 0..3 {
        let count = Arc::clone(&asked);
        let at = Instance::answering(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_owned()
        })
        .await;
        instances.push(("s", "v1", at.to_string()));
    }
    let rule: Value = route(json!({"http_req_retries": 1}));
    let proxy = Proxy::with(&[rule], &instances);
    assert_eq!(proxy.ask(&get("/s")).await.status, 503);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}
