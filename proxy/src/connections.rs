//! Counts the client connections that are open, refuses those beyond the cap, and tells when all have ended. It
//! knows nothing of what happens on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::metrics::Metrics;

/// As many as the largest cap needs.
const OPEN_FILES_WANTED: u64 = 1 << 19;
/// Fewer would not serve, more would be a mistake in the limit.
const CAP_MIN: usize = 64;
const CAP_MAX: usize = 200_000;

/// The connections of one listener.
pub(crate) struct Connections {
    open: AtomicUsize,
    cap: usize,
    ended: Notify,
    metrics: Arc<Metrics>,
}

/// One open connection; counted until it is dropped.
pub(crate) struct Connection(Arc<Connections>);

impl Connections {
    pub(crate) fn new(cap: usize, metrics: Arc<Metrics>) -> Self {
        Self { open: AtomicUsize::new(0), cap, ended: Notify::new(), metrics }
    }

    /// Counts a connection, or refuses it.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Connection> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        if open >= self.cap {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.metrics.connections_refused.inc();
            return None;
        }
        self.metrics.active_connections.inc();
        Some(Connection(Arc::clone(self)))
    }

    /// Waits until no connection is open, at most `within`; says whether none is.
    pub(crate) async fn drained(&self, within: Duration) -> bool {
        let none_left = async {
            loop {
                // Registered before the count is read, so that the last end cannot be missed.
                let ended = self.ended.notified();
                if self.open.load(Ordering::Acquire) == 0 {
                    return;
                }
                ended.await;
            }
        };
        timeout(within, none_left).await.is_ok()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.metrics.active_connections.dec();
        if self.0.open.fetch_sub(1, Ordering::Release) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

/// Raises this process's limit on open files as far as it may go, and says how far that is.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES_WANTED, |hard| hard.min(OPEN_FILES_WANTED));
    // Without a limit there is nothing to raise.
    let Some(soft) = limit.current else { return OPEN_FILES_WANTED };
    if soft >= wanted || setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).is_err() {
        return soft;
    }
    wanted
}

/// How many connections a limit on open files allows: each may need one more towards an instance, and a fifth is
/// left for everything else.
pub(crate) fn cap_of(open_files: u64) -> usize {
    usize::try_from(open_files / 5 * 2).unwrap_or(CAP_MAX).clamp(CAP_MIN, CAP_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(cap: usize) -> Arc<Connections> {
        Arc::new(Connections::new(cap, Arc::new(Metrics::new())))
    }

    #[test]
    fn beyond_the_cap_connections_are_refused_and_counted() {
        let all = connections(2);
        let (one, two) = (all.enter(), all.enter());
        assert!(one.is_some() && two.is_some() && all.enter().is_none());
        assert_eq!(all.metrics.connections_refused.get(), 1);
        assert_eq!(all.metrics.active_connections.get(), 2);
        drop(one);
        assert!(all.enter().is_some());
    }

    #[tokio::test]
    async fn draining_ends_with_the_last_connection_or_with_the_time() {
        let all = connections(2);
        assert!(all.drained(Duration::ZERO).await);
        let one = all.enter();
        assert!(!all.drained(Duration::from_millis(1)).await);
        let waiting = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.drained(Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        drop(one);
        assert!(waiting.await.unwrap());
    }

    #[test]
    fn the_cap_follows_the_limit_on_open_files() {
        for (files, cap) in [(20_000, 8000), (100, CAP_MIN), (u64::MAX, CAP_MAX)] {
            assert_eq!(cap_of(files), cap, "{files}");
        }
        assert_eq!(raise_open_files(), raise_open_files(), "as far as it may go is where it stays");
    }
}
