//! The rules API (spec/control-and-proxy.md 1.4): bytes to edits and back. What an edit does is the rule
//! book's; a namespace that was never used answers like an empty one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use control_api::{Applied, RawRule, Rule, RuleId};
use http::{HeaderValue, StatusCode, Uri};
use registry_api::Namespace;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};

use super::auth::Tenant;
use super::error::Refusal;
use super::query::Query;
use super::{App, JSON, LISTS_MAX_BYTES, body, json};
use crate::rulebook::{Edit, Filter, Kind, RuleBook};
use crate::space::{Space, Written};

/// Lists out of longer books are made off the request threads.
const INLINE_MAX_BYTES: usize = 64 << 10;

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
    write_body(&app, &namespace, &uri, body, Edit::Upsert, StatusCode::CREATED).await
}

/// `PUT /v1/rules`
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    uri: Uri,
    body: Body,
) -> Outcome {
    write_body(&app, &namespace, &uri, body, Edit::Replace, StatusCode::OK).await
}

/// `DELETE /v1/rules`
pub(super) async fn delete(State(app): State<Arc<App>>, Tenant(namespace): Tenant, uri: Uri) -> Outcome {
    let query = Query::of(&uri)?;
    delete_selected(&app, &namespace, query.filter(None), Wait::of(&app, &query)?).await
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
    rule_set(&app, book, filter).await
}

/// `GET /v1/rules/routes`
pub(super) async fn routes(State(app): State<Arc<App>>, Tenant(namespace): Tenant, uri: Uri) -> Outcome {
    by_service(&app, &namespace, Kind::Route, &uri).await
}

/// `GET /v1/rules/actions`
pub(super) async fn actions(State(app): State<Arc<App>>, Tenant(namespace): Tenant, uri: Uri) -> Outcome {
    by_service(&app, &namespace, Kind::Actions, &uri).await
}

/// `GET /v1/rules/routes/<destination>`; the query is ignored.
pub(super) async fn routes_of(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    destination: Destination,
) -> Outcome {
    rule_set(&app, book(&app, &namespace), of(Kind::Route, destination)?).await
}

/// `GET /v1/rules/actions/<destination>`; the query is ignored.
pub(super) async fn actions_of(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    destination: Destination,
) -> Outcome {
    rule_set(&app, book(&app, &namespace), of(Kind::Actions, destination)?).await
}

/// One decoded segment of the path; what is no UTF-8 names nothing.
type Destination = Result<Path<String>, axum::extract::rejection::PathRejection>;

fn of(kind: Kind, destination: Destination) -> Result<Filter, Refusal> {
    let Path(destination) =
        destination.map_err(|_| Refusal::InvalidParameter("the destination is no UTF-8".to_owned()))?;
    Ok(Filter { destinations: [destination].into(), kind: Some(kind), ..Filter::default() })
}

pub(super) fn book(app: &App, namespace: &Namespace) -> Arc<RuleBook> {
    app.spaces.get(namespace).map(|space| space.book()).unwrap_or_default()
}

async fn rule_set(app: &App, book: Arc<RuleBook>, filter: Filter) -> Outcome {
    let list = move |book: &RuleBook| RuleSet { rules: book.select(&filter), revision: book.revision() };
    listed(app, book, list).await
}

async fn by_service(app: &App, namespace: &Namespace, kind: Kind, uri: &Uri) -> Outcome {
    let filter = Query::of(uri)?.filter(Some(kind));
    let list = move |book: &RuleBook| {
        let mut services: BTreeMap<String, Vec<Arc<Rule>>> = BTreeMap::new();
        for rule in book.select(&filter) {
            services.entry(rule.destination.to_string()).or_default().push(rule);
        }
        Services { services }
    };
    listed(app, book(app, namespace), list).await
}

