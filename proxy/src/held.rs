//! Counts the requests that delays hold, over all threads, and refuses those beyond the bound. How long each is held is
//! decided elsewhere.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests may be held by delays at once; those beyond it go on at once.
const HELD_MAX: usize = 1000;

/// A request that is being held; counted until it is dropped.
pub(crate) struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    pub(crate) fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let held = Self(count);
        (before < HELD_MAX).then_some(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
