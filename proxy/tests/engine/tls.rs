//! TLS on the listener: what is agreed on, who is let in, and that everything else is as without it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::server::Limits;
use proxy::tls::Refreshed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificates::{Authority, Client, Files, Leaf};
use crate::support::{Instance, PATIENCE, Proxy, field, get, ok, post, soon};

/// More than any buffer on the way holds.
const LARGE_BYTES: usize = 4 << 20;

/// A proxy that speaks TLS, and whom to trust to speak to it.
struct Secure {
    authority: Authority,
    files: Files,
    proxy: Proxy,
}

impl Secure {
    fn of(instance: &str) -> Self {
        Self::patient(Limits::default(), instance)
    }

    fn patient(limits: Limits, instance: &str) -> Self {
        Self::with(limits, None, instance)
    }

    fn with(limits: Limits, clients: Option<&Authority>, instance: &str) -> Self {
        let authority = Authority::new();
        let files = Files::of(&authority.server(), clients);
        let mut flags = files.flags();
        flags.push(format!("--engine={}", crate::chosen::ENGINE));
        let proxy = Proxy::told(&flags, limits, &[], &[("s", "v1", instance.to_owned())]);
        Self { authority, files, proxy }
    }

    fn client(&self, protocols: &[&str]) -> Client {
        Client::new(&self.authority, protocols, None)
    }

    fn client_that_shows(&self, leaf: &Leaf) -> Client {
        Client::new(&self.authority, &[], Some(leaf))
    }
}

