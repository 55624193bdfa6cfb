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

/// Whether rules and instances were both loaded once (design.md 5, settled point 10).
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    match app.spaces.waiting() {
        0 => StatusCode::OK.into_response(),
        waiting => {
            let text = format!("the registry was not heard yet for {waiting} namespaces");
            super::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": text}))
        }
    }
}

/// Everything that is counted, in the Prometheus text format.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(app.spaces.levels());
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}
