//! The Eureka API, version 2 (spec/registry.md 3): the only part of the registry that knows Eureka. It turns the
//! protocol's words into commands and instances into its documents; leases, namespaces and changes are the catalog's.

pub mod address;
pub mod admit;
mod batch;
mod caller;
pub mod compat;
mod desk;
pub mod format;
pub mod fuzz;
pub mod life;
pub mod lists;
pub(super) mod openapi;
mod problem;
pub mod record;
pub mod route;
pub mod self_preservation;
pub mod sent;
pub mod show;
pub mod words;
pub mod xml;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use registry_api::Namespace;
use serde_json::json;

use super::error::Refusal;
use super::{App, body, guard, native};
use crate::catalog::{Catalog, Leased};
use crate::recent::Action;
use compat::Compat;
use desk::Desk;
use format::Format;
use life::{Beat, Heard, Name};
use lists::{Lists, Question};
use problem::Problem;
use route::{Mounted, Place};
use sent::{Envelope, Sent, from_object};
use show::Shown;
use words::Origin;

const REPLICATION: HeaderName = HeaderName::from_static("x-netflix-discovery-replication");

/// What the Eureka API shares between requests.
#[derive(Debug, Default)]
pub struct Eureka {
    /// Whose clients it suits.
    pub compat: Compat,
    /// Answers that many ask for.
    pub lists: Lists,
}

/// The mounts (3.1). What is below them is found by [`route`].
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/eureka/{*rest}", any(answer)).route("/api/eureka/{*rest}", any(answer))
}

/// The operation of a request, for metrics and logs; `None` when it is not one of ours.
pub(super) fn operation(path: &str, method: &Method, compat: Compat) -> Option<&'static str> {
    Mounted::cut(path)?.place(compat).ok()?.operation(method)
}

