//! The general engine: pingora-proxy, made when the first request needs it. Making it reads the system's certificates
//! several times over, and beside the lane most proxies never need it. What it does with a request is the gateway's.

use std::sync::Arc;

use pingora::apps::HttpServerApp as _;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::sync::OnceCell;

use crate::context::ATTEMPTS_MAX;
use crate::gateway::Gateway;
use crate::tls;

/// The general engine of one thread.
pub(crate) struct General {
    made: OnceCell<Arc<HttpProxy<Gateway>>>,
    plan: Plan,
}

/// What it is made of.
#[derive(Clone)]
struct Plan {
    gateway: Gateway,
    /// How many unused connections to instances it keeps.
    kept_max: usize,
}

impl General {
    /// One that is not made yet.
    pub(crate) fn planned(gateway: Gateway, kept_max: usize) -> Self {
        Self { made: OnceCell::new(), plan: Plan { gateway, kept_max } }
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
        http_proxy(&Arc::new(conf), self.gateway)
    }
}
