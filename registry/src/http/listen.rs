//! Accepts connections and speaks HTTP/1.1 and HTTP/2 on them, within named bounds, until told to stop. It
//! does not know what is served.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use prometheus::IntGauge;
use registry_api::host;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::stall::Unstalled;
use super::tls::HANDSHAKE_TIMEOUT;

/// How many connections are served at once, as far as there are files for them; further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 50_000;
/// How many of the files that the process may open are no connection's: the snapshot is written, keys and certificates
/// are read, however many clients there are.
pub const FILES_KEPT: usize = 64;
/// How many connections may wait to be accepted. The system may allow fewer.
pub const BACKLOG: u32 = 4096;
/// How long a new connection may ask for nothing: a client connects because it has something to say.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for the head of a request, counted from the end of the previous one; so an
/// idle connection is closed after this time too. Longer than the usual heartbeat.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may take nothing of an answer.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say so.
pub const PING_PERIOD: Duration = Duration::from_secs(30);
/// See [`PING_PERIOD`].
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest head of a request.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// How many requests of one HTTP/2 connection are served at once.
pub const STREAMS_MAX: u32 = 1_024;
/// How long requests may finish after the stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The pause after the machine refuses a connection, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Marks requests that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(super) struct OverTls;

/// Marks requests that do not say for which host they are as HTTP wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hostless;

/// Listens on the first of the addresses that a host name has and that can be listened on.
pub async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut refused = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What an earlier life left half closed keeps nobody from the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `closing` turns true, then lets requests finish for [`DRAIN_TIMEOUT`].
pub async fn listen(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    connections: IntGauge,
    mut closing: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(connections_max(getrlimit(Resource::Nofile).current)));
    let mut open = JoinSet::new();
    loop {
        // Ended connections are collected first, so that the set stays as large as what is open.
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            Some(_) = open.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        let (stream, peer, permit) = accepted;
        let (router, closing, connections) = (router.clone(), closing.clone(), connections.clone());
        let tls = tls.clone();
        open.spawn(async move {
            let _counted = (Counted::new(connections), permit);
            // Answers are small and awaited; a socket that refuses the option works anyway.
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve(stream, peer, None, router, closing).await,
                Some(tls) => {
                    // Boxed, so that connections without TLS do not hold the room for it.
                    Box::pin(serve_tls(tls, stream, peer, router, closing)).await;
                }
            }
        });
    }
    drop(listener);
    let drained = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!(module = "API", connections = open.len(), "connections cut at the end of the drain");
        open.shutdown().await;
    }
}

/// How many connections a limit on open files allows.
fn connections_max(open_files: Option<u64>) -> usize {
    let open_files = open_files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    // A limit that leaves nothing is the operator's, who then hears of every file that is missing.
    open_files.saturating_sub(FILES_KEPT).clamp(1, CONNECTIONS_MAX)
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit) {
    let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
    let mut is_refused = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) => {
                // Once until it works again: every further attempt would say the same.
                if !std::mem::replace(&mut is_refused, true) {
                    tracing::warn!(module = "API", %error, "connections cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_tls(
    tls: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    closing: watch::Receiver<bool>,
) {
    // Who does not get to the end of the handshake has said nothing worth an answer.
    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        serve(stream, peer, Some(OverTls), router, closing).await;
    }
}

async fn serve<S>(
    stream: S,
    peer: SocketAddr,
    over_tls: Option<OverTls>,
    router: Router,
    mut closing: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let spoke = Arc::new(AtomicBool::new(false));
    let (heard, router) = (Arc::clone(&spoke), TowerToHyperService::new(router));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        heard.store(true, Ordering::Relaxed);
        if !host::is_named(&request) {
            request.extensions_mut().insert(Hostless);
        }
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(over_tls) = over_tls {
            request.extensions_mut().insert(over_tls);
        }
        router.call(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_PERIOD)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX);
    let stream = TokioIo::new(Unstalled::new(stream, STALL_TIMEOUT));
    let mut connection = pin!(builder.serve_connection(stream, service));
    // The head timeout begins only once it is known which HTTP is spoken; this one covers the silence before.
    let mut silence = pin!(tokio::time::sleep(SILENCE_TIMEOUT));
    let (mut is_closing, mut may_be_silent) = (false, true);
    loop {
        tokio::select! {
            biased;
            // How a connection ended matters to nobody but its client.
            _ = connection.as_mut() => return,
            _ = closing.wait_for(|closing| *closing), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = silence.as_mut(), if may_be_silent => {
                if !spoke.load(Ordering::Relaxed) {
                    return;
                }
                may_be_silent = false;
            }
        }
    }
}

/// Counts a connection for as long as it lives, however it ends.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        for (open_files, connections) in [
            (None, CONNECTIONS_MAX),
            (Some(1_000_000), CONNECTIONS_MAX),
            (Some(1_024), 1_024 - FILES_KEPT),
            (Some(10), 1),
        ] {
            assert_eq!(connections_max(open_files), connections, "{open_files:?}");
        }
    }

    #[tokio::test]
    async fn many_may_connect_before_any_is_accepted() {
        let listener = bind("localhost", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(bind("localhost", address.port()).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let mut waiting = Vec::new();
        for number in 0..300 {
            let connected = tokio::time::timeout(Duration::from_secs(20), TcpStream::connect(address)).await;
            waiting.push(connected.unwrap_or_else(|_| panic!("connection {number} waits")).unwrap());
        }
    }
}
