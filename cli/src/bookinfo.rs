//! The demonstration application of spec/control-and-proxy.md 5.2: productpage, details, reviews and
//! ratings as small servers that register themselves and call onward through their own sidecars. Not a
//! production service: it exists to be routed, split, delayed and aborted.

mod lease;
mod leaves;
mod productpage;
mod reviews;
mod sidecar;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use clap::{Args, ValueEnum};
use registry_api::Registration;
use registry_api::client::RegistryClient;
use registry_api::setting::BadSetting;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config_file::FileKeys;
use crate::role::{NotStarted, Role, announce, lifecycle};
use sidecar::Sidecar;

/// How long open requests may take after the end was asked for.
const DRAIN: Duration = Duration::from_secs(1);
/// Seconds of life between renewals, within the bounds of a registry with default settings.
const TTL_SECS: u32 = 15;

/// One of the services of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum App {
    /// The page, made of details and reviews.
    Productpage,
    /// Facts about the book.
    Details,
    /// Reviews; versions v2 and v3 ask for ratings.
    Reviews,
    /// Stars.
    Ratings,
}

impl App {
    /// The service's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Productpage => "productpage",
            Self::Details => "details",
            Self::Reviews => "reviews",
            Self::Ratings => "ratings",
        }
    }
}

/// What one server of the application needs to know.
#[derive(Debug, Clone, Args)]
pub(crate) struct Settings {
    /// Which service to be.
    #[arg(value_enum)]
    app: App,
    /// Its version; the instance is tagged `version=<version>`.
    #[arg(long = "app_version", default_value = "v1")]
    app_version: String,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 9080)]
    port: u16,
    /// The host under which others reach it; by default the address it listens on.
    #[arg(long = "endpoint_host")]
    endpoint_host: Option<String>,
    /// Where the registry is.
    #[arg(long = "registry_url", default_value = "http://127.0.0.1:8080", value_delimiter = ',')]
    registry_url: Vec<String>,
    /// The bearer token for the registry.
    #[arg(long = "registry_token", hide_env_values = true)]
    registry_token: Option<String>,
    /// Its own sidecar, for calls to other services.
    #[arg(long = "proxy_url", default_value = "http://127.0.0.1:6379")]
    proxy_url: String,
}

/// `a8 demo <app>`.
pub(crate) struct Demo;

impl Role for Demo {
    const NAME: &'static str = "demo";
    const ABOUT: &'static str = "Run one server of the demonstration application";
    const FILE_KEYS: FileKeys = &[];
    type Settings = Settings;

    fn run(settings: Settings) -> Result<(), NotStarted> {
        lifecycle::runtime()?.block_on(serve(settings))
    }
}

async fn serve(settings: Settings) -> Result<(), NotStarted> {
    let end = lifecycle::told_to_end()?;
    let registry = RegistryClient::new(&settings.registry_url, settings.registry_token.as_deref())
        .map_err(|error| BadSetting::new("registry_url", error.to_string()))?;
    let sidecar =
        Sidecar::new(&settings.proxy_url).map_err(|error| BadSetting::new("proxy_url", error.to_string()))?;
    let address = SocketAddr::new(settings.host, settings.port);
    let cannot = |error| BadSetting::new("port", format!("cannot listen on {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;

    let host = settings.endpoint_host.unwrap_or_else(|| address.ip().to_string());
    let registration = Registration {
        ttl: Some(TTL_SECS),
        ..Registration::http(
            settings.app.name(),
            &[&format!("version={}", settings.app_version)],
            format!("{host}:{}", address.port()),
        )
    };
    let (ending, ended) = watch::channel(());
    let server = tokio::spawn(async move {
        let closed = async move {
            let mut ended = ended;
            // Only the drop of the sender ends it; nothing is ever sent.
            while ended.changed().await.is_ok() {}
        };
        axum::serve(listener, router(settings.app, settings.app_version, sidecar))
            .with_graceful_shutdown(closed)
            .await
    });
    announce(settings.app.name())(&[("http", address)]);
    lease::hold(&registry, &registration, end).await;
    drop(ending);
    // Whoever still waits has had its time.
    let _ = tokio::time::timeout(DRAIN, server).await;
    Ok(())
}

fn router(app: App, version: String, sidecar: Sidecar) -> Router {
    let routes = match app {
        App::Productpage => productpage::router(version, sidecar),
        App::Reviews => reviews::router(version, sidecar),
        App::Details => leaves::details(version),
        App::Ratings => leaves::ratings(version),
    };
    routes.route("/health", get(async || "{\"status\":\"healthy\"}"))
}
