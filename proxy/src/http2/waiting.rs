//! Counts the pieces of an answer that wait for the connection to take them: h2 bounds their bytes and not their frames, each
//! of which holds more memory than a small piece has bytes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// So many pieces of one stream may wait.
const PIECES_MAX: usize = 16;

/// What waits of one stream.
#[derive(Debug, Default)]
pub(super) struct Waiting(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pieces: AtomicUsize,
    /// Whoever waits for one of them to go.
    waker: Mutex<Option<Waker>>,
}

/// A piece; it no longer waits when it is dropped.
struct Piece {
    bytes: Vec<u8>,
    shared: Arc<Shared>,
}

impl Waiting {
    /// Ready when one more may wait.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        *self.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        // It may have gone before anybody could be told.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// One more.
    pub(super) fn piece(&self, bytes: Vec<u8>) -> Bytes {
        self.0.pieces.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Piece { bytes, shared: Arc::clone(&self.0) })
    }

    fn has_room(&self) -> bool {
        self.0.pieces.load(Ordering::SeqCst) < PIECES_MAX
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.shared.pieces.fetch_sub(1, Ordering::SeqCst);
        let waker = self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_so_many_wait_and_whoever_has_one_more_is_told_when_there_is_room() {
        let (waiting, woken) = (Waiting::default(), Arc::new(Woken(AtomicBool::new(false))));
        let waker = Arc::clone(&woken).into();
        let cx = Context::from_waker(&waker);
        let mut pieces = Vec::new();
        for at in 0..PIECES_MAX {
            assert!(waiting.poll_room(&cx).is_ready());
            pieces.push(waiting.piece(vec![u8::try_from(at).unwrap()]));
        }
        assert!(waiting.poll_room(&cx).is_pending() && !woken.0.load(Ordering::SeqCst));
        // A frame may take a part of it.
        let rest = pieces.pop().unwrap();
        let part = rest.clone();
        drop(rest);
        assert!(!woken.0.load(Ordering::SeqCst) && part[..] == [15]);
        drop(part);
        assert!(woken.0.load(Ordering::SeqCst) && waiting.poll_room(&cx).is_ready());
    }
}
