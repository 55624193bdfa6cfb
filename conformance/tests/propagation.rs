//! The way of a change: written or registered here, obeyed there, and everyone told the truth about where it is live.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::thread;
use std::time::Duration;

use conformance::eventually::pause;
use conformance::{Cluster, Feed, Origin, Proxy, clock, delete, eventually, get, post, put, within};
use control_api::{Rule, Snapshot};
use registry_api::Instance;
use serde_json::{Value, json};

/// A change must be live long before this on an idle machine; the figure itself is the bench's business.
const LIVE_WITHIN: Duration = Duration::from_secs(3);

fn two_versions(cluster: &Cluster) -> [Origin; 2] {
    let origins = [Origin::echo("v1"), Origin::echo("v2")];
    for (origin, tag) in origins.iter().zip(["v1", "v2"]) {
        cluster.registry.register("s", &[tag], origin.address());
    }
    origins
}

fn to(tag: &str) -> Value {
    json!({"id": "r", "destination": "s", "route": {"backends": [{"tags": [tag]}]}})
}

#[test]
fn a_write_that_waited_is_obeyed_by_the_very_next_request() {
    let cluster = Cluster::start();
    let _origins = two_versions(&cluster);
    let proxies = [cluster.proxy("gateway"), cluster.proxy("other")];
    proxies.iter().for_each(|proxy| proxy.await_instances(2));
    for round in 0..20 {
        let tag = if round % 2 == 0 { "v1" } else { "v2" };
        cluster.control.write(json!([to(tag)]));
        for proxy in &proxies {
            assert_eq!(proxy.get("/s/x").by(), tag, "round {round}");
        }
    }
    cluster.control.delete("id=r");
    let seen: Vec<_> = (0..2).map(|_| proxies[0].get("/s/x").by()).collect();
    assert_ne!(seen[0], seen[1], "without the rule all instances serve");
}

#[test]
fn a_write_that_did_not_wait_is_obeyed_soon() {
    let cluster = Cluster::start();
    let _origins = two_versions(&cluster);
    let proxy = cluster.proxy("gateway");
    proxy.await_instances(2);
    cluster.control.write(json!([to("v1")]));
    for round in 0..6 {
        let tag = if round % 2 == 0 { "v2" } else { "v1" };
        let _ = post("/v1/rules", &json!({"rules": [to(tag)]})).call(cluster.control.address()).expect(201);
        within(LIVE_WITHIN, "the rule is obeyed", || match proxy.get("/s/x").by() {
            by if by == tag => Ok(()),
            by => Err(by),
        });
    }
}

