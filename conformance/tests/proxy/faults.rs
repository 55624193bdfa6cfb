//! Injected delays, aborts and traces on real requests: when they run, how often, and that they hurt nobody else.

use std::thread;
use std::time::Duration;

use conformance::caller::Connection;
use conformance::{Cluster, Origin, Proxy, clock, get, within};
use serde_json::{Value, json};

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
    v1: Origin,
    v2: Origin,
}

/// `reviews` in two versions behind a proxy that stands for `productpage:version=v1`.
fn scene() -> Scene {
    let cluster = Cluster::start();
    let (v1, v2) = (Origin::echo("v1"), Origin::echo("v2"));
    cluster.registry.register("reviews", &["version=v1"], v1.address());
    cluster.registry.register("reviews", &["version=v2"], v2.address());
    let proxy = cluster.proxy_with("productpage:version=v1", super::ENGINE);
    proxy.await_instances(2);
    Scene { cluster, proxy, v1, v2 }
}

fn all_to(version: &str) -> Value {
    json!({"id": "route", "destination": "reviews", "route": {"backends": [{"tags": [version]}]}})
}

fn act(actions: Value) -> Value {
    json!({"id": "act", "destination": "reviews", "actions": actions})
}

#[test]
fn an_abort_answers_at_once_and_no_instance_is_called() {
    let scene = scene();
    scene.cluster.control.write(json!([act(json!([{"action": "abort", "return_code": 418}]))]));
    scene.proxy.get("/reviews/x").expect_refusal(418, "fault_abort");
    assert_eq!(scene.v1.count() + scene.v2.count(), 0);
}

#[test]
fn a_negative_abort_code_closes_the_connection_without_an_answer() {
    let scene = scene();
    scene.cluster.control.write(json!([act(json!([{"action": "abort", "return_code": -1}]))]));
    assert!(get("/reviews/x").send(scene.proxy.http).is_err());
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.send(&get("/reviews/x")).unwrap();
    assert!(connection.closes_within(Duration::from_secs(5)));
    assert_eq!(scene.v1.count() + scene.v2.count(), 0);
}

#[test]
fn a_delay_holds_the_request_and_then_goes_on() {
    let scene = scene();
    scene
        .cluster
        .control
        .write(json!([all_to("version=v1"), act(json!([{"action": "delay", "duration": 0.6}]))]));
    let answer = scene.proxy.get("/reviews/x");
    assert_eq!(answer.by(), "v1");
    assert!((0.6..5.0).contains(&answer.took.as_secs_f64()), "{answer:?}");
}

#[test]
fn a_delay_then_an_abort_waits_and_then_fails() {
    let scene = scene();
    let actions = json!([{"action": "delay", "duration": 0.4}, {"action": "abort", "return_code": 503}]);
    scene.cluster.control.write(json!([act(actions)]));
    let answer = scene.proxy.get("/reviews/x");
    answer.expect_refusal(503, "fault_abort");
    assert!(answer.took >= Duration::from_millis(400), "{answer:?}");
    // An injected 503 is final: it is neither retried nor held against an instance.
    assert_eq!(scene.v1.count() + scene.v2.count(), 0);
}

#[test]
fn a_delay_is_not_charged_to_the_request_timeout() {
    let scene = scene();
    let mut route = all_to("version=v1");
    route["route"]["http_req_timeout"] = json!(0.5);
    scene.cluster.control.write(json!([route, act(json!([{"action": "delay", "duration": 0.9}]))]));
    assert_eq!(scene.proxy.get("/reviews/x").by(), "v1");
}

