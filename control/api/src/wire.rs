//! The rule exactly as JSON and YAML carry it (spec/control-and-proxy.md 2). Unchecked: wrong types are
//! refused while decoding (`error_invalid_json`), everything else by `Rule::try_from` (`error_invalid_rule`).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

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
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawMatch {
    #[serde(skip_serializing_if = "is_default")]
    pub source: Option<RawSource>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, String>,
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
    #[serde(deserialize_with = "nullable")]
    pub backends: Vec<RawBackend>,
    #[serde(skip_serializing_if = "is_default")]
    pub uri: Option<RawUri>,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub http_req_timeout: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub http_req_retries: i64,
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
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, unreachable_pub)]
pub struct RawAction {
    #[serde(deserialize_with = "nullable")]
    pub action: String,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub duration: f64,
    #[serde(deserialize_with = "nullable", serialize_with = "number", skip_serializing_if = "is_default")]
    pub probability: f64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub return_code: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub log_key: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub log_value: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
}
