//! One publisher per namespace: waits until a publication is due, publishes if the content differs, and
//! lets all waiters share one encoding. What is due when is `window`'s, what differs is `world`'s.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::OnceCell;
use tracing::{debug, error};

use crate::edition::Edition;
use crate::metrics::Metrics;
use crate::space::{Space, locked};

/// Answers about more entries than this are encoded off the request threads.
const INLINE_ENTRIES_MAX: usize = 256;

/// How many bytes of deltas are kept to be shared. Who comes from elsewhere is then told everything, which
/// is one answer for all.
const DELTAS_BYTES_MAX: usize = 32 << 20;

/// The answer could not be encoded; that is a bug, and it was logged.
#[derive(Debug)]
pub(crate) struct NotEncoded;

/// A published snapshot and its encodings, at most one per remembered index and one for everything.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) edition: Edition,
    encodings: Mutex<BTreeMap<Option<u64>, Arc<OnceCell<Bytes>>>>,
    answer_bytes: AtomicUsize,
    delta_bytes: AtomicUsize,
}

impl Published {
    pub(crate) fn new(edition: Edition) -> Self {
        Self {
            edition,
            encodings: Mutex::default(),
            answer_bytes: AtomicUsize::new(0),
            delta_bytes: AtomicUsize::new(0),
        }
    }

    /// The size of the largest delta that leads here. 0 before anybody asked.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.answer_bytes.load(Ordering::Relaxed)
    }

    /// The encoded way from an index, or everything. Made by the first who asks, shared by all.
    pub(crate) async fn encoded(
        self: &Arc<Self>,
        from: Option<u64>,
        metrics: &Metrics,
    ) -> Result<Bytes, NotEncoded> {
        let is_full = self.delta_bytes.load(Ordering::Relaxed) >= DELTAS_BYTES_MAX;
        let (from, cell) = {
            let mut encodings = locked(&self.encodings);
            let from = from.filter(|_| !is_full || encodings.contains_key(&from));
            (from, Arc::clone(encodings.entry(from).or_default()))
        };
        let encode = async || {
            metrics.encodings.with_label_values(&[form(from)]).inc();
            let snapshot = self.edition.snapshot();
            if snapshot.rules().len() + snapshot.instances().len() <= INLINE_ENTRIES_MAX {
                return self.encode(from);
            }
            let this = Arc::clone(self);
            tokio::task::spawn_blocking(move || this.encode(from)).await.unwrap_or(Err(NotEncoded))
        };
        cell.get_or_try_init(encode).await.cloned()
    }

    fn encode(&self, from: Option<u64>) -> Result<Bytes, NotEncoded> {
        let answer = from.map_or_else(|| self.edition.full(), |from| self.edition.delta(from));
        let bytes = serde_json::to_vec(&answer).map(Bytes::from).map_err(|error| {
            error!(%error, "snapshot cannot be encoded");
            NotEncoded
        })?;
        if from.is_some() {
            self.answer_bytes.fetch_max(bytes.len(), Ordering::Relaxed);
            self.delta_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        Ok(bytes)
    }
}

/// The form of an answer, as a metric's label.
pub(crate) fn form(from: Option<u64>) -> &'static str {
    if from.is_some() { "delta" } else { "full" }
}

/// Publishes the space's changes as they fall due. Ends with its task.
pub(crate) async fn publish(space: Arc<Space>) {
    loop {
        space.changed.notified().await;
        while let Some(due) = space.due() {
            if space.clock.now() < due {
                tokio::select! {
                    // In any order: a change only makes the moment come earlier.
                    () = space.clock.sleep_until(due) => {}
                    () = space.changed.notified() => {}
                }
                continue;
            }
            if let Some(published) = space.publish() {
                let edition = &published.edition;
                let (index, revision) = (edition.index(), edition.snapshot().revision());
                debug!(namespace = %space.label, index, revision, "snapshot published");
            }
        }
    }
}
