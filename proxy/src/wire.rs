//! The client's stream as an engine sees it: one request's bytes and not one more, so that heads are checked before
//! the engine reads them and pipelined requests wait their turn. It decides nothing about requests.

mod plumbing;
mod reset;

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};

use crate::alarm::Alarm;
use crate::chunks::{BadChunks, Chunks, Sifted};
use crate::clock;
use crate::head::{Body, Head};
use crate::signals::{OutOfTime, Signals, Watch};

/// Taken from the socket at once while a head is awaited; also what may be held of the next request.
const READ_BYTES: usize = 4096;
/// How long, and how much, a client may go on sending after an answer that closes the connection.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// Pieces of an answer up to this size leave together.
const GATHER_BYTES_MAX: usize = 4096;
/// The same for pieces of several answers.
const GATHER_MANY_BYTES_MAX: usize = 16 * 1024;

/// A client's connection.
pub(crate) struct Wire {
    /// `None` only while it is being dropped.
    inner: Option<Stream>,
    caller: Option<IpAddr>,
    /// It is a TLS connection.
    secure: bool,
    /// Read from the socket and not yet passed on.
    held: BytesMut,
    /// Written in small pieces and not yet sent. Holds no memory between answers.
    gathered: Vec<u8>,
    gate: Gate,
    /// Bytes of the request's body that were read, without their framing.
    body_read: u64,
    /// Written and perhaps not yet sent.
    dirty: bool,
    /// Whose answers it carries.
    carries: Carries,
    /// Something was written since the last request was admitted.
    answered: bool,
    /// The client will send nothing more.
    ended: bool,
    signals: Arc<Signals>,
    alarm: Alarm,
}

/// Whose answers a connection carries, which says when they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// One request's at a time, at once.
    One,
    /// Those of many streams (HTTP/2). Whoever flushes lets the tasks that are ready now add theirs first: one call to the
    /// kernel for several answers, at the price of one more turn of this task and never of waiting.
    Many {
        /// The others had their turn.
        asked: bool,
    },
    /// That of one stream among many, which ends without the connection.
    Stream,
}

/// What the engine may still read.
#[derive(Debug, Clone, Copy)]
enum Gate {
    /// Nothing of this request; only the end of the connection is reported.
    Shut,
    Length(u64),
    Chunked(Chunks),
    /// Everything: another protocol.
    Open,
}

impl Wire {
    pub(crate) fn new(inner: Stream) -> Self {
        let caller =
            inner.get_socket_digest().and_then(|digest| digest.peer_addr()?.as_inet().map(|at| at.ip()));
        Self {
            secure: inner.get_ssl_digest().is_some(),
            inner: Some(inner),
            caller,
            held: BytesMut::new(),
            gathered: Vec::new(),
            gate: Gate::Shut,
            body_read: 0,
            dirty: false,
            carries: Carries::One,
            answered: false,
            ended: false,
            signals: Arc::new(Signals::new(clock::now())),
            alarm: Alarm::default(),
        }
    }

    /// One stream of HTTP/2 as a connection of HTTP/1.1, whose only request begins with `head`.
    pub(crate) fn of_stream(stream: Stream, head: BytesMut) -> Self {
        let mut wire = Self::new(stream);
        wire.held = head;
        wire.carries = Carries::Stream;
        wire
    }

    /// What it was made of.
    pub(crate) fn into_inner(mut self) -> Option<Stream> {
        self.inner.take()
    }

    /// Whether the client hears of answers that are only announced (RFC 9110 15.2).
    pub(crate) fn takes_interim(&self) -> bool {
        self.carries != Carries::Stream
    }

