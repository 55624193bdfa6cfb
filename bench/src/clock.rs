//! The one place of the benches that reads the clock.

use std::time::Instant;

/// The moment.
#[expect(clippy::disallowed_methods, reason = "measuring time is what a bench is for")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
