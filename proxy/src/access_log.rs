//! The access log: one line of JSON per request (spec/control-and-proxy.md 3.8), gathered in a bounded buffer that one
//! thread writes. It never makes a request wait for a file: what does not fit is dropped and counted.

mod record;

use std::cell::Cell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounter;
use registry_api::setting::BadSetting;

pub use record::{Flag, Flags, Record, VALUE_MAX_BYTES};

use crate::config::LogTarget;

/// How many lines may wait to be written, those being written included.
pub const QUEUE_LINES_MAX: usize = 8192;
/// How many bytes may wait to be written, those being written included.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;
/// How long lines are gathered before they are written: under load no request pays for waking the writer.
const GATHER: Duration = Duration::from_millis(100);
/// The lines and the bytes at which they are written at once. No more than a processor has at hand: what has been pushed out
/// to slower memory is fetched back to be written, and the requests' own memory was pushed out for it.
const HURRY_LINES: usize = QUEUE_LINES_MAX / 4;
const HURRY_BYTES: usize = 256 << 10;
/// How long the end waits for what is queued to be written: a reader that is stuck must not keep a process alive.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Buffers that grew beyond this are given back.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// The same for what a thread makes its lines in.
const LINE_KEPT_BYTES_MAX: usize = 4 << 10;

thread_local! {
    /// Where lines of this thread are made, before anybody waits for the lock.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The access log of one proxy. Dropping it writes what is queued, if that can be done soon.
#[derive(Default)]
pub struct AccessLog {
    /// `None` when there is no log.
    shared: Option<Arc<Shared>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// For the writer: there is something to do.
    wake: Condvar,
    /// For those who wait for a flush.
    written: Condvar,
    dropped: IntCounter,
}

/// What waits for the writer.
#[derive(Default)]
struct Queue {
    text: Vec<u8>,
    lines: usize,
    /// What the writer has taken and not yet written.
    taken_bytes: usize,
    taken_lines: usize,
    /// The writer sleeps until it is woken; otherwise it looks by itself soon.
    asleep: bool,
    hurry: bool,
    reopen: bool,
    ended: bool,
    /// Flushes asked for and done, by number.
    flushes_wanted: u64,
    flushes_done: u64,
}

/// What the writer took to write at once.
struct Batch {
    text: Vec<u8>,
    lines: usize,
    reopen: bool,
    flushes: u64,
    last: bool,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

impl AccessLog {
    /// No log: whatever is written to it is gone.
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether there is a log. Without one no line needs to be made.
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Opens the log, creating the file and its folder. `dropped` counts lines that were not written.
    pub fn open(target: &LogTarget, dropped: IntCounter) -> Result<Self, BadSetting> {
        let sink = Sink::open(target).map_err(|error| refuse(target, &error))?;
        Self::start(sink, dropped).map_err(|error| refuse(target, &error))
    }

    fn start(sink: Sink, dropped: IntCounter) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
            dropped,
        });
        let writer = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("a8-access-log".to_owned())
                .spawn(move || Writer { sink, shared, failing: false, rest: Vec::new() }.run())?
        };
        Ok(Self { shared: Some(shared), writer: Some(writer) })
    }

    /// Queues one line. Never waits for the file.
    pub fn write(&self, record: &Record<'_>) {
        let Some(shared) = &self.shared else { return };
        let mut line = LINE.take();
        record.write_to(&mut line);
        shared.queue_up(&line);
        line.clear();
        line.shrink_to(LINE_KEPT_BYTES_MAX);
        LINE.set(line);
    }

    /// Opens the file anew, for whoever moved it away. Lines that are queued go to the new file.
    pub fn reopen(&self) {
        if let Some(shared) = &self.shared {
            shared.urge(|queue| queue.reopen = true);
        }
    }

    /// Waits until everything queued before is written, at most `within`; says whether it was.
    pub fn flush(&self, within: Duration) -> bool {
        let Some(shared) = &self.shared else { return true };
        let mut number = 0;
        shared.urge(|queue| {
            queue.flushes_wanted += 1;
            number = queue.flushes_wanted;
        });
        let done = shared
            .written
            .wait_timeout_while(shared.queue(), within, |queue| queue.flushes_done < number)
            .unwrap_or_else(PoisonError::into_inner);
        !done.1.timed_out()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let written = self.flush(END_WITHIN);
        if let Some(shared) = &self.shared {
            shared.urge(|queue| queue.ended = true);
        }
        if !written {
            return tracing::error!("access log is not written to its end");
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits for the file.
    fn queue_up(&self, line: &[u8]) {
        let mut queue = self.queue();
        if !queue.has_room_for(line.len()) {
            drop(queue);
            return self.dropped.inc();
        }
        queue.text.extend_from_slice(line);
        queue.lines += 1;
        let is_full = queue.lines >= HURRY_LINES || queue.text.len() >= HURRY_BYTES;
        let hurried = is_full && !std::mem::replace(&mut queue.hurry, is_full);
        let woken = std::mem::take(&mut queue.asleep);
        drop(queue);
        if hurried || woken {
            self.wake.notify_one();
        }
    }

    /// Changes what the writer is to do, and has it done now.
    fn urge(&self, change: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue();
        change(&mut queue);
        queue.hurry = true;
        queue.asleep = false;
        drop(queue);
        self.wake.notify_one();
    }

    /// What is to be written next, put into `text`, which is empty. Waits for it, and then for more to come.
    fn take(&self, text: Vec<u8>) -> Batch {
        let mut queue = self.queue();
        queue.asleep = queue.text.is_empty() && !queue.hurry;
        let queue = self.wake.wait_while(queue, |queue| queue.asleep).unwrap_or_else(PoisonError::into_inner);
        let gathered = self.wake.wait_timeout_while(queue, GATHER, |queue| !queue.hurry);
        let mut queue = gathered.unwrap_or_else(PoisonError::into_inner).0;
        queue.take(text)
    }

    /// The batch is written, or lost.
    fn done(&self, batch: &Batch) {
        let mut queue = self.queue();
        (queue.taken_bytes, queue.taken_lines) = (0, 0);
        queue.flushes_done = batch.flushes;
        drop(queue);
        self.written.notify_all();
    }
}

impl Queue {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.lines + self.taken_lines < QUEUE_LINES_MAX
            && self.text.len() + self.taken_bytes + bytes <= QUEUE_BYTES_MAX
    }

    fn take(&mut self, text: Vec<u8>) -> Batch {
        self.hurry = false;
        self.taken_bytes = self.text.len();
        self.taken_lines = self.lines;
        Batch {
            text: std::mem::replace(&mut self.text, text),
            lines: std::mem::take(&mut self.lines),
            reopen: std::mem::take(&mut self.reopen),
            flushes: self.flushes_wanted,
            last: self.ended,
        }
    }
}

