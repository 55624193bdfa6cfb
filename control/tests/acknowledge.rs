//! The poll is the acknowledgement, from outside (design.md 5): rejections, the list of proxies, writes that
//! wait until they are applied, and the time it takes.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Answer;
use support::watch::{after, index, metric, poll, route, started};
use tokio::time::Instant;

#[tokio::test]
async fn a_rejected_snapshot_is_not_sent_again_until_there_is_a_newer_one() {
    let (_registry, control) = started(&[]).await;
    let http = &control.http;
    let served = poll(http, "node=a").await;
    http.post_rules(json!([route("bad", "reviews")])).await;
    assert_eq!(index(&poll(http, &format!("{}&node=a", after(&served))).await.is(200)), 2);

    let rejecting = format!("{}&node=a&rejected=2&reason=too%20odd", after(&served));
    let held = poll(http, &format!("{rejecting}&wait=50ms")).await.is(304);
    assert_eq!(after(&held), after(&served), "it must not adopt what it does not hold");

    let reported = http.get("/v1/proxies").await.json()["proxies"][0].clone();
    assert_eq!((&reported["index"], &reported["revision"]), (&json!(1), &json!(0)));
    assert_eq!(
        (&reported["rejected"]["index"], &reported["rejected"]["reason"]),
        (&json!(2), &json!("too odd"))
    );
    assert!(reported["rejected"]["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(metric(&control, "a8_control_rejections_total").await, 1.0);

    // The node counts as a laggard of it.
    let (waited, _) = tokio::join!(http.delete("/v1/rules?id=nobody&wait=applied&timeout=200ms"), async {
        let newer = poll(http, &rejecting).await.is(200);
        assert_eq!((index(&newer), newer.json()["from"].clone()), (3, json!(1)));
    });
    assert_eq!(waited.json()["applied"]["laggards"], json!(["a"]));

    let newest = poll(http, "").await;
    poll(http, &format!("{}&node=a&wait=0", after(&newest))).await.is(304);
    let reported = http.get("/v1/proxies").await.json()["proxies"][0].clone();
    assert_eq!((&reported["rejected"], &reported["index"]), (&Value::Null, &json!(3)));
}

#[tokio::test]
async fn a_rejection_of_the_first_snapshot_of_a_new_life_is_held_too() {
    let (_registry, control) = started(&[]).await;
    // It serves something of another life, got index 1 of this one, and could not use it.
    let of_before = "epoch=before&index=40&node=a";
    assert_eq!(poll(&control.http, of_before).await.is(200).json()["full"], json!(true));
    let held = poll(&control.http, &format!("{of_before}&rejected=1&wait=50ms")).await.is(304);
    assert_eq!((held.header("a8-epoch"), held.header("a8-index")), ("before", "40"));
    // One that rejected an index of that other life gets what this one has.
    let other = "epoch=before&index=40&node=b&rejected=1";
    assert_eq!(poll(&control.http, other).await.is(200).json()["full"], json!(true));
}

#[tokio::test]
async fn proxies_are_reported_by_what_serves_there() {
    let (_registry, control) = started(&[]).await;
    let http = &control.http;
    let full = poll(http, "node=b&service=reviews&tag=v1&tag=env%3Dprod&version=1.2").await;
    poll(http, "node=a").await;
    http.post_rules(json!([route("x", "reviews")])).await;
    let next =
        poll(http, &format!("{}&node=b&service=reviews&tag=v1&tag=env%3Dprod&version=1.2", after(&full)))
            .await;
    poll(http, &format!("{}&node=a&wait=0", after(&next))).await.is(304);
    let body = http.get("/v1/proxies").await.is(200).json();
    let proxies = body["proxies"].as_array().unwrap();
    assert_eq!(proxies.len(), 2, "who tells no node is not listed");
    let (a, b) = (&proxies[0], &proxies[1]);
    assert_eq!(
        (&a["node"], &a["index"], &a["revision"], &a["lag_ms"]),
        (&json!("a"), &json!(2), &json!(1), &json!(0))
    );
    assert_eq!((&a["service"], &a["tags"]), (&json!(""), &json!([])));
    assert_eq!((&b["node"], &b["index"], &b["revision"]), (&json!("b"), &json!(1), &json!(0)));
    assert_eq!(
        (&b["service"], &b["tags"], &b["version"]),
        (&json!("reviews"), &json!(["v1", "env=prod"]), &json!("1.2"))
    );
    assert_eq!((&b["connected"], &b["rejected"]), (&json!(true), &Value::Null));
    assert!(b["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(b["last_seen_ms"].is_u64() && b["lag_ms"].is_u64());
}

#[tokio::test]
async fn a_write_waits_until_every_connected_proxy_serves_it() {
    let (_registry, control) = started(&[]).await;
    let http = &control.http;
    let nobody =
        http.json("POST", "/v1/rules?wait=applied", &json!({"rules": [route("x", "a")]})).await.is(201);
    let applied = json!({"proxies": 0, "serving": 0, "laggards": []});
    assert_eq!(nobody.json(), json!({"ids": ["x"], "revision": 1, "applied": applied}));

    // One proxy that serves whatever it is told, one that never does.
    let obedient = tokio::spawn({
        let http = http.clone();
        async move {
            let mut at = poll(&http, "node=obedient").await;
            loop {
                at = poll(&http, &format!("{}&node=obedient", after(&at))).await;
            }
        }
    });
    let obeys = |answer: &Answer| answer.json()["proxies"][0]["revision"] == json!(1);
    control.eventually("/v1/proxies", obeys).await;
    let put = json!({"rules": [route("x", "b")]});
    let all = http.json("PUT", "/v1/rules?wait=applied&timeout=10s", &put).await.is(200);
    let applied = json!({"proxies": 1, "serving": 1, "laggards": []});
    assert_eq!(all.json(), json!({"revision": 2, "applied": applied}));
    assert_eq!(all.header("a8-revision"), "2");

    let stuck = poll(http, "node=stuck").await;
    let stuck = format!("{}&node=stuck&rejected=99", after(&stuck));
    let begun = Instant::now();
    let (some, _) = tokio::join!(http.delete("/v1/rules?wait=applied&timeout=150ms"), poll(http, &stuck));
    assert!(begun.elapsed() >= Duration::from_millis(150));
    let applied = json!({"proxies": 2, "serving": 1, "laggards": ["stuck"]});
    assert_eq!(some.is(200).json(), json!({"revision": 3, "applied": applied}));
    obedient.abort();
}

#[tokio::test]
async fn a_proxy_that_goes_away_holds_no_write_back() {
    let (_registry, control) = started(&[]).await;
    poll(&control.http, "node=short-lived").await.is(200);
    let begun = Instant::now();
    let answer = control.http.delete("/v1/rules?wait=applied&timeout=60s").await.is(200);
    assert_eq!(answer.json()["applied"], json!({"proxies": 0, "serving": 0, "laggards": []}));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "five seconds after its last poll it is not connected"
    );
}

#[tokio::test]
async fn a_proxy_that_goes_away_in_the_middle_of_its_poll_holds_no_write_back_either() {
    let (_registry, control) = started(&[]).await;
    let first = poll(&control.http, "node=falling").await;
    // It will not take the next snapshot, so its poll is still in flight when the write begins to wait.
    let query = format!("{}&node=falling&rejected={}", after(&first), index(&first) + 1);
    let http = control.http.clone();
    let falling = tokio::spawn(async move { poll(&http, query).await });
    control.eventually("/v1/proxies", |answer| !answer.json()["proxies"][0]["rejected"].is_null()).await;
    let begun = Instant::now();
    let http = control.http.clone();
    let write = tokio::spawn(async move { http.delete("/v1/rules?wait=applied&timeout=15s").await });
    control.eventually("/v1/rules", |answer| answer.json()["revision"] == json!(1)).await;
    falling.abort();
    let answer = support::within(write).await.unwrap().is(200);
    assert_eq!(answer.json()["applied"], json!({"proxies": 0, "serving": 0, "laggards": []}));
    assert!(begun.elapsed() < Duration::from_secs(12));
}

#[tokio::test]
async fn the_way_of_a_change_is_measured_per_proxy() {
    let (_registry, control) = started(&[]).await;
    let http = &control.http;
    let count = "a8_control_propagation_seconds_count";
    let mut at = poll(http, "node=a").await;
    for n in 0..3 {
        at = poll(http, &format!("{}&node=a&wait=0", after(&at))).await;
        assert_eq!(metric(&control, count).await, f64::from(n), "joining is no change");
        http.post_rules(json!([route("x", &format!("d{n}"))])).await;
        at = poll(http, &format!("{}&node=a", after(&at))).await.is(200);
    }
    assert_eq!(metric(&control, "a8_control_proxies").await, 1.0);
}