/// Answers with a list out of a book. Long ones are made off the request threads, and take room for as long
/// as any byte of them is held.
async fn listed<L: Serialize>(
    app: &App,
    book: Arc<RuleBook>,
    list: impl FnOnce(&RuleBook) -> L + Send + 'static,
) -> Outcome {
    if book.bytes() <= INLINE_MAX_BYTES {
        return Ok(json(StatusCode::OK, &list(&book)));
    }
    let room = u32::try_from(book.bytes().min(LISTS_MAX_BYTES)).map_err(|_| Refusal::Internal)?;
    let room = Arc::clone(&app.lists).try_acquire_many_owned(room);
    let mut room = room.map_err(|_| Refusal::TooMuch("long lists"))?;
    let encode = move || {
        let bytes = serde_json::to_vec(&list(&book))?;
        // A filter may have left little.
        drop(room.split(room.num_permits().saturating_sub(bytes.len())));
        Ok::<_, serde_json::Error>(Bytes::from_owner(Listed { bytes, _room: room }))
    };
    let bytes = tokio::task::spawn_blocking(encode).await.map_err(|_| Refusal::Internal)?;
    let bytes = bytes.map_err(|_| Refusal::Internal)?;
    Ok((StatusCode::OK, [(http::header::CONTENT_TYPE, JSON)], bytes).into_response())
}

/// The bytes of a long list, and the room that they take.
struct Listed {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Listed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

async fn delete_of(
    app: &App,
    namespace: &Namespace,
    kind: Kind,
    destination: Destination,
    uri: &Uri,
) -> Outcome {
    let wait = Wait::of(app, &Query::of(uri)?)?;
    delete_selected(app, namespace, of(kind, destination)?, wait).await
}

async fn delete_selected(
    app: &App,
    namespace: &Namespace,
    filter: Filter,
    wait: Option<Wait<'_>>,
) -> Outcome {
    let place = place(app).await?;
    let space = app.spaces.open(namespace)?;
    let written = space.edit(Edit::Delete(filter), place).await?;
    Ok(answer(app, &space, written, wait, StatusCode::OK).await)
}

async fn write_body(
    app: &App,
    namespace: &Namespace,
    uri: &Uri,
    body: Body,
    edit: impl FnOnce(Vec<RawRule>) -> Edit,
    status: StatusCode,
) -> Outcome {
    let wait = Wait::of(app, &Query::of(uri)?)?;
    let received = app.bodies.read(body).await?;
    let place = place(app).await?;
    let edit = edit(body::rules(&received.bytes)?);
    let space = app.spaces.open(namespace)?;
    let written = space.edit(edit, place).await?;
    drop(received);
    Ok(answer(app, &space, written, wait, status).await)
}

/// A place among the writes on their way to the store.
pub(super) async fn place(app: &App) -> Result<OwnedSemaphorePermit, Refusal> {
    // Fails only when the semaphore is closed, which it never is.
    Arc::clone(&app.writes).acquire_owned().await.map_err(|_| Refusal::Internal)
}

/// That the answer is to be held until a write is applied, and the place among those that are.
pub(super) struct Wait<'a> {
    timeout: Duration,
    _place: SemaphorePermit<'a>,
}

impl<'a> Wait<'a> {
    /// Taken before anything is written, so that who is refused may simply try again.
    pub(super) fn of(app: &'a App, query: &Query) -> Result<Option<Self>, Refusal> {
        let Some(timeout) = query.applied_wait()? else { return Ok(None) };
        let place = app.applied_waits.try_acquire().map_err(|_| Refusal::TooMuch("waiting writes"))?;
        Ok(Some(Self { timeout, _place: place }))
    }
}

/// A creation lists its ids, another write has no body; both say more when they waited.
pub(super) async fn answer(
    app: &App,
    space: &Space,
    written: Written,
    wait: Option<Wait<'_>>,
    status: StatusCode,
) -> Response {
    let Written { ids, revision } = written;
    let applied = match wait {
        Some(wait) => Some(space.wait_applied(revision, wait.timeout, app.closing.clone()).await),
        None => None,
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
