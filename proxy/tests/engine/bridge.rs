//! gRPC calls of HTTP/1.1 clients, passed on in HTTP/2 where `--grpc_http1_bridge` says so (spec/control-and-proxy.md 3.7).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::server::Limits;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::frames::{self, DATA, END_HEADERS, GO_AWAY, HEADERS, RESET, SETTINGS, frame};
use crate::support::{Answer, Conn, Instance, Proxy, field, get, post, route, soon};

type Body = BoxBody<Bytes, io::Error>;

/// More than what is held of an answer.
const TOO_LARGE: usize = 4 * 1024 * 1024 + 1;

/// An instance that speaks nothing but HTTP/2 and does what the path says.
struct Callee {
    at: SocketAddr,
    connections: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
    /// Calls that it still answers, or waits in.
    open: Arc<AtomicUsize>,
}

impl Callee {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let callee = Self { at, connections: Arc::default(), calls: Arc::default(), open: Arc::default() };
        let (connections, calls, open) =
            (Arc::clone(&callee.connections), Arc::clone(&callee.calls), Arc::clone(&callee.open));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (calls, open) = (Arc::clone(&calls), Arc::clone(&open));
                let service = service_fn(move |request| {
                    calls.fetch_add(1, Ordering::SeqCst);
                    answer(request, Open::one_of(&open))
                });
                let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serve.serve_connection(TokioIo::new(stream), service));
            }
        });
        callee
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Waits until so many calls are open.
    async fn has_open(&self, count: usize) {
        soon("open calls", async {
            while self.open.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// One call that is not over yet.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn one_of(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A body that ends with an error after its first piece.
struct Breaking(bool);

impl hyper::body::Body for Breaking {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Some(Err(io::ErrorKind::Other.into())));
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"half")))))
    }
}

/// A body of these bytes, and trailers of these fields.
fn body(bytes: impl Into<Bytes>, trailers: &[(&'static str, &'static str)]) -> Body {
    let fields = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let trailers: HeaderMap = fields.collect();
    let full = Full::new(bytes.into()).map_err(|never: Infallible| match never {});
    full.with_trailers(async move { Some(Ok(trailers)) }).boxed()
}

async fn answer(request: Request<Incoming>, _open: Open) -> Result<Response<Body>, Infallible> {
    let (head, sent) = request.into_parts();
    let way = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let empty = || Empty::new().map_err(|never: Infallible| match never {}).boxed();
    let grpc = || Response::builder().header("content-type", "application/grpc+proto");
    if way == "early" {
        return Ok(grpc().header("grpc-status", "16").body(empty()).unwrap());
    }
    if way == "eager" {
        return Ok(grpc().body(body(vec![b'x'; 100_000], &[("grpc-status", "0")])).unwrap());
    }
    let sent = sent.collect().await.unwrap().to_bytes();
    let field = |name| head.headers.get(name).map_or("-", |value| value.to_str().unwrap());
    let seen = format!(
        "{} {} {} te={} connection={} transfer-encoding={}",
        head.method,
        head.uri.authority().unwrap(),
        head.uri.path(),
        field("te"),
        field("connection"),
        field("transfer-encoding")
    );
    Ok(match &*way {
        "ok" => grpc()
            .header("x-seen", seen)
            .header("x-timeout", field("grpc-timeout"))
            .body(body(sent, &[("grpc-status", "0"), ("x-trailer", "t"), ("content-length", "99")])),
        "fails" => grpc().body(body("", &[("grpc-status", "5"), ("grpc-message", "no%20such")])),
        "alone" => grpc().header("grpc-status", "7").header("grpc-message", "never").body(empty()),
        "large" => grpc().body(body(vec![b'x'; TOO_LARGE], &[("grpc-status", "0")])),
        "largest" => grpc().body(body(vec![b'x'; TOO_LARGE - 1], &[("grpc-status", "0")])),
        "silent" => grpc().body(body("what", &[])),
        "breaks" => grpc().body(Breaking(false).boxed()),
        "lost" => Response::builder().status(404).body(body("not here", &[])),
        "ill" => Response::builder().status(503).body(body("ill", &[])),
        "slow" => std::future::pending().await,
        other => panic!("no such way: {other}"),
    }
    .unwrap())
}

/// An instance that takes no call: resets each stream unseen, or goes away before it.
pub(crate) async fn refusing(leaves: bool) -> SocketAddr {
    let mut instance = Instance::start().await;
    let at = instance.at;
    tokio::spawn(async move {
        loop {
            let mut conn = instance.accept().await;
            tokio::spawn(async move {
                conn.send(frame(SETTINGS, 0, 0, &[])).await;
                conn.exactly_bytes(24).await;
                while let Some((kind, _, stream, _)) = frames::next(&mut conn).await {
                    if kind == HEADERS {
                        let farewell = match leaves {
                            true => frame(GO_AWAY, 0, 0, &[0; 8]),
                            false => frame(RESET, 0, stream, &7u32.to_be_bytes()),
                        };
                        conn.send(&farewell).await;
                    }
                }
            });
        }
    });
    at
}

