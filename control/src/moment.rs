//! A point on control's own time line, for the steps that take time as an argument. It reads no clock; it
//! is not a time of day.

use std::ops::Add;
use std::time::Duration;

/// Time since control started. Never goes backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The moment `since_start` after the start.
    pub fn after_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The moment that many milliseconds after the start.
    pub fn millis(since_start: u64) -> Self {
        Self(Duration::from_millis(since_start))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}
