//! The filter language of `GET /api/v1/instances` (spec/registry.md 1.4): which instances are meant and
//! which of their fields are shown. It reads decoded parameters and knows nothing of HTTP.

use std::collections::BTreeSet;

use registry_api::{Endpoint, Instance, InstanceId, Metadata, ServiceName, Status};
use serde::Serialize;

use crate::registration::native_status;
use crate::timestamp::Timestamp;

/// The time shown for an instance without a lease (spec/registry.md 1.4).
const NO_HEARTBEAT: &str = "0001-01-01T00:00:00Z";

/// Which instances, and what of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    service: Option<String>,
    id: Option<String>,
    tags: Option<Vec<String>>,
    status: Wanted,
    fields: Fields,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Wanted {
    /// No status was asked for. Without another filter this hides what takes no traffic.
    #[default]
    Unsaid,
    Any,
    Exactly(String),
}

/// A field of an instance, as `fields` names it. `id` and `endpoint` are always shown, `links` never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    Always,
    Never,
    ServiceName,
    Ttl,
    Status,
    Metadata,
    LastHeartbeat,
    Tags,
}

/// The fields to show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields(Option<BTreeSet<Field>>);

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuery {
    /// `fields` names something that no instance has.
    #[error("the parameter fields names an unknown field")]
    UnknownField,
    /// The parameter is no filter at all.
    #[error("unknown filter; the filters are fields, tags, service_name, id and status")]
    UnknownFilter,
    /// The parameter is a field, but not one of text.
    #[error("instances cannot be filtered by {0}")]
    NotFilterable(&'static str),
}

impl Query {
    /// Reads the parameters; of a repeated one only the first counts.
    pub fn parse(parameters: &[(String, String)]) -> Result<Self, BadQuery> {
        let mut query = Self::default();
        let mut seen = BTreeSet::new();
        for (name, value) in parameters {
            if !seen.insert(name.as_str()) {
                continue;
            }
            match name.as_str() {
                "service_name" => query.service = Some(value.clone()),
                "id" => query.id = Some(value.clone()),
                "tags" => query.tags = Some(value.split(',').map(str::to_owned).collect()),
                "status" => query.status = Wanted::parse(value),
                "fields" => query.fields = Fields::parse(value)?,
                "ttl" => return Err(BadQuery::NotFilterable("ttl")),
                "endpoint" => return Err(BadQuery::NotFilterable("endpoint")),
                "metadata" => return Err(BadQuery::NotFilterable("metadata")),
                "last_heartbeat" => return Err(BadQuery::NotFilterable("last_heartbeat")),
                "links" => return Err(BadQuery::NotFilterable("links")),
                _ => return Err(BadQuery::UnknownFilter),
            }
        }
        Ok(query)
    }

    /// The one service that can match, if the query names one.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// The one id that can match, if the query names one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The fields to show.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether an instance is meant.
    pub fn matches(&self, instance: &Instance) -> bool {
        let status = instance.status.as_str();
        let filtered = self.service.is_some() || self.id.is_some() || self.tags.is_some();
        let status_fits = match &self.status {
            Wanted::Any => true,
            Wanted::Exactly(wanted) => wanted == status,
            Wanted::Unsaid => filtered || ![Status::STARTING, Status::OUT_OF_SERVICE].contains(&status),
        };
        status_fits
            && self.service.as_ref().is_none_or(|service| service == instance.service_name.as_str())
            && self.id.as_ref().is_none_or(|id| id == instance.id.as_str())
            && self.tags.iter().flatten().all(|tag| instance.tags.contains(tag))
    }
}

impl Wanted {
    fn parse(text: &str) -> Self {
        if text.eq_ignore_ascii_case("ALL") {
            return Self::Any;
        }
        Self::Exactly(native_status(text).unwrap_or(text).to_owned())
    }
}

impl Fields {
    fn parse(text: &str) -> Result<Self, BadQuery> {
        // `fields=` asks for nothing but what is always shown.
        let names = text.split(',').filter(|_| !text.is_empty());
        let fields = names.map(|name| match name {
            "id" | "endpoint" => Ok(Field::Always),
            "links" => Ok(Field::Never),
            "service_name" => Ok(Field::ServiceName),
            "ttl" => Ok(Field::Ttl),
            "status" => Ok(Field::Status),
            "metadata" => Ok(Field::Metadata),
            "last_heartbeat" => Ok(Field::LastHeartbeat),
            "tags" => Ok(Field::Tags),
            _ => Err(BadQuery::UnknownField),
        });
        fields.collect::<Result<_, _>>().map(|fields| Self(Some(fields)))
    }

    fn has(&self, field: Field) -> bool {
        self.0.as_ref().is_none_or(|fields| fields.contains(&field))
    }

    /// What of an instance is shown.
    pub fn show<'a>(&self, instance: &'a Instance, renewed_at: Timestamp) -> Shown<'a> {
        Shown {
            id: &instance.id,
            service_name: self.has(Field::ServiceName).then_some(&instance.service_name),
            endpoint: &instance.endpoint,
            ttl: (self.has(Field::Ttl) && instance.ttl > 0).then_some(instance.ttl),
            status: (self.has(Field::Status) && !instance.status.as_str().is_empty())
                .then_some(&instance.status),
            tags: (self.has(Field::Tags) && !instance.tags.is_empty()).then_some(&instance.tags),
            metadata: instance.metadata.as_ref().filter(|_| self.has(Field::Metadata)),
            last_heartbeat: self
                .has(Field::LastHeartbeat)
                .then(|| if instance.ttl == 0 { NO_HEARTBEAT.to_owned() } else { renewed_at.to_string() }),
        }
    }
}

