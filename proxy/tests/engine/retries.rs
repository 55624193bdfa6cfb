//! What follows when an instance fails, and how long anybody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::{Instance, Proxy, get, nobody, ok, post, route};

/// An instance that answers with a status, and how often it was asked.
async fn failing(status: u16) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let at = Instance::answering(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nfail")
    })
    .await;
    (at, asked)
}

#[tokio::test]
async fn what_one_instance_fails_another_does() {
    let good = Instance::named("good").await;
    for bad in [nobody().await, failing(503).await.0] {
        let proxy = Proxy::of(&[bad, good]);
        let mut conn = proxy.connect().await;
        // No more than may be tried again at once.
        for request in [get("/s"), post("/s", "body"), get("/s")] {
            conn.send(request).await;
            assert_eq!(conn.answer().await.body, "good");
        }
        let retries = proxy.metric(r#"a8_proxy_retries_total{service="s"}"#).unwrap();
        assert!(retries >= 1.0, "the bad one had its turn");
        // One count per client request.
        proxy
            .metric_becomes(r#"a8_proxy_requests_total{backend="",code="200",rule="",service="s"}"#, 3.0)
            .await;
    }
}

#[tokio::test]
async fn when_every_attempt_fails_the_last_answer_is_the_answer() {
    let (at, asked) = failing(503).await;
    for (retries, times) in [(None, 2), (Some(3), 4)] {
        asked.store(0, Ordering::Relaxed);
        let fields = retries.map_or(json!({}), |retries| json!({"http_req_retries": retries}));
        let proxy = Proxy::with(&[route(fields)], &[("s", "v1", at.to_string())]);
        let answer = proxy.ask(&get("/s")).await;
        assert_eq!((answer.status, &*answer.body, answer.field("x-a8-error")), (503, "fail", None));
        assert_eq!(asked.load(Ordering::Relaxed), times);
        assert_eq!(proxy.log(1).await[0]["upstream_host"], at.to_string());
    }
}

#[tokio::test]
async fn answers_below_500_are_never_tried_again() {
    let (at, asked) = failing(429).await;
    let proxy = Proxy::of(&[at]);
    assert_eq!(proxy.ask(&get("/s")).await.status, 429);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn nobody_there_is_503() {
    let proxy = Proxy::of(&[nobody().await, nobody().await]);
    let answer = proxy.ask(&get("/s")).await;
    assert_eq!((answer.status, &*answer.error()), (503, "upstream_connect"));
    let log = proxy.log(1).await;
    assert_eq!((&log[0]["status"], &log[0]["response_flags"]), (&"503".into(), &"UF".into()));
}

#[tokio::test]
async fn an_instance_that_closes_without_a_word_is_tried_again_only_for_what_may_be_done_twice() {
    for (request, again) in [(get("/s"), true), (post("/s", "pay"), false)] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        conn.send(&request).await;
        drop(instance.request().await);
        if again {
            let (mut upstream, _) = instance.request().await;
            upstream.send(ok("second")).await;
            assert_eq!(conn.answer().await.body, "second");
        } else {
            let answer = conn.answer().await;
            assert_eq!((answer.status, &*answer.error()), (503, "upstream_connect"));
            assert!(instance.is_untouched());
            assert_eq!(proxy.log(1).await[0]["response_flags"], "UR");
        }
    }
}

#[tokio::test]
async fn a_body_is_sent_again_whole_or_not_at_all() {
    for (len, again) in [(1, true), (60_000, true), (200_000, false)] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        let body = "y".repeat(len);
        conn.send(post("/s", &body)).await;
        let (mut upstream, head) = instance.request().await;
        assert_eq!(upstream.body_of(&head).await, body);
        upstream.send("HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\nfirst").await;
        if again {
            let (mut upstream, head) = instance.request().await;
            assert_eq!(upstream.body_of(&head).await, body, "{len}");
            upstream.send(ok("second")).await;
        }
        assert_eq!(conn.answer().await.body, if again { "second" } else { "first" }, "{len}");
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504_and_retries_do_not_prolong_it() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.4, "http_req_retries": 5}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut first, _) = instance.request().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    first.send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await;
    let (_second, _) = instance.request().await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.error()), (504, "upstream_timeout"));
    let log = proxy.log(1).await;
    assert_eq!(log[0]["response_flags"], "UT");
    let took = log[0]["request_time"].as_u64().unwrap();
    assert!((390..900).contains(&took), "{took} ms");
}

