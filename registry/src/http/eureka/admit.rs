//! What a Eureka client sends, checked and mapped to a native record with its extension (spec/registry.md 3.4,
//! 3.5 and 3.9). It knows neither who is registered already nor how mistakes are answered.

use std::borrow::Cow;
use std::time::Duration;

use registry_api::{Endpoint, EndpointType, Instance, InstanceId, Metadata, ServiceName, Status};
use serde_json::{Map, Value};

use super::compat::Compat;
use super::record::{Described, Port, Record};
use super::sent::{Sent, SentPort};
use super::{address, words};
use crate::registration::{
    ENDPOINT_VALUE_BYTES_MAX, METADATA_BYTES_MAX, SERVICE_NAME_BYTES_MAX, STATUS_BYTES_MAX, TtlLimits,
    whole_seconds,
};

/// The lease of a client that asks for none, in seconds.
pub const LEASE_SECS_DEFAULT: u32 = 90;
/// How often a client renews that does not say, in seconds.
pub const RENEWAL_SECS_DEFAULT: u32 = 30;
/// The longest instance id in bytes.
pub const ID_BYTES_MAX: usize = 256;
/// The longest text of everything that the native record has no room for.
pub const RECORD_BYTES_MAX: usize = 8 << 10;
/// How deep the description of a data center may be nested.
pub const DATA_CENTER_DEPTH_MAX: usize = 8;
/// The metadata key that holds tags.
const TAGS_KEY: &str = "amalgam8.tags";
/// What the class of an empty map is called in the classic encoding.
const EMPTY_MAP: &str = "java.util.Collections$EmptyMap";
const CLASS: &str = "@class";

/// What is wrong with a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Mistake {
    #[error("the host name is missing")]
    HostMissing,
    #[error("the ip address is missing")]
    IpMissing,
    #[error("the vip address is missing")]
    VipMissing,
    #[error("the application name is missing")]
    AppMissing,
    #[error("the application of the body is not the one of the path")]
    AppMismatch,
    #[error("the id is missing, and the data center is none that names it")]
    IdMissing,
    #[error("an enabled port is no number from 0 to 65535")]
    PortUnusable,
    #[error("the metadata is no object")]
    MetadataNotObject,
    #[error("the data center is no object, or nested too deeply")]
    DataCenterUnusable,
    #[error("the status is none of UP, DOWN, STARTING, OUT_OF_SERVICE, UNKNOWN")]
    StatusUnknown,
    #[error("the application name is longer than {SERVICE_NAME_BYTES_MAX} bytes")]
    AppTooLong,
    #[error("the instance id is longer than {ID_BYTES_MAX} bytes")]
    IdTooLong,
    #[error("host and port are longer than {ENDPOINT_VALUE_BYTES_MAX} bytes")]
    EndpointTooLong,
    #[error("the status is longer than {STATUS_BYTES_MAX} bytes")]
    StatusTooLong,
    #[error("the metadata is longer than {METADATA_BYTES_MAX} bytes")]
    MetadataTooLong,
    #[error("the instance is longer than {RECORD_BYTES_MAX} bytes")]
    RecordTooLong,
}

/// A registration that may be carried out. What status it leads to depends on what is there already.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The native record, with the status that was sent.
    pub instance: Instance,
    /// The exact lease.
    pub ttl: Duration,
    /// The extension without what only the registry knows.
    pub record: Record<'static>,
}

