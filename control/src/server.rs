//! Composes a running control from its parts: port, store, namespaces, HTTP. It decides the order of
//! start and end, and nothing else.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use registry_api::Namespace;
use registry_api::setting::BadSetting;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::info;

use crate::clock::Clock;
use crate::closing::Announcer;
use crate::config::{AuthMode, Config, StoreKind};
use crate::http::auth::Chain;
use crate::http::{App, Front};
use crate::listen::{self, accept};
use crate::metrics::Metrics;
use crate::persist::{MemoryStore, RedbStore, RuleStore};
use crate::rulebook::RuleBook;
use crate::space::Shared;
use crate::spaces::{RegistryAccess, Spaces};

/// The file whose lock keeps a second process out of a data directory.
const LOCK_FILE: &str = "lock";

/// Runs control until `shutdown` completes. `ready` is told the listening address, under the name `api`,
/// once rules are loaded; before that the port answers 503. Dropping the future ends everything at once,
/// and no acknowledged write is lost.
pub async fn serve(
    config: Config,
    ready: impl FnOnce(&[(&'static str, SocketAddr)]),
    shutdown: impl Future<Output = ()>,
) -> Result<(), BadSetting> {
    let access = RegistryAccess::of(&config)?;
    let listener = bind(&config).await?;
    let address = listener.local_addr().map_err(|error| BadSetting::new("api_port", error.to_string()))?;
    let clock = Clock::start();
    let closing = Announcer::new();
    let front = Arc::new(Front::new(clock, config.require_https));
    let mut accepting = JoinSet::new();
    accepting.spawn(accept(listener, Arc::clone(&front), closing.listen()));

    let kind = config.store.clone();
    let Opened { store, kept, lock: _lock } = tokio::task::spawn_blocking(move || open(&kind))
        .await
        .map_err(|_| BadSetting::new("data_dir", "the rules cannot be read"))??;
    info!(namespaces = kept.len(), "rules loaded");
    let metrics = Arc::new(Metrics::new());
    let shared = Shared {
        clock,
        metrics: Arc::clone(&metrics),
        store,
        epoch: uuid::Uuid::new_v4().simple().to_string().into(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    };
    // Without authentication there is one namespace, and it is followed before anybody asks.
    let always = if config.auth.contains(&AuthMode::None) { vec![Namespace::default()] } else { vec![] };
    let spaces = Arc::new(Spaces::restore(shared, access, kept, &always));
    let chain = Chain::of(&config.auth, &config.keys)?;
    let mut fresh = JoinSet::new();
    for issuer in chain.issuers() {
        fresh.spawn(async move { issuer.keep_fresh().await });
    }
    front.open(Arc::new(App::new(Arc::clone(&spaces), chain, metrics, clock, closing.listen())));
    ready(&[("api", address)]);

    shutdown.await;
    info!("closing");
    closing.announce();
    while accepting.join_next().await.is_some() {}
    fresh.shutdown().await;
    spaces.end().await;
    Ok(())
}

async fn bind(config: &Config) -> Result<TcpListener, BadSetting> {
    let Config { api_host, api_port, .. } = config;
    listen::bind(api_host, *api_port).await.map_err(|error| {
        let (setting, reason) = match error.kind() {
            io::ErrorKind::AddrInUse => ("api_port", "address in use".to_owned()),
            io::ErrorKind::PermissionDenied => ("api_port", "permission denied".to_owned()),
            _ => ("api_host", error.to_string()),
        };
        BadSetting::new(setting, format!("cannot listen on {api_host}:{api_port}: {reason}"))
    })
}

struct Opened {
    store: Arc<dyn RuleStore>,
    kept: Vec<(Namespace, RuleBook)>,
    /// Held as long as control runs.
    lock: Option<fs::File>,
}

fn open(kind: &StoreKind) -> Result<Opened, BadSetting> {
    let StoreKind::Redb(directory) = kind else {
        return Ok(Opened { store: Arc::new(MemoryStore), kept: Vec::new(), lock: None });
    };
    let lock = lock(directory)?;
    let store = RedbStore::open(directory).map_err(|error| BadSetting::new("data_dir", error.to_string()))?;
    let kept = store.load().map_err(|error| BadSetting::new("data_dir", error.to_string()))?;
    Ok(Opened { store: Arc::new(store), kept, lock: Some(lock) })
}

fn lock(directory: &Path) -> Result<fs::File, BadSetting> {
    let bad = |what: &str, error: io::Error| {
        BadSetting::new("data_dir", format!("cannot {what} {}: {error}", directory.display()))
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| bad("create", error))?;
    let file = fs::File::create(directory.join(LOCK_FILE)).map_err(|error| bad("write to", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            let problem = format!("{} is in use by another process", directory.display());
            Err(BadSetting::new("data_dir", problem))
        }
        Err(fs::TryLockError::Error(error)) => Err(bad("lock", error)),
    }
}