#[test]
fn an_instance_is_reached_soon_after_it_registered_and_no_more_after_it_left() {
    let cluster = Cluster::start();
    let proxy = cluster.proxy("gateway");
    proxy.get("/s/x").expect_refusal(404, "unknown_service");
    let (one, two) = (Origin::echo("one"), Origin::echo("two"));
    let first = cluster.registry.register("s", &[], one.address());
    within(LIVE_WITHIN, "the instance serves", || match proxy.get("/s/x").status {
        200 => Ok(()),
        status => Err(status),
    });
    cluster.registry.register("s", &[], two.address());
    cluster.registry.deregister(&first);
    within(LIVE_WITHIN, "the first one is no longer called", || {
        let seen: Vec<_> = (0..4).map(|_| proxy.get("/s/x").by()).collect();
        if seen.iter().all(|by| by == "two") { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn every_write_answers_with_its_revision_and_where_it_is_live() {
    let cluster = Cluster::start();
    let at = cluster.control.address();
    let body = json!({"rules": [to("v1")]});
    let nobody = post("/v1/rules?wait=applied&timeout=20s", &body).call(at).expect(201);
    assert_eq!(nobody.json()["applied"], json!({"proxies": 0, "serving": 0, "laggards": []}));
    assert!(nobody.took < Duration::from_secs(5), "no proxy, no wait: {nobody:?}");
    let _proxy = cluster.proxy("gateway");
    let posted = post("/v1/rules?wait=applied", &body).call(at).expect(201).json();
    assert_eq!((&posted["ids"], &posted["revision"]), (&json!(["r"]), &json!(2)));
    assert_eq!(posted["applied"], json!({"proxies": 1, "serving": 1, "laggards": []}));
    let replaced = put("/v1/rules?wait=applied", &body).call(at).expect(200).json();
    assert_eq!((&replaced["revision"], &replaced["applied"]["serving"]), (&json!(3), &json!(1)));
    let deleted = delete("/v1/rules?wait=applied&timeout=5").call(at).expect(200);
    assert_eq!((&deleted.json()["revision"], deleted.header("A8-Revision")), (&json!(4), "4"));
    // A write that changes nothing is acknowledged as well.
    assert_eq!(delete("/v1/rules?wait=applied").call(at).expect(200).json()["applied"]["serving"], 1);
    for bad in ["timeout=soon", "timeout=-1", "timeout="] {
        let _ = post(format!("/v1/rules?wait=applied&{bad}"), &body).call(at).expect(400);
    }
    let unchanged = get("/v1/rules").call(at).json();
    assert_eq!(unchanged, json!({"rules": [], "revision": 5}), "a refused wait writes nothing");
}

#[test]
fn a_proxy_that_lags_is_named() {
    let cluster = Cluster::start();
    let at = cluster.control.address();
    let _real = cluster.proxy("gateway");
    let full = get("/v1/watch?node=slow&index=0").call(at).expect(200).json();
    // It took the first snapshot and polls once, but will not come back with what that poll brings.
    let poll = format!(
        "/v1/watch?node=slow&epoch={}&index={}&hash={}&wait=30s",
        full["epoch"].as_str().unwrap(),
        full["index"],
        full["hash"].as_str().unwrap()
    );
    let held = thread::spawn(move || get(poll).send(at));
    eventually("control sees the poll", || {
        let nodes = cluster.control.proxies();
        let there = nodes.iter().any(|node| node["node"] == "slow" && node["connected"] == true);
        if there { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
    let answer =
        post("/v1/rules?wait=applied&timeout=700ms", &json!({"rules": [to("v1")]})).call(at).expect(201);
    assert_eq!(answer.json()["applied"], json!({"proxies": 2, "serving": 1, "laggards": ["slow"]}));
    assert!(answer.took >= Duration::from_millis(700), "{answer:?}");
    assert_eq!(held.join().unwrap().unwrap().status, 200);
}

#[test]
fn control_lists_its_proxies_with_what_they_serve() {
    let cluster = Cluster::start();
    let _proxy = cluster.proxy("gateway:version=none,edge");
    let revision = cluster.control.write(json!([to("v1")]));
    let node = eventually("the proxy has acknowledged", || {
        let node = cluster.control.proxies().into_iter().next().ok_or("none")?;
        if node["revision"] == revision { Ok(node) } else { Err("not yet") }
    });
    assert_eq!((&node["node"], &node["service"]), (&json!("node-0"), &json!("gateway")));
    assert_eq!(node["tags"], json!(["version=none", "edge"]));
    assert_eq!((&node["connected"], &node["rejected"]), (&json!(true), &Value::Null));
    assert!(node["index"].as_u64().unwrap() >= 1 && !node["version"].as_str().unwrap().is_empty(), "{node}");
    assert!(
        node["lag_ms"].is_u64() && node["last_seen_ms"].is_u64() && node["address"].is_string(),
        "{node}"
    );
}

#[test]
fn a_rejection_is_shown_and_its_poll_is_held_until_there_is_something_newer() {
    let cluster = Cluster::start();
    let at = cluster.control.address();
    cluster.control.write(json!([to("v1")]));
    let full = get("/v1/watch?node=picky&index=0").call(at).expect(200).json();
    let (epoch, index) = (full["epoch"].as_str().unwrap().to_owned(), full["index"].as_u64().unwrap());
    let poll =
        format!("/v1/watch?node=picky&epoch={epoch}&index=0&wait=20s&rejected={index}&reason=too%20odd");
    let held = thread::spawn(move || get(poll).call(at));
    let node = eventually("the rejection is listed", || {
        let node =
            cluster.control.proxies().into_iter().find(|node| node["node"] == "picky").ok_or("none")?;
        if node["rejected"].is_object() { Ok(node) } else { Err("not yet") }
    });
    assert_eq!((&node["rejected"]["index"], &node["rejected"]["reason"]), (&json!(index), &json!("too odd")));
    // Absence can only be watched for: an answer would come at once.
    pause(Duration::from_millis(300));
    assert!(!held.is_finished(), "the same snapshot was offered again");
    let answer =
        post("/v1/rules?wait=applied&timeout=300ms", &json!({"rules": [to("v2")]})).call(at).expect(201);
    assert_eq!(answer.json()["applied"]["laggards"], json!(["picky"]));
    assert_eq!(held.join().unwrap().expect(200).json()["full"], true);
}

fn snapshot(revision: u64, rule: Value, origin: &Origin) -> Snapshot {
    let rule: Rule = serde_json::from_value(rule).unwrap();
    let instance: Instance =
        serde_json::from_value(json!({"id": "i", "service_name": "s", "status": "UP", "tags": ["v1"],
        "ttl": 30, "endpoint": {"type": "http", "value": origin.address().to_string()}}))
        .unwrap();
    Snapshot::new(revision, [rule.into()], [instance.into()])
}

#[test]
fn a_snapshot_that_cannot_be_used_is_refused_by_name_and_the_old_table_serves_on() {
    let origin = Origin::echo("old");
    let feed = Feed::start(snapshot(1, to("v1"), &origin));
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), "gateway", "nacker", feed.address(), &[]);
    proxy.await_instances(1);
    let wrong_hash = {
        let body = serde_json::to_value(control_api::SnapshotAnswer::full(
            "feed",
            2,
            &snapshot(2, to("v1"), &origin),
        ));
        let mut body = body.unwrap();
        body["hash"] = json!("0".repeat(32));
        body.to_string()
    };
    let bad_rule = r#"{"epoch":"feed","index":3,"revision":3,"hash":"00000000000000000000000000000000","full":true,
        "rules":[{"id":"x","destination":"s","match":{"headers":{"A":"("}},"route":{"backends":[{"tags":["v"]}]}}],"instances":[]}"#;
    for body in [wrong_hash.as_str(), bad_rule, "{", "[]"] {
        let index = feed.publish_garbage(body);
        let reason = eventually("the proxy reports the rejection", || {
            let polls = feed.polls();
            let found = polls.iter().filter_map(|poll| poll.rejected.clone()).find(|(at, _)| *at == index);
            found.map(|(_, reason)| reason).ok_or_else(|| format!("{:?}", polls.last()))
        });
        assert!(!reason.is_empty(), "a rejection says why: {body}");
        assert_eq!(proxy.get("/s/x").by(), "old");
    }
    let index = feed.publish(snapshot(9, to("v1"), &origin));
    eventually("the proxy goes on with the next good one", || {
        if feed.acknowledged() == index { Ok(()) } else { Err(feed.acknowledged()) }
    });
    assert_eq!(proxy.state().unwrap().revision, 9);
}

#[test]
fn a_proxy_acknowledges_only_what_already_serves() {
    let (old, new) = (Origin::echo("old"), Origin::echo("new"));
    let feed = Feed::start(snapshot(1, to("v1"), &old));
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), "gateway", "honest", feed.address(), &[]);
    proxy.await_instances(1);
    for revision in 2..30 {
        let (origin, label) = if revision % 2 == 0 { (&new, "new") } else { (&old, "old") };
        let index = feed.publish(snapshot(revision, to("v1"), origin));
        eventually("it is acknowledged", || {
            if feed.acknowledged() >= index { Ok(()) } else { Err(feed.acknowledged()) }
        });
        assert_eq!(proxy.get("/s/x").by(), label, "acknowledged before it served");
    }
}

#[test]
fn a_burst_of_writes_arrives_as_its_last_state() {
    let cluster = Cluster::start();
    let _origins = two_versions(&cluster);
    let proxy = cluster.proxy("gateway");
    proxy.await_instances(2);
    let started = clock::now();
    for round in 0..60 {
        let tag = if round % 2 == 0 { "v1" } else { "v2" };
        let _ = post("/v1/rules", &json!({"rules": [to(tag)]})).call(cluster.control.address()).expect(201);
    }
    let burst = started.elapsed();
    within(LIVE_WITHIN, "the last write is live", || match proxy.state()? {
        state if state.revision == 60 => Ok(()),
        state => Err(format!("{state:?} after a burst of {burst:?}")),
    });
    assert_eq!(proxy.get("/s/x").by(), "v2");
}
