//! What an instance sees of a request, and a client of an answer.

use std::time::Duration;

use serde_json::json;

use crate::support::{Instance, Proxy, field, fields, get, goes_on, ok, route, soon, status_of};

#[tokio::test]
async fn an_instance_sees_the_request_without_its_service_and_without_what_was_for_one_hop() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(
        "GET /s/a%2Fb//../c?q=1&r=/s/x HTTP/1.1\r\nHost: shop.example:81\r\nX-Many: 1\r\nX-Many: 2\r\n\
         Connection: keep-alive, X-Secret\r\nX-Secret: s\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n\
         Proxy-Authorization: y\r\nTE: trailers, gzip\r\nTrailer: X\r\nUpgrade: websocket\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX-Forwarded-For: 1.1.1.1\r\n\
         X-Request-Id: my-id\r\nUser-Agent: me\r\n\r\n",
    )
    .await;
    let (mut upstream, head) = instance.request().await;
    assert!(head.starts_with("GET /a%2Fb//../c?q=1&r=/s/x HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("host", "shop.example:81"),
        ("x-request-id", "my-id"),
        ("x-forwarded-for", "1.1.1.1, 127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("user-agent", "me"),
    ] {
        assert_eq!(fields(&head, name), [value], "{name}");
    }
    assert_eq!(fields(&head, "x-many"), ["1", "2"]);
    assert_eq!((field(&head, "te"), field(&head, "connection")), (Some("trailers"), Some("te")));
    for name in ["x-secret", "keep-alive", "proxy-connection", "proxy-authorization", "trailer", "upgrade"] {
        assert_eq!(field(&head, name), None, "{name}");
    }
    upstream.send(ok("")).await;
    assert_eq!(conn.answer().await.status, 200);
}

#[tokio::test]
async fn a_request_without_an_id_gets_one_and_paths_are_stripped_or_rewritten() {
    let uri = |id: &str, uri| json!({"id": id, "destination": "s", "route": {"backends": [{"tags": ["v1"]}], "uri": uri}});
    let mut instance = Instance::start().await;
    let proxy = Proxy::with(
        &[
            uri("a", json!({"prefix": "/api/", "prefix_rewrite": "/v2/"})),
            uri("b", json!({"path": "/exact"})),
            json!({"id": "c", "destination": "s", "priority": -1, "route": {"backends": [{"tags": ["v1"]}]}}),
        ],
        &[("s", "v1", instance.at.to_string())],
    );
    let mut conn = proxy.connect().await;
    let mut upstream = None;
    for (path, seen) in [
        ("/s", "/"),
        ("/s/", "/"),
        ("/s?x", "/?x"),
        ("/s/a/b?c", "/a/b?c"),
        (r"/s/{a}|b^c\d;e=[f]?g={h}|i^j\k", r"/{a}|b^c\d;e=[f]?g={h}|i^j\k"),
        (r#"/s/<a>?query={job="x"}"#, "/%3Ca%3E?query={job=%22x%22}"),
        ("/api/x?y", "/v2/x?y"),
        ("/exact?y", "/exact?y"),
    ] {
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n")).await;
        // Each engine has connections of its own, and may take one of these paths each.
        let head = match &mut upstream {
            Some(upstream) => instance.next_request(upstream).await,
            None => upstream.insert(instance.accept().await).head().await,
        };
        let upstream = upstream.as_mut().unwrap();
        assert!(head.starts_with(&format!("GET {seen} HTTP/1.1\r\n")), "{path}: {head}");
        assert_eq!(field(&head, "x-request-id").unwrap().len(), 36);
        assert_eq!(fields(&head, "x-forwarded-proto"), ["https"]);
        upstream.send(ok("")).await;
        assert_eq!(conn.answer().await.status, 200);
    }
}

#[tokio::test]
async fn the_same_request_id_meets_the_same_fate_and_different_ones_meet_their_share() {
    let one = Instance::named("1").await;
    let two = Instance::named("2").await;
    let rule = json!({"id": "r", "destination": "s", "route": {"backends": [{"tags": ["v1"], "weight": 0.25}, {"tags": ["v2"]}]}});
    let proxy = Proxy::with(&[rule], &[("s", "v1", one.to_string()), ("s", "v2", two.to_string())]);
    let mut conn = proxy.connect().await;
    let mut ones = 0;
    for id in 0..100 {
        let mut bodies = Vec::new();
        for _ in 0..2 {
            conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n")).await;
            bodies.push(conn.answer().await.body);
        }
        assert_eq!(bodies[0], bodies[1], "{id}");
        ones += usize::from(bodies[0] == "1");
    }
    assert!((10..=40).contains(&ones), "{ones}");
}

#[tokio::test]
async fn an_instance_registered_by_name_is_looked_up_and_gets_its_own_host() {
    let mut instance = Instance::start().await;
    let endpoint = format!("localhost:{}", instance.at.port());
    let proxy = Proxy::with(&[], &[("s", "v1", endpoint.clone())]);
    let resolver = std::sync::Arc::clone(&proxy.stage.resolver);
    tokio::spawn(async move { resolver.run().await });
    // `localhost` may have an IPv6 address first, where nobody listens; the next attempt finds the other.
    let mut conn = proxy.connect().await;
    let (mut upstream, head) = soon("the lookup", async {
        loop {
            conn.send(get("/s")).await;
            tokio::select! {
                request = instance.request() => return request,
                answer = conn.answer() => {
                    assert_eq!(answer.error(), "upstream_connect");
                    conn = proxy.connect().await;
                }
            }
        }
    })
    .await;
    assert_eq!(fields(&head, "host"), [endpoint]);
    upstream.send(ok("x")).await;
    assert_eq!(conn.answer().await.body, "x");
}

#[tokio::test]
async fn an_https_instance_is_spoken_to_in_tls_with_its_name_and_not_trusted_unproven() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::with(
        &[route(json!({"http_req_retries": 1}))],
        &[("s", "v1", format!("https://localhost:{}", instance.at.port()))],
    );
    let resolver = std::sync::Arc::clone(&proxy.stage.resolver);
    tokio::spawn(async move { resolver.run().await });
    soon("a client hello", async {
        loop {
            let mut conn = proxy.connect().await;
            conn.send(get("/s")).await;
            tokio::select! {
                mut upstream = instance.accept() => {
                    let hello = upstream.exactly_bytes(100).await;
                    assert_eq!(hello[0], 0x16, "a handshake record");
                    let hello = [hello, upstream.rest_for(Duration::from_millis(50)).await].concat();
                    assert!(hello.windows(9).any(|window| window == b"localhost"), "the name is announced");
                    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                    drop(upstream);
                    let answer = conn.answer().await;
                    assert_eq!((answer.status, &*answer.error()), (503, "upstream_connect"));
                    return;
                }
                answer = conn.answer() => assert_eq!(answer.error(), "upstream_connect"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_sees_the_answer_without_what_was_for_one_hop() {
    let instance = Instance::answering(|_, _| {
        "HTTP/1.1 200 Fine\r\nConnection: X-Secret, keep-alive\r\nX-Secret: s\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: x\r\nTrailer: y\r\nUpgrade: h2c\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nServer: mine\r\n\
         Content-Length: 2\r\nContent-Length: 2\r\n\r\nab"
            .to_owned()
    })
    .await;
    let proxy = Proxy::of(&[instance]);
    let mut conn = proxy.connect().await;
    for _ in 0..2 {
        conn.send(get("/s")).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, "ab"));
        assert_eq!(fields(&answer.head, "set-cookie"), ["a", "b"]);
        assert_eq!(fields(&answer.head, "content-length"), ["2"]);
        assert!(answer.goes_on());
        assert_eq!(answer.field("server"), Some("mine"));
        for name in ["x-secret", "keep-alive", "proxy-authenticate", "trailer", "upgrade"] {
            assert_eq!(answer.field(name), None, "{name}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_none() {
    for head in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let instance = Instance::answering(move |_, _| head.to_owned()).await;
        let proxy =
            Proxy::with(&[route(json!({"http_req_retries": 1}))], &[("s", "v1", instance.to_string())]);
        let answer = proxy.ask(&get("/s")).await;
        assert_eq!((answer.status, &*answer.error()), (502, "upstream_connect"), "{head:?}");
        assert_eq!(proxy.log(1).await[0]["response_flags"], "UR", "{head:?}");
    }
}

#[tokio::test]
async fn bodiless_answers_have_no_body_and_the_connection_goes_on() {
    let instance = Instance::answering(|head, _| {
        let fields = match head.split(' ').nth(1).unwrap() {
            "/204" => "HTTP/1.1 204 No Content\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: x\r\n",
            "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
        };
        format!("{fields}\r\n")
    })
    .await;
    let proxy = Proxy::of(&[instance]);
    let mut conn = proxy.connect().await;
    for (method, path, status, length) in [
        ("GET", "/s/204", 204, None),
        ("GET", "/s/304", 304, Some("7")),
        ("HEAD", "/s/head", 200, Some("12345")),
        ("GET", "/s/empty", 200, Some("0")),
    ] {
        conn.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let head = conn.head().await;
        assert_eq!((status_of(&head), field(&head, "content-length")), (status, length), "{path}");
        assert!(goes_on(&head), "{path}");
    }
}

#[tokio::test]
async fn interim_answers_reach_those_who_know_them_and_100_continue_is_honoured() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send("POST /s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    let (mut upstream, head) = instance.request().await;
    assert_eq!(field(&head, "expect"), Some("100-continue"));
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(status_of(&conn.head().await), 100);
    conn.send("hello").await;
    assert_eq!(upstream.body_of(&head).await, "hello");
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").await;
    let hints = conn.head().await;
    assert_eq!((status_of(&hints), field(&hints, "link")), (103, Some("x")));
    upstream.send(ok("done")).await;
    let answer = conn.answer().await;
    assert_eq!((&*answer.body, answer.goes_on()), ("done", true));
    conn.send("GET /s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    upstream.head().await;
    upstream.send("HTTP/1.1 103 Early Hints\r\n\r\n").await;
    upstream
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")
        .await;
    let head = conn.head().await;
    assert_eq!(status_of(&head), 200, "an HTTP/1.0 client sees no interim answer");
    assert_eq!((field(&head, "transfer-encoding"), field(&head, "connection")), (None, Some("close")));
    assert_eq!(conn.rest().await, "hello!");
}

#[tokio::test]
async fn a_trickled_answer_is_passed_on_as_it_comes() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    for head in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
        let mut conn = proxy.connect().await;
        conn.send(get("/s")).await;
        let (mut upstream, _) = instance.request().await;
        let piece = |text: &str| {
            if head.starts_with('C') { text.to_owned() } else { format!("1\r\n{text}\r\n") }
        };
        upstream.send(format!("HTTP/1.1 200 OK\r\n{head}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status_of(&conn.head().await), 200);
        for text in ["a", "b", "c"] {
            upstream.send(piece(text)).await;
            let piece = piece(text);
            assert_eq!(conn.exactly(piece.len()).await, piece);
        }
    }
}
