//! A proxy in a thread, instances and clients on raw sockets. Every wait has an end.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use control_api::Snapshot;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use proxy::config::Settings;
use proxy::feed::Stage;
use proxy::server::{Limits, Server};
use proxy::tls::Tls;
use proxy::tracer::export::Exporter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// No single wait of a test lasts longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Whoever takes nothing for so long has stopped reading.
const STUCK_AFTER: Duration = Duration::from_millis(300);

/// Waits for `future`, and fails the test when it does not come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

/// A proxy that serves.
pub(crate) struct Proxy {
    pub(crate) http: SocketAddr,
    pub(crate) stage: Stage,
    /// The certificates, where it speaks TLS.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Sends spans, once somebody runs it.
    pub(crate) exporter: Option<Exporter>,
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct NoAdmin;

#[async_trait]
impl ServerApp for NoAdmin {
    async fn process_new(self: &Arc<Self>, _: Stream, _: &ShutdownWatch) -> Option<Stream> {
        None
    }
}

impl Proxy {
    /// A proxy with the engine under test for one service `s` with these instances, and no rules.
    pub(crate) fn of(instances: &[SocketAddr]) -> Self {
        Self::with(&[], &instances.iter().map(|at| ("s", "v1", at.to_string())).collect::<Vec<_>>())
    }

    /// A proxy with rules, and instances as service, tag and endpoint.
    pub(crate) fn with(rules: &[Value], instances: &[(&str, &str, String)]) -> Self {
        Self::patient(Limits::default(), rules, instances)
    }

    pub(crate) fn patient(limits: Limits, rules: &[Value], instances: &[(&str, &str, String)]) -> Self {
        Self::running(crate::chosen::ENGINE, limits, rules, instances)
    }

    /// A proxy with an engine of one's own choice.
    pub(crate) fn running(
        engine: &str,
        limits: Limits,
        rules: &[Value],
        instances: &[(&str, &str, String)],
    ) -> Self {
        Self::told(&[format!("--engine={engine}")], limits, rules, instances)
    }

    /// A proxy with further flags.
    pub(crate) fn told(
        flags: &[String],
        limits: Limits,
        rules: &[Value],
        instances: &[(&str, &str, String)],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = format!("--data_dir={}", dir.path().display());
        let line = [
            "a8",
            "--service=caller:v9",
            "--http_listener_host=127.0.0.1",
            "--http_listener_port=0",
            "--admin_port=0",
            "--threads=2",
            &data_dir,
        ];
        let line = line.into_iter().chain(flags.iter().map(|flag| &**flag));
        let config = Line::try_parse_from(line).unwrap().settings.check().unwrap();
        let server = Server::bind(&config).unwrap().with_limits(limits);
        let exporter = server.live().exporter.lock().unwrap().take();
        let (stop, stopped) = oneshot::channel();
        let (http, stage, tls) = (server.http(), server.live().stage.clone(), server.live().tls.clone());
        let thread = std::thread::spawn(move || {
            server
                .serve(NoAdmin, async {
                    let _stop = stopped.await;
                })
                .unwrap();
        });
        let proxy = Self { http, stage, tls, exporter, dir, stop: Some(stop), thread: Some(thread) };
        proxy.apply(rules, instances);
        proxy
    }

    /// Puts other rules and instances in place.
    pub(crate) fn apply(&self, rules: &[Value], instances: &[(&str, &str, String)]) {
        self.apply_with(rules, instances, |_| {});
    }

    /// The same with something else about the snapshot.
    pub(crate) fn apply_with(
        &self,
        rules: &[Value],
        instances: &[(&str, &str, String)],
        change: impl FnOnce(&mut Snapshot),
    ) {
        let rules = rules.iter().map(|rule| Arc::new(serde_json::from_value(rule.clone()).unwrap()));
        let instances = instances.iter().enumerate().map(|(at, (service, tag, endpoint))| {
            let kind = if endpoint.starts_with("https") { "https" } else { "http" };
            let instance = json!({"id": format!("i{at}"), "service_name": service, "status": "UP", "tags": [tag],
                "endpoint": {"type": kind, "value": endpoint}});
            Arc::new(serde_json::from_value(instance).unwrap())
        });
        let mut snapshot = Snapshot::new(1, rules, instances);
        change(&mut snapshot);
        self.stage.tables.swap(self.stage.compile(&Snapshot::default(), &snapshot));
    }

