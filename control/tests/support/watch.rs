//! What the tests of `GET /v1/watch` share: a control that has heard of two instances, and polls of it.

use serde_json::{Value, json};

use super::registry::instance;
use super::{Answer, Control, Http, Registry};

pub fn route(id: &str, destination: &str) -> Value {
    json!({"id": id, "destination": destination, "route": {"backends": [{"tags": ["version=v1"]}]}})
}

/// A registry with two instances and a control that has heard of them.
pub async fn started(flags: &[&str]) -> (Registry, Control) {
    let registry = Registry::start().await;
    registry.holds("default", "r1", vec![instance("i1", "reviews", &["v1"]), instance("i2", "ratings", &[])]);
    let control = Control::start(&registry, flags).await;
    control.eventually("/readyz", |answer| answer.status == 200).await;
    (registry, control)
}

/// Where an answer of a watch leads, as the query of the next poll.
pub fn after(answer: &Answer) -> String {
    let header = |name| answer.header(name);
    format!("epoch={}&index={}&hash={}", header("a8-epoch"), header("a8-index"), header("a8-hash"))
}

pub fn index(answer: &Answer) -> u64 {
    answer.header("a8-index").parse().unwrap()
}

pub async fn poll(http: &Http, query: impl AsRef<str>) -> Answer {
    http.get(&format!("/v1/watch?{}", query.as_ref())).await
}

/// The ids of a set of rules or instances.
pub fn ids(set: &Value) -> Vec<&str> {
    set.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap_or_default()).collect()
}

pub async fn metric(control: &Control, name: &str) -> f64 {
    let text = control.http.get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}