fn told(rules: &[Value], instances: &[SocketAddr]) -> Proxy {
    let flags = [format!("--engine={}", crate::chosen::ENGINE), "--grpc_http1_bridge".to_owned()];
    let instances: Vec<_> = instances.iter().map(|at| ("s", "v1", at.to_string())).collect();
    Proxy::told(&flags, Limits::default(), rules, &instances)
}

/// A call with these further fields, its body behind them.
fn call(way: &str, fields: &str, body: &str) -> String {
    format!(
        "POST /s/pkg.Service/{way} HTTP/1.1\r\nHost: shop.example:81\r\nContent-Type: application/grpc\r\n\
         {fields}\r\n{body}"
    )
}

fn message(way: &str) -> String {
    call(way, "Content-Length: 7\r\n", "message")
}

async fn asked(proxy: &Proxy, way: &str) -> Answer {
    proxy.ask(&message(way)).await
}

#[tokio::test]
async fn a_call_goes_on_in_http2_and_its_answer_is_whole() {
    let callee = Callee::start().await;
    let proxy = told(&[], &[callee.at]);
    let mut conn = proxy.connect().await;
    for request in [
        message("ok"),
        call("ok", "Transfer-Encoding: chunked\r\n", "4\r\nmess\r\n3\r\nage\r\n0\r\n\r\n"),
        call("ok", "TE: trailers\r\nConnection: te\r\nContent-Length: 7\r\n", "message"),
    ] {
        conn.send(request).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, "message"), "{answer:?}");
        let seen = "POST shop.example:81 /pkg.Service/ok te=trailers connection=- transfer-encoding=-";
        for (name, value) in [
            ("x-seen", Some(seen)),
            ("content-type", Some("application/grpc+proto")),
            ("content-length", Some("7")),
            ("grpc-status", Some("0")),
            ("x-trailer", Some("t")),
            ("transfer-encoding", None),
        ] {
            assert_eq!(answer.field(name), value, "{name}: {answer:?}");
        }
        assert!(answer.goes_on());
    }
    assert_eq!((callee.calls(), callee.connections()), (3, 1), "one connection for one call after another");
    assert!(proxy.log(3).await.iter().all(|line| line["status"] == "200" && line["protocol"] == "HTTP/1.1"));
}

#[tokio::test]
async fn a_call_that_failed_is_503_with_its_status_and_no_failure_of_its_instance() {
    let callee = Callee::start().await;
    let limit = json!({"tags": ["v1"], "resilience": {"consecutive_errors": 1}});
    let proxy = told(&[route(json!({"backends": [limit], "http_req_retries": 3}))], &[callee.at]);
    let mut conn = proxy.connect().await;
    for (way, status, text) in [("fails", "5", "no%20such"), ("alone", "7", "never")] {
        conn.send(message(way)).await;
        let answer = conn.answer().await;
        assert_eq!((answer.status, &*answer.body), (503, ""), "{answer:?}");
        assert!(answer.head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer:?}");
        assert_eq!(
            [answer.field("grpc-status"), answer.field("grpc-message"), answer.field("x-a8-error")],
            [Some(status), Some(text), None]
        );
        assert!(answer.goes_on());
    }
    conn.send(message("ok")).await;
    assert_eq!(conn.answer().await.status, 200);
    assert_eq!(callee.calls(), 3, "nothing was tried again");
    assert_eq!(proxy.log(3).await[0]["response_flags"], "-");
}

#[tokio::test]
async fn an_answer_has_a_largest_size_and_beyond_it_nobody_is_to_blame() {
    let callee = Callee::start().await;
    let limit = json!({"tags": ["v1"], "resilience": {"consecutive_errors": 1}});
    let proxy = told(&[route(json!({"backends": [limit]}))], &[callee.at]);
    assert_eq!(asked(&proxy, "largest").await.body.len(), TOO_LARGE - 1);
    let answer = asked(&proxy, "large").await;
    assert_eq!((answer.status, &*answer.error()), (502, "answer_too_large"));
    assert_eq!(answer.field("grpc-status"), Some("8"));
    assert_eq!(asked(&proxy, "ok").await.status, 200);
    assert_eq!(callee.calls(), 3);
}

/// The service is `s`.
const EJECTIONS: &str = r#"a8_proxy_ejections_total{kind="consecutive_errors",service="s"}"#;