    /// What the client speaks.
    pub(crate) fn protocol(&self) -> &'static str {
        if self.carries == Carries::Stream { "HTTP/2" } else { "HTTP/1.1" }
    }

    /// The deadline of whatever request is in progress.
    pub(crate) fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    /// Who is at the other end.
    pub(crate) fn caller(&self) -> Option<IpAddr> {
        self.caller
    }

    /// Whether nobody on the way can read it.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// What was read and not passed on.
    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Drops empty lines before a request (RFC 9112 2.2).
    pub(crate) fn skip_empty_lines(&mut self) {
        while self.held.starts_with(b"\r\n") {
            self.held.advance(2);
        }
    }

    /// Takes the first bytes of what is held.
    pub(crate) fn take(&mut self, len: usize) -> BytesMut {
        // Splitting off everything moves the allocation; a shared one would cost a reference count per use.
        if len == self.held.len() { std::mem::take(&mut self.held) } else { self.held.split_to(len) }
    }

    /// Reads more into what is held; `false` at the end, `None` when nothing came in time. Holds no buffer while it waits.
    pub(crate) async fn fill(&mut self, until: Instant) -> Option<io::Result<bool>> {
        std::future::poll_fn(|cx| match self.poll_fill(cx) {
            Poll::Ready(filled) => Poll::Ready(Some(filled)),
            Poll::Pending => self.alarm.poll(until, cx).map(|()| None),
        })
        .await
    }

    /// Lets an engine read the body of the request whose head was taken.
    pub(crate) fn admit(&mut self, head: &Head) {
        self.answered = false;
        self.body_read = 0;
        self.signals.disarm();
        self.gate = match head.body {
            Body::None => Gate::Shut,
            Body::Length(length) => Gate::Length(length),
            Body::Chunked => Gate::Chunked(Chunks::new()),
        };
    }

    /// Lets an engine read everything, and carry many streams.
    pub(crate) fn open_for_many(&mut self) {
        self.gate = Gate::Open;
        self.carries = Carries::Many { asked: false };
    }

    /// The last request was read to its end, so that another may follow.
    pub(crate) fn is_at_boundary(&self) -> bool {
        matches!(self.gate, Gate::Shut) && !self.ended
    }

    /// Sends an answer made without an engine, and closes.
    pub(crate) async fn conclude(mut self: Box<Self>, answer: &[u8]) {
        if self.write_all(answer).await.is_ok() {
            let _sent = self.flush().await;
        }
        // Dropping it lingers, so that the client can read the answer while it is still sending.
        self.gate = Gate::Open;
    }

    fn inner(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.inner.as_mut().expect("only drop takes the stream"))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(self.inner().poll_read(cx, &mut buf))?;
        self.held.extend_from_slice(buf.filled());
        self.ended |= buf.filled().is_empty();
        Poll::Ready(Ok(!buf.filled().is_empty()))
    }

    /// Nothing of the request in progress is left to read.
    pub(crate) fn has_no_more(&self) -> bool {
        matches!(self.gate, Gate::Shut)
    }

    /// How much of the request's body was read, without its framing.
    pub(crate) fn body_read(&self) -> u64 {
        self.body_read
    }

    /// How much of the request's body was not read, where that is known.
    pub(crate) fn left_of_body(&self) -> Option<u64> {
        match self.gate {
            Gate::Shut => Some(0),
            Gate::Length(left) => Some(left),
            Gate::Chunked(_) | Gate::Open => None,
        }
    }

    /// Ready when the client has gone. Known only once its request is read, and not while another waits behind it.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.carries == Carries::Stream {
            // The end of a stream can be seen over whatever comes before it: without room nothing else is read.
            return self.inner().poll_read(cx, &mut ReadBuf::new(&mut [])).map(|_| ());
        }
        if !self.has_no_more() || !self.held.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_fill(cx)) {
            Ok(true) => Poll::Pending,
            Ok(false) | Err(_) => Poll::Ready(()),
        }
    }

    /// Ready once `until` has passed.
    pub(crate) fn poll_alarm(&mut self, until: std::time::Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll(Instant::from_std(until), cx)
    }

    /// Sends some of these bytes.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_gathered(cx))?;
        self.dirty = true;
        self.answered = true;
        match parts {
            [part] => self.inner().poll_write(cx, part),
            parts => self.inner().poll_write_vectored(cx, parts),
        }
    }

    /// Adds something small to what is sent next.
    pub(crate) fn gather(&mut self, bytes: &[u8]) {
        self.dirty = true;
        self.answered = true;
        self.gathered.extend_from_slice(bytes);
    }

    /// How much was gathered and not yet sent.
    pub(crate) fn unsent(&self) -> usize {
        self.gathered.len()
    }

    /// Makes sure that everything that was written is on its way.
    pub(crate) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.dirty { Pin::new(self).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Whether what is written now may wait for more to leave with it.
    fn gathers(&self, more: usize) -> bool {
        let many = matches!(self.carries, Carries::Many { .. });
        let max = if many { GATHER_MANY_BYTES_MAX } else { GATHER_BYTES_MAX };
        self.gathered.len() + more <= max
    }

    /// Writes what was gathered.
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            let written = self.inner().poll_write(cx, &gathered);
            self.gathered = gathered;
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                all if all == self.gathered.len() => self.gathered = Vec::new(),
                some => drop(self.gathered.drain(..some)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The bytes of this request's body, and no others. Also tells an engine that asks behind the end whether the client
    /// is gone: nothing is.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.gate, Gate::Shut) && self.signals.has_switched() {
            self.gate = Gate::Open;
        }
        match self.gate {
            Gate::Shut => {
                // The engine asks only to learn whether the client is gone; the next request is kept for later.
                if !self.held.is_empty() {
                    return Poll::Pending;
                }
                if ready!(self.poll_fill(cx))? { Poll::Pending } else { Poll::Ready(Ok(())) }
            }
            Gate::Open => self.poll_some(cx, buf, usize::MAX).map_ok(|_| ()),
            Gate::Length(left) => {
                let limit = usize::try_from(left).unwrap_or(usize::MAX);
                let read = ready!(self.poll_some(cx, buf, limit))?;
                let left = left - read as u64;
                self.body_read += read as u64;
                self.gate = if left == 0 { Gate::Shut } else { Gate::Length(left) };
                Poll::Ready(Ok(()))
            }
            Gate::Chunked(mut chunks) => loop {
                let before = buf.filled().len();
                // Little more than the chunk, since what is behind the body has to be held.
                let limit = chunks.left_of_chunk().saturating_add(READ_BYTES);
                let read = ready!(self.poll_some(cx, buf, limit))?;
                if read == 0 {
                    return Poll::Ready(Ok(()));
                }
                // Trailer fields go no further: they would need the care that those of a head get.
                let bytes = &mut buf.filled_mut()[before..];
                let Sifted { kept, used } = chunks.sift(bytes).map_err(malformed)?;
                if used < read {
                    let surplus = BytesMut::from(&bytes[used..]);
                    let rest = std::mem::replace(&mut self.held, surplus);
                    self.held.unsplit(rest);
                }
                buf.set_filled(before + kept);
                self.body_read = chunks.data();
                self.gate = if chunks.is_done() { Gate::Shut } else { Gate::Chunked(chunks) };
                if kept > 0 {
                    return Poll::Ready(Ok(()));
                }
            },
        }
    }

    fn is_out_of_time(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((until, watch)) = self.signals.until() else { return false };
        if watch == Watch::Glance {
            return clock::now() >= until;
        }
        self.alarm.poll(Instant::from_std(until), cx).is_ready()
    }

    /// At most `limit` bytes, of the held ones first.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let limit = limit.min(buf.remaining());
        if !self.held.is_empty() {
            let len = limit.min(self.held.len());
            buf.put_slice(&self.held[..len]);
            self.held.advance(len);
            return Poll::Ready(Ok(len));
        }
        if limit == buf.remaining() {
            // Straight into the reader's memory, which would otherwise have to be cleared first.
            let before = buf.filled().len();
            ready!(self.inner().poll_read(cx, buf))?;
            let read = buf.filled().len() - before;
            self.ended |= read == 0 && limit > 0;
            return Poll::Ready(Ok(read));
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(limit));
        ready!(self.inner().poll_read(cx, &mut part))?;
        let read = part.filled().len();
        self.ended |= read == 0 && limit > 0;
        buf.advance(read);
        Poll::Ready(Ok(read))
    }
}

