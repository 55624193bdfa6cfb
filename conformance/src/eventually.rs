//! Waiting for a condition with a deadline: the only place of the testbed that sleeps. It never waits "long enough";
//! it waits until the condition holds, and says why it did not.

use std::fmt::Display;
use std::thread;
use std::time::Duration;

use crate::clock;

/// How long a condition may take to become true. Generous: the machine may be busy building.
pub const PATIENCE: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// Polls `probe` until it gives a value. Panics with the last reason after [`PATIENCE`].
#[track_caller]
pub fn eventually<T, E: Display>(what: &str, probe: impl FnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, probe)
}

/// The same with another deadline.
#[track_caller]
pub fn within<T, E: Display>(patience: Duration, what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let started = clock::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(reason) if started.elapsed() > patience => {
                panic!("{what}: not within {patience:?}; at last: {reason}")
            }
            Err(_) => thread::sleep(POLL_EVERY),
        }
    }
}

/// Watches over a short window that something stays as it is. Absence can only be seen by looking for a while; the
/// window is the longest in which the unwanted would have happened by itself.
#[track_caller]
pub fn never<E: Display>(window: Duration, what: &str, mut holds: impl FnMut() -> Result<(), E>) {
    let started = clock::now();
    while started.elapsed() < window {
        if let Err(reason) = holds() {
            panic!("{what}: broken after {:?}: {reason}", started.elapsed());
        }
        thread::sleep(POLL_EVERY);
    }
}

/// Holds a thread for a while on purpose: an origin that is slow, a client that dribbles.
pub fn pause(time: Duration) {
    thread::sleep(time);
}