#[tokio::test]
async fn what_is_no_answer_to_a_call_is_told_as_such() {
    let callee = Callee::start().await;
    let limit = json!({"tags": ["v1"], "resilience": {"consecutive_errors": 1}});
    let proxy = told(&[route(json!({"backends": [limit]}))], &[callee.at]);
    // Whoever knows nothing of calls has not failed: the client chose to call.
    for (way, status, ejections) in [("silent", 502, None), ("breaks", 503, Some(1.0))] {
        let answer = asked(&proxy, way).await;
        assert_eq!((answer.status, &*answer.error()), (status, "upstream_connect"), "{way}");
        assert_eq!(answer.field("grpc-status"), Some("14"), "{way}");
        assert_eq!(proxy.metric(EJECTIONS), ejections, "{way}");
    }
    let answer = asked(&proxy, "lost").await;
    assert_eq!((answer.status, &*answer.body, answer.field("grpc-status")), (404, "not here", None));
    assert_eq!(callee.calls(), 3, "what may have been done is not done again");
}

#[tokio::test]
async fn instances_that_cannot_serve_are_passed_over() {
    let well = Callee::start().await;
    for leaves in [false, true] {
        let ill = refusing(leaves).await;
        let proxy = told(&[], &[ill, well.at]);
        // Round robin: one of two calls goes to whoever refuses it.
        for _ in 0..2 {
            assert_eq!(asked(&proxy, "ok").await.status, 200, "leaves: {leaves}");
        }
        let retries = proxy.metric(r#"a8_proxy_retries_total{service="s"}"#);
        assert!(retries >= Some(1.0), "{retries:?}");
    }
    let proxy = told(&[route(json!({"http_req_retries": 2}))], &[well.at, well.at]);
    let before = well.calls();
    assert_eq!(asked(&proxy, "ill").await.status, 503);
    assert_eq!(well.calls() - before, 3, "a status is judged as ever");
}

#[tokio::test]
async fn a_call_ends_with_its_time_and_with_its_client() {
    let callee = Callee::start().await;
    let proxy = told(&[route(json!({"http_req_timeout": 0.3}))], &[callee.at]);
    let answer = asked(&proxy, "slow").await;
    assert_eq!(
        (answer.status, &*answer.error(), answer.field("grpc-status")),
        (504, "upstream_timeout", Some("4"))
    );
    callee.has_open(0).await;
    proxy.apply(&[], &[("s", "v1", callee.at.to_string())]);
    let answer = proxy.ask(&call("slow", "grpc-timeout: 200m\r\nContent-Length: 1\r\n", "x")).await;
    assert_eq!(
        (answer.status, &*answer.error(), answer.field("grpc-status")),
        (504, "upstream_timeout", Some("4"))
    );
    callee.has_open(0).await;
    let answer = proxy.ask(&call("ok", "grpc-timeout: 9S\r\nContent-Length: 1\r\n", "x")).await;
    assert!(answer.field("x-timeout").unwrap().starts_with("8"), "{answer:?}");
    let mut conn = proxy.connect().await;
    conn.send(message("slow")).await;
    callee.has_open(1).await;
    drop(conn);
    callee.has_open(0).await;
    assert_eq!(proxy.log(4).await[3]["status"], "499");
    assert!(callee.connections() <= 2, "one for each thread: only the calls have ended");
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_whole() {
    let callee = Callee::start().await;
    let proxy = told(&[], &[callee.at]);
    let mut conn = proxy.connect().await;
    conn.send(call("early", "Transfer-Encoding: chunked\r\n", "4\r\nmess\r\n")).await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, answer.field("grpc-status")), (503, Some("16")));
    let mut conn = proxy.connect().await;
    conn.try_send_soon(call("eager", "Content-Length: 9000000\r\n", &"x".repeat(4_000_000))).await;
    let answer = conn.answer().await;
    assert_eq!((answer.status, answer.body.len(), answer.field("grpc-status")), (200, 100_000, Some("0")));
}

