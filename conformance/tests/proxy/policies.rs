//! What routes say about how requests are spread, limited, copied, tried again and kept from the sick, on real processes.
//! When exactly each limit is reached is tested where it is counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conformance::caller::Connection;
use conformance::eventually::pause;
use conformance::{Cluster, Origin, Proxy, Request, eventually, get, post};
use serde_json::{Value, json};

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
}

/// These instances of `s`, all with the tag `t` and one of their own, and one rule.
fn scene(instances: &[(&str, &Origin)], route: Value) -> Scene {
    let cluster = Cluster::start();
    for (tag, origin) in instances {
        cluster.registry.register("s", &["t", tag], origin.address());
    }
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(instances.len());
    cluster.control.write(json!([{"id": "r", "destination": "s", "route": route}]));
    Scene { proxy, cluster }
}

fn backend(fields: Value) -> Value {
    let mut backend = json!({"tags": ["t"]});
    for (key, value) in fields.as_object().unwrap() {
        backend[key] = value.clone();
    }
    json!({"backends": [backend]})
}

/// Answers with a status, except where `well` says otherwise.
fn failing(status: u16, well: &Arc<AtomicBool>) -> Origin {
    let well = Arc::clone(well);
    Origin::with(move |exchange| {
        let status = if well.load(Ordering::SeqCst) { 200 } else { status };
        exchange.answer(status, &[], r#"{"by":"failing"}"#)
    })
}

fn never() -> Arc<AtomicBool> {
    Arc::default()
}

#[test]
fn a_key_keeps_its_backend_and_its_instance() {
    let (a, b, c) = (Origin::echo("a"), Origin::echo("b"), Origin::echo("c"));
    let split = json!({"backends": [{"tags": ["a"], "weight": 0.5}, {"tags": ["b"]}],
        "sticky": {"cookie": "session"}});
    let scene = scene(&[("a", &a), ("b", &b), ("c", &c)], split);
    let by = |request: Request| request.call(scene.proxy.http).by();
    let keyed = |number: u32| get("/s/x").header("Cookie", format!("x=y; session={number}"));
    let first: Vec<_> = (0..20).map(|number| by(keyed(number))).collect();
    assert_eq!(first, (0..20).map(|number| by(keyed(number))).collect::<Vec<_>>());
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 2, "both have their part: {first:?}");

    scene.cluster.control.replace(json!([{"destination": "s",
        "route": backend(json!({"lb_type": "ring_hash", "hash_on": {"header": "X-User"}}))}]));
    let keyed = |number: u32| get("/s/x").header("X-User", format!("{number}"));
    let first: Vec<_> = (0..30).map(|number| by(keyed(number))).collect();
    assert_eq!(first, (0..30).map(|number| by(keyed(number))).collect::<Vec<_>>());
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "{first:?}");
}