#[test]
fn a_delayed_request_does_not_hold_up_others() {
    let scene = scene();
    let mut rule = act(json!([{"action": "delay", "duration": 5}]));
    rule["match"] = json!({"headers": {"X-Slow": "yes"}});
    scene.cluster.control.write(json!([rule]));
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut connection = Connection::open(scene.proxy.http).unwrap();
        connection.send(&get("/reviews/x").header("X-Slow", "yes")).unwrap();
        slow.push(connection);
    }
    let started = clock::now();
    for _ in 0..20 {
        scene.proxy.get("/reviews/x").by();
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn a_delay_ends_when_its_client_leaves() {
    let scene = scene();
    scene.cluster.control.write(json!([act(json!([{"action": "delay", "duration": 30}]))]));
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.send(&get("/reviews/x").header("X-Request-Id", "left-early")).unwrap();
    within(Duration::from_secs(10), "the request is being delayed", || {
        match scene.proxy.metrics().sum("a8_proxy_active_connections", &[]) {
            open if open >= 1.0 => Ok(()),
            open => Err(format!("{open} connections")),
        }
    });
    drop(connection);
    // Long before the delay is over there is a line that says the client has gone.
    let line = scene.proxy.logged("left-early");
    assert_eq!(line["status"], "499", "{line}");
    assert_eq!(scene.v1.count() + scene.v2.count(), 0, "a request without a client reaches no instance");
}

#[test]
fn tagged_actions_run_only_for_the_chosen_backend() {
    let scene = scene();
    let tagged = act(json!([{"action": "abort", "return_code": 500, "tags": ["version=v1"]}]));
    for (route, expected) in [(Some("version=v1"), 500), (Some("version=v2"), 200), (None, 200)] {
        let mut rules = vec![tagged.clone()];
        // Without a route rule there is no chosen backend, and tagged actions never run.
        rules.extend(route.map(all_to));
        scene.cluster.control.replace(json!(rules));
        for _ in 0..4 {
            assert_eq!(scene.proxy.get("/reviews/x").status, expected, "{route:?}");
        }
    }
}

#[test]
fn one_action_rule_applies_the_first_that_matches() {
    let scene = scene();
    scene.cluster.control.write(json!([
        {"id": "a", "priority": 2, "destination": "reviews", "match": {"headers": {"X-User": "jason"}},
         "actions": [{"action": "abort", "return_code": 501}]},
        {"id": "b", "priority": 1, "destination": "reviews", "match": {"source": {"name": "productpage"}},
         "actions": [{"action": "abort", "return_code": 502}]},
        {"id": "c", "priority": 9, "destination": "reviews", "match": {"source": {"name": "gateway"}},
         "actions": [{"action": "abort", "return_code": 504}]},
        {"id": "d", "priority": 9, "destination": "ratings", "actions": [{"action": "abort", "return_code": 505}]},
    ]));
    assert_eq!(get("/reviews/x").header("X-User", "jason").call(scene.proxy.http).status, 501);
    assert_eq!(scene.proxy.get("/reviews/x").status, 502);
}

fn fate(proxy: &Proxy) -> String {
    match proxy.get("/reviews/x") {
        answer if answer.status == 500 => "aborted".to_owned(),
        answer => answer.by(),
    }
}

#[test]
fn half_of_the_requests_are_aborted_independently_of_the_split() {
    let scene = scene();
    scene.cluster.control.write(json!([
        {"id": "split", "destination": "reviews", "route": {"backends": [
            {"tags": ["version=v1"], "weight": 0.5}, {"tags": ["version=v2"]}]}},
        act(json!([{"action": "abort", "return_code": 500, "probability": 0.5}])),
    ]));
    let (lanes, each) = (4, 200);
    let statuses: Vec<String> = thread::scope(|scope| {
        let run = || (0..each).map(|_| fate(&scene.proxy)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..lanes).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let count = |what: &str| statuses.iter().filter(|status| *status == what).count() as f64;
    let total = f64::from(lanes * each);
    let near =
        |hits: f64, share: f64| (hits - total * share).abs() <= 4.0 * (total * share * (1.0 - share)).sqrt();
    assert!(near(count("aborted"), 0.5), "{} of {total}", count("aborted"));
    // Independent draws: the survivors still split evenly.
    assert!(near(count("v1"), 0.25) && near(count("v2"), 0.25), "{} {}", count("v1"), count("v2"));
}

#[test]
fn bookinfo_delays_ratings_only_for_jason_and_only_from_reviews_v2() {
    let cluster = Cluster::start();
    let ratings = Origin::echo("ratings");
    cluster.registry.register("ratings", &["version=v1"], ratings.address());
    let (v2, v3) = (
        cluster.proxy_with("reviews:version=v2", super::ENGINE),
        cluster.proxy_with("reviews:version=v3", super::ENGINE),
    );
    [&v2, &v3].into_iter().for_each(|proxy| proxy.await_instances(1));
    cluster.control.write(json!([
        {"id": "bookinfo-default-route-ratings", "priority": 1, "destination": "ratings",
         "route": {"backends": [{"tags": ["version=v1"]}]}},
        {"id": "bookinfo-jason-delay", "priority": 10, "destination": "ratings",
         "match": {"source": {"name": "reviews", "tags": ["version=v2"]},
                   "headers": {"Cookie": "^(.*?;)?(user=jason)(;.*)?$"}},
         "actions": [{"action": "delay", "duration": 0.7, "probability": 1, "tags": ["version=v1"]}]},
    ]));
    let took = |proxy: &Proxy, cookie: &str| {
        let answer = get("/ratings/ratings").header("Cookie", cookie).call(proxy.http);
        assert_eq!(answer.by(), "ratings");
        answer.took >= Duration::from_millis(700)
    };
    assert!(took(&v2, "foo=bar;user=jason;x"));
    assert!(!took(&v2, "foo=bar;user=shriram;x"));
    assert!(!took(&v3, "foo=bar;user=jason;x"));
}

#[test]
fn a_trace_adds_its_pair_to_the_lines_it_matched_and_to_no_other() {
    let scene = scene();
    let mut rule = act(json!([{"action": "trace", "log_key": "gremlin_recipe_id", "log_value": "recipe-7"}]));
    rule["match"] = json!({"headers": {"X-Test": "yes"}});
    scene.cluster.control.write(json!([all_to("version=v1"), rule]));
    let traced = get("/reviews/x").header("X-Test", "yes").header("X-Request-Id", "traced");
    assert_eq!(traced.call(scene.proxy.http).by(), "v1");
    assert_eq!(get("/reviews/x").header("X-Request-Id", "untraced").call(scene.proxy.http).by(), "v1");
    assert_eq!(scene.proxy.logged("traced")["gremlin_recipe_id"], "recipe-7");
    assert_eq!(scene.proxy.logged("untraced")["gremlin_recipe_id"], "-");
}
