//! Injected faults, performed.

use std::time::Duration;

use http::HeaderMap;
use routing::{At, RequestHead, Seed};
use serde_json::json;

use crate::support::{Instance, Proxy, actions, get, ok, post, route};

#[tokio::test]
async fn an_abort_answers_with_its_status_and_reaches_nobody() {
    let mut instance = Instance::start().await;
    for status in [200, 418, 503, 599] {
        let rule = actions(json!([{"action": "abort", "return_code": status}]));
        let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
        let mut conn = proxy.connect().await;
        for request in [get("/s"), post("/s", "body"), get("/s")] {
            conn.send(request).await;
            let answer = conn.answer().await;
            assert_eq!((answer.status, &*answer.error()), (status, "fault_abort"));
        }
        let log = proxy.log(3).await;
        assert_eq!(proxy.metric(r#"a8_proxy_faults_total{action="abort",rule="a",service="s"}"#), Some(3.0));
        assert_eq!((&log[0]["response_flags"], &log[0]["upstream_host"]), (&"FI".into(), &"-".into()));
    }
    assert!(instance.is_untouched());
}

#[tokio::test]
async fn bodiless_abort_codes_have_no_body_and_the_connection_goes_on() {
    let instance = Instance::named("x").await;
    let rule = json!({"id": "a", "destination": "s", "match": {"headers": {"X": "y"}},
        "actions": [{"action": "abort", "return_code": 204}]});
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n").await;
    assert_eq!(conn.answer().await.status, 204);
    conn.send(get("/s")).await;
    assert_eq!(conn.answer().await.body, "x");
}

#[tokio::test]
async fn a_negative_code_closes_the_connection_without_a_word() {
    let mut instance = Instance::start().await;
    let rule = actions(json!([{"action": "abort", "return_code": -1}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    for request in [get("/s"), post("/s", "body")] {
        let mut conn = proxy.connect().await;
        conn.send(request).await;
        assert!(conn.is_closed().await);
    }
    assert!(instance.is_untouched());
    let log = proxy.log(2).await;
    assert!(log.iter().all(|line| line["status"] == "0" && line["response_flags"] == "FI"), "{log:?}");
    assert_eq!(
        proxy.metric(r#"a8_proxy_requests_total{backend="",code="0",rule="",service="s"}"#),
        Some(2.0)
    );
}

#[tokio::test]
async fn a_reset_is_one() {
    let mut instance = Instance::start().await;
    let rule = actions(json!([{"action": "abort", "reset": true}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    for request in [get("/s"), post("/s", "body")] {
        let mut conn = proxy.connect().await;
        conn.send(request).await;
        assert!(conn.is_reset().await);
    }
    assert!(instance.is_untouched());
    let log = proxy.log(2).await;
    assert!(log.iter().all(|line| line["status"] == "0" && line["response_flags"] == "FI"), "{log:?}");
    assert_eq!(proxy.metric(r#"a8_proxy_faults_total{action="abort",rule="a",service="s"}"#), Some(2.0));
}

#[tokio::test]
async fn a_call_fails_in_the_words_of_grpc() {
    let rule = actions(json!([{"action": "abort", "grpc_status": 14}]));
    let instance = Instance::named("x").await;
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    for _ in 0..2 {
        conn.send(
            "POST /s/M HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 2\r\n\r\nhi",
        )
        .await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, ""));
        for (name, value) in
            [("grpc-status", "14"), ("content-type", "application/grpc"), ("x-a8-error", "fault_abort")]
        {
            assert_eq!(answer.field(name), Some(value), "{name}");
        }
        assert!(answer.field("grpc-message").is_some() && answer.goes_on());
    }
    assert_eq!(proxy.log(2).await[0]["response_flags"], "FI");
}

#[tokio::test]
async fn a_fault_ends_by_itself() {
    let instance = Instance::named("x").await;
    for (end, times) in [
        (json!({"first": 2}), 2),
        (json!({"expires_at": "2000-01-01T00:00:00Z"}), 0),
        (json!({"expires_at": "2999-01-01T00:00:00Z"}), 5),
    ] {
        let mut action = json!({"action": "abort", "return_code": 418});
        end.as_object().unwrap().iter().for_each(|(key, value)| action[key] = value.clone());
        let proxy = Proxy::with(&[actions(json!([action]))], &[("s", "v1", instance.to_string())]);
        let mut failed = 0;
        let mut conn = proxy.connect().await;
        for _ in 0..5 {
            conn.send(get("/s")).await;
            failed += usize::from(conn.answer().await.status == 418);
        }
        assert_eq!(failed, times, "{end}");
    }
}

#[tokio::test]
async fn only_so_many_meet_a_fault_at_a_time() {
    let instance = Instance::named("x").await;
    let rule = actions(json!([{"action": "delay", "duration": 3600, "max_concurrent": 2}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.to_string())]);
    let mut held = Vec::new();
    for count in 1..=2 {
        let mut conn = proxy.connect().await;
        conn.send(get("/s")).await;
        held.push(conn);
        let series = r#"a8_proxy_faults_total{action="delay",rule="a",service="s"}"#;
        proxy.metric_becomes(series, f64::from(count)).await;
    }
    assert_eq!(proxy.ask(&get("/s")).await.body, "x", "the third goes on");
    held.pop();
    // Its place is free once the proxy has noticed.
    proxy.log(2).await;
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    proxy.metric_becomes(r#"a8_proxy_faults_total{action="delay",rule="a",service="s"}"#, 3.0).await;
}

#[tokio::test]
async fn what_a_rule_fails_is_no_failure_of_an_instance() {
    let instance = Instance::named("x").await;
    let abort = json!({"id": "a", "destination": "s", "match": {"headers": {"X": "y"}},
        "actions": [{"action": "abort", "return_code": 503}]});
    let rule = json!({"id": "r", "destination": "s", "route": {"http_req_retries": 5, "backends": [{"tags": ["v1"],
        "resilience": {"consecutive_errors": 1, "max_requests": 1}}]}});
    let proxy = Proxy::with(&[abort, rule], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    for _ in 0..20 {
        conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n").await;
        assert_eq!(conn.answer().await.error(), "fault_abort");
    }
    conn.send(get("/s")).await;
    assert_eq!(conn.answer().await.body, "x", "neither ejected nor overloaded");
    assert_eq!(proxy.metric(r#"a8_proxy_retries_total{service="s"}"#), None);
}

#[tokio::test]
async fn a_delay_holds_the_request_and_is_not_charged_to_its_time() {
    let instance = Instance::named("x").await;
    let proxy = Proxy::with(
        &[route(json!({"http_req_timeout": 0.3})), actions(json!([{"action": "delay", "duration": 0.5}]))],
        &[("s", "v1", instance.to_string())],
    );
    let mut conn = proxy.connect().await;
    for request in [get("/s"), post("/s", "body")] {
        conn.send(request).await;
        assert_eq!(conn.answer().await.status, 200);
    }
    for line in proxy.log(2).await {
        let took = line["request_time"].as_u64().unwrap();
        assert!((500..1500).contains(&took), "{took} ms");
        assert_eq!(line["response_flags"], "DI");
    }
    assert_eq!(proxy.metric(r#"a8_proxy_faults_total{action="delay",rule="a",service="s"}"#), Some(2.0));
}

#[tokio::test]
async fn one_switch_ends_every_fault_and_leaves_the_traces() {
    let instance = Instance::named("x").await;
    let (instances, rules) = (
        [("s", "v1", instance.to_string())],
        [actions(json!([
            {"action": "trace", "log_key": "gremlin_recipe_id", "log_value": "42"},
            {"action": "delay", "duration": 0.02},
            {"action": "abort", "return_code": 418},
        ]))],
    );
    let proxy = Proxy::with(&rules, &instances);
    let mut conn = proxy.connect().await;
    for (disabled, status) in [(false, 418), (true, 200), (false, 418)] {
        proxy.apply_with(&rules, &instances, |snapshot| snapshot.set_faults_disabled(disabled));
        // Also for a client that was there before.
        for request in [get("/s"), post("/s", "body")] {
            conn.send(request).await;
            assert_eq!(conn.answer().await.status, status, "{disabled}");
        }
    }
    let log = proxy.log(6).await;
    let flags: Vec<_> = log.iter().map(|line| line["response_flags"].as_str().unwrap()).collect();
    assert_eq!(flags, ["DI,FI", "DI,FI", "-", "-", "DI,FI", "DI,FI"]);
    assert!(log.iter().all(|line| line["gremlin_recipe_id"] == "42"), "{log:?}");
    for fault in ["delay", "abort"] {
        let series = format!(r#"a8_proxy_faults_total{{action="{fault}",rule="a",service="s"}}"#);
        assert_eq!(proxy.metric(&series), Some(4.0));
    }
}

#[tokio::test]
async fn a_delay_takes_as_long_as_was_drawn_for_it() {
    let instance = Instance::named("x").await;
    for (length, least, most) in [
        (json!({"uniform": {"min": 0.05, "max": 0.15}}), 0.05, 0.15),
        (json!({"normal": {"mean": 0.1, "stddev": 0.02}}), 0.0, 1.0),
        (json!({"exponential": {"mean": 0.05}}), 0.0, 1.0),
    ] {
        let mut action = json!({"action": "delay"});
        length.as_object().unwrap().iter().for_each(|(key, value)| action[key] = value.clone());
        let proxy = Proxy::with(&[actions(json!([action]))], &[("s", "v1", instance.to_string())]);
        let mut conn = proxy.connect().await;
        let mut drawn = Vec::new();
        for id in 0..5 {
            conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n")).await;
            assert_eq!(conn.answer().await.body, "x");
            let headers = HeaderMap::new();
            let head =
                RequestHead { method: "GET", path: "/s", query: "", authority: "a", headers: &headers };
            let decision =
                proxy.stage.tables.pin().decide(&head, Seed::of(id.to_string().as_bytes()), &At(0));
            drawn.push(decision.faults.delay);
        }
        for (line, delay) in proxy.log(5).await.iter().zip(&drawn) {
            assert!((least..=most).contains(&delay.as_secs_f64()), "{length}: {delay:?}");
            let took = Duration::from_millis(line["request_time"].as_u64().unwrap() + 1);
            assert!((*delay..*delay + Duration::from_secs(1)).contains(&took), "{took:?} for {delay:?}");
        }
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 5, "each request its own");
    }
}

#[tokio::test]
async fn a_delay_before_an_abort_waits_and_then_fails() {
    let instance = Instance::named("x").await;
    let rule =
        actions(json!([{"action": "delay", "duration": 0.2}, {"action": "abort", "return_code": 503}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.to_string())]);
    assert_eq!(proxy.ask(&get("/s")).await.error(), "fault_abort");
    let log = proxy.log(1).await;
    assert!(log[0]["request_time"].as_u64().unwrap() >= 200);
    assert_eq!(log[0]["response_flags"], "DI,FI");
}

#[tokio::test]
async fn a_body_that_came_during_a_delay_is_forwarded_whole() {
    let instance = Instance::answering(|_, body| ok(&body.len().to_string())).await;
    let rule = actions(json!([{"action": "delay", "duration": 0.2}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.to_string())]);
    for len in [1, 1000, 65_536, 300_000] {
        let mut conn = proxy.connect().await;
        conn.send(post("/s", &"x".repeat(len))).await;
        assert_eq!(conn.answer().await.body, len.to_string());
    }
    let chunked = "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(proxy.ask(chunked).await.body, "5");
}

#[tokio::test]
async fn a_delay_ends_when_the_client_leaves() {
    let mut instance = Instance::start().await;
    let rule = actions(json!([{"action": "delay", "duration": 3600}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    for request in [get("/s"), post("/s", "body"), post("/s", "")] {
        let mut conn = proxy.connect().await;
        conn.send(request).await;
        proxy.metric_becomes("a8_proxy_active_connections", 1.0).await;
        drop(conn);
        proxy.metric_becomes("a8_proxy_active_connections", 0.0).await;
    }
    let log = proxy.log(3).await;
    assert!(log.iter().all(|line| line["status"] == "499"), "{log:?}");
    assert!(instance.is_untouched());
}

#[tokio::test]
async fn held_requests_hold_nobody_else() {
    let instance = Instance::named("x").await;
    let rule = json!({"id": "a", "destination": "s", "match": {"headers": {"X": "y"}},
        "actions": [{"action": "delay", "duration": 3600}]});
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.to_string())]);
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut conn = proxy.connect().await;
        conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n").await;
        held.push(conn);
    }
    assert_eq!(proxy.ask(&get("/s")).await.body, "x");
}

#[tokio::test]
async fn a_trace_is_logged_with_the_request_and_with_no_other() {
    let instance = Instance::named("x").await;
    let rule = json!({"id": "a", "destination": "s", "match": {"headers": {"X": "y"}},
        "actions": [{"action": "trace", "log_key": "gremlin_recipe_id", "log_value": "42"}]});
    let proxy = Proxy::with(&[rule, route(json!({}))], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send("GET /s/p?q HTTP/1.1\r\nHost: h:1\r\nX: y\r\nX-Request-Id: i\r\nUser-Agent: u\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n")
        .await;
    conn.answer().await;
    conn.send(get("/s")).await;
    conn.answer().await;
    let log = proxy.log(2).await;
    for (field, value) in [
        ("status", "200"),
        ("src", "caller:v9"),
        ("dst", "s:v1"),
        ("gremlin_recipe_id", "42"),
        ("message", "GET /s/p?q 200"),
        ("method", "GET"),
        ("path", "/s/p?q"),
        ("protocol", "HTTP/1.1"),
        ("response_flags", "-"),
        ("x_forwarded", "9.9.9.9"),
        ("user_agent", "u"),
        ("request_id", "i"),
        ("auth", "h:1"),
        ("upstream_host", &instance.to_string()),
    ] {
        assert_eq!(log[0][field], value, "{field}");
    }
    assert_eq!(log[1]["gremlin_recipe_id"], "-");
    assert_eq!(log[1]["request_id"].as_str().unwrap().len(), 36);
}
