//! The one thread beside the request threads: it runs the feed, looks up host names, sweeps live state and
//! reopens the access log on SIGHUP, takes up changed certificates, and sends spans. It serves nobody.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use control_api::client::Node;
use registry_api::setting::BadSetting;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::access_log::AccessLog;
use crate::board::Board;
use crate::config::Config;
use crate::feed::last_good::Keeper;
use crate::feed::{Follower, Status, Watch};
use crate::live::{Drain, Live, no_thread};
use crate::resolve::Resolver;
use crate::tls::{REFRESH_EVERY, Tls};
use crate::tracer::export::Exporter;

/// How often live state that no table uses is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Lookups of host names block; a resolver that hangs must not make threads without end.
const BLOCKING_THREADS_MAX: usize = 32;

/// The thread. Dropping it ends it, after the last good snapshot is saved.
#[derive(Debug)]
pub struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts it. `node` is what this proxy says of itself to control.
    pub fn start(config: &Config, node: Node, live: &Live) -> Result<Self, BadSetting> {
        let seen = live.status.seen();
        let watch = Watch {
            client: config.client()?,
            node,
            stage: live.stage.clone(),
            follower: Follower::new(seen.snapshot, seen.position),
            keeper: Keeper::start(live.data_dir.path().to_owned()).map_err(|error| no_thread(&error))?,
        };
        let others = Others {
            resolver: Arc::clone(&live.resolver),
            board: Arc::clone(&live.board),
            access_log: Arc::clone(&live.access_log),
            tls: live.tls.clone(),
            drain: Arc::clone(&live.drain),
            _end: End(Arc::clone(&live.status)),
        };
        let exporter = live.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime().map_err(|error| no_thread(&error))?;
        let thread = std::thread::Builder::new()
            .name("a8-background".to_owned())
            .spawn(move || run(runtime, watch, &others, exporter, stopped))
            .map_err(|error| no_thread(&error))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Others {
    resolver: Arc<Resolver>,
    board: Arc<Board>,
    access_log: Arc<AccessLog>,
    tls: Option<Arc<Tls>>,
    drain: Arc<Drain>,
    _end: End,
}

/// However the thread ends, nobody shall believe that changes still arrive.
struct End(Arc<Status>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lost("the feed has ended".to_owned());
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("a8-lookup")
        .build()
}

fn run(
    runtime: Runtime,
    watch: Watch,
    others: &Others,
    mut exporter: Option<Exporter>,
    stopped: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        tokio::select! {
            // The end first: nothing that is ready may delay it.
            biased;
            _ = stopped => {}
            // Control and the folder are the successor's.
            () = others.drain.replaced() => {}
            () = watch.run() => {}
            () = others.resolver.run() => {}
            () = sweep(&others.board) => {}
            () = reopen(&others.access_log) => {}
            () = refresh(others.tls.as_ref()) => {}
            () = export(exporter.as_mut()) => {}
        }
        if let Some(exporter) = exporter {
            exporter.finish().await;
        }
    });
    // A lookup that hangs is not waited for.
    runtime.shutdown_background();
}

async fn sweep(board: &Board) {
    loop {
        tokio::time::sleep(SWEEP).await;
        board.sweep();
    }
}

async fn export(exporter: Option<&mut Exporter>) {
    if let Some(exporter) = exporter {
        exporter.run().await;
    }
    std::future::pending().await
}

async fn refresh(tls: Option<&Arc<Tls>>) {
    let Some(tls) = tls else { return std::future::pending().await };
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        let tls = Arc::clone(tls);
        // A file on a server that hangs must not hold up the feed.
        let _looked_at = tokio::task::spawn_blocking(move || tls.refresh()).await;
    }
}

#[cfg(unix)]
async fn reopen(access_log: &AccessLog) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::hangup()) {
        Ok(mut hangups) => {
            while hangups.recv().await.is_some() {
                access_log.reopen();
            }
        }
        Err(error) => tracing::error!(%error, "SIGHUP cannot be listened for"),
    }
    std::future::pending().await
}

#[cfg(not(unix))]
async fn reopen(_: &AccessLog) {
    std::future::pending().await
}