/// An instance as a list shows it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Instance)]
pub struct Shown<'a> {
    #[schema(value_type = String)]
    id: &'a InstanceId,
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<&'a ServiceName>,
    #[schema(value_type = crate::http::openapi::EndpointSchema)]
    endpoint: &'a Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a Status>,
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a Vec<String>>,
    #[schema(value_type = Option<serde_json::Value>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry_api::EndpointType;

    fn instance(number: usize, status: &str, tags: &[&str]) -> Instance {
        Instance {
            id: InstanceId::new(number.to_string()).unwrap(),
            service_name: ServiceName::new("http-1").unwrap(),
            endpoint: Endpoint { kind: EndpointType::Tcp, value: format!("192.168.0.1:{number}") },
            ttl: 30,
            status: Status::new(status),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            metadata: Some(Metadata::from_json("7".to_owned()).unwrap()),
            last_heartbeat: None,
        }
    }

    /// The filter set F of spec/registry.md 9.2, and one with an empty status.
    fn set() -> Vec<Instance> {
        vec![
            instance(1, "UP", &["DB", "NoSQL"]),
            instance(2, "UP", &["DB"]),
            instance(3, "STARTING", &["DB"]),
            instance(4, "OUT_OF_SERVICE", &["DB", "NoSQL"]),
            instance(5, "user_defined", &["DB", "NoSQL"]),
        ]
    }

    fn parameters(text: &str) -> Vec<(String, String)> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// Section 9.2 N40 to N46, N49 to N56; 9.11 U8; section 1.4.
    #[test]
    fn filters_select_as_the_spec_lists_them() {
        for (text, expected) in [
            ("service_name=http-1&tags=DB,NoSQL", &[1, 4, 5][..]),
            ("service_name=http-1&tags=DB", &[1, 2, 3, 4, 5]),
            ("service_name=http-1&tags=DB,MySQL", &[]),
            ("service_name=http-1&status=UP", &[1, 2]),
            ("service_name=http-1&status=DOWN", &[]),
            ("service_name=http-1&tags=DB,NoSQL&status=UP", &[1]),
            ("service_name=http-1&tags=DB,NoSQL&status=DOWN", &[]),
            ("service_name=http-1&status=up", &[1, 2]),
            ("service_name=http-1&status=ALL", &[1, 2, 3, 4, 5]),
            ("service_name=http-1&status=aLL", &[1, 2, 3, 4, 5]),
            ("service_name=http-1&status=STARTING", &[3]),
            ("service_name=http-1&status=OUT_OF_SERVICE", &[4]),
            ("service_name=http-1&status=ALL&tags=DB", &[1, 2, 3, 4, 5]),
            ("service_name=http-1&status=STARTING&tags=DB", &[3]),
            ("service_name=http-1&tags=DB&status=STARTING", &[3]),
            ("service_name=http-1&status=user_defined", &[5]),
            ("service_name=http-1&status=USER_DEFINED", &[]),
            // Nothing but the default visibility.
            ("", &[1, 2, 5]),
            ("fields=status", &[1, 2, 5]),
            // Any other filter shows every status.
            ("service_name=http-1", &[1, 2, 3, 4, 5]),
            ("tags=DB", &[1, 2, 3, 4, 5]),
            ("id=3", &[3]),
            ("id=33", &[]),
            ("service_name=HTTP-1", &[]),
            ("tags=", &[]),
            ("tags=DB,", &[]),
            ("status=", &[]),
            // Only the first of a repeated parameter counts.
            ("status=STARTING&status=UP", &[3]),
        ] {
            let query = Query::parse(&parameters(text)).unwrap();
            let set = set();
            let found: Vec<_> = set.iter().filter(|instance| query.matches(instance)).collect();
            let expected: Vec<_> = expected.iter().map(|number: &usize| &set[number - 1]).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn an_empty_status_filter_finds_empty_statuses_only() {
        let query = Query::parse(&parameters("status=")).unwrap();
        assert!(query.matches(&instance(6, "", &[])));
    }

    /// Section 9.2 N47, N48; 9.11 U8; section 1.4.
    #[test]
    fn what_is_no_filter_is_refused() {
        for text in [
            "ttl=5",
            "endpoint=h",
            "metadata=1",
            "last_heartbeat=x",
            "links=x",
            "BLABLA=5",
            "Status=UP",
            "=",
            "fields=nope",
            "fields=id, status",
            "fields=id,",
            "fields= ",
        ] {
            assert!(Query::parse(&parameters(text)).is_err(), "{text}");
        }
    }

    /// Section 9.2 N57 to N60; 9.11 U7; section 1.4.
    #[test]
    fn a_projection_shows_what_was_asked_for_and_always_id_and_endpoint() {
        let all = r#""service_name":"http-1","endpoint":{"type":"tcp","value":"192.168.0.1:1"},"ttl":30,"status":"UP","tags":["DB"],"metadata":7,"last_heartbeat":"1970-01-01T00:00:00.000Z""#;
        let endpoint = r#""endpoint":{"type":"tcp","value":"192.168.0.1:1"}"#;
        for (text, expected) in [
            ("", all.to_owned()),
            ("fields=", endpoint.to_owned()),
            ("fields=links,id", endpoint.to_owned()),
            ("fields=status,ttl,status", format!(r#"{endpoint},"ttl":30,"status":"UP""#)),
            ("fields=status,ttl,status,endpoint", format!(r#"{endpoint},"ttl":30,"status":"UP""#)),
            (
                "fields=endpoint,ttl,metadata,status",
                format!(r#"{endpoint},"ttl":30,"status":"UP","metadata":7"#),
            ),
            (
                "fields=tags,last_heartbeat",
                format!(r#"{endpoint},"tags":["DB"],"last_heartbeat":"1970-01-01T00:00:00.000Z""#),
            ),
        ] {
            let query = Query::parse(&parameters(text)).unwrap();
            let instance = instance(1, "UP", &["DB"]);
            let shown = query.fields().show(&instance, Timestamp::default());
            assert_eq!(
                serde_json::to_string(&shown).unwrap(),
                format!(r#"{{"id":"1",{expected}}}"#),
                "{text}"
            );
        }
    }
}
