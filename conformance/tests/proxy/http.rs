//! The proxy as an HTTP intermediary, from raw sockets on both sides: what reaches the origin, what comes back, streaming,
//! upgrades, retries, limits of time, and what is refused.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use conformance::caller::Connection;
use conformance::eventually::pause;
use conformance::message::read_chunk;
use conformance::origin::{REFUSING, echo};
use conformance::{Cluster, Exchange, Origin, Proxy, Request, clock, get, h2c};
use serde_json::{Value, json};

/// The longest wait of a test that shows that something does come.
const SOON: Duration = Duration::from_secs(10);

struct Scene {
    proxy: Proxy,
    origin: Origin,
    cluster: Cluster,
}

/// One echoing instance of service `s` behind a proxy.
fn scene() -> Scene {
    scene_with(echo("origin"))
}

fn scene_with(manners: impl Fn(&mut Exchange) -> std::io::Result<()> + Send + Sync + 'static) -> Scene {
    let cluster = Cluster::start();
    let origin = Origin::with(manners);
    cluster.registry.register("s", &["t"], origin.address());
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(1);
    Scene { proxy, origin, cluster }
}

/// The values of a field as the origin saw them.
fn seen(echoed: &Value, name: &str) -> Vec<String> {
    let fields = echoed["headers"].as_array().unwrap();
    let of_name = fields.iter().filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name));
    of_name.map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_path_after_the_service_is_passed_through_untouched() {
    let scene = scene();
    for (target, expected) in [
        ("/s/x", "/x"),
        ("/s/", "/"),
        ("/s", "/"),
        ("/s?a=b", "/?a=b"),
        ("/s/a//b/%2e%2e/../c%2Fd?q=%20&r=/x?y", "/a//b/%2e%2e/../c%2Fd?q=%20&r=/x?y"),
        ("/s//", "//"),
    ] {
        let echoed = scene.proxy.get(target).expect(200).json();
        assert_eq!(echoed["target"], expected, "{target}");
    }
    let absolute = format!("http://{}/s/absolute", scene.proxy.http);
    assert_eq!(scene.proxy.get(&absolute).expect(200).json()["target"], "/absolute");
}

#[test]
fn end_to_end_fields_pass_hop_by_hop_fields_do_not() {
    let scene = scene();
    let request = get("/s/x")
        .header("Host", "shop.example:8080")
        .header("X-Twice", "1")
        .header("x-twice", "2")
        .header("Connection", "X-Nominated, keep-alive")
        .header("X-Nominated", "gone")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("Proxy-Authorization", "Basic x")
        .header("TE", "gzip, trailers")
        .header("Upgrade", "h2c")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("X-Forwarded-For", "203.0.113.9");
    let echoed = request.call(scene.proxy.http).expect(200).json();
    let seen = |name: &str| seen(&echoed, name);
    assert_eq!(seen("Host"), ["shop.example:8080"]);
    assert_eq!(seen("X-Twice"), ["1", "2"]);
    assert_eq!(seen("X-Forwarded-For").join(", "), "203.0.113.9, 127.0.0.1");
    assert_eq!(seen("X-Forwarded-Proto"), ["http"]);
    assert_eq!(seen("traceparent"), ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]);
    assert_eq!(seen("X-Request-Id")[0].len(), 36);
    for gone in ["X-Nominated", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Upgrade"] {
        assert!(seen(gone).is_empty(), "{gone}: {echoed}");
    }
    assert!(seen("TE").iter().all(|value| value == "trailers"), "{echoed}");
    let kept = get("/s/x").header("X-Request-Id", "mine").header("X-Forwarded-Proto", "https");
    let echoed = kept.call(scene.proxy.http).expect(200).json();
    assert_eq!(self::seen(&echoed, "X-Request-Id"), ["mine"]);
    assert_eq!(self::seen(&echoed, "X-Forwarded-Proto"), ["https"]);
}

