//! Which instance a request reaches, seen from outside: the flows of the demo applications and one scene per line of the
//! rule law that needs a wire. The full law is held case by case in `proxy/routing/tests/cases`.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::collections::BTreeMap;
use std::thread;

use conformance::{Cluster, Origin, Proxy, get};
use serde_json::{Value, json};

/// Requests for a measured share; four standard deviations of it are allowed.
const SAMPLES: u32 = 600;
const COOKIE: &str = "^(.*?;)?(user=jason)(;.*)?$";

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
    _origins: Vec<Origin>,
}

/// A fabric with these instances: label (as echoed), service, tags.
fn scene(identity: &str, instances: &[(&str, &str, &[&str])]) -> Scene {
    let cluster = Cluster::start();
    let origins: Vec<_> = instances.iter().map(|(label, _, _)| Origin::echo(label)).collect();
    for ((_, service, tags), origin) in instances.iter().zip(&origins) {
        cluster.registry.register(service, tags, origin.address());
    }
    let proxy = cluster.proxy(identity);
    proxy.await_instances(instances.len());
    Scene { proxy, cluster, _origins: origins }
}

const HELLOWORLD: &[(&str, &str, &[&str])] = &[
    ("v1-a", "helloworld", &["version=v1"]),
    ("v1-b", "helloworld", &["version=v1"]),
    ("v2-a", "helloworld", &["version=v2"]),
    ("v2-b", "helloworld", &["version=v2"]),
];

const REVIEWS: &[(&str, &str, &[&str])] = &[
    ("v1", "reviews", &["version=v1"]),
    ("v2", "reviews", &["version=v2"]),
    ("v3", "reviews", &["version=v3"]),
];

fn tally(proxy: &Proxy, target: &str, count: u32) -> BTreeMap<String, u32> {
    let lanes = 4;
    thread::scope(|scope| {
        let run = || (0..count / lanes).map(|_| proxy.get(target).by()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..lanes).map(|_| scope.spawn(run)).collect();
        let mut tally = BTreeMap::new();
        for by in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            *tally.entry(by).or_default() += 1;
        }
        tally
    })
}

#[track_caller]
fn holds_share(hits: u32, of: u32, share: f64) {
    let (mean, deviation) = (f64::from(of) * share, (f64::from(of) * share * (1.0 - share)).sqrt());
    let off = (f64::from(hits) - mean).abs();
    assert!(off <= 4.0 * deviation.max(0.01), "{hits} of {of} instead of {share}");
}

fn to(tag: &str) -> Value {
    json!({"backends": [{"tags": [tag]}]})
}

#[test]
fn helloworld_without_rules_alternates_over_all_instances() {
    let scene = scene("gateway:version=none", HELLOWORLD);
    let seen: Vec<_> = (0..40).map(|_| scene.proxy.get("/helloworld/hello").by()).collect();
    for (label, _, _) in HELLOWORLD {
        assert_eq!(seen.iter().filter(|by| by == label).count(), 10, "round robin: {seen:?}");
    }
}

#[test]
fn helloworld_default_rule_sends_everything_to_v1() {
    let scene = scene("gateway:version=none", HELLOWORLD);
    scene.cluster.control.write(json!([{"id": "helloworld-default-route-rules", "priority": 1,
        "destination": "helloworld", "route": to("version=v1")}]));
    let tally = tally(&scene.proxy, "/helloworld/hello", 100);
    assert_eq!(tally.keys().map(String::as_str).collect::<Vec<_>>(), ["v1-a", "v1-b"], "{tally:?}");
}

#[test]
fn helloworld_split_sends_a_quarter_to_v2() {
    let scene = scene("gateway:version=none", HELLOWORLD);
    scene.cluster.control.write(json!([{"id": "helloworld-v1-v2-route-rules", "priority": 1,
        "destination": "helloworld", "route": {"backends": [
            {"tags": ["version=v2"], "weight": 0.25}, {"tags": ["version=v1"]}]}}]));
    let tally = tally(&scene.proxy, "/helloworld/hello", SAMPLES);
    let v2 = tally.iter().filter(|(by, _)| by.starts_with("v2")).map(|(_, count)| count).sum();
    holds_share(v2, SAMPLES, 0.25);
}

