//! Bodies and answers as they flow: both ways at once, odd ends, interim answers, what is kept to be sent again.

use super::differences::reads_the_answer_while_the_body_is_stuck;
use super::support::{Instance, Proxy, field, get, goes_on, ok, post, soon, status_of};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_body_and_its_answer_flow_at_the_same_time() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    let total = 3 * MIB;
    conn.send(format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")).await;
    let goes_on = goes_on(&conn.head().await);
    let body: Vec<u8> = (0..total).map(|at| b'a' + u8::try_from(at / 977 % 26).unwrap()).collect();
    let echo = tokio::spawn(async move {
        upstream.echo(total).await;
        upstream
    });
    assert!(conn.send_and_read(&body).await == body, "what comes back is what was sent");
    let mut upstream = soon("the echo", echo).await.unwrap();
    if !goes_on {
        // An engine may give a connection up whose answer began before its request had ended.
        assert!(conn.is_closed().await);
        conn = proxy.connect().await;
    }
    conn.send(get("/s/next")).await;
    let head = instance.next_request(&mut upstream).await;
    assert!(head.starts_with("GET /next "), "{head}");
    upstream.send(ok("next")).await;
    assert_eq!(conn.answer().await.body, "next");
}

#[tokio::test]
async fn a_client_that_sends_and_does_not_read_is_held_back_and_loses_nothing() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    let total = 64 * MIB;
    conn.send(format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")).await;
    conn.head().await;
    let instance = tokio::spawn(async move {
        if reads_the_answer_while_the_body_is_stuck() {
            upstream.echo(total).await;
        } else {
            let answer = vec![b'x'; total];
            assert_eq!(upstream.send_and_count(&answer, total).await, total);
        }
    });
    let stuck = conn.send_until_stuck(total, 64 * 1024).await;
    assert!(stuck < total, "the proxy took {stuck} bytes and nobody read the answer");
    let rest = vec![b'x'; total - stuck];
    assert_eq!(conn.send_and_count(&rest, total).await, total);
    soon("the instance", instance).await.unwrap();
}