/// What the wire itself has to say about an error that came out of it; `None` for those of the socket.
pub(crate) fn complaint(error: &(dyn std::error::Error + 'static)) -> Option<Complaint> {
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    if inner.is::<BadChunks>() {
        Some(Complaint::Malformed)
    } else if inner.is::<OutOfTime>() {
        Some(Complaint::OutOfTime)
    } else {
        None
    }
}

/// See [`complaint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// The body breaks its framing.
    Malformed,
    /// The request's deadline has passed.
    OutOfTime,
}

fn malformed(bad: BadChunks) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, bad)
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_body(cx, buf);
        // An engine that reads and finds nothing has nothing to write either: what it wrote must not wait for the
        // rest of a trickled answer.
        if read.is_pending()
            && self.dirty
            && !matches!(self.gate, Gate::Open)
            && let Poll::Ready(Err(error)) = self.as_mut().poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        if read.is_pending() && self.is_out_of_time(cx) {
            self.signals.disarm();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, OutOfTime)));
        }
        read
    }
}

/// Small pieces are gathered until they are flushed: the stream below holds no buffer.
impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.dirty = true;
        self.answered = true;
        if self.gathers(buf.len()) {
            self.gathered.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(self.poll_gathered(cx))?;
        self.inner().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.carries == (Carries::Many { asked: false }) && !self.gathered.is_empty() {
            self.carries = Carries::Many { asked: true };
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_gathered(cx))?;
        ready!(self.inner().poll_flush(cx))?;
        if let Carries::Many { asked } = &mut self.carries {
            *asked = false;
        }
        self.dirty = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_gathered(cx))?;
        self.inner().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        self.dirty = true;
        self.answered = true;
        if self.gathers(len) {
            bufs.iter().for_each(|buf| self.gathered.extend_from_slice(buf));
            return Poll::Ready(Ok(len));
        }
        ready!(self.poll_gathered(cx))?;
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_write_vectored())
    }
}

