//! `/v1/faults`: the one switch that disables every fault of a namespace. It touches no rule; what is disabled is
//! decided where tables are compiled.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::auth::Tenant;
use super::error::Refusal;
use super::query::Query;
use super::rules::{Wait, answer, book, place};
use super::{App, json};
use crate::rulebook::Edit;

#[derive(Deserialize)]
struct Switch {
    disabled: bool,
}

#[derive(Serialize)]
struct Now {
    disabled: bool,
    revision: u64,
}

/// `GET /v1/faults`
pub(super) async fn read(State(app): State<Arc<App>>, Tenant(namespace): Tenant) -> Response {
    let book = book(&app, &namespace);
    json(StatusCode::OK, &Now { disabled: book.faults_disabled(), revision: book.revision() })
}

/// `PUT /v1/faults`
pub(super) async fn write(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    let wait = Wait::of(&app, &Query::of(&uri)?)?;
    let received = app.bodies.read(body).await?;
    let Switch { disabled } = serde_json::from_slice(&received.bytes).map_err(|_| Refusal::InvalidJson)?;
    let place = place(&app).await?;
    let space = app.spaces.open(&namespace)?;
    let written = space.edit(Edit::Faults { disabled }, place).await?;
    drop(received);
    Ok(answer(&app, &space, written, wait, StatusCode::OK).await)
}
