//! Everything of one proxy that outlives a table, opened in the order in which it can fail. It listens
//! nowhere and starts no loop: those are the server's and the background's.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use control_api::Snapshot;
use registry_api::setting::BadSetting;
use tokio::sync::Notify;

use crate::access_log::AccessLog;
use crate::board::Board;
use crate::config::Config;
use crate::counts::Counts;
use crate::data_dir::DataDir;
use crate::feed::{Source, Stage, Status, last_good};
use crate::metrics::Metrics;
use crate::resolve::Resolver;
use crate::tables::{Table, Tables};
use crate::tls::{self, Tls};
use crate::tracer::Tracer;
use crate::tracer::export::Exporter;

/// The parts that the request path, the feed and the operators share.
#[derive(Debug)]
pub struct Live {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Live state beside the table.
    pub board: Arc<Board>,
    /// The table.
    pub tables: Arc<Tables>,
    /// Host names.
    pub resolver: Arc<Resolver>,
    /// One line per request.
    pub access_log: Arc<AccessLog>,
    /// Records requests; `None` when no collector is named.
    pub tracer: Option<Arc<Tracer>>,
    /// Sends what the tracer finishes, until somebody takes it to run it.
    pub exporter: Mutex<Option<Exporter>>,
    /// What the feed says of itself.
    pub status: Arc<Status>,
    /// For the HTTP listener; `None` for plain text.
    pub tls: Option<Arc<Tls>>,
    /// Whether the proxy is about to go.
    pub drain: Arc<Drain>,
    /// What rules make it count.
    pub(crate) counts: Arc<Counts>,
    /// What the feed fills.
    pub stage: Stage,
    /// Held, so that nobody else uses the folder.
    pub data_dir: DataDir,
}

/// Whether the proxy is about to go: it serves on, but nobody should send it more.
#[derive(Debug, Default)]
pub struct Drain {
    begun: AtomicBool,
    replaced: Notify,
}

impl Drain {
    /// From now on.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether it began.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// A successor serves: what is left here is to end requests.
    pub(crate) fn replace(&self) {
        self.replaced.notify_one();
    }

    /// Returns once a successor serves; to one caller.
    pub(crate) async fn replaced(&self) {
        self.replaced.notified().await;
    }
}

impl Live {
    /// Reads the certificates, takes the data folder, opens the access log, and puts the last good snapshot in place when there is
    /// one. `now` is the origin of live times.
    pub fn open(config: &Config, now: Instant) -> Result<Self, BadSetting> {
        Self::inherit(config, None, now)
    }

    /// The same with the lock of the folder, where a predecessor gave it.
    pub(crate) fn inherit(config: &Config, lock: Option<File>, now: Instant) -> Result<Self, BadSetting> {
        tls::check_roots()?;
        let tls = config.tls.clone().map(|files| Tls::open(files).map(Arc::new)).transpose()?;
        let alone = lock.is_none();
        let data_dir = DataDir::open(&config.data_dir, lock)?;
        if alone && let Err(error) = last_good::tidy(data_dir.path()) {
            tracing::warn!(%error, "data folder cannot be tidied");
        }
        let metrics = Arc::new(Metrics::new());
        let access_log = match &config.access_log {
            Some(target) => AccessLog::open(target, metrics.access_log_dropped.clone())?,
            None => AccessLog::off(),
        };
        let (tracer, exporter) = match &config.tracing {
            None => (None, None),
            Some(tracing) => {
                let (tracer, finished) = Tracer::new(tracing.sampler, metrics.spans_dropped.clone());
                let (exported, dropped) = (metrics.spans_exported.clone(), metrics.spans_dropped.clone());
                let name = tracing.service_name.clone();
                let exporter = Exporter::new(&tracing.endpoint, name, finished, exported, dropped)
                    .map_err(|error| BadSetting::new("otel_exporter_otlp_endpoint", error.to_string()))?;
                (Some(tracer), Some(exporter))
            }
        };
        let resolver = Arc::new(Resolver::default());
        let board = Board::new(Arc::clone(&metrics), Arc::clone(&resolver), now);
        let board = Arc::new(board.with_series_max(config.metrics_series_max));
        let tables = Arc::new(Tables::new(Table::empty()).map_err(|error| no_thread(&error))?);
        let status = Arc::new(Status::default());
        let stage = Stage {
            identity: config.identity.clone(),
            tables: Arc::clone(&tables),
            board: Arc::clone(&board),
            resolver: Arc::clone(&resolver),
            metrics: Arc::clone(&metrics),
            status: Arc::clone(&status),
        };
        let live = Self {
            metrics,
            board,
            tables,
            resolver,
            access_log: Arc::new(access_log),
            tracer,
            exporter: Mutex::new(exporter),
            status,
            tls,
            drain: Arc::default(),
            counts: Arc::new(Counts::new(now)),
            stage,
            data_dir,
        };
        live.start_from_last_good();
        Ok(live)
    }

    fn start_from_last_good(&self) {
        match last_good::load(self.data_dir.path()) {
            Ok(None) => {}
            Ok(Some((snapshot, position))) => {
                let table = self.stage.compile(&Snapshot::default(), &snapshot);
                self.stage.swap(table, Source::LastGood, Arc::new(snapshot), position);
            }
            Err(error) => tracing::warn!(%error, "last good snapshot ignored"),
        }
    }
}

/// The one resource that nothing but the number of threads can be blamed for.
pub(crate) fn no_thread(error: &io::Error) -> BadSetting {
    BadSetting::new("threads", format!("cannot start a thread: {error}"))
}
