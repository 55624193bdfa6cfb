//! Requests and answers over HTTP/2 as they flow: bodies in every framing, both ways at once, odd ends, clients that leave or
//! read late. Instances speak HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use proxy::server::Limits;
use serde_json::{Value, json};

use super::http2::{Body, connect, empty, grpc_instance, request, streamed};
use crate::chosen::ENGINE;
use crate::support::{Instance, Proxy, actions, field, ok, soon};

const MIB: usize = 1024 * 1024;

/// A proxy that waits for no client at its end.
fn serving(rules: &[Value], instances: &[(&str, &str, String)]) -> Proxy {
    let limits = Limits { drain_within: Duration::from_millis(100), ..Limits::default() };
    Proxy::patient(limits, rules, instances)
}

/// Sends a request in a task of its own.
fn send(
    client: &mut SendRequest<Body>,
    request: http::Request<Body>,
) -> tokio::task::JoinHandle<hyper::Result<Response<Incoming>>> {
    tokio::spawn(client.send_request(request))
}

fn with_body(path: &str, body: impl Into<Bytes>) -> http::Request<Body> {
    request(path).method(Method::POST).body(Full::new(body.into()).boxed()).unwrap()
}

async fn body_of(answer: Response<Incoming>) -> hyper::Result<Bytes> {
    soon("the body", answer.into_body().collect()).await.map(http_body_util::Collected::to_bytes)
}

#[tokio::test]
async fn a_body_and_its_answer_flow_at_the_same_time() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut client = connect(&proxy).await;
    let body: Bytes = (0..3 * MIB).map(|at| b'a' + u8::try_from(at / 977 % 26).unwrap()).collect();
    let answer = send(&mut client, with_body("/s", body.clone()));
    let (mut upstream, head) = instance.request().await;
    assert_eq!(field(&head, "content-length"), Some("3145728"), "{head}");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n").await;
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    let echo = tokio::spawn(async move { upstream.echo(3 * MIB).await });
    assert!(body_of(answer).await.unwrap() == body, "what comes back is what was sent");
    soon("the echo", echo).await.unwrap();
}

#[tokio::test]
async fn answers_of_every_framing_end_and_those_that_break_off_do_not() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (answer, body) in [
        (ok("0123456789"), Some("0123456789")),
        (ok(""), Some("")),
        (format!("{chunked}5\r\n01234\r\n005\r\n56789\r\n0\r\n\r\n"), Some("0123456789")),
        (format!("{chunked}a\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n"), Some("0123456789")),
        (format!("{chunked}0\r\n\r\n"), Some("")),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789".to_owned(), Some("0123456789")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n0123456789".to_owned(), None),
        (format!("{chunked}5\r\n01234\r\n"), None),
        (format!("{chunked}5\r\n01234\r\nx\r\n"), None),
        (format!("{chunked}5\r\n012"), None),
    ] {
        // In one piece, and in many.
        for step in [answer.len(), 1] {
            let mut instance = Instance::start().await;
            let proxy = serving(&[], &[("s", "v1", instance.at.to_string())]);
            let mut client = connect(&proxy).await;
            let coming = send(&mut client, request("/s").body(empty()).unwrap());
            let (mut upstream, _) = instance.request().await;
            for piece in answer.as_bytes().chunks(step) {
                upstream.send(piece).await;
                tokio::task::yield_now().await;
            }
            drop(upstream);
            let came = match soon("the answer", coming).await.unwrap() {
                Ok(came) => body_of(came).await.ok(),
                Err(_) => None,
            };
            assert_eq!(came.as_deref(), body.map(str::as_bytes), "{answer:?} by {step}");
            // The connection has other streams.
            let next = send(&mut client, request("/nobody").body(empty()).unwrap());
            assert_eq!(soon("the next", next).await.unwrap().unwrap().status(), 404);
        }
    }
}

#[tokio::test]
async fn some_answers_have_no_body_and_keep_what_they_say_of_it() {
    let proxy = Proxy::of(&[Instance::answering(|head, _| match head.split(' ').nth(1) {
        Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        Some("/304") => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_owned(),
    })
    .await]);
    let mut client = connect(&proxy).await;
    for (method, path, status, length) in [
        ("HEAD", "/s/x", 200, Some("9")),
        ("GET", "/s/204", 204, None),
        ("GET", "/s/304", 304, Some("9")),
        ("HEAD", "/nobody", 404, None),
    ] {
        let asked = request(path).method(method).body(empty()).unwrap();
        let answer = soon("the answer", send(&mut client, asked)).await.unwrap().unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        if path != "/nobody" {
            let said =
                answer.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
            assert_eq!(said.as_deref(), length, "{method} {path}");
        }
        assert_eq!(body_of(answer).await.unwrap(), "");
    }
}

#[tokio::test]
async fn an_answer_before_the_answer_is_not_taken_for_it() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut client = connect(&proxy).await;
    let answer = send(&mut client, request("/s").body(empty()).unwrap());
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    upstream.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("link")), (200, None));
    assert_eq!(body_of(answer).await.unwrap(), "hi");
}

