//! An instance as Eureka clients see it (spec/registry.md 3.4 and 3.6), whoever registered it. The JSON form is the
//! struct itself; [`super::xml`] writes the same fields as elements.

use std::borrow::Cow;

use registry_api::EndpointType;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::address;
use super::admit::RENEWAL_SECS_DEFAULT;
use super::compat::Compat;
use super::life::shown_status;
use super::record::{Described, Port, Record};
use super::words::UNKNOWN;
use crate::catalog::Leased;
use crate::recent::Action;

const MY_OWN: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";
const AMAZON: &str = "com.netflix.appinfo.AmazonInfo";

/// One instance, in the order of the classic documents.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Shown<'a> {
    pub instance_id: Cow<'a, str>,
    pub host_name: Cow<'a, str>,
    pub app: Cow<'a, str>,
    pub app_group_name: Cow<'a, str>,
    pub ip_addr: Cow<'a, str>,
    pub status: &'a str,
    #[serde(rename = "overriddenstatus")]
    pub overridden: Cow<'a, str>,
    pub port: ShownPort,
    pub secure_port: ShownPort,
    pub country_id: i64,
    pub data_center_info: Map<String, Value>,
    pub lease_info: ShownLease,
    pub metadata: ShownMetadata<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub home_page_url: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub status_page_url: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub health_check_url: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub secure_health_check_url: Cow<'a, str>,
    pub vip_address: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub secure_vip_address: Cow<'a, str>,
    // In this encoding booleans and times are text.
    pub is_coordinating_discovery_server: &'static str,
    pub last_updated_timestamp: String,
    pub last_dirty_timestamp: String,
    pub action_type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub asg_name: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub sid: Cow<'a, str>,
}

/// A port in the classic encoding.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs)]
pub struct ShownPort {
    #[serde(rename = "$")]
    pub number: u16,
    #[serde(rename = "@enabled")]
    pub enabled: &'static str,
}

/// A lease; times in milliseconds since the Unix epoch, 0 for never.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ShownLease {
    pub renewal_interval_in_secs: u32,
    pub duration_in_secs: u32,
    pub registration_timestamp: u64,
    pub last_renewal_timestamp: u64,
    pub eviction_timestamp: u64,
    pub service_up_timestamp: u64,
}

/// Metadata: as it was registered where that is a flat object.
#[derive(Debug)]
pub enum ShownMetadata<'a> {
    /// Byte for byte.
    Raw(&'a RawValue, Map<String, Value>),
    /// Made to be flat.
    Made(Map<String, Value>),
}

impl ShownMetadata<'_> {
    /// The pairs.
    pub fn pairs(&self) -> &Map<String, Value> {
        match self {
            Self::Raw(_, map) | Self::Made(map) => map,
        }
    }
}

impl Serialize for ShownMetadata<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Raw(raw, _) => raw.serialize(serializer),
            Self::Made(map) => map.serialize(serializer),
        }
    }
}

impl<'a> Shown<'a> {
    /// Shows an instance to which this happened last.
    pub fn of(leased: &'a Leased, compat: Compat, action: Action) -> Self {
        let record = Record::of(leased);
        let instance = &*leased.instance;
        let described = record.described.unwrap_or_else(|| described_natively(leased));
        let registered_at = leased.registered_at.as_millis();
        let group = if described.group.is_empty() { UNKNOWN.into() } else { described.group };
        let overridden = if record.overridden.is_empty() { UNKNOWN.into() } else { record.overridden };
        let up_since = record.up_since.or_else(|| instance.status.is_up().then_some(registered_at));
        Self {
            instance_id: described.id,
            host_name: described.host,
            app: compat.shown(instance.service_name.as_str()),
            app_group_name: group,
            ip_addr: described.ip,
            status: shown_status(instance.status.as_str()),
            overridden,
            port: described.port.into(),
            secure_port: described.secure_port.into(),
            country_id: described.country,
            data_center_info: data_center(described.data_center),
            lease_info: ShownLease {
                renewal_interval_in_secs: described.renewal_secs,
                duration_in_secs: instance.ttl,
                registration_timestamp: registered_at,
                last_renewal_timestamp: leased.renewed_at.as_millis(),
                eviction_timestamp: 0,
                service_up_timestamp: up_since.unwrap_or(0),
            },
            metadata: metadata(leased),
            home_page_url: described.home_page,
            status_page_url: described.status_page,
            health_check_url: described.health_check,
            secure_health_check_url: described.secure_health_check,
            vip_address: described.vip,
            secure_vip_address: described.secure_vip,
            is_coordinating_discovery_server: if described.coordinating { "true" } else { "false" },
            last_updated_timestamp: record.updated_at.unwrap_or(registered_at).to_string(),
            last_dirty_timestamp: match record.dirty_at {
                Some(dirty_at) => dirty_at.to_string(),
                None => registered_at.to_string(),
            },
            action_type: match action {
                Action::Added => "ADDED",
                Action::Modified => "MODIFIED",
                Action::Deleted => "DELETED",
            },
            asg_name: described.scaling_group,
            sid: described.sid,
        }
    }
}

impl From<Port> for ShownPort {
    fn from(Port { number, enabled }: Port) -> Self {
        Self { number, enabled: if enabled { "true" } else { "false" } }
    }
}

/// What an instance that another API registered would have said.
fn described_natively(leased: &Leased) -> Described<'_> {
    let instance = &*leased.instance;
    let (host, port) = address::split(&instance.endpoint.value);
    let secure = instance.endpoint.kind == EndpointType::Https;
    let port_if = |wanted: bool, otherwise: u16| match port.filter(|_| wanted) {
        Some(number) => Port { number, enabled: true },
        None => Port { number: otherwise, enabled: false },
    };
    Described {
        id: instance.id.as_str().into(),
        host: host.into(),
        ip: host.into(),
        vip: instance.service_name.as_str().into(),
        port: port_if(!secure, 80),
        secure_port: port_if(secure, 443),
        country: 1,
        renewal_secs: RENEWAL_SECS_DEFAULT,
        ..Described::default()
    }
}

/// As it was sent, with the class and the name without which clients stumble (3.8).
fn data_center(sent: Value) -> Map<String, Value> {
    let mut map = match sent {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let has = |map: &Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
    };
    if !has(&map, "name") {
        map.insert("name".to_owned(), "MyOwn".into());
    }
    if !has(&map, "@class") {
        let amazon = map["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("Amazon"));
        map.insert("@class".to_owned(), if amazon { AMAZON } else { MY_OWN }.into());
    }
    map
}

fn metadata(leased: &Leased) -> ShownMetadata<'_> {
    let Some(metadata) = &leased.instance.metadata else { return ShownMetadata::Made(Map::new()) };
    let Ok(map) = serde_json::from_str::<Map<String, Value>>(metadata.as_json()) else {
        return ShownMetadata::Made(Map::new());
    };
    let nested = |value: &Value| value.is_array() || value.is_object();
    match serde_json::from_str::<&RawValue>(metadata.as_json()) {
        Ok(raw) if !map.values().any(nested) => ShownMetadata::Raw(raw, map),
        // Clients read a map of texts and give up on anything else.
        _ => {
            let flat = |value: Value| if nested(&value) { Value::String(value.to_string()) } else { value };
            ShownMetadata::Made(map.into_iter().map(|(key, value)| (key, flat(value))).collect())
        }
    }
}
