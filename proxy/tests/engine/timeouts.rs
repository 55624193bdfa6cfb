//! How long one attempt may take, beside how long a request may.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::server::Limits;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::http2::{Body, connect, empty, grpc_instance, request};
use crate::support::{Conn, Instance, Proxy, actions, get, ok, post, route, soon};

/// A route that gives each attempt 0.4 seconds, and the request plenty.
fn hasty(count: u32) -> Value {
    route(
        json!({"http_req_timeout": 9, "retries": {"count": count, "on": ["timeout"], "per_try_timeout": 0.4}}),
    )
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another_where_the_request_may_be_sent_twice() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::with(&[hasty(1)], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s/fresh")).await;
    let (mut fresh, _) = instance.request().await;
    let mut used = second(&mut instance, &mut conn).await;
    assert_eq!(fresh.rest().await, "", "it is left to itself");
    conn.send(get("/s/used")).await;
    instance.next_request(&mut used).await;
    let _second = second(&mut instance, &mut conn).await;
    assert_eq!(used.rest().await, "", "it is left to itself");
    for line in proxy.log(2).await {
        assert_eq!(line["response_flags"], "-", "{line}");
        let took = line["request_time"].as_u64().unwrap();
        assert!((390..2000).contains(&took), "{took} ms");
    }
    assert_eq!(proxy.metric(r#"a8_proxy_retries_total{service="s"}"#), Some(2.0));
}

/// The attempt after the first, which is answered.
async fn second(instance: &mut Instance, conn: &mut Conn) -> Conn {
    let (mut upstream, _) = instance.request().await;
    upstream.send(ok("second")).await;
    assert_eq!(conn.answer().await.body, "second");
    upstream
}

#[tokio::test]
async fn when_the_last_attempt_takes_too_long_the_client_is_told_so() {
    for (request, count) in [(get("/s"), 0), (get("/s"), 2), (post("/s", "pay"), 2)] {
        let mut instance = Instance::start().await;
        let proxy = Proxy::with(&[hasty(count)], &[("s", "v1", instance.at.to_string())]);
        let mut conn = proxy.connect().await;
        conn.send(&request).await;
        let again = if request.starts_with("POST") { 0 } else { count };
        let mut asked = Vec::new();
        for _ in 0..=again {
            asked.push(instance.request().await);
        }
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.error()), (504, "upstream_timeout"));
        assert!(instance.is_untouched(), "what may not be done twice is not");
        let log = proxy.log(1).await;
        assert_eq!(log[0]["response_flags"], "UT");
        let took = log[0]["request_time"].as_u64().unwrap();
        assert!((390 * u64::from(again + 1)..5000).contains(&took), "{took} ms");
    }
}

#[tokio::test]
async fn the_time_of_the_request_ends_an_attempt_that_has_time_left() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.6,
        "retries": {"count": 5, "on": ["timeout"], "per_try_timeout": 0.4}}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let _asked = (instance.request().await, instance.request().await);
    let answer = conn.answer().await;
    assert_eq!((answer.status, &*answer.error()), (504, "upstream_timeout"));
    assert!(instance.is_untouched());
    let took = proxy.log(1).await[0]["request_time"].as_u64().unwrap();
    assert!((590..2000).contains(&took), "{took} ms");
}