    pub(crate) async fn connect(&self) -> Conn {
        Conn::new(soon("the proxy", TcpStream::connect(self.http)).await.unwrap())
    }

    /// Sends a request on a connection of its own and reads all of the answer; `Connection: close` is up to it.
    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let mut conn = self.connect().await;
        conn.send(request).await;
        conn.answer().await
    }

    /// The lines of the access log, once there are `count`.
    pub(crate) async fn log(&self, count: usize) -> Vec<Value> {
        let path = self.dir.path().join("a8_access.log");
        soon("the access log", async {
            loop {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<Value> =
                    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// The value of a metric, by its line without the number.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let page = String::from_utf8(self.stage.metrics.encode()).unwrap();
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Waits until a metric has this value.
    pub(crate) async fn metric_becomes(&self, series: &str, value: f64) {
        soon(series, async {
            while self.metric(series) != Some(value) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Tells it to end.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(mut self) {
        self.stop();
        let thread = self.thread.take().unwrap();
        soon("the end", tokio::task::spawn_blocking(move || thread.join().unwrap())).await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            thread.join().unwrap();
        }
    }
}

/// An instance: accepts connections and hands them to the test.
pub(crate) struct Instance {
    pub(crate) at: SocketAddr,
    accepted: mpsc::UnboundedReceiver<Conn>,
}

impl Instance {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (accept, accepted) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accept.send(Conn::new(stream)).is_err() {
                    return;
                }
            }
        });
        Self { at, accepted }
    }

    /// An instance that answers every request that has no body or a length, on every connection, with what `answer`
    /// makes of its head and body. An answer that says so ends the connection.
    pub(crate) async fn answering(
        answer: impl Fn(&str, &str) -> String + Send + Sync + 'static,
    ) -> SocketAddr {
        let mut instance = Self::start().await;
        let at = instance.at;
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Some(mut conn) = instance.accepted.recv().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    while let Some(head) = conn.try_head().await {
                        let body = conn.body_of(&head).await;
                        let answer = answer(&head, &body);
                        conn.send(&answer).await;
                        if field(&answer, "connection") == Some("close") {
                            return;
                        }
                    }
                });
            }
        });
        at
    }

    /// An instance that answers 200 with its name.
    pub(crate) async fn named(name: &'static str) -> SocketAddr {
        Self::answering(move |_, _| ok(name)).await
    }

    /// The next connection.
    pub(crate) async fn accept(&mut self) -> Conn {
        soon("a connection to the instance", self.accepted.recv()).await.unwrap()
    }

    /// The next connection and the head of its first request.
    pub(crate) async fn request(&mut self) -> (Conn, String) {
        let mut conn = self.accept().await;
        let head = conn.head().await;
        (conn, head)
    }

    /// The next request, on `conn` if that is used again, otherwise on a connection of its own.
    pub(crate) async fn next_request(&mut self, conn: &mut Conn) -> String {
        soon("the next request", async {
            tokio::select! {
                biased;
                Some(head) = conn.try_head() => head,
                fresh = self.accepted.recv() => {
                    *conn = fresh.unwrap();
                    conn.head().await
                }
            }
        })
        .await
    }

    /// Nothing has been accepted that was not taken.
    pub(crate) fn is_untouched(&mut self) -> bool {
        self.accepted.try_recv().is_err()
    }
}

/// An address that refuses connections for as long as this process lives: its port is held, so that no other test's
/// listener gets it.
pub(crate) async fn nobody() -> SocketAddr {
    let held = TcpSocket::new_v4().unwrap();
    held.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let at = held.local_addr().unwrap();
    std::mem::forget(held);
    at
}

pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

pub(crate) fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A route rule for `s`: everything to tag v1.
pub(crate) fn route(fields: Value) -> Value {
    let mut route = json!({"backends": [{"tags": ["v1"]}]});
    for (key, value) in fields.as_object().unwrap() {
        route[key] = value.clone();
    }
    json!({"id": "r", "destination": "s", "route": route})
}

