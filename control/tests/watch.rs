//! `GET /v1/watch` and what hangs on it, from outside (design.md 5): full, delta and unchanged answers, the
//! poll as acknowledgement, rejections, laggards, coalescing, the registry behind it.
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::time::Duration;

use control_api::client::{ControlClient, Node, Polled, RuleFilter};
use control_api::{Identity, RawRule, Snapshot};
use registry_api::{Change, Position, Reason};
use serde_json::{Value, json};
use support::registry::{instance, instance_with_ttl};
use support::{Answer, Control, Http, Registry, within};
use tokio::time::Instant;

fn route(id: &str, destination: &str) -> Value {
    json!({"id": id, "destination": destination, "route": {"backends": [{"tags": ["version=v1"]}]}})
}

/// A registry with two instances and a control that has heard of them.
async fn started(flags: &[&str]) -> (Registry, Control) {
    let registry = Registry::start().await;
    registry.holds("default", "r1", vec![instance("i1", "reviews", &["v1"]), instance("i2", "ratings", &[])]);
    let control = Control::start(&registry, flags).await;
    control.eventually("/readyz", |answer| answer.status == 200).await;
    (registry, control)
}

/// Where an answer of a watch leads, as the query of the next poll.
fn after(answer: &Answer) -> String {
    let header = |name| answer.header(name);
    format!("epoch={}&index={}&hash={}", header("a8-epoch"), header("a8-index"), header("a8-hash"))
}

fn index(answer: &Answer) -> u64 {
    answer.header("a8-index").parse().unwrap()
}

async fn poll(http: &Http, query: impl AsRef<str>) -> Answer {
    http.get(&format!("/v1/watch?{}", query.as_ref())).await
}

/// The ids of a set of rules or instances.
fn ids(set: &Value) -> Vec<&str> {
    set.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap_or_default()).collect()
}

async fn metric(control: &Control, name: &str) -> f64 {
    let text = control.http.get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

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
    let mut full = poll(&control.http, "").await;
    for n in 0..200 {
        registry.changes("default", vec![Change::Put(instance(&format!("n{n}"), "burst", &[]))]);
        // Lets the change go out by itself.
        tokio::task::yield_now().await;
        if n % 50 == 0 {
            full = poll(&control.http, "").await;
        }
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
    drop(full);
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
    let short = instance_with_ttl("short", "reviews", &[], 1);
    registry.holds("default", "r1", vec![long, short]);
    let control = Control::start(&registry, &[]).await;
    control.eventually("/readyz", |answer| answer.status == 200).await;
    let begun = Instant::now();
    registry.holds("default", "r2", vec![]);
    control.eventually("/metrics", |answer| answer.text().contains("a8_control_stale_instances 2")).await;
    assert_eq!(ids(&poll(&control.http, "").await.json()["instances"]), ["long", "short"]);
    let gone = control.eventually("/v1/watch", |answer| ids(&answer.json()["instances"]) == ["long"]).await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    registry.holds("default", "r2", vec![instance_with_ttl("long", "reviews", &["back"], 600)]);
    let fresh = poll(&control.http, &after(&gone)).await.json();
    assert_eq!(fresh["instances_put"][0]["tags"], json!(["back"]));
    assert_eq!(metric(&control, "a8_control_stale_instances").await, 0.0);
}

#[tokio::test]
async fn another_registry_is_asked_when_the_first_cannot_be_reached() {
    let registry = Registry::start().await;
    registry.holds("default", "r1", vec![instance("i1", "reviews", &[])]);
    // A port that was free a moment ago and answers nobody now.
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
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
    assert_eq!(ids(&full.json()["instances"]), ["b"]);
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
