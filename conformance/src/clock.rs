//! The one place of the testbed that reads the clock. It measures and bounds waits; it decides nothing.

use std::time::Instant;

/// The moment.
#[expect(clippy::disallowed_methods, reason = "the testbed watches real processes in real time")]
pub fn now() -> Instant {
    Instant::now()
}