#[tokio::test]
async fn an_answer_that_has_begun_in_time_may_go_on_for_longer() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::with(&[hasty(1)], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    upstream.send("b").await;
    assert_eq!(conn.answer().await.body, "ab");
    assert_eq!(proxy.metric(r#"a8_proxy_retries_total{service="s"}"#), None);
}

#[tokio::test]
async fn what_only_announces_an_answer_is_none() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::with(&[hasty(0)], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    let announce = async {
        while upstream.try_send("HTTP/1.1 103 Early Hints\r\n\r\n").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::select! {
        answer = conn.answer() => answer,
        () = announce => conn.answer().await,
    };
    assert_eq!((answer.status, &*answer.error()), (504, "upstream_timeout"));
}

#[tokio::test]
async fn a_client_that_sends_slowly_costs_no_attempt_its_time() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::with(&[hasty(0)], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send("PUT /s HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n").await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        conn.send("x").await;
    }
    let (mut upstream, head) = instance.request().await;
    assert_eq!(upstream.body_of(&head).await, "xxx");
    upstream.send(ok("done")).await;
    assert_eq!(conn.answer().await.body, "done");
}

#[tokio::test]
async fn an_instance_that_takes_too_long_for_an_attempt_has_failed() {
    let mut slow = Instance::start().await;
    let good = Instance::named("good").await;
    let rule = json!({"id": "r", "destination": "s", "route": {"http_req_timeout": 9,
        "retries": {"count": 1, "on": ["timeout"], "per_try_timeout": 0.4},
        "backends": [{"tags": ["v1"], "resilience": {"consecutive_errors": 1, "max_ejection_percent": 100}}]}});
    let proxy = Proxy::with(&[rule], &[slow.at, good].map(|at| ("s", "v1", at.to_string())));
    let mut conn = proxy.connect().await;
    for _ in 0..6 {
        conn.send(get("/s")).await;
        assert_eq!(conn.answer().await.body, "good");
    }
    let _asked = slow.request().await;
    assert!(slow.is_untouched(), "it was ejected");
}

/// A call with this time.
async fn call(client: &mut SendRequest<Body>, timeout: &str) -> (String, HeaderMap, Duration) {
    let request = request("/s/pkg.Service/Method")
        .method("POST")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", timeout);
    let began = tokio::time::Instant::now();
    let answer = client.send_request(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let head = answer.headers().clone();
    let trailers = answer.into_body().collect().await.unwrap().trailers().cloned();
    let status = trailers.as_ref().unwrap_or(&head)["grpc-status"].to_str().unwrap().to_owned();
    (status, head, began.elapsed())
}

#[tokio::test]
async fn a_call_ends_with_the_time_that_its_client_gave_it_or_with_that_of_its_route() {
    let mut instance = Instance::start().await;
    for (route_s, timeout) in [(9.0, "400m"), (0.4, "9S"), (0.4, "soon")] {
        let rule = route(json!({"http_req_timeout": route_s, "http_req_retries": 3}));
        let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
        let (status, head, took) = call(&mut connect(&proxy).await, timeout).await;
        assert_eq!((&*status, &head["x-a8-error"]), ("4", &"upstream_timeout".parse().unwrap()));
        assert!((Duration::from_millis(390)..Duration::from_secs(3)).contains(&took), "{took:?}");
        let log = proxy.log(1).await;
        assert_eq!(log[0]["response_flags"], "UT");
        let _asked = instance.accept().await;
        assert!(instance.is_untouched(), "it is asked once");
    }
}

#[tokio::test]
async fn what_is_left_of_a_call_is_told_to_the_instance() {
    let rule = actions(json!([{"action": "delay", "duration": 0.3}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", grpc_instance().await.to_string())]);
    let mut client = connect(&proxy).await;
    let (status, head, _) = call(&mut client, "5S").await;
    let told = head["x-timeout"].to_str().unwrap();
    let micros: u64 = told.strip_suffix('u').unwrap_or_else(|| panic!("{told}")).parse().unwrap();
    assert_eq!(status, "0");
    assert!((1_000_000..=4_700_000).contains(&micros), "{told}");
    for odd in ["soon", "0S", "123456789n", "1.5S"] {
        let (status, head, _) = call(&mut client, odd).await;
        assert_eq!((&*status, &head["x-timeout"]), ("0", &odd.parse().unwrap()));
    }
    let (status, _, _) = call(&mut client, "200m").await;
    assert_eq!(status, "4", "it was held for longer");
    // Whatever is no call means nothing by the field.
    let proxy = Proxy::of(&[Instance::named("x").await]);
    let other = request("/s").header("grpc-timeout", "1n").body(empty()).unwrap();
    assert_eq!(connect(&proxy).await.send_request(other).await.unwrap().status(), 200);
}

#[tokio::test]
async fn clients_without_patience_eject_nobody() {
    let silent = Instance::start().await;
    let instances = [silent.at, grpc_instance().await].map(|at| ("s", "v1", at.to_string()));
    let rule = json!({"id": "r", "destination": "s", "route": {"backends": [{"tags": ["v1"],
        "resilience": {"consecutive_errors": 1}}]}});
    let proxy = Proxy::with(&[rule], &instances);
    let mut client = connect(&proxy).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(call(&mut client, "300m").await.0);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, ["0", "0", "0", "4", "4", "4"], "each has its turns");
}

/// The body of an answer that never goes on.
struct Silence;

impl hyper::body::Body for Silence {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// A gRPC instance that begins to answer and then says nothing more.
async fn stalling_instance() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|_: Request<Incoming>| async {
                let answer = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(answer.body(Silence).unwrap())
            });
            let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serve.serve_connection(TokioIo::new(stream), service));
        }
    });
    at
}

