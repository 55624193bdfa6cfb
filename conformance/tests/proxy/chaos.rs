//! Faults beyond the ancestors': how they look to a client, when they end, whom they are told to, and that the same request
//! id meets the same fate everywhere. What is drawn is tested where it is drawn.

use std::io::Read;
use std::time::Duration;

use conformance::caller::Connection;
use conformance::{Answer, Cluster, Origin, Proxy, eventually, get, h2c, put};
use serde_json::{Value, json};

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
    origin: Origin,
}

/// One instance of `s` that answers with so many bytes.
fn scene(len: usize) -> Scene {
    let cluster = Cluster::start();
    let origin = Origin::with(move |exchange| exchange.answer(200, &[], "x".repeat(len)));
    cluster.registry.register("s", &["t"], origin.address());
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(1);
    Scene { proxy, cluster, origin }
}

impl Scene {
    fn faults(&self, actions: Value) {
        self.cluster.control.replace(json!([{"id": "f", "destination": "s", "actions": actions}]));
    }

    fn counted(&self, action: &str) -> f64 {
        let label = format!(r#"action="{action}""#);
        self.proxy.metrics().sum("a8_proxy_faults_total", &[r#"service="s""#, r#"rule="f""#, &label])
    }

    fn switch(&self, disabled: bool) {
        let target = "/v1/faults?wait=applied&timeout=15s";
        let _ =
            put(target, &json!({ "disabled": disabled })).call(self.cluster.control.address()).expect(200);
    }

    fn with_id(&self, id: &str) -> Answer {
        get("/s/x").header("X-Request-Id", id).call(self.proxy.http)
    }
}

#[test]
fn a_reset_is_told_from_an_end() {
    let scene = scene(3);
    scene.faults(json!([{"action": "abort", "reset": true}]));
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.send(&get("/s/x").header("X-Request-Id", "reset")).unwrap();
    let error = connection.wire.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let line = scene.proxy.logged("reset");
    assert_eq!(
        (&line["status"], &line["response_flags"], &line["fault_rule"]),
        (&json!("0"), &json!("FI"), &json!("f"))
    );
    assert_eq!(scene.origin.count(), 0);
    assert!((scene.counted("abort") - 1.0).abs() < 0.1);
}

#[test]
fn a_body_is_slowed_down_and_cut_off() {
    let scene = scene(3000);
    scene.faults(json!([{"action": "bandwidth", "bytes_per_s": 4000}]));
    let answer = scene.with_id("slow").expect(200);
    assert_eq!(answer.body.len(), 3000);
    assert!((0.4..10.0).contains(&answer.took.as_secs_f64()), "{answer:?}");
    assert_eq!(scene.proxy.logged("slow")["response_flags"], "FI");
    assert!((scene.counted("bandwidth") - 1.0).abs() < 0.1);

    scene.faults(json!([{"action": "truncate", "after_bytes": 1000}]));
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.send(&get("/s/x")).unwrap();
    let head = connection.head().unwrap();
    assert!(head.start.contains(" 200 "), "{head:?}");
    let mut body = Vec::new();
    let _end = connection.wire.read_to_end(&mut body);
    assert_eq!(body.len(), 1000);
    eventually(
        "the cut is counted",
        || if scene.counted("truncate") > 0.5 { Ok(()) } else { Err("not yet") },
    );
}

#[test]
fn a_delay_is_as_long_as_its_distribution_says() {
    let scene = scene(3);
    for (length, range) in [
        (json!({"uniform": {"min": 0.4, "max": 0.5}}), 0.4..3.0),
        (json!({"normal": {"mean": 0.4, "stddev": 0.000001}}), 0.39..3.0),
        (json!({"duration": 0.4}), 0.4..3.0),
        (json!({"exponential": {"mean": 0.000001}}), 0.0..3.0),
    ] {
        let mut action = length.clone();
        action["action"] = json!("delay");
        scene.faults(json!([action]));
        let answer = scene.proxy.get("/s/x").expect(200);
        assert!(range.contains(&answer.took.as_secs_f64()), "{length}: {answer:?}");
    }
}

#[test]
fn a_call_fails_in_the_words_of_grpc() {
    let scene = scene(3);
    scene.faults(json!([{"action": "abort", "grpc_status": 14}]));
    let call = http::Request::post(format!("http://{}/s/a.B/C", scene.proxy.http))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(bytes::Bytes::new())
        .unwrap();
    let answer = h2c::exchange(scene.proxy.http, vec![call]).remove(0);
    assert_eq!((answer.status, answer.headers["grpc-status"].as_bytes()), (200, &b"14"[..]), "{answer:?}");
    assert_eq!(scene.origin.count(), 0);
}

#[test]
fn a_fault_ends_after_so_many_after_its_time_and_with_the_switch() {
    let scene = scene(3);
    scene.faults(json!([{"action": "abort", "return_code": 500, "first": 2}]));
    let explained = || scene.proxy.admin("/explain?path=/s/x").expect(200).json()["outcome"]["kind"].clone();
    // Asking is not meeting.
    assert_eq!([explained(), explained(), explained()], ["abort", "abort", "abort"]);
    let statuses: Vec<_> = (0..5).map(|_| scene.proxy.get("/s/x").status).collect();
    assert_eq!(statuses, [500, 500, 200, 200, 200]);
    assert_eq!(explained(), "forward");

    scene.faults(json!([{"action": "abort", "return_code": 500, "expires_at": "2020-01-01T00:00:00Z"}]));
    let _ = scene.proxy.get("/s/x").expect(200);

    scene.faults(json!([{"action": "abort", "return_code": 500, "duration_s": 1.5}]));
    let written = get("/v1/rules").call(scene.cluster.control.address()).expect(200).json();
    assert!(written["rules"][0]["actions"][0]["expires_at"].is_string(), "{written}");
    assert_eq!(scene.proxy.get("/s/x").status, 500);
    eventually("it ends by itself", || match scene.proxy.get("/s/x").status {
        200 => Ok(()),
        status => Err(format!("{status}")),
    });

    scene.faults(json!([{"action": "abort", "return_code": 500}]));
    assert_eq!(scene.proxy.get("/s/x").status, 500);
    scene.switch(true);
    let _ = scene.proxy.get("/s/x").expect(200);
    let told = get("/v1/faults").call(scene.cluster.control.address()).expect(200).json();
    assert_eq!(told["disabled"], true);
    scene.switch(false);
    assert_eq!(scene.proxy.get("/s/x").status, 500);
}

#[test]
fn only_so_many_are_delayed_at_a_time_and_the_switch_spares_who_comes_after_it() {
    let scene = scene(3);
    scene.faults(json!([{"action": "delay", "duration": 3, "max_concurrent": 1}]));
    let mut held = Connection::open(scene.proxy.http).unwrap();
    held.send(&get("/s/x")).unwrap();
    eventually("one is held", || if scene.counted("delay") > 0.5 { Ok(()) } else { Err("not yet") });
    let other = scene.proxy.get("/s/x").expect(200);
    assert!(other.took < Duration::from_secs(2), "{other:?}");
    scene.switch(true);
    let other = scene.proxy.get("/s/x").expect(200);
    assert!(other.took < Duration::from_secs(2), "{other:?}");
    // Its fate was decided when it came.
    assert_eq!(held.answer("GET").unwrap().expect(200).body.len(), 3);
}

#[test]
fn the_same_request_id_meets_the_same_fate_on_every_proxy_and_in_an_explanation() {
    let scene = scene(3);
    let other = scene.cluster.proxy_with("gateway", super::ENGINE);
    other.await_instances(1);
    scene.faults(json!([{"action": "abort", "return_code": 500, "probability": 0.5}]));
    let mut failed = 0;
    for number in 0..40 {
        let id = format!("fate-{number}");
        let status = scene.with_id(&id).status;
        assert_eq!(get("/s/x").header("X-Request-Id", &id).call(other.http).status, status, "{id}");
        let explained =
            scene.proxy.admin(&format!("/explain?method=GET&path=/s/x&request_id={id}")).expect(200);
        assert_eq!(
            explained.json()["outcome"].to_string().contains("500"),
            status == 500,
            "{id}: {}",
            explained.text()
        );
        failed += usize::from(status == 500);
    }
    assert!((5..=35).contains(&failed), "{failed} of 40");
}
