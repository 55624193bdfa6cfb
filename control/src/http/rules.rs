//! The rules API (spec/control-and-proxy.md 1.4): bytes to edits and back. What an edit does is the rule
//! book's; a namespace that was never used answers like an empty one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use control_api::{Applied, Rule, RuleId};
use http::{HeaderValue, StatusCode, Uri};
use registry_api::Namespace;
use serde::Serialize;

use super::auth::Tenant;
use super::error::Refusal;
use super::query::Query;
use super::{App, body, json};
use crate::rulebook::{Edit, Filter, Kind, RuleBook};
use crate::space::Written;

type Outcome = Result<Response, Refusal>;

#[derive(Serialize)]
struct RuleSet {
    rules: Vec<Arc<Rule>>,
    revision: u64,
}

#[derive(Serialize)]
struct Services {
    services: BTreeMap<String, Vec<Arc<Rule>>>,
}

#[derive(Serialize)]
struct WriteAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<RuleId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

/// `POST /v1/rules`
pub(super) async fn add(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    uri: Uri,
    body: Body,
) -> Outcome {
    let wait = Query::of(&uri)?.applied_wait()?;
    let raw = body::rules(&body::read(body).await?)?;
    let written = write(&app, &namespace, Edit::Upsert(raw)).await?;
    Ok(answer(&app, &namespace, written, wait, StatusCode::CREATED).await)
}

/// `PUT /v1/rules`
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    uri: Uri,
    body: Body,
) -> Outcome {
    let wait = Query::of(&uri)?.applied_wait()?;
    let raw = body::rules(&body::read(body).await?)?;
    let written = write(&app, &namespace, Edit::Replace(raw)).await?;
    Ok(answer(&app, &namespace, written, wait, StatusCode::OK).await)
}

/// `DELETE /v1/rules`
pub(super) async fn delete(State(app): State<Arc<App>>, Tenant(namespace): Tenant, uri: Uri) -> Outcome {
    let query = Query::of(&uri)?;
    delete_selected(&app, &namespace, query.filter(None), query.applied_wait()?).await
}

/// `DELETE /v1/rules/routes/<destination>`
pub(super) async fn delete_routes_of(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    destination: Destination,
    uri: Uri,
) -> Outcome {
    delete_of(&app, &namespace, Kind::Route, destination, &uri).await
}

/// `DELETE /v1/rules/actions/<destination>`
pub(super) async fn delete_actions_of(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    destination: Destination,
    uri: Uri,
) -> Outcome {
    delete_of(&app, &namespace, Kind::Actions, destination, &uri).await
}

/// `GET /v1/rules`
pub(super) async fn list(State(app): State<Arc<App>>, Tenant(namespace): Tenant, uri: Uri) -> Outcome {
    let filter = Query::of(&uri)?.filter(None);
    let book = book(&app, &namespace);
    if let Some(id) = book.missing(&filter) {
        return Err(Refusal::RuleNotFound(id.to_owned()));
    }
    Ok(rule_set(&book, &filter))
}

/// `GET /v1/rules/routes`
pub(super) async fn routes(State(app): State<Arc<App>>, Tenant(namespace): Tenant, uri: Uri) -> Outcome {
    by_service(&app, &namespace, Kind::Route, &uri)
}

/// `GET /v1/rules/actions`
pub(super) async fn actions(State(app): State<Arc<App>>, Tenant(namespace): Tenant, uri: Uri) -> Outcome {
    by_service(&app, &namespace, Kind::Actions, &uri)
}

/// `GET /v1/rules/routes/<destination>`; the query is ignored.
pub(super) async fn routes_of(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    destination: Destination,
) -> Outcome {
    Ok(rule_set(&book(&app, &namespace), &of(Kind::Route, destination)?))
}

/// `GET /v1/rules/actions/<destination>`; the query is ignored.
pub(super) async fn actions_of(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    destination: Destination,
) -> Outcome {
    Ok(rule_set(&book(&app, &namespace), &of(Kind::Actions, destination)?))
}

/// One decoded segment of the path; what is no UTF-8 names nothing.
type Destination = Result<Path<String>, axum::extract::rejection::PathRejection>;

fn of(kind: Kind, destination: Destination) -> Result<Filter, Refusal> {
    let Path(destination) =
        destination.map_err(|_| Refusal::InvalidParameter("the destination is no UTF-8".to_owned()))?;
    Ok(Filter { destinations: vec![destination], kind: Some(kind), ..Filter::default() })
}

fn book(app: &App, namespace: &Namespace) -> Arc<RuleBook> {
    app.spaces.get(namespace).map(|space| space.book()).unwrap_or_default()
}

fn rule_set(book: &RuleBook, filter: &Filter) -> Response {
    json(StatusCode::OK, &RuleSet { rules: book.select(filter), revision: book.revision() })
}

fn by_service(app: &App, namespace: &Namespace, kind: Kind, uri: &Uri) -> Outcome {
    let filter = Query::of(uri)?.filter(Some(kind));
    let mut services: BTreeMap<String, Vec<Arc<Rule>>> = BTreeMap::new();
    for rule in book(app, namespace).select(&filter) {
        services.entry(rule.destination.to_string()).or_default().push(rule);
    }
    Ok(json(StatusCode::OK, &Services { services }))
}

async fn delete_of(
    app: &App,
    namespace: &Namespace,
    kind: Kind,
    destination: Destination,
    uri: &Uri,
) -> Outcome {
    let wait = Query::of(uri)?.applied_wait()?;
    delete_selected(app, namespace, of(kind, destination)?, wait).await
}

async fn delete_selected(
    app: &App,
    namespace: &Namespace,
    filter: Filter,
    wait: Option<Duration>,
) -> Outcome {
    let written = write(app, namespace, Edit::Delete(filter)).await?;
    Ok(answer(app, namespace, written, wait, StatusCode::OK).await)
}

async fn write(app: &App, namespace: &Namespace, edit: Edit) -> Result<Written, Refusal> {
    Ok(app.spaces.open(namespace)?.edit(edit).await?)
}

/// A creation lists its ids, another write has no body; both say more when they waited.
async fn answer(
    app: &App,
    namespace: &Namespace,
    written: Written,
    wait: Option<Duration>,
    status: StatusCode,
) -> Response {
    let Written { ids, revision } = written;
    let applied = match (wait, app.spaces.get(namespace)) {
        (Some(wait), Some(space)) => Some(space.wait_applied(revision, wait, app.closing.clone()).await),
        _ => None,
    };
    let body = WriteAnswer {
        ids: (status == StatusCode::CREATED).then_some(ids),
        revision: applied.is_some().then_some(revision),
        applied,
    };
    let mut response = if body.ids.is_some() || body.applied.is_some() {
        json(status, &body)
    } else {
        status.into_response()
    };
    response.headers_mut().insert("a8-revision", HeaderValue::from(revision));
    response
}
