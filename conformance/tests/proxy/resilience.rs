//! Instances that fail, limits that are reached, and what of it a new table still knows, on real processes. The laws of
//! ejection, budgets and breakers are held where they are written.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use conformance::caller::Connection;
use conformance::eventually::pause;
use conformance::{Cluster, Origin, Proxy, clock, eventually, get};
use serde_json::{Value, json};

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
}

/// These instances of `s`, all with the tag `t`, and the rule `r` with this one backend. Nothing that an instance answers is
/// tried again.
fn scene<'o>(instances: impl IntoIterator<Item = &'o Origin>, backend: Value) -> Scene {
    let cluster = Cluster::start();
    let mut count = 0;
    for origin in instances {
        cluster.registry.register("s", &["t"], origin.address());
        count += 1;
    }
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(count);
    cluster.control.write(json!([route(backend)]));
    Scene { proxy, cluster }
}

fn route(mut backend: Value) -> Value {
    backend["tags"] = json!(["t"]);
    json!({"id": "r", "destination": "s",
        "route": {"backends": [backend], "retries": {"on": ["refused-stream"]}}})
}

fn resilient(resilience: Value) -> Value {
    json!({ "resilience": resilience })
}

/// Fails whatever names it in `X-Fail`, and answers everything else with its name.
fn fragile(name: &'static str) -> Origin {
    Origin::with(move |exchange| {
        let fails = exchange.head.field("x-fail").is_some_and(|failing| failing.contains(name));
        exchange.answer(if fails { 500 } else { 200 }, &[], json!({ "by": name }).to_string())
    })
}

