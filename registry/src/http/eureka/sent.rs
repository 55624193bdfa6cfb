//! An instance as a client sends it, in Eureka's classic encoding with all its liberties (spec/registry.md 3.4):
//! numbers as text, text as null, booleans in either form. It reads; what is missing or too long is judged in
//! [`super::admit`].

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The body of a registration.
#[derive(Debug, Clone, Deserialize)]
pub struct Envelope {
    /// What is registered.
    #[serde(deserialize_with = "object")]
    pub instance: Sent,
}

/// An instance. Unknown fields are ignored, any may be missing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Sent {
    #[serde(deserialize_with = "text")]
    pub instance_id: String,
    #[serde(deserialize_with = "text")]
    pub host_name: String,
    #[serde(deserialize_with = "text")]
    pub app: String,
    #[serde(deserialize_with = "text")]
    pub app_group_name: String,
    #[serde(deserialize_with = "text")]
    pub ip_addr: String,
    #[serde(deserialize_with = "text")]
    pub vip_address: String,
    #[serde(deserialize_with = "text")]
    pub secure_vip_address: String,
    #[serde(deserialize_with = "text")]
    pub status: String,
    #[serde(rename = "overriddenstatus", deserialize_with = "text")]
    pub overridden: String,
    // The same under the name that some clients use; a document may carry both.
    #[serde(rename = "overriddenStatus", deserialize_with = "text")]
    pub overridden_too: String,
    pub port: Option<SentPort>,
    pub secure_port: Option<SentPort>,
    #[serde(deserialize_with = "number")]
    pub country_id: Option<i64>,
    #[serde(deserialize_with = "text")]
    pub home_page_url: String,
    #[serde(deserialize_with = "text")]
    pub status_page_url: String,
    #[serde(deserialize_with = "text")]
    pub health_check_url: String,
    #[serde(deserialize_with = "text")]
    pub secure_health_check_url: String,
    pub data_center_info: Value,
    #[serde(deserialize_with = "lease")]
    pub lease_info: SentLease,
    // Kept byte for byte.
    pub metadata: Option<Box<RawValue>>,
    #[serde(deserialize_with = "flag")]
    pub is_coordinating_discovery_server: Option<bool>,
    #[serde(deserialize_with = "number")]
    pub last_dirty_timestamp: Option<i64>,
    #[serde(deserialize_with = "text")]
    pub asg_name: String,
    #[serde(deserialize_with = "text")]
    pub sid: String,
}

/// A port: `{"$":80,"@enabled":"true"}`, or only its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentPort {
    /// The number, if there is one.
    pub number: Option<i64>,
    /// Whether it was said to be enabled.
    pub enabled: Option<bool>,
}

/// What a client says of its lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SentLease {
    /// How long a renewal lasts.
    #[serde(deserialize_with = "number")]
    pub duration_in_secs: Option<i64>,
    /// How often the client means to renew.
    #[serde(deserialize_with = "number")]
    pub renewal_interval_in_secs: Option<i64>,
}

impl<'de> Deserialize<'de> for SentPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bad = |what: &str| serde::de::Error::custom(format!("a port {what}"));
        match Value::deserialize(deserializer)? {
            Value::Object(mut map) => {
                let number = as_number(map.remove("$").unwrap_or_default());
                let enabled = as_flag(map.remove("@enabled").unwrap_or_default());
                Ok(Self {
                    number: number.ok_or_else(|| bad("has no number in `$`"))?,
                    enabled: enabled.ok_or_else(|| bad("is neither enabled nor disabled"))?,
                })
            }
            scalar => {
                let number = as_number(scalar).ok_or_else(|| bad("is no number"))?;
                Ok(Self { number, enabled: None })
            }
        }
    }
}

fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sent, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    from_object(raw.get()).map_err(serde::de::Error::custom)
}

/// Reads an object and nothing else: serde would take a list of its members' values too.
pub fn from_object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, serde_json::Error> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text)
    } else {
        Err(serde::de::Error::custom("an object is expected"))
    }
}

/// Text; a number or boolean as it is written, null as nothing.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Array(_) | Value::Object(_) => Err(serde::de::Error::custom("text is expected")),
    }
}

/// A whole number, also as text; null and empty text are none.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let number = as_number(Value::deserialize(deserializer)?);
    number.ok_or_else(|| serde::de::Error::custom("a whole number is expected"))
}

fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    let flag = as_flag(Value::deserialize(deserializer)?);
    flag.ok_or_else(|| serde::de::Error::custom("true or false is expected"))
}

/// An empty XML element reads as empty text.
fn lease<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SentLease, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(SentLease::default()),
        Value::String(text) if text.trim().is_empty() => Ok(SentLease::default()),
        value => SentLease::deserialize(value).map_err(serde::de::Error::custom),
    }
}

/// `None` when it is no number; nothing is `Some(None)`.
fn as_number(value: Value) -> Option<Option<i64>> {
    match value {
        Value::Null => Some(None),
        Value::Number(number) => {
            // Large and fractional ones saturate and are cut: they are judged by their range.
            number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)).map(Some)
        }
        Value::String(text) if text.trim().is_empty() => Some(None),
        Value::String(text) => text.trim().parse().ok().map(Some),
        _ => None,
    }
}

fn as_flag(value: Value) -> Option<Option<bool>> {
    match value {
        Value::Null => Some(None),
        Value::Bool(flag) => Some(Some(flag)),
        Value::String(text) if text.trim().is_empty() => Some(None),
        Value::String(text) if text.trim().eq_ignore_ascii_case("true") => Some(Some(true)),
        Value::String(text) if text.trim().eq_ignore_ascii_case("false") => Some(Some(false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(json: &str) -> Result<SentPort, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn section_3_4_ports_come_in_every_form() {
        for (json, number, enabled) in [
            (r#"{"$":8080,"@enabled":"true"}"#, Some(8080), Some(true)),
            (r#"{"$":"8080","@enabled":false}"#, Some(8080), Some(false)),
            (r#"{"@enabled":"FALSE","$":443}"#, Some(443), Some(false)),
            (r#"{"$":8080}"#, Some(8080), None),
            (r#"{}"#, None, None),
            ("80", Some(80), None),
            (r#""80""#, Some(80), None),
            ("null", None, None),
        ] {
            assert_eq!(port(json).unwrap(), SentPort { number, enabled }, "{json}");
        }
        for json in [r#"{"$":"http"}"#, r#"{"$":80,"@enabled":"maybe"}"#, "[80]", "true"] {
            assert!(port(json).is_err(), "{json}");
        }
    }

    #[test]
    fn section_3_4_numbers_may_be_text_and_text_may_be_null() {
        let json = r#"{"instance":{"instanceId":null,"hostName":"h","app":7,"countryId":"1","unknown":[{}],
            "leaseInfo":{"durationInSecs":"45","evictionTimestamp":0},"isCoordinatingDiscoveryServer":"false",
            "lastDirtyTimestamp":"1700000000000","overriddenstatus":"UNKNOWN","overriddenStatus":"UNKNOWN"}}"#;
        let Envelope { instance } = serde_json::from_str(json).unwrap();
        assert_eq!((instance.instance_id.as_str(), instance.app.as_str()), ("", "7"));
        assert_eq!(instance.country_id, Some(1));
        assert_eq!(instance.lease_info.duration_in_secs, Some(45));
        assert_eq!(instance.last_dirty_timestamp, Some(1_700_000_000_000));
        assert_eq!(instance.is_coordinating_discovery_server, Some(false));
    }
}