#[test]
fn bookinfo_jason_sees_v2_and_others_v1_until_the_rule_goes() {
    let scene = scene("productpage:version=v1", REVIEWS);
    scene.cluster.control.write(json!([
        {"id": "bookinfo-default-route-reviews", "priority": 1, "destination": "reviews", "route": to("version=v1")},
        {"id": "bookinfo-jason-reviews-v2-route-rules", "priority": 2, "destination": "reviews",
         "match": {"headers": {"Cookie": COOKIE}}, "route": to("version=v2")},
    ]));
    let by = |cookie: &str| get("/reviews/reviews").header("Cookie", cookie).call(scene.proxy.http).by();
    for (cookie, expected) in [
        ("foo=bar;user=shriram;x", "v1"),
        ("foo=bar;user=jason;ding=dong;x", "v2"),
        ("user=jason", "v2"),
        // The whole value must match, and this idiom knows no blank after the semicolon (spec 2.2).
        ("foo=bar; user=jason", "v1"),
        ("user=jasonette", "v1"),
    ] {
        assert_eq!(by(cookie), expected, "{cookie}");
    }
    let twice = get("/reviews/reviews").header("Cookie", "a=b;user=jason").header("Cookie", "c=d");
    // Several Cookie fields are one, joined with `; `.
    assert_eq!(twice.call(scene.proxy.http).by(), "v2");
    scene.cluster.control.delete("id=bookinfo-jason-reviews-v2-route-rules");
    assert_eq!(by("user=jason"), "v1");
}

#[test]
fn bookinfo_split_over_v1_and_v3_leaves_v2_out() {
    let scene = scene("productpage:version=v1", REVIEWS);
    scene
        .cluster
        .control
        .write(json!([{"id": "bookinfo-reviews-routing", "priority": 1, "destination": "reviews",
        "route": {"backends": [{"tags": ["version=v1"], "weight": 0.25}, {"tags": ["version=v3"]}]}}]));
    let tally = tally(&scene.proxy, "/reviews/reviews", SAMPLES);
    assert!(!tally.contains_key("v2"), "{tally:?}");
    holds_share(tally["v1"], SAMPLES, 0.25);
}

#[test]
fn three_backends_without_weights_share_equally_and_exactly() {
    let scene = scene("gateway", REVIEWS);
    scene.cluster.control.write(json!([{"destination": "reviews", "route": {"backends": [
        {"tags": ["version=v1"]}, {"tags": ["version=v2"]}, {"tags": ["version=v3"]}]}}]));
    let tally = tally(&scene.proxy, "/reviews/x", SAMPLES);
    tally.values().for_each(|hits| holds_share(*hits, SAMPLES, 1.0 / 3.0));
}

#[test]
fn the_same_request_id_meets_the_same_fate_on_every_proxy() {
    let scene = scene("gateway", REVIEWS);
    let other = scene.cluster.proxy("gateway");
    other.await_instances(3);
    scene.cluster.control.write(json!([{"id": "half", "destination": "reviews", "route": {"backends": [
        {"tags": ["version=v1"], "weight": 0.5}, {"tags": ["version=v2"]}]}}]));
    let by = |proxy: &Proxy, id: u32| {
        get("/reviews/x").header("X-Request-Id", format!("request-{id}")).call(proxy.http).by()
    };
    let first: Vec<_> = (0..60).map(|id| by(&scene.proxy, id)).collect();
    let second: Vec<_> = (0..60).map(|id| by(&other, id)).collect();
    assert_eq!(first, second);
    assert!(first.iter().any(|by| by == "v1") && first.iter().any(|by| by == "v2"), "{first:?}");
}

