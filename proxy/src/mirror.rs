//! Copies of requests for whoever a route names as its mirror: collected beside the request, handed over when they are
//! whole, and sent by a thread of their own. No request waits for its copy, or learns what became of it.

mod sender;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use control_api::RuleId;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::mpsc;

use crate::board::ServiceLive;
use crate::chunks::Chunks;
use crate::context::{REPLAY_BYTES_MAX, Target};
use crate::forward::is_of_one_hop;
use crate::head;
use crate::metrics::CopyLost;
use crate::upstream::Protocol;

pub(crate) use sender::run;

/// A body longer than this is not copied, its chunks' framing included; as much is kept to be sent again.
pub(crate) const COPY_BODY_BYTES_MAX: usize = REPLAY_BYTES_MAX as usize;
/// All copies together, heads and bodies, from their first byte to the end of the copy's answer. Beyond it copies are lost.
const COPIES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a field holds beside its text.
const FIELD_BYTES: usize = size_of::<(HeaderName, HeaderValue)>();
/// Copies that wait for their turn to be sent. Beyond it copies are lost.
const COPIES_WAITING_MAX: usize = 1024;
/// From the connection to the end of the answer.
const COPY_WITHIN: Duration = Duration::from_secs(5);
/// Tells whoever gets a copy that it is one, and of which rule.
const MARKER: HeaderName = HeaderName::from_static("x-a8-mirror");

/// Where whole copies go, and what all of them hold.
pub(crate) struct Mirrors {
    queue: mpsc::Sender<Letter>,
    held: Arc<AtomicUsize>,
}

/// Copies on their way to the thread that sends them.
pub(crate) type Queue = mpsc::Receiver<Letter>;

/// Where a copy goes.
pub(crate) struct Addressee {
    pub(crate) service: Arc<ServiceLive>,
    pub(crate) target: Target,
    /// Of an instance that registered a host name.
    pub(crate) host: Option<String>,
    pub(crate) rule: RuleId,
}

/// The head of a request as an instance would get it.
pub(crate) struct Head {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: Vec<u8>,
    pub(crate) fields: HeaderMap,
    pub(crate) protocol: Protocol,
    /// The body comes with the framing of its chunks.
    pub(crate) framed: bool,
}

/// A copy that is being made. Dropped before it is whole, it is counted as lost.
pub(crate) struct Draft {
    mirrors: Arc<Mirrors>,
    to: Option<Addressee>,
    head: Option<Head>,
    body: Vec<u8>,
    ended: bool,
    room: Room,
}

/// A whole copy.
pub(crate) struct Letter {
    to: Addressee,
    head: Head,
    body: Bytes,
    _room: Room,
}

/// What one copy holds of what all may hold, until dropped.
struct Room {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Mirrors {
    /// Empty, with the end from which copies are sent.
    pub(crate) fn new() -> (Arc<Self>, Queue) {
        let (queue, letters) = mpsc::channel(COPIES_WAITING_MAX);
        (Arc::new(Self { queue, held: Arc::default() }), letters)
    }

