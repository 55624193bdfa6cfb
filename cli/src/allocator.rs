//! The program's allocator. What was freed it keeps for whoever asks next, and a role asks for most when it starts and when a
//! large table comes; so it is told, now and then, to give back to the system what lies about.

use std::thread;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Soon after the start, which leaves much behind, and later less often.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// It calls next to nothing.
const STACK_BYTES: usize = 64 * 1024;

/// Looks after the memory for as long as the process lives.
pub(crate) fn look_after() {
    let look = || {
        let mut pause = FIRST_PAUSE;
        loop {
            thread::park_timeout(pause);
            give_back();
            pause = (2 * pause).min(LAST_PAUSE);
        }
    };
    let started = thread::Builder::new().name("a8-memory".to_owned()).stack_size(STACK_BYTES).spawn(look);
    if let Err(error) = started {
        tracing::warn!(%error, "memory that is not used is kept");
    }
}

/// The one call of the program that the language cannot check.
#[allow(unsafe_code, reason = "the allocator's own interface, and nobody wraps it")]
fn give_back() {
    // SAFETY: it takes and gives no pointer, any thread may call it at any time, and what is allocated it leaves alone.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
