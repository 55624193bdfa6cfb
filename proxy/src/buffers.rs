//! Memory for bytes on their way, kept per thread: taken when bytes are there, given back when none are, so that whoever
//! waits holds none. It knows nothing of what the bytes mean.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Poll, ready};

use tokio::io::ReadBuf;

/// Enough for most answers at once.
const SMALL_BYTES: usize = 16 * 1024;
/// Enough to keep the number of system calls for large bodies low.
const LARGE_BYTES: usize = 256 * 1024;
/// How many large buffers of one thread may be in use at once; whoever comes then gets a small one.
const LARGE_MAX: usize = 64;
/// How many unused buffers of either size a thread keeps.
const SPARE_MAX: usize = 16;

/// Bytes that were read and not yet written.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Empty only while it is being dropped.
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// The unused buffers of one thread.
#[derive(Default)]
struct Spare {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    large_in_use: usize,
    in_use: Arc<AtomicI64>,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// How many buffers this thread has given out; for a gauge.
pub(crate) fn in_use() -> Arc<AtomicI64> {
    SPARE.with_borrow(|spare| Arc::clone(&spare.in_use))
}

impl Buffer {
    /// An empty buffer of this thread, as large as there is.
    pub(crate) fn take() -> Self {
        let bytes = SPARE.with_borrow_mut(|spare| {
            // Only this thread writes it.
            spare.in_use.store(spare.in_use.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            let (kept, size) = if spare.large_in_use < LARGE_MAX {
                spare.large_in_use += 1;
                (&mut spare.large, LARGE_BYTES)
            } else {
                (&mut spare.small, SMALL_BYTES)
            };
            // Zeros from the system cost nothing until they are touched.
            kept.pop().unwrap_or_else(|| vec![0; size].into_boxed_slice())
        });
        Self { bytes, start: 0, end: 0 }
    }

    /// What was read and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether nothing more can be read into it, whatever is moved.
    pub(crate) fn is_full(&self) -> bool {
        self.end - self.start == self.bytes.len()
    }

    /// Forgets the first bytes.
    pub(crate) fn consume(&mut self, len: usize) {
        self.start += len;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Has `read` read behind what is there already; 0 at the end of the stream.
    pub(crate) fn poll_fill(
        &mut self,
        read: impl FnOnce(&mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<usize>> {
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut space = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(read(&mut space))?;
        let read = space.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }

    /// Makes room for `len` bytes in all, where it is a small one.
    pub(crate) fn grow(&mut self, len: usize) {
        if self.bytes.len() >= len {
            return;
        }
        let mut bytes = vec![0; len].into_boxed_slice();
        bytes[..self.end - self.start].copy_from_slice(&self.bytes[self.start..self.end]);
        (self.start, self.end) = (0, self.end - self.start);
        self.bytes = bytes;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // Without the thread's own there is nowhere to give it back to.
        let _gone = SPARE.try_with(|spare| {
            let Spare { small, large, large_in_use, in_use } = &mut *spare.borrow_mut();
            in_use.store(in_use.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
            let kept = if bytes.len() == LARGE_BYTES {
                *large_in_use -= 1;
                large
            } else {
                small
            };
            // One that had to grow is neither.
            if kept.len() < SPARE_MAX && (bytes.len() == LARGE_BYTES || bytes.len() == SMALL_BYTES) {
                kept.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use tokio::io::AsyncRead;

    use super::*;

    fn fill(buffer: &mut Buffer, mut bytes: &[u8]) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(read) = buffer.poll_fill(|space| Pin::new(&mut bytes).poll_read(&mut cx, space))
        else {
            panic!("it is there")
        };
        read.unwrap()
    }

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came_and_room_is_found_again() {
        let mut buffer = Buffer::take();
        assert_eq!(fill(&mut buffer, b"hello"), 5);
        buffer.consume(2);
        assert_eq!(fill(&mut buffer, b" you"), 4);
        assert_eq!(buffer.filled(), b"llo you");
        let rest = vec![b'x'; LARGE_BYTES];
        let first = fill(&mut buffer, &rest);
        assert_eq!(first, LARGE_BYTES - 9, "what was consumed is not yet room");
        assert!(!buffer.is_full());
        assert_eq!(fill(&mut buffer, &rest), 2, "now it is");
        assert!(buffer.is_full() && buffer.filled().starts_with(b"llo youx"));
        buffer.consume(LARGE_BYTES);
        assert!(buffer.is_empty() && !buffer.is_full());
    }

    #[test]
    fn large_ones_are_bounded_and_every_one_is_given_back() {
        let count = in_use();
        let taken: Vec<_> = (0..LARGE_MAX + SPARE_MAX + 3).map(|_| Buffer::take()).collect();
        assert_eq!(count.load(Ordering::Relaxed), taken.len() as i64);
        assert_eq!(taken[LARGE_MAX - 1].bytes.len(), LARGE_BYTES);
        assert_eq!(taken[LARGE_MAX].bytes.len(), SMALL_BYTES);
        drop(taken);
        assert_eq!(count.load(Ordering::Relaxed), 0);
        SPARE.with_borrow(|spare| {
            assert_eq!((spare.large.len(), spare.small.len()), (SPARE_MAX, SPARE_MAX));
            assert_eq!(spare.large_in_use, 0);
        });
    }

    #[test]
    fn a_small_one_grows_once_and_keeps_what_it_holds() {
        let taken: Vec<_> = (0..LARGE_MAX).map(|_| Buffer::take()).collect();
        let mut small = Buffer::take();
        fill(&mut small, b"head");
        small.consume(1);
        small.grow(64 * 1024);
        assert_eq!((small.filled(), small.bytes.len()), (&b"ead"[..], 64 * 1024));
        drop((taken, small));
        assert_eq!(in_use().load(Ordering::Relaxed), 0);
    }
}
