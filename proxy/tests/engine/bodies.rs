//! Bodies in both directions, whole, trickled, broken and unwanted.

use crate::support::{Instance, Proxy, field, get, ok, post, soon};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn bodies_of_any_framing_arrive_as_they_were() {
    let instance = Instance::answering(|head, body| {
        let coding = field(head, "transfer-encoding").unwrap_or("none").to_owned();
        ok(&format!("{coding} {body}"))
    })
    .await;
    let proxy = Proxy::of(&[instance]);
    let mut conn = proxy.connect().await;
    for (request, seen) in [
        (post("/s", "hello"), "none hello"),
        (post("/s", ""), "none "),
        (
            "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nT: x\r\n\r\n"
                .to_owned(),
            "chunked hello",
        ),
        ("POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), "chunked "),
        ("GET /s HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab".to_owned(), "none ab"),
    ] {
        conn.send(&request).await;
        assert_eq!(conn.answer().await.body, seen, "{request:?}");
    }
}

#[tokio::test]
async fn large_bodies_stream_both_ways_without_being_held_back() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    let piece = "x".repeat(MIB);
    conn.send(format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 8 * MIB)).await;
    let (mut upstream, _) = instance.request().await;
    for _ in 0..8 {
        // Each piece arrives before the next is sent: nothing waits for the whole.
        let sent = conn.send(&piece);
        let (_, seen) = tokio::join!(sent, upstream.exactly(MIB));
        assert!(seen == piece);
    }
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 * MIB)).await;
    conn.head().await;
    for _ in 0..8 {
        let (_, seen) = tokio::join!(upstream.send(&piece), conn.exactly(MIB));
        assert!(seen == piece);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    let total = 64 * MIB;
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")).await;
    let stuck = upstream.send_until_stuck(total, 64 * 1024).await;
    assert!(stuck < total, "the proxy took {stuck} bytes that nobody read");
    conn.head().await;
    let rest = "x".repeat(total - stuck);
    let (_, read) = tokio::join!(upstream.send(&rest), conn.count(total));
    assert_eq!(read, total);
}

#[tokio::test]
async fn a_chunked_body_that_breaks_its_framing_is_refused_and_its_upstream_connection_not_used_again() {
    for (body, sent_before) in [
        ("\r\n", false),
        ("5;x=y\r\nhello\r\n0\r\n\r\n", false),
        ("5 \r\nhello\r\n0\r\n\r\n", false),
        ("5\r\nhello\r\nx\r\n", true),
        ("5\r\nhelloo\r\n0\r\n\r\n", true),
        ("5\r\nhello\r\n0\r\nT : x\r\n\r\n", true),
    ] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        conn.send("POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let (mut upstream, _) = instance.request().await;
        conn.send(body).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (400, "bad_request"), "{body:?}");
        assert!(conn.is_closed().await);
        let seen = upstream.rest().await;
        assert!(!seen.ends_with("0\r\n\r\n"), "the instance must not take it for complete: {seen:?}");
        assert!(sent_before || seen.is_empty());
    }
}

#[tokio::test]
async fn an_early_answer_reaches_the_client_and_the_next_request_is_clean() {
    for closes in [true, false] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        conn.send(format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\nbegin", 4 * MIB)).await;
        let (mut upstream, _) = instance.request().await;
        upstream.send("HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nno!").await;
        let kept = if closes { None } else { Some(upstream) };
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.body), (413, "no!"), "closes: {closes}");
        // What the client still sends is not taken for a request, wherever it ends up.
        let _gone = conn.try_send("x".repeat(MIB)).await;
        drop(conn);
        let mut next = proxy.connect().await;
        next.send(get("/s/next")).await;
        let (mut fresh, head) = instance.request().await;
        assert!(head.starts_with("GET /next "), "closes: {closes}: {head}");
        fresh.send(ok("clean")).await;
        assert_eq!(next.answer().await.body, "clean");
        drop(kept);
    }
}

#[tokio::test]
async fn an_instance_that_refuses_a_body_and_takes_no_more_of_it_is_heard_at_once() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1024 * MIB)).await;
    let (mut upstream, _) = instance.request().await;
    assert!(conn.send_until_stuck(64 * MIB, 64 * 1024).await < 64 * MIB, "nobody takes it");
    upstream.send("HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nno!").await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.body), (413, "no!"));
}

#[tokio::test]
async fn a_refused_request_with_a_body_on_its_way_still_sees_the_answer() {
    let proxy = Proxy::of(&[]);
    let mut conn = proxy.connect().await;
    conn.send(format!("POST /nobody HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 4 * MIB)).await;
    let _taken = conn.try_send("x".repeat(MIB / 2)).await;
    let answer = conn.answer().await;
    assert_eq!((&*answer.error(), answer.field("connection")), ("unknown_service", Some("close")));
}

#[tokio::test]
async fn what_an_instance_sends_behind_its_answer_reaches_nobody() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s/1")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send(format!("{}{}", ok("one"), ok("smuggled"))).await;
    assert_eq!(conn.answer().await.body, "one");
    conn.send(get("/s/2")).await;
    let (mut fresh, head) = instance.request().await;
    assert!(head.starts_with("GET /2 "));
    fresh.send(ok("two")).await;
    assert_eq!(conn.answer().await.body, "two");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_and_is_logged_so() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    for request in [get("/s"), format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {MIB}\r\n\r\nbegin")] {
        let mut conn = proxy.connect().await;
        conn.send(request).await;
        let (mut upstream, _) = instance.request().await;
        drop(conn);
        upstream.rest().await;
    }
    let log = proxy.log(2).await;
    assert!(log.iter().all(|line| line["status"] == "499"), "{log:?}");
    proxy.metric_becomes("a8_proxy_active_connections", 0.0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        conn.send(get("/s")).await;
        let (mut upstream, _) = instance.request().await;
        upstream.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n")).await;
        conn.head().await;
        conn.until("hello").await;
        drop(upstream);
        let rest = soon("the end", conn.rest()).await;
        assert!(!rest.contains("0\r\n\r\n"), "{rest:?}");
        let log = proxy.log(1).await;
        assert_eq!((&log[0]["status"], &log[0]["response_flags"]), (&"200".into(), &"UR".into()), "{head}");
    }
}