#[tokio::test]
async fn an_early_answer_never_lets_the_rest_of_the_body_become_a_request() {
    for len in [5_000, 200_000] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        conn.send(format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n")).await;
        let (mut upstream, _) = instance.request().await;
        upstream.send("HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nno!").await;
        assert_eq!(conn.answer().await.status, 413);
        let smuggled = get("/s/smuggled");
        let body = smuggled.repeat(len / smuggled.len() + 1);
        let _taken = conn.try_send(&body[..len]).await;
        let _taken = conn.try_send(get("/s/next")).await;
        // Either the connection ended with the answer, or exactly the next request follows: on a connection of its own,
        // or behind the last byte of the body.
        let behind = async {
            match upstream.try_bytes(len).await {
                Some(_) => upstream.head().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            head = conn.try_head() => assert_eq!(head, None, "{len}: an answer to nobody's request"),
            head = behind => {
                assert!(head.starts_with("GET /next "), "{len}: {head}");
                upstream.send(ok("next")).await;
                assert_eq!(conn.answer().await.body, "next");
            }
            (mut next, head) = instance.request() => {
                assert!(head.starts_with("GET /next "), "{len}: {head}");
                next.send(ok("next")).await;
                assert_eq!(conn.answer().await.body, "next");
            }
        }
        assert!(instance.is_untouched(), "{len}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_fails_is_tried_again_only_for_what_may_be_done_twice() {
    for (request, again) in [
        (get("/s/2"), true),
        ("PUT /s/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nput".to_owned(), true),
        (post("/s/2", "pay"), false),
        (post("/s/2", ""), false),
    ] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        conn.send(get("/s/1")).await;
        let (mut upstream, _) = instance.request().await;
        upstream.send(ok("one")).await;
        assert_eq!(conn.answer().await.body, "one");
        conn.send(&request).await;
        let head = instance.next_request(&mut upstream).await;
        assert!(head.contains(" /2 "), "{head}");
        drop(upstream);
        if again {
            let (mut fresh, head) = instance.request().await;
            assert!(head.contains(" /2 "), "{head}");
            assert_eq!(fresh.body_of(&head).await, if request.starts_with("PUT") { "put" } else { "" });
            fresh.send(ok("two")).await;
            assert_eq!(conn.answer().await.body, "two", "{request:?}");
        } else {
            let answer = conn.answer().await;
            assert_eq!((answer.status, &*answer.error()), (503, "upstream_connect"), "{request:?}");
            assert!(instance.is_untouched(), "{request:?}");
        }
    }
}

#[tokio::test]
async fn interim_answers_come_before_the_answer_and_the_connection_goes_on() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s/1")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
    // It is passed on before the answer is there.
    let hints = conn.head().await;
    assert_eq!((status_of(&hints), field(&hints, "link")), (103, Some("</x>")));
    for _ in 0..3 {
        upstream.send("HTTP/1.1 102 Processing\r\n\r\n").await;
        assert_eq!(status_of(&conn.head().await), 102);
    }
    upstream.send(format!("HTTP/1.1 103 Early Hints\r\nLink: </y>\r\n\r\n{}", ok("one"))).await;
    assert_eq!(status_of(&conn.head().await), 103);
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.body, answer.field("link")), (200, "one", None));
    assert!(answer.goes_on());
    conn.send(get("/s/2")).await;
    let head = instance.next_request(&mut upstream).await;
    assert!(head.starts_with("GET /2 "), "{head}");
    upstream.send(ok("two")).await;
    assert_eq!(conn.answer().await.body, "two");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_reaches_the_client_in_chunks() {
    for version in ["1.0", "1.1"] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        for round in 0..2 {
            conn.send(get("/s")).await;
            let (mut upstream, _) = instance.request().await;
            upstream.send(format!("HTTP/{version} 200 OK\r\nX: y\r\n\r\n")).await;
            let head = conn.head().await;
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{version}: {head}");
            assert!(goes_on(&head), "{version}: {head}");
            for piece in ["one", "two"] {
                upstream.send(piece).await;
                assert_eq!(conn.exactly(8).await, format!("3\r\n{piece}\r\n"), "{version}, {round}");
            }
            drop(upstream);
            assert_eq!(conn.exactly(5).await, "0\r\n\r\n");
        }
    }
}

#[tokio::test]
async fn an_old_client_gets_an_answer_without_length_until_the_connection_ends() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send("GET /s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 200 OK\r\n\r\nhello").await;
    drop(upstream);
    let answer = conn.answer().await;
    assert_eq!((&*answer.body, answer.field("transfer-encoding")), ("hello", None));
    assert!(conn.is_closed().await);
}

#[tokio::test]
async fn a_client_that_wants_to_close_is_told_so_and_closed() {
    let instance = Instance::named("x").await;
    let proxy = Proxy::of(&[instance]);
    for connection in ["close", "Close", "keep-alive, close"] {
        let mut conn = proxy.connect().await;
        conn.send(get("/s")).await;
        assert!(conn.answer().await.goes_on());
        let request = format!("GET /s HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
        conn.send(format!("{request}{}", get("/s/never"))).await;
        let answer = conn.answer().await;
        assert_eq!((&*answer.body, answer.field("connection")), ("x", Some("close")), "{connection}");
        assert!(conn.is_closed().await, "{connection}");
    }
}

#[tokio::test]
async fn an_instance_that_closes_or_is_old_does_not_cost_the_client_its_connection() {
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        for _ in 0..3 {
            conn.send(get("/s")).await;
            // Never on the connection that was announced to end.
            let (mut upstream, _) = instance.request().await;
            upstream.send(head).await;
            let answer = conn.answer().await;
            assert_eq!((&*answer.body, answer.goes_on()), ("ok", true), "{head:?}");
            assert_eq!(upstream.rest().await, "", "{head:?}");
        }
    }
}

