//! An instance that answers as each request's `X-Script` says, well or badly, and records what it got. It is the only
//! instance of its service, so that what it sees belongs to one case.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::strict::{self, Framing, Request};

/// How long an instance that has closed its side goes on reading.
const LINGER: Duration = Duration::from_secs(2);

/// What an instance can be told to do and still be understood.
pub(crate) const FINE: &[&str] = &[
    "ok",
    "ok",
    "ok",
    "ok",
    "chunked",
    "chunked",
    "pieces",
    "close",
    "closing",
    "old",
    "old-close",
    "hints",
    "many-hints",
    "continue",
    "204",
    "304",
    "304-length",
    "205",
    "404",
    "299",
    "999",
    "empty",
    "same-lengths",
    "length-list",
    "surplus",
    "surplus-204",
    "no-reason",
    "nominated",
    "hop",
    "cookies",
    "switch",
    "early",
    "early-close",
    "many-fields",
    "large-field",
    "large",
    "high-bytes",
    "empty-value",
    "reuse-lie",
];

/// What an instance can be told to do that ends badly for most requests, or that engines may take differently: mostly
/// the last request of a case is told so, since little can be compared behind it.
pub(crate) const WRONG: &[&str] = &[
    "204-length",
    "500",
    "503",
    "two-lengths",
    "odd-length",
    "length-and-chunks",
    "gzip",
    "identity",
    "two-codings",
    "chunked-list",
    "extensions",
    "trailers",
    "bad-chunk",
    "cut-length",
    "cut-chunk",
    "noise",
    "version-2",
    "version-word",
    "status-word",
    "status-99",
    "bare-feed",
    "folded",
    "space-name",
    "no-colon",
    "nul",
    "bare-return",
    "unasked-101",
    "drop",
    "drop-head",
    "too-many-fields",
    "hint-then-close",
    "hint-with-length",
];

/// What an instance saw.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Heads, of whole requests and others.
    pub(crate) heads: u64,
    /// Whole requests in the order in which they came to their end.
    pub(crate) requests: Vec<Request>,
    /// Bytes that are no request.
    pub(crate) violations: Vec<String>,
}

/// A running instance.
pub(crate) struct Scripted {
    pub(crate) at: SocketAddr,
    record: Arc<Mutex<Record>>,
    tasks: JoinSet<()>,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection { stream, held: Vec::new(), record: Arc::clone(&shared) };
                connections.spawn(connection.serve());
            }
        });
        Self { at, record, tasks }
    }

    /// Ends it; what it saw.
    pub(crate) async fn end(mut self) -> Record {
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.record.lock().unwrap())
    }
}

struct Connection {
    stream: TcpStream,
    held: Vec<u8>,
    record: Arc<Mutex<Record>>,
}

/// What becomes of a connection after an answer.
enum After {
    Keep,
    /// Its side is closed; the rest is read and thrown away.
    Close,
}

impl Connection {
    async fn serve(mut self) {
        // Without it a piece would wait for the acknowledgement of the one before.
        let _set = self.stream.set_nodelay(true);
        while let Some(request) = self.request().await {
            let script = request.field("x-script").unwrap_or("ok").to_owned();
            if let After::Close = self.perform(&script, request).await {
                let _shut = self.stream.shutdown().await;
                let mut space = vec![0; 16 * 1024];
                let _over =
                    timeout(LINGER, async { while let Ok(1..) = self.stream.read(&mut space).await {} })
                        .await;
                return;
            }
        }
    }

