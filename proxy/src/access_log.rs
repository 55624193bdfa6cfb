//! The access log: one line of JSON per request (spec/control-and-proxy.md 3.8), handed to one writer thread
//! through a bounded queue. It never makes a request wait: what does not fit is dropped and counted.

mod record;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounter;
use registry_api::setting::BadSetting;

pub use record::{Flag, Flags, Record, VALUE_MAX_BYTES};

use crate::config::LogTarget;

/// How many lines may wait for the writer.
pub const QUEUE_LINES_MAX: usize = 8192;
/// How many bytes may wait for the writer.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;
/// How much is gathered before it is written while lines keep coming.
const WRITE_BYTES: usize = 64 << 10;

enum Message {
    Line(Vec<u8>),
    /// Only wakes the writer, so that a reopened file exists before the next request.
    Wake,
    Flush(SyncSender<()>),
}

/// The access log of one proxy. Dropping it writes what is queued.
pub struct AccessLog {
    queue: Option<SyncSender<Message>>,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queued_bytes: AtomicUsize,
    reopen: AtomicBool,
    dropped: IntCounter,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Opens the log, creating the file and its folder. `dropped` counts lines that were not written.
    pub fn open(target: &LogTarget, dropped: IntCounter) -> Result<Self, BadSetting> {
        let sink = Sink::open(target).map_err(|error| refuse(target, &error))?;
        Self::start(sink, dropped).map_err(|error| refuse(target, &error))
    }

    fn start(sink: Sink, dropped: IntCounter) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        let shared =
            Arc::new(Shared { queued_bytes: AtomicUsize::new(0), reopen: AtomicBool::new(false), dropped });
        let writer = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("a8-access-log".to_owned())
                .spawn(move || Writer { sink, shared, failing: false }.run(&lines))?
        };
        Ok(Self { queue: Some(queue), shared, writer: Mutex::new(Some(writer)) })
    }

    /// Queues one line. Never waits.
    pub fn write(&self, record: &Record<'_>) {
        let line = record.to_line();
        let bytes = line.len();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let queue = self.queue.as_ref().filter(|_| queued + bytes <= QUEUE_BYTES_MAX);
        if queue.is_none_or(|queue| queue.try_send(Message::Line(line)).is_err()) {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.dropped.inc();
        }
    }

    /// Opens the file anew, for whoever moved it away. Lines that are queued go to the new file.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        if let Some(queue) = &self.queue {
            // A full queue wakes the writer by itself.
            let _ = queue.try_send(Message::Wake);
        }
    }

    /// Waits until everything queued before is written, at most `within`; says whether it was.
    pub fn flush(&self, within: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        // A full queue is no reason to wait without a bound: the writer is stuck, then.
        let sent = self.queue.as_ref().is_some_and(|queue| queue.try_send(Message::Flush(done)).is_ok());
        sent && is_done.recv_timeout(within).is_ok()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.queue = None;
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
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
}

impl Writer {
    fn run(mut self, lines: &Receiver<Message>) {
        let (mut buffer, mut count) = (Vec::with_capacity(WRITE_BYTES), 0);
        let mut next = lines.recv().ok();
        while let Some(message) = next.take() {
            match message {
                Message::Line(line) => {
                    self.shared.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    buffer.extend_from_slice(&line);
                    count += 1;
                }
                Message::Wake => {}
                Message::Flush(done) => {
                    self.put(&mut buffer, &mut count);
                    let _ = done.try_send(());
                }
            }
            next = match lines.try_recv() {
                Ok(message) if buffer.len() < WRITE_BYTES => Some(message),
                Ok(message) => {
                    self.put(&mut buffer, &mut count);
                    Some(message)
                }
                Err(TryRecvError::Empty) => {
                    self.put(&mut buffer, &mut count);
                    lines.recv().ok()
                }
                Err(TryRecvError::Disconnected) => None,
            };
        }
        self.put(&mut buffer, &mut count);
    }

    /// Writes whole lines. What cannot be written is dropped and counted: the next lines may fare better.
    fn put(&mut self, buffer: &mut Vec<u8>, count: &mut u64) {
        if self.shared.reopen.swap(false, Ordering::Acquire) {
            self.reopen();
        }
        let written = self.sink.to.write_all(buffer).and_then(|()| self.sink.to.flush());
        match (&written, self.failing) {
            (Err(error), false) => tracing::error!(%error, "access log cannot be written"),
            (Ok(()), true) => tracing::info!("access log is written again"),
            _ => {}
        }
        self.failing = written.is_err();
        if self.failing {
            self.shared.dropped.inc_by(*count);
        }
        buffer.clear();
        *count = 0;
    }

    fn reopen(&mut self) {
        let Some(target) = &self.sink.target else { return };
        match Sink::open(target) {
            Ok(sink) => {
                self.sink = sink;
                tracing::info!("access log reopened");
            }
            // The old file still takes lines.
            Err(error) => tracing::error!(%error, "access log cannot be reopened"),
        }
    }
}

#[cfg(test)]
mod tests;
