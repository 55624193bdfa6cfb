//! Instances that are new or unwell, seen from outside: who gets less than its part, and who is left alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Instance, Proxy, field, ok, route, soon};

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
