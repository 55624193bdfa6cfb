//! What routes say about how often: limits, and trying again. When a limit is reached is tested where it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use std::time::Duration;

use proxy::server::Limits;
use serde_json::json;

use crate::support::{Instance, Proxy, get, ok, post, route, soon};

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
async fn a_client_stays_at_the_backend_that_its_key_has_drawn() {
    let (one, two) = (Instance::named("one").await, Instance::named("two").await);
    let instances = [("s", "v1", one.to_string()), ("s", "v2", two.to_string())];
    for (sticky, field) in
        [(json!({"cookie": "session"}), "Cookie: a=b; session="), (json!({"header": "X-User"}), "X-User: ")]
    {
        let weights = |first: f64| {
            route(
                json!({"sticky": sticky, "backends": [{"tags": ["v1"], "weight": first}, {"tags": ["v2"]}]}),
            )
        };
        let proxy = Proxy::with(&[weights(0.5)], &instances);
        let mut conn = proxy.connect().await;
        let mut ask = async |line: String| {
            conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\n{line}\r\n")).await;
            conn.answer().await.body
        };
        let mut kept = Vec::new();
        for key in 0..20 {
            let first = ask(format!("{field}{key}\r\n")).await;
            // Another id each time: it is the key that counts.
            for _ in 0..3 {
                assert_eq!(ask(format!("{field}{key}\r\n")).await, first, "{key}");
            }
            kept.push(first);
        }
        assert!((4..=16).contains(&kept.iter().filter(|name| *name == "one").count()), "{kept:?}");
        // Whoever has no key is drawn each time.
        let mut drawn = Vec::new();
        for id in 0..20 {
            drawn.push(ask(format!("X-Request-Id: {id}\r\n")).await);
        }
        assert!(drawn.contains(&"one".to_owned()) && drawn.contains(&"two".to_owned()), "{drawn:?}");
        // More for one takes nobody away from it.
        proxy.apply(&[weights(0.6)], &instances);
        for (key, before) in kept.iter().enumerate().filter(|(_, name)| *name == "one") {
            assert_eq!(ask(format!("{field}{key}\r\n")).await, *before, "{key}");
        }
    }
}

#[tokio::test]
async fn what_limits_do_is_seen_while_they_do_it() {
    let (mut held, (bad, _)) = (Instance::start().await, failing(500).await);
    let rules = [
        route(json!({"backends": [{"tags": ["v1"], "resilience": {"max_requests": 1}}]})),
        json!({"id": "bad", "destination": "b", "route": {"http_req_retries": 0,
            "backends": [{"tags": ["v1"], "resilience": {"consecutive_errors": 2}}]}}),
    ];
    let instances = [("s", "v1", held.at.to_string()), ("b", "v1", bad)];
    let proxy = Proxy::with(&rules, &instances);
    let mut first = proxy.connect().await;
    first.send(get("/s")).await;
    let (mut conn, _) = held.request().await;
    let labels = r#"{backend="v1",rule="r",service="s"}"#;
    let (in_flight, open) =
        (format!("a8_proxy_requests_in_flight{labels}"), format!("a8_proxy_breaker_open{labels}"));
    assert_eq!((proxy.metric(&in_flight), proxy.metric(&open)), (Some(1.0), Some(1.0)));
    assert_eq!(proxy.ask(&get("/s")).await.error(), "overloaded");
    conn.send(ok("x")).await;
    assert_eq!(first.answer().await.body, "x");
    proxy.metric_becomes(&in_flight, 0.0).await;
    assert_eq!(proxy.metric(&open), Some(0.0));

    let (ejections, ejected) = (
        r#"a8_proxy_ejections_total{kind="consecutive_errors",service="b"}"#,
        r#"a8_proxy_ejected_instances{service="b"}"#,
    );
    assert_eq!((proxy.metric(ejections), proxy.metric(ejected)), (None, None));
    for _ in 0..2 {
        assert_eq!(proxy.ask(&get("/b")).await.status, 500);
    }
    assert_eq!((proxy.metric(ejections), proxy.metric(ejected)), (Some(1.0), Some(1.0)));
    // What is no more is not on the page, whatever it was.
    proxy.apply(&[], &instances[..1]);
    soon("the old table's end", async {
        while proxy.metric(&in_flight).is_some() || proxy.metric(ejected).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_has_no_room_for_series_of_its_own_is_counted_together() {
    let instance = Instance::named("x").await;
    let abort = json!({"id": "a", "destination": "t", "actions": [{"action": "abort", "return_code": 418}]});
    let proxy = Proxy::told(
        &[format!("--engine={}", crate::chosen::ENGINE), "--metrics_series_max=2".to_owned()],
        Limits::default(),
        &[route(json!({})), abort],
        &[("s", "v1", instance.to_string()), ("t", "v1", instance.to_string())],
    );
    for path in ["/s", "/t", "/t"] {
        proxy.ask(&get(path)).await;
    }
    let folded = r#"{backend="__overflow__",code="418",rule="__overflow__",service="__overflow__"}"#;
    proxy.metric_becomes(&format!("a8_proxy_requests_total{folded}"), 2.0).await;
    let faults = r#"a8_proxy_faults_total{action="abort",rule="__overflow__",service="__overflow__"}"#;
    assert_eq!(proxy.metric(faults), Some(2.0));
    assert_eq!(
        proxy.metric(r#"a8_proxy_requests_total{backend="v1",code="200",rule="r",service="s"}"#),
        Some(1.0)
    );
    assert_eq!(proxy.metric("a8_proxy_series_folded"), Some(3.0));
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
                tokio::time::sleep(Duration::from_millis(100)).await;
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