fn refuse(target: &LogTarget, error: &io::Error) -> BadSetting {
    let path = match target {
        LogTarget::Stdout => Path::new("-"),
        LogTarget::File(path) => path,
    };
    BadSetting::new("logging_dir", format!("cannot write {}: {error}", path.display()))
}

/// Where lines end up, and how to get there again.
struct Sink {
    to: Box<dyn Write + Send>,
    target: Option<LogTarget>,
}

impl Sink {
    fn open(target: &LogTarget) -> io::Result<Self> {
        let to: Box<dyn Write + Send> = match target {
            LogTarget::Stdout => Box::new(io::stdout()),
            LogTarget::File(path) => Box::new(append(path)?),
        };
        Ok(Self { to, target: Some(target.clone()) })
    }
}

fn append(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    failing: bool,
    /// What is missing of a line that was begun.
    rest: Vec<u8>,
}

impl Writer {
    fn run(mut self) {
        let mut spare = Vec::new();
        loop {
            let mut batch = self.shared.take(spare);
            self.put(&batch);
            self.shared.done(&batch);
            if batch.last {
                return self.shared.dropped.inc_by(u64::from(!self.rest.is_empty()));
            }
            batch.text.clear();
            batch.text.shrink_to(KEPT_BYTES_MAX);
            spare = batch.text;
        }
    }

    /// Writes whole lines. What cannot be written is dropped and counted: the next lines may fare better. A line that was
    /// begun goes on before them.
    fn put(&mut self, batch: &Batch) {
        if batch.reopen {
            self.reopen();
        }
        let (sent, mut written) = write(&mut self.sink.to, &self.rest);
        self.rest.drain(..sent);
        let mut sent = 0;
        if written.is_ok() {
            (sent, written) = write(&mut self.sink.to, &batch.text);
        }
        let (done, left) = batch.text.split_at(sent);
        let mut lost = batch.lines - done.iter().filter(|byte| **byte == b'\n').count();
        if !left.is_empty() && done.last().is_some_and(|byte| *byte != b'\n') {
            self.rest.extend(left.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default());
            lost -= 1;
        }
        let written = written.and_then(|()| self.sink.to.flush());
        match (&written, self.failing) {
            (Err(error), false) => tracing::error!(%error, "access log cannot be written"),
            (Ok(()), true) => tracing::info!("access log is written again"),
            _ => {}
        }
        self.failing = written.is_err();
        self.shared.dropped.inc_by(lost as u64);
    }

    fn reopen(&mut self) {
        let Some(target) = &self.sink.target else { return };
        match Sink::open(target) {
            Ok(sink) => {
                self.sink = sink;
                // It would be no line there.
                self.shared.dropped.inc_by(u64::from(!self.rest.is_empty()));
                self.rest.clear();
                tracing::info!("access log reopened");
            }
            // The old file still takes lines.
            Err(error) => tracing::error!(%error, "access log cannot be reopened"),
        }
    }
}

/// Writes as much as can be written; how much that was.
fn write(to: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut sent = 0;
    while sent < bytes.len() {
        match to.write(&bytes[sent..]) {
            Ok(0) => return (sent, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => sent += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (sent, Err(error)),
        }
    }
    (sent, Ok(()))
}

#[cfg(test)]
mod tests;
