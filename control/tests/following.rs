//! The registry behind control, from outside (design.md 5, settled points 9 to 11): what a change, an
//! absence or a new life of it does to the snapshots.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::time::Duration;

use registry_api::{Change, Reason};
use serde_json::json;
use support::registry::{instance, instance_with_ttl};
use support::watch::{after, ids, metric, poll, route, started};
use support::{Control, Http, Registry};
use tokio::time::Instant;

#[tokio::test]
async fn changes_of_instances_arrive_with_their_reasons() {
    let (registry, control) = started(&[]).await;
    let mut at = poll(&control.http, "").await;
    let (one, two, three) =
        (instance("i1", "reviews", &["v1"]), instance("i2", "ratings", &[]), instance("i3", "new", &[]));
    let gone = |instance: &registry_api::Instance, reason| Change::Delete {
        id: instance.id.clone(),
        service_name: instance.service_name.clone(),
        reason,
    };
    for (change, put, delete) in [
        (Change::Put(three), vec!["i3"], json!([])),
        (
            gone(&one, Reason::Deregistered),
            vec![],
            json!([{"id": "i1", "service_name": "reviews", "reason": "deregistered"}]),
        ),
        (
            gone(&two, Reason::Expired),
            vec![],
            json!([{"id": "i2", "service_name": "ratings", "reason": "expired"}]),
        ),
    ] {
        registry.changes("default", vec![change]);
        at = poll(&control.http, &after(&at)).await.is(200);
        let body = at.json();
        assert_eq!((ids(&body["instances_put"]), &body["instances_delete"]), (put, &delete));
    }
    assert_eq!(ids(&poll(&control.http, "").await.json()["instances"]), ["i3"]);
}

#[tokio::test]
async fn until_the_registry_was_heard_a_watch_is_held_and_then_refused() {
    let registry = Registry::start().await;
    registry.refuses(true);
    let control = Control::start(&registry, &[]).await;
    control.http.get("/health").await.is(200);
    assert!(control.http.get("/readyz").await.is(503).text().contains("registry"));
    control.http.post_rules(json!([route("x", "reviews")])).await;
    assert_eq!(poll(&control.http, "wait=50ms").await.is(503).json()["error"], json!("error_not_ready"));

    registry.holds("default", "r1", vec![instance("i1", "reviews", &[])]);
    let (held, ()) = tokio::join!(poll(&control.http, "wait=20s"), async { registry.refuses(false) });
    let body = held.is(200).json();
    assert_eq!((ids(&body["rules"]), ids(&body["instances"])), (vec!["x"], vec!["i1"]), "never half of it");
    control.http.get("/readyz").await.is(200);
}

#[tokio::test]
async fn a_registry_that_goes_away_empties_nothing_and_rules_go_on() {
    let (registry, control) = started(&[]).await;
    let full = poll(&control.http, "").await;
    registry.refuses(true);
    control
        .eventually("/metrics", |answer| !answer.text().contains("a8_control_follow_failures_total 0"))
        .await;
    control.http.post_rules(json!([route("x", "reviews")])).await;
    let body = poll(&control.http, &after(&full)).await.is(200).json();
    assert_eq!((ids(&body["rules_put"]), &body["instances_delete"]), (vec!["x"], &json!([])));
    assert_eq!(ids(&poll(&control.http, "").await.json()["instances"]), ["i2", "i1"]);
    control.http.get("/health").await.is(200);
    control.http.get("/readyz").await.is(200);

    registry.refuses(false);
    registry.holds("default", "r1", vec![instance("i1", "reviews", &["v1"])]);
    control.eventually("/v1/watch", |answer| ids(&answer.json()["instances"]) == ["i1"]).await;
}

#[tokio::test]
async fn a_registry_that_lost_its_memory_empties_nothing_before_the_time_to_live() {
    let registry = Registry::start().await;
    let long = instance_with_ttl("long", "reviews", &[], 600);
    let short = instance_with_ttl("short", "reviews", &[], 3);
    registry.holds("default", "r1", vec![long, short]);
    let control = Control::start(&registry, &[]).await;
    control.eventually("/readyz", |answer| answer.status == 200).await;
    let begun = Instant::now();
    registry.holds("default", "r2", vec![]);
    control.eventually("/metrics", |answer| answer.text().contains("a8_control_stale_instances 2")).await;
    assert_eq!(ids(&poll(&control.http, "").await.json()["instances"]), ["long", "short"]);
    let gone = control.eventually("/v1/watch", |answer| ids(&answer.json()["instances"]) == ["long"]).await;
    assert!(begun.elapsed() >= Duration::from_millis(2_900), "{:?}", begun.elapsed());
    registry.holds("default", "r2", vec![instance_with_ttl("long", "reviews", &["back"], 600)]);
    let fresh = poll(&control.http, &after(&gone)).await.json();
    assert_eq!(fresh["instances_put"][0]["tags"], json!(["back"]));
    assert_eq!(metric(&control, "a8_control_stale_instances").await, 0.0);
}

#[tokio::test]
async fn another_registry_is_asked_when_the_first_cannot_be_reached() {
    let registry = Registry::start().await;
    registry.holds("default", "r1", vec![instance("i1", "reviews", &[])]);
    // Bound and never listening: a port that refuses, and that nobody else gets.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let closed = held.local_addr().unwrap();
    let control = Control::start(&registry, &[&format!("--registry_url=http://{closed}")]).await;
    control.eventually("/readyz", |answer| answer.status == 200).await;
    assert_eq!(ids(&poll(&control.http, "").await.json()["instances"]), ["i1"]);
}

#[tokio::test]
async fn each_namespace_is_followed_with_its_own_token_and_sees_only_its_own() {
    let registry = Registry::start().await;
    registry.holds("blue", "r1", vec![instance("b", "of-blue", &[])]);
    registry.holds("green", "r1", vec![instance("g", "of-green", &[])]);
    let control = Control::start(&registry, &["--auth_mode=trusted"]).await;
    let (blue, green) = (control.http.with_token("blue"), control.http.with_token("green"));
    let full = poll(&blue, "node=b").await.is(200);
    assert_eq!((ids(&full.json()["instances"]), &full.json()["namespace"]), (vec!["b"], &json!("blue")));
    green.post_rules(json!([route("x", "of-green")])).await;
    let body = poll(&green, "node=g").await.is(200).json();
    assert_eq!((ids(&body["rules"]), ids(&body["instances"])), (vec!["x"], vec!["g"]));
    assert_eq!(poll(&blue, &format!("{}&node=b&wait=50ms", after(&full))).await.status, 304);
    let nodes = async |http: &Http| http.get("/v1/proxies").await.json()["proxies"][0]["node"].clone();
    assert_eq!((nodes(&blue).await, nodes(&green).await), (json!("b"), json!("g")));
    assert!(!control.http.get("/metrics").await.text().contains("blue"), "a namespace may be a token");
    assert_eq!(control.http.with_token("never used").get("/v1/proxies").await.json(), json!({"proxies": []}));
}

#[tokio::test]
async fn one_token_may_serve_all_namespaces() {
    let registry = Registry::start().await;
    registry.holds("shared", "r1", vec![instance("i", "s", &[])]);
    let flags = ["--auth_mode=trusted", "--registry_token=shared"];
    let control = Control::start(&registry, &flags).await;
    for token in ["blue", "green"] {
        assert_eq!(ids(&poll(&control.http.with_token(token), "").await.json()["instances"]), ["i"]);
    }
}
