//! The composition of the registry: what runs, in which order it starts, and in which order it ends. No
//! decision is taken here but when things happen.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use registry_api::setting::BadSetting;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::catalog_source::{CatalogSource, Sink};
use crate::checks::Checks;
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::file_catalog::FileCatalog;
use crate::http::auth::Modes;
use crate::http::body::Bodies;
use crate::http::eureka::{Eureka, self_preservation};
use crate::http::messages::{self, Messages};
use crate::http::tls::Certificate;
use crate::http::{App, RequestIds, health, listen, router};
use crate::metrics::Metrics;
use crate::pulse::Pulse;
use crate::snapshot;
use crate::snapshot_writer::SnapshotWriter;
use crate::tenants::Tenants;

/// How often leases are looked at; with the width of a slot this keeps expiry well within its second.
const SWEEP_PERIOD: Duration = Duration::from_millis(100);
/// How long the start waits for the first look of a read-only catalog.
const SOURCE_PATIENCE: Duration = Duration::from_secs(5);

/// Serves until `shutdown` ends. `ready` is told the address once requests are answered; what was registered
/// before the last stop is there by then. Ends within about two seconds: waiting polls are answered at once,
/// and the snapshot file is written last.
pub async fn serve(
    config: Config,
    ready: impl FnOnce(&[(&'static str, SocketAddr)]),
    shutdown: impl Future<Output = ()>,
) -> Result<(), BadSetting> {
    let dir = DataDir::open(&config.data_dir)?;
    let kept = snapshot::load(&dir)?;
    let clock = Clock::start();
    let metrics = Metrics::new();
    let tenants =
        Tenants::new(&random_text(16), config.capacity, metrics.clone()).preserving(config.preserving);
    let instances: usize = kept.iter().map(|(_, instances)| instances.len()).sum();
    if let Err(problem) = tenants.restore(kept, clock.now()) {
        error!(module = "STORE", %problem, "not every namespace of the snapshot could be restored");
    }
    let certificate = config.tls.clone().map(Certificate::load).transpose()?;
    let tls = certificate.as_ref().map(Certificate::acceptor);
    let sources = sources(&config)?;
    let listener = bind(&config).await?;
    let address = listener.local_addr().map_err(|error| cannot_listen(&config, &error))?;
    let (close, closing) = watch::channel(false);
    let checks = Checks::default();
    let is_preserving = config.preserving.is_some();
    let writer = SnapshotWriter::new(tenants.clone(), dir, metrics.clone());
    checks.set("UPTIME", {
        let clock = clock.clone();
        move || health::running(&clock)
    });
    checks.set(self_preservation::COMPONENT, {
        let tenants = tenants.clone();
        move || self_preservation::health(&tenants, is_preserving)
    });
    checks.set("STORE", writer.health());
    let app = Arc::new(App {
        tenants,
        clock,
        modes: config.modes,
        require_https: config.require_https,
        ttl: config.ttl,
        eureka: Eureka { compat: config.eureka, ..Eureka::default() },
        messages: Messages::load(Path::new(messages::DIRECTORY)),
        checks,
        bodies: Bodies::default(),
        metrics: metrics.clone(),
        closing: closing.clone(),
        request_ids: RequestIds::new(random_text(10)),
    });

    let sweeper = tokio::spawn(sweep(Arc::clone(&app), closing.clone()));
    let follower = tokio::spawn(writer.clone().follow(closing.clone()));
    let connections = metrics.connections.clone();
    let listener =
        tokio::spawn(listen::listen(listener, tls, router(Arc::clone(&app)), connections, closing));
    let mut followed = JoinSet::new();
    for source in sources {
        let sink = Sink::new(source.source(), app.tenants.clone(), app.clock.clone());
        let mut looked = sink.first_look();
        followed.spawn(source.follow(sink));
        let looked = tokio::time::timeout(SOURCE_PATIENCE, looked.wait_for(|looked| *looked)).await;
        if looked.is_err() {
            warn!(module = "AMALGAM8", "a catalog has not been read yet; the registry goes on without it");
        }
    }
    let fresh = tokio::spawn(keep_fresh(app.modes.clone(), certificate, close.subscribe()));
    info!(module = "AMALGAM8", %address, instances, "registry is ready");
    ready(&[("api", address)]);

    shutdown.await;
    info!(module = "AMALGAM8", "registry is going down");
    close.send_replace(true);
    // The listener first: what it still answers belongs into the last snapshot.
    for (name, task) in
        [("listener", listener), ("sweeper", sweeper), ("writer", follower), ("refresher", fresh)]
    {
        if let Err(problem) = task.await {
            error!(module = "AMALGAM8", name, %problem, "a task ended badly");
        }
    }
    followed.shutdown().await;
    writer.write().await;
    Ok(())
}

/// The read-only catalogs that are asked for.
fn sources(config: &Config) -> Result<Vec<Box<dyn CatalogSource>>, BadSetting> {
    let mut sources: Vec<Box<dyn CatalogSource>> = Vec::new();
    if let Some(directory) = &config.fs_catalog {
        if !directory.is_dir() {
            let problem = format!("{} is no directory", directory.display());
            return Err(BadSetting::new("fs_catalog", problem));
        }
        sources.push(Box::new(FileCatalog::new(directory.clone())));
    }
    Ok(sources)
}

async fn bind(config: &Config) -> Result<TcpListener, BadSetting> {
    let listener = listen::bind(&config.host, config.port).await;
    listener.map_err(|error| cannot_listen(config, &error))
}

fn cannot_listen(config: &Config, error: &io::Error) -> BadSetting {
    let (setting, problem) = match error.kind() {
        io::ErrorKind::AddrInUse => ("api_port", "address in use".to_owned()),
        io::ErrorKind::PermissionDenied => ("api_port", "permission denied".to_owned()),
        io::ErrorKind::AddrNotAvailable => ("api_host", "no such address on this machine".to_owned()),
        _ => ("api_host", error.to_string()),
    };
    let host = if config.host.contains(':') { format!("[{}]", config.host) } else { config.host.clone() };
    BadSetting::new(setting, format!("cannot listen on {host}:{}: {problem}", config.port))
}

/// Fetches the keys of signed tokens now and then and follows the certificate, until the registry closes.
async fn keep_fresh(modes: Modes, certificate: Option<Certificate>, mut closing: watch::Receiver<bool>) {
    let mut keepers = JoinSet::new();
    if let Some(certificate) = certificate {
        keepers.spawn(certificate.follow());
    }
    for issuer in modes.issuers() {
        let issuer = Arc::clone(issuer);
        keepers.spawn(async move { issuer.keep_fresh().await });
    }
    let _ = closing.wait_for(|closing| *closing).await;
    keepers.shutdown().await;
}

/// Removes what nobody renewed, until the registry closes.
async fn sweep(app: Arc<App>, mut closing: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(SWEEP_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulse = Pulse::start(app.clock.now());
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            _ = ticks.tick() => {}
        }
        let now = app.clock.now();
        if pulse.stood_still(now) {
            warn!(module = "STORE", "the registry stood still; every lease is given its whole time again");
            app.tenants.hear_from(now);
        }
        app.tenants.expire(now);
    }
}

/// Names this life of the registry; not a secret.
fn random_text(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphabetic).take(length).collect()
}
