//! HTTP/2 with prior knowledge on the same port, towards HTTP/1.1 and HTTP/2 instances.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::bridge::refusing;
use crate::support::{Instance, Proxy, actions, field, fields, get, ok, route, soon};

pub(crate) type Body = BoxBody<Bytes, Infallible>;

pub(crate) async fn connect(proxy: &Proxy) -> SendRequest<Body> {
    let stream = TcpStream::connect(proxy.http).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn request(path: &str) -> http::request::Builder {
    Request::builder().version(Version::HTTP_2).uri(format!("http://shop.example:81{path}"))
}

pub(crate) fn empty() -> Body {
    Empty::new().boxed()
}

/// A body whose pieces the test sends; its end is a frame of its own, empty.
struct Streamed(mpsc::Receiver<&'static str>);

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece.into()))))
    }
}

pub(crate) fn streamed() -> (mpsc::Sender<&'static str>, Body) {
    let (send, pieces) = mpsc::channel(1);
    (send, Streamed(pieces).boxed())
}

#[tokio::test]
async fn both_protocols_are_served_on_one_port() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut client = connect(&proxy).await;
    let request =
        request("/s/x?y").header("cookie", "a=1").header("cookie", "b=2").header("x", "1").header("x", "2");
    let answer = tokio::spawn(client.send_request(request.body(empty()).unwrap()));
    let (mut upstream, head) = instance.request().await;
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
    assert_eq!(fields(&head, "host"), ["shop.example:81"]);
    assert_eq!(fields(&head, "cookie"), ["a=1; b=2"]);
    assert_eq!(fields(&head, "x"), ["1", "2"]);
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"));
    upstream
        .send("HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: y\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("x-secret")), (200, None));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hi");
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    instance.next_request(&mut upstream).await;
    upstream.send(ok("one")).await;
    assert_eq!(conn.answer().await.body, "one");
    assert_eq!(proxy.log(2).await[0]["protocol"], "HTTP/2");
}

