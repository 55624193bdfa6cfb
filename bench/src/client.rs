//! One connection of the load generator: sends a request at a time and checks the answer's status, length and content as
//! it comes. It neither decides when to send nor counts.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::body;

/// How much of a wrong answer is shown.
const SHOWN_BYTES: usize = 60;

/// A connection with at most one request under way.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// When the request under way was due; `None` while idle.
    due: Option<Instant>,
    /// An answer's head as far as it is there; empty once it is complete.
    head: Vec<u8>,
    body: Option<Body>,
    broken: bool,
}

/// A body on its way.
#[derive(Debug)]
struct Body {
    /// The first line of the head.
    status: String,
    is_good: bool,
    bytes: usize,
    seen: usize,
}

impl Client {
    /// Connects. An error is one of the bench, not of a request: the server is not there.
    pub(crate) fn connect(
        registry: &Registry,
        to: SocketAddr,
        token: usize,
        patience: Duration,
    ) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect_timeout(&to, patience)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        stream.set_nodelay(true)?;
        registry.register(&mut stream, Token(token), Interest::READABLE)?;
        Ok(Self { stream, due: None, head: Vec::new(), body: None, broken: false })
    }

    /// Whether it can take a request.
    pub(crate) fn is_free(&self) -> bool {
        self.due.is_none() && !self.broken
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.due.is_some()
    }

    /// Whether the connection is of no use any more; a request under way has no answer then.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Sends a request that was due at this moment.
    pub(crate) fn send(&mut self, request: &[u8], due: Instant) {
        self.due = Some(due);
        // A request is far smaller than an empty socket's buffer; anything else means that the peer is gone.
        self.broken |= !matches!(self.stream.write(request), Ok(count) if count == request.len());
    }

    /// Reads what is there. When that completes the answer: when its request was due, or what is wrong with it.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], expected: usize) -> Option<Result<Instant, String>> {
        loop {
            match self.stream.read(buffer) {
                Ok(count) if count > 0 => {
                    if let Some(verdict) = self.take(&buffer[..count], expected) {
                        self.broken |= verdict.is_err();
                        return Some(verdict);
                    }
                    // A short read has emptied the socket: no second call is needed to see that.
                    if count < buffer.len() {
                        return None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                _ => {
                    self.broken = true;
                    return None;
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8], expected: usize) -> Option<Result<Instant, String>> {
        let Some(due) = self.due else { return Some(Err("an answer that nobody asked for".to_owned())) };
        let answered = if self.body.is_some() {
            self.go_on(bytes)
        } else if self.head.is_empty()
            && let Some(end) = end_of_head(bytes)
        {
            self.body = Some(Body::after(&bytes[..end], expected));
            self.go_on(&bytes[end..])
        } else {
            self.head.extend_from_slice(bytes);
            let end = end_of_head(&self.head)?;
            let rest = self.head.split_off(end);
            self.body = Some(Body::after(&std::mem::take(&mut self.head), expected));
            self.go_on(&rest)
        }?;
        self.due = None;
        Some(answered.map(|()| due))
    }

    fn go_on(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        let body = self.body.as_mut()?;
        let is_sound = body.is_good && body::stands_at(bytes, body.seen);
        body.seen += bytes.len();
        if is_sound && body.seen < body.bytes {
            return None;
        }
        let Body { status, bytes, seen, is_good } = self.body.take()?;
        if is_sound && seen == bytes {
            return Some(Ok(()));
        }
        let wrong = if is_good { "wrong bytes" } else { "a wrong head" };
        Some(Err(format!("{wrong}: {status:?} with {seen} of {bytes} bytes of body")))
    }
}

impl Body {
    fn after(head: &[u8], expected: usize) -> Self {
        let bytes = length_in(head);
        let is_good = head.starts_with(b"HTTP/1.1 200 ") && bytes == expected;
        let status = if is_good {
            String::new()
        } else {
            String::from_utf8_lossy(&head[..head.len().min(SHOWN_BYTES)]).into_owned()
        };
        Self { status, is_good, bytes, seen: 0 }
    }
}

fn end_of_head(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The length that a complete head gives. One without a length is taken as having no body, and then counts as wrong: no
/// server of the benches has reason to use another framing.
fn length_in(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    let line = head
        .split(|byte| *byte == b'\n')
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME));
    let digits = line.and_then(|line| std::str::from_utf8(&line[NAME.len()..]).ok());
    digits.and_then(|digits| digits.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::clock;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// What a client makes of an answer that comes in these pieces, when it expects this length.
    fn verdict(pieces: &[&[u8]], expected: usize) -> Option<Result<(), String>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let poll = mio::Poll::new().unwrap();
        let to = listener.local_addr().unwrap();
        let mut client = Client::connect(poll.registry(), to, 0, PATIENCE).unwrap();
        client.send(b"GET / HTTP/1.1\r\n\r\n", clock::now());
        let mut last = None;
        for piece in pieces {
            assert!(last.is_none(), "answered before the last piece");
            last = client.take(piece, expected);
        }
        last.map(|verdict| verdict.map(|_| ()))
    }

    #[test]
    fn an_answer_is_good_however_it_is_cut() {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  300\r\n\r\n".to_vec();
        answer.extend(body::of(300));
        for cut in 1..answer.len() {
            assert_eq!(verdict(&[&answer[..cut], &answer[cut..]], 300), Some(Ok(())), "{cut}");
        }
        assert_eq!(verdict(&[&answer[..200]], 300), None);
    }

    #[test]
    fn another_status_length_or_content_is_wrong() {
        let with = |head: &[u8], body: Vec<u8>| [head, &body].concat();
        let mut shifted = body::of(9);
        shifted.remove(0);
        for (answer, part) in [
            (with(b"HTTP/1.1 503 No\r\nContent-Length: 8\r\n\r\n", body::of(8)), "wrong head"),
            (with(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", body::of(7)), "wrong head"),
            (with(b"HTTP/1.1 200 OK\r\n\r\n", vec![]), "wrong head"),
            (with(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n", shifted), "wrong bytes"),
            (with(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n", body::of(9)), "wrong bytes"),
        ] {
            let said = verdict(&[&answer], 8).unwrap().unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }
}