#[test]
fn hop_by_hop_fields_of_an_answer_stay_behind() {
    let scene = scene_with(|exchange| {
        let fields = [
            "Connection: X-Secret",
            "X-Secret: 1",
            "Keep-Alive: timeout=9",
            "Set-Cookie: a=1",
            "Set-Cookie: b=2",
        ];
        exchange.answer(200, &fields, "ok")
    });
    let answer = scene.proxy.get("/s/x").expect(200);
    assert_eq!(answer.head.all("Set-Cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert!(answer.head.field("X-Secret").is_none(), "{answer:?}");
    assert!(answer.head.field("Keep-Alive").is_none(), "{answer:?}");
}

#[test]
fn an_answer_is_passed_on_piece_by_piece() {
    for chunked in [true, false] {
        let (go, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let scene = scene_with(move |exchange| {
            exchange.body()?;
            let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 10" };
            exchange.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"))?;
            for piece in ["first", "later"] {
                exchange.write(if chunked { format!("5\r\n{piece}\r\n") } else { piece.to_owned() })?;
                // The second piece leaves only after the client has seen the first.
                let _ = wait.lock().unwrap().recv_timeout(SOON);
            }
            if chunked { exchange.write("0\r\n\r\n") } else { Ok(()) }
        });
        let started = clock::now();
        let mut connection = Connection::open(scene.proxy.http).unwrap();
        connection.send(&get("/s/x")).unwrap();
        let head = connection.head().unwrap();
        assert_eq!(head.field("Transfer-Encoding").is_some(), chunked, "{head:?}");
        for piece in ["first", "later"] {
            let got = if chunked { connection.chunk().unwrap() } else { connection.exactly(5).unwrap() };
            assert_eq!(got, piece.as_bytes());
            go.send(()).unwrap();
        }
        assert!(started.elapsed() < SOON, "held back (chunked: {chunked})");
    }
}

#[test]
fn a_request_body_reaches_the_origin_while_it_is_being_sent() {
    let (saw, first_piece) = mpsc::channel();
    let saw = std::sync::Mutex::new(saw);
    let scene = scene_with(move |exchange| {
        let mut body = Vec::new();
        while read_chunk(&mut exchange.wire, &mut body)? {
            let _ = saw.lock().unwrap().send(body.len());
        }
        let total = body.len().to_string();
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{total}", total.len()))
    });
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection
        .write("POST /s/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .unwrap();
    assert_eq!(first_piece.recv_timeout(SOON), Ok(5), "nothing arrived before the body was complete");
    // Well beyond the replay buffer, and back to back.
    let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..40 {
        connection.write(&piece).unwrap();
    }
    connection.write("0\r\n\r\n").unwrap();
    let answer = connection.answer("POST").unwrap();
    assert_eq!(answer.text(), (5 + 40 * 0x10000).to_string());
}

#[test]
fn a_large_answer_waits_for_a_slow_reader_and_arrives_whole() {
    let size = 24 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&written);
    let scene = scene_with(move |exchange| {
        exchange.body()?;
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"))?;
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..size / piece.len() {
            exchange.write(&piece)?;
            theirs.fetch_add(piece.len(), Ordering::SeqCst);
        }
        Ok(())
    });
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.send(&get("/s/x")).unwrap();
    connection.head().unwrap();
    // Whoever does not read must not make the proxy swallow everything: what is under way is the sockets' buffers.
    let mut last = usize::MAX;
    while last != written.load(Ordering::SeqCst) {
        last = written.load(Ordering::SeqCst);
        pause(Duration::from_millis(300));
    }
    assert!(last < size, "no back pressure: {last} bytes were taken");
    assert!(connection.exactly(size).unwrap().iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_websocket_handshake_is_routed_and_its_bytes_flow_both_ways() {
    let scene = scene_with(|exchange| {
        assert_eq!(exchange.head.field("Upgrade"), Some("websocket"));
        exchange.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello")?;
        let mut buffer = [0; 64];
        loop {
            match exchange.wire.read(&mut buffer)? {
                0 => return Ok(()),
                count => {
                    let echoed = buffer[..count].to_ascii_uppercase();
                    exchange.wire.get_mut().write_all(&echoed)?;
                }
            }
        }
    });
    let upgrade = get("/s/chat")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    // The request timeout does not apply after 101 (spec 3.7).
    scene.cluster.control.write(json!([{"id": "r", "destination": "s",
        "route": {"backends": [{"tags": ["t"]}], "http_req_timeout": 0.5}}]));
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.send(&upgrade).unwrap();
    let head = connection.head().unwrap();
    assert!(head.start.contains(" 101 "), "{head:?}");
    assert_eq!(head.field("Upgrade"), Some("websocket"));
    assert_eq!(connection.exactly(5).unwrap(), b"hello");
    pause(Duration::from_millis(900));
    for word in ["ping", "pong"] {
        connection.write(word).unwrap();
        assert_eq!(connection.exactly(4).unwrap(), word.to_ascii_uppercase().as_bytes());
    }
    // Rules and faults apply to the handshake.
    scene.cluster.control.write(
        json!([{"id": "f", "destination": "s", "actions": [{"action": "abort", "return_code": 429}]}]),
    );
    upgrade.call(scene.proxy.http).expect_refusal(429, "fault_abort");
}

#[test]
fn http_2_in_clear_text_shares_the_port() {
    let scene = scene();
    let request = |path: &str, body: &'static str| {
        http::Request::post(format!("http://shop.example{path}"))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Bytes::from_static(body.as_bytes()))
            .unwrap()
    };
    let requests = (0..20).map(|number| request(&format!("/s/{number}"), "payload")).collect();
    for (number, answer) in h2c::exchange(scene.proxy.http, requests).into_iter().enumerate() {
        assert_eq!(answer.status, 200, "{answer:?}");
        let echoed: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(echoed["target"], format!("/{number}"));
        assert_eq!(echoed["body"], "payload");
        assert_eq!(seen(&echoed, "Host"), ["shop.example"]);
        // RFC 9113 8.2.3: crumbs become one field before they leave as HTTP/1.1.
        assert_eq!(seen(&echoed, "Cookie"), ["a=1; b=2"]);
    }
    let refused = &h2c::exchange(scene.proxy.http, vec![request("/nobody/x", "")])[0];
    assert_eq!(refused.status, 404);
    assert_eq!(refused.headers["x-a8-error"], "unknown_service");
    assert_eq!(scene.proxy.get("/s/still-http-1").by(), "origin");
}

#[test]
fn http_1_0_clients_get_an_unchunked_answer_and_a_closed_connection() {
    let scene = scene_with(|exchange| {
        exchange.body()?;
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    });
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.write("GET /s/x HTTP/1.0\r\nHost: h\r\n\r\n").unwrap();
    let answer = connection.answer("GET").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"), "{answer:?}");
    assert!(answer.head.field("Transfer-Encoding").is_none(), "{answer:?}");
    assert!(connection.closes_within(SOON));
}

#[test]
fn answers_without_a_body_have_none_and_the_connection_goes_on() {
    let scene = scene_with(|exchange| match exchange.target().to_owned().as_str() {
        "/204" => exchange.answer(204, &[], ""),
        "/304" => exchange.answer(304, &["ETag: \"x\""], ""),
        _ => exchange.answer(200, &[], "twelve bytes"),
    });
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection.send(&Request::new("HEAD", "/s/x")).unwrap();
    let head = connection.answer("HEAD").unwrap();
    assert_eq!((head.status, head.header("Content-Length")), (200, "12"), "{head:?}");
    for status in [204, 304] {
        connection.send(&get(format!("/s/{status}"))).unwrap();
        assert_eq!(connection.answer("GET").unwrap().status, status);
    }
    connection.send(&get("/s/x")).unwrap();
    assert_eq!(connection.answer("GET").unwrap().text(), "twelve bytes");
}

#[test]
fn one_connection_serves_many_requests_and_so_does_one_to_the_origin() {
    let scene = scene();
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    for number in 0..30 {
        connection.send(&get(format!("/s/{number}"))).unwrap();
        assert_eq!(connection.answer("GET").unwrap().json()["target"], format!("/{number}"));
    }
    assert!(scene.origin.connections() <= 3, "{} connections for 30 requests", scene.origin.connections());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let scene = scene();
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    let all: String = (0..3).map(|n| format!("GET /s/{n} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    connection.write(all).unwrap();
    for number in 0..3 {
        let answer = connection.answer("GET").unwrap();
        assert_eq!(answer.json()["target"], format!("/{number}"), "{answer:?}");
    }
}

#[test]
fn a_client_that_expects_100_is_told_to_continue() {
    let scene = scene();
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    connection
        .write("POST /s/x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    assert!(connection.any_head().unwrap().start.contains(" 100 "));
    connection.write("body").unwrap();
    assert_eq!(connection.answer("POST").unwrap().expect(200).json()["body"], "body");
}

#[test]
fn ambiguous_or_broken_requests_are_refused() {
    let scene = scene();
    let lines = |lines: &[&str]| format!("{}\r\n\r\n", lines.join("\r\n"));
    let cases: Vec<(&str, String)> = vec![
        (
            "two lengths",
            lines(&["POST /s/x HTTP/1.1", "Host: h", "Content-Length: 3", "Content-Length: 4"]) + "abcd",
        ),
        ("length list", lines(&["POST /s/x HTTP/1.1", "Host: h", "Content-Length: 3, 4"]) + "abcd"),
        (
            "length and coding",
            lines(&["POST /s/x HTTP/1.1", "Host: h", "Content-Length: 3", "Transfer-Encoding: chunked"])
                + "0\r\n\r\n",
        ),
        ("odd length", lines(&["POST /s/x HTTP/1.1", "Host: h", "Content-Length: -1"])),
        ("unknown coding", lines(&["POST /s/x HTTP/1.1", "Host: h", "Transfer-Encoding: x"])),
        (
            "chunked twice",
            lines(&["POST /s/x HTTP/1.1", "Host: h", "Transfer-Encoding: chunked, chunked"]) + "0\r\n\r\n",
        ),
        ("no host", lines(&["GET /s/x HTTP/1.1"])),
        ("two hosts", lines(&["GET /s/x HTTP/1.1", "Host: a", "Host: b"])),
        ("host with a path", lines(&["GET /s/x HTTP/1.1", "Host: a/b"])),
        ("host with a blank", lines(&["GET /s/x HTTP/1.1", "Host: a b"])),
        ("relative target", lines(&["GET s/x HTTP/1.1", "Host: h"])),
        ("script target", lines(&["GET javascript:x HTTP/1.1", "Host: h"])),
        ("asterisk", lines(&["GET * HTTP/1.1", "Host: h"])),
    ];
    for (name, bytes) in cases {
        let mut connection = Connection::open(scene.proxy.http).unwrap();
        connection.write(&bytes).unwrap();
        let answer = connection.answer("GET").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
    }
    assert_eq!(scene.origin.count(), 0, "{:?}", scene.origin.arrived());
    let large = get("/s/x").header("X-Large", "x".repeat(2 << 20));
    if let Ok(answer) = large.send(scene.proxy.http) {
        assert_eq!(answer.status, 431, "{answer:?}");
    }
    assert_eq!(scene.origin.count(), 0);
    assert_eq!(scene.proxy.get("/s/x").by(), "origin");
}

#[test]
fn a_failed_connect_is_retried_at_another_instance() {
    let cluster = Cluster::start();
    let good = Origin::echo("good");
    cluster.registry.register("s", &["t"], good.address());
    cluster.registry.register("s", &["t"], REFUSING);
    cluster.registry.register("alone", &["t"], REFUSING);
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(3);
    for _ in 0..10 {
        assert_eq!(proxy.get("/s/x").by(), "good");
    }
    proxy.get("/alone/x").expect_refusal(503, "upstream_connect");
    assert!(proxy.metrics().sum("a8_proxy_retries_total", &[r#"service="s""#]) >= 1.0);
}

#[test]
fn a_5xx_is_retried_elsewhere_and_a_4xx_never() {
    let cluster = Cluster::start();
    let (bad, good) = (Origin::with(|exchange| exchange.answer(500, &[], "bad")), Origin::echo("good"));
    cluster.registry.register("s", &["t"], bad.address());
    cluster.registry.register("s", &["t"], good.address());
    let missing = Origin::with(|exchange| exchange.answer(404, &["X-Mine: 1"], "missing"));
    cluster.registry.register("four", &["t"], missing.address());
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(3);
    for _ in 0..8 {
        assert_eq!(proxy.get("/s/x").by(), "good");
    }
    assert!(bad.count() >= 1);
    let answer = proxy.get("/four/x").expect(404);
    assert_eq!((answer.text().as_str(), answer.header("X-Mine")), ("missing", "1"));
    assert!(answer.head.field("X-A8-Error").is_none(), "the origin's own 404 is not ours");
    assert_eq!(missing.count(), 1);
}

#[test]
fn when_all_attempts_fail_the_last_answer_comes_back() {
    let scene = scene_with(|exchange| exchange.answer(503, &["X-Mine: 1"], "overworked"));
    scene.cluster.control.write(json!([{"id": "r", "destination": "s",
        "route": {"backends": [{"tags": ["t"]}], "http_req_retries": 3}}]));
    let answer = scene.proxy.get("/s/x").expect(503);
    assert_eq!((answer.text().as_str(), answer.header("X-Mine")), ("overworked", "1"));
    assert_eq!(scene.origin.count(), 4);
}

#[test]
fn an_instance_that_closes_without_answering_counts_as_a_failed_attempt() {
    let scene = scene_with(|exchange| {
        exchange.body()?;
        exchange.close();
        Ok(())
    });
    let answer = scene.proxy.get("/s/x");
    assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    assert!(!answer.header("X-A8-Error").is_empty(), "{answer:?}");
    assert_eq!(scene.origin.count(), 2, "one retry by default");
}

#[test]
fn a_small_body_is_replayed_and_a_large_one_is_not() {
    let cluster = Cluster::start();
    let bad = Origin::with(|exchange| exchange.answer(500, &[], "bad"));
    let good = Origin::echo("good");
    cluster.registry.register("s", &["t"], bad.address());
    cluster.registry.register("s", &["t"], good.address());
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(2);
    let mut refused = 0;
    for _ in 0..6 {
        let small = Request::new("PUT", "/s/x").body("tiny").call(proxy.http);
        assert_eq!((small.by().as_str(), small.json()["body"].as_str()), ("good", Some("tiny")));
        let large = Request::new("PUT", "/s/x").body("x".repeat(300_000)).call(proxy.http);
        match large.status {
            200 => assert_eq!(large.json()["body"].as_str().map(str::len), Some(300_000)),
            status => {
                assert_eq!(status, 500, "{large:?}");
                refused += 1;
            }
        }
    }
    assert!(refused >= 1, "a body beyond the replay buffer was sent twice");
}

#[test]
fn an_answer_that_does_not_begin_in_time_is_504() {
    let scene = scene_with(|exchange| {
        exchange.body()?;
        pause(Duration::from_secs(3));
        exchange.answer(200, &[], "late")
    });
    scene.cluster.control.write(json!([{"id": "r", "destination": "s",
        "route": {"backends": [{"tags": ["t"]}], "http_req_timeout": 0.6, "http_req_retries": 5}}]));
    let answer = scene.proxy.get("/s/x");
    answer.expect_refusal(504, "upstream_timeout");
    // The limit includes every attempt.
    assert!((0.5..2.5).contains(&answer.took.as_secs_f64()), "{answer:?}");
}

#[test]
fn an_answer_that_has_begun_is_not_cut_off_by_the_timeout() {
    let scene = scene_with(|exchange| {
        exchange.body()?;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")?;
        for piece in ["a", "b", "c", "d", "e", "f"] {
            pause(Duration::from_millis(250));
            exchange.write(piece)?;
        }
        Ok(())
    });
    scene.cluster.control.write(json!([{"id": "r", "destination": "s",
        "route": {"backends": [{"tags": ["t"]}], "http_req_timeout": 0.7}}]));
    assert_eq!(scene.proxy.get("/s/x").expect(200).text(), "abcdef");
}

#[test]
fn a_thousand_clients_are_served_at_once() {
    let scene = scene();
    let mut connections: Vec<_> = (0..1_000).map(|_| Connection::open(scene.proxy.http).unwrap()).collect();
    for connection in &mut connections {
        connection.send(&get("/s/x")).unwrap();
    }
    for connection in &mut connections {
        let answer = connection.answer("GET").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[test]
fn the_added_latency_is_far_below_twenty_milliseconds() {
    let scene = scene();
    let mut connection = Connection::open(scene.proxy.http).unwrap();
    let mut took: Vec<_> = (0..200)
        .map(|_| {
            let started = clock::now();
            connection.send(&get("/s/x")).unwrap();
            connection.answer("GET").unwrap();
            started.elapsed()
        })
        .collect();
    took.sort();
    assert!(took[100] < Duration::from_millis(15), "median {:?}", took[100]);
}

#[test]
fn requests_in_flight_are_finished_when_the_proxy_is_asked_to_end() {
    let mut scene = scene_with(|exchange| {
        exchange.body()?;
        pause(Duration::from_millis(800));
        exchange.answer(200, &[], "finished")
    });
    let address = scene.proxy.http;
    let flying = thread::spawn(move || get("/s/x").send(address));
    conformance::eventually("the request is at the origin", || {
        if scene.origin.count() == 1 { Ok(()) } else { Err("not yet") }
    });
    let ended = scene.proxy.process.terminate();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let answer = flying.join().unwrap().expect("the answer arrives");
    assert_eq!((answer.status, answer.text().as_str()), (200, "finished"));
    assert!(get("/s/x").send(address).is_err(), "the listener is closed");
}
