//! `GET /v1/watch` from outside (design.md 5): full, delta and unchanged answers, shared encodings,
//! coalescing, the end of control.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::time::Duration;

use control_api::client::{ControlClient, Node, Polled, RuleFilter};
use control_api::{Identity, RawRule, Snapshot};
use registry_api::{Change, Position};
use serde_json::json;
use support::registry::instance;
use support::watch::{after, ids, index, metric, poll, route, started};
use support::{Answer, Control, within};
use tokio::time::Instant;

#[tokio::test]
async fn who_holds_nothing_gets_everything_at_once() {
    let (_registry, control) = started(&[]).await;
    for query in
        ["", "index=0", "index=0&wait=10m&node=n&service=s&tag=a&tag=b&unknown=x", "epoch=other&index=7"]
    {
        let answer = poll(&control.http, query).await.is(200);
        let body = answer.json();
        assert_eq!((&body["full"], &body["revision"], &body["rules"]), (&json!(true), &json!(0), &json!([])));
        assert_eq!(ids(&body["instances"]), ["i2", "i1"], "by service, then id");
        assert_eq!(body["index"], json!(1));
        assert_eq!(body["epoch"], json!(answer.header("a8-epoch")));
        assert_eq!(body["hash"], json!(answer.header("a8-hash")));
        assert!(body.get("from").is_none() && body.get("rules_put").is_none());
    }
}

#[tokio::test]
async fn a_held_poll_is_answered_with_the_way_to_the_next_snapshot() {
    let (_registry, control) = started(&[]).await;
    let full = poll(&control.http, "").await;
    let (held, written) = tokio::join!(poll(&control.http, after(&full)), async {
        control.eventually("/metrics", |answer| answer.text().contains("a8_control_waiters 1")).await;
        control.http.post_rules(json!([route("x", "reviews")])).await
    });
    let body = held.is(200).json();
    assert_eq!((&body["full"], &body["from"], &body["index"]), (&json!(false), &json!(1), &json!(2)));
    assert_eq!(body["revision"].to_string(), written.header("a8-revision"));
    assert_eq!(ids(&body["rules_put"]), ["x"]);
    for empty in ["rules_delete", "instances_put", "instances_delete"] {
        assert_eq!(body[empty], json!([]), "{empty}");
    }
    assert!(body.get("rules").is_none() && body.get("instances").is_none());
}

#[tokio::test]
async fn a_poll_without_news_ends_unchanged_with_its_position() {
    let (_registry, control) = started(&[]).await;
    let full = poll(&control.http, "").await;
    let answer = poll(&control.http, &format!("{}&wait=50ms", after(&full))).await.is(304);
    assert_eq!((after(&answer), answer.text().as_str()), (after(&full), ""));
    assert_eq!(poll(&control.http, &format!("{}&wait=0", after(&full))).await.status, 304);
}

#[tokio::test]
async fn a_caller_from_another_life_with_equal_content_adopts_the_position() {
    let (_registry, control) = started(&[]).await;
    let full = poll(&control.http, "").await;
    let query = format!("epoch=before&index=77&hash={}", full.header("a8-hash"));
    let answer = within(poll(&control.http, &query)).await.is(304);
    assert_eq!(after(&answer), after(&full));
    let broken = format!("epoch=before&index=77&hash={:032x}", 1);
    assert_eq!(poll(&control.http, &broken).await.is(200).json()["full"], json!(true));
}

#[tokio::test]
async fn an_index_from_the_future_or_a_broken_hash_gets_everything() {
    let (_registry, control) = started(&[]).await;
    let full = poll(&control.http, "").await;
    let epoch = full.header("a8-epoch");
    for query in [format!("epoch={epoch}&index=99"), format!("epoch={epoch}&index=1&hash={:032x}", 1)] {
        assert_eq!(poll(&control.http, &query).await.is(200).json()["full"], json!(true), "{query}");
    }
}

#[tokio::test]
async fn a_write_that_changed_nothing_can_be_acknowledged() {
    let (_registry, control) = started(&[]).await;
    let full = poll(&control.http, "").await;
    control.http.delete("/v1/rules?id=nobody").await.is(200);
    let body = poll(&control.http, &after(&full)).await.is(200).json();
    assert_eq!((&body["full"], &body["revision"]), (&json!(false), &json!(1)));
    for empty in ["rules_put", "rules_delete", "instances_put", "instances_delete"] {
        assert_eq!(body[empty], json!([]), "{empty}");
    }
}

#[tokio::test]
async fn bad_parameters_are_refused() {
    let (_registry, control) = started(&[]).await;
    let long = "n".repeat(300);
    for query in [
        "index=x",
        "index=-1",
        "wait=soon",
        "hash=12",
        "rejected=x",
        &format!("node={long}"),
        &"tag=t&".repeat(65),
    ] {
        let body = poll(&control.http, query).await.is(400).json();
        assert_eq!(body["error"], json!("error_invalid_parameter"), "{query}");
    }
}