#[tokio::test]
async fn clients_without_patience_eject_nobody_whose_answer_has_begun_either() {
    let rule = json!({"id": "r", "destination": "s", "route": {"backends": [{"tags": ["v1"],
        "resilience": {"consecutive_errors": 2}}]}});
    let proxy = Proxy::with(&[rule], &[("s", "v1", stalling_instance().await.to_string())]);
    let mut client = connect(&proxy).await;
    // At once: the beginning of a later answer would make up for the end of an earlier one.
    let mut calls = Vec::new();
    for _ in 0..4 {
        let call = request("/s/pkg.Service/Method")
            .method("POST")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "400m");
        calls.push(tokio::spawn(client.send_request(call.body(empty()).unwrap())));
    }
    for call in calls {
        let answer = soon("the head", call).await.unwrap().unwrap();
        assert!(soon("the end", answer.into_body().collect()).await.is_err());
    }
    assert_eq!(proxy.log(4).await[0]["response_flags"], "UT");
    assert_eq!(proxy.metric(r#"a8_proxy_ejections_total{kind="consecutive_errors",service="s"}"#), None);
}

#[tokio::test]
async fn attempts_for_clients_of_http_2_have_as_much_time_and_their_answers_more() {
    let mut instance = Instance::start().await;
    let limits = Limits { drain_within: Duration::from_millis(100), ..Limits::default() };
    let proxy = Proxy::patient(limits, &[hasty(1)], &[("s", "v1", instance.at.to_string())]);
    let mut client = connect(&proxy).await;
    let began = tokio::time::Instant::now();
    let answer = tokio::spawn(client.send_request(request("/s").body(empty()).unwrap()));
    let (mut first, _) = instance.request().await;
    let (mut second, _) = instance.request().await;
    assert!(began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
    assert_eq!(first.rest().await, "", "it is left to itself");
    second.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\na").await;
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    second.send("b").await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ab");
    // The last of them is told.
    let answer = tokio::spawn(client.send_request(request("/s").body(empty()).unwrap()));
    let _asked = (instance.request().await, instance.request().await);
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-a8-error"]),
        (504, &"upstream_timeout".parse().unwrap())
    );
}

#[tokio::test]
async fn attempts_of_calls_have_their_time_too() {
    let mut silent = Instance::start().await;
    let instances = [silent.at, grpc_instance().await].map(|at| ("s", "v1", at.to_string()));
    let rule = json!({"id": "r", "destination": "s", "route": {"http_req_timeout": 9, "backends": [{"tags": ["v1"],
        "resilience": {"consecutive_errors": 100}}],
        "retries": {"count": 1, "on": ["timeout"], "methods": ["PUT"], "per_try_timeout": 0.4}}});
    let limits = Limits { drain_within: Duration::from_millis(100), ..Limits::default() };
    let proxy = Proxy::patient(limits, &[rule], &instances);
    let mut client = connect(&proxy).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let (status, _, took) = call(&mut client, "8S").await;
        assert!(took < Duration::from_secs(4), "{took:?}");
        statuses.push(status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, ["0", "0", "4", "4"], "each has its turns, and a POST is not sent twice");
    let _asked = (silent.accept().await, silent.accept().await);
}
