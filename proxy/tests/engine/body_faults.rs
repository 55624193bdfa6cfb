//! Injected faults that the body of an answer meets: slowed down, cut off. The lane leaves such requests to the general
//! engine, on connections that it serves before and after.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use proxy::server::Limits;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::http2::{connect, empty, grpc_instance, request};
use crate::chosen::ENGINE;
use crate::support::{Conn, Instance, Proxy, actions, get, ok, post, route, soon};

const TRUNCATED: &str = r#"a8_proxy_faults_total{action="truncate",rule="a",service="s"}"#;
const SLOWED: &str = r#"a8_proxy_faults_total{action="bandwidth",rule="a",service="s"}"#;
const PASSED: &str = "a8_proxy_lane_handovers_total";

/// An answer with this body in each framing.
fn framed(body: &str) -> [String; 3] {
    let half = body.len() / 2;
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    [
        ok(body),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n",
            chunk(&body[..half]),
            chunk(&body[half..])
        ),
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}"),
    ]
}

/// An instance that answers so.
async fn answering(answer: String) -> SocketAddr {
    Instance::answering(move |_, _| answer.clone()).await
}

/// A proxy for one instance; it waits for no client at its end.
fn serving(rules: &[Value], instance: SocketAddr) -> Proxy {
    let limits = Limits { drain_within: Duration::from_millis(100), ..Limits::default() };
    Proxy::patient(limits, rules, &[("s", "v1", instance.to_string())])
}

/// Only requests with `X: y` meet these.
fn some(actions: Value) -> Value {
    json!({"id": "a", "destination": "s", "match": {"headers": {"X": "y"}}, "actions": actions})
}

const MARKED: &str = "GET /s/marked HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";

/// What there is of the body up to the end of the connection, without the framing of chunks. A good end would be in it.
async fn broken_body(conn: &mut Conn, head: &str) -> String {
    let rest = conn.rest().await;
    if !head.to_ascii_lowercase().contains("transfer-encoding") {
        return rest;
    }
    assert!(!rest.ends_with("0\r\n\r\n"), "{rest:?}");
    // Data of the tests is letters; sizes are digits here.
    rest.split("\r\n").filter(|line| line.starts_with('x')).collect()
}