#[tokio::test]
async fn all_waiters_of_a_change_share_one_encoding() {
    let (_registry, control) = started(&[]).await;
    let full = poll(&control.http, "").await;
    let encoded = "a8_control_encodings_total{form=\"delta\"}";
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (http, query) = (control.http.clone(), after(&full));
        waiters.spawn(async move { poll(&http, &query).await.is(200).body });
    }
    control.eventually("/metrics", |answer| answer.text().contains("a8_control_waiters 50")).await;
    control.http.post_rules(json!([route("x", "reviews")])).await;
    let bodies = within(waiters.join_all()).await;
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    assert_eq!(metric(&control, encoded).await, 1.0);
    assert_eq!(metric(&control, "a8_control_watch_answers_total{form=\"delta\"}").await, 50.0);
}

#[tokio::test]
async fn a_burst_is_gathered_and_a_single_write_is_not_kept_waiting() {
    let (registry, control) = started(&[]).await;
    for n in 0..200 {
        registry.changes("default", vec![Change::Put(instance(&format!("n{n}"), "burst", &[]))]);
        // Lets the change go out by itself.
        tokio::task::yield_now().await;
    }
    let all = |answer: &Answer| answer.json()["instances"].as_array().is_some_and(|list| list.len() == 202);
    let last = control.eventually("/v1/watch", all).await;
    assert!(index(&last) < 100, "200 changes in {} snapshots", index(&last));

    let begun = Instant::now();
    let (held, _) = tokio::join!(
        poll(&control.http, after(&last)),
        control.http.post_rules(json!([route("x", "reviews")]))
    );
    assert_eq!(held.json()["revision"], json!(1));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn held_polls_are_given_back_when_control_ends() {
    let (_registry, mut control) = started(&[]).await;
    let full = poll(&control.http, "").await;
    let held = tokio::spawn({
        let (http, query) = (control.http.clone(), after(&full));
        async move { poll(&http, &query).await }
    });
    let waiting = tokio::spawn({
        let http = control.http.clone();
        async move { http.delete("/v1/rules?wait=applied&timeout=60s").await }
    });
    // The idle proxy keeps the write waiting; the delete wakes the held poll.
    assert_eq!(within(held).await.unwrap().status, 200);
    let again = poll(&control.http, "node=idle").await;
    let held = tokio::spawn({
        let (http, query) = (control.http.clone(), after(&again));
        async move { poll(&http, &query).await }
    });
    control.eventually("/metrics", |answer| answer.text().contains("a8_control_waiters 1")).await;
    let begun = Instant::now();
    control.announce_end();
    assert_eq!(within(held).await.unwrap().status, 304);
    within(waiting).await.unwrap().is(200);
    control.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// A proxy as the contract's client makes it: walks from answer to answer and checks every hash.
struct Follower {
    client: ControlClient,
    node: Node,
    at: Position,
    held: Snapshot,
}

impl Follower {
    fn new(control: &Control, node: &str) -> Self {
        let client = ControlClient::new(&[format!("http://{}", control.address)], None).unwrap();
        let node =
            Node { node: node.to_owned(), identity: Identity::parse("reviews:v1"), version: "t".to_owned() };
        Self { client, node, at: Position::default(), held: Snapshot::default() }
    }

    async fn step(&mut self) {
        let wait = Duration::from_secs(5);
        match within(self.client.watch(&self.node, &self.at, wait, None)).await.unwrap() {
            Polled::Unchanged(at) => self.at = at,
            Polled::News(to, update) => {
                self.held = update.lead(&self.held, &self.at, &to).unwrap();
                self.at = to;
            }
            Polled::Unreadable(_, reason) => panic!("{reason}"),
        }
    }
}

#[tokio::test]
async fn who_follows_holds_what_control_holds_after_any_changes() {
    let (registry, control) = started(&[]).await;
    let mut follower = Follower::new(&control, "f");
    let client = ControlClient::new(&[format!("http://{}", control.address)], None).unwrap();
    let raw = |n: usize| -> RawRule {
        serde_json::from_value(route(&format!("r{}", n % 7), &format!("d{n}"))).unwrap()
    };
    for n in 0..60 {
        match n % 5 {
            0 | 1 => drop(client.create(&[raw(n), raw(n + 3)], None).await.unwrap()),
            2 => {
                let filter = RuleFilter { ids: vec![format!("r{}", n % 7)], ..RuleFilter::default() };
                client.delete(&filter, None).await.unwrap();
            }
            3 => registry.changes(
                "default",
                vec![Change::Put(instance(&format!("i{}", n % 9), "s", &[&n.to_string()]))],
            ),
            _ => registry.holds(
                "default",
                "r1",
                (0..n % 4).map(|i| instance(&format!("i{i}"), "s", &[])).collect(),
            ),
        }
        if n % 3 == 0 {
            follower.step().await;
        }
    }
    let rules = client.rules(&RuleFilter::default()).await.unwrap();
    // The last instruction to the registry was one of `holds`, with 59 % 4 instances.
    while follower.held.revision() < rules.revision || follower.held.instances().len() != 3 {
        follower.step().await;
    }
    let held: Vec<_> = follower.held.rules().values().map(|rule| (**rule).clone()).collect();
    assert_eq!(held, rules.rules);
    let full = poll(&control.http, "").await;
    assert_eq!(full.header("a8-hash"), follower.held.hash().to_string());
}