#[test]
fn a_slow_instance_is_asked_less_often() {
    // Slow on a busy machine, too.
    let slow = Origin::with(|exchange| {
        pause(Duration::from_millis(200));
        exchange.answer(200, &[], r#"{"by":"slow"}"#)
    });
    let (one, two) = (Origin::echo("one"), Origin::echo("two"));
    let route = backend(json!({"lb_type": "p2c_ewma"}));
    let scene = scene(&[("a", &slow), ("b", &one), ("c", &two)], route);
    (0..60).for_each(|_| drop(scene.proxy.get("/s/x").by()));
    assert!(slow.count() < 12, "{} of 60", slow.count());
}

#[test]
fn an_instance_that_comes_up_gets_little_at_first() {
    let (old, young) = (Origin::echo("old"), Origin::echo("young"));
    let scene = scene(&[("a", &old)], backend(json!({"slow_start": 600})));
    // The first one may have seen the old instance come up, too; what a proxy finds at its start is not new to it.
    let proxy = scene.cluster.proxy_with("late", super::ENGINE);
    proxy.await_instances(1);
    scene.cluster.registry.register("s", &["t"], young.address());
    proxy.await_instances(2);
    (0..60).for_each(|_| drop(proxy.get("/s/x").by()));
    assert!(young.count() < 20, "{} of 60", young.count());
}

#[test]
fn what_is_beyond_a_limit_is_told_when_to_come_again() {
    let origin = Origin::echo("o");
    let mut route = backend(json!({}));
    route["rate_limit"] = json!({"requests_per_s": 0.01, "burst": 2, "key": {"header": "X-Key"}});
    let scene = scene(&[("a", &origin)], route);
    let keyed = |key: &str| get("/s/x").header("X-Key", key).call(scene.proxy.http);
    for key in ["one", "two"] {
        (0..2).for_each(|_| drop(keyed(key).expect(200)));
        let limited = keyed(key);
        limited.expect_refusal(429, "rate_limited");
        assert!(limited.header("Retry-After").parse::<u64>().unwrap() > 50, "{limited:?}");
    }
    let counted = scene.proxy.metrics().sum("a8_proxy_rate_limited_total", &[r#"rule="r""#]);
    assert!((counted - 2.0).abs() < 0.1, "{counted}");
}

#[test]
fn a_mirror_gets_copies_and_nobody_waits_for_it() {
    let (origin, shadow) = (
        Origin::echo("origin"),
        Origin::with(|exchange| {
            exchange.body()?;
            pause(Duration::from_secs(2));
            exchange.answer(500, &[], "nobody reads this")
        }),
    );
    let mut route = json!({"backends": [{"tags": ["a"]}]});
    route["mirror"] = json!({"tags": ["b"]});
    let scene = scene(&[("a", &origin), ("b", &shadow)], route);
    let answer = post("/s/x?y", &json!({"some": "body"})).call(scene.proxy.http);
    assert_eq!(answer.by(), "origin");
    assert!(answer.took < Duration::from_secs(2), "{answer:?}");
    eventually("the copy arrives", || if shadow.count() == 1 { Ok(()) } else { Err("not yet") });
    let copy = shadow.arrived().remove(0);
    assert_eq!((copy.target(), copy.head.field("x-a8-mirror")), ("/x?y", Some("r")));
    eventually("the copy is counted", || {
        match scene.proxy.metrics().sum("a8_proxy_mirrored_total", &[r#"service="s""#]) {
            count if count >= 1.0 => Ok(()),
            count => Err(format!("{count}")),
        }
    });
}

#[test]
fn a_part_of_the_requests_is_copied_and_the_same_part_on_every_proxy() {
    let (origin, shadow) = (Origin::echo("origin"), Origin::echo("shadow"));
    let mut route = json!({"backends": [{"tags": ["a"]}]});
    route["mirror"] = json!({"tags": ["b"], "percent": 30});
    let scene = scene(&[("a", &origin), ("b", &shadow)], route);
    let copied = |proxy: &Proxy| {
        let before = shadow.count();
        let ids: Vec<_> = (0..60).map(|number| format!("copy-{number}")).collect();
        for id in &ids {
            assert_eq!(get("/s/x").header("X-Request-Id", id).call(proxy.http).by(), "origin");
        }
        // Whoever explains a request says whether it is copied.
        let told = ids.iter().filter(|id| {
            let explained = proxy.admin(&format!("/explain?path=/s/x&request_id={id}")).expect(200).json();
            explained["policies"].to_string().contains("copy to s:b")
        });
        let told = told.count();
        eventually("the copies arrive", || match shadow.count() - before {
            count if count == told => Ok(()),
            count => Err(format!("{count} of {told}")),
        });
        let arrived = shadow.arrived().split_off(before);
        arrived
            .iter()
            .map(|copy| copy.head.field("x-request-id").unwrap_or_default().to_owned())
            .collect::<BTreeSet<_>>()
    };
    let first = copied(&scene.proxy);
    // Five standard deviations.
    assert!((1..=36).contains(&first.len()), "{first:?}");
    let other = scene.cluster.proxy_with("gateway", super::ENGINE);
    other.await_instances(2);
    assert_eq!(copied(&other), first);
}

#[test]
fn copies_that_come_to_nothing_are_counted_and_nobody_waits_for_them() {
    let origin = Origin::echo("origin");
    let silent = Origin::with(|exchange| {
        pause(Duration::from_secs(3));
        exchange.answer(200, &[], "")
    });
    let route = json!({"backends": [{"tags": ["a"]}], "mirror": {"tags": ["b"]}});
    let scene = scene(&[("a", &origin), ("b", &silent)], route.clone());
    let lost = |reason: &str| {
        let reason = format!(r#"reason="{reason}""#);
        scene.proxy.metrics().sum("a8_proxy_mirror_lost_total", &[r#"service="s""#, &reason])
    };
    let counted = |reason: &str| {
        eventually(reason, || if lost(reason) > 0.5 { Ok(()) } else { Err("not yet") });
    };
    let large = post("/s/x", &json!("x".repeat(70_000)));
    assert_eq!(large.call(scene.proxy.http).by(), "origin");
    counted("body_too_large");
    assert_eq!(get("/s/x").header("X-A8-Mirror", "r").call(scene.proxy.http).by(), "origin");
    counted("copy");
    let mut away = route.clone();
    away["mirror"] = json!({"service": "nobody-there"});
    scene.cluster.registry.register("nobody-there", &["t"], conformance::origin::REFUSING);
    scene.proxy.await_instances(3);
    scene.cluster.control.replace(json!([{"id": "r", "destination": "s", "route": away}]));
    assert_eq!(scene.proxy.get("/s/x").by(), "origin");
    counted("failed");

    scene.cluster.control.replace(json!([{"id": "r", "destination": "s", "route": route}]));
    // More than are sent at once and may wait, sooner than any of them is answered: 128 and 1024.
    let mut client = Connection::open(scene.proxy.http).unwrap();
    let mut sent = 0;
    eventually("the queue is full", || {
        for _ in 0..200 {
            client.send(&get("/s/x")).unwrap();
            let answer = client.answer("GET").unwrap();
            assert_eq!(answer.by(), "origin");
            assert!(answer.took < Duration::from_secs(2), "{answer:?}");
            sent += 1;
        }
        if lost("queue_full") > 0.5 { Ok(()) } else { Err(format!("{sent}")) }
    });
    assert!(sent > 1024, "{sent}");
}

#[test]
fn whatever_may_be_a_key_is_one_wherever_a_key_may_stand() {
    let origins = ["a", "b", "c", "d"].map(Origin::echo);
    let instances = [("a", &origins[0]), ("b", &origins[1]), ("c", &origins[2]), ("d", &origins[3])];
    let scene = scene(&instances, backend(json!({})));
    let split: Vec<_> = ["a", "b", "c", "d"].map(|tag| json!({ "tags": [tag] })).into();
    for (key, field) in [
        (json!({"header": "X-Key"}), Some("X-Key: one")),
        (json!({"cookie": "key"}), Some("Cookie: x=y; key=one")),
        // All clients of this test have one address.
        (json!({"source": true}), None),
    ] {
        let ask = || {
            let request = field.and_then(|field| field.split_once(": "));
            request.map_or_else(|| get("/s/x"), |(name, value)| get("/s/x").header(name, value))
        };
        let mut ring = backend(json!({"lb_type": "ring_hash"}));
        ring["backends"][0]["hash_on"] = key.clone();
        for route in [json!({"backends": split, "sticky": key}), ring] {
            scene.cluster.control.replace(json!([{"id": "r", "destination": "s", "route": route}]));
            let by: BTreeSet<_> = (0..12).map(|_| ask().call(scene.proxy.http).by()).collect();
            assert_eq!(by.len(), 1, "{key}: {by:?}");
        }
        let mut limited = backend(json!({}));
        limited["rate_limit"] = json!({"requests_per_s": 0.001, "burst": 2, "key": key});
        scene.cluster.control.replace(json!([{"id": "r", "destination": "s", "route": limited}]));
        let statuses: Vec<_> = (0..3).map(|_| ask().call(scene.proxy.http).status).collect();
        assert_eq!(statuses, [200, 200, 429], "{key}");
    }
}

#[test]
fn a_route_says_what_is_tried_again_and_a_budget_ends_it() {
    let (bad, good) = (failing(409, &never()), Origin::echo("good"));
    let mut route = backend(json!({}));
    route["retries"] = json!({"count": 3, "on": ["409"], "methods": ["GET"], "backoff_ms": 1});
    let scene = scene(&[("a", &bad), ("b", &good)], route);
    (0..6).for_each(|_| assert_eq!(scene.proxy.get("/s/x").by(), "good"));
    let statuses: BTreeSet<_> =
        (0..6).map(|_| post("/s/x", &json!({})).call(scene.proxy.http).status).collect();
    assert_eq!(statuses, BTreeSet::from([200, 409]), "POST is not tried again");

    // Everything fails: thirty retries are saved up, and then three a second are left.
    let mut route = json!({"backends": [{"tags": ["a"], "resilience": {"consecutive_errors": 1_000_000}}]});
    route["retries"] = json!({"count": 1, "on": ["409"], "backoff_ms": 1});
    scene.cluster.control.replace(json!([{"id": "r", "destination": "s", "route": route}]));
    (0..60).for_each(|_| drop(scene.proxy.get("/s/x").expect(409)));
    let exhausted = scene.proxy.metrics().sum("a8_proxy_retry_budget_exhausted_total", &[r#"service="s""#]);
    assert!(exhausted >= 5.0, "{exhausted}");
}

#[test]
fn an_attempt_has_its_own_time() {
    let (silent, good) = (
        Origin::with(|exchange| {
            pause(Duration::from_secs(8));
            exchange.answer(200, &[], "late")
        }),
        Origin::echo("good"),
    );
    let mut route = backend(json!({}));
    route["http_req_timeout"] = json!(10);
    route["retries"] = json!({"count": 1, "per_try_timeout": 1, "backoff_ms": 1});
    let scene = scene(&[("a", &silent), ("b", &good)], route);
    for _ in 0..4 {
        let answer = scene.proxy.get("/s/x");
        assert_eq!(answer.by(), "good");
        assert!(answer.took < Duration::from_secs(6), "{answer:?}");
    }
    assert!(silent.count() >= 1);
}

#[test]
fn an_instance_that_fails_is_ejected_and_an_injected_failure_is_nobodys() {
    let (well, good) = (never(), Origin::echo("good"));
    let bad = failing(500, &well);
    let mut route = backend(json!({"resilience": {"consecutive_errors": 2, "sleep_window": 600}}));
    route["retries"] = json!({"on": ["refused-stream"]});
    let scene = scene(&[("a", &bad), ("b", &good)], route.clone());
    let rule = json!({"id": "r", "destination": "s", "route": route});
    scene
        .cluster
        .control
        .write(json!([{"id": "f", "destination": "s", "match": {"headers": {"X-Fail": "1"}},
        "actions": [{"action": "abort", "return_code": 500}]}]));
    (0..20).for_each(|_| {
        get("/s/x").header("X-Fail", "1").call(scene.proxy.http).expect_refusal(500, "fault_abort");
    });
    let ejections = || scene.proxy.metrics().sum("a8_proxy_ejections_total", &[r#"service="s""#]);
    assert!(ejections() < 0.5, "what a rule fails ejects nobody");
    let failed = (0..20).filter(|_| scene.proxy.get("/s/x").status == 500).count();
    assert_eq!(failed, 2);
    assert!((ejections() - 1.0).abs() < 0.1);
    let explained = scene.proxy.admin("/explain?method=GET&path=/s/x").expect(200).text();
    assert!(explained.contains("ejected"), "{explained}");
    // Another table does not forget it.
    scene
        .cluster
        .control
        .write(json!([{"id": "other", "destination": "other", "route": backend(json!({}))}, rule]));
    assert!((0..10).all(|_| scene.proxy.get("/s/x").by() == "good"));
}

#[test]
fn a_health_check_finds_who_is_sick_and_who_is_well_again() {
    let well = Arc::new(AtomicBool::new(true));
    let (sickly, good) = (failing(503, &well), Origin::echo("good"));
    let scene = scene(&[("a", &sickly), ("b", &good)], backend(json!({})));
    scene.cluster.control.write(json!([{"id": "h", "destination": "s", "health_check": {"type": "http",
        "path": "/healthz", "interval_s": 0.1, "timeout_s": 5, "unhealthy_threshold": 2, "healthy_threshold": 1}}]));
    let unhealthy = |count: f64| {
        eventually("the check has found it", || {
            match scene.proxy.metrics().sum("a8_proxy_unhealthy_instances", &[r#"service="s""#]) {
                found if (found - count).abs() < 0.1 => Ok(()),
                found => Err(format!("{found} unhealthy")),
            }
        });
    };
    well.store(false, Ordering::SeqCst);
    unhealthy(1.0);
    assert!((0..10).all(|_| scene.proxy.get("/s/x").by() == "good"));
    well.store(true, Ordering::SeqCst);
    unhealthy(0.0);
    eventually("it gets requests again", || match scene.proxy.get("/s/x").by() {
        by if by == "failing" => Ok(()),
        by => Err(by),
    });
    assert!(sickly.arrived().iter().any(|arrived| arrived.target() == "/healthz"));
}

#[test]
fn more_at_once_than_a_backend_takes_is_refused_at_once() {
    let slow = Origin::with(|exchange| {
        pause(Duration::from_millis(1500));
        exchange.answer(200, &[], "{}")
    });
    let scene = scene(&[("a", &slow)], backend(json!({"resilience": {"max_requests": 2}})));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| scene.proxy.get("/s/x"))).collect();
        let answers = threads.into_iter().map(|thread| thread.join().unwrap());
        answers
            .inspect(|answer| assert!(answer.status == 200 || answer.header("X-A8-Error") == "overloaded"))
            .map(|answer| answer.status)
            .collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
}
