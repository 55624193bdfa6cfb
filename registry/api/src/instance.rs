//! One registered instance, and what a client sends to register it (spec/registry.md 1.2, 1.4). It says
//! nothing about leases: those are the registry's own.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::hash::ContentHash;
use crate::names::{InstanceId, ServiceName};

/// How an endpoint is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum EndpointType {
    Tcp,
    Udp,
    Http,
    Https,
    User,
}

impl EndpointType {
    /// The exact lower-case word of the wire, or `None`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "http" => Self::Http,
            "https" => Self::Https,
            "user" => Self::User,
            _ => return None,
        })
    }

    /// The word of the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Http => "http",
            Self::Https => "https",
            Self::User => "user",
        }
    }
}

/// The address of an instance; `value` is not parsed here, usually `host:port` or a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// How to dial.
    #[serde(rename = "type")]
    pub kind: EndpointType,
    /// Where to dial.
    pub value: String,
}

/// `UP`, `STARTING`, `OUT_OF_SERVICE`, or a free word that came through Eureka or a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Status(Arc<str>);

impl Status {
    /// Traffic may be sent.
    pub const UP: &str = "UP";
    /// Not ready yet.
    pub const STARTING: &str = "STARTING";
    /// Taken out by an operator; such an instance never expires (spec/registry.md 1.6).
    pub const OUT_OF_SERVICE: &str = "OUT_OF_SERVICE";

    /// Any text; the caller decides which words its API takes.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().into())
    }

    /// The word of the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether traffic may be sent.
    pub fn is_up(&self) -> bool {
        &*self.0 == Self::UP
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Status {
    fn default() -> Self {
        Self("".into())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Any JSON value, kept byte for byte as it was registered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metadata(Box<RawValue>);

impl Metadata {
    /// Takes JSON text.
    pub fn from_json(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// The JSON text as received.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

/// Orders the instances of a namespace: by service, then by id.
pub type InstanceKey = (ServiceName, InstanceId);

/// One registered endpoint of a service, as lists and watches show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Identity within the namespace.
    pub id: InstanceId,
    /// The service it belongs to.
    pub service_name: ServiceName,
    /// Where it is dialled.
    pub endpoint: Endpoint,
    /// Seconds of life after a renewal; 0 for catalogs without leases.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ttl: u32,
    /// See [`Status`].
    #[serde(default, skip_serializing_if = "Status::is_empty")]
    pub status: Status,
    /// Labels that rules select by; order and duplicates are kept.
    #[serde(default, deserialize_with = "fitting", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Opaque to us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// RFC 3339; present in lists, absent in watches: a renewal is not a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<String>,
}

/// A list without room for more: instances are kept by the hundred thousand, and decoding makes room for four tags.
fn fitting<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let mut list = Vec::deserialize(from)?;
    list.shrink_to_fit();
    Ok(list)
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Instance {
    /// The key under which catalogs and snapshots hold it.
    pub fn key(&self) -> InstanceKey {
        (self.service_name.clone(), self.id.clone())
    }

    /// The hash of everything but `last_heartbeat`.
    pub fn content_hash(&self) -> ContentHash {
        let bare;
        let hashed = if self.last_heartbeat.is_some() {
            bare = Self { last_heartbeat: None, ..self.clone() };
            &bare
        } else {
            self
        };
        ContentHash::of(&serde_json::to_vec(hashed).expect("an instance is plain data and always encodes"))
    }
}

/// The native id of an instance: the first 16 hex digits of SHA-256 of `service/type/value`
/// (spec/registry.md 0.3).
pub fn native_id(service: &ServiceName, endpoint: &Endpoint) -> InstanceId {
    let digest = Sha256::digest(format!("{service}/{}/{}", endpoint.kind.as_str(), endpoint.value));
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    InstanceId::new(hex).expect("sixteen hex digits are not empty")
}

/// What a client sends to register. Unchecked: the registry answers each mistake by name, in the order of
/// spec/registry.md 1.2.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Required, 1 to 64 bytes.
    #[serde(default)]
    pub service_name: String,
    /// Required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<RegistrationEndpoint>,
    /// Seconds; absent or 0 means the registry's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Default `UP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Any JSON, at most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

/// The endpoint part of a [`Registration`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationEndpoint {
    /// One of `tcp udp http https user`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// 1 to 128 bytes.
    #[serde(default)]
    pub value: String,
}

impl Registration {
    /// The usual registration: a service, its tags, and an HTTP endpoint.
    pub fn http(service: &str, tags: &[&str], address: impl ToString) -> Self {
        Self {
            service_name: service.to_owned(),
            endpoint: Some(RegistrationEndpoint { kind: "http".to_owned(), value: address.to_string() }),
            tags: Some(tags.iter().map(|tag| (*tag).to_owned()).collect()),
            ..Self::default()
        }
    }
}

/// The registry's answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The id to renew and deregister with.
    pub id: InstanceId,
    /// The effective time to live in seconds.
    pub ttl: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_ids_are_those_of_the_ancestor() {
        for (service, kind, value, id) in [
            ("http", EndpointType::Tcp, "192.168.1.1:8087", "4cd7e786e63fb7e8"),
            ("reviews", EndpointType::Http, "10.0.0.1:9080", "e3527005a80b2e25"),
        ] {
            let endpoint = Endpoint { kind, value: value.to_owned() };
            assert_eq!(native_id(&ServiceName::new(service).unwrap(), &endpoint).as_str(), id);
        }
    }

    #[test]
    fn section_9_6_m50_clones_are_equal_and_independent() {
        let text = r#"{"id":"i","service_name":"s","endpoint":{"type":"http","value":"h:1"},"ttl":30,"status":"UP","tags":["t"],"metadata":{"k":1}}"#;
        let original: Instance = serde_json::from_str(text).unwrap();
        type Alter = fn(&mut Instance);
        let alterations: [(&str, Alter); 6] = [
            ("M50 endpoint type", |instance| instance.endpoint.kind = EndpointType::Tcp),
            ("M50 endpoint value", |instance| instance.endpoint.value.push('0')),
            ("M50 status", |instance| instance.status = Status::new("DOWN")),
            ("M50 ttl", |instance| instance.ttl += 1),
            ("M50 tags", |instance| instance.tags.push("u".to_owned())),
            ("M50 metadata", |instance| instance.metadata = None),
        ];
        for (case, alter) in alterations {
            let mut clone = original.clone();
            assert_eq!(clone, original, "{case}");
            alter(&mut clone);
            assert_ne!(clone, original, "{case}");
            assert_eq!(serde_json::to_string(&original).unwrap(), text, "{case}");
        }
    }

    #[test]
    fn metadata_is_kept_byte_for_byte_and_a_heartbeat_is_no_content() {
        let text = r#"{"id":"i","service_name":"s","endpoint":{"type":"http","value":"h:1"},"metadata":{ "b" : 1,"a":[ ] }}"#;
        let instance: Instance = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&instance).unwrap(), text);
        let beaten = Instance { last_heartbeat: Some("2026-01-01T00:00:00Z".to_owned()), ..instance.clone() };
        assert_eq!(beaten.content_hash(), instance.content_hash());
        let other = Instance { ttl: 5, ..instance.clone() };
        assert_ne!(other.content_hash(), instance.content_hash());
    }
}
