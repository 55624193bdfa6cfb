//! A client that sends exactly the bytes it is told to and shows exactly what came back. It follows nothing, retries
//! nothing and pools nothing.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::clock;
use crate::message::{Framing, Head, Wire, read_body, read_chunk};

/// How long an answer may take, and how long any single read may.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// A request to be sent on a connection of its own.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

/// `GET target`.
pub fn get(target: impl Into<String>) -> Request {
    Request::new("GET", target)
}

/// `DELETE target`.
pub fn delete(target: impl Into<String>) -> Request {
    Request::new("DELETE", target)
}

/// `POST target` with a JSON body.
pub fn post(target: impl Into<String>, json: &Value) -> Request {
    Request::new("POST", target).json(json)
}

/// `PUT target` with a JSON body.
pub fn put(target: impl Into<String>, json: &Value) -> Request {
    Request::new("PUT", target).json(json)
}

impl Request {
    /// Any method and target; both go out as given.
    pub fn new(method: impl Into<String>, target: impl Into<String>) -> Self {
        Self { method: method.into(), target: target.into(), fields: vec![], body: vec![] }
    }

    /// One more field.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// A bearer token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    /// A body with its length; the content type is the caller's.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A JSON body with its content type.
    #[must_use]
    pub fn json(self, json: &Value) -> Self {
        self.header("Content-Type", "application/json").body(json.to_string())
    }

    /// The bytes of the request. `Host` is added unless given; `Content-Length` when there is a body.
    pub fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let has = |name: &str| self.fields.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !has("host") {
            head.push_str(&format!("Host: {address}\r\n"));
        }
        if !self.body.is_empty() && !has("content-length") && !has("transfer-encoding") {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it on a fresh connection and reads the answer.
    pub fn send(&self, address: SocketAddr) -> io::Result<Answer> {
        let started = clock::now();
        let mut connection = Connection::open(address)?;
        connection.send(self)?;
        let mut answer = connection.answer(&self.method)?;
        answer.took = started.elapsed();
        Ok(answer)
    }

    /// The same where no answer would be the test's end anyway.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn call(&self, address: SocketAddr) -> Answer {
        self.send(address)
            .unwrap_or_else(|error| panic!("{} {} at {address}: {error}", self.method, self.target))
    }
}

/// A complete answer.
#[derive(Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Status line and fields.
    pub head: Head,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// From the first byte sent to the last byte read.
    pub took: Duration,
}

impl Answer {
    /// The first value of a field, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.head.field(name).unwrap_or("")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The origin's label in an echo (see [`crate::origin::echo`]).
    #[track_caller]
    pub fn by(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["by"].as_str().unwrap_or_default().to_owned()
    }

    /// Holds the answer to a status.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Holds the answer to a refusal by the proxy itself: status, envelope and `X-A8-Error` (spec 3.7).
    #[track_caller]
    pub fn expect_refusal(&self, status: u16, id: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("X-A8-Error"), id, "{self:?}");
        assert!(self.header("Content-Type").starts_with("application/json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["error"], id, "{self:?}");
        assert!(body["description"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = self.text().chars().take(400).collect();
        write!(f, "{} {:?} {body:?} after {:?}", self.head.start, self.head.fields, self.took)
    }
}

/// One connection under the test's full control.
#[derive(Debug)]
pub struct Connection {
    /// For reading; writing goes through [`Connection::write`].
    pub wire: Wire,
    address: SocketAddr,
}

impl Connection {
    /// Connects. Every read is bounded by [`ANSWER_PATIENCE`].
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
        Ok(Self { wire: Wire::new(stream), address })
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.get_mut().write_all(bytes.as_ref())
    }

    /// Writes a request.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.write(request.bytes(self.address))
    }

    /// No more bytes will come from here.
    pub fn finish_writing(&self) -> io::Result<()> {
        self.wire.get_ref().shutdown(Shutdown::Write)
    }

    /// Reads a head; interim answers (1xx other than 101) are skipped.
    pub fn head(&mut self) -> io::Result<Head> {
        loop {
            let head = self.any_head()?;
            let status = status_of(&head)?;
            if status / 100 != 1 || status == 101 {
                return Ok(head);
            }
        }
    }

    /// Reads a head, interim answers too.
    pub fn any_head(&mut self) -> io::Result<Head> {
        Head::read(&mut self.wire)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionAborted, "closed without an answer"))
    }

    /// Reads a complete answer to a request with this method.
    pub fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let started = clock::now();
        let head = self.head()?;
        let status = status_of(&head)?;
        let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
        let framing = if bodiless { Framing::Length(0) } else { head.framing(Framing::Close) };
        let body = read_body(&mut self.wire, framing)?;
        Ok(Answer { status, head, body, took: started.elapsed() })
    }

    /// Reads one piece of a chunked body; empty at its end.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = Vec::new();
        read_chunk(&mut self.wire, &mut piece)?;
        Ok(piece)
    }

    /// Reads exactly this many bytes.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.wire.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Whether the peer closes (or resets) without another byte, within this time.
    pub fn closes_within(&mut self, patience: Duration) -> bool {
        let _ = self.wire.get_ref().set_read_timeout(Some(patience));
        let closed = match self.wire.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        };
        let _ = self.wire.get_ref().set_read_timeout(Some(ANSWER_PATIENCE));
        closed
    }
}

fn status_of(head: &Head) -> io::Result<u16> {
    let word = head.start.split(' ').nth(1).and_then(|word| word.parse().ok());
    word.ok_or_else(|| io::Error::other(format!("{:?} is no status line", head.start)))
}