/// An answer that closes while the client is still sending would be lost to the reset that unread bytes cause
/// (RFC 9112 9.6): the rest is read and thrown away, for a short time and up to a limit. What was written and waits to be
/// sent is sent in that time, too: an answer that is cut off was passed on up to there.
impl Drop for Wire {
    fn drop(&mut self) {
        let unread = !matches!(self.gate, Gate::Shut) || !self.held.is_empty();
        let Some(mut inner) = self.inner.take() else { return };
        if self.carries == Carries::Stream {
            // It ends by itself, with or without an answer, and nobody is kept waiting.
            return;
        }
        if self.signals.resets() {
            if let Err(error) = reset::when_closed(inner.id()) {
                tracing::warn!(%error, "a connection is closed instead of reset");
            }
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let lingers = unread && self.answered && !self.ended;
        let rest = std::mem::take(&mut self.gathered);
        if lingers || !rest.is_empty() {
            runtime.spawn(async move {
                let _late = timeout(LINGER, async {
                    let mut left = LINGER_BYTES_MAX;
                    let mut space = [0; READ_BYTES];
                    if inner.write_all(&rest).await.is_err()
                        || AsyncWriteExt::shutdown(&mut inner).await.is_err()
                        || !lingers
                    {
                        return;
                    }
                    while let Ok(read @ 1..) = inner.read(&mut space).await {
                        let Some(rest) = left.checked_sub(read) else { return };
                        left = rest;
                    }
                })
                .await;
            });
        } else if self.secure {
            // Says that this is the end, which TLS wants said; whoever has no room for that will not hear it.
            let _sent = Pin::new(&mut inner).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests;
