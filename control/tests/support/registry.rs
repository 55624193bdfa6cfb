//! A registry that says what the test tells it to say: full answers, deltas, refusals. It keeps no
//! leases and checks nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use registry_api::follow::set_hash;
use registry_api::{Change, Instance, WatchAnswer, duration};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

#[derive(Debug, Clone, Default)]
struct Life {
    epoch: String,
    index: u64,
    instances: Vec<Arc<Instance>>,
    /// The way from the index before, if it is to be told as a delta.
    changes: Option<Vec<Change>>,
}

#[derive(Debug, Clone, Default)]
struct Script {
    namespaces: BTreeMap<String, Life>,
    refusing: bool,
}

pub struct Registry {
    pub address: SocketAddr,
    script: watch::Sender<Script>,
}

/// An instance of a service, listening nowhere.
pub fn instance(id: &str, service: &str, tags: &[&str]) -> Arc<Instance> {
    instance_with_ttl(id, service, tags, 30)
}

pub fn instance_with_ttl(id: &str, service: &str, tags: &[&str], ttl: u32) -> Arc<Instance> {
    let text = json!({"id": id, "service_name": service, "ttl": ttl, "status": "UP", "tags": tags,
        "endpoint": {"type": "http", "value": format!("{id}:80")}});
    Arc::new(serde_json::from_value(text).unwrap())
}

impl Registry {
    /// Starts one that knows no instance of any namespace.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = watch::Sender::new(Script::default());
        let router = Router::new().route("/api/v1/watch", get(answer)).with_state(script.subscribe());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, script }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The namespace holds these, in this life of the registry; told as a full answer.
    pub fn holds(&self, namespace: &str, epoch: &str, instances: Vec<Arc<Instance>>) {
        self.script.send_modify(|script| {
            let life = script.namespaces.entry(namespace.to_owned()).or_default();
            let index = if life.epoch == epoch { life.index + 1 } else { 1 };
            *life = Life { epoch: epoch.to_owned(), index, instances, changes: None };
        });
    }

    /// The namespace changed; told as a delta.
    pub fn changes(&self, namespace: &str, changes: Vec<Change>) {
        self.script.send_modify(|script| {
            let life = script.namespaces.get_mut(namespace).expect("a life before a change");
            for change in &changes {
                match change {
                    Change::Put(instance) => {
                        life.instances.retain(|held| held.id != instance.id);
                        life.instances.push(Arc::clone(instance));
                    }
                    Change::Delete { id, .. } => life.instances.retain(|held| held.id != *id),
                }
            }
            life.index += 1;
            life.changes = Some(changes);
        });
    }

    /// Every poll is answered 503, or no longer so.
    pub fn refuses(&self, refusing: bool) {
        self.script.send_modify(|script| script.refusing = refusing);
    }
}

async fn answer(
    State(mut script): State<watch::Receiver<Script>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let token = headers.get("authorization").map_or("Bearer default", |value| value.to_str().unwrap());
    let namespace = token.trim_start_matches("Bearer ").to_owned();
    let text = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (epoch, index) = (text("epoch"), text("index").parse::<u64>().unwrap());
    let wait = tokio::time::sleep(duration::parse(&text("wait")).unwrap());
    tokio::pin!(wait);
    loop {
        let Script { namespaces, refusing } = script.borrow_and_update().clone();
        let life = namespaces.get(&namespace).cloned().unwrap_or_else(|| Life {
            epoch: "r0".to_owned(),
            index: 1,
            ..Life::default()
        });
        let hash = set_hash(&life.instances);
        if refusing {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        if life.epoch != epoch || life.index != index {
            let from = life
                .changes
                .as_ref()
                .map(|_| index)
                .filter(|from| life.epoch == epoch && from + 1 == life.index);
            let body = WatchAnswer {
                epoch: life.epoch,
                index: life.index,
                from,
                hash,
                full: from.is_none(),
                instances: from.is_none().then_some(life.instances),
                changes: from.and(life.changes),
            };
            return axum::Json(body).into_response();
        }
        tokio::select! {
            _ = script.changed() => {}
            () = &mut wait => {
                let position = [
                    ("a8-epoch", life.epoch),
                    ("a8-index", life.index.to_string()),
                    ("a8-hash", hash.to_string()),
                ];
                return (StatusCode::NOT_MODIFIED, position).into_response();
            }
        }
    }
}