#[tokio::test]
async fn many_requests_share_a_connection_whatever_was_agreed_on() {
    let mut instance = Instance::start().await;
    let secure = Secure::of(&instance.at.to_string());
    for protocols in [&[][..], &["http/1.1"]] {
        let mut conn = secure.client(protocols).connect(secure.proxy.http).await;
        conn.send(get("/s/first")).await;
        let (mut upstream, head) = instance.request().await;
        assert_eq!(field(&head, "x-forwarded-proto"), Some("https"));
        assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"));
        upstream.send(ok("first")).await;
        assert_eq!(conn.answer().await.body, "first");
        for round in 0..100 {
            conn.send(post("/s", &format!("ping {round}"))).await;
            let head = instance.next_request(&mut upstream).await;
            assert_eq!(upstream.body_of(&head).await, format!("ping {round}"));
            upstream.send(ok(&format!("pong {round}"))).await;
            let answer = conn.answer().await;
            assert_eq!((answer.status, &*answer.body), (200, &*format!("pong {round}")));
            assert!(answer.goes_on());
        }
    }
    // None of these is a reason for the lane to pass it on.
    let handed_over = secure.proxy.metric("a8_proxy_lane_handed_over_total").unwrap_or_default();
    assert_eq!(handed_over, 0.0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let instance = Instance::answering(|head, _| ok(head.split(' ').nth(1).unwrap())).await;
    let secure = Secure::of(&instance.to_string());
    let mut conn = secure.client(&["http/1.1"]).connect(secure.proxy.http).await;
    conn.send([get("/s/1"), get("/s/2"), get("/s/3")].concat()).await;
    for path in ["/1", "/2", "/3"] {
        assert_eq!(conn.answer().await.body, path);
    }
}

#[tokio::test]
async fn an_earlier_proxy_that_says_what_the_client_used_is_believed() {
    let mut instance = Instance::start().await;
    let secure = Secure::of(&instance.at.to_string());
    let mut conn = secure.client(&[]).connect(secure.proxy.http).await;
    conn.send("GET /s HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: http\r\n\r\n").await;
    let (_upstream, head) = instance.request().await;
    assert_eq!(field(&head, "x-forwarded-proto"), Some("http"));
}

#[tokio::test]
async fn http2_is_preferred_and_served_for_good() {
    let instance = Instance::answering(|head, body| {
        ok(&format!("{} {body}", field(head, "x-forwarded-proto").unwrap_or_default()))
    })
    .await;
    let secure = Secure::of(&instance.to_string());
    let stream = secure.client(&["http/1.1", "h2"]).try_connect(secure.proxy.http).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for round in 0..20 {
        let body = Full::new(Bytes::from(format!("ping {round}")));
        let request = Request::post("https://shop.example/s").version(Version::HTTP_2).body(body).unwrap();
        let answer = soon("an answer", client.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("https ping {round}"));
    }
    assert_eq!(secure.proxy.log(20).await[0]["protocol"], "HTTP/2");
}

#[tokio::test]
async fn what_was_agreed_on_is_what_may_be_spoken() {
    let mut instance = Instance::start().await;
    let secure = Secure::of(&instance.at.to_string());
    let mut conn = secure.client(&["h2"]).connect(secure.proxy.http).await;
    conn.send(get("/s")).await;
    assert!(conn.is_closed().await, "HTTP/1.1 after agreeing on HTTP/2");
    for protocols in [&[][..], &["http/1.1"]] {
        let mut conn = secure.client(protocols).connect(secure.proxy.http).await;
        conn.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let answer = conn.answer().await;
        assert_eq!((&*answer.error(), answer.goes_on()), ("bad_request", false), "{answer:?}");
    }
    // A client that offers nothing that is spoken here is told so in the handshake.
    assert!(secure.client(&["h3"]).try_connect(secure.proxy.http).await.is_err());
    assert!(instance.is_untouched());
}

#[tokio::test]
async fn where_certificates_are_demanded_only_their_owners_are_served() {
    let mut instance = Instance::start().await;
    let (clients, strangers) = (Authority::new(), Authority::new());
    let secure = Secure::with(Limits::default(), Some(&clients), &instance.at.to_string());
    let unwelcome = [
        ("none", secure.client(&[])),
        ("a stranger's", secure.client_that_shows(&strangers.client())),
        ("a server's", secure.client_that_shows(&clients.server())),
    ];
    for (shown, client) in unwelcome {
        // In TLS 1.3 the client's side of the handshake ends before its certificate is looked at.
        if let Ok(mut stream) = client.try_connect(secure.proxy.http).await {
            let _written = stream.write_all(get("/s").as_bytes()).await;
            let read = soon("the refusal", stream.read(&mut [0; 1])).await;
            assert!(read.is_err(), "{shown}: {read:?}");
        }
    }
    assert!(instance.is_untouched());
    secure.proxy.metric_becomes("a8_proxy_tls_failures_total", 3.0).await;
    let mut conn = secure.client_that_shows(&clients.client()).connect(secure.proxy.http).await;
    for _ in 0..2 {
        conn.send(get("/s")).await;
        let (mut upstream, _) = instance.request().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi").await;
        assert_eq!(conn.answer().await.body, "hi");
    }
}

#[tokio::test]
async fn large_bodies_flow_both_ways_one_after_the_other_and_at_once() {
    let mut instance = Instance::start().await;
    let secure = Secure::of(&instance.at.to_string());
    let mut conn = secure.client(&[]).connect(secure.proxy.http).await;
    let body: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
    let head = format!("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE_BYTES}\r\n\r\n");
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE_BYTES}\r\nConnection: close\r\n\r\n");
    // One after the other, and again on the same connection.
    for _ in 0..2 {
        let ((), (mut upstream, received)) =
            tokio::join!(conn.send([head.as_bytes(), &body].concat()), async {
                let (mut upstream, _) = instance.request().await;
                let received = upstream.exactly_bytes(LARGE_BYTES).await;
                (upstream, received)
            });
        assert!(received == body, "not what was sent");
        let ((), received) = tokio::join!(upstream.send([answer.as_bytes(), &body].concat()), async {
            assert!(conn.head().await.starts_with("HTTP/1.1 200 "));
            conn.exactly_bytes(LARGE_BYTES).await
        });
        assert!(received == body, "not what was sent");
    }
    // Both at once.
    conn.send(&head).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send(&answer).await;
    let echo = tokio::spawn(async move { upstream.echo(LARGE_BYTES).await });
    assert!(conn.head().await.starts_with("HTTP/1.1 200 "));
    assert!(conn.send_and_read(&body).await == body, "not what was sent");
    soon("the echo", echo).await.unwrap();
}

#[tokio::test]
async fn an_answer_comes_as_it_is_made() {
    let mut instance = Instance::start().await;
    let secure = Secure::of(&instance.at.to_string());
    let mut conn = secure.client(&[]).connect(secure.proxy.http).await;
    conn.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(conn.head().await.starts_with("HTTP/1.1 200 "));
    for piece in ["a", "b", "c"] {
        upstream.send(format!("1\r\n{piece}\r\n")).await;
        assert_eq!(conn.until(&format!("{piece}\r\n")).await, format!("1\r\n{piece}\r\n"));
    }
    upstream.send("0\r\n\r\n").await;
    assert_eq!(conn.exactly(5).await, "0\r\n\r\n");
}