#[test]
fn the_source_of_a_match_is_the_proxy_itself() {
    let scene = scene("productpage:version=v1,canary", REVIEWS);
    let plain = scene.cluster.proxy("productpage:version=v1");
    let nobody = scene.cluster.proxy("gateway");
    [&plain, &nobody].into_iter().for_each(|proxy| proxy.await_instances(3));
    let from = |tags: Value| json!({"source": {"name": "productpage", "tags": tags}});
    scene.cluster.control.write(json!([
        {"id": "c", "priority": 3, "destination": "reviews", "match": from(json!(["canary"])), "route": to("version=v3")},
        {"id": "b", "priority": 2, "destination": "reviews", "match": from(json!(["version=v1"])), "route": to("version=v2")},
        {"id": "a", "priority": 1, "destination": "reviews", "route": to("version=v1")},
    ]));
    for (proxy, expected) in [(&scene.proxy, "v3"), (&plain, "v2"), (&nobody, "v1")] {
        assert_eq!(proxy.get("/reviews/x").by(), expected);
    }
}

#[test]
fn priority_decides_and_the_smaller_id_between_equals() {
    let scene = scene("gateway", REVIEWS);
    scene.cluster.control.write(json!([
        {"id": "z", "priority": -1, "destination": "reviews", "route": to("version=v1")},
        {"id": "b", "priority": 5, "destination": "reviews", "route": to("version=v2")},
        {"id": "a", "priority": 5, "destination": "reviews", "match": {"headers": {"X-Test": "yes|ja"}}, "route": to("version=v3")},
    ]));
    assert_eq!(scene.proxy.get("/reviews/x").by(), "v2");
    assert_eq!(get("/reviews/x").header("x-test", "ja").call(scene.proxy.http).by(), "v3");
    scene.cluster.control.delete("id=b");
    assert_eq!(scene.proxy.get("/reviews/x").by(), "v1");
}

#[test]
fn all_any_and_none_are_honoured() {
    let scene = scene("gateway", REVIEWS);
    scene.cluster.control.write(json!([
        {"id": "a", "priority": 2, "destination": "reviews", "route": to("version=v2"), "match": {
            "all": [{"headers": {"A": "1"}}],
            "any": [{"headers": {"B": "1"}}, {"headers": {"C": "1"}}],
            "none": [{"headers": {"D": "1"}}]}},
        {"id": "b", "priority": 1, "destination": "reviews", "route": to("version=v1")},
    ]));
    for (fields, expected) in
        [("A", "v1"), ("A B", "v2"), ("A C", "v2"), ("B C", "v1"), ("A B D", "v1"), ("", "v1")]
    {
        let request = fields.split_whitespace().fold(get("/reviews/x"), |r, name| r.header(name, "1"));
        assert_eq!(request.call(scene.proxy.http).by(), expected, "{fields}");
    }
}

#[test]
fn what_cannot_be_routed_is_refused_by_name() {
    let scene = scene("gateway", &[("v1", "reviews", &["version=v1"]), ("d", "details", &["version=v1"])]);
    scene.cluster.control.write(json!([
        {"id": "only-jason", "destination": "reviews", "match": {"headers": {"Cookie": COOKIE}}, "route": to("version=v1")},
        {"id": "nowhere", "destination": "details", "route": to("version=v9")},
        {"id": "no-abort", "destination": "details", "actions": [{"action": "abort", "return_code": 418}]},
        {"id": "ruled", "destination": "ghost", "route": to("version=v1")},
    ]));
    scene.proxy.get("/unknown/x").expect_refusal(404, "unknown_service");
    scene.proxy.get("/").expect_refusal(404, "unknown_service");
    scene.proxy.get("/reviews/x").expect_refusal(404, "no_route");
    // Before any action: an abort rule on a service without instances gives 503 (spec 2.7).
    scene.proxy.get("/details/x").expect_refusal(503, "no_instances");
    scene.proxy.get("/ghost/x").expect_refusal(503, "no_instances");
}