async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    carry_out(&app, parts, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn carry_out(app: &Arc<App>, mut parts: Parts, body: axum::body::Body) -> Result<Response, Problem> {
    let path = parts.uri.path().to_owned();
    let mounted = Mounted::cut(&path).ok_or(Refusal::NotFound)?;
    let compat = app.eureka.compat;
    let place = mounted.place(compat)?;
    if place.operation(&parts.method).is_none() {
        return Err(Refusal::MethodNotAllowed { allow: place.allowed() }.into());
    }
    let caller = caller::identify(&mut parts, mounted.token, app).await?;
    let replicated = parts.headers.get(REPLICATION).is_some_and(|value| value == "true");
    let origin = if replicated { Origin::Peer } else { Origin::Client };
    let desk = Desk { app, namespace: &caller.namespace, compat, origin };
    let format = Format::wanted(&parts.headers, compat);
    let parameters = native::parameters(&parts.uri)?;
    let query = Query(&parameters);
    let read = async || body::read(&parts.headers, body, &app.bodies).await;
    match (place, &parts.method) {
        (Place::Apps, _) => listed(app, &caller.namespace, Question::All, format, &parts.headers).await,
        (Place::Delta, _) => listed(app, &caller.namespace, Question::Changes, format, &parts.headers).await,
        (Place::Vip(vip), _) => {
            listed(app, &caller.namespace, Question::Vip(vip), format, &parts.headers).await
        }
        (Place::SecureVip(vip), _) => {
            listed(app, &caller.namespace, Question::SecureVip(vip), format, &parts.headers).await
        }
        (Place::App(name), &Method::GET) => {
            let question = Question::App(compat.shown(&name).into_owned());
            let found = listed(app, &caller.namespace, question, format, &parts.headers).await;
            match found {
                // C3.
                Err(Problem::NotFound) if compat == Compat::Amalgam8 => Ok(no_instances(&name, format)),
                found => found,
            }
        }
        (Place::App(name), _) => {
            desk.register(&name, read_instance(&read().await?, Format::sent(&parts.headers))?)?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (Place::Instance { app: name, id }, &Method::GET) => {
            let found = desk.instance(Name { app: &name, id: &id })?;
            Ok(document(StatusCode::OK, &found, compat, format))
        }
        (Place::AnyInstance(id), _) => Ok(document(StatusCode::OK, &desk.any_instance(&id)?, compat, format)),
        (Place::Instance { app: name, id }, &Method::PUT) => {
            let heard = Heard { dirty_at: query.dirty_at()?, overridden: query.first("overriddenstatus") };
            match desk.renew(Name { app: &name, id: &id }, heard)? {
                Beat::Renewed => Ok(StatusCode::OK.into_response()),
                Beat::Outdated | Beat::Statusless => Err(Problem::MustRegister),
                Beat::Newer(ours) => Ok(document(StatusCode::CONFLICT, &ours, compat, format)),
            }
        }
        (Place::Instance { app: name, id }, _) => {
            desk.cancel(Name { app: &name, id: &id })?;
            Ok(StatusCode::OK.into_response())
        }
        (Place::InstanceStatus { app: name, id }, &Method::PUT) => {
            let status = query.first("value").and_then(words::status).ok_or(Problem::Parameter("value"))?;
            desk.set_status(Name { app: &name, id: &id }, status, query.dirty_at()?)?;
            Ok(StatusCode::OK.into_response())
        }
        (Place::InstanceStatus { app: name, id }, _) => {
            let status = match query.first("value").filter(|value| !value.is_empty()) {
                Some(value) => words::status(value).ok_or(Problem::Parameter("value"))?,
                None => words::UNKNOWN,
            };
            desk.drop_status(Name { app: &name, id: &id }, status, query.dirty_at()?)?;
            Ok(StatusCode::OK.into_response())
        }
        (Place::InstanceMetadata { app: name, id }, _) => {
            desk.merge_metadata(Name { app: &name, id: &id }, parameters)?;
            Ok(StatusCode::OK.into_response())
        }
        (Place::Batch, _) => {
            let answers = batch::carry_out(app, &caller.namespace, &read().await?)?;
            Ok(([(CONTENT_TYPE, Format::Json.label())], answers).into_response())
        }
        (Place::ScalingGroup, _) => Err(Problem::NoScalingGroups),
    }
}

/// The decoded parameters; of a repeated one the first counts.
struct Query<'a>(&'a [(String, String)]);

impl Query<'_> {
    fn first(&self, wanted: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    fn dirty_at(&self) -> Result<Option<i64>, Problem> {
        let text = self.first("lastDirtyTimestamp").filter(|text| !text.is_empty());
        // A client that never changed sends 0 or `null`, and says nothing with it.
        match text.filter(|text| *text != "null").map(str::parse::<i64>) {
            None => Ok(None),
            Some(Ok(millis)) => Ok(Some(millis).filter(|millis| *millis > 0)),
            Some(Err(_)) => Err(Problem::Parameter("lastDirtyTimestamp")),
        }
    }
}

/// The instance in the body of a registration.
fn read_instance(bytes: &[u8], format: Format) -> Result<Sent, Problem> {
    let unreadable = |problem: String| Problem::Unreadable(problem);
    let converted;
    let bytes = match format {
        Format::Json => bytes,
        Format::Xml => {
            converted = xml::to_json(bytes).map_err(|problem| unreadable(problem.to_string()))?;
            &converted
        }
    };
    let text = std::str::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    let envelope = from_object::<Envelope>(text);
    envelope.map(|envelope| envelope.instance).map_err(|problem| unreadable(problem.to_string()))
}

async fn listed(
    app: &App,
    namespace: &Namespace,
    question: Question,
    format: Format,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let (lists, compat) = (&app.eureka.lists, app.eureka.compat);
    let of_vip = matches!(question, Question::Vip(_));
    let answer = match app.tenants.find(namespace) {
        Some(tenant) => lists.answer(namespace, &tenant.read(), question, format, compat),
        // Nobody has registered there; looking opens no namespace.
        None => Lists::default().answer(namespace, &Catalog::default(), question, format, compat),
    };
    let takes_gzip = guard::takes_gzip(headers);
    let body = if takes_gzip { answer.gzipped().await } else { answer.plain().await };
    let Some(body) = body else {
        // C4.
        let tolerant = of_vip && compat == Compat::Amalgam8;
        return if tolerant { Ok(no_applications(format)) } else { Err(Problem::NotFound) };
    };
    lists.keep_sifted(namespace, &answer);
    let mut response = body_of(answer.label(), body.into());
    if takes_gzip {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

fn document(status: StatusCode, leased: &Leased, compat: Compat, format: Format) -> Response {
    let shown = Shown::of(leased, compat, Action::Added);
    let text = match format {
        Format::Json => lists::json(&BTreeMap::from([("instance", &shown)])),
        Format::Xml => {
            let mut out = String::new();
            xml::instance(&mut out, &shown);
            out
        }
    };
    let mut response = body_of(format.label(), text.into());
    *response.status_mut() = status;
    response
}

fn no_instances(name: &str, format: Format) -> Response {
    let text = match format {
        Format::Json => json!({ "application": { "name": name } }).to_string(),
        Format::Xml => {
            let mut out = "<application>".to_owned();
            xml::element(&mut out, "name", name);
            out + "</application>"
        }
    };
    body_of(format.label(), text.into())
}

fn no_applications(format: Format) -> Response {
    let text = match format {
        Format::Json => r#"{"applications":{}}"#,
        Format::Xml => "<applications/>",
    };
    body_of(format.label(), text.into())
}

fn body_of(label: &'static str, body: axum::body::Body) -> Response {
    ([(CONTENT_TYPE, label)], body).into_response()
}
