//! What the feed says of itself: what serves, since when control was heard, what was refused. Written by the
//! feed, read by operators; no request looks here.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use control_api::Snapshot;
use registry_api::Position;

use super::follower::Rejection;

/// Who gave the snapshot that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// Nobody yet: the table is empty.
    #[default]
    Nobody,
    /// The disk, at the start.
    LastGood,
    /// Control, or the disk and control has confirmed it.
    Control,
}

impl Source {
    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::LastGood => "last_good",
            Self::Control => "control",
        }
    }
}

/// The feed at one moment.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Whether the last poll was answered.
    pub connected: bool,
    /// When control was last heard.
    pub last_success: Option<SystemTime>,
    /// Why the last poll failed; `None` once one succeeds.
    pub error: Option<String>,
    /// Who gave what serves.
    pub source: Source,
    /// What serves.
    pub snapshot: Arc<Snapshot>,
    /// Where it was published.
    pub position: Position,
    /// The snapshot that was refused since.
    pub rejected: Option<Rejection>,
    /// How many were refused in this life.
    pub rejected_total: u64,
}

impl Seen {
    /// Whether requests can be decided: a table was applied, from control or from the disk.
    pub fn is_ready(&self) -> bool {
        self.source != Source::Nobody
    }
}

/// The feed's account of itself.
#[derive(Debug, Default)]
pub struct Status {
    seen: Mutex<Seen>,
    applied: Condvar,
}

impl Status {
    /// As it is now.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// A snapshot serves.
    pub fn applied(&self, source: Source, snapshot: Arc<Snapshot>, position: Position) {
        let mut seen = self.lock();
        seen.source = source;
        seen.position = position;
        seen.rejected = None;
        let old = std::mem::replace(&mut seen.snapshot, snapshot);
        // Dropping a large snapshot takes a while.
        drop(seen);
        self.applied.notify_all();
        drop(old);
    }

    /// Waits until what serves is as it should be; whether it came to that in time.
    pub(crate) fn wait(&self, within: Duration, is_enough: impl Fn(&Seen) -> bool) -> bool {
        let waited = self.applied.wait_timeout_while(self.lock(), within, |seen| !is_enough(seen));
        let (seen, _) = waited.unwrap_or_else(PoisonError::into_inner);
        is_enough(&seen)
    }

    /// What serves is what control has there.
    pub(super) fn confirmed(&self, position: Position) {
        let mut seen = self.lock();
        seen.source = Source::Control;
        seen.position = position;
        drop(seen);
        self.applied.notify_all();
    }

    /// Control answered; says whether it had not before.
    pub(super) fn heard(&self, at: SystemTime) -> bool {
        let mut seen = self.lock();
        seen.last_success = Some(at);
        seen.error = None;
        !std::mem::replace(&mut seen.connected, true)
    }

    /// Control did not answer; says whether it had before, or whether this is the first failure.
    pub(crate) fn lost(&self, error: String) -> bool {
        let mut seen = self.lock();
        let first = seen.error.replace(error).is_none();
        std::mem::replace(&mut seen.connected, false) || first
    }

    pub(super) fn rejected(&self, rejection: Rejection) {
        let mut seen = self.lock();
        seen.rejected = Some(rejection);
        seen.rejected_total += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
