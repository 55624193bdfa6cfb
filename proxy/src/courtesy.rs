//! How long work beside the requests goes on: in pieces, with the requests first between any two. What the pieces are is
//! each work's own.

use std::thread;

/// Lets whoever is ready go before this thread. To be called every tenth of a millisecond or so.
///
/// A scheduler lets a thread that runs go on until its next tick, however low its priority is, and a request that comes
/// meanwhile waits: for up to 4 ms on a usual kernel. The lowest class would yield at once, but gets nothing at all while a
/// processor is busy, and changes would no longer arrive.
pub(crate) fn stand_aside() {
    thread::yield_now();
}
