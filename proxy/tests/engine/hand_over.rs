//! Requests out of the ordinary, on connections that carry ordinary ones before and after: which engine serves which
//! must not be visible from outside.

use serde_json::json;

use super::support::{Conn, Instance, Proxy, actions, field, get, ok, post};

/// An instance that tells what it got, as method, target and body.
async fn telling() -> Proxy {
    let instance = Instance::answering(|head, body| {
        let mut words = head.split(' ');
        ok(&format!("{} {} {body}", words.next().unwrap(), words.next().unwrap()))
    })
    .await;
    Proxy::of(&[instance])
}

/// Requests that are unusual in one way each and leave the connection usable, and what an instance sees of them.
fn odd() -> Vec<(String, &'static str)> {
    let get = |fields: &str| format!("GET /s/odd HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let post = |fields: &str, body: &str| format!("POST /s/odd HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
    vec![
        (get("Connection: X-Mine\r\nX-Mine: 1\r\n"), "GET /odd "),
        (get("Connection: keep-alive, X-Mine\r\n"), "GET /odd "),
        (get("TE: trailers\r\n"), "GET /odd "),
        (get("Connection: TE\r\nTE: trailers, gzip;q=0.5\r\n"), "GET /odd "),
        (get("Upgrade: websocket\r\n"), "GET /odd "),
        (get("Keep-Alive: timeout=5\r\n"), "GET /odd "),
        (get(&"X: y\r\n".repeat(70)), "GET /odd "),
        (get(&format!("X: {}\r\n", "y".repeat(9 * 1024))), "GET /odd "),
        (get("Trailer: T\r\n"), "GET /odd "),
        (post("Content-Length: 4\r\nExpect: 100-continue\r\n", "body"), "POST /odd body"),
        (
            post("Transfer-Encoding: chunked\r\nTrailer: T\r\n", "4\r\nbody\r\n0\r\nT: x\r\n\r\n"),
            "POST /odd body",
        ),
        (post(&format!("Content-Length: 4\r\n{}", "X: y\r\n".repeat(70)), "body"), "POST /odd body"),
        ("GET http://b:81/s/odd HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "GET /odd "),
        ("\r\nGET /s/odd HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n".to_owned(), "GET /odd "),
    ]
}

async fn is_ordinary(conn: &mut Conn, path: &str) {
    conn.send(post(&format!("/s{path}"), "abc")).await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, answer.body), (200, format!("POST {path} abc")));
}

/// The next final answer, and that it is this one; an interim answer before it is passed over.
async fn tells(conn: &mut Conn, seen: &str, what: &str) {
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, seen), "{what:?}");
    assert!(answer.goes_on(), "{what:?}");
}

#[tokio::test]
async fn an_odd_request_between_ordinary_ones_is_served_like_them() {
    let proxy = telling().await;
    let mut shared = proxy.connect().await;
    for (request, seen) in odd() {
        let mut conn = proxy.connect().await;
        for conn in [&mut conn, &mut shared] {
            is_ordinary(conn, "/before").await;
            conn.send(&request).await;
            tells(conn, seen, &request).await;
            is_ordinary(conn, "/after").await;
        }
    }
    let requests = odd().len() * 6;
    let log = proxy.log(requests).await;
    assert_eq!(log.len(), requests, "one line per request, whoever served it");
    assert!(log.iter().all(|line| line["status"] == "200" && line["protocol"] == "HTTP/1.1"), "{log:?}");
    drop(shared);
    proxy.metric_becomes("a8_proxy_active_connections", 0.0).await;
}

#[tokio::test]
async fn ordinary_odd_ordinary_in_one_write_are_answered_in_order() {
    let proxy = telling().await;
    for (request, seen) in odd() {
        let mut conn = proxy.connect().await;
        let all = format!("{}{request}{}{request}", get("/s/before"), post("/s/after", "abc"));
        conn.send(&all).await;
        for seen in ["GET /before ", seen, "POST /after abc", seen] {
            tells(&mut conn, seen, &request).await;
        }
        is_ordinary(&mut conn, "/last").await;
    }
}

#[tokio::test]
async fn an_odd_request_may_come_byte_by_byte() {
    let proxy = telling().await;
    for (request, seen) in odd().into_iter().filter(|(request, _)| request.len() < 500) {
        let mut conn = proxy.connect().await;
        is_ordinary(&mut conn, "/before").await;
        for byte in request.bytes() {
            conn.send([byte]).await;
        }
        tells(&mut conn, seen, &request).await;
        is_ordinary(&mut conn, "/after").await;
    }
}

