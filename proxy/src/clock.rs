//! Reads the clocks, for the whole role. Nothing else here: every other module takes the time as an argument.

use std::time::{Instant, SystemTime};

/// The clock that only goes forward.
#[expect(clippy::disallowed_methods, reason = "the one place of the role that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The clock on the wall, for what people and log stores read.
#[expect(clippy::disallowed_methods, reason = "the one place of the role that reads the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Seconds since 1970 as metrics write them; 0 before.
pub fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
