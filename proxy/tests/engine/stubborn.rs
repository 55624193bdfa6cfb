//! Clients and instances that do not keep up: who stops reading, who never stops speaking, and who answers too soon.

use serde_json::json;

use super::support::{Instance, Proxy, get, nobody, ok, post, route};

#[tokio::test]
async fn a_body_that_ends_with_its_connection_stays_one_body_for_a_client_that_stops_reading() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 200 OK\r\n\r\n").await;
    let sent = upstream.send_until_stuck(64 << 20, 1000).await;
    drop(upstream);
    let answer = conn.answer().await;
    assert_eq!((answer.status, answer.body.len()), (200, sent));
    assert!(answer.body.bytes().all(|byte| byte == b'x'));
}

#[tokio::test]
async fn interim_answers_that_nobody_reads_do_not_run_into_the_answer_of_the_next_attempt() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "h".repeat(60_000));
    let mut hints = 0;
    while hints < 1000 && upstream.try_send_soon(&hint).await {
        hints += 1;
    }
    drop(upstream);
    // Whichever way this goes, every head has to be whole.
    tokio::select! {
        (mut upstream, _) = instance.request() => upstream.send(ok("second")).await,
        head = conn.head() => assert!(head.starts_with("HTTP/1.1 103 "), "{head}"),
    }
    while let Some(head) = conn.try_head().await {
        assert!(head.starts_with("HTTP/1.1 "), "{}", &head[..head.len().min(200)]);
        if !head.starts_with("HTTP/1.1 103 ") {
            return;
        }
    }
}

#[tokio::test]
async fn an_instance_that_never_stops_announcing_an_answer_is_late() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.5}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    let flood = tokio::spawn(async move {
        let hints = "HTTP/1.1 103 \r\n\r\n".repeat(4_000);
        while upstream.try_send(&hints).await {}
    });
    assert_eq!(conn.answer().await.status, 504);
    flood.abort();
}

#[tokio::test]
async fn a_long_body_whose_instance_refuses_the_connection_goes_to_another() {
    for _ in 0..10 {
        let good = Instance::answering(|_, body| ok(&body.len().to_string())).await;
        let proxy = Proxy::of(&[nobody().await, good]);
        for _ in 0..2 {
            let answer = proxy.ask(&post("/s", &"b".repeat(200_000))).await;
            assert_eq!((answer.status, &*answer.body), (200, "200000"));
        }
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_its_request_does_not_cut_the_request() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n").await;
    conn.send("x".repeat(100_000)).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok").await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, answer.field("connection")), (202, Some("close")));
    conn.send("x".repeat(200_000)).await;
    assert_eq!(upstream.count(300_000).await, 300_000);
    assert!(conn.is_closed().await);
}

#[tokio::test]
async fn an_instance_that_takes_no_more_of_a_body_is_late_and_a_client_that_sends_no_more_is_not_its_fault() {
    let mut instance = Instance::start().await;
    let rule = json!({"id": "r", "destination": "s", "route": {"http_req_timeout": 2, "http_req_retries": 0,
        "backends": [{"tags": ["v1"], "resilience": {"consecutive_errors": 1, "max_ejection_percent": 100}}]}});
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let ejections = r#"a8_proxy_ejections_total{kind="consecutive_errors",service="s"}"#;
    let head = format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1 << 30);

    let mut conn = proxy.connect().await;
    conn.send(&head).await;
    conn.send("x".repeat(200_000)).await;
    let (mut upstream, _) = instance.request().await;
    assert_eq!(upstream.count(200_000).await, 200_000);
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.error()), (408, "bad_request"));
    assert_eq!(proxy.metric(ejections), None);

    let mut conn = proxy.connect().await;
    conn.send(&head).await;
    let (_upstream, _) = instance.request().await;
    assert!(conn.send_until_stuck(64 << 20, 64 * 1024).await < 64 << 20, "nobody takes it");
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.error()), (504, "upstream_timeout"));
    let log = proxy.log(2).await;
    assert_eq!((&log[0]["response_flags"], &log[1]["response_flags"]), (&"-".into(), &"UT".into()));
    let took = log[1]["request_time"].as_u64().unwrap();
    assert!((1990..3900).contains(&took), "{took} ms: it has the time of one request");
    assert_eq!(proxy.metric(ejections), Some(1.0));
}
