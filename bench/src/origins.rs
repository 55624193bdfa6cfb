//! The origins of a bench: many ports, one event loop, a fixed answer per size; the size is the last segment of the path.
//! They share the generator's loop, so that the two never wake each other up across a scheduler.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use crate::body;

/// Heads of requests are far smaller.
const READ_BYTES: usize = 16 << 10;
/// What every proxy adds to a request.
const ADDED: [&str; 3] = ["x-request-id:", "x-forwarded-for:", "x-forwarded-proto:"];

/// All origins.
#[derive(Debug)]
pub(crate) struct Origins {
    listeners: Vec<TcpListener>,
    connections: HashMap<usize, Serving>,
    next: usize,
    answers: Answers,
    inspected: Option<Seen>,
}

/// What was seen of requests while they were inspected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// How many.
    pub(crate) requests: u64,
    /// Those without a field that every proxy is to add.
    pub(crate) missing: u64,
    /// The first of those.
    pub(crate) example: String,
}

/// Whole answers by the size of their body; the last is for a target that has none.
#[derive(Debug)]
struct Answers(Vec<(usize, Vec<u8>)>);

#[derive(Debug)]
struct Serving {
    stream: TcpStream,
    /// Bytes of a head that is not complete yet.
    held: Vec<u8>,
    /// Which answers are to be written.
    owed: VecDeque<usize>,
    /// Of the first of them.
    written: usize,
}

impl Origins {
    /// Opens this many ports. Tokens below `base` are left to others.
    pub(crate) fn open(registry: &Registry, count: usize, base: usize, sizes: &[usize]) -> io::Result<Self> {
        let mut listeners = Vec::with_capacity(count);
        for at in 0..count {
            let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            registry.register(&mut listener, Token(base + at), Interest::READABLE)?;
            listeners.push(listener);
        }
        let answers = Answers::of(sizes);
        Ok(Self { listeners, connections: HashMap::new(), next: base + count, answers, inspected: None })
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// From now on heads are looked into.
    pub(crate) fn inspect(&mut self) {
        self.inspected = Some(Seen::default());
    }

    /// What was seen; nothing is looked into any more.
    pub(crate) fn seen(&mut self) -> Seen {
        self.inspected.take().unwrap_or_default()
    }

    /// Handles one event of a token at or above the base.
    pub(crate) fn on_event(&mut self, registry: &Registry, token: usize, base: usize) {
        if token - base < self.listeners.len() {
            self.accept(registry, token - base);
        } else if let Some(serving) = self.connections.get_mut(&token)
            && serving.go_on(&self.answers, &mut self.inspected).is_err()
        {
            self.connections.remove(&token);
        }
    }

    fn accept(&mut self, registry: &Registry, at: usize) {
        // Would block, or the peer left before it was accepted: either way there is nothing to serve.
        while let Ok((mut stream, _)) = self.listeners[at].accept() {
            let _ = stream.set_nodelay(true);
            let token = self.next;
            self.next += 1;
            if registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE).is_ok() {
                let serving = Serving { stream, held: vec![], owed: VecDeque::new(), written: 0 };
                self.connections.insert(token, serving);
            }
        }
    }
}

impl Answers {
    fn of(sizes: &[usize]) -> Self {
        let answer = |status: &str, bytes: usize| {
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {bytes}\r\n\r\n");
            (bytes, [head.into_bytes(), body::of(bytes)].concat())
        };
        Self(sizes.iter().map(|bytes| answer("200 OK", *bytes)).chain([answer("404 Not Found", 0)]).collect())
    }

    /// Which answer a head asks for.
    fn asked(&self, head: &[u8]) -> usize {
        let mut words = head.split(|byte| *byte == b' ');
        let target = words.nth(1).and_then(|target| std::str::from_utf8(target).ok()).unwrap_or_default();
        let bytes = target.rsplit('/').next().and_then(|segment| segment.parse().ok());
        let sizes = &self.0[..self.0.len() - 1];
        sizes.iter().position(|(size, _)| Some(*size) == bytes).unwrap_or(sizes.len())
    }
}

impl Seen {
    fn look(&mut self, head: &[u8]) {
        self.requests += 1;
        let text = String::from_utf8_lossy(head);
        let lower = text.to_lowercase();
        if !ADDED.iter().all(|name| lower.contains(&format!("\n{name}"))) {
            self.missing += 1;
            if self.example.is_empty() {
                self.example = text.into_owned();
            }
        }
    }
}

impl Serving {
    /// Reads what is there and answers each head. An error or the peer's end ends the connection.
    fn go_on(&mut self, answers: &Answers, inspected: &mut Option<Seen>) -> io::Result<()> {
        self.write(answers)?;
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.take(&buffer[..count], answers, inspected);
                    self.write(answers)?;
                    // A short read has emptied the socket: no second call is needed to see that.
                    if count < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes an answer for each head that ends within these bytes. Requests of the benches have no bodies.
    fn take(&mut self, bytes: &[u8], answers: &Answers, inspected: &mut Option<Seen>) {
        let mut owe = |head: &[u8], owed: &mut VecDeque<usize>| {
            if let Some(seen) = inspected {
                seen.look(head);
            }
            owed.push_back(answers.asked(head));
        };
        if self.held.is_empty() && end_of_head(bytes) == Some(bytes.len()) {
            return owe(bytes, &mut self.owed);
        }
        self.held.extend_from_slice(bytes);
        while let Some(end) = end_of_head(&self.held) {
            owe(&self.held[..end], &mut self.owed);
            self.held.drain(..end);
        }
    }

    fn write(&mut self, answers: &Answers) -> io::Result<()> {
        while let Some(which) = self.owed.front() {
            let answer = &answers.0[*which].1;
            match self.stream.write(&answer[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.written == answer.len() {
                self.owed.pop_front();
                self.written = 0;
            }
        }
        Ok(())
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_segment_is_the_size_and_another_one_is_not_found() {
        let answers = Answers::of(&[1_024, 65_536]);
        for (target, which) in [("/s7/65536", 1), ("/1024", 0), ("/s7/512", 2), ("/", 2), ("*", 2)] {
            let head = format!("GET {target} HTTP/1.1\r\n\r\n");
            assert_eq!(answers.asked(head.as_bytes()), which, "{target}");
        }
        assert!(answers.0[2].1.starts_with(b"HTTP/1.1 404 "));
    }

    #[test]
    fn a_request_lacks_what_no_proxy_added() {
        let mut seen = Seen::default();
        seen.look(
            b"GET / HTTP/1.1\r\nX-Request-Id: 1\r\nx-forwarded-for: c\r\nX-Forwarded-Proto: http\r\n\r\n",
        );
        assert_eq!((seen.requests, seen.missing), (1, 0));
        seen.look(b"GET / HTTP/1.1\r\nX-Request-Id: 1\r\nX-Forwarded-Proto: x-forwarded-for: c\r\n\r\n");
        assert_eq!((seen.requests, seen.missing), (2, 1));
    }
}