/// An action rule for `s`.
pub(crate) fn actions(actions: Value) -> Value {
    json!({"id": "a", "destination": "s", "actions": actions})
}

/// One side of a connection.
pub(crate) struct Conn<S = TcpStream> {
    pub(crate) stream: S,
    held: Vec<u8>,
}

/// Everything is on its way then: TLS may hold the last of it back.
async fn written(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// An answer with its body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// Whether another request may follow on the connection.
    pub(crate) fn goes_on(&self) -> bool {
        goes_on(&self.head)
    }

    /// The envelope's id, which the header must repeat.
    pub(crate) fn error(&self) -> String {
        let body: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no envelope: {self:?}"));
        let id = body["error"].as_str().unwrap().to_owned();
        assert!(!body["description"].as_str().unwrap().is_empty());
        assert_eq!(self.field("x-a8-error"), Some(&*id));
        assert_eq!(self.field("content-type"), Some("application/json"));
        id
    }
}

/// Whether another request may follow after an answer with this head: HTTP/1.1 need not say so.
pub(crate) fn goes_on(head: &str) -> bool {
    let connection = fields(head, "connection");
    assert!(connection.len() < 2, "one Connection field at most: {head}");
    match connection.first() {
        None => head.starts_with("HTTP/1.1 "),
        Some(option) => *option == "keep-alive",
    }
}

/// The value of a field of a head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    fields(head, name).into_iter().next()
}

/// All values of a field of a head.
pub(crate) fn fields<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