#[tokio::test]
async fn the_end_is_announced_so_that_none_can_be_feigned() {
    let instance = Instance::named("x").await;
    let secure = Secure::of(&instance.to_string());
    for request in [
        "GET /s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /s HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET /nobody HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "no request\r\n\r\n",
    ] {
        let mut conn = secure.client(&[]).connect(secure.proxy.http).await;
        conn.send(request).await;
        let mut rest = Vec::new();
        // Reading to the end fails where only the connection below ended.
        let read = soon("the end", conn.stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok_and(|read| read > 0), "{request}");
    }
}

#[tokio::test]
async fn requests_in_progress_end_well_and_nobody_else_is_waited_for() {
    let mut instance = Instance::start().await;
    let limits = Limits { drain_within: PATIENCE, tls_within: 2 * PATIENCE, ..Limits::default() };
    let mut secure = Secure::patient(limits, &instance.at.to_string());
    let client = secure.client(&[]);
    let mut idle = client.connect(secure.proxy.http).await;
    let mut halfway = TcpStream::connect(secure.proxy.http).await.unwrap();
    let mut busy = client.connect(secure.proxy.http).await;
    busy.send(get("/s")).await;
    let (mut upstream, _) = instance.request().await;
    secure.proxy.metric_becomes("a8_proxy_active_connections", 3.0).await;
    secure.proxy.stop();
    assert_eq!(soon("the end", idle.stream.read(&mut [0; 1])).await.unwrap(), 0);
    assert_eq!(soon("the end", halfway.read(&mut [0; 1])).await.unwrap_or(0), 0);
    upstream.send(ok("finished")).await;
    let answer = busy.answer().await;
    assert_eq!((&*answer.body, answer.field("connection")), ("finished", Some("close")));
    secure.proxy.ended().await;
}

#[tokio::test]
async fn a_handshake_is_counted_and_has_its_time_and_holds_up_nobody() {
    let instance = Instance::named("x").await;
    let limits = Limits { tls_within: Duration::from_millis(500), ..Limits::default() };
    let secure = Secure::patient(limits, &instance.to_string());
    let mut silent = TcpStream::connect(secure.proxy.http).await.unwrap();
    let mut slow = TcpStream::connect(secure.proxy.http).await.unwrap();
    // The beginning of a record, whose rest never comes.
    slow.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    secure.proxy.metric_becomes("a8_proxy_active_connections", 2.0).await;
    let mut conn = secure.client(&[]).connect(secure.proxy.http).await;
    conn.send(get("/s")).await;
    assert_eq!(conn.answer().await.body, "x");
    for stream in [&mut silent, &mut slow] {
        assert_eq!(soon("the end", stream.read(&mut [0; 1])).await.unwrap_or(0), 0);
    }
    secure.proxy.metric_becomes("a8_proxy_active_connections", 1.0).await;
    assert_eq!(secure.proxy.metric("a8_proxy_tls_failures_total"), Some(2.0));
}

#[tokio::test]
async fn plain_text_is_not_spoken_beside_tls() {
    let mut instance = Instance::start().await;
    let secure = Secure::of(&instance.at.to_string());
    for hello in [get("/s").as_bytes(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 64], &[0xff; 64]] {
        let mut conn = secure.proxy.connect().await;
        conn.send(hello).await;
        let mut answer = Vec::new();
        let _reset = soon("the end", conn.stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    }
    assert!(instance.is_untouched());
    secure.proxy.metric_becomes("a8_proxy_active_connections", 0.0).await;
}

#[tokio::test]
async fn new_certificates_are_for_new_connections() {
    let instance = Instance::named("x").await;
    let secure = Secure::of(&instance.to_string());
    let tls = secure.proxy.tls.as_ref().unwrap();
    let mut before = secure.client(&[]).connect(secure.proxy.http).await;
    before.send(get("/s")).await;
    assert_eq!(before.answer().await.body, "x");
    let successor = Authority::new();
    let of_successor = Client::new(&successor, &[], None);
    assert!(of_successor.try_connect(secure.proxy.http).await.is_err());
    secure.files.write(&successor.server());
    assert_eq!(tls.refresh(), Refreshed::Replaced);
    let mut after = of_successor.connect(secure.proxy.http).await;
    assert!(secure.client(&[]).try_connect(secure.proxy.http).await.is_err());
    for conn in [&mut before, &mut after] {
        conn.send(get("/s")).await;
        assert_eq!(conn.answer().await.body, "x");
    }
}
