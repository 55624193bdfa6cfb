//! What stands between those who say something and standard error: a bounded queue that one thread writes. It never
//! makes a request wait for whoever reads; what does not fit is dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// How many bytes may wait to be written.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// How long the end of the process waits for what is queued.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Takes messages for the thread that writes.
#[derive(Clone)]
pub(super) struct Queue {
    to: Sender<Item>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    queued_bytes: AtomicUsize,
    dropped: AtomicU64,
}

enum Item {
    Line(Vec<u8>),
    /// Everything before it is written.
    Flush(Sender<()>),
}

/// Waits at its end until everything queued is written, but not for ever.
pub(super) struct Written(Sender<Item>);

/// Starts the thread that writes to `sink`.
pub(super) fn start(sink: impl Write + Send + 'static) -> (Queue, Written) {
    let (to, from) = channel();
    let state = Arc::new(State::default());
    let queue = Queue { to: to.clone(), state: Arc::clone(&state) };
    std::thread::spawn(move || write(&from, &state, sink));
    (queue, Written(to))
}

fn write(from: &Receiver<Item>, state: &State, mut sink: impl Write) {
    for item in from {
        match item {
            Item::Line(line) => {
                // A message that cannot be written has nowhere else to go.
                let _ = sink.write_all(&line);
                state.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            // Who asked may have gone.
            Item::Flush(done) => drop(done.send(())),
        }
        let messages = state.dropped.swap(0, Ordering::Relaxed);
        if messages > 0 {
            warn!(messages, "messages were dropped: standard error did not take them");
        }
    }
}

impl Write for Queue {
    /// Takes a whole message, or counts it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let before = self.state.queued_bytes.fetch_add(line.len(), Ordering::Relaxed);
        let fits = before + line.len() <= QUEUE_BYTES_MAX;
        if !fits || self.to.send(Item::Line(line.to_vec())).is_err() {
            self.state.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let (done, told) = channel();
        if self.0.send(Item::Flush(done)).is_ok() {
            // A reader that is stuck keeps nobody from ending.
            let _ = told.recv_timeout(END_PATIENCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a line for every leave it is given, and passes it on.
    struct Stuck {
        leave: Receiver<()>,
        to: Sender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // Once nobody gives leave any more everything is taken.
            let _ = self.leave.recv();
            self.to.send(line.to_vec()).unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_stuck_stops_nobody_and_what_does_not_fit_is_counted() {
        let (go, leave) = channel();
        let (to, written) = channel();
        let (mut queue, end) = start(Stuck { leave, to });
        let line = vec![b'x'; QUEUE_BYTES_MAX / 8];
        for _ in 0..10 {
            queue.write_all(&line).unwrap();
        }
        assert_eq!(queue.state.dropped.load(Ordering::Relaxed), 2);
        drop(go);
        drop(end);
        assert_eq!(written.try_iter().count(), 8, "the end waits for what was queued");
        assert_eq!(queue.state.queued_bytes.load(Ordering::Relaxed), 0);
        queue.write_all(b"later").unwrap();
        assert_eq!(written.recv().unwrap(), b"later");
    }
}
