//! Streams of HTTP/2 frame by frame, where the lane could part from HTTP/1.1 or from the general engine.

use serde_json::json;

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, RESET, begin, frame, next};
use crate::chosen::ENGINE;
use crate::support::{Conn, Instance, Proxy, actions, fields, soon};

/// RFC 9113 7.
const CANCEL: u32 = 8;

/// `GET http://a/s` with further fields, nothing indexed.
fn get(more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":path", "/s"), (":authority", "a")];
    let mut block = Vec::new();
    for (name, value) in pseudo.iter().chain(more) {
        block.extend([0, u8::try_from(name.len()).unwrap()]);
        block.extend_from_slice(name.as_bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    block
}

async fn ask(conn: &mut Conn, more: &[(&str, &str)]) {
    conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(more))).await;
}

/// What came of the stream: the first byte of its head, its bytes, its pieces, and the reason it was reset for.
async fn heard(conn: &mut Conn) -> (Option<u8>, usize, usize, Option<u32>) {
    let (mut head, mut bytes, mut pieces) = (None, 0, 0);
    loop {
        let (kind, flags, stream, payload) = soon("a frame", next(conn)).await.unwrap();
        match kind {
            _ if stream != 1 => continue,
            HEADERS => head = Some(payload[0]),
            DATA => (bytes, pieces) = (bytes + payload.len(), pieces + 1),
            RESET => {
                return (head, bytes, pieces, Some(u32::from_be_bytes(payload[..4].try_into().unwrap())));
            }
            _ => {}
        }
        if flags & END_STREAM != 0 && matches!(kind, HEADERS | DATA) {
            return (head, bytes, pieces, None);
        }
    }
}

/// Each frame that waits costs h2 some 340 bytes beside its content, and only the content counts against what may wait.
#[tokio::test]
async fn small_chunks_that_come_together_leave_together() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = begin(&proxy).await;
    ask(&mut conn, &[]).await;
    let (mut upstream, _) = instance.request().await;
    let chunks = "1\r\nx\r\n".repeat(2000);
    upstream.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")).await;
    let (_, bytes, pieces, reset) = heard(&mut conn).await;
    assert_eq!((bytes, reset), (2000, None));
    assert!(ENGINE == "general" || pieces < 200, "{bytes} bytes in {pieces} frames");
}

/// What matches for a client of HTTP/1.1 matches for one of HTTP/2.
#[tokio::test]
async fn rules_see_fields_that_do_not_go_on() {
    for (name, value) in [("proxy-authorization", "x"), ("te", "trailers"), ("trailer", "x")] {
        let rule = json!({"id": "a", "destination": "s", "match": {"headers": {name: value}},
            "actions": [{"action": "abort", "return_code": 418}]});
        let proxy = Proxy::with(&[rule], &[("s", "v1", Instance::named("x").await.to_string())]);
        let answer = proxy.ask(&format!("GET /s HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n")).await;
        let mut conn = begin(&proxy).await;
        ask(&mut conn, &[(name, value)]).await;
        heard(&mut conn).await;
        let log = proxy.log(2).await;
        assert_eq!(
            (answer.status, &log[0]["status"], &log[1]["status"]),
            (418, &"418".into(), &"418".into()),
            "{name}"
        );
    }
}

/// The head of an answer goes out although its body breaks off at once.
#[tokio::test]
async fn an_answer_that_breaks_off_at_once_still_has_its_head() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = begin(&proxy).await;
    ask(&mut conn, &[]).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n{}", "x".repeat(30_000))).await;
    drop(upstream);
    let (head, _, _, reset) = heard(&mut conn).await;
    assert_eq!(proxy.log(1).await[0]["status"], "200");
    assert!(head.is_some(), "reset for {reset:?}, and no status");
}

/// As the general engine does it.
#[tokio::test]
async fn a_stream_that_is_closed_by_a_fault_is_cancelled() {
    let rule = actions(json!([{"action": "abort", "return_code": -1}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", Instance::named("x").await.to_string())]);
    let mut conn = begin(&proxy).await;
    ask(&mut conn, &[]).await;
    assert_eq!(heard(&mut conn).await, (None, 0, 0, Some(CANCEL)));
}

/// A stream carries no answer that is only announced: nothing was sent.
#[tokio::test]
async fn a_status_that_was_not_sent_is_not_logged() {
    let rule = actions(json!([{"action": "abort", "return_code": 103}]));
    let proxy = Proxy::with(&[rule], &[("s", "v1", Instance::named("x").await.to_string())]);
    let mut conn = begin(&proxy).await;
    ask(&mut conn, &[]).await;
    let (head, _, _, reset) = heard(&mut conn).await;
    assert!(head.is_none() && reset.is_some());
    assert_ne!(proxy.log(1).await[0]["status"], "103");
}

/// Several fields that say the same length go on as one (RFC 9110 8.6).
#[tokio::test]
async fn a_length_goes_on_once() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = begin(&proxy).await;
    conn.send(frame(HEADERS, END_HEADERS, 1, &get(&[("content-length", "5"), ("content-length", "5")])))
        .await;
    conn.send(frame(DATA, END_STREAM, 1, b"hello")).await;
    let (_upstream, head) = instance.request().await;
    assert_eq!(fields(&head, "content-length"), ["5"], "{head}");
}
