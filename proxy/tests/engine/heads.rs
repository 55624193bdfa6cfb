//! What a request may look like, and how long it may take to say it.

use std::time::Duration;

use proxy::server::Limits;
use serde_json::json;

use crate::support::{Instance, Proxy, field, get, ok, soon, status_of};

fn quick() -> Limits {
    let soon = Duration::from_millis(300);
    Limits { head_within: soon, idle_within: soon, ..Limits::default() }
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_with_the_envelope_and_reaches_nobody() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let requests = [
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST /s HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /s HTTP/1.1\r\n\r\n",
        "GET /s HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET /s HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET /s HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET /s HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET /s HTTP/1.1\r\nHost: <a>\r\n\r\n",
        "GET : HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET javascript:x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET s/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /s HTTP/1.1\nHost: a\r\n\r\n",
        "GET /s HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
        "GET /s HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET /s HTTP/3.0\r\nHost: a\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ];
    for request in requests {
        let mut conn = proxy.connect().await;
        conn.send(request).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (400, "bad_request"), "{request:?}");
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(conn.is_closed().await, "{request:?}");
    }
    assert!(instance.is_untouched());
    let log = proxy.log(requests.len()).await;
    assert!(log.iter().all(|line| line["status"] == "400"), "{log:?}");
    assert_eq!(proxy.metric("a8_proxy_parse_failures_total"), Some(requests.len() as f64));
}

#[tokio::test]
async fn heads_that_are_too_large_are_told_so() {
    let proxy = Proxy::of(&[]);
    for request in [
        format!("GET /s/{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000)),
        format!("{} /s HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(64 * 1024)),
        format!("GET /s HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000)),
        format!("GET /s HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(300)),
        // One that never ends is answered as soon as it is too large.
        format!("GET /s HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(70_000)),
    ] {
        let answer = proxy.ask(&request).await;
        assert_eq!((answer.status, &*answer.error()), (431, "bad_request"), "{}", &request[..20]);
    }
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_cut_however_steadily_it_drips() {
    let proxy = Proxy::patient(quick(), &[], &[]);
    let mut conn = proxy.connect().await;
    soon("the cut", async {
        while conn.try_send("X").await {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if proxy.metric("a8_proxy_parse_failures_total") == Some(1.0) {
                break;
            }
        }
    })
    .await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.error()), (408, "bad_request"));
    assert!(conn.is_closed().await);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_without_a_word_before_and_between_requests() {
    let instance = Instance::named("x").await;
    let proxy = Proxy::patient(quick(), &[], &[("s", "v1", instance.to_string())]);
    assert!(proxy.connect().await.is_closed().await);
    let mut conn = proxy.connect().await;
    for _ in 0..2 {
        conn.send(get("/s")).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, answer.goes_on()), (200, true));
    }
    assert!(conn.is_closed().await);
    proxy.metric_becomes("a8_proxy_active_connections", 0.0).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_one_at_a_time() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    let chunked =
        "POST /s/2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let all = format!(
        "{}{chunked}POST /s/3 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab\r\n{}",
        get("/s/1"),
        get("/nobody")
    );
    conn.send(&all).await;
    let (mut upstream, head) = instance.request().await;
    assert!(head.starts_with("GET /1 "));
    upstream.send(ok("one")).await;
    assert_eq!(conn.answer().await.body, "one");
    let head = upstream.head().await;
    assert!(head.starts_with("POST /2 "), "{head}");
    assert_eq!(upstream.body_of(&head).await, "hello");
    upstream.send(ok("two")).await;
    assert_eq!(conn.answer().await.body, "two");
    let head = upstream.head().await;
    assert!(head.starts_with("POST /3 "), "{head}");
    assert_eq!(upstream.body_of(&head).await, "ab");
    upstream.send(ok("three")).await;
    assert_eq!(conn.answer().await.body, "three");
    assert_eq!(conn.answer().await.error(), "unknown_service");
    conn.send(get("/s/4")).await;
    assert!(upstream.head().await.starts_with("GET /4 "));
}

#[tokio::test]
async fn a_request_shorter_than_the_preface_of_http2_is_answered() {
    let instance = Instance::named("x").await;
    let proxy = Proxy::of(&[instance]);
    for request in ["GET /s HTTP/1.0\r\n\r\n", "\r\n\r\nGET /s HTTP/1.0\r\n\r\n"] {
        let mut conn = proxy.connect().await;
        conn.send(request).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, "x"));
        assert!(conn.is_closed().await);
    }
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let instance = Instance::named("x").await;
    let proxy = Proxy::of(&[instance]);
    let mut conn = proxy.connect().await;
    for byte in get("/s").bytes().chain(get("/s").bytes()) {
        conn.send([byte]).await;
    }
    assert_eq!(conn.answer().await.status, 200);
    assert_eq!(conn.answer().await.status, 200);
}

#[tokio::test]
async fn absolute_form_is_routed_by_its_path_and_its_authority_becomes_the_host() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send("GET http://shop.example:81/s/x?y HTTP/1.1\r\nHost: other\r\n\r\n").await;
    let (_, head) = instance.request().await;
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some("shop.example:81"));
}

#[tokio::test]
async fn what_the_table_refuses_is_refused_by_name() {
    let down = json!({"id": "r", "destination": "ruled", "route": {"backends": [{"tags": ["v1"]}]}});
    let picky = json!({"id": "p", "destination": "s", "match": {"headers": {"X": "y"}},
        "route": {"backends": [{"tags": ["v1"]}]}});
    let instance = Instance::named("x").await;
    let proxy = Proxy::with(&[down, picky], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    for (path, status, id) in [
        ("/", 404, "unknown_service"),
        ("//x", 404, "unknown_service"),
        ("/nobody/x", 404, "unknown_service"),
        ("/s/x", 404, "no_route"),
        ("/ruled/x", 503, "no_instances"),
    ] {
        conn.send(get(path)).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (status, id), "{path}");
        assert!(answer.goes_on(), "{path}");
    }
    conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n").await;
    assert_eq!(conn.answer().await.status, 200);
    conn.send("HEAD /nobody HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = conn.head().await;
    assert_eq!((status_of(&head), field(&head, "x-a8-error")), (404, Some("unknown_service")));
    conn.send(get("/nobody")).await;
    assert_eq!(conn.answer().await.error(), "unknown_service");
    let log = proxy.log(8).await;
    let flags: Vec<_> = log.iter().map(|line| line["response_flags"].as_str().unwrap()).collect();
    assert_eq!(flags, ["NR", "NR", "NR", "NR", "UH", "-", "NR", "NR"]);
    assert_eq!(
        proxy.metric(r#"a8_proxy_requests_total{backend="v1",code="503",rule="r",service="ruled"}"#),
        Some(1.0)
    );
    assert_eq!(
        proxy.metric(r#"a8_proxy_requests_total{backend="",code="404",rule="",service="s"}"#),
        Some(1.0)
    );
}
