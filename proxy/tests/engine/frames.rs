//! HTTP/2 frame by frame: what an honest client does not send.

use std::time::Duration;

use proxy::server::Limits;

use crate::support::{Conn, Instance, Proxy, ok, soon};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(crate) const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `GET http://<authority>/s` in HPACK, nothing indexed that is not static.
fn get(authority: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, 2];
    block.extend_from_slice(b"/s");
    block.push(0x01);
    block.push(u8::try_from(authority.len()).unwrap());
    block.extend_from_slice(authority.as_bytes());
    block
}

/// The next frame: kind, flags, stream, payload. `None` at the end.
pub(crate) async fn next(conn: &mut Conn) -> Option<(u8, u8, u32, Vec<u8>)> {
    let head = conn.try_bytes(9).await?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], stream, conn.try_bytes(len).await?))
}

pub(crate) async fn begin(proxy: &Proxy) -> Conn {
    let mut conn = proxy.connect().await;
    conn.send(PREFACE).await;
    conn.send(frame(SETTINGS, 0, 0, &[])).await;
    conn
}

/// Reads until the connection is told to go away, or ends.
async fn gone(conn: &mut Conn) -> Option<u32> {
    while let Some((kind, _, _, payload)) = next(conn).await {
        if kind == GO_AWAY {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    None
}

#[tokio::test]
async fn the_bounds_of_a_connection_are_announced() {
    let proxy = Proxy::of(&[]);
    let mut conn = begin(&proxy).await;
    let (kind, _, _, payload) = next(&mut conn).await.unwrap();
    assert_eq!(kind, SETTINGS);
    let settings: Vec<(u16, u32)> = payload
        .chunks(6)
        .map(|entry| {
            let (id, value) = entry.split_at(2);
            (u16::from_be_bytes(id.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
        })
        .collect();
    // Streams at once, the bytes of a header list, the window of a stream.
    assert!(settings.contains(&(3, 128)), "{settings:?}");
    assert!(settings.contains(&(6, 64 * 1024)), "{settings:?}");
    assert!(settings.contains(&(4, 256 * 1024)), "{settings:?}");
}

#[tokio::test]
async fn a_preface_may_come_byte_by_byte_and_a_broken_one_is_no_request() {
    let proxy = Proxy::of(&[Instance::answering(|_, _| ok("x")).await]);
    let mut conn = proxy.connect().await;
    for byte in PREFACE {
        conn.send([*byte]).await;
    }
    conn.send(frame(SETTINGS, 0, 0, &[])).await;
    conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("a"))).await;
    soon("the answer", async {
        loop {
            let (kind, _, _, payload) = next(&mut conn).await.unwrap();
            if kind == DATA && !payload.is_empty() {
                assert_eq!(payload, b"x");
                return;
            }
        }
    })
    .await;
    let mut conn = proxy.connect().await;
    conn.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    assert_eq!(conn.answer().await.error(), "bad_request");
}

#[tokio::test]
async fn an_authority_that_is_none_is_refused() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = begin(&proxy).await;
    for (stream, authority) in [(1, "a,b"), (3, "<a>"), (5, "a/b"), (7, "")] {
        conn.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get(authority))).await;
        soon("a refusal", async {
            loop {
                let (kind, _, at, payload) = next(&mut conn).await.unwrap();
                if at == stream && kind == RESET {
                    return;
                }
                if at == stream && kind == DATA {
                    assert!(String::from_utf8(payload).unwrap().contains("bad_request"), "{authority:?}");
                    return;
                }
            }
        })
        .await;
    }
    assert!(instance.is_untouched());
}

#[tokio::test]
async fn a_header_block_without_end_ends_the_connection() {
    let proxy = Proxy::of(&[]);
    let mut conn = begin(&proxy).await;
    conn.send(frame(HEADERS, END_STREAM, 1, &get("a"))).await;
    // Literals that are not indexed: each 8 KiB, for ever.
    let mut piece = vec![0x00, 1, b'x', 0x7f, 0x81, 0x3f];
    piece.extend_from_slice(&[b'y'; 8192]);
    let ended = soon("the end", async {
        let mut sent = 0;
        while sent < 64 << 20 && conn.try_send(frame(CONTINUATION, 0, 1, &piece)).await {
            sent += piece.len();
        }
        sent
    })
    .await;
    assert!(ended < 64 << 20, "{ended} bytes of one head were taken");
}

#[tokio::test]
async fn streams_that_are_reset_as_fast_as_they_are_opened_end_the_connection() {
    let proxy = Proxy::of(&[Instance::named("x").await]);
    let mut conn = begin(&proxy).await;
    let mut flood = Vec::new();
    for stream in (1..40_000).step_by(2) {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("a")));
        flood.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    }
    let _cut = conn.try_send(flood).await;
    let reason = soon("the end", gone(&mut conn)).await;
    // ENHANCE_YOUR_CALM, if it could still be said.
    assert!(matches!(reason, Some(11) | None), "{reason:?}");
    assert_eq!(proxy.ask(&crate::support::get("/s")).await.body, "x", "others are served");
}

#[tokio::test]
async fn a_connection_without_streams_is_closed_when_the_proxy_ends_and_when_it_idles() {
    let limits = Limits { http2_idle_within: Duration::from_millis(300), ..Limits::default() };
    let proxy = Proxy::patient(limits, &[], &[]);
    let mut conn = begin(&proxy).await;
    soon("the end of an idle connection", gone(&mut conn)).await;
    let mut proxy = Proxy::of(&[]);
    let mut conn = begin(&proxy).await;
    conn.send(frame(PING, 0, 0, &[0; 8])).await;
    while next(&mut conn).await.unwrap().0 != PING {}
    proxy.stop();
    assert_eq!(soon("the end", gone(&mut conn)).await, Some(0));
    proxy.ended().await;
}
