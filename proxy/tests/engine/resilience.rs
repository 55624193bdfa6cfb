//! Instances that are new or unwell, seen from outside: who gets less than its part, and who is left alone.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{Instance, Proxy, route};

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
