//! One HTTP/2 connection of the load generator with several requests under way, as little of the protocol as that takes:
//! fixed request blocks, status, length and content of every answer checked. It decodes no header beyond the status, and
//! whatever else a server may do counts as a broken connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::body;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
const WINDOW_MAX: u32 = (1 << 31) - 1;
const WINDOW_FIRST: u32 = 65_535;
/// So much of the connection's window is used before it is opened again.
const WINDOW_STEP: u32 = 1 << 29;
/// Frames are no longer than this unless we allow it.
const FRAME_BYTES_MAX: usize = 1 << 14;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Padding and priorities: nobody sends them here.
const UNEXPECTED: u8 = 0x28;

/// A request under way.
#[derive(Debug)]
struct Stream {
    id: u32,
    due: Instant,
    is_good: bool,
    seen: usize,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    streams: Vec<Stream>,
    next_id: u32,
    /// Read and not yet a whole frame.
    held: Vec<u8>,
    unsent: Vec<u8>,
    /// Of the connection's window since it was opened last.
    used: u32,
    broken: bool,
}

/// The header block of a request, without a reference to anything sent before.
pub(crate) fn request(target: &str) -> Vec<u8> {
    let text = |name: &[u8], value: &str| {
        let length = u8::try_from(value.len()).unwrap_or(u8::MAX).min(0x7e);
        [name, &[length], &value.as_bytes()[..usize::from(length)]].concat()
    };
    // `:method: GET` and `:scheme: http`, then `:path`, `:authority` and `user-agent` as literals of the static table's names.
    [vec![0x82, 0x86], text(&[0x04], target), text(&[0x01], "bench"), text(&[0x0f, 0x2b], "bench")].concat()
}

impl Connection {
    /// Connects and says what every client must say first.
    pub(crate) fn open(
        registry: &Registry,
        to: SocketAddr,
        token: usize,
        patience: Duration,
    ) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect_timeout(&to, patience)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        stream.set_nodelay(true)?;
        registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        let mut unsent = PREFACE.to_vec();
        // No pushes; every stream's window as large as can be.
        let settings = [&[0, 2, 0, 0, 0, 0, 0, 4][..], &WINDOW_MAX.to_be_bytes()].concat();
        frame(&mut unsent, SETTINGS, 0, 0, &settings);
        frame(&mut unsent, WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - WINDOW_FIRST).to_be_bytes());
        Ok(Self { stream, streams: vec![], next_id: 1, held: vec![], unsent, used: 0, broken: false })
    }

    /// How many requests are under way.
    pub(crate) fn busy(&self) -> usize {
        self.streams.len()
    }

    /// Whether it is of no use any more; requests under way have no answer then.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Queues a request; [`Connection::flush`] sends it.
    pub(crate) fn send(&mut self, request: &[u8], due: Instant) {
        let id = self.next_id;
        self.next_id += 2;
        frame(&mut self.unsent, HEADERS, END_STREAM | END_HEADERS, id, request);
        self.streams.push(Stream { id, due, is_good: false, seen: 0 });
    }

    /// Sends what is queued, as far as the socket takes it; the rest when it takes more.
    pub(crate) fn flush(&mut self) {
        while !self.unsent.is_empty() && !self.broken {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.broken = true,
            }
        }
    }

    /// Reads what is there, and adds what came of each request that is over: when it was due, or what is wrong.
    pub(crate) fn receive(
        &mut self,
        buffer: &mut [u8],
        expected: usize,
        verdicts: &mut Vec<Result<Instant, String>>,
    ) {
        while !self.broken {
            match self.stream.read(buffer) {
                Ok(count) if count > 0 => {
                    self.take(&buffer[..count], expected, verdicts);
                    if count < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => self.broken = true,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], expected: usize, verdicts: &mut Vec<Result<Instant, String>>) {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let mut rest = &held[..];
        while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some((payload, next)) = after.split_at_checked(length) else {
                self.broken |= length > FRAME_BYTES_MAX;
                break;
            };
            let id = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            match self.on_frame(head[3], head[4], id, payload, expected) {
                Ok(None) => {}
                Ok(Some(verdict)) => verdicts.push(verdict),
                Err(Unexpected) => {
                    self.broken = true;
                    return;
                }
            }
            rest = next;
        }
        let used = held.len() - rest.len();
        held.drain(..used);
        self.held = held;
    }

    fn on_frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: &[u8],
        expected: usize,
    ) -> Result<Option<Result<Instant, String>>, Unexpected> {
        match kind {
            DATA | HEADERS if flags & UNEXPECTED == 0 => {}
            SETTINGS | PING => {
                let echo = if kind == PING { payload } else { &[] };
                if flags & ACK == 0 {
                    frame(&mut self.unsent, kind, ACK, 0, echo);
                }
                return Ok(None);
            }
            WINDOW_UPDATE => return Ok(None),
            _ => return Err(Unexpected),
        }
        let at = self.streams.iter().position(|stream| stream.id == id).ok_or(Unexpected)?;
        let stream = &mut self.streams[at];
        if kind == HEADERS {
            if flags & END_HEADERS == 0 {
                return Err(Unexpected);
            }
            stream.is_good = is_200(payload);
        } else {
            stream.is_good &= body::stands_at(payload, stream.seen);
            stream.seen += payload.len();
            self.used += payload.len() as u32;
        }
        if self.used >= WINDOW_STEP {
            frame(&mut self.unsent, WINDOW_UPDATE, 0, 0, &self.used.to_be_bytes());
            self.used = 0;
        }
        if flags & END_STREAM == 0 {
            return Ok(None);
        }
        let Stream { due, is_good, seen, .. } = self.streams.swap_remove(at);
        let wrong = || format!("another status or other bytes than expected, with {seen} bytes of body");
        Ok(Some(if is_good && seen == expected { Ok(due) } else { Err(wrong()) }))
    }
}

