//! Answers to watchers, each encoded once and shared by all who need the same one. It does not know who
//! waits; what an answer says was decided in [`crate::news`].

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use registry_api::{Position, WatchAnswer};
use tokio::sync::OnceCell;

use crate::gzip;
use crate::news::Scope;

/// How many different answers at one index are shared; further ones are made for their caller alone.
pub const SHARED_MAX: usize = 256;
/// How long they may be together. The full answer to an unfiltered watch is always shared.
pub const SHARED_BYTES_MAX: usize = 64 << 20;
/// Longer answers are encoded beside the request threads.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// One answer, encoded when the first watcher asks for it.
#[derive(Debug)]
pub struct Shared {
    answer: WatchAnswer,
    about_bytes: usize,
    plain: OnceCell<Bytes>,
    gzipped: OnceCell<Bytes>,
}

impl Shared {
    /// Wraps an answer of about so many bytes.
    pub fn new(answer: WatchAnswer, about_bytes: usize) -> Self {
        Self { answer, about_bytes, plain: OnceCell::new(), gzipped: OnceCell::new() }
    }

    /// Where the answer leads.
    pub fn position(&self) -> Position {
        Position { epoch: self.answer.epoch.clone(), index: self.answer.index, hash: self.answer.hash }
    }

    /// Whether it says everything.
    pub fn is_full(&self) -> bool {
        self.answer.full
    }

    /// The body as JSON.
    pub async fn plain(self: &Arc<Self>) -> Bytes {
        let encode = |shared: &Self| {
            serde_json::to_vec(&shared.answer).expect("an answer is plain data and always encodes")
        };
        self.plain.get_or_init(|| self.made(encode)).await.clone()
    }

    /// The body as gzipped JSON.
    pub async fn gzipped(self: &Arc<Self>) -> Bytes {
        let plain = self.plain().await;
        let made = self.gzipped.get_or_init(|| self.made(move |_| gzip::compress(&plain)));
        made.await.clone()
    }

    async fn made(self: &Arc<Self>, make: impl FnOnce(&Self) -> Vec<u8> + Clone + Send + 'static) -> Bytes {
        if self.about_bytes <= INLINE_BYTES_MAX {
            return make(self).into();
        }
        let (shared, elsewhere) = (Arc::clone(self), make.clone());
        let made = tokio::task::spawn_blocking(move || elsewhere(&shared)).await;
        // Only a runtime that is shutting down refuses.
        made.unwrap_or_else(|_| make(self)).into()
    }
}

/// Where an answer starts from: an index, or nothing.
pub type From = Option<u64>;

/// The answers that lead to the newest index of one namespace. Older ones are of no use to anybody.
#[derive(Debug, Default)]
pub struct Encodings {
    to: u64,
    bytes: usize,
    shared: HashMap<(From, Scope), Arc<Shared>>,
}

impl Encodings {
    /// The answer from `from` to `to`; `make` is called for the first who asks.
    pub fn get(&mut self, from: From, to: u64, scope: &Scope, make: impl FnOnce() -> Shared) -> Arc<Shared> {
        if self.to != to {
            self.shared.clear();
            (self.to, self.bytes) = (to, 0);
        }
        let key = (from, scope.clone());
        if let Some(shared) = self.shared.get(&key) {
            return Arc::clone(shared);
        }
        let made = Arc::new(make());
        let bytes = self.bytes + made.about_bytes;
        let fits = self.shared.len() < SHARED_MAX && bytes <= SHARED_BYTES_MAX;
        if fits || key == (None, Scope::All) {
            self.bytes = bytes;
            self.shared.insert(key, Arc::clone(&made));
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry_api::ContentHash;

    fn answer(index: u64) -> Shared {
        let answer = WatchAnswer {
            epoch: "e".to_owned(),
            index,
            from: None,
            hash: ContentHash::default(),
            full: true,
            instances: Some(vec![]),
            changes: None,
        };
        Shared::new(answer, 100)
    }

    #[test]
    fn the_same_way_is_made_once_and_forgotten_when_the_index_moves() {
        let mut encodings = Encodings::default();
        let mut made = 0;
        for (to, times) in [(5, 1), (5, 1), (6, 2), (6, 2)] {
            let shared = encodings.get(Some(1), to, &Scope::All, || {
                made += 1;
                answer(to)
            });
            assert_eq!((made, shared.position().index), (times, to));
        }
        assert_eq!(encodings.shared.len(), 1);
    }

    #[test]
    fn at_the_bound_answers_are_made_for_one_caller_alone() {
        let mut encodings = Encodings::default();
        for from in 0..SHARED_MAX as u64 + 10 {
            encodings.get(Some(from), 9, &Scope::All, || answer(9));
        }
        assert_eq!(encodings.shared.len(), SHARED_MAX);
    }

    #[test]
    fn long_answers_use_the_room_up_but_everything_is_always_shared() {
        let mut encodings = Encodings::default();
        let long = || Shared { about_bytes: SHARED_BYTES_MAX / 2, ..answer(9) };
        for from in 1..=3 {
            encodings.get(Some(from), 9, &Scope::All, long);
        }
        assert_eq!(encodings.shared.len(), 2);
        let first = encodings.get(None, 9, &Scope::All, long);
        assert!(Arc::ptr_eq(&first, &encodings.get(None, 9, &Scope::All, long)));
        encodings.get(Some(1), 10, &Scope::All, || answer(10));
        assert_eq!((encodings.shared.len(), encodings.bytes), (1, 100));
    }

    #[tokio::test]
    async fn all_readers_share_the_same_bytes() {
        let shared = Arc::new(answer(1));
        let (first, second) = (shared.plain().await, shared.plain().await);
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert_eq!(gzip::decompress(&shared.gzipped().await, 1_000).unwrap(), first);
    }
}