    /// The head of the next request; `None` at the end and when it is none.
    async fn request(&mut self) -> Option<Request> {
        loop {
            match strict::head(&self.held) {
                Ok(Some((request, len))) => {
                    self.held.drain(..len);
                    self.record.lock().unwrap().heads += 1;
                    return Some(request);
                }
                Ok(None) => {}
                Err(wrong) => return self.violated(&wrong),
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads the body and notes the request as whole; `None` when it never is.
    async fn body(&mut self, mut request: Request) -> Option<Request> {
        loop {
            match strict::body(request.framing, &self.held) {
                Ok(Some((body, len))) => {
                    self.held.drain(..len);
                    if body.is_empty() {
                        // Nothing is nothing, in whatever framing.
                        request.framing = Framing::None;
                    }
                    request.body = body;
                    self.record.lock().unwrap().requests.push(request.clone());
                    return Some(request);
                }
                Ok(None) => {}
                Err(wrong) => return self.violated(&wrong),
            }
            if !self.more().await {
                return None;
            }
        }
    }

    fn violated<T>(&self, wrong: &str) -> Option<T> {
        let start = String::from_utf8_lossy(&self.held[..self.held.len().min(500)]).into_owned();
        self.record.lock().unwrap().violations.push(format!("{wrong}: {start:?}"));
        None
    }

    async fn more(&mut self) -> bool {
        let mut space = vec![0; 16 * 1024];
        let read = self.stream.read(&mut space).await.unwrap_or(0);
        self.held.extend_from_slice(&space[..read]);
        read > 0
    }

    /// A proxy that has closed need not hear it.
    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _gone = self.stream.write_all(bytes.as_ref()).await;
    }

    async fn perform(&mut self, script: &str, request: Request) -> After {
        let method = request.method.clone();
        let length = |extra: &str, body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nX-Method: {method}\r\n{extra}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        match script {
            "early" | "early-close" => {
                self.say(length("", "early")).await;
                if script == "early-close" {
                    return After::Close;
                }
                return self.body(request).await.map_or(After::Close, |_| After::Keep);
            }
            "drop-head" => return After::Close,
            _ => {}
        }
        if request.field("expect").is_some() {
            self.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        let Some(request) = self.body(request).await else { return After::Close };
        // What it got is in what it says, so that no answer can pass for another.
        let echo = format!("{} {} {}", request.method, request.target, sum(&request.body));
        let to_head = method == "HEAD";
        let body = if to_head { "" } else { &*echo };
        let framed = |status: &str, fields: &str, tail: &str| {
            format!(
                "HTTP/1.1 {status}\r\nX-Method: {method}\r\n{fields}\r\n{}",
                if to_head { "" } else { tail }
            )
        };
        let len = echo.len();
        let fine = |fields: &str| framed("200 OK", &format!("{fields}Content-Length: {len}\r\n"), body);
        let chunks = format!("3\r\nabc\r\n{len:X}\r\n{echo}\r\n");
        let coded = |fields: &str, tail: &str| framed("200 OK", fields, tail);
        const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
        let mut after = After::Keep;
        let answer = match script {
            "chunked" => coded(CHUNKED, &format!("{chunks}0\r\n\r\n")),
            "extensions" => coded(CHUNKED, "3;a=b\r\nabc\r\n0\r\n\r\n"),
            "trailers" => coded(CHUNKED, &format!("{chunks}0\r\nX-Sum: 1\r\n\r\n")),
            "bad-chunk" => coded(CHUNKED, "3\r\nabc\r\nzz\r\n"),
            "chunked-list" => coded("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
            "two-codings" => coded(&CHUNKED.repeat(2), "0\r\n\r\n"),
            "gzip" => coded("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            "identity" => coded("Transfer-Encoding: identity\r\n", body),
            "length-and-chunks" => {
                coded(&format!("Content-Length: 3\r\n{CHUNKED}"), &format!("{chunks}0\r\n\r\n"))
            }
            "pieces" => {
                self.say(coded(CHUNKED, "")).await;
                if !to_head {
                    for piece in ["1\r", "\na\r", "\n2\r\nb", "c\r\n", "0\r\n", "\r\n"] {
                        self.say(piece).await;
                        tokio::task::yield_now().await;
                    }
                }
                String::new()
            }
            "close" => {
                after = After::Close;
                framed("200 OK", "", body)
            }
            "closing" => {
                after = After::Close;
                fine("Connection: close\r\n")
            }
            // Says that it closes, and does not.
            "reuse-lie" => fine("Connection: close\r\n"),
            "old" | "old-close" => {
                after = After::Close;
                let fields =
                    if script == "old" { format!("Content-Length: {len}\r\n") } else { String::new() };
                framed("200 OK", &fields, body).replacen("HTTP/1.1", "HTTP/1.0", 1)
            }
            "hints" => format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{}", fine("")),
            "many-hints" => {
                for round in 0..8 {
                    self.say(format!("HTTP/1.1 103 Early Hints\r\nX-Round: {round}\r\n\r\n")).await;
                }
                fine("")
            }
            "continue" => format!("HTTP/1.1 100 Continue\r\n\r\n{}", fine("")),
            "hint-then-close" => {
                after = After::Close;
                "HTTP/1.1 103 Early Hints\r\n\r\n".to_owned()
            }
            "hint-with-length" => {
                format!("HTTP/1.1 103 Early Hints\r\nContent-Length: 4\r\n\r\n{}", fine(""))
            }
            "204" => framed("204 No Content", "", ""),
            "204-length" => framed("204 No Content", "Content-Length: 5\r\n", ""),
            "304" => framed("304 Not Modified", "ETag: x\r\n", ""),
            "304-length" => framed("304 Not Modified", "Content-Length: 99\r\n", ""),
            "205" => framed("205 Reset Content", "Content-Length: 0\r\n", ""),
            "404" | "500" | "503" | "299" | "999" => {
                framed(&format!("{script} X"), &format!("Content-Length: {len}\r\n"), body)
            }
            "no-reason" => framed("200", &format!("Content-Length: {len}\r\n"), body),
            "empty" => framed("200 OK", "Content-Length: 0\r\n", ""),
            "same-lengths" => fine(&format!("Content-Length: {len}\r\n")),
            "length-list" => framed("200 OK", &format!("Content-Length: {len}, {len}\r\n"), body),
            "two-lengths" => fine("Content-Length: 1\r\n"),
            "odd-length" => framed("200 OK", &format!("Content-Length: +{len}\r\n"), body),
            "cut-length" => {
                after = After::Close;
                framed("200 OK", &format!("Content-Length: {}\r\n", len + 50), body)
            }
            "cut-chunk" => {
                after = After::Close;
                coded(CHUNKED, &chunks)
            }
            "surplus" => format!("{}{}", fine(""), length("X-Smuggled: 1\r\n", "smuggled")),
            "surplus-204" => format!("{}body", framed("204 No Content", "", "")),
            "noise" => "this is not HTTP\r\n\r\n".to_owned(),
            "version-2" => fine("").replacen("HTTP/1.1", "HTTP/2.0", 1),
            "version-word" => fine("").replacen("HTTP/1.1", "http/1.1", 1),
            "status-word" => fine("").replacen("200", "abc", 1),
            "status-99" => fine("").replacen("200", "099", 1),
            "bare-feed" => fine("X: y\r\n").replacen("X: y\r\n", "X: y\n", 1),
            "bare-return" => fine("X: a\rb\r\n"),
            "folded" => fine("X: y\r\n folded\r\n"),
            "space-name" => fine("X : y\r\n"),
            "no-colon" => fine("nothing\r\n"),
            "nul" => fine("X: a\0b\r\n"),
            "high-bytes" => fine("X: \u{e9}\u{20ac}\r\n"),
            "empty-value" => fine("X:\r\nY: \t \r\n"),
            "nominated" => fine("Connection: X-Secret, keep-alive\r\nX-Secret: s\r\n"),
            "hop" => fine(
                "Keep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nTrailer: y\r\nTE: x\r\n",
            ),
            "cookies" => fine("Set-Cookie: a=1\r\nset-cookie: b=2\r\nDate: x\r\nServer: mine\r\n"),
            "switch" | "unasked-101" if request.field("upgrade").is_some() => return self.tunnel().await,
            "unasked-101" => framed("101 Switching Protocols", "Upgrade: x\r\nConnection: Upgrade\r\n", ""),
            "drop" => return After::Close,
            "many-fields" => fine(&"X-Many: y\r\n".repeat(70)),
            "too-many-fields" => fine(&"X-Many: y\r\n".repeat(300)),
            "large-field" => fine(&format!("X-Large: {}\r\n", "y".repeat(12_000))),
            "large" => framed("200 OK", "Content-Length: 300000\r\n", &"x".repeat(300_000)),
            _ => fine(""),
        };
        self.say(answer).await;
        after
    }

    /// Speaks another protocol until the last words of the case, and tells how much it was.
    async fn tunnel(&mut self) -> After {
        self.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        while !self.held.ends_with(crate::generator::LAST) {
            if !self.more().await {
                return After::Close;
            }
        }
        let heard = sum(&self.held);
        self.say(format!("tunnelled {heard}")).await;
        After::Close
    }
}

/// Length and content of a body in a few characters.
fn sum(body: &[u8]) -> String {
    let sum = body.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} bytes {sum:x}", body.len())
}
