//! The rule exactly as JSON and YAML carry it (spec/control-and-proxy.md 2). Unchecked: wrong types are
//! refused while decoding (`error_invalid_json`), everything else by `Rule::try_from` (`error_invalid_rule`).

use std::collections::BTreeMap;
use std::time::SystemTime;

use registry_api::duration::seconds_to_duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::moment::Moment;

/// `null` counts as absent, as it does for the ancestor.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Whole numbers without a fraction, as operators write them: `7`, not `7.0`.
fn number<S: serde::Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        to.serialize_i64(*value as i64)
    } else {
        to.serialize_f64(*value)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One value, or a list of them: written back as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// The bare value.
    One(T),
    /// The list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values, in order.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// A rule of unknown worth. Unknown fields are dropped; zero is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct RawRule {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub id: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub priority: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub destination: String,
    #[serde(rename = "match", skip_serializing_if = "is_default")]
    pub matching: Option<RawMatch>,
    #[serde(skip_serializing_if = "is_default")]
    pub route: Option<RawRoute>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub actions: Vec<RawAction>,
    #[serde(skip_serializing_if = "is_default")]
    pub health_check: Option<RawHealthCheck>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawHealthCheck {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub path: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub service: String,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub interval_s: f64,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub timeout_s: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub unhealthy_threshold: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub healthy_threshold: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub port: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawMatch {
    #[serde(skip_serializing_if = "is_default")]
    pub source: Option<RawSource>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub method: Option<OneOrMany<String>>,
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<RawPathTest>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub query: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub authority: Option<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub all: Vec<RawClause>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub any: Vec<RawClause>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub none: Vec<RawClause>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawClause {
    #[serde(skip_serializing_if = "is_default")]
    pub source: Option<RawSource>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub method: Option<OneOrMany<String>>,
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<RawPathTest>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub query: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub authority: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawPathTest {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub exact: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub prefix: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub regex: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawSource {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawRoute {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub backends: Vec<RawBackend>,
    #[serde(skip_serializing_if = "is_default")]
    pub response: Option<RawResponse>,
    #[serde(skip_serializing_if = "is_default")]
    pub redirect: Option<RawRedirect>,
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Option<RawHeaderEdits>,
    #[serde(skip_serializing_if = "is_default")]
    pub uri: Option<RawUri>,
    #[serde(skip_serializing_if = "is_default")]
    pub edge: Option<RawEdge>,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub http_req_timeout: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub http_req_retries: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub sticky: Option<RawKey>,
    #[serde(skip_serializing_if = "is_default")]
    pub retries: Option<RawRetries>,
    #[serde(skip_serializing_if = "is_default")]
    pub rate_limit: Option<RawRateLimit>,
    #[serde(skip_serializing_if = "is_default")]
    pub mirror: Option<RawMirror>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawEdge {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub host: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub path_prefix: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub prefix_rewrite: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawKey {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub header: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub cookie: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub source: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawRetries {
    #[serde(skip_serializing_if = "is_default")]
    pub count: Option<i64>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub on: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub methods: Vec<String>,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub per_try_timeout: f64,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub budget_percent: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub backoff_ms: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawRateLimit {
    #[serde(deserialize_with = "nullable", serialize_with = "number")]
    pub requests_per_s: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub burst: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub key: Option<RawKey>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawMirror {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub service: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub percent: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawResponse {
    #[serde(deserialize_with = "nullable")]
    pub status: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub body: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawRedirect {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub status: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub scheme: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub host: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub path: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub prefix_rewrite: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawHeaderEdits {
    #[serde(skip_serializing_if = "is_default")]
    pub request: Option<RawEdits>,
    #[serde(skip_serializing_if = "is_default")]
    pub response: Option<RawEdits>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawEdits {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub remove: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub set: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub add: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawUri {
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    #[serde(deserialize_with = "nullable")]
    pub prefix: String,
    #[serde(deserialize_with = "nullable")]
    pub prefix_rewrite: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawBackend {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub tags: Vec<String>,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub weight: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub lb_type: String,
    #[serde(skip_serializing_if = "is_default")]
    pub hash_on: Option<RawKey>,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub slow_start: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub resilience: Option<RawResilience>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawResilience {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub max_connections: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub max_pending_requests: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub max_requests: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub max_requests_per_connection: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub consecutive_errors: i64,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub detection_interval: f64,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub sleep_window: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub success_rate: Option<RawSuccessRate>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub max_ejection_percent: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub panic_threshold_percent: i64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawSuccessRate {
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub factor: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub minimum_instances: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub minimum_requests: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawAction {
    #[serde(deserialize_with = "nullable")]
    pub action: String,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub duration: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub uniform: Option<RawUniform>,
    #[serde(skip_serializing_if = "is_default")]
    pub normal: Option<RawNormal>,
    #[serde(skip_serializing_if = "is_default")]
    pub exponential: Option<RawExponential>,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub probability: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub return_code: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub reset: bool,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub grpc_status: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub bytes_per_s: i64,
    // Nothing but the head is what somebody may want: zero is not absent here.
    #[serde(skip_serializing_if = "is_default")]
    pub after_bytes: Option<i64>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub first: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub max_concurrent: i64,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub duration_s: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub expires_at: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub log_key: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub log_value: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawUniform {
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub min: f64,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub max: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawNormal {
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub mean: f64,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub stddev: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawExponential {
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub mean: f64,
}

impl RawRule {
    /// Turns the `duration_s` of its actions into the moment it ends, counted from `now`. Where that moment is
    /// written already it stays: what was read from control can be written back.
    pub fn begin(&mut self, now: SystemTime) {
        for action in self.actions.iter_mut().filter(|action| action.expires_at.is_empty()) {
            let time = seconds_to_duration(action.duration_s).filter(|time| !time.is_zero());
            if let Some(end) = time.and_then(|time| Moment::not_before(now.checked_add(time)?)) {
                action.expires_at = end.as_str().to_owned();
            }
        }
    }
}
