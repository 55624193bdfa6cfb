//! What operators ask a proxy: metrics, health, what it holds, why a request goes where it goes. Meant for a
//! loopback listener; the only thing it changes is whether the proxy says it is about to go.

mod explain;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use control_api::Rule;
use control_api::client::Node;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, Response, StatusCode, Uri};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use registry_api::Instance;
use serde::Serialize;
use serde_json::json;

use crate::clock;
use crate::config::TcpProxy;
use crate::counts::Counts;
use crate::feed::{Seen, Status};
use crate::live::{Drain, Live};
use crate::metrics::{self, Metrics};
use crate::tables::Tables;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// The longest body that is read, and how long that may take; after more the connection is closed.
const BODY_MAX_BYTES: usize = 64 << 10;
const BODY_WITHIN: Duration = Duration::from_secs(2);

/// The admin endpoint, for any HTTP server.
#[derive(Debug, Clone)]
pub struct Admin(Arc<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    node: Node,
    tcp: Vec<TcpProxy>,
    metrics: Arc<Metrics>,
    tables: Arc<Tables>,
    counts: Arc<Counts>,
    status: Arc<Status>,
    drain: Arc<Drain>,
}

/// One answer before it is put into the server's form.
struct Answer {
    status: StatusCode,
    media: &'static str,
    body: Vec<u8>,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if !discard_body(session).await {
            session.set_keepalive(None);
        }
        let head = session.req_header();
        let (method, uri, admin) = (head.method.clone(), head.uri.clone(), self.clone());
        // Some pages are large: encoding them must not hold up the others.
        let answer = tokio::task::spawn_blocking(move || admin.answer(&method, &uri)).await;
        answer.unwrap_or_else(|error| {
            tracing::error!(%error, "admin page failed");
            Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "error_internal", "internal error")
                .response(true)
        })
    }
}

/// Takes a body that nobody asked for out of the way of the next request; false when it is too long or slow.
async fn discard_body(session: &mut ServerSession) -> bool {
    let mut bytes = 0;
    let reading = async {
        while let Some(piece) = session.read_request_body().await.ok()? {
            bytes += piece.len();
            if bytes > BODY_MAX_BYTES {
                return None;
            }
        }
        Some(())
    };
    matches!(tokio::time::timeout(BODY_WITHIN, reading).await, Ok(Some(())))
}

impl Admin {
    /// Answers for `live` under the name of `node`.
    pub fn new(live: &Live, node: Node) -> Self {
        Self(Arc::new(Parts {
            node,
            tcp: Vec::new(),
            metrics: Arc::clone(&live.metrics),
            tables: Arc::clone(&live.tables),
            counts: Arc::clone(&live.counts),
            status: Arc::clone(&live.status),
            drain: Arc::clone(&live.drain),
        }))
    }

    /// The same with listeners for plain TCP to show, each where it is.
    #[must_use]
    pub fn with_tcp(mut self, tcp: impl Iterator<Item = TcpProxy>) -> Self {
        Arc::make_mut(&mut self.0).tcp = tcp.collect();
        self
    }

    /// The answer to one request.
    pub fn answer(&self, method: &Method, uri: &Uri) -> Response<Vec<u8>> {
        let get: &[Method] = &[Method::GET, Method::HEAD];
        let allowed = match uri.path() {
            "/metrics" | "/health" | "/healthz" | "/readyz" | "/state" | "/explain" => get,
            "/drain" => &[Method::GET, Method::HEAD, Method::POST],
            _ => return Answer::error(StatusCode::NOT_FOUND, "not_found", "no such page").response(true),
        };
        if !allowed.contains(method) {
            let refusal =
                Answer::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "method not allowed");
            let mut response = refusal.response(true);
            let allow = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
            response.headers_mut().insert(ALLOW, allow.parse().expect("method names are header text"));
            return response;
        }
        let parts = &*self.0;
        let answer = match uri.path() {
            "/metrics" => {
                Answer { status: StatusCode::OK, media: metrics::CONTENT_TYPE, body: parts.metrics.encode() }
            }
            "/state" => parts.state(),
            "/readyz" => parts.readiness(),
            "/explain" => explain::explain(&parts.tables, &parts.counts, uri.query().unwrap_or_default())
                .unwrap_or_else(|problem| Answer::error(StatusCode::BAD_REQUEST, "bad_request", &problem)),
            "/drain" => {
                if method == Method::POST && !parts.drain.has_begun() {
                    tracing::info!("drain begins");
                    parts.drain.begin();
                }
                Answer::json(StatusCode::OK, &json!({ "draining": parts.drain.has_begun() }))
            }
            // Being able to answer is all that health means: readiness is another question.
            _ => Answer { status: StatusCode::OK, media: TEXT, body: b"ok\n".to_vec() },
        };
        answer.response(method != Method::HEAD)
    }
}

/// `GET /state`: the first three fields are those of spec/control-and-proxy.md 3.9.
#[derive(Serialize)]
struct State<'a> {
    revision: u64,
    rules: Vec<&'a Rule>,
    instances: Vec<&'a Instance>,
    node: &'a str,
    identity: String,
    tcp_proxies: Vec<serde_json::Value>,
    feed: serde_json::Value,
}

impl Parts {
    fn state(&self) -> Answer {
        let seen = self.status.seen();
        let state = State {
            revision: seen.snapshot.revision(),
            rules: seen.snapshot.rules().values().map(|rule| &**rule).collect(),
            instances: seen.snapshot.instances().iter().map(|instance| &**instance).collect(),
            node: &self.node.node,
            identity: self.node.identity.label(),
            tcp_proxies: self
                .tcp
                .iter()
                .map(|proxy| json!({"service": proxy.service, "tags": proxy.tags, "address": proxy.listen}))
                .collect(),
            feed: feed(&seen),
        };
        Answer::json(StatusCode::OK, &state)
    }

    /// Ready: a table was applied, from control or from the disk, and the proxy is to stay.
    fn readiness(&self) -> Answer {
        let (seen, draining) = (self.status.seen(), self.drain.has_begun());
        let ready = seen.is_ready() && !draining;
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Answer::json(status, &json!({ "ready": ready, "draining": draining, "feed": feed(&seen) }))
    }
}

fn feed(seen: &Seen) -> serde_json::Value {
    let rejected = seen
        .rejected
        .as_ref()
        .map(|rejection| json!({ "index": rejection.position.index, "reason": rejection.reason }));
    json!({
        "source": seen.source.as_str(),
        "connected": seen.connected,
        "error": seen.error,
        "last_success": seen.last_success.map(clock::unix_seconds),
        "epoch": seen.position.epoch,
        "index": seen.position.index,
        "hash": seen.position.hash,
        "revision": seen.snapshot.revision(),
        "rejected": rejected,
        "rejected_total": seen.rejected_total,
    })
}

impl Answer {
    fn json(status: StatusCode, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("admin pages are plain data and always encode");
        Self { status, media: JSON, body }
    }

    fn error(status: StatusCode, id: &str, description: &str) -> Self {
        Self::json(status, &json!({ "error": id, "description": description }))
    }

    /// A HEAD is told the length and sent nothing.
    fn response(self, with_body: bool) -> Response<Vec<u8>> {
        let builder = Response::builder()
            .status(self.status)
            .header(CONTENT_TYPE, self.media)
            .header(CONTENT_LENGTH, self.body.len());
        let body = if with_body { self.body } else { Vec::new() };
        builder.body(body).expect("a fixed media type and a length are valid fields")
    }
}
