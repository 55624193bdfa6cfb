//! The one place of the registry that reads the clock. Everything else is given a [`Timestamp`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::timestamp::Timestamp;

/// Counts from the wall clock's time at the start, monotonically: stepping the machine's clock neither
/// kills a lease nor keeps a dead one alive.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    started_at: Duration,
}

impl Clock {
    /// Takes the machine's time as the start.
    #[expect(clippy::disallowed_methods, reason = "this is the registry's clock")]
    pub fn start() -> Self {
        // A machine that believes it is before 1970 counts from there.
        let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_at }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.since_epoch().as_millis()).unwrap_or(u64::MAX))
    }

    /// Now, since the Unix epoch, to the nanosecond.
    pub fn since_epoch(&self) -> Duration {
        self.started_at + self.uptime()
    }

    /// The machine's time now, since the Unix epoch: the one that the times in tokens are about. It may be stepped.
    #[expect(clippy::disallowed_methods, reason = "this is the registry's clock")]
    pub fn time_of_day(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// How long ago the process took its start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
