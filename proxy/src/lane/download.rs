//! The answer on its way from an instance to the client: every byte is understood before it is passed on, and what lies
//! behind the end never is. Who is waited for, and for how long, is decided elsewhere.

use std::io::{self, IoSlice, Write as _};
use std::task::{Context, Poll, ready};

use super::pool::Upstream;
use crate::answer::Framing;
use crate::buffers::Buffer;
use crate::chunks::{Chunks, Stretch};
use crate::context::Cause;
use crate::wire::Wire;

/// Up to this size a piece of a body joins what is written before it, which costs less than sending two.
const JOINED_BYTES_MAX: usize = 4096;

/// One answer.
#[derive(Debug)]
pub(super) struct Download {
    /// What the instance sent; never empty.
    buffer: Option<Buffer>,
    left: Left,
    /// What the client gets next: this from `written` on, so much of the buffer, and what comes behind it.
    out: Vec<u8>,
    written: usize,
    ready: usize,
    after: &'static [u8],
    /// How many bytes the client got.
    passed: u64,
}

/// What is to come of the body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Left {
    Nothing,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    /// The instance broke it.
    Broken(Cause),
}

impl Download {
    /// Before the answer.
    pub(super) fn new() -> Self {
        Self {
            buffer: None,
            left: Left::Nothing,
            out: Vec::new(),
            written: 0,
            ready: 0,
            after: b"",
            passed: 0,
        }
    }

    /// What came and was not looked at.
    pub(super) fn buffer(&mut self) -> Option<&mut Buffer> {
        self.buffer.as_mut()
    }

    /// Forgets the first bytes of what came.
    pub(super) fn consume(&mut self, len: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(len);
            if buffer.is_empty() {
                self.buffer = None;
            }
        }
    }

    /// From now on the body is passed on, behind `head`.
    pub(super) fn begin(&mut self, head: Vec<u8>, framing: Framing) {
        self.out = head;
        self.left = match framing {
            Framing::None | Framing::Length(0) => Left::Nothing,
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunked(Chunks::new()),
            Framing::UntilClose => Left::UntilClose,
        };
    }

    /// What is to come of the body.
    pub(super) fn left(&self) -> Left {
        self.left
    }

    /// How many bytes the client got.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Nothing that the instance sent lies behind the end.
    pub(super) fn has_no_surplus(&self) -> bool {
        self.buffer.is_none()
    }

    /// Reads more of what the instance sends; `None` when it broke off, 0 when it ended.
    pub(super) fn poll_more(&mut self, upstream: &mut Upstream, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let mut buffer = self.buffer.take().unwrap_or_else(Buffer::take);
        let read = buffer.poll_fill(|space| upstream.poll_read(cx, space));
        // Whoever waits holds no memory.
        self.buffer = (!buffer.is_empty()).then_some(buffer);
        read.map(Result::ok)
    }

    /// The instance has ended the connection; whether that ends the body.
    pub(super) fn end(&mut self) -> bool {
        let ends = matches!(self.left, Left::UntilClose);
        if ends {
            self.out.extend_from_slice(b"0\r\n\r\n");
            self.left = Left::Nothing;
        }
        ends
    }

    /// Passes on what may be passed on; whether there was anything.
    pub(super) fn poll_pass(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // The head of an answer and the first piece of its body leave together.
        while self.ready == 0 && self.after.is_empty() && self.next_piece() {}
        if self.out.is_empty() && self.ready == 0 && self.after.is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.poll_out(wire, cx).map_ok(|()| true)
    }

    /// Finds what may go to the client next; whether it is worth asking again where nothing was found.
    fn next_piece(&mut self) -> bool {
        let Some(buffer) = &self.buffer else { return false };
        let there = buffer.filled();
        match &mut self.left {
            Left::Nothing | Left::Broken(_) => return false,
            Left::Length(left) => {
                self.ready = usize::try_from(*left).unwrap_or(usize::MAX).min(there.len());
                *left -= self.ready as u64;
                if *left == 0 {
                    self.left = Left::Nothing;
                }
            }
            Left::Chunked(chunks) => {
                let stretch = chunks.next(there);
                if chunks.is_done() {
                    self.left = Left::Nothing;
                }
                match stretch {
                    Ok(Stretch::Kept(len)) => self.ready = len,
                    Ok(Stretch::Dropped(len)) => self.consume(len),
                    // What came before it still goes to the client.
                    Err(_) => self.left = Left::Broken(Cause::Unintelligible),
                }
            }
            Left::UntilClose => {
                self.ready = there.len();
                write!(self.out, "{:x}\r\n", there.len()).expect("memory takes everything");
                self.after = b"\r\n";
            }
        }
        true
    }

    fn poll_out(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.out.is_empty()
            && self.written == 0
            && (1..=JOINED_BYTES_MAX).contains(&self.ready)
            && let Some(buffer) = &self.buffer
        {
            self.out.extend_from_slice(&buffer.filled()[..self.ready]);
            self.out.extend_from_slice(std::mem::take(&mut self.after));
            let joined = std::mem::take(&mut self.ready);
            self.consume(joined);
        }
        loop {
            let body = self.buffer.as_ref().map_or(&[][..], |buffer| &buffer.filled()[..self.ready]);
            let parts = [&self.out[self.written..], body, self.after];
            let mut slices = [IoSlice::new(&[]); 3];
            let mut count = 0;
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                slices[count] = IoSlice::new(part);
                count += 1;
            }
            if count == 0 {
                break;
            }
            let sent = ready!(wire.poll_send(cx, &slices[..count]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent(sent);
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes note that the client got so many more bytes.
    fn sent(&mut self, sent: usize) {
        self.passed += sent as u64;
        let of_out = sent.min(self.out.len() - self.written);
        let of_body = (sent - of_out).min(self.ready);
        self.written += of_out;
        self.ready -= of_body;
        self.consume(of_body);
        self.after = &self.after[sent - of_out - of_body..];
    }
}
