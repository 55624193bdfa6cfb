//! `GET /v1/proxies`: who follows this namespace and what serves there (design.md 5).

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use control_api::ProxyReport;
use http::StatusCode;
use serde::Serialize;

use super::App;
use super::auth::Tenant;

#[derive(Serialize)]
struct Proxies {
    proxies: Vec<ProxyReport>,
}

/// `GET /v1/proxies`
pub(super) async fn list(State(app): State<Arc<App>>, Tenant(namespace): Tenant) -> Response {
    let proxies = app.spaces.get(&namespace).map(|space| space.report()).unwrap_or_default();
    super::json(StatusCode::OK, &Proxies { proxies })
}
