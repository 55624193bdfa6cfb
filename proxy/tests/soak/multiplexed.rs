//! A client of HTTP/2 with several requests under way, which leaves some of them, reads others slowly, and sometimes drops the
//! connection. It holds every answer to be its own and whole.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::Tally;
use crate::support::PATIENCE;

/// The body of a request: so many bytes in pieces, of a length that is said or not.
struct Sent {
    left: usize,
    piece: usize,
    says: bool,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let len = self.left.min(self.piece);
        self.left -= len;
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; len].into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.says && self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.says { SizeHint::with_exact(self.left as u64) } else { SizeHint::default() }
    }
}

/// One connection after the other until it is told to end.
pub(crate) async fn run(proxy: SocketAddr, seed: u64, done: Arc<AtomicBool>) -> Tally {
    let mut rng = Rng::with_seed(seed);
    let mut tally = Tally::default();
    while !done.load(Ordering::Relaxed) {
        tally.connections += 1;
        let id = format!("{seed}-{}", tally.connections);
        let stream = timeout(PATIENCE, TcpStream::connect(proxy)).await.unwrap().unwrap();
        let Ok((client, connection)) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await else {
            tally.cut += 1;
            continue;
        };
        let connection = tokio::spawn(connection);
        let mut streams = JoinSet::new();
        for number in 0..rng.usize(1..40) {
            streams.spawn(one(client.clone(), rng.fork(), format!("{id}-{number}")));
            if streams.len() == 8 {
                tally.add(&streams.join_next().await.unwrap().unwrap());
            }
        }
        if rng.u8(..) < 25 {
            connection.abort();
        }
        drop(client);
        while let Some(ended) = streams.join_next().await {
            tally.add(&ended.unwrap());
        }
    }
    tally
}

/// One request.
async fn one(mut client: SendRequest<Sent>, mut rng: Rng, id: String) -> Tally {
    let mut tally = Tally { requests: 1, ..Tally::default() };
    let coming = client.send_request(request(&mut rng, &id));
    if rng.u8(..) < 30 {
        // It is reset wherever it is.
        let _left =
            timeout(Duration::from_millis(rng.u64(..20)), async { read(coming.await, &mut rng, &id).await })
                .await;
        tally.left += 1;
        return tally;
    }
    let came = timeout(4 * PATIENCE, async { read(coming.await, &mut rng, &id).await }).await;
    match came.unwrap_or_else(|_| panic!("no end of {id}")) {
        Some(len) => {
            tally.answers += 1;
            tally.bytes += len;
        }
        None => tally.cut += 1,
    }
    tally
}

fn request(rng: &mut Rng, id: &str) -> Request<Sent> {
    let path = if rng.u8(..) < 30 { "large" } else { "small" };
    let service = if rng.u8(..) < 8 { "nobody" } else { "s" };
    let len = match rng.u8(0..20) {
        0 => rng.usize(300_000..2_000_000),
        1..4 => rng.usize(10_000..100_000),
        _ => rng.usize(0..2_000),
    };
    let (method, left, says) = match rng.u8(0..10) {
        0..6 => ("GET", 0, true),
        6..8 => ("POST", len, true),
        _ => ("PUT", len, false),
    };
    let request =
        Request::builder().method(method).uri(format!("http://a/{service}/{path}")).header("x-id", id);
    let request = match rng.u8(0..20) {
        0 => request.header("x-fault", "delay"),
        1 => request.header("x-fault", "abort"),
        _ => request,
    };
    request.body(Sent { left, piece: rng.usize(1..50_000).max(left / 50), says }).unwrap()
}

/// The length of a whole answer; `None` for one that broke off.
async fn read(came: hyper::Result<Response<Incoming>>, rng: &mut Rng, id: &str) -> Option<u64> {
    let answer = came.ok()?;
    let own = !answer.headers().contains_key("x-a8-error");
    if own {
        assert_eq!(answer.headers()["x-id"], id, "an answer to another request");
    }
    let stated =
        answer.headers().get("content-length").map(|length| length.to_str().unwrap().parse().unwrap());
    let letter = b'a' + u8::try_from(id.len() % 26).unwrap();
    let (slow, mut body, mut len) = (rng.u8(..) < 25, answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        assert!(!own || data.iter().all(|byte| *byte == letter), "the body of another answer: {id}");
        len += data.len() as u64;
        if slow {
            // A reader's own pace.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(stated.is_none_or(|stated: u64| stated == len), "{id}: {len} bytes of {stated:?}");
    Some(len)
}
