//! Calls of gRPC against real processes: whose time ends them, what the instance is told of it, and how instances are asked
//! for their health. Which values of a field are times is tested where they are read.

use std::time::Duration;

use bytes::Bytes;
use conformance::h2c::{self, H2Answer};
use conformance::{Cluster, GrpcOrigin, Origin, Proxy, clock, eventually};
use http::Request;
use serde_json::{Value, json};

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
    origin: GrpcOrigin,
}

/// One instance of `s` that speaks gRPC, and these rules.
fn scene(rules: Value) -> Scene {
    let cluster = Cluster::start();
    let origin = GrpcOrigin::start();
    cluster.registry.register("s", &["t"], origin.address());
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(1);
    cluster.control.write(rules);
    Scene { proxy, cluster, origin }
}

fn route(timeout_s: f64) -> Value {
    json!({"id": "r", "destination": "s", "route": {"http_req_timeout": timeout_s,
        "backends": [{"tags": ["t"], "resilience": {"consecutive_errors": 1, "sleep_window": 600}}]}})
}

impl Scene {
    /// A call with this time, and how long it took.
    fn call(&self, id: &str, timeout: &str) -> (H2Answer, Duration) {
        let call = Request::post(format!("http://{}/s/pkg.Service/Method", self.proxy.http))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-request-id", id)
            .header("grpc-timeout", timeout)
            .body(Bytes::new())
            .unwrap();
        let started = clock::now();
        let answer = h2c::exchange(self.proxy.http, vec![call]).remove(0);
        (answer, started.elapsed())
    }
}

/// The status of a call: of its trailers, or of the head of one that has nothing else.
fn status_of(answer: &H2Answer) -> &str {
    let status = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
    status.unwrap_or_else(|| panic!("no status: {answer:?}")).to_str().unwrap()
}

#[test]
fn a_call_ends_with_its_own_time_or_that_of_its_route_and_no_instance_is_to_blame() {
    for (timeout_s, own, id) in [(9.0, "400m", "own"), (0.4, "9S", "route")] {
        let scene = scene(json!([route(timeout_s)]));
        scene.origin.hold(Duration::from_secs(8));
        let (answer, took) = scene.call(id, own);
        assert_eq!((answer.status, status_of(&answer)), (200, "4"), "{answer:?}");
        assert_eq!(answer.headers["x-a8-error"], "upstream_timeout");
        assert!((0.39..6.0).contains(&took.as_secs_f64()), "{own}: {took:?}");
        assert_eq!(scene.proxy.logged(id)["response_flags"], "UT");
        assert_eq!(scene.origin.calls().len(), 1, "it is asked once");
        let ejections = scene.proxy.metrics().sum("a8_proxy_ejections_total", &[r#"service="s""#]);
        // The time of a route is a promise of the instance, that of a call only a wish of its client.
        assert_eq!(ejections > 0.5, id == "route", "{id}: {ejections}");
    }
}

#[test]
fn the_instance_is_told_what_is_left_of_a_call() {
    let scene = scene(json!([route(9.0),
        {"id": "slow", "destination": "s", "actions": [{"action": "delay", "duration": 0.3}]}]));
    let (answer, _) = scene.call("left", "5S");
    assert_eq!((answer.status, status_of(&answer)), (200, "0"), "{answer:?}");
    let calls = scene.origin.calls();
    assert_eq!(calls[0].path, "/pkg.Service/Method");
    let told = calls[0].headers["grpc-timeout"].to_str().unwrap();
    let micros: u64 = told.strip_suffix('u').unwrap_or_else(|| panic!("{told}")).parse().unwrap();
    assert!((1..=4_700_000).contains(&micros), "{told}");
    // The delay alone is longer than this one lasts.
    let (answer, _) = scene.call("over", "100m");
    assert_eq!(status_of(&answer), "4", "{answer:?}");
    assert_eq!(scene.origin.calls().len(), 1, "and it reaches nobody");
}

#[test]
fn instances_are_asked_for_their_health_in_the_words_of_grpc() {
    let scene =
        scene(json!([{"id": "h", "destination": "s", "health_check": {"type": "grpc", "interval_s": 0.1,
        "timeout_s": 5, "unhealthy_threshold": 2, "healthy_threshold": 1}}]));
    // Says nothing of the kind.
    let other = Origin::echo("other");
    scene.cluster.registry.register("s", &["t"], other.address());
    let unhealthy = |count: f64| {
        eventually("the check has found it", || {
            match scene.proxy.metrics().sum("a8_proxy_unhealthy_instances", &[r#"service="s""#]) {
                found if (found - count).abs() < 0.1 => Ok(()),
                found => Err(format!("{found} unhealthy")),
            }
        });
    };
    unhealthy(1.0);
    for _ in 0..6 {
        assert_eq!(status_of(&scene.call("well", "5S").0), "0");
    }
    assert_eq!((scene.origin.calls().len(), other.count()), (6, 0), "all go to who is well");
    scene.origin.serve(false);
    unhealthy(2.0);
    scene.origin.serve(true);
    unhealthy(1.0);
}
