//! Injected faults, performed.

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
        assert_eq!(proxy.metric(r#"a8_proxy_faults_total{action="abort",service="s"}"#), Some(3.0));
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
    assert_eq!(proxy.metric(r#"a8_proxy_faults_total{action="delay",service="s"}"#), Some(2.0));
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
