//! What the engine tells the client's stream, which is looked at whenever anything happens: the moment until which a
//! request waits for its answer (Pingora's own timeouts start anew with every read), and that the protocol changed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is told about the request in progress on one connection.
#[derive(Debug)]
pub(crate) struct Signals {
    origin: Instant,
    /// Nanoseconds since the origin, the lowest bit telling whether a timer is wanted; 0: none.
    until: AtomicU64,
    switched: AtomicBool,
    resets: AtomicBool,
    stuck: AtomicBool,
}

/// What a deadline asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// To be looked at when something happens anyway.
    Glance,
    /// To be woken for.
    Timer,
}

/// The answer did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time for an answer is over")]
pub(crate) struct OutOfTime;

impl Signals {
    pub(crate) fn new(origin: Instant) -> Self {
        Self {
            origin,
            until: AtomicU64::new(0),
            switched: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
        }
    }

    /// Sets the deadline.
    pub(crate) fn arm(&self, until: Instant, watch: Watch) {
        let nanos =
            u64::try_from(until.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX);
        let marked = match watch {
            Watch::Glance => nanos & !1,
            Watch::Timer => nanos | 1,
        };
        self.until.store(marked.max(2), Ordering::Relaxed);
    }

    /// From now on the client's bytes belong to another protocol.
    pub(crate) fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// Whether they do.
    pub(crate) fn has_switched(&self) -> bool {
        self.switched.load(Ordering::Relaxed)
    }

    /// The connection is to end with a reset.
    pub(crate) fn reset(&self) {
        self.resets.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(crate) fn resets(&self) -> bool {
        self.resets.load(Ordering::Relaxed)
    }

    /// Notes whether the instance takes what is sent to it.
    pub(crate) fn sending(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Relaxed);
    }

    /// Whether something of the request waits for the instance to take it.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Takes the deadline away.
    pub(crate) fn disarm(&self) {
        self.until.store(0, Ordering::Relaxed);
    }

    /// The deadline, if there is one.
    pub(crate) fn until(&self) -> Option<(Instant, Watch)> {
        let marked = self.until.load(Ordering::Relaxed);
        let watch = if marked & 1 == 1 { Watch::Timer } else { Watch::Glance };
        (marked != 0).then(|| (self.origin + Duration::from_nanos(marked & !1), watch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_deadline_is_what_was_set_last() {
        let origin = clock::now();
        let signals = Signals::new(origin);
        assert_eq!(signals.until(), None);
        let until = origin + Duration::from_millis(5);
        for watch in [Watch::Glance, Watch::Timer] {
            signals.arm(until, watch);
            assert_eq!(signals.until(), Some((until, watch)));
        }
        signals.arm(origin, Watch::Glance);
        assert!(signals.until().is_some(), "a deadline in the past is one");
        signals.disarm();
        assert_eq!(signals.until(), None);
    }
}
