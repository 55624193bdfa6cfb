//! A client for HTTP/2 in clear text with prior knowledge, and an instance that speaks nothing else. For the few tests that need
//! them; everything else speaks HTTP/1.1 through [`crate::caller`] and [`crate::origin`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::caller::ANSWER_PATIENCE;

/// An answer over HTTP/2.
#[derive(Debug, Clone)]
pub struct H2Answer {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// What came behind it.
    pub trailers: HeaderMap,
}

/// Sends the requests at once as streams of one connection; answers come in the order of the requests.
///
/// # Panics
/// When the connection or a stream fails: the test cannot go on.
pub fn exchange(address: SocketAddr, requests: Vec<Request<Bytes>>) -> Vec<H2Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    runtime.block_on(async {
        let all = tokio::time::timeout(ANSWER_PATIENCE, streams(address, requests)).await;
        all.expect("the answers come in time").expect("the connection holds")
    })
}

async fn streams(address: SocketAddr, requests: Vec<Request<Bytes>>) -> Result<Vec<H2Answer>, hyper::Error> {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the proxy accepts");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let sent: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
                let body = body.collect().await?;
                let trailers = body.trailers().cloned().unwrap_or_default();
                let (status, body) = (head.status.as_u16(), body.to_bytes());
                Ok::<_, hyper::Error>(H2Answer { status, headers: head.headers, body, trailers })
            })
        })
        .collect();
    let mut answers = Vec::new();
    for stream in sent {
        answers.push(stream.await.expect("a stream's task does not panic")?);
    }
    driver.abort();
    Ok(answers)
}

/// More than a proxy holds of an answer to a call that came in HTTP/1.1.
const TOO_LARGE: usize = 4 * 1024 * 1024 + 1;

/// An instance that takes gRPC calls, and does what the last segment of their path says; gone on drop.
#[derive(Debug)]
pub struct Callee {
    /// Where it listens.
    pub at: SocketAddr,
    calls: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Callee {
    /// One that listens.
    ///
    /// # Panics
    /// When the loopback has no free port.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        let listener =
            runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("the loopback has a free port");
        let at = listener.local_addr().expect("a bound listener has an address");
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                let service = service_fn(move |request| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    called(request)
                });
                let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serve.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { at, calls, _runtime: runtime }
    }

    /// How many calls have come.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn called(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let (head, sent) = request.into_parts();
    let sent = sent.collect().await?.to_bytes();
    let ending = |bytes: Bytes, status: &'static str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        trailers.insert("x-trailer", HeaderValue::from_static("t"));
        Full::new(bytes).with_trailers(async move { Some(Ok(trailers)) }).boxed()
    };
    let takes_trailers = head.headers.get("te").is_some_and(|te| te == "trailers");
    let mut alone = None;
    let body = match head.uri.path().rsplit('/').next() {
        Some("Echo") if takes_trailers => ending(sent, "0"),
        Some("Fails") => ending(Bytes::new(), "5"),
        Some("Large") => ending(vec![b'x'; TOO_LARGE].into(), "0"),
        Some("Slow") => std::future::pending().await,
        // Whatever nobody knows is answered like a call that is not allowed: without a body, in the header.
        _ => {
            alone = Some(HeaderValue::from_static("7"));
            Empty::new().boxed()
        }
    };
    let mut answer = Response::new(body);
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer.headers_mut().extend(alone.map(|status| (http::HeaderName::from_static("grpc-status"), status)));
    Ok(answer)
}