impl Scene {
    fn sum(&self, metric: &str) -> f64 {
        self.proxy.metrics().sum(metric, &[r#"service="s""#])
    }

    #[track_caller]
    fn becomes(&self, metric: &str, value: f64) {
        eventually(metric, || match self.sum(metric) {
            found if (found - value).abs() < 0.1 => Ok(()),
            found => Err(format!("{found} instead of {value}")),
        });
    }

    fn ejections(&self, kind: &str) -> f64 {
        let kind = format!(r#"kind="{kind}""#);
        self.proxy.metrics().sum("a8_proxy_ejections_total", &[r#"service="s""#, &kind])
    }

    /// So many requests that these instances fail.
    fn ask_failing(&self, failing: &str, count: usize) {
        for _ in 0..count {
            get("/s/x").header("X-Fail", failing).call(self.proxy.http);
        }
    }

    /// How many of so many requests each instance answered.
    fn turns(&self, count: usize) -> BTreeMap<String, usize> {
        let mut turns = BTreeMap::new();
        (0..count).for_each(|_| *turns.entry(self.proxy.get("/s/x").by()).or_default() += 1);
        turns
    }

    /// Another table that says the same of `s`.
    fn swap(&self, number: usize) {
        let rule = json!({"id": "other", "priority": number, "destination": "other",
            "route": {"backends": [{"tags": ["t"]}]}});
        self.cluster.control.write(json!([rule]));
    }
}

#[test]
fn an_ejection_ends_and_the_next_one_lasts_longer() {
    let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let times = Arc::clone(&asked);
    let bad = Origin::with(move |exchange| {
        times.lock().unwrap_or_else(PoisonError::into_inner).push(clock::now());
        exchange.answer(500, &[], "")
    });
    let good = fragile("good");
    let limits = json!({"consecutive_errors": 1, "sleep_window": 0.5, "detection_interval": 600});
    let scene = scene([&bad, &good], resilient(limits));
    let times = eventually("it comes back twice", || {
        scene.proxy.get("/s/x");
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if asked.len() >= 3 { Ok(asked) } else { Err(format!("{}", asked.len())) }
    });
    let away: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(away[0] >= Duration::from_millis(500) && away[1] >= Duration::from_secs(1), "{away:?}");
}

#[test]
fn failures_eject_no_more_at_once_than_the_rule_lets() {
    for (percent, most) in [(Some(50), 2), (None, 4)] {
        let origins = ["a", "b", "c", "d"].map(fragile);
        let mut limits = json!({"consecutive_errors": 2, "sleep_window": 600});
        if let Some(percent) = percent {
            limits["max_ejection_percent"] = json!(percent);
        }
        let scene = scene(&origins, resilient(limits));
        scene.ask_failing("abcd", 40);
        assert!((scene.ejections("consecutive_errors") - f64::from(most)).abs() < 0.1, "{percent:?}");
        scene.becomes("a8_proxy_ejected_instances", f64::from(most));
        // Nobody left is nobody left alone.
        let left = if most == 4 { 4 } else { 2 };
        assert_eq!(scene.turns(20).len(), left, "{percent:?}");
    }
}

#[test]
fn all_are_used_when_too_few_are_left() {
    let origins = ["a", "b", "c"].map(fragile);
    let limits = |percent: u32| {
        let limits =
            json!({"consecutive_errors": 1, "sleep_window": 600, "panic_threshold_percent": percent});
        resilient(limits)
    };
    let scene = scene(&origins, limits(50));
    scene.ask_failing("ab", 3);
    assert_eq!(scene.turns(12).into_values().collect::<Vec<_>>(), [4, 4, 4], "one of three is too few");
    scene.becomes("a8_proxy_panicking_backends", 1.0);
    let explained = scene.proxy.admin("/explain?path=/s/x&format=text").expect(200).text();
    assert!(explained.contains("all are used") && explained.contains("ejected"), "{explained}");
    scene.cluster.control.write(json!([route(limits(30))]));
    assert_eq!(
        scene.turns(12),
        BTreeMap::from([("c".to_owned(), 12)]),
        "a third is enough for thirty percent"
    );
    scene.becomes("a8_proxy_panicking_backends", 0.0);
}

#[test]
fn an_instance_that_does_worse_than_the_others_is_left_alone_and_no_new_table_pardons_it() {
    let origins = ["a", "b", "c", "d", "e"].map(fragile);
    let limits = json!({"success_rate": {"minimum_requests": 4}, "detection_interval": 0.3,
        "consecutive_errors": 1_000_000, "sleep_window": 600});
    let scene = scene(&origins, resilient(limits));
    eventually("an ejection", || {
        scene.ask_failing("c", 20);
        if scene.ejections("success_rate") > 0.5 { Ok(()) } else { Err("not yet") }
    });
    assert!(scene.ejections("consecutive_errors") < 0.5);
    for number in 0..2 {
        let turns = scene.turns(20);
        assert_eq!(turns.keys().collect::<Vec<_>>(), ["a", "b", "d", "e"], "{turns:?}");
        scene.swap(number);
    }
}

/// Answers only when it is told to: one word for one request.
fn patient() -> (Origin, Sender<()>) {
    let (tell, told) = mpsc::channel();
    let told = Mutex::new(told);
    let origin = Origin::with(move |exchange| {
        let _ = told.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(Duration::from_secs(20));
        exchange.answer(200, &[], r#"{"by":"patient"}"#)
    });
    (origin, tell)
}

#[test]
fn a_breaker_counts_on_over_tables_and_shows_while_it_is_open() {
    let (origin, tell) = patient();
    let limits = |max: u32| resilient(json!({ "max_requests": max }));
    let scene = scene([&origin], limits(1));
    let mut held = Connection::open(scene.proxy.http).unwrap();
    held.send(&get("/s/x")).unwrap();
    scene.becomes("a8_proxy_requests_in_flight", 1.0);
    for number in 0..3 {
        scene.proxy.get("/s/x").expect_refusal(503, "overloaded");
        assert!((scene.sum("a8_proxy_breaker_open") - 1.0).abs() < 0.1);
        scene.swap(number);
    }
    // One more may come now, and only one: the first is still there.
    scene.cluster.control.write(json!([route(limits(2))]));
    assert!(scene.sum("a8_proxy_breaker_open") < 0.1);
    let mut second = Connection::open(scene.proxy.http).unwrap();
    second.send(&get("/s/x")).unwrap();
    scene.becomes("a8_proxy_requests_in_flight", 2.0);
    scene.proxy.get("/s/x").expect_refusal(503, "overloaded");
    (0..3).for_each(|_| tell.send(()).unwrap());
    for connection in [&mut held, &mut second] {
        assert_eq!(connection.answer("GET").unwrap().by(), "patient");
    }
    scene.becomes("a8_proxy_requests_in_flight", 0.0);
    assert_eq!(scene.proxy.get("/s/x").by(), "patient");
}

#[test]
fn connections_and_those_who_may_wait_for_one_bound_a_backend_together() {
    let (origin, tell) = patient();
    let scene = scene([&origin], resilient(json!({"max_connections": 1, "max_pending_requests": 2})));
    let mut held: Vec<_> = (0..3).map(|_| Connection::open(scene.proxy.http).unwrap()).collect();
    held.iter_mut().for_each(|connection| connection.send(&get("/s/x")).unwrap());
    scene.becomes("a8_proxy_requests_in_flight", 3.0);
    scene.proxy.get("/s/x").expect_refusal(503, "overloaded");
    (0..3).for_each(|_| tell.send(()).unwrap());
    held.iter_mut().for_each(|connection| assert_eq!(connection.answer("GET").unwrap().by(), "patient"));
}

#[test]
fn a_connection_to_an_instance_carries_so_many_requests_and_no_more() {
    let origin = fragile("a");
    let scene = scene([&origin], resilient(json!({"max_requests_per_connection": 2})));
    let mut client = Connection::open(scene.proxy.http).unwrap();
    for _ in 0..7 {
        client.send(&get("/s/x")).unwrap();
        assert_eq!(client.answer("GET").unwrap().by(), "a");
    }
    let mut carried = BTreeMap::new();
    origin.arrived().iter().for_each(|arrived| *carried.entry(arrived.connection).or_insert(0) += 1);
    assert!(carried.values().all(|count| *count <= 2) && carried.len() >= 4, "{carried:?}");
}

#[test]
fn a_retry_budget_that_is_spent_stays_so_over_tables() {
    let origin = Origin::with(|exchange| exchange.answer(409, &[], ""));
    let rule = || {
        json!({"id": "r", "destination": "s", "route": {
            "backends": [{"tags": ["t"], "resilience": {"consecutive_errors": 1_000_000}}],
            "retries": {"count": 90, "on": ["409"], "backoff_ms": 1}}})
    };
    let scene = scene([&origin], json!({}));
    scene.cluster.control.write(json!([rule()]));
    let exhausted = || scene.sum("a8_proxy_retry_budget_exhausted_total");
    // Thirty were saved up for the first.
    let _ = scene.proxy.get("/s/x").expect(409);
    assert!(exhausted() > 0.5);
    let (before, started) = (origin.count(), clock::now());
    assert!(before >= 31, "{before}");
    scene.swap(0);
    let _ = scene.proxy.get("/s/x").expect(409);
    // What has been saved up since, three a second.
    let most = 2 + (3.0 * started.elapsed().as_secs_f64()) as usize;
    assert!(origin.count() - before <= most, "{} retries, not {most}", origin.count() - before);
    assert!(scene.sum("a8_proxy_retries_total") >= 30.0);
}

#[test]
fn what_is_known_of_an_instances_speed_outlives_tables() {
    let slow = Origin::with(|exchange| {
        pause(Duration::from_millis(200));
        exchange.answer(200, &[], r#"{"by":"slow"}"#)
    });
    let fast = fragile("fast");
    let scene = scene([&slow, &fast], json!({"lb_type": "p2c_ewma"}));
    eventually("both are known", || {
        let turns = scene.turns(4);
        if slow.count() > 0 && fast.count() > 0 { Ok(()) } else { Err(format!("{turns:?}")) }
    });
    let before = slow.count();
    for number in 0..8 {
        scene.swap(number);
        scene.turns(3);
    }
    // Whom nothing is known of is asked first.
    assert!(slow.count() - before <= 2, "{} of 24", slow.count() - before);
}

#[test]
fn no_client_learns_that_instances_are_gone_while_another_lives() {
    let good = fragile("good");
    // More of them than attempts.
    let scene = scene([&good], resilient(json!({"consecutive_errors": 1_000_000})));
    for host in 2..8 {
        scene.cluster.registry.register("s", &["t"], format!("127.0.0.{host}:1"));
    }
    scene.proxy.await_instances(7);
    assert_eq!(scene.turns(20), BTreeMap::from([("good".to_owned(), 20)]));
}

#[test]
fn a_tcp_check_finds_who_is_gone_before_a_request_does() {
    let (good, going) = (fragile("good"), fragile("going"));
    let scene = scene([&good, &going], json!({}));
    scene.cluster.control.write(json!([{"id": "h", "destination": "s", "health_check": {"type": "tcp",
        "interval_s": 0.1, "timeout_s": 5, "unhealthy_threshold": 2, "healthy_threshold": 1}}]));
    let checks = |result: &str| {
        let result = format!(r#"result="{result}""#);
        scene.proxy.metrics().sum("a8_proxy_health_checks_total", &[r#"service="s""#, &result])
    };
    eventually("both were asked", || if checks("success") >= 4.0 { Ok(()) } else { Err("not yet") });
    assert!(scene.sum("a8_proxy_unhealthy_instances") < 0.1);
    drop(going);
    scene.becomes("a8_proxy_unhealthy_instances", 1.0);
    assert_eq!(scene.turns(10), BTreeMap::from([("good".to_owned(), 10)]));
    assert!(scene.sum("a8_proxy_retries_total") < 0.5, "no request has met it");
    assert!(checks("failure") >= 2.0);
    let explained = scene.proxy.admin("/explain?path=/s/x").expect(200).text();
    assert!(explained.contains("unhealthy"), "{explained}");
}

#[test]
fn what_a_rule_does_to_requests_counts_against_no_policy() {
    let origin = fragile("a");
    let scene = scene([&origin], json!({}));
    scene.cluster.control.replace(json!([
        {"id": "r", "destination": "s", "route": {
            "backends": [{"tags": ["t"], "resilience": {"max_requests": 1, "consecutive_errors": 1}}],
            "retries": {"count": 3}, "rate_limit": {"requests_per_s": 0.001, "burst": 3}}},
        {"id": "fail", "destination": "s", "match": {"headers": {"X-F": "abort"}},
         "actions": [{"action": "abort", "return_code": 503}]},
        {"id": "hold", "destination": "s", "match": {"headers": {"X-F": "delay"}},
         "actions": [{"action": "delay", "duration": 2}]},
    ]));
    for _ in 0..6 {
        get("/s/x").header("X-F", "abort").call(scene.proxy.http).expect_refusal(503, "fault_abort");
    }
    assert!(scene.sum("a8_proxy_retries_total") < 0.5);
    let mut held = Connection::open(scene.proxy.http).unwrap();
    held.send(&get("/s/x").header("X-F", "delay")).unwrap();
    eventually("it is held", || {
        let held = scene.proxy.metrics().sum("a8_proxy_faults_total", &[r#"rule="hold""#]);
        if held > 0.5 { Ok(()) } else { Err("not yet") }
    });
    // Neither the aborted ones have used up the limit nor does the held one the breaker.
    assert_eq!(scene.proxy.get("/s/x").by(), "a");
    assert_eq!(held.answer("GET").unwrap().by(), "a");
    // A request is over a moment after its answer.
    scene.becomes("a8_proxy_requests_in_flight", 0.0);
    assert_eq!(scene.proxy.get("/s/x").by(), "a");
    scene.proxy.get("/s/x").expect_refusal(429, "rate_limited");
    assert!(scene.ejections("consecutive_errors") < 0.5);
}