#[tokio::test]
async fn bodiless_answers_stay_bodiless_whatever_their_head_says() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    for (method, status, fields) in [
        ("HEAD", 200, "Transfer-Encoding: chunked\r\n"),
        ("HEAD", 404, "Content-Length: 99\r\n"),
        ("GET", 304, "Content-Length: 99\r\n"),
        ("GET", 304, "Transfer-Encoding: chunked\r\n"),
        ("GET", 204, ""),
        ("HEAD", 200, ""),
    ] {
        conn.send(format!("{method} /s HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let (mut upstream, _) = instance.request().await;
        upstream.send(format!("HTTP/1.1 {status} X\r\n{fields}Connection: close\r\n\r\n")).await;
        let head = conn.head().await;
        assert_eq!(status_of(&head), status, "{method} {status} {fields:?}");
        assert!(goes_on(&head), "{method} {status} {fields:?}");
        drop(upstream);
    }
    conn.send(get("/s/last")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send(ok("last")).await;
    assert_eq!(conn.answer().await.body, "last");
}

#[tokio::test]
async fn as_much_of_a_body_as_is_kept_is_sent_again_and_not_a_byte_more() {
    for (len, again) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
        for chunked in [true, false] {
            let mut instance = Instance::start().await;
            let proxy = Proxy::of(&[instance.at]);
            let mut conn = proxy.connect().await;
            let body = "y".repeat(len);
            if chunked {
                conn.send(format!(
                    "POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{len:x}\r\n{body}\r\n0\r\n\r\n"
                ))
                .await;
            } else {
                conn.send(post("/s", &body)).await;
            }
            let (mut upstream, head) = instance.request().await;
            assert!(upstream.body_of(&head).await == body);
            upstream.send("HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\nfirst").await;
            if again {
                let head = instance.next_request(&mut upstream).await;
                assert!(upstream.body_of(&head).await == body, "{len}, chunked: {chunked}");
                upstream.send(ok("second")).await;
            }
            let answer = conn.answer().await;
            assert_eq!(answer.body, if again { "second" } else { "first" }, "{len}, chunked: {chunked}");
        }
    }
}

#[tokio::test]
async fn an_answer_whose_head_is_too_large_is_none() {
    for head in [
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(2 * MIB)),
        format!(
            "HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n",
            format!("X: {}\r\n", "y".repeat(250)).repeat(300)
        ),
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(1000)),
    ] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        conn.send(post("/s", "")).await;
        let (mut upstream, _) = instance.request().await;
        let _taken = upstream.try_send(&head).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (502, "upstream_connect"));
        assert_eq!(upstream.rest().await, "", "the connection is not used again");
    }
}

#[tokio::test]
async fn an_answer_with_a_length_and_chunks_is_never_read_by_its_length() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(post("/s/1", "")).await;
    let (mut upstream, _) = instance.request().await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .await;
    let answer = conn.answer().await;
    if answer.status == 502 {
        assert_eq!(answer.error(), "upstream_connect");
    } else {
        // The general engine drops the length (RFC 9112 6.3); the lane may refuse.
        assert_eq!((answer.status, &*answer.body, answer.field("content-length")), (200, "hello", None));
    }
    if !answer.goes_on() {
        conn = proxy.connect().await;
    }
    conn.send(get("/s/2")).await;
    let head = instance.next_request(&mut upstream).await;
    assert!(head.starts_with("GET /2 "), "{head}");
    upstream.send(ok("two")).await;
    assert_eq!(conn.answer().await.body, "two");
}

#[tokio::test]
async fn a_broken_chunk_of_an_answer_is_never_a_clean_end() {
    for tail in ["zz\r\n", "5\r\nhelloX", "-1\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\n", "0\r\nX"] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::of(&[instance.at]);
        let mut conn = proxy.connect().await;
        conn.send(get("/s")).await;
        let (mut upstream, _) = instance.request().await;
        upstream
            .send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n{tail}"))
            .await;
        conn.head().await;
        drop(upstream);
        let rest = soon("the end", conn.rest()).await;
        assert!(!rest.ends_with("0\r\n\r\n"), "{tail:?}: {rest:?}");
    }
}
