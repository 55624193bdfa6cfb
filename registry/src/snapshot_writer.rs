//! Keeps the snapshot file as new as is worth it: soon after a change, and not so often that writing it is all the registry
//! does. What is in the file is [`crate::snapshot`]'s.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

use crate::checks::Health;
use crate::data_dir::DataDir;
use crate::metrics::Metrics;
use crate::snapshot;
use crate::tenants::Tenants;

/// How soon the first change after a quiet time reaches the snapshot file.
const DELAY: Duration = Duration::from_millis(200);
/// The shortest time from one snapshot file to the next.
const PERIOD: Duration = Duration::from_millis(500);
/// The pause after a file that could not be written; each is reported.
const RETRY: Duration = Duration::from_secs(5);
/// A file that takes long to write is written less often: at most this share of the time goes into it.
const SHARE: u32 = 20;

/// Writes the file; clones are the same writer.
#[derive(Debug, Clone)]
pub struct SnapshotWriter {
    tenants: Tenants,
    dir: Arc<DataDir>,
    metrics: Metrics,
    // What was wrong with the last file.
    problem: Arc<Mutex<Option<String>>>,
}

impl SnapshotWriter {
    /// Writes what these namespaces hold.
    pub fn new(tenants: Tenants, dir: DataDir, metrics: Metrics) -> Self {
        Self { tenants, dir: Arc::new(dir), metrics, problem: Arc::default() }
    }

    /// Tells whether a restart would find what is registered now. It keeps neither the directory nor its lock.
    pub fn health(&self) -> impl Fn() -> Health + Send + Sync + use<> {
        let problem = Arc::clone(&self.problem);
        move || match &*problem.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Health::well(),
            Some(problem) => Health::unwell("the snapshot could not be written", problem),
        }
    }

    /// Writes soon after a change and at most twice a second, until the registry closes.
    pub async fn follow(self, mut closing: watch::Receiver<bool>) {
        let mut written = self.tenants.changes();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return,
                () = tokio::time::sleep(DELAY) => {}
            }
            // Read first: a change during the writing counts for the next time.
            let changes = self.tenants.changes();
            let began = Instant::now();
            if changes == written || began < next {
                continue;
            }
            let pause = if self.write().await {
                written = changes;
                PERIOD.max(began.elapsed() * SHARE)
            } else {
                RETRY
            };
            next = Instant::now() + pause;
        }
    }

    /// Whether the file was written. A failure is reported and tried again; the registry goes on.
    pub async fn write(&self) -> bool {
        let writer = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let _timer = writer.metrics.snapshot_seconds.start_timer();
            // Requests go first where there are more threads than processors.
            let contents = writer.tenants.contents(std::thread::yield_now);
            let bytes = snapshot::encode(contents, std::thread::yield_now);
            writer.dir.replace(snapshot::FILE, &bytes)
        });
        let problem = match written.await {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem.to_string()),
            Err(problem) => Some(problem.to_string()),
        };
        if let Some(problem) = &problem {
            self.metrics.snapshot_failures.inc();
            error!(module = "STORE", %problem, "the snapshot could not be written");
        }
        let is_written = problem.is_none();
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        is_written
    }
}