#[test]
fn only_instances_that_are_up_and_carry_every_tag_are_used() {
    let cluster = Cluster::start();
    let (exact, longer, starting) = (Origin::echo("exact"), Origin::echo("longer"), Origin::echo("starting"));
    cluster.registry.register("s", &["v1", "east"], exact.address());
    cluster.registry.register("s", &["v10", "east"], longer.address());
    let body = json!({"service_name": "s", "tags": ["v1", "east"], "status": "STARTING", "ttl": 600,
        "endpoint": {"type": "http", "value": starting.address().to_string()}});
    let _ = conformance::post("/api/v1/instances", &body).call(cluster.registry.address()).expect(201);
    let proxy = cluster.proxy("gateway");
    proxy.await_instances(3);
    cluster.control.write(json!([{"destination": "s", "route": {"backends": [{"tags": ["east", "v1"]}]}}]));
    for _ in 0..12 {
        assert_eq!(proxy.get("/s/x").by(), "exact");
    }
    cluster.control.delete("");
    let seen = tally(&proxy, "/s/x", 20);
    assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), ["exact", "longer"], "{seen:?}");
}

#[test]
fn a_backend_may_name_another_service_and_leaves_that_one_alone() {
    let scene = scene(
        "gateway",
        &[("old", "shop", &["a"]), ("new", "shop-next", &["a"]), ("newer", "shop-next", &["b"])],
    );
    scene.cluster.control.write(
        json!([{"destination": "shop", "route": {"backends": [{"name": "shop-next", "tags": ["a"]}]}}]),
    );
    assert_eq!(scene.proxy.get("/shop/x").by(), "new");
    // No route rule of its own: all of its instances, as before.
    let seen = tally(&scene.proxy, "/shop-next/x", 20);
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn uri_rules_capture_before_the_first_segment_and_rewrite() {
    let scene = scene("gateway", REVIEWS);
    let uri = |uri: Value, tag: &str| json!({"backends": [{"tags": [tag]}], "uri": uri});
    scene.cluster.control.write(json!([
        {"id": "prefix", "destination": "reviews", "route": uri(json!({"prefix": "/api/", "prefix_rewrite": "/v3/"}), "version=v3")},
        {"id": "path", "priority": 1, "destination": "reviews", "route": uri(json!({"path": "/api/exact"}), "version=v2")},
        {"id": "plain", "destination": "reviews", "route": to("version=v1")},
    ]));
    for (target, by, arrived) in [
        ("/api/list?x=1", "v3", "/v3/list?x=1"),
        ("/api/exact", "v2", "/api/exact"),
        ("/api/exactly", "v3", "/v3/exactly"),
        ("/reviews/a/b?c=d", "v1", "/a/b?c=d"),
    ] {
        let answer = scene.proxy.get(target);
        assert_eq!((answer.by().as_str(), answer.json()["target"].as_str()), (by, Some(arrived)), "{target}");
    }
}

#[test]
fn load_is_balanced_as_the_backend_asks() {
    let scene = scene("gateway", &[("a", "s", &["t"]), ("b", "s", &["t"])]);
    let write = |lb: &str| {
        scene
            .cluster
            .control
            .replace(json!([{"destination": "s", "route": {"backends": [{"tags": ["t"], "lb_type": lb}]}}]))
    };
    write("round_robin");
    let seen: Vec<_> = (0..20).map(|_| scene.proxy.get("/s/x").by()).collect();
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    write("random");
    let seen = tally(&scene.proxy, "/s/x", 400);
    holds_share(seen["a"], 400, 0.5);
    write("least_request");
    let seen = tally(&scene.proxy, "/s/x", 80);
    assert_eq!(seen.len(), 2, "{seen:?}");
}
