//! A control that says exactly what a test tells it to: `GET /v1/watch` over a snapshot set from outside, and nothing
//! else of control. For what the real one never does on purpose: swaps at a fixed pace, answers that cannot be used.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_api::{Delta, Snapshot, SnapshotAnswer};
use registry_api::Reason;

use crate::origin::{Exchange, Origin};

/// How long a poll is held before it is answered with 304.
const HOLD: Duration = Duration::from_secs(5);
const EPOCH: &str = "feed";

/// What a proxy said with one poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// What serves traffic there.
    pub index: u64,
    /// The index and reason of a snapshot that it could not use.
    pub rejected: Option<(u64, String)>,
}

#[derive(Default)]
struct Published {
    index: u64,
    snapshot: Arc<Snapshot>,
    /// Encoded for the first proxy that asks.
    full: Option<Arc<Vec<u8>>>,
    /// From the index before; empty when there is none.
    delta: Arc<Vec<u8>>,
    polls: Vec<Poll>,
}

#[derive(Default)]
struct Shared {
    published: Mutex<Published>,
    changed: Condvar,
}

/// The fake control; gone on drop.
pub struct Feed {
    shared: Arc<Shared>,
    server: Origin,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Feed({})", self.address())
    }
}

impl Feed {
    /// Starts with this snapshot as index 1.
    pub fn start(snapshot: Snapshot) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let server = Origin::with(move |exchange| answer(exchange, &theirs));
        let feed = Self { shared, server };
        feed.publish(snapshot);
        feed
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Publishes the next snapshot; returns its index.
    pub fn publish(&self, snapshot: Snapshot) -> u64 {
        let way = self.published().snapshot.delta_to(&snapshot, |_| Reason::Deregistered);
        self.publish_way(Arc::new(snapshot), way)
    }

    /// The same when the way from the last snapshot is known already.
    pub fn publish_way(&self, snapshot: Arc<Snapshot>, way: Delta) -> u64 {
        let index = self.published().index + 1;
        // Encoded outside of the lock: polls must not wait for it.
        let delta = encode(&SnapshotAnswer::delta(EPOCH, index - 1, index, &snapshot, way));
        self.put(index, snapshot, None, delta)
    }

    /// Publishes a body that no proxy can use under the next index; returns that index. What was there before stays
    /// what later deltas start from.
    pub fn publish_garbage(&self, body: &str) -> u64 {
        let (index, old) = {
            let published = self.published();
            (published.index + 1, Arc::clone(&published.snapshot))
        };
        self.put(index, old, Some(Arc::new(body.into())), body.into())
    }

    fn put(&self, index: u64, snapshot: Arc<Snapshot>, full: Option<Arc<Vec<u8>>>, delta: Vec<u8>) -> u64 {
        let mut published = self.published();
        published.index = index;
        published.snapshot = snapshot;
        published.full = full;
        published.delta = Arc::new(delta);
        self.shared.changed.notify_all();
        index
    }

    /// What the proxies said so far.
    pub fn polls(&self) -> Vec<Poll> {
        self.published().polls.clone()
    }

    /// The highest index that a poll acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.published().polls.iter().map(|poll| poll.index).max().unwrap_or_default()
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.shared.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Published {
    fn full(&mut self) -> Arc<Vec<u8>> {
        let encoded = || Arc::new(encode(&SnapshotAnswer::full(EPOCH, self.index, &self.snapshot)));
        Arc::clone(self.full.get_or_insert_with(encoded))
    }
}

fn encode(answer: &SnapshotAnswer) -> Vec<u8> {
    serde_json::to_vec(answer).expect("an answer is plain data and always encodes")
}

fn answer(exchange: &mut Exchange, shared: &Shared) -> io::Result<()> {
    let target = exchange.target().to_owned();
    if !target.starts_with("/v1/watch?") {
        return exchange.answer(404, &[], "");
    }
    let of = |key: &str| {
        let query = target.split_once('?').map(|(_, query)| query).unwrap_or_default();
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v)
    };
    let number = |key: &str| of(key).and_then(|value| value.parse().ok());
    let index: u64 = number("index").unwrap_or_default();
    let rejected = number("rejected").map(|at| (at, of("reason").unwrap_or_default().to_owned()));
    // A snapshot that was refused is not offered again (design.md 5, settled point 5).
    let seen = rejected.as_ref().map_or(index, |(at, _)| *at);
    let mut published = shared.published.lock().unwrap_or_else(PoisonError::into_inner);
    published.polls.push(Poll { index, rejected });
    if published.index == seen && seen != 0 {
        let held = shared.changed.wait_timeout_while(published, HOLD, |published| published.index == seen);
        published = held.unwrap_or_else(PoisonError::into_inner).0;
    }
    let position = [
        format!("A8-Epoch: {EPOCH}"),
        format!("A8-Index: {}", published.index),
        format!("A8-Hash: {}", published.snapshot.hash()),
    ];
    let mut fields: Vec<&str> = position.iter().map(String::as_str).collect();
    if published.index == seen && seen != 0 {
        drop(published);
        return exchange.answer(304, &fields, "");
    }
    let follows = of("epoch") == Some(EPOCH) && index + 1 == published.index && index > 0;
    let body = if follows { Arc::clone(&published.delta) } else { published.full() };
    drop(published);
    fields.push("Content-Type: application/json");
    exchange.answer(200, &fields, &*body)
}