#[tokio::test]
async fn time_that_is_over_before_there_is_a_connection_is_not_the_clients_fault() {
    // Whatever comes about in that time, it never answers.
    let silent = Instance::start().await;
    let proxy =
        Proxy::with(&[route(json!({"http_req_timeout": 1e-9}))], &[("s", "v1", silent.at.to_string())]);
    let mut conn = proxy.connect().await;
    for request in [get("/s"), post("/s", "")] {
        conn.send(request).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (504, "upstream_timeout"));
        if !answer.goes_on() {
            conn = proxy.connect().await;
        }
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_may_take_its_time_but_not_fall_silent() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.4}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        upstream.send("x").await;
    }
    conn.head().await;
    // 800 ms are over, and the answer goes on; then it falls silent.
    assert_eq!(conn.rest().await, "xxxx");
    assert_eq!(proxy.log(1).await[0]["response_flags"], "UT");
}

#[tokio::test]
async fn an_answer_head_that_drips_does_not_outlast_the_request() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.4, "http_req_retries": 1}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 200 OK\r\nX: ").await;
    let drip = async {
        while upstream.try_send("x").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::select! {
        answer = conn.answer() => answer,
        () = drip => conn.answer().await,
    };
    assert_eq!((answer.status, &*answer.error()), (504, "upstream_timeout"));
}

#[tokio::test]
async fn an_instance_that_fails_again_and_again_is_left_alone() {
    let (bad, asked) = failing(500).await;
    let good = Instance::named("good").await;
    let instances = [bad, good].map(|at| ("s", "v1", at.to_string()));
    let proxy = Proxy::with(&[], &instances);
    let mut conn = proxy.connect().await;
    for _ in 0..40 {
        conn.send(get("/s")).await;
        assert_eq!(conn.answer().await.body, "good");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 5, "five failures in a row eject");
}

#[tokio::test]
async fn more_requests_than_the_backend_allows_are_refused_at_once() {
    let mut instance = Instance::start().await;
    let rule = json!({"id": "r", "destination": "s",
        "route": {"backends": [{"tags": ["v1"], "resilience": {"max_requests": 1}}]}});
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut first = proxy.connect().await;
    first.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    let answer = proxy.ask(&get("/s")).await;
    assert_eq!((answer.status, &*answer.error()), (503, "overloaded"));
    upstream.send(ok("first")).await;
    assert_eq!(first.answer().await.body, "first");
    first.send(get("/s")).await;
    upstream.head().await;
    upstream.send(ok("again")).await;
    assert_eq!(first.answer().await.body, "again");
    let log = proxy.log(3).await;
    assert_eq!(log.iter().filter(|line| line["response_flags"] == "UO").count(), 1, "{log:?}");
}

#[tokio::test]
async fn a_connection_the_instance_closed_while_it_was_idle_costs_nobody_a_request() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    for round in 0..20 {
        conn.send(get("/s")).await;
        let (mut upstream, _) = instance.request().await;
        upstream.send(ok("x")).await;
        assert_eq!(conn.answer().await.status, 200, "{round}");
        drop(upstream);
    }
}

#[tokio::test]
async fn a_client_that_sends_slowly_is_not_charged_for_it_and_one_that_stops_is_told_so() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.4}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        conn.send("x").await;
    }
    let (mut upstream, head) = instance.request().await;
    assert_eq!(upstream.body_of(&head).await, "xxxxx");
    tokio::time::sleep(Duration::from_millis(200)).await;
    upstream.send(ok("done")).await;
    assert_eq!(conn.answer().await.body, "done");

    conn.send("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nx").await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.error()), (408, "bad_request"));
    assert_eq!(answer.field("Connection"), Some("close"));
    assert!(conn.is_closed().await);
}

#[tokio::test]
async fn after_a_retry_an_answer_has_the_whole_time_between_its_pieces_again() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.6}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut first, _) = instance.request().await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    first.send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await;
    let (mut second, _) = instance.request().await;
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").await;
    tokio::time::sleep(Duration::from_millis(450)).await;
    second.send("b").await;
    assert_eq!(conn.answer().await.body, "ab");
}
