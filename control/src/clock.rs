//! The one place where control reads the clock. Everything else takes a [`Moment`].

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::moment::Moment;

/// The resolution of the runtime's timer.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// Control's time line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts the time line.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The moment now.
    pub(crate) fn now(&self) -> Moment {
        Moment::after_start(self.start.elapsed())
    }

    /// Waits until a moment.
    pub(crate) async fn sleep_until(&self, moment: Moment) {
        tokio::time::sleep(moment.since(self.now())).await;
    }

    /// Waits; not at all when it would be less than the timer can tell.
    pub(crate) async fn pause(&self, pause: Duration) {
        if pause >= TIMER_STEP {
            tokio::time::sleep(pause).await;
        }
    }

    /// The time since the Unix epoch, for the times in tokens.
    pub(crate) fn since_epoch(&self) -> Duration {
        // A machine that believes it is before 1970 counts from there.
        self.time_of_day().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// The time of day, for people who read reports.
    #[expect(clippy::disallowed_methods, reason = "this is the role's clock")]
    pub(crate) fn time_of_day(&self) -> SystemTime {
        SystemTime::now()
    }
}
