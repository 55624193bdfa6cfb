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
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::error::Refusal;
use super::openapi::{Error, Refusals, RegistrationSchema};
use super::state::App;
use super::{JSON, body};
use crate::catalog::{Command, Leased, Refused};
use crate::query::{Fields, Query, Shown};
use crate::registration::admit;

/// How many leases one request may renew.
pub(super) const RENEWED_MAX: usize = 10_000;
/// Longer lists are encoded beside the request threads.
const INLINE_INSTANCES_MAX: usize = 200;

type Shared = State<Arc<App>>;

/// Registers an instance, or replaces the one of the same service and endpoint.
#[utoipa::path(post, path = "/api/v1/instances", operation_id = "Register", request_body = RegistrationSchema,
    responses(
        (status = 201, description = "It is registered.", body = Registered<'_>, headers(("Location" = String))),
        (status = 400, description = "The body is no registration, or one with a mistake.", body = Error),
        (status = 403, description = "The namespace is full.", body = Error),
        Refusals,
    ))]
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

/// Removes an instance.
#[utoipa::path(delete, path = "/api/v1/instances/{id}", operation_id = "Deregister",
    params(("id" = String, Path, description = "As registration answered it.")),
    responses(
        (status = 200, description = "It is gone."),
        (status = 410, description = "It was not there.", body = Error),
        Refusals,
    ))]
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

/// Renews the lease of an instance.
#[utoipa::path(put, path = "/api/v1/instances/{id}/heartbeat", operation_id = "Renew",
    params(("id" = String, Path, description = "As registration answered it.")),
    responses(
        (status = 200, description = "The lease begins anew."),
        (status = 400, description = "The id is empty.", body = Error),
        (status = 410, description = "It is not registered; it may register again.", body = Error),
        Refusals,
    ))]
pub(super) async fn renew(
    State(app): Shared,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let tenant = app.tenants.find(&caller.namespace);
    tenant.ok_or(Refused::Unknown)?.renew(&instance_id(id)?, app.clock.now())?;
    Ok(StatusCode::OK)
}

/// Renews many leases in one request; each is answered as it would be alone.
#[utoipa::path(put, path = "/api/v1/heartbeats", operation_id = "RenewMany", request_body = Ids,
    responses(
        (status = 200, description = "One result per id, in the same order.", body = ManyRenewed<'_>),
        (status = 400, description = "The body is no list of ids, or too long a one.", body = Error),
        Refusals,
    ))]
pub(super) async fn renew_many(
    State(app): Shared,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let bytes = body::read(&headers, body, &app.bodies).await?;
    let ids = read_ids(&bytes)?;
    let known = match app.tenants.find(&caller.namespace) {
        Some(tenant) => tenant.renew_all(&ids, app.clock.now()),
        None => vec![false; ids.len()],
    };
    let status = |id: &str, known: bool| match (id, known) {
        ("", _) => StatusCode::BAD_REQUEST,
        (_, true) => StatusCode::OK,
        (_, false) => StatusCode::GONE,
    };
    let results = ids.iter().zip(known);
    let results = results.map(|(id, known)| Renewed { id, status: status(id, known).as_u16() }).collect();
    Ok(json(&ManyRenewed { results }))
}

/// The ids of a body, at most [`RENEWED_MAX`].
pub(super) fn read_ids(body: &[u8]) -> Result<Vec<String>, Refusal> {
    let Ids { ids } = serde_json::from_slice(body).map_err(|error| Refusal::NotIds(error.to_string()))?;
    if ids.len() > RENEWED_MAX { Err(Refusal::TooManyIds) } else { Ok(ids) }
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Ids {
    ids: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ManyRenewed<'a> {
    results: Vec<Renewed<'a>>,
}

#[derive(Serialize, ToSchema)]
struct Renewed<'a> {
    id: &'a str,
    status: u16,
}

/// PUT /api/v1/instances//heartbeat
pub(super) async fn id_missing(_: Caller) -> Refusal {
    Refusal::IdMissing
}

/// Lists the instances that fit every filter. Without one, those that take no traffic are left out.
#[utoipa::path(get, path = "/api/v1/instances", operation_id = "ListInstances",
    params(
        ("fields" = Option<String>, Query, description = "The fields to show, with commas between."),
        ("tags" = Option<String>, Query, description = "All of these, with commas between."),
        ("service_name" = Option<String>, Query, description = "Exactly this one."),
        ("id" = Option<String>, Query, description = "Exactly this one."),
        ("status" = Option<String>, Query, description = "Exactly this one; `ALL` for any."),
    ),
    responses(
        (status = 200, description = "Those that fit, perhaps none.", body = List<'_>),
        (status = 400, description = "A parameter is unknown or cannot be read.", body = Error),
        Refusals,
    ))]
pub(super) async fn list(State(app): Shared, caller: Caller, uri: Uri) -> Result<Response, Refusal> {
    let query = Query::parse(&parameters(&uri)?)?;
    let found = app.tenants.find(&caller.namespace).map(|tenant| tenant.read().list(&query));
    let found = found.unwrap_or_default();
    Ok(listed(None, found, query.fields().clone()).await)
}

/// Lists the services that have instances.
#[utoipa::path(get, path = "/api/v1/services", operation_id = "ListServices",
    responses((status = 200, description = "Their names.", body = Services), Refusals))]
pub(super) async fn services(State(app): Shared, caller: Caller) -> Response {
    let tenant = app.tenants.find(&caller.namespace);
    let services = tenant.map(|tenant| tenant.read().services().cloned().collect());
    json(&Services { services: services.unwrap_or_default() })
}

/// Lists the instances of one service, of any status.
#[utoipa::path(get, path = "/api/v1/services/{name}", operation_id = "ListServiceInstances",
    params(("name" = String, Path, description = "Of the service, in its case.")),
    responses(
        (status = 200, description = "Its instances.", body = List<'_>),
        (status = 404, description = "It has none.", body = Error),
        Refusals,
    ))]
pub(super) async fn service(
    State(app): Shared,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(name) = name.map_err(|_| Refusal::PathNotText)?;
    let tenant = app.tenants.find(&caller.namespace).ok_or(Refusal::ServiceUnknown)?;
    let found: Vec<_> = tenant.read().all_of(&name).collect();
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

#[derive(Serialize, ToSchema)]
pub(super) struct Services {
    #[schema(value_type = Vec<String>)]
    services: Vec<ServiceName>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Registered<'a> {
    #[schema(value_type = String)]
    id: &'a InstanceId,
    ttl: u32,
    links: Links<'a>,
}

#[derive(Serialize, ToSchema)]
struct Links<'a> {
    #[serde(rename = "self")]
    this: &'a str,
    heartbeat: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct List<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<&'a str>,
    instances: Vec<Shown<'a>>,
}