/// Checks a registration for the application of a path and names the first mistake.
pub fn admit(path_app: &str, sent: Sent, compat: Compat, limits: TtlLimits) -> Result<Incoming, Mistake> {
    for (value, mistake) in [
        (&sent.host_name, Mistake::HostMissing),
        (&sent.ip_addr, Mistake::IpMissing),
        (&sent.vip_address, Mistake::VipMissing),
    ] {
        if value.is_empty() {
            return Err(mistake);
        }
    }
    let app = if sent.app.is_empty() { path_app } else { &sent.app };
    if !compat.is_same_app(app, path_app) {
        return Err(Mistake::AppMismatch);
    }
    let service_name = ServiceName::new(app).map_err(|_| Mistake::AppMissing)?;
    let data_center = data_center(&sent.data_center_info)?;
    let id = instance_id(&sent, &data_center)?;
    let port = port(sent.port, 80, |enabled| enabled != Some(false))?;
    let secure_port = port_secure(sent.secure_port)?;
    let endpoint = endpoint(&sent.host_name, port, secure_port);
    let metadata = metadata(sent.metadata.as_deref().map(|raw| raw.get()))?;
    let status = if sent.status.is_empty() { Status::UP.to_owned() } else { sent.status.to_uppercase() };
    for (length, max, mistake) in [
        (service_name.as_str().len(), SERVICE_NAME_BYTES_MAX, Mistake::AppTooLong),
        (id.len(), ID_BYTES_MAX, Mistake::IdTooLong),
        (endpoint.value.len(), ENDPOINT_VALUE_BYTES_MAX, Mistake::EndpointTooLong),
        (status.len(), STATUS_BYTES_MAX, Mistake::StatusTooLong),
        (
            metadata.as_ref().map_or(0, |text| text.as_json().len()),
            METADATA_BYTES_MAX,
            Mistake::MetadataTooLong,
        ),
    ] {
        if length > max {
            return Err(mistake);
        }
    }
    let seconds = |asked: Option<i64>, default: u32| match asked {
        Some(asked) if asked > 0 => u32::try_from(asked).unwrap_or(u32::MAX),
        _ => default,
    };
    let ttl = limits.grant(Some(seconds(sent.lease_info.duration_in_secs, LEASE_SECS_DEFAULT)));
    let overridden = [&sent.overridden, &sent.overridden_too].into_iter().map(|text| words::overriding(text));
    let record = Record {
        overridden: overridden.flatten().next().map_or(Cow::Borrowed(""), Cow::Borrowed),
        dirty_at: sent.last_dirty_timestamp.filter(|millis| *millis > 0),
        updated_at: None,
        up_since: None,
        described: Some(Described {
            id: id.clone().into(),
            host: sent.host_name.into(),
            ip: sent.ip_addr.into(),
            vip: sent.vip_address.into(),
            secure_vip: sent.secure_vip_address.into(),
            group: sent.app_group_name.into(),
            port,
            secure_port,
            country: sent.country_id.unwrap_or(1),
            home_page: sent.home_page_url.into(),
            status_page: sent.status_page_url.into(),
            health_check: sent.health_check_url.into(),
            secure_health_check: sent.secure_health_check_url.into(),
            data_center,
            renewal_secs: seconds(sent.lease_info.renewal_interval_in_secs, RENEWAL_SECS_DEFAULT),
            coordinating: sent.is_coordinating_discovery_server.unwrap_or(false),
            scaling_group: sent.asg_name.into(),
            sid: sent.sid.into(),
        }),
    };
    if record.extension().as_str().len() > RECORD_BYTES_MAX {
        return Err(Mistake::RecordTooLong);
    }
    let tags = tags(metadata.as_ref());
    let instance = Instance {
        id: InstanceId::new(internal_id(service_name.as_str(), &id)).expect("it holds a colon at least"),
        service_name,
        endpoint,
        ttl: whole_seconds(ttl),
        status: Status::new(status),
        tags,
        metadata,
        last_heartbeat: None,
    };
    Ok(Incoming { instance, ttl, record })
}

/// The id under which the native API knows an instance that was registered through Eureka.
pub fn internal_id(service: &str, id: &str) -> String {
    format!("{service}:{id}")
}

