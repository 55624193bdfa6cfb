//! The origins of a bench: many ports, one event loop, one fixed answer of any size. They share the generator's loop, so
//! that the two never wake each other up across a scheduler.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

/// Heads of requests are far smaller.
const READ_BYTES: usize = 16 << 10;

/// All origins.
#[derive(Debug)]
pub(crate) struct Origins {
    listeners: Vec<TcpListener>,
    connections: HashMap<usize, Serving>,
    next: usize,
    answer: Vec<u8>,
}

#[derive(Debug)]
struct Serving {
    stream: TcpStream,
    /// Bytes of a head that is not complete yet.
    held: Vec<u8>,
    /// Of the answers to be written.
    unsent: usize,
}

impl Origins {
    /// Opens this many ports. Tokens below `base` are left to others.
    pub(crate) fn open(
        registry: &Registry,
        count: usize,
        base: usize,
        body_bytes: usize,
    ) -> io::Result<Self> {
        let mut listeners = Vec::with_capacity(count);
        for at in 0..count {
            let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            registry.register(&mut listener, Token(base + at), Interest::READABLE)?;
            listeners.push(listener);
        }
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body_bytes}\r\n\r\n");
        let mut answer = head.into_bytes();
        answer.resize(answer.len() + body_bytes, b'x');
        Ok(Self { listeners, connections: HashMap::new(), next: base + count, answer })
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Handles one event of a token at or above the base.
    pub(crate) fn on_event(&mut self, registry: &Registry, token: usize, base: usize) {
        if token - base < self.listeners.len() {
            self.accept(registry, token - base);
        } else if let Some(serving) = self.connections.get_mut(&token)
            && serving.go_on(&self.answer).is_err()
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
                self.connections.insert(token, Serving { stream, held: vec![], unsent: 0 });
            }
        }
    }
}

impl Serving {
    /// Reads what is there and answers each head. An error or the peer's end ends the connection.
    fn go_on(&mut self, answer: &[u8]) -> io::Result<()> {
        self.write(answer)?;
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.unsent += self.heads(&buffer[..count]) * answer.len();
                    self.write(answer)?;
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

    /// How many heads end within these bytes. Requests of the benches have no bodies.
    fn heads(&mut self, bytes: &[u8]) -> usize {
        if self.held.is_empty() && bytes.ends_with(b"\r\n\r\n") && count_ends(bytes) == 1 {
            return 1;
        }
        self.held.extend_from_slice(bytes);
        let ends = count_ends(&self.held);
        if ends > 0 {
            let last = self.held.windows(4).rposition(|four| four == b"\r\n\r\n").unwrap_or_default();
            self.held.drain(..last + 4);
        }
        ends
    }

    fn write(&mut self, answer: &[u8]) -> io::Result<()> {
        while self.unsent > 0 {
            let from = (answer.len() - self.unsent % answer.len()) % answer.len();
            match self.stream.write(&answer[from..]) {
                Ok(count) => self.unsent -= count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn count_ends(bytes: &[u8]) -> usize {
    bytes.windows(4).filter(|four| *four == b"\r\n\r\n").count()
}
