//! The six operations of the native API (spec/registry.md 1), each from bytes to a command or a question and
//! back. What they mean is the catalog's.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query as Parameters, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, StatusCode, Uri};
use registry_api::{InstanceId, ServiceName};
use serde::Serialize;

use super::auth::Caller;
use super::error::Refusal;
use super::state::App;
use super::{JSON, body};
use crate::catalog::{Command, Leased, Refused};
use crate::query::{Fields, Query, Shown};
use crate::registration::admit;

/// Longer lists are encoded beside the request threads.
const INLINE_INSTANCES_MAX: usize = 200;

type Shared = State<Arc<App>>;

/// POST /api/v1/instances
pub(super) async fn register(
    State(app): Shared,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let bytes = body::read(&headers, body, &app.bodies).await?;
    let registration =
        serde_json::from_slice(&bytes).map_err(|error| Refusal::NotARegistration(error.to_string()))?;
    let admitted = admit(registration, app.ttl)?;
    let (id, ttl) = (admitted.instance().id.clone(), admitted.instance().ttl);
    app.tenants.open(&caller.namespace)?.apply(Command::Register(admitted), app.clock.now())?;
    let this = format!("{}/api/v1/instances/{id}", caller.base);
    let links = Links { heartbeat: format!("{this}/heartbeat"), this: &this };
    let body = json(&Registered { id: &id, ttl, links });
    Ok((StatusCode::CREATED, [(LOCATION, this)], body).into_response())
}

/// DELETE /api/v1/instances/{id}
pub(super) async fn deregister(
    State(app): Shared,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let tenant = app.tenants.find(&caller.namespace);
    let id = instance_id(id)?;
    tenant.ok_or(Refused::Unknown)?.apply(Command::Deregister(id), app.clock.now())?;
    Ok(StatusCode::OK)
}

/// PUT /api/v1/instances/{id}/heartbeat
pub(super) async fn renew(
    State(app): Shared,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let tenant = app.tenants.find(&caller.namespace);
    tenant.ok_or(Refused::Unknown)?.renew(&instance_id(id)?, app.clock.now())?;
    Ok(StatusCode::OK)
}

/// PUT /api/v1/instances//heartbeat
pub(super) async fn id_missing(_: Caller) -> Refusal {
    Refusal::IdMissing
}

/// GET /api/v1/instances
pub(super) async fn list(State(app): Shared, caller: Caller, uri: Uri) -> Result<Response, Refusal> {
    let query = Query::parse(&parameters(&uri)?)?;
    let found = app.tenants.find(&caller.namespace).map(|tenant| tenant.read().list(&query));
    let found = found.unwrap_or_default();
    Ok(listed(None, found, query.fields().clone()).await)
}

/// GET /api/v1/services
pub(super) async fn services(State(app): Shared, caller: Caller) -> Response {
    #[derive(Serialize)]
    struct Services {
        services: Vec<ServiceName>,
    }
    let tenant = app.tenants.find(&caller.namespace);
    let services = tenant.map(|tenant| tenant.read().services().cloned().collect());
    json(&Services { services: services.unwrap_or_default() })
}

/// GET /api/v1/services/{name}
pub(super) async fn service(
    State(app): Shared,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(name) = name.map_err(|_| Refusal::PathNotText)?;
    let tenant = app.tenants.find(&caller.namespace).ok_or(Refusal::ServiceUnknown)?;
    let found: Vec<_> = tenant.read().instances_of(&name).collect();
    if found.is_empty() {
        return Err(Refusal::ServiceUnknown);
    }
    Ok(listed(Some(name), found, Fields::default()).await)
}

/// The decoded query parameters, in order.
pub(super) fn parameters(uri: &Uri) -> Result<Vec<(String, String)>, Refusal> {
    let parsed = Parameters::<Vec<(String, String)>>::try_from_uri(uri);
    parsed
        .map(|Parameters(parameters)| parameters)
        .map_err(|error| Refusal::Parameter { name: "query", problem: error.body_text() })
}

fn instance_id(id: Result<Path<String>, PathRejection>) -> Result<InstanceId, Refusal> {
    let Path(id) = id.map_err(|_| Refusal::PathNotText)?;
    InstanceId::new(id).map_err(|_| Refusal::IdMissing)
}

/// The answer with a list; heartbeats do not wait until a long one is encoded.
async fn listed(service_name: Option<String>, found: Vec<Leased>, fields: Fields) -> Response {
    let long = found.len() > INLINE_INSTANCES_MAX;
    let encode = move || {
        let instances = found.iter().map(|leased| fields.show(&leased.instance, leased.renewed_at));
        json(&List { service_name: service_name.as_deref(), instances: instances.collect() })
    };
    if !long {
        return encode();
    }
    let encoded = tokio::task::spawn_blocking(encode).await;
    encoded.unwrap_or_else(|_| Refusal::Internal.into_response())
}

fn json(body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).expect("our answers are plain data and always encode");
    ([(CONTENT_TYPE, JSON)], bytes).into_response()
}

#[derive(Serialize)]
struct Registered<'a> {
    id: &'a InstanceId,
    ttl: u32,
    links: Links<'a>,
}

#[derive(Serialize)]
struct Links<'a> {
    #[serde(rename = "self")]
    this: &'a str,
    heartbeat: String,
}

#[derive(Serialize)]
struct List<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<&'a str>,
    instances: Vec<Shown<'a>>,
}