#[tokio::test]
async fn http_1_0_is_served_after_ordinary_requests_and_ends_the_connection_unless_it_asks_otherwise() {
    let proxy = telling().await;
    for (fields, goes_on) in [("", false), ("Host: a\r\n", false), ("Connection: keep-alive\r\n", true)] {
        for pipelined in [true, false] {
            let mut conn = proxy.connect().await;
            let request = format!("GET /s/old HTTP/1.0\r\n{fields}\r\n");
            if pipelined {
                conn.send(format!("{}{request}{}", get("/s/before"), post("/s/after", "abc"))).await;
                tells(&mut conn, "GET /before ", fields).await;
            } else {
                is_ordinary(&mut conn, "/before").await;
                conn.send(request).await;
            }
            let answer = conn.answer().await;
            assert_eq!((answer.status, &*answer.body), (200, "GET /old "), "{fields:?}");
            if !goes_on {
                assert!(conn.is_closed().await, "{fields:?}, pipelined: {pipelined}");
            } else if pipelined {
                tells(&mut conn, "POST /after abc", fields).await;
            } else {
                is_ordinary(&mut conn, "/after").await;
            }
        }
    }
}

/// `GET / HTTP/1.0` and an empty line are 18 bytes; the preface of HTTP/2, which may still be coming, is 24.
#[tokio::test]
async fn the_shortest_request_is_answered_first_and_later() {
    let proxy = telling().await;
    let shortest = "GET / HTTP/1.0\r\n\r\n";
    let mut conn = proxy.connect().await;
    conn.send(shortest).await;
    assert_eq!(conn.answer().await.error(), "unknown_service");
    assert!(conn.is_closed().await);
    for pipelined in [true, false] {
        let mut conn = proxy.connect().await;
        if pipelined {
            conn.send(format!("{}{shortest}", get("/s/before"))).await;
            tells(&mut conn, "GET /before ", shortest).await;
        } else {
            is_ordinary(&mut conn, "/before").await;
            conn.send(shortest).await;
        }
        assert_eq!(conn.answer().await.error(), "unknown_service");
        assert!(conn.is_closed().await);
    }
}

#[tokio::test]
async fn the_preface_of_http_2_is_one_only_at_the_start_of_a_connection() {
    let proxy = telling().await;
    for at_once in [true, false] {
        let mut conn = proxy.connect().await;
        is_ordinary(&mut conn, "/before").await;
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        if at_once {
            conn.send(preface).await;
        } else {
            for byte in preface.bytes() {
                if !conn.try_send([byte]).await {
                    break;
                }
            }
        }
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (400, "bad_request"), "at once: {at_once}");
        assert!(conn.is_closed().await);
    }
}

#[tokio::test]
async fn a_switch_works_on_a_connection_that_carried_requests() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s/before")).await;
    let (mut pooled, _) = instance.request().await;
    pooled.send(ok("before")).await;
    assert_eq!(conn.answer().await.body, "before");
    conn.send("GET /s/chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let (mut upstream, head) = instance.request().await;
    assert_eq!(field(&head, "upgrade"), Some("websocket"), "{head}");
    upstream
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
        .await;
    assert_eq!(conn.answer().await.status, 101);
    assert_eq!(conn.exactly(2).await, "hi");
    conn.send(get("/not/a/request")).await;
    let passed = get("/not/a/request");
    assert_eq!(upstream.exactly(passed.len()).await, passed);
    drop(conn);
    assert_eq!(upstream.rest().await, "");
    proxy.metric_becomes("a8_proxy_active_connections", 0.0).await;
}

#[tokio::test]
async fn one_law_serves_odd_requests_too() {
    let instance = Instance::named("x").await;
    let rule = actions(json!([{"action": "abort", "return_code": 418}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.to_string())]);
    let mut conn = proxy.connect().await;
    for (request, _) in odd() {
        conn.send(&request).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (418, "fault_abort"), "{request:?}");
        if !answer.goes_on() {
            // Its body was not read to the end.
            assert!(conn.is_closed().await, "{request:?}");
            conn = proxy.connect().await;
        }
        conn.send(request.replace("/s/odd", "/nobody")).await;
        assert_eq!(conn.answer().await.error(), "unknown_service", "{request:?}");
        conn = proxy.connect().await;
    }
}
