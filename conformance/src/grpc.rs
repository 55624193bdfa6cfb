//! An instance that speaks gRPC: it says whether it serves when it is asked for its health, answers every other call after as
//! long as it is told, and records what reached it. HTTP/2 in clear text with prior knowledge; messages are nobody's matter.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::oneshot;

/// The path of the call that asks for health.
pub const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The answers to it: a message whose field 1 is `SERVING`, or `NOT_SERVING`.
const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
const NOT_SERVING: &[u8] = b"\0\0\0\0\x02\x08\x02";

/// A call as it arrived.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its path.
    pub path: String,
    /// Its fields.
    pub headers: HeaderMap,
}

#[derive(Debug)]
struct Manners {
    serving: bool,
    hold: Duration,
    calls: Vec<Call>,
}

type Shared = Arc<Mutex<Manners>>;

/// A listening instance; gone on drop.
#[derive(Debug)]
pub struct GrpcOrigin {
    address: SocketAddr,
    shared: Shared,
    end: Option<oneshot::Sender<()>>,
    server: Option<thread::JoinHandle<()>>,
}

impl GrpcOrigin {
    /// One that serves and answers at once.
    ///
    /// # Panics
    /// When the loopback has no free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Mutex::new(Manners { serving: true, hold: Duration::ZERO, calls: vec![] }));
        let (end, ended) = oneshot::channel();
        let theirs = Arc::clone(&shared);
        let server = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be built");
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = ended => {}
                    failed = accept(listener, theirs) => failed.expect("the listener holds"),
                }
            });
        });
        Self { address, shared, end: Some(end), server: Some(server) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says of its health from now on.
    pub fn serve(&self, serving: bool) {
        lock(&self.shared).serving = serving;
    }

    /// How long it thinks about other calls from now on.
    pub fn hold(&self, time: Duration) {
        lock(&self.shared).hold = time;
    }

    /// The calls that arrived so far, those for its health aside.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared).calls.clone()
    }
}

impl Drop for GrpcOrigin {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Manners> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Shared) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Shared,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    // A call that breaks off gets an answer that nobody reads.
    let _ = body.collect().await;
    let message = if head.uri.path() == HEALTH {
        if lock(&shared).serving { SERVING } else { NOT_SERVING }
    } else {
        let hold = {
            let mut manners = lock(&shared);
            manners.calls.push(Call { path: head.uri.path().to_owned(), headers: head.headers });
            manners.hold
        };
        tokio::time::sleep(hold).await;
        b""
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(message)).with_trailers(async move { Some(Ok(trailers)) });
    let mut answer = Response::new(body);
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(answer)
}