/// The labels in an instance's metadata (3.5).
pub fn tags(metadata: Option<&Metadata>) -> Vec<String> {
    let map =
        metadata.and_then(|metadata| serde_json::from_str::<Map<String, Value>>(metadata.as_json()).ok());
    let text = map.as_ref().and_then(|map| map.get(TAGS_KEY)).and_then(Value::as_str).unwrap_or_default();
    text.split([',', ';']).map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

fn port(
    sent: Option<SentPort>,
    otherwise: u16,
    enabled: impl FnOnce(Option<bool>) -> bool,
) -> Result<Port, Mistake> {
    let Some(SentPort { number: Some(number), enabled: said }) = sent else {
        return Ok(Port { number: otherwise, enabled: false });
    };
    let enabled = enabled(said);
    match u16::try_from(number) {
        Ok(number) => Ok(Port { number, enabled }),
        // Clients put -1 and the like where they have no port.
        Err(_) if !enabled => Ok(Port { number: otherwise, enabled }),
        Err(_) => Err(Mistake::PortUnusable),
    }
}

fn port_secure(sent: Option<SentPort>) -> Result<Port, Mistake> {
    port(sent, 443, |enabled| enabled == Some(true))
}

fn endpoint(host: &str, port: Port, secure_port: Port) -> Endpoint {
    if secure_port.enabled {
        Endpoint { kind: EndpointType::Https, value: address::join(host, secure_port.number) }
    } else if port.enabled {
        Endpoint { kind: EndpointType::Tcp, value: address::join(host, port.number) }
    } else {
        Endpoint { kind: EndpointType::Tcp, value: host.to_owned() }
    }
}

/// The object as it was sent; null when it is missing.
fn data_center(sent: &Value) -> Result<Value, Mistake> {
    match sent {
        Value::Null => Ok(Value::Null),
        Value::String(text) if text.trim().is_empty() => Ok(Value::Null),
        Value::Object(_) if depth(sent) <= DATA_CENTER_DEPTH_MAX => Ok(sent.clone()),
        _ => Err(Mistake::DataCenterUnusable),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The id that was sent, or the one that the data center knows, or the host.
fn instance_id(sent: &Sent, data_center: &Value) -> Result<String, Mistake> {
    if !sent.instance_id.is_empty() {
        return Ok(sent.instance_id.clone());
    }
    let name = data_center.get("name").and_then(Value::as_str).unwrap_or("MyOwn");
    let known = |key: &str| match data_center.get("metadata").and_then(|metadata| metadata.get(key)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number
            .as_i64()
            .map_or_else(|| format!("{:.0}", number.as_f64().unwrap_or(0.0)), |id| id.to_string()),
        _ => String::new(),
    };
    let id = match name.to_ascii_lowercase().as_str() {
        "amazon" => known("instance-id"),
        "softlayer" => known("getId"),
        "myown" | "netflix" => String::new(),
        _ => return Err(Mistake::IdMissing),
    };
    Ok(if id.is_empty() { sent.host_name.clone() } else { id })
}

/// The metadata as it was sent, byte for byte; none when there is none, in any of the ways to say so.
fn metadata(sent: Option<&str>) -> Result<Option<Metadata>, Mistake> {
    let Some(text) = sent else { return Ok(None) };
    let kept = |text: String| Metadata::from_json(text).map(Some).map_err(|_| Mistake::MetadataNotObject);
    if text.len() > METADATA_BYTES_MAX * 64 {
        return Err(Mistake::MetadataTooLong);
    }
    match serde_json::from_str(text) {
        Ok(Value::Null) => Ok(None),
        // An empty XML element.
        Ok(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Ok(Value::Object(mut map)) => match map.get(CLASS) {
            Some(Value::String(class)) if class == EMPTY_MAP => {
                map.remove(CLASS);
                if map.is_empty() { Ok(None) } else { kept(Value::Object(map).to_string()) }
            }
            _ => kept(text.to_owned()),
        },
        _ => Err(Mistake::MetadataNotObject),
    }
}
