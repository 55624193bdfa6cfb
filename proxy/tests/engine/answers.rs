//! What a route answers by itself, and what it does to the header fields that pass. Which route applies is the table's
//! business and tested there.

use serde_json::{Value, json};

use crate::support::{Instance, Proxy, actions, field, fields, get, ok, post, route};

fn answering(route: Value) -> Value {
    json!({"id": "r", "destination": "s", "route": route})
}

fn head(path: &str) -> String {
    format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test]
async fn a_response_of_a_rule_needs_no_instance_and_the_connection_goes_on() {
    let rule = answering(json!({"response": {"status": 503, "body": "back at noon",
        "headers": {"Retry-After": "3600"}}}));
    let proxy = Proxy::with(&[rule], &[]);
    let mut conn = proxy.connect().await;
    for request in [get("/s"), post("/s/x", "body"), get("/s?q")] {
        conn.send(request).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.body), (503, "back at noon"));
        assert_eq!(answer.field("retry-after"), Some("3600"));
        assert_eq!(answer.field("content-length"), Some("12"));
        assert_eq!(answer.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.field("x-a8-error"), None);
        assert!(answer.goes_on());
    }
    conn.send(head("/s")).await;
    let headed = conn.head().await;
    assert_eq!(field(&headed, "content-length"), Some("12"));
    conn.send(get("/s")).await;
    assert_eq!(conn.answer().await.body, "back at noon", "nothing followed the head");
    let log = proxy.log(5).await;
    for line in &log {
        assert_eq!((&line["status"], &line["response_flags"]), (&"503".into(), &"-".into()));
        assert_eq!((&line["upstream_host"], &line["fault_rule"]), (&"-".into(), &Value::Null));
    }
    proxy.metric_becomes(r#"a8_proxy_requests_total{backend="",code="503",rule="r",service="s"}"#, 5.0).await;
}

#[tokio::test]
async fn statuses_without_a_body_have_none() {
    for (status, length) in [(204, None), (205, Some("0")), (304, None), (200, Some("0"))] {
        let rule = answering(json!({"response": {"status": status, "headers": {"ETag": "x"}}}));
        let proxy = Proxy::with(&[rule], &[]);
        let mut conn = proxy.connect().await;
        for request in [get("/s"), head("/s"), get("/s")] {
            conn.send(request).await;
            let head = conn.head().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert_eq!((field(&head, "content-length"), field(&head, "etag")), (length, Some("x")));
            assert_eq!(field(&head, "content-type"), None);
        }
    }
}

#[tokio::test]
async fn a_redirect_leads_where_the_rule_says() {
    let rule = answering(json!({"redirect": {"status": 308, "scheme": "https", "host": "shop.example",
        "prefix_rewrite": "/v2"}}));
    let proxy = Proxy::with(&[rule], &[]);
    let mut conn = proxy.connect().await;
    for (path, place) in [
        ("/s/cart?x=1", "https://shop.example/v2/cart?x=1"),
        ("/s", "https://shop.example/v2"),
        ("/s//evil.example", "https://shop.example/v2//evil.example"),
    ] {
        conn.send(get(path)).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, answer.field("location")), (308, Some(place)));
        assert_eq!(answer.field("content-length"), Some("0"));
        assert!(answer.goes_on());
    }
}

#[tokio::test]
async fn an_answer_of_a_rule_can_be_delayed_and_aborted() {
    let response = answering(json!({"response": {"status": 200, "body": "x"}}));
    let delay = json!({"id": "d", "destination": "s", "match": {"headers": {"X": "delay"}},
        "actions": [{"action": "delay", "duration": 0.2}]});
    let abort = json!({"id": "a", "destination": "s", "match": {"headers": {"X": "abort"}},
        "actions": [{"action": "abort", "return_code": 418}]});
    let proxy = Proxy::with(&[response, delay, abort], &[]);
    let mut conn = proxy.connect().await;
    conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX: delay\r\n\r\n").await;
    assert_eq!(conn.answer().await.body, "x");
    conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX: abort\r\n\r\n").await;
    assert_eq!(conn.answer().await.error(), "fault_abort");
    let log = proxy.log(2).await;
    assert!(log[0]["request_time"].as_u64().unwrap() >= 200);
    assert_eq!((&log[0]["response_flags"], &log[0]["fault_rule"]), (&"DI".into(), &"d".into()));
    assert_eq!((&log[1]["response_flags"], &log[1]["fault_rule"]), (&"FI".into(), &"a".into()));
}