#[tokio::test]
async fn a_long_request_comes_whole() {
    let callee = Callee::start().await;
    let proxy = told(&[], &[callee.at]);
    let text = "0123456789abcdef".repeat(40_000);
    let long = call("ok", &format!("Content-Length: {}\r\n", text.len()), &text);
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    let chunked = call("ok", "Transfer-Encoding: chunked\r\n", &format!("{chunk}{chunk}0\r\n\r\n"));
    let mut conn = proxy.connect().await;
    for (request, times) in [(long, 1), (chunked, 2)] {
        conn.send(request).await;
        let answer = conn.answer().await;
        assert!(answer.status == 200 && answer.body == text.repeat(times), "{}", answer.head);
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let callee = Callee::start().await;
    let proxy = told(&[], &[callee.at]);
    let mut conn = proxy.connect().await;
    conn.send(call("ok", "Expect: 100-continue\r\nContent-Length: 7\r\n", "")).await;
    assert!(conn.head().await.starts_with("HTTP/1.1 100 "));
    conn.send("message").await;
    assert_eq!(conn.answer().await.body, "message");
}

#[tokio::test]
async fn faults_and_refusals_are_told_in_both_languages() {
    let callee = Callee::start().await;
    let fault = |way: &str, action: Value| json!({"id": way, "destination": "s", "match": {"headers": {"X": way}}, "actions": [action]});
    let rules = [
        fault("grpc", json!({"action": "abort", "grpc_status": 8})),
        fault("status", json!({"action": "abort", "return_code": 429})),
        fault("cut", json!({"action": "truncate", "after_bytes": 3})),
    ];
    let proxy = told(&rules, &[callee.at]);
    let ask = |way: &str| call("ok", &format!("X: {way}\r\nContent-Length: 7\r\n"), "message");
    let answer = proxy.ask(&ask("grpc")).await;
    assert_eq!(
        (answer.status, answer.field("grpc-status"), answer.field("x-a8-error"), &*answer.body),
        (503, Some("8"), Some("fault_abort"), "")
    );
    let answer = proxy.ask(&ask("status")).await;
    assert_eq!(
        (answer.status, &*answer.error(), answer.field("grpc-status")),
        (429, "fault_abort", Some("14"))
    );
    let answer = proxy.ask(&message("ok").replace("/s/", "/nobody/")).await;
    assert_eq!(
        (answer.status, &*answer.error(), answer.field("grpc-status")),
        (404, "unknown_service", Some("12"))
    );
    assert_eq!(callee.calls(), 0);
    let mut conn = proxy.connect().await;
    conn.send(ask("cut")).await;
    assert_eq!(field(&conn.head().await, "content-length"), Some("7"));
    assert_eq!(conn.rest().await, "mes");
}

#[tokio::test]
async fn a_copy_of_a_call_is_sent_in_http2() {
    let (real, shadow) = (Callee::start().await, Callee::start().await);
    let rule = route(json!({"mirror": {"tags": ["v2"]}}));
    let proxy = told(std::slice::from_ref(&rule), &[real.at]);
    proxy.apply(&[rule], &[("s", "v1", real.at.to_string()), ("s", "v2", shadow.at.to_string())]);
    assert_eq!(asked(&proxy, "ok").await.status, 200);
    proxy.metric_becomes(r#"a8_proxy_mirrored_total{service="s"}"#, 1.0).await;
    assert_eq!((real.calls(), shadow.calls()), (1, 1));
}

#[tokio::test]
async fn whatever_is_no_call_stays_in_http1_and_so_do_calls_without_the_setting() {
    let mut instance = Instance::start().await;
    let on = told(&[], &[instance.at]);
    let off = Proxy::of(&[instance.at]);
    let web = message("ok").replace("application/grpc", "application/grpc-web");
    for (proxy, request) in [(&on, get("/s/x")), (&on, post("/s/x", "hi")), (&on, web), (&off, message("ok"))]
    {
        let mut conn: Conn = proxy.connect().await;
        conn.send(&request).await;
        let (mut upstream, head) = instance.request().await;
        assert!(head.lines().next().unwrap().ends_with("HTTP/1.1"), "{head}");
        upstream.send("HTTP/1.1 200 OK\r\ngrpc-status: 5\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(conn.answer().await.status, 200);
    }
}

#[tokio::test]
async fn an_instance_that_speaks_no_http2_has_no_answer() {
    for words in [
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
    ] {
        let mut instance = Instance::start().await;
        let proxy = told(&[], &[instance.at]);
        let speaking = async {
            let mut conn = instance.accept().await;
            conn.until("\r\n\r\n").await;
            conn.send(words).await;
            conn
        };
        let (answer, _conn) = tokio::join!(asked(&proxy, "ok"), speaking);
        assert_eq!((answer.status, &*answer.error()), (503, "upstream_connect"), "{words}");
    }
}

/// An answer whose trailers are its last frame, cut in half by the end of the connection.
#[tokio::test]
async fn an_instance_that_dies_while_it_answers_has_not_answered() {
    let mut instance = Instance::start().await;
    let proxy = told(&[], &[instance.at]);
    let dying = async {
        let mut conn = instance.accept().await;
        conn.send(frame(SETTINGS, 0, 0, &[])).await;
        conn.exactly_bytes(24).await;
        while frames::next(&mut conn).await.unwrap().0 != HEADERS {}
        // `:status: 200`, the first bytes of a message, and nothing more.
        conn.send(frame(HEADERS, END_HEADERS, 1, &[0x88])).await;
        conn.send(frame(DATA, 0, 1, b"\0\0\0")).await;
    };
    let (answer, ()) = tokio::join!(asked(&proxy, "ok"), dying);
    assert_eq!((answer.status, &*answer.error()), (503, "upstream_connect"));
    assert_eq!(proxy.log(1).await[0]["response_flags"], "UR");
}
