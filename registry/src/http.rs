//! The HTTP side of the registry: routes, and what holds for all of them. Handlers turn bytes into commands
//! and outcomes into bytes; they decide nothing.

pub mod auth;
pub mod body;
pub mod error;
pub mod eureka;
pub mod fuzz;
mod guard;
pub mod health;
pub mod listen;
pub mod messages;
mod native;
pub(crate) mod openapi;
mod operation;
mod stall;
mod state;
pub mod tls;
pub mod watch;

use std::sync::Arc;

use axum::Router;
use axum::extract::MatchedPath;
use axum::middleware;
use axum::routing::{MethodRouter, delete, get, post, put};

use error::Refusal;
pub use state::{App, RequestIds};

/// The content type of every answer but the metrics, also of empty ones (spec/registry.md 0.4).
pub(crate) const JSON: &str = "application/json; charset=utf-8";

/// All routes of the registry.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", only_get(get(health::alive)))
        .route("/uptime", only_get(get(health::uptime)))
        .route("/openapi.json", only_get(get(openapi::describe)))
        .route("/metrics", only_get(get(health::metrics)))
        .route("/api/v1/instances", only_get(post(native::register).get(native::list)))
        .route("/api/v1/instances/{id}", delete(native::deregister))
        .route("/api/v1/instances/{id}/heartbeat", put(native::renew))
        // An empty inner segment matches, with nothing in it (spec/registry.md 0.4).
        .route("/api/v1/instances//heartbeat", put(native::id_missing))
        .route("/api/v1/heartbeats", put(native::renew_many))
        .route("/api/v1/services", only_get(get(native::services)))
        .route("/api/v1/services/{name}", only_get(get(native::service)))
        .route("/api/v1/watch", only_get(get(watch::poll)))
        .merge(eureka::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(async || Refusal::NotFound)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::guard))
        .with_state(app)
}

/// Takes the automatic HEAD away.
fn only_get(route: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    route.head(method_not_allowed)
}

async fn method_not_allowed(path: MatchedPath) -> Refusal {
    Refusal::MethodNotAllowed { allow: operation::allowed(path.as_str()) }
}
