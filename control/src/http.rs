//! Control's HTTP: the front that every request passes in the order of spec/control-and-proxy.md 1.2, and
//! the table of routes. What a route does is in the modules below.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get};
use http::{Method, StatusCode};
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::closing::Closing;
use crate::metrics::Metrics;
use crate::spaces::Spaces;

pub(crate) mod auth;
mod body;
mod error;
mod faults;
mod front;
mod health;
mod panic;
mod proxies;
mod query;
mod rules;
mod watch;

pub(crate) use front::Front;

/// How many polls may be in flight. One more is answered 503 at once.
const WAITERS_MAX: usize = 65_536;
/// How many decoded bodies may be on their way to the store, which takes one after the other. Decoded, a
/// body may take fifty times its length.
const WRITES_MAX: usize = 8;
/// How many writes may wait to be applied. Each looks at every proxy again and again.
const APPLIED_WAITS_MAX: usize = 256;
/// How many bytes of long lists of rules may be in the making or on their way to callers, however slowly
/// these take them. One more is answered 503.
const LISTS_MAX_BYTES: usize = 256 << 20;

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// What the routes work with.
pub(crate) struct App {
    spaces: Arc<Spaces>,
    auth: auth::Chain,
    metrics: Arc<Metrics>,
    clock: Clock,
    waiters: Semaphore,
    bodies: body::Bodies,
    writes: Arc<Semaphore>,
    applied_waits: Semaphore,
    lists: Arc<Semaphore>,
    closing: Closing,
}

impl App {
    pub(crate) fn new(
        spaces: Arc<Spaces>,
        auth: auth::Chain,
        metrics: Arc<Metrics>,
        clock: Clock,
        closing: Closing,
    ) -> Self {
        Self {
            spaces,
            auth,
            metrics,
            clock,
            waiters: Semaphore::new(WAITERS_MAX),
            bodies: body::Bodies::default(),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            applied_waits: Semaphore::new(APPLIED_WAITS_MAX),
            lists: Arc::new(Semaphore::new(LISTS_MAX_BYTES)),
            closing,
        }
    }
}

fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", plain(get(health::health)))
        .route("/readyz", plain(get(health::readyz)))
        .route("/metrics", plain(get(health::metrics)))
        .route("/v1/rules", plain(get(rules::list).post(rules::add).put(rules::update).delete(rules::delete)))
        .route("/v1/rules/routes", plain(get(rules::routes)))
        .route("/v1/rules/actions", plain(get(rules::actions)))
        .route(
            "/v1/rules/routes/{destination}",
            plain(get(rules::routes_of).merge(delete(rules::delete_routes_of))),
        )
        .route(
            "/v1/rules/actions/{destination}",
            plain(get(rules::actions_of).merge(delete(rules::delete_actions_of))),
        )
        .route("/v1/faults", plain(get(faults::read).put(faults::write)))
        .route("/v1/watch", plain(get(watch::poll)))
        .route("/v1/proxies", plain(get(proxies::list)))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), count))
        .method_not_allowed_fallback(async || error::method_not_allowed())
        .fallback(async || error::not_found())
        .with_state(app)
}

/// A GET does not answer HEAD here: it is a wrong method like any other.
fn plain(methods: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    methods.head(async || error::method_not_allowed())
}

/// The ids of spec 1.5.
fn operation(method: &Method, path: &str) -> Option<&'static str> {
    Some(match (method.as_str(), path) {
        ("GET", "/health") => "controller_health",
        ("POST", "/v1/rules") => "add_rules",
        ("GET", "/v1/rules") => "get_rules",
        ("PUT", "/v1/rules") => "update_rules",
        ("DELETE", "/v1/rules") => "delete_rules",
        ("GET", "/v1/rules/routes") => "get_all_routes",
        ("GET", "/v1/rules/actions") => "get_all_actions",
        ("GET", "/v1/rules/routes/{destination}") => "get_rule_route_destination",
        ("GET", "/v1/rules/actions/{destination}") => "get_rule_action_destination",
        ("DELETE", "/v1/rules/routes/{destination}") => "delete_rule_route_destination",
        ("DELETE", "/v1/rules/actions/{destination}") => "delete_rule_action_destination",
        ("GET", "/v1/faults") => "get_faults",
        ("PUT", "/v1/faults") => "update_faults",
        ("GET", "/v1/watch") => "watch",
        ("GET", "/v1/proxies") => "get_proxies",
        _ => return None,
    })
}

async fn count(State(app): State<Arc<App>>, path: MatchedPath, request: Request, next: Next) -> Response {
    let operation = operation(request.method(), path.as_str());
    let begun = app.clock.now();
    let response = next.run(request).await;
    if let Some(operation) = operation {
        let took: Duration = app.clock.now().since(begun);
        app.metrics.answered(operation, response.status() < StatusCode::BAD_REQUEST, took);
    }
    response
}

/// A body of JSON.
fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(http::header::CONTENT_TYPE, JSON)], bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "answer cannot be encoded");
            error::Refusal::Internal.into_response()
        }
    }
}

const JSON: &str = "application/json; charset=utf-8";