impl Conn {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// One side of a connection over anything.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, held: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        soon("a write", written(&mut self.stream, text.as_ref())).await.unwrap();
    }

    /// Writes, and does not mind when the other side has gone.
    pub(crate) async fn try_send(&mut self, text: impl AsRef<[u8]>) -> bool {
        soon("a write", written(&mut self.stream, text.as_ref())).await.is_ok()
    }

    /// Reads more; `false` at the end or when the connection was reset.
    async fn more(&mut self) -> bool {
        let mut space = [0; 16 * 1024];
        let read = soon("a read", self.stream.read(&mut space)).await.unwrap_or(0);
        self.held.extend_from_slice(&space[..read]);
        read > 0
    }

    /// Whether the other side has closed, with nothing before it.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.held.is_empty() && !self.more().await
    }

    /// Whether the other side has reset the connection, with nothing before it.
    pub(crate) async fn is_reset(&mut self) -> bool {
        let read = soon("the end", self.stream.read(&mut [0; 1])).await;
        self.held.is_empty() && read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    }

    /// The next head; `None` at the end of the connection.
    pub(crate) async fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.held.windows(4).position(|window| window == b"\r\n\r\n") {
                return Some(self.take(end + 4));
            }
            // An instance waits for its next request as long as it takes; the test ends before it.
            let mut space = [0; 16 * 1024];
            let read = self.stream.read(&mut space).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.held.extend_from_slice(&space[..read]);
        }
    }

    pub(crate) async fn head(&mut self) -> String {
        soon("a head", self.try_head()).await.unwrap_or_else(|| panic!("closed; held: {:?}", self.held()))
    }

    /// So many bytes.
    pub(crate) async fn exactly(&mut self, len: usize) -> String {
        while self.held.len() < len {
            assert!(self.more().await, "closed; held: {:?}", self.held());
        }
        self.take(len)
    }

    /// Everything up to the end.
    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await {}
        self.take(self.held.len())
    }

    /// Everything up to and including `mark`.
    pub(crate) async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.held.windows(mark.len()).position(|window| window == mark.as_bytes()) {
                return self.take(at + mark.len());
            }
            assert!(self.more().await, "closed; held: {:?}", self.held());
        }
    }

    /// The body that belongs to a head with a length, or to one in chunks (decoded).
    pub(crate) async fn body_of(&mut self, head: &str) -> String {
        if field(head, "transfer-encoding").is_some() {
            let mut body = String::new();
            loop {
                let line = self.until("\r\n").await;
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                body.push_str(&self.exactly(size).await);
                assert_eq!(self.exactly(2).await, "\r\n");
                if size == 0 {
                    return body;
                }
            }
        }
        let length = field(head, "content-length").map_or(0, |length| length.parse().unwrap());
        self.exactly(length).await
    }

    /// The next final answer: with its body, which ends by length, chunks, or connection.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut head = self.head().await;
        while status_of(&head) < 200 && status_of(&head) != 101 {
            head = self.head().await;
        }
        let status = status_of(&head);
        let framed = field(&head, "content-length").is_some() || field(&head, "transfer-encoding").is_some();
        let body = match status {
            101 | 204 | 304 => String::new(),
            _ if framed => self.body_of(&head).await,
            _ => self.rest().await,
        };
        Answer { status, head, body }
    }

    fn take(&mut self, len: usize) -> String {
        String::from_utf8(self.held.drain(..len).collect()).expect("tests send text")
    }

    fn held(&self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

pub(crate) fn status_of(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {head:?}"))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// So many raw bytes; `None` when the connection ends before.
    pub(crate) async fn try_bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.held.len() < len {
            if !self.more().await {
                return None;
            }
        }
        Some(self.held.drain(..len).collect())
    }

    /// So many raw bytes.
    pub(crate) async fn exactly_bytes(&mut self, len: usize) -> Vec<u8> {
        while self.held.len() < len {
            assert!(self.more().await, "closed");
        }
        self.held.drain(..len).collect()
    }

    /// What comes until nothing came for a while.
    pub(crate) async fn rest_for(&mut self, quiet: Duration) -> Vec<u8> {
        while timeout(quiet, self.more()).await.unwrap_or(false) {}
        std::mem::take(&mut self.held)
    }

    /// Sends back so many bytes as they come.
    pub(crate) async fn echo(&mut self, len: usize) {
        let mut left = len;
        loop {
            let piece = std::mem::take(&mut self.held);
            self.send(&piece).await;
            left -= piece.len();
            if left == 0 {
                return;
            }
            assert!(self.more().await, "closed; {left} bytes are missing");
        }
    }

    /// Writes, and reads as many bytes as it writes at the same time.
    pub(crate) async fn send_and_read(&mut self, bytes: &[u8]) -> Vec<u8> {
        assert!(self.held.is_empty(), "unread: {:?}", self.held());
        let mut read = vec![0; bytes.len()];
        let (mut input, mut output) = tokio::io::split(&mut self.stream);
        let both = async { tokio::try_join!(written(&mut output, bytes), input.read_exact(&mut read)) };
        soon("both ways", both).await.unwrap();
        read
    }

    /// Writes, and at the same time reads and throws away so many bytes.
    pub(crate) async fn send_and_count(&mut self, bytes: &[u8], len: usize) -> usize {
        let mut count = std::mem::take(&mut self.held).len();
        let (mut input, mut output) = tokio::io::split(&mut self.stream);
        let reading = async {
            let mut space = vec![0; 64 * 1024];
            while count < len {
                match input.read(&mut space).await? {
                    0 => break,
                    read => count += read,
                }
            }
            Ok(count)
        };
        let both = async { tokio::try_join!(written(&mut output, bytes), reading) };
        soon("both ways", both).await.unwrap().1
    }

    /// Reads and throws away so many bytes.
    pub(crate) async fn count(&mut self, len: usize) -> usize {
        let mut read = 0;
        loop {
            read += std::mem::take(&mut self.held).len();
            if read >= len || !self.more().await {
                return read;
            }
        }
    }

    /// Writes in pieces of `piece` bytes until the other side takes nothing more for a while; how much it took, about `max`
    /// at most.
    pub(crate) async fn send_until_stuck(&mut self, max: usize, piece: usize) -> usize {
        let piece = vec![b'x'; piece];
        let mut sent = 0;
        while sent < max {
            let len = piece.len().min(max - sent);
            match timeout(STUCK_AFTER, self.stream.write(&piece[..len])).await {
                Ok(written) => sent += written.unwrap(),
                Err(_) => break,
            }
        }
        sent
    }

    /// Writes all of it, unless the other side takes nothing more for a while.
    pub(crate) async fn try_send_soon(&mut self, text: impl AsRef<[u8]>) -> bool {
        timeout(STUCK_AFTER, self.stream.write_all(text.as_ref())).await.is_ok_and(|written| written.is_ok())
    }
}
