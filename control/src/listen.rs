//! Accepts connections and serves HTTP/1.1 or cleartext HTTP/2 on each, within bounds. What a request means
//! is the front's.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::closing::Closing;
use crate::http::Front;
use crate::taken::Taken;

/// How many connections are served at once, as far as there are files for them; further ones wait in the listener's
/// queue.
const CONNECTIONS_MAX: usize = 20_000;
/// How many of the files that the process may open are no connection's: rules are kept, registries are followed, keys
/// are read, however many clients there are.
const FILES_KEPT: usize = 64;
/// How many connections may wait to be accepted. The system may allow fewer.
const BACKLOG: u32 = 4096;
/// How long a new connection may ask for nothing: a client connects because it has something to say.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to send the head of a request, idle time included.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest head of a request.
const HEADER_MAX_BYTES: usize = 64 << 10;
/// How many requests one HTTP/2 connection may have in flight.
const STREAMS_MAX: u32 = 256;
/// How often an HTTP/2 peer is asked for a sign of life, and how long it may take to give one.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// See [`KEEP_ALIVE_INTERVAL`].
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a peer may take nothing of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after the system refused to hand over a connection, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long answers may still take after the end was announced.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Serves until `closing` says so, then until the answers that were begun are out or their time is up.
pub(crate) async fn accept(listener: TcpListener, front: Arc<Front>, mut closing: Closing) {
    let connections_max = connections_max(getrlimit(Resource::Nofile).current);
    let mut connections = JoinSet::new();
    let mut is_refused = false;
    loop {
        tokio::select! {
            biased; // The end comes before new work, and room is made before it is taken.
            () = closing.announced() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, peer)) => {
                    is_refused = false;
                    connections.spawn(connection(stream, peer, Arc::clone(&front), closing.clone()));
                }
                Err(error) => {
                    // Once until it works again: every further attempt would say the same.
                    if !std::mem::replace(&mut is_refused, true) {
                        warn!(%error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        connections.shutdown().await;
    }
}

/// How many connections a limit on open files allows.
fn connections_max(open_files: Option<u64>) -> usize {
    let open_files = open_files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    // A limit that leaves nothing is the operator's, who then hears of every file that is missing.
    open_files.saturating_sub(FILES_KEPT).clamp(1, CONNECTIONS_MAX)
}

/// Listens on the first of the addresses that a host name has and that can be listened on.
pub(crate) async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
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

async fn connection(stream: TcpStream, peer: SocketAddr, front: Arc<Front>, mut closing: Closing) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "connection without nodelay");
    }
    let spoke = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&spoke);
    let service = service_fn(move |request: http::Request<Incoming>| {
        heard.store(true, Ordering::Relaxed);
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(front.handle(request, peer).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT).max_buf_size(HEADER_MAX_BYTES);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE_INTERVAL);
    http2.keep_alive_timeout(KEEP_ALIVE_TIMEOUT).max_concurrent_streams(STREAMS_MAX);
    http2.max_header_list_size(HEADER_MAX_BYTES as u32);
    let mut serving =
        pin!(builder.serve_connection(TokioIo::new(Taken::new(stream, STALL_TIMEOUT)), service));
    // hyper times heads once it knows the version, and HTTP/2 peers once they have greeted: nobody before.
    let mut silence = pin!(tokio::time::sleep(SILENCE_TIMEOUT));
    let (mut is_closing, mut may_be_silent) = (false, true);
    let ended = loop {
        tokio::select! {
            biased; // A connection that ends by itself needs no farewell.
            ended = serving.as_mut() => break ended,
            () = closing.announced(), if !is_closing => {
                is_closing = true;
                serving.as_mut().graceful_shutdown();
            }
            () = silence.as_mut(), if may_be_silent => {
                if !spoke.load(Ordering::Relaxed) {
                    return;
                }
                may_be_silent = false;
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::closing::Announcer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn listening(closing: &Announcer) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let front = Arc::new(Front::new(Clock::start(), false));
        tasks.spawn(accept(listener, front, closing.listen()));
        (address, tasks)
    }

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

    #[tokio::test]
    async fn until_the_rules_are_loaded_every_request_is_answered_503() {
        let closing = Announcer::new();
        let (address, _tasks) = listening(&closing).await;
        for head in ["GET /health HTTP/1.1", "POST /v1/rules HTTP/1.1", "GET /nowhere HTTP/1.1"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("{head}\r\nHost: h\r\nA8-Request-Id: mine\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("a8-request-id: mine\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
        }
    }

    #[tokio::test]
    async fn a_request_says_once_for_which_host_it_is() {
        let closing = Announcer::new();
        let (address, _tasks) = listening(&closing).await;
        for (version, hosts, status) in [
            ("1.1", "Host: a\r\n", 503),
            ("1.1", "", 400),
            ("1.1", "Host: a\r\nHost: a\r\n", 400),
            ("1.1", "Host: a\r\nX: y\r\nhost: b\r\n", 400),
            ("1.1", "Host: a/b\r\n", 400),
            ("1.0", "", 503),
            ("1.0", "Host: a\r\nHost: b\r\n", 400),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /health HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/{version} {status} ")), "{request:?}: {answer}");
            assert!(
                status == 503
                    || answer.ends_with(r#"{"Error":"Host header missing, repeated or malformed"}"#),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn idle_and_silent_connections_end_with_the_announcement() {
        let closing = Announcer::new();
        let (address, mut tasks) = listening(&closing).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.unwrap();
        closing.announce();
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        silent.read_to_end(&mut rest).await.unwrap();
        tasks.join_next().await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn http2_is_recognised_when_its_preface_comes_in_pieces() {
        let closing = Announcer::new();
        let (address, _tasks) = listening(&closing).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        // The first byte has been seen when the connection made after it is served.
        stream.write_all(b"P").await.unwrap();
        let mut other = TcpStream::connect(address).await.unwrap();
        other.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        other.read_to_end(&mut Vec::new()).await.unwrap();
        stream.write_all(b"RI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[3], 4, "settings: {frame:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_asks_for_anything_is_let_go() {
        let closing = Announcer::new();
        let (address, _tasks) = listening(&closing).await;
        for greeting in [&b""[..], b"P", b"GET / HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(greeting).await.unwrap();
            // Ends with a farewell or a reset; what counts is that it ends.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    }

    #[tokio::test]
    async fn what_is_no_http_ends_the_connection_and_nothing_else() {
        let closing = Announcer::new();
        let (address, mut tasks) = listening(&closing).await;
        for rubbish in [&b"\x16\x03\x01\x02\x00"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"GET\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(rubbish).await.unwrap();
            // Ends with an answer or a reset; what counts is that it ends.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        assert!(TcpStream::connect(address).await.is_ok());
        assert!(tasks.try_join_next().is_none());
    }
}
