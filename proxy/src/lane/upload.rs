//! The body of a request on its way from the client to an instance: a short one is kept, so that it can be sent again; of
//! a long one there is never more than one buffer. When it is sent, and to whom, is decided elsewhere.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::pool::Upstream;
use crate::buffers::Buffer;
use crate::clock;
use crate::context::{self, REPLAY_BYTES_MAX, Replay};
use crate::wire::{Complaint, Wire, complaint};

/// How much of a chunked body is kept, its framing included.
const KEPT_FRAMED_BYTES_MAX: usize = 128 * 1024;
/// A head and what is kept of the body leave in one piece up to this size.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// One request's body.
#[derive(Debug)]
pub(super) struct Upload {
    /// Everything that came so far, until it is too much.
    kept: Vec<u8>,
    /// How much of it the current attempt has sent.
    sent: usize,
    /// Not everything that came is still there.
    lost: bool,
    /// Came after what is kept.
    buffer: Option<Buffer>,
    /// What was written last waits in the connection itself.
    flushing: bool,
    /// The client has sent all of it.
    ended: bool,
    came: Instant,
}

/// How a client broke its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// It has gone.
    Gone,
    /// Its body breaks the framing.
    Malformed,
}

/// Why a body cannot be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stuck {
    /// The instance takes no more; it may have answered.
    Upstream,
    Client(Broken),
}

impl From<Broken> for Stuck {
    fn from(broken: Broken) -> Self {
        Self::Client(broken)
    }
}

impl Upload {
    /// The body of a request that came `now`; `ended`: there is none.
    pub(super) fn new(ended: bool, now: Instant) -> Self {
        Self { kept: Vec::new(), sent: 0, lost: false, buffer: None, flushing: false, ended, came: now }
    }

    /// The next attempt begins with the first byte again.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.buffer = None;
        self.flushing = false;
    }

    /// No attempt will follow the current one: nothing needs to be kept any longer than until it is sent.
    pub(super) fn settle(&mut self) {
        self.lost = true;
        if self.sent == self.kept.len() {
            (self.kept, self.sent) = (Vec::new(), 0);
        }
    }

    /// All of it has come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Something has come that the instance has not taken.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.kept.len() || self.buffer.is_some() || self.flushing
    }

    /// What of it has come before anything was sent.
    pub(super) fn so_far(&self) -> &[u8] {
        &self.kept
    }

    /// When some of it came last.
    pub(super) fn came(&self) -> Instant {
        self.came
    }

    pub(super) fn replay<'r>(&self, method: &'r str, idempotent: bool) -> Replay<'r> {
        Replay { method, body: !self.lost, idempotent }
    }

    /// Reads a short body ahead of being sent: the only way to see past it. A long one would not be kept as a whole, and
    /// could then not be sent again.
    pub(super) fn poll_ahead(
        &mut self,
        wire: &mut Wire,
        law: &mut context::Context,
        cx: &mut Context<'_>,
    ) -> Poll<Broken> {
        let whole = wire.left_of_body().map(|left| left.saturating_add(wire.body_read()));
        while !self.ended && !self.lost && whole.is_some_and(|whole| whole <= REPLAY_BYTES_MAX) {
            if let Err(broken) = ready!(self.poll_more(wire, law, cx)) {
                return Poll::Ready(broken);
            }
        }
        Poll::Pending
    }

    /// Adds what is already here to a head that was not sent yet.
    pub(super) fn join(
        &mut self,
        head: &mut Vec<u8>,
        wire: &mut Wire,
        law: &mut context::Context,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        while !self.ended && self.buffer.is_none() && !wire.held().is_empty() {
            // What is held is there at once.
            let Poll::Ready(more) = self.poll_more(wire, law, cx) else { break };
            more?;
        }
        let rest = &self.kept[self.sent..];
        if !rest.is_empty() && rest.len() <= JOINED_BYTES_MAX {
            head.extend_from_slice(rest);
            self.sent = self.kept.len();
        }
        if self.sent == self.kept.len()
            && let Some(buffer) = self.buffer.take_if(|buffer| buffer.filled().len() <= JOINED_BYTES_MAX)
        {
            head.extend_from_slice(buffer.filled());
        }
        Ok(())
    }

    /// Sends what there is, and what comes; ready when all of it is sent.
    pub(super) fn poll_send(
        &mut self,
        upstream: &mut Upstream,
        wire: &mut Wire,
        law: &mut context::Context,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>> {
        let refused = |_: io::Error| Stuck::Upstream;
        loop {
            if let Some(rest) = self.kept.get(self.sent..).filter(|rest| !rest.is_empty()) {
                self.sent += ready!(poll_some(upstream, cx, rest))?;
                continue;
            }
            if let Some(buffer) = &mut self.buffer {
                let written = ready!(poll_some(upstream, cx, buffer.filled()))?;
                buffer.consume(written);
                if buffer.is_empty() {
                    self.buffer = None;
                }
                continue;
            }
            if self.lost && !self.kept.is_empty() {
                (self.kept, self.sent) = (Vec::new(), 0);
            }
            if self.ended {
                return upstream.poll_flush(cx).map_err(refused);
            }
            if let Poll::Ready(more) = self.poll_more(wire, law, cx) {
                more?;
                continue;
            }
            self.flushing = true;
            ready!(upstream.poll_flush(cx)).map_err(refused)?;
            self.flushing = false;
            return Poll::Pending;
        }
    }

    /// Reads one more piece, which is kept or, where that is too much, held in a buffer.
    fn poll_more(
        &mut self,
        wire: &mut Wire,
        law: &mut context::Context,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let mut buffer = Buffer::take();
        let read = match ready!(buffer.poll_fill(|space| wire.poll_body(cx, space))) {
            Ok(read) => read,
            Err(error) if complaint(&error) == Some(Complaint::Malformed) => {
                return Poll::Ready(Err(Broken::Malformed));
            }
            Err(_) => return Poll::Ready(Err(Broken::Gone)),
        };
        self.ended = wire.has_no_more();
        if read == 0 && !self.ended {
            return Poll::Ready(Err(Broken::Gone));
        }
        if read > 0 {
            self.came = clock::now();
        }
        law.body_came(read > 0, self.ended, || self.came);
        law.copy_body(buffer.filled(), self.ended);
        let fits = wire.body_read() <= REPLAY_BYTES_MAX && self.kept.len() + read <= KEPT_FRAMED_BYTES_MAX;
        if fits && !self.lost {
            self.kept.extend_from_slice(buffer.filled());
        } else if read > 0 {
            self.lost = true;
            self.buffer = Some(buffer);
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes some bytes to the instance, which takes at least one.
pub(super) fn poll_some(
    upstream: &mut Upstream,
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<Result<usize, Stuck>> {
    upstream.poll_write(cx, bytes).map(|written| match written {
        Ok(written @ 1..) => Ok(written),
        Ok(0) | Err(_) => Err(Stuck::Upstream),
    })
}
