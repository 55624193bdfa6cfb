//! The moment until which a request waits for its answer, shared between the engine, which sets it, and the client's
//! stream, which is looked at whenever anything happens. Pingora's own timeouts start anew with every read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One connection's deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    origin: Instant,
    /// Nanoseconds since the origin, the lowest bit telling whether a timer is wanted; 0: none.
    until: AtomicU64,
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

impl Patience {
    pub(crate) fn new(origin: Instant) -> Self {
        Self { origin, until: AtomicU64::new(0) }
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

    /// Takes it away.
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
        let patience = Patience::new(origin);
        assert_eq!(patience.until(), None);
        let until = origin + Duration::from_millis(5);
        for watch in [Watch::Glance, Watch::Timer] {
            patience.arm(until, watch);
            assert_eq!(patience.until(), Some((until, watch)));
        }
        patience.arm(origin, Watch::Glance);
        assert!(patience.until().is_some(), "a deadline in the past is one");
        patience.disarm();
        assert_eq!(patience.until(), None);
    }
}
