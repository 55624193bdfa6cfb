//! Whether control lives, whether it is ready, and what it counts. Nobody has to prove who asks.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use super::App;

/// Alive; checks nothing.
pub(super) async fn health() -> StatusCode {
    StatusCode::OK
}

/// Whether rules and instances were both loaded once (design.md 5, settled point 10), and whether rules can be kept.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let text = match app.spaces.waiting() {
        0 => match app.spaces.check_store().await {
            Ok(()) => return StatusCode::OK.into_response(),
            Err(error) => format!("rules cannot be kept: {error}"),
        },
        waiting => format!("the registry was not heard yet for {waiting} namespaces"),
    };
    super::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": text}))
}

/// Everything that is counted, in the Prometheus text format.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(app.spaces.levels());
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}
