//! Other protocols through the proxy.

use std::time::Duration;

use serde_json::json;

use crate::support::{Instance, Proxy, actions, field, ok, route};

const HANDSHAKE: &str = "GET /s/chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn bytes_pass_both_ways_after_the_switch_and_longer_than_a_request_may_take() {
    let mut instance = Instance::start().await;
    let rule = route(json!({"http_req_timeout": 0.3}));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(HANDSHAKE).await;
    let (mut upstream, head) = instance.request().await;
    assert!(head.starts_with("GET /chat HTTP/1.1\r\n"));
    assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("Upgrade"), Some("websocket")));
    assert_eq!(field(&head, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    upstream.send(format!("{SWITCH}first")).await;
    let answer = conn.answer().await;
    assert_eq!(
        (answer.status, answer.field("upgrade"), answer.field("connection")),
        (101, Some("websocket"), Some("Upgrade"))
    );
    assert_eq!(conn.exactly(5).await, "first");
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        conn.send(format!("to instance {round}")).await;
        assert_eq!(upstream.exactly(13).await, format!("to instance {round}"));
        upstream.send(format!("to client {round}")).await;
        assert_eq!(conn.exactly(11).await, format!("to client {round}"));
    }
    drop(upstream);
    assert!(conn.is_closed().await);
    assert_eq!(proxy.log(1).await[0]["status"], "101");
}

#[tokio::test]
async fn the_end_of_the_client_is_the_end_of_the_tunnel() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(HANDSHAKE).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send(SWITCH).await;
    conn.answer().await;
    conn.send("bye").await;
    drop(conn);
    assert_eq!(upstream.rest().await, "bye");
    proxy.metric_becomes("a8_proxy_active_connections", 0.0).await;
}

#[tokio::test]
async fn other_protocols_are_switched_to_as_well() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send("POST /s HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n").await;
    let (mut upstream, head) = instance.request().await;
    assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("Upgrade"), Some("tcp")));
    upstream.send("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").await;
    assert_eq!(conn.answer().await.status, 101);
    conn.send("x").await;
    assert_eq!(upstream.exactly(1).await, "x");
}

#[tokio::test]
async fn a_refused_switch_is_an_ordinary_answer() {
    let instance =
        Instance::answering(|_, _| "HTTP/1.1 426 No\r\nContent-Length: 2\r\n\r\nno".to_owned()).await;
    let proxy = Proxy::of(&[instance]);
    let answer = proxy.ask(HANDSHAKE).await;
    assert_eq!((answer.status, &*answer.body), (426, "no"));
}

#[tokio::test]
async fn what_only_looks_like_a_switch_is_none() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    let mut upstream = None;
    for fields in [
        "Upgrade: websocket\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "Connection: upgrade\r\n",
    ] {
        conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
        if upstream.is_none() {
            upstream = Some(instance.accept().await);
        }
        let upstream = upstream.as_mut().unwrap();
        let head = upstream.head().await;
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(field(&head, name), None, "{fields:?}: {name}");
        }
        upstream.send(ok("plain")).await;
        let answer = conn.answer().await;
        assert_eq!((&*answer.body, answer.goes_on()), ("plain", true), "{fields:?}");
    }
}

#[tokio::test]
async fn rules_and_faults_apply_to_the_handshake() {
    let mut instance = Instance::start().await;
    let rule = actions(json!([{"action": "abort", "return_code": 403}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", instance.at.to_string())]);
    assert_eq!(proxy.ask(HANDSHAKE).await.error(), "fault_abort");
    assert!(instance.is_untouched());
    let rule = actions(json!([{"action": "delay", "duration": 0.2}]));
    proxy.apply(&[rule], &[("s", "v1", instance.at.to_string())]);
    let mut conn = proxy.connect().await;
    conn.send(HANDSHAKE).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send(SWITCH).await;
    assert_eq!(conn.answer().await.status, 101);
    conn.send("x").await;
    assert_eq!(upstream.exactly(1).await, "x");
}

/// cloudflare/pingora#946: a switch that comes before the end of the empty request body was handled.
#[tokio::test]
async fn a_very_quick_switch_keeps_the_tunnel() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    for round in 0..100 {
        let mut conn = proxy.connect().await;
        conn.send(HANDSHAKE).await;
        let mut upstream = instance.accept().await;
        upstream.send(format!("{SWITCH}hi")).await;
        upstream.head().await;
        assert_eq!(conn.answer().await.status, 101, "{round}");
        assert_eq!(conn.exactly(2).await, "hi", "{round}");
        conn.send("there").await;
        assert_eq!(upstream.exactly(5).await, "there", "{round}");
    }
}

/// Bytes before the switch are the new protocol's, if there is one (CVE-2026-2833).
#[tokio::test]
async fn bytes_behind_the_handshake_wait_for_the_switch_and_are_never_a_request() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let smuggled = "GET /s/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for switches in [true, false] {
        let mut conn = proxy.connect().await;
        conn.send(format!("{HANDSHAKE}{smuggled}")).await;
        let (mut upstream, _) = instance.request().await;
        assert_eq!(upstream.rest_for(Duration::from_millis(100)).await, b"");
        if switches {
            upstream.send(SWITCH).await;
            assert_eq!(conn.answer().await.status, 101);
            assert_eq!(upstream.exactly(smuggled.len()).await, smuggled);
        } else {
            upstream.send(ok("no")).await;
            let answer = conn.answer().await;
            assert_eq!((&*answer.body, answer.field("connection")), ("no", Some("close")));
            assert!(conn.is_closed().await);
        }
    }
    assert!(instance.is_untouched());
}