/// cloudflare/pingora#935: an empty last frame ended the upstream body twice, and the second end was taken for the
/// beginning of the next request on that connection.
#[tokio::test]
async fn a_body_that_ends_with_an_empty_frame_ends_once() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut client = connect(&proxy).await;
    let mut upstream = None;
    for _ in 0..5 {
        let (pieces, body) = streamed();
        let request = request("/s").method("POST").body(body).unwrap();
        let answer = tokio::spawn(client.send_request(request));
        pieces.send("hello").await.unwrap();
        if upstream.is_none() {
            upstream = Some(instance.accept().await);
        }
        let upstream = upstream.as_mut().unwrap();
        // The connection may not have been given back yet; mostly it has.
        let head = instance.next_request(upstream).await;
        assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        assert_eq!(upstream.until("hello\r\n").await, "5\r\nhello\r\n");
        drop(pieces);
        assert_eq!(upstream.until("0\r\n\r\n").await, "0\r\n\r\n");
        upstream.send(ok("x")).await;
        assert_eq!(soon("the answer", answer).await.unwrap().unwrap().status(), 200);
    }
    // Nothing but the next request follows.
    let answer = tokio::spawn(client.send_request(request("/s/last").body(empty()).unwrap()));
    let mut upstream = upstream.unwrap();
    assert!(instance.next_request(&mut upstream).await.starts_with("GET /last HTTP/1.1\r\n"));
    upstream.send(ok("x")).await;
    assert_eq!(soon("the answer", answer).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn refusals_and_faults_end_one_stream_and_leave_the_others() {
    let instance = Instance::named("x").await;
    let close = json!({"id": "c", "destination": "s", "match": {"headers": {"X": "close"}},
        "actions": [{"action": "abort", "return_code": -1}]});
    let proxy = Proxy::with(&[close], &[("s", "v1", instance.to_string())]);
    let mut client = connect(&proxy).await;
    let answer = client.send_request(request("/nobody").body(empty()).unwrap()).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-a8-error"]),
        (404, &"unknown_service".parse().unwrap())
    );
    let ended = client.send_request(request("/s").header("x", "close").body(empty()).unwrap());
    assert!(soon("the end", ended).await.is_err());
    let answer = client.send_request(request("/s").body(empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_delay_ends_when_the_stream_is_reset() {
    let mut instance = Instance::start().await;
    let rule = actions(json!([{"action": "delay", "duration": 3600}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut client = connect(&proxy).await;
    let held = tokio::spawn(client.send_request(request("/s").body(empty()).unwrap()));
    soon("the request", async {
        while proxy.metric(r#"a8_proxy_faults_total{action="delay",rule="a",service="s"}"#) != Some(1.0) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    held.abort();
    assert_eq!(proxy.log(1).await[0]["status"], "499");
    assert!(instance.is_untouched());
}

/// A gRPC-like instance: HTTP/2 with prior knowledge, and trailers.
pub(crate) async fn grpc_instance() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let (authority, path) =
                    (request.uri().authority().unwrap().to_string(), request.uri().path().to_owned());
                let te = request.headers().get("te").cloned();
                let timeout = request.headers().get("grpc-timeout").cloned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let body = Full::new(body).with_trailers(async move { Some(Ok(trailers)) });
                let answer = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("x-timeout", timeout.unwrap_or(HeaderValue::from_static("-")))
                    .header("x-seen", format!("{authority} {path} {te:?}"));
                Ok::<_, Infallible>(answer.body(body).unwrap())
            });
            let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serve.serve_connection(TokioIo::new(stream), service));
        }
    });
    at
}

#[tokio::test]
async fn grpc_is_spoken_to_in_http2_and_keeps_its_trailers() {
    let proxy = Proxy::of(&[grpc_instance().await]);
    let mut client = connect(&proxy).await;
    for _ in 0..2 {
        let request = request("/s/pkg.Service/Method")
            .method("POST")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let answer = client
            .send_request(request.body(Full::new(Bytes::from("message")).boxed()).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.headers()["x-seen"], r#"shop.example:81 /pkg.Service/Method Some("trailers")"#);
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "message");
    }
}

#[tokio::test]
async fn who_went_away_or_refused_before_the_call_was_looked_at_is_passed_over() {
    let well = grpc_instance().await;
    for leaves in [true, false] {
        let proxy = Proxy::of(&[refusing(leaves).await, well]);
        let mut client = connect(&proxy).await;
        // Round robin: one of two calls goes to whoever takes none. A call may not be done twice.
        for _ in 0..2 {
            let call =
                request("/s/pkg.Service/Method").method("POST").header("content-type", "application/grpc");
            let answer = client.send_request(call.body(empty()).unwrap());
            let answer = soon("the answer", answer).await.unwrap();
            assert_eq!(answer.status(), 200, "leaves: {leaves}");
        }
        let retries = proxy.metric(r#"a8_proxy_retries_total{service="s"}"#);
        assert!(retries >= Some(1.0), "{retries:?}");
    }
}

#[tokio::test]
async fn calls_are_copied_in_http2_and_everything_else_in_http1() {
    let (real, shadow) = (grpc_instance().await, grpc_instance().await);
    let rule = route(json!({"mirror": {"tags": ["v2"]}}));
    let proxy = Proxy::with(
        std::slice::from_ref(&rule),
        &[("s", "v1", real.to_string()), ("s", "v2", shadow.to_string())],
    );
    let mut client = connect(&proxy).await;
    let call = request("/s/pkg.Service/Method")
        .method("POST")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let answer = client.send_request(call.body(Full::new(Bytes::from("message")).boxed()).unwrap());
    assert_eq!(answer.await.unwrap().status(), 200);
    // Whoever speaks nothing but HTTP/2 has answered it.
    proxy.metric_becomes(r#"a8_proxy_mirrored_total{service="s"}"#, 1.0).await;
    let (named, mut plain) = (Instance::named("real").await, Instance::start().await);
    proxy.apply(&[rule], &[("s", "v1", named.to_string()), ("s", "v2", plain.at.to_string())]);
    let question = request("/s/x?y").method("POST").body(Full::new(Bytes::from("hi")).boxed()).unwrap();
    assert_eq!(client.send_request(question).await.unwrap().status(), 200);
    let (mut conn, head) = plain.request().await;
    assert!(head.starts_with("POST /x?y HTTP/1.1\r\n"), "{head}");
    assert_eq!(
        (fields(&head, "host"), conn.body_of(&head).await),
        (vec!["shop.example:81"], "hi".to_owned())
    );
}

/// A gRPC instance that answers checks about a service with this message, framed, and this status; and how many
/// connections it has.
async fn checked_instance(message: &'static [u8], status: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: Request<Incoming>| async move {
                assert_eq!(
                    (request.method().as_str(), request.uri().path()),
                    ("POST", "/grpc.health.v1.Health/Check")
                );
                assert_eq!(request.headers()["content-type"], "application/grpc");
                let question = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(question, &b"\0\0\0\0\x05\x0a\x03pkg"[..]);
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                let body =
                    Full::new(Bytes::from_static(message)).with_trailers(async move { Some(Ok(trailers)) });
                let answer = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(answer.body(body).unwrap())
            });
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                count.fetch_add(1, Ordering::Relaxed);
                let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ended = serve.serve_connection(TokioIo::new(stream), service).await;
                count.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    (at, open)
}

#[tokio::test]
async fn instances_are_asked_for_their_health_in_the_words_of_grpc() {
    let (mut instances, mut connections) = (Vec::new(), Vec::new());
    for (message, status) in [
        (&b"\0\0\0\0\x02\x08\x01"[..], "0"),
        // Not serving; serving, but the call failed; nothing at all.
        (b"\0\0\0\0\x02\x08\x02", "0"),
        (b"\0\0\0\0\x02\x08\x01", "12"),
        (b"", "0"),
    ] {
        let (at, open) = checked_instance(message, status).await;
        instances.push(("s", "v1", at.to_string()));
        connections.push(open);
    }
    let check = json!({"type": "grpc", "service": "pkg", "interval_s": 0.1, "unhealthy_threshold": 2});
    let rule = json!({"id": "h", "destination": "s", "health_check": check});
    let proxy = Proxy::with(&[rule], &instances);
    proxy.metric_becomes(r#"a8_proxy_unhealthy_instances{service="s"}"#, 3.0).await;
    let checks = r#"a8_proxy_health_checks_total{result="success",service="s"}"#;
    soon("another good one", async {
        let before = proxy.metric(checks).unwrap_or(0.0);
        while proxy.metric(checks).unwrap_or(0.0) < before + 2.0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(proxy.metric(r#"a8_proxy_unhealthy_instances{service="s"}"#), Some(3.0));
    // Each check has had a connection of its own.
    proxy.apply(&[], &instances);
    soon("the end of the checks' connections", async {
        while connections.iter().any(|open| open.load(Ordering::Relaxed) > 0) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn refusals_are_told_to_grpc_clients_in_their_words() {
    let proxy = Proxy::of(&[]);
    let mut client = connect(&proxy).await;
    let request = request("/nobody/M").method("POST").header("content-type", "application/grpc");
    let answer = client.send_request(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["grpc-status"], "12");
    assert_eq!(answer.headers()["x-a8-error"], "unknown_service");
}

#[tokio::test]
async fn faults_are_told_to_grpc_clients_in_their_words() {
    let mut instance = Instance::start().await;
    let fault = |way: &str, action: serde_json::Value| json!({"id": way, "destination": "s", "match": {"headers": {"X": way}}, "actions": [action]});
    let rules = [
        fault("grpc", json!({"action": "abort", "grpc_status": 8})),
        fault("status", json!({"action": "abort", "return_code": 503})),
        fault("reset", json!({"action": "abort", "reset": true})),
    ];
    let proxy = Proxy::with(&rules, &[("s", "v1", instance.at.to_string())]);
    let mut client = connect(&proxy).await;
    let call = |way: &str| {
        let request = request("/s/M").method("POST").header("content-type", "application/grpc");
        request.header("te", "trailers").header("x", way).body(empty()).unwrap()
    };
    // 503 is 14 in their words; what the rule names in these words is left as it is.
    for (way, status) in [("grpc", "8"), ("status", "14"), ("grpc", "8")] {
        let answer = soon("the answer", client.send_request(call(way))).await.unwrap();
        assert_eq!(answer.status(), 200, "{way}");
        for (name, value) in
            [("grpc-status", status), ("content-type", "application/grpc"), ("x-a8-error", "fault_abort")]
        {
            assert_eq!(answer.headers()[name], value, "{way}: {name}");
        }
        assert!(answer.headers().contains_key("grpc-message"));
        assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
    // One stream has ended so, and whatever becomes of the connection, no instance has seen anything.
    assert!(soon("the end", client.send_request(call("reset"))).await.is_err());
    assert!(instance.is_untouched());
    let log = proxy.log(4).await;
    assert!(log.iter().all(|line| line["response_flags"] == "FI"), "{log:?}");
    let count = |rule: &str| {
        proxy.metric(&format!(r#"a8_proxy_faults_total{{action="abort",rule="{rule}",service="s"}}"#))
    };
    assert_eq!([count("grpc"), count("status"), count("reset")], [Some(2.0), Some(1.0), Some(1.0)]);
}

#[tokio::test]
async fn answers_of_a_rule_and_header_edits_come_over_http2_as_well() {
    let edited = json!({"id": "e", "priority": -1, "destination": "s", "route": {"backends": [{"tags": ["v1"]}],
        "headers": {"request": {"set": {"X-A": "new"}}, "response": {"remove": ["X-B"], "add": {"X-C": "1"}}}}});
    let response = json!({"id": "p", "destination": "s", "match": {"headers": {"X": "response"}},
        "route": {"response": {"status": 503, "body": "later"}}});
    let redirect = json!({"id": "r", "destination": "s", "match": {"headers": {"X": "redirect"}},
        "route": {"redirect": {"scheme": "https"}}});
    let mut instance = Instance::start().await;
    let proxy = Proxy::with(&[edited, response, redirect], &[("s", "v1", instance.at.to_string())]);
    let mut client = connect(&proxy).await;
    let answer = tokio::spawn(client.send_request(request("/s").header("x-a", "old").body(empty()).unwrap()));
    let (mut upstream, head) = instance.request().await;
    assert_eq!(fields(&head, "x-a"), ["new"]);
    upstream.send("HTTP/1.1 200 OK\r\nX-B: 1\r\nContent-Length: 0\r\n\r\n").await;
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    assert_eq!((answer.headers().get("x-b"), &answer.headers()["x-c"]), (None, &"1".parse().unwrap()));
    // A call of gRPC gets what the rule says, too.
    for kind in ["text/plain", "application/grpc"] {
        let asked = request("/s/x?y").header("x", "response").header("content-type", kind);
        let answer = client.send_request(asked.body(empty()).unwrap()).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().get("grpc-status")), (503, None));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "later");
    }
    let asked = request("/s/x?y").header("x", "redirect").body(empty()).unwrap();
    let answer = client.send_request(asked).await.unwrap();
    assert_eq!(answer.status().as_u16(), 302);
    assert_eq!(answer.headers()["location"], "https://shop.example:81/s/x?y");
}