/// A frame that has no place here.
struct Unexpected;

/// Whether a header block begins with status 200 as the static table has it, which all servers use; the size of the
/// dynamic table may be said before it.
fn is_200(block: &[u8]) -> bool {
    block.iter().find(|byte| **byte & 0xe0 != 0x20) == Some(&0x88)
}

fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    // Ours are far below the limit.
    to.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&id.to_be_bytes());
    to.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::clock;

    /// What a connection with two requests makes of these bytes, cut in two at `cut`.
    fn verdicts(bytes: &[u8], cut: usize) -> (Vec<bool>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let poll = mio::Poll::new().unwrap();
        let to = listener.local_addr().unwrap();
        let mut connection = Connection::open(poll.registry(), to, 0, Duration::from_secs(5)).unwrap();
        (0..2).for_each(|_| connection.send(&request("/a/300"), clock::now()));
        let mut verdicts = Vec::new();
        connection.take(&bytes[..cut], 300, &mut verdicts);
        connection.take(&bytes[cut..], 300, &mut verdicts);
        (verdicts.iter().map(Result::is_ok).collect(), connection.is_broken())
    }

    fn answer(id: u32, status: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(&mut bytes, HEADERS, END_HEADERS, id, &[0x20, status, 0x40]);
        frame(&mut bytes, DATA, 0, id, &body[..100]);
        frame(&mut bytes, DATA, END_STREAM, id, &body[100..]);
        bytes
    }

    #[test]
    fn answers_are_good_in_any_order_and_however_they_are_cut() {
        let mut bytes = Vec::new();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        bytes.extend(answer(3, 0x88, &body::of(300)));
        bytes.extend(answer(1, 0x88, &body::of(300)));
        for cut in 0..bytes.len() {
            assert_eq!(verdicts(&bytes, cut), (vec![true, true], false), "{cut}");
        }
    }

    #[test]
    fn another_status_length_or_content_is_wrong() {
        for bytes in [
            answer(1, 0x8d, &body::of(300)),
            answer(1, 0x88, &body::of(299)),
            answer(1, 0x88, &body::of(301)[1..]),
        ] {
            assert_eq!(verdicts(&bytes, 0), (vec![false], false));
        }
    }

    #[test]
    fn a_stream_that_nobody_opened_or_a_goodbye_breaks_the_connection() {
        let mut goodbye = Vec::new();
        frame(&mut goodbye, 7, 0, 0, &[0; 8]);
        for bytes in [answer(5, 0x88, &body::of(300)), goodbye] {
            assert_eq!(verdicts(&bytes, 0), (vec![], true));
        }
    }
}
