//! The general engine: pingora-proxy, made when the first request needs it. Making it reads the system's certificates
//! several times over, and beside the lane most proxies never need it. What it does with a request is the gateway's.

use std::sync::Arc;

use pingora::apps::{HttpServerApp as _, HttpServerOptions};
use pingora::protocols::http::v2::server::default_h2_options;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::sync::OnceCell;

use crate::context::ATTEMPTS_MAX;
use crate::gateway::Gateway;
use crate::service::Limits;
use crate::tls;

/// HTTP/2 towards clients: streams of one connection, bytes in flight of one stream and of one connection.
const HTTP2_STREAMS_MAX: u32 = 128;
const HTTP2_HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
const HTTP2_WINDOW_BYTES: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// The general engine of one thread.
pub(crate) struct General {
    made: OnceCell<Arc<HttpProxy<Gateway>>>,
    plan: Plan,
}

/// What it is made of.
#[derive(Clone)]
struct Plan {
    gateway: Gateway,
    limits: Limits,
    /// How many unused connections to instances it keeps.
    kept_max: usize,
}

impl General {
    /// One that is not made yet.
    pub(crate) fn planned(gateway: Gateway, limits: Limits, kept_max: usize) -> Self {
        Self { made: OnceCell::new(), plan: Plan { gateway, limits, kept_max } }
    }

    /// Makes it now. At the start, when the certificates were just read.
    pub(crate) fn make(&self) {
        if !self.made.initialized() {
            // Nobody else makes it before the thread that uses it starts.
            let _made = self.made.set(Arc::new(self.plan.clone().made()));
        }
    }

    /// The engine, made on a thread aside if need be; `None` when the system's certificates cannot be read any more, without
    /// which Pingora's would panic.
    pub(crate) async fn get(&self) -> Option<&Arc<HttpProxy<Gateway>>> {
        let make = || async {
            let plan = self.plan.clone();
            let made = tokio::task::spawn_blocking(move || {
                tls::check_roots()
                    .inspect_err(|error| tracing::error!(%error, "the general engine cannot be made"))
                    .ok()
                    .map(|()| Arc::new(plan.made()))
            });
            made.await.ok().flatten().ok_or(())
        };
        self.made.get_or_try_init(make).await.ok()
    }

    /// Ends what it keeps for clients, when no port is open any more.
    pub(crate) async fn cleanup(&self) {
        if let Some(proxy) = self.made.get() {
            proxy.http_cleanup().await;
        }
    }
}

impl Plan {
    fn made(self) -> HttpProxy<Gateway> {
        let conf = ServerConf {
            threads: 1,
            upstream_keepalive_pool_size: self.kept_max,
            // Attempts are counted per request; this is only the ceiling above them. Zero would give no answer.
            max_retries: ATTEMPTS_MAX as usize + 1,
            ..ServerConf::default()
        };
        let mut proxy = http_proxy(&Arc::new(conf), self.gateway);
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(self.limits.http2_idle_within);
        proxy.server_options = Some(options);
        // Always from these: options made from nothing have no bounds (CVE-2026-105297).
        let mut http2 = default_h2_options();
        http2.max_concurrent_streams(HTTP2_STREAMS_MAX);
        http2.max_header_list_size(HTTP2_HEADER_LIST_BYTES_MAX);
        http2.initial_window_size(HTTP2_WINDOW_BYTES);
        http2.initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES);
        proxy.h2_options = Some(http2);
        proxy
    }
}