#[tokio::test]
async fn fields_of_one_hop_stay_behind_both_ways() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut client = connect(&proxy).await;
    let asked = request("/s").header("te", "trailers").header("x-request-id", "mine").header("x", "1");
    let answer = send(&mut client, asked.body(empty()).unwrap());
    let (mut upstream, head) = instance.request().await;
    assert_eq!((field(&head, "te"), field(&head, "x")), (None, Some("1")), "{head}");
    assert_eq!(field(&head, "x-request-id"), Some("mine"));
    upstream
        .send("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-Y: z\r\nContent-Length: 0\r\n\r\n")
        .await;
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.headers()["x-y"], "z");
    for name in ["keep-alive", "proxy-connection", "connection", "transfer-encoding"] {
        assert_eq!(answer.headers().get(name), None, "{name}");
    }
    let log = proxy.log(1).await;
    assert_eq!((&log[0]["protocol"], &log[0]["request_id"]), (&"HTTP/2".into(), &"mine".into()));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_instance_back_and_loses_nothing() {
    const LEN: usize = 32 * MIB;
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut client = connect(&proxy).await;
    let answer = send(&mut client, request("/s").body(empty()).unwrap());
    let (mut upstream, _) = instance.request().await;
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n")).await;
    let answer = soon("the head", answer).await.unwrap().unwrap();
    let stuck = upstream.send_until_stuck(LEN, 64 * 1024).await;
    assert!(stuck < LEN, "{stuck} bytes were taken and nobody read them");
    // Other streams of the connection go on.
    let next = send(&mut client, request("/nobody").body(empty()).unwrap());
    assert_eq!(soon("the next", next).await.unwrap().unwrap().status(), 404);
    let rest = tokio::spawn(async move {
        upstream.send(vec![b'x'; LEN - stuck]).await;
        upstream
    });
    assert_eq!(body_of(answer).await.unwrap().len(), LEN);
    soon("the rest", rest).await.unwrap();
}

#[tokio::test]
async fn an_early_answer_ends_its_stream_and_no_other() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut client = connect(&proxy).await;
    let (pieces, body) = streamed();
    let answer = send(&mut client, request("/s").method("POST").body(body).unwrap());
    pieces.send("hello").await.unwrap();
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(body_of(answer).await.unwrap(), "no");
    drop(pieces);
    let next = send(&mut client, request("/nobody").body(empty()).unwrap());
    assert_eq!(soon("the next", next).await.unwrap().unwrap().status(), 404);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_over_a_body_that_it_did_not_send() {
    let mut instance = Instance::start().await;
    let rule = actions(json!([{"action": "delay", "duration": 3600}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut client = connect(&proxy).await;
    let (pieces, body) = streamed();
    let held = send(&mut client, request("/s").method("POST").body(body).unwrap());
    proxy.metric_becomes(r#"a8_proxy_faults_total{action="delay",rule="a",service="s"}"#, 1.0).await;
    held.abort();
    drop(pieces);
    assert_eq!(proxy.log(1).await[0]["status"], "499");
    assert!(instance.is_untouched());
}

/// Which engine serves which stream shows nowhere else.
#[tokio::test]
async fn the_lane_serves_all_but_calls_and_what_a_fault_does_to_bodies() {
    let fault = json!({"id": "a", "destination": "s", "match": {"headers": {"X": "y"}},
        "actions": [{"action": "truncate", "after_bytes": 3}]});
    let plain = Instance::answering(|head, _| ok(field(head, "x-request-id").unwrap())).await;
    let (echo, call) = (("s", "v1", plain.to_string()), ("g", "v1", grpc_instance().await.to_string()));
    let proxy = serving(&[fault], &[echo, call]);
    let handed = || proxy.metric("a8_proxy_lane_handovers_total").unwrap_or(0.0);
    let mut client = connect(&proxy).await;
    for asked in
        [request("/s").body(empty()).unwrap(), with_body("/s", "hello"), with_body("/nobody", "hello")]
    {
        let answer = soon("the answer", send(&mut client, asked)).await.unwrap().unwrap();
        body_of(answer).await.unwrap();
    }
    assert!(handed() < 1.0, "{}", handed());
    let asked = request("/g/pkg.Service/Method").method("POST").header("content-type", "application/grpc");
    let answer = soon("the call", send(&mut client, asked.body(empty()).unwrap())).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    // It goes over with what was decided: its id, and the draws that hang on it.
    let asked = request("/s").header("x", "y").body(empty()).unwrap();
    let answer = soon("the answer", send(&mut client, asked)).await.unwrap().unwrap();
    let mut body = answer.into_body();
    let begin = soon("a piece", body.frame()).await.unwrap().unwrap().into_data().unwrap();
    let log = proxy.log(5).await;
    let id = log[4]["request_id"].as_str().unwrap();
    assert_eq!((&begin[..], id.len()), (&id.as_bytes()[..3], 36));
    assert_eq!(proxy.metric(r#"a8_proxy_faults_total{action="truncate",rule="a",service="s"}"#), Some(1.0));
    assert!((handed() - if ENGINE == "lane" { 2.0 } else { 0.0 }).abs() < 0.1, "{}", handed());
}

#[tokio::test]
async fn an_answer_without_a_body_to_a_long_one_is_heard() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut client = connect(&proxy).await;
    let answer = send(&mut client, with_body("/s", vec![b'x'; 8 * MIB]));
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(body_of(answer).await.unwrap(), "");
}