#[tokio::test]
async fn an_answer_of_a_rule_comes_to_a_client_of_http_1_0_as_well() {
    let proxy = Proxy::with(&[answering(json!({"response": {"status": 200, "body": "x"}}))], &[]);
    let mut conn = proxy.connect().await;
    conn.send("GET /s HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.body, answer.goes_on()), (200, "x", false));
    assert!(conn.is_closed().await);
}

#[tokio::test]
async fn edits_of_a_request_see_what_the_proxy_added() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"headers": {"request": {"remove": ["X-Debug", "X-Forwarded-Proto"],
        "set": {"X-Variant": "b", "X-Forwarded-For": "hidden"}, "add": {"X-Many": "3"}}}}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    let (mut upstream, mut first) = (None, true);
    for body in ["", "body"] {
        conn.send(format!(
            "POST /s HTTP/1.1\r\nHost: a\r\nx-debug: 1\r\nX-DEBUG: 2\r\nX-Debugger: 1\r\nX-Variant: a\r\nx-variant: c\r\n\
             X-Many: 1\r\nX-Many: 2\r\nX-Forwarded-For: 1.1.1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        let head = match &mut upstream {
            None => {
                let (conn, head) = instance.request().await;
                upstream = Some(conn);
                head
            }
            Some(conn) => instance.next_request(conn).await,
        };
        for (name, values) in [
            ("x-debug", &[][..]),
            ("x-debugger", &["1"]),
            ("x-forwarded-proto", &[]),
            ("x-variant", &["b"]),
            ("x-forwarded-for", &["hidden"]),
            ("x-many", &["1", "2", "3"]),
            ("host", &["a"]),
        ] {
            assert_eq!(fields(&head, name), values, "{name}: {head}");
        }
        let upstream = upstream.as_mut().unwrap();
        assert_eq!(upstream.body_of(&head).await, body);
        upstream.send(ok(if first { "1" } else { "2" })).await;
        assert_eq!(conn.answer().await.body, if first { "1" } else { "2" });
        first = false;
    }
    // The log tells what came.
    assert_eq!(proxy.log(2).await[0]["x_forwarded"], "1.1.1.1");
}

#[tokio::test]
async fn edits_of_an_answer_leave_its_framing_and_the_proxys_own_failures_alone() {
    let instance = Instance::answering(|head, _| {
        let fields =
            "Server: x\r\nX-Internal: 1\r\nx-internal: 2\r\nX-Hop: 1\r\nConnection: X-Hop\r\nX-Served-By: a";
        if head.starts_with("GET /chunks") {
            format!("HTTP/1.1 200 OK\r\n{fields}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        } else {
            format!("HTTP/1.1 404 Not Found\r\n{fields}\r\nContent-Length: 2\r\n\r\nhi")
        }
    })
    .await;
    let rule = route(
        json!({"headers": {"response": {"remove": ["X-Internal"], "set": {"Server": "a8", "X-Hop": "2"},
        "add": {"X-Served-By": "b"}}}}),
    );
    let aborted = json!({"id": "a", "destination": "s", "match": {"headers": {"X": "abort"}},
        "actions": [{"action": "abort", "return_code": 503}]});
    let proxy = Proxy::with(&[rule, aborted], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    for (path, status) in [("/s/chunks", 200), ("/s/length", 404), ("/s/chunks", 200)] {
        conn.send(get(path)).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.body), (status, "hi"));
        for (name, values) in
            [("server", &["a8"][..]), ("x-internal", &[]), ("x-hop", &["2"]), ("x-served-by", &["a", "b"])]
        {
            assert_eq!(fields(&answer.head, name), values, "{name}: {answer:?}");
        }
        assert!(answer.goes_on());
    }
    conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX: abort\r\n\r\n").await;
    let answer = conn.answer().await;
    assert_eq!((&*answer.error(), answer.field("server")), ("fault_abort", None));
    let all = proxy.log(4).await;
    assert_eq!(all.iter().filter(|line| line["response_flags"] == "FI").count(), 1);
}

#[tokio::test]
async fn every_attempt_carries_the_edits() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"headers": {"request": {"add": {"X-A": "1"}}}}));
    let proxy = Proxy::with(
        &[rule, actions(json!([{"action": "trace", "log_key": "k", "log_value": "v"}]))],
        &[("s", "v1", instance.at.to_string())],
    );
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, head) = instance.request().await;
    assert_eq!(fields(&head, "x-a"), ["1"]);
    upstream.send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await;
    let head = instance.next_request(&mut upstream).await;
    assert_eq!(fields(&head, "x-a"), ["1"]);
    upstream.send(ok("x")).await;
    assert_eq!(conn.answer().await.body, "x");
}