    /// A copy of which nothing is there yet.
    pub(crate) fn draft(self: &Arc<Self>, to: Addressee) -> Draft {
        Draft {
            room: Room { held: Arc::clone(&self.held), bytes: 0 },
            mirrors: Arc::clone(self),
            to: Some(to),
            head: None,
            body: Vec::new(),
            ended: false,
        }
    }
}

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.held.fetch_add(bytes, Ordering::Relaxed) + bytes <= COPIES_BYTES_MAX
    }

    fn give_back(&mut self) {
        self.held.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Draft {
    /// Of an instance that registered a host name.
    pub(crate) fn host(&self) -> Option<&str> {
        self.to.as_ref()?.host.as_deref()
    }

    /// Whether it was begun.
    pub(crate) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// The head, and with it the beginning of the body: whatever came of that before comes again. A copy is not copied: two
    /// proxies that are each other's mirrors would never end.
    pub(crate) fn begin(&mut self, head: Head) -> Result<(), CopyLost> {
        if head.fields.contains_key(MARKER) {
            return Err(CopyLost::Copy);
        }
        self.ended = false;
        self.body.clear();
        self.room.give_back();
        if !self.room.take(head.bytes()) {
            return Err(CopyLost::NoRoom);
        }
        self.head = Some(head);
        Ok(())
    }

    /// A piece of the body; `end`: the last one. Keeps it, or says why the copy is lost.
    pub(crate) fn take(&mut self, piece: &[u8], end: bool) -> Result<(), CopyLost> {
        if self.body.len() + piece.len() > COPY_BODY_BYTES_MAX {
            return Err(CopyLost::BodyTooLarge);
        }
        if !self.room.take(piece.len()) {
            return Err(CopyLost::NoRoom);
        }
        self.body.extend_from_slice(piece);
        self.ended = end;
        Ok(())
    }

    /// Whether there is nothing more to come.
    pub(crate) fn is_whole(&self) -> bool {
        self.ended && self.head.is_some()
    }

    /// Hands over what is whole.
    pub(crate) fn send(mut self) {
        let (Some(to), Some(head)) = (self.to.take(), self.head.take()) else { return };
        let raw = std::mem::take(&mut self.body);
        let body = if head.framed { unframed(&raw) } else { Some(raw) };
        let Some(body) = body else { return to.service.series().copy_lost(CopyLost::Failed) };
        let room = Room { held: Arc::clone(&self.room.held), bytes: std::mem::take(&mut self.room.bytes) };
        let letter = Letter { to, head, body: body.into(), _room: room };
        // Never waits: a mirror that is slow is not to be felt.
        if let Err(refused) = self.mirrors.queue.try_send(letter) {
            refused.into_inner().to.service.series().copy_lost(CopyLost::QueueFull);
        }
    }

    /// Gives it up.
    pub(crate) fn lose(mut self, why: CopyLost) {
        if let Some(to) = self.to.take() {
            to.service.series().copy_lost(why);
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            to.service.series().copy_lost(CopyLost::Incomplete);
        }
    }
}

impl Head {
    /// From the bytes of a head that was written for an instance; `None` when it cannot be read.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let head = head::read(bytes).ok()?;
        let mut fields = HeaderMap::new();
        for (name, value) in head.fields(bytes).iter() {
            fields.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        Some(Self {
            method: Method::from_bytes(&bytes[head.method.clone()]).ok()?,
            target: bytes[head.target.clone()].to_vec(),
            framed: head.body == head::Body::Chunked,
            fields,
            protocol: Protocol::Http1,
        })
    }

    /// What it holds, as it is counted against [`COPIES_BYTES_MAX`].
    fn bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
        self.target.len() + fields.sum::<usize>()
    }

    /// The fields of the copy: without those of one hop and of the framing, which is written anew, and marked.
    fn fields_of_copy(mut self, rule: &RuleId, body_len: usize) -> HeaderMap {
        let has_body = body_len > 0
            || [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| self.fields.contains_key(name));
        let of_hop = |name: &HeaderName| is_of_one_hop(name.as_str().as_bytes());
        let gone: Vec<_> = self.fields.keys().filter(|name| of_hop(name)).cloned().collect();
        for name in gone.into_iter().chain([CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT]) {
            self.fields.remove(name);
        }
        let marker = HeaderValue::from_str(rule.as_str());
        // An id that is no text for a header still marks.
        self.fields.insert(MARKER, marker.unwrap_or(HeaderValue::from_static("-")));
        match self.protocol {
            Protocol::Http2 => {
                // Whoever speaks gRPC must say so (gRPC over HTTP/2, Requests).
                self.fields.insert(http::header::TE, HeaderValue::from_static("trailers"));
                self.fields.remove(HOST);
            }
            Protocol::Http1 | Protocol::Tunnel if has_body => {
                self.fields.insert(CONTENT_LENGTH, body_len.into());
            }
            Protocol::Http1 | Protocol::Tunnel => {}
        }
        self.fields
    }
}

/// A body without the framing of its chunks; `None` when it is not whole.
fn unframed(raw: &[u8]) -> Option<Vec<u8>> {
    let (mut chunks, mut body, mut at) = (Chunks::new(), Vec::with_capacity(raw.len()), 0);
    while at < raw.len() && !chunks.is_done() {
        let data = chunks.left_of_chunk().min(raw.len() - at);
        body.extend_from_slice(&raw[at..at + data]);
        let step = &raw[at..at + data.max(1)];
        chunks.next(step).ok()?;
        at += step.len();
    }
    chunks.is_done().then_some(body)
}

#[cfg(test)]
mod tests;