#[tokio::test]
async fn an_answer_is_cut_off_after_so_many_bytes_and_never_ends_well() {
    for answer in framed(&"x".repeat(20)) {
        for after in [0, 7, 10, 19] {
            let mut instance = Instance::start().await;
            let rule = json!({"id": "r", "destination": "s", "route": {"http_req_retries": 5,
                "backends": [{"tags": ["v1"], "resilience": {"consecutive_errors": 1, "max_requests": 1}}]}});
            let fault = some(json!([{"action": "truncate", "after_bytes": after}]));
            let proxy = serving(&[rule, fault], instance.at);
            let mut conn = proxy.connect().await;
            conn.send(MARKED).await;
            let (mut upstream, _) = instance.request().await;
            upstream.send(&answer).await;
            let head = conn.head().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert_eq!(broken_body(&mut conn, &head).await, "x".repeat(after), "{answer:?}");
            let log = proxy.log(1).await;
            assert_eq!((&log[0]["status"], &log[0]["response_flags"]), (&"200".into(), &"FI".into()));
            assert_eq!(log[0]["fault_rule"], "a");
            assert_eq!(proxy.metric(TRUNCATED), Some(1.0));
            assert_eq!(proxy.metric(r#"a8_proxy_retries_total{service="s"}"#), None);
            // It was no failure of the instance, and takes nobody's place.
            let mut conn = proxy.connect().await;
            conn.send(get("/s")).await;
            instance.next_request(&mut upstream).await;
            upstream.send(ok("next")).await;
            assert_eq!(conn.answer().await.body, "next");
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_late_still_gets_what_comes_before_the_cut() {
    const LEN: usize = 16 << 20;
    for after in [LEN - 1, LEN / 2 + 11] {
        let instance = answering(ok(&"x".repeat(LEN))).await;
        let proxy = serving(&[some(json!([{"action": "truncate", "after_bytes": after}]))], instance);
        let mut conn = proxy.connect().await;
        conn.send(MARKED).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        conn.head().await;
        assert_eq!(conn.count(LEN).await, after);
    }
}

#[tokio::test]
async fn an_answer_that_is_short_enough_is_whole() {
    for answer in framed(&"x".repeat(20)) {
        for (asked, after) in [("GET", 20), ("GET", 1000), ("HEAD", 0)] {
            let mut instance = Instance::start().await;
            let mut faults = json!([{"action": "truncate", "after_bytes": after}]);
            if asked == "HEAD" {
                faults.as_array_mut().unwrap().push(json!({"action": "bandwidth", "bytes_per_s": 1}));
            }
            let proxy = serving(&[some(faults)], instance.at);
            let mut conn = proxy.connect().await;
            conn.send(MARKED.replace("GET", asked)).await;
            let (mut upstream, _) = instance.request().await;
            if asked == "GET" {
                upstream.send(&answer).await;
                drop(upstream);
                assert_eq!(conn.answer().await.body, "x".repeat(20));
            } else {
                upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n").await;
                conn.head().await;
            }
            conn.send(get("/s")).await;
            let (mut upstream, _) = instance.request().await;
            upstream.send(ok("next")).await;
            assert_eq!(conn.answer().await.body, "next", "the connection goes on");
            assert_eq!(
                (proxy.metric(TRUNCATED), &proxy.log(1).await[0]["response_flags"]),
                (None, &"-".into())
            );
        }
    }
}

/// No more came by any moment than the rate allows, counted from when the request was sent, and no less in the end.
fn is_even(pieces: &[(Duration, usize)], len: usize, bytes_per_s: usize) {
    let mut came = 0;
    for (at, piece) in pieces {
        came += piece;
        // A burst, and what lies on the way.
        let most = bytes_per_s * usize::try_from(at.as_millis()).unwrap() / 1000 + bytes_per_s / 5;
        assert!(came <= most, "{came} bytes after {at:?}, not {most}: {pieces:?}");
    }
    assert_eq!(came, len);
    let took = pieces.last().unwrap().0;
    let ideal = Duration::from_secs_f64(len as f64 / bytes_per_s as f64);
    assert!(took < ideal * 2 + Duration::from_millis(500), "{took:?}, not {ideal:?}");
    assert!(pieces.len() >= 8, "it flows: {pieces:?}");
}

#[tokio::test]
async fn a_body_comes_as_fast_as_the_rule_says_and_evenly() {
    const LEN: usize = 10_000;
    const RATE: usize = 10_000;
    for (at, answer) in framed(&"x".repeat(LEN)).into_iter().enumerate() {
        let instance = answering(answer).await;
        let fault = some(json!([{"action": "bandwidth", "bytes_per_s": RATE}]));
        let proxy = serving(&[fault], instance);
        if at < 2 {
            let mut conn = proxy.connect().await;
            let (began, mut pieces) = (Instant::now(), Vec::new());
            conn.send(MARKED).await;
            let head = conn.head().await;
            let framing = if at == 1 { 20 } else { 0 };
            let mut left = LEN;
            while left > 0 {
                let len = conn.count(1).await;
                assert!(len > 0, "{left} bytes are missing");
                let len = len.min(left);
                left -= len;
                pieces.push((began.elapsed(), len));
            }
            assert!(head.starts_with("HTTP/1.1 200 "));
            is_even(&pieces, LEN, RATE + framing);
        }
        let mut client = connect(&proxy).await;
        let asked = request("/s").header("x", "y").body(empty()).unwrap();
        let (began, mut pieces) = (Instant::now(), Vec::new());
        let mut body = client.send_request(asked).await.unwrap().into_body();
        while let Some(frame) = soon("a piece", body.frame()).await {
            let len = frame.unwrap().into_data().map_or(0, |data| data.len());
            pieces.push((began.elapsed(), len));
        }
        is_even(&pieces, LEN, RATE);
        let log = proxy.log(1).await;
        assert_eq!((&log[0]["response_flags"], &log[0]["fault_rule"]), (&"FI".into(), &"a".into()));
        assert_eq!(proxy.metric(SLOWED), Some(if at < 2 { 2.0 } else { 1.0 }));
    }
}

#[tokio::test]
async fn what_is_held_back_is_left_to_the_instance_until_the_client_leaves() {
    const LEN: usize = 64 << 20;
    for over_http2 in [false, true] {
        let mut instance = Instance::start().await;
        let fault = some(json!([{"action": "bandwidth", "bytes_per_s": 1000}]));
        let proxy = serving(&[fault], instance.at);
        let mut conn = proxy.connect().await;
        let mut client = connect(&proxy).await;
        let asked = if over_http2 {
            let asked = request("/s").header("x", "y").body(empty()).unwrap();
            Some(tokio::spawn(client.send_request(asked)))
        } else {
            conn.send(MARKED).await;
            None
        };
        let (mut upstream, _) = instance.request().await;
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n")).await;
        let sent = upstream.send_until_stuck(LEN, 64 * 1024).await;
        assert!(sent < LEN / 2, "{sent}");
        if let Some(asked) = asked {
            drop(soon("the answer", asked).await.unwrap().unwrap());
        } else {
            conn.head().await;
        }
        drop((conn, client));
        soon("the end of the attempt", async { while upstream.try_send("x").await {} }).await;
        let log = proxy.log(1).await;
        assert_eq!((&log[0]["status"], &log[0]["response_flags"]), (&"200".into(), &"FI".into()));
    }
}

#[tokio::test]
async fn our_own_pauses_are_no_silence_of_the_instance() {
    let instance = Instance::answering(|_, _| ok("abcd")).await;
    let rule = route(json!({"http_req_timeout": 0.3}));
    let fault = actions(json!([{"action": "bandwidth", "bytes_per_s": 2}]));
    let proxy = serving(&[rule, fault], instance);
    assert_eq!(proxy.ask(&get("/s")).await.body, "abcd");
    let log = proxy.log(1).await;
    assert!(log[0]["request_time"].as_u64().unwrap() >= 900, "{log:?}");
    assert_eq!(log[0]["response_flags"], "FI");
}

#[tokio::test]
async fn an_instance_that_falls_silent_is_not_waited_for_although_its_answer_is_slowed_down() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.3}));
    let fault = actions(json!([{"action": "bandwidth", "bytes_per_s": 1000}]));
    let proxy = serving(&[rule, fault], instance.at);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
    conn.head().await;
    assert_eq!(conn.rest().await, "abc");
    assert_eq!(proxy.log(1).await[0]["response_flags"], "UT,FI");
}

#[tokio::test]
async fn a_rule_is_met_once_and_the_connection_comes_back() {
    let instance =
        Instance::answering(|head, body| ok(&format!("{} {body}", head.split(' ').nth(1).unwrap()))).await;
    let limited = json!({"id": "r", "destination": "s", "route": {"backends": [{"tags": ["v1"]}],
        "rate_limit": {"requests_per_s": 0.001, "burst": 8}}});
    let fault = some(json!([{"action": "delay", "duration": 0.1, "first": 2},
        {"action": "bandwidth", "bytes_per_s": 1_000_000, "first": 2}]));
    let proxy = serving(&[limited, fault], instance);
    let mut conn = proxy.connect().await;
    let marked = |body: &str| post("/s/marked", body).replace("Host: a", "Host: a\r\nX: y");
    for round in 0..2 {
        // All in one write: whoever has the connection must leave the next request alone.
        let all = format!("{}{}{}", post("/s/before", "1"), marked("2"), post("/s/after", "3"));
        conn.send(&all).await;
        for seen in ["/before 1", "/marked 2", "/after 3"] {
            let answer = conn.answer().await;
            assert_eq!((answer.status, &*answer.body), (200, seen), "{round}");
            assert!(answer.goes_on());
        }
    }
    let handed_over = if ENGINE == "lane" { 2.0 } else { 0.0 };
    assert_eq!(proxy.metric(PASSED), Some(handed_over));
    conn.send(marked("4")).await;
    assert_eq!(conn.answer().await.body, "/marked 4");
    assert_eq!(proxy.metric(PASSED), Some(handed_over), "two have met it, and the lane does the third");
    conn.send(get("/s/last")).await;
    assert_eq!(conn.answer().await.status, 200, "every request counts as one");
    conn.send(get("/s/over")).await;
    assert_eq!(conn.answer().await.error(), "rate_limited");
    assert_eq!(proxy.metric(SLOWED), Some(2.0));
    assert_eq!(proxy.metric(r#"a8_proxy_faults_total{action="delay",rule="a",service="s"}"#), Some(2.0));
    let log = proxy.log(9).await;
    let met: Vec<_> = log.iter().filter(|line| line["response_flags"] == "DI,FI").collect();
    assert_eq!((log.len(), met.len()), (9, 2), "one line each");
    assert!(met.iter().all(|line| line["path"] == "/s/marked"));
}

#[tokio::test]
async fn over_http_2_one_stream_is_reset_and_the_others_go_on() {
    for answer in framed(&"x".repeat(20)) {
        let instance = answering(answer).await;
        let fault = some(json!([{"action": "truncate", "after_bytes": 7}]));
        let proxy = serving(&[fault], instance);
        let mut client = connect(&proxy).await;
        for _ in 0..2 {
            let asked = request("/s").header("x", "y").body(empty()).unwrap();
            let mut body = client.send_request(asked).await.unwrap().into_body();
            let (mut came, mut broken) = (Vec::new(), false);
            while let Some(frame) = soon("a piece", body.frame()).await {
                match frame {
                    Ok(frame) => came.extend_from_slice(&frame.into_data().unwrap()),
                    Err(error) => {
                        let cause = std::error::Error::source(&error).unwrap().to_string();
                        assert!(cause.contains("stream"), "{cause}");
                        broken = true;
                        break;
                    }
                }
            }
            assert_eq!((came, broken), (b"xxxxxxx".to_vec(), true));
        }
        assert_eq!(proxy.metric(TRUNCATED), Some(2.0));
    }
}

#[tokio::test]
async fn calls_of_grpc_are_slowed_down_and_cut_off_too() {
    let faults = [
        some(json!([{"action": "bandwidth", "bytes_per_s": 10_000}])),
        json!({"id": "a", "destination": "s", "match": {"headers": {"X": "cut"}},
            "actions": [{"action": "truncate", "after_bytes": 10}]}),
    ];
    let message = "x".repeat(5000);
    for (fault, mark, whole) in [(&faults[0], "y", true), (&faults[1], "cut", false)] {
        let proxy = serving(std::slice::from_ref(fault), grpc_instance().await);
        let mut client = connect(&proxy).await;
        let asked =
            request("/s/M").method("POST").header("content-type", "application/grpc").header("x", mark);
        let began = Instant::now();
        let asked = asked.body(Full::new(Bytes::from(message.clone())).boxed()).unwrap();
        let answer =
            soon("the answer", async { client.send_request(asked).await?.into_body().collect().await });
        match answer.await {
            Ok(body) => {
                assert!(whole);
                assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
                assert_eq!(body.to_bytes(), message);
                assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
                assert_eq!(proxy.metric(SLOWED), Some(1.0));
            }
            Err(_) => {
                assert!(!whole);
                proxy.log(1).await;
                assert_eq!(proxy.metric(TRUNCATED), Some(1.0));
            }
        }
    }
}
