//! What a native client sends, checked in the order of spec/registry.md 1.2 and made into an instance. It
//! knows neither who is registered already nor how mistakes are answered.

use std::time::Duration;

use registry_api::instance::{RegistrationEndpoint, native_id};
use registry_api::{Endpoint, EndpointType, Instance, Registration, ServiceName, Status};

use crate::admitted::Admitted;

/// The longest service name in bytes.
pub const SERVICE_NAME_BYTES_MAX: usize = 64;
/// The longest endpoint value in bytes.
pub const ENDPOINT_VALUE_BYTES_MAX: usize = 128;
/// The longest status in bytes.
pub const STATUS_BYTES_MAX: usize = 32;
/// The longest metadata in bytes, counted on the JSON text as received.
pub const METADATA_BYTES_MAX: usize = 1_024;

/// How long leases may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlLimits {
    min: Duration,
    default: Duration,
    max: Duration,
}

/// Which of the three does not fit the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTtlLimits {
    /// A lease that is over when it begins.
    #[error("must be more than zero")]
    DefaultIsZero,
    /// Also when all three are at odds.
    #[error("is more than max_ttl")]
    MinAboveMax,
    /// The default is too short.
    #[error("is less than min_ttl")]
    DefaultBelowMin,
    /// The default is too long.
    #[error("is more than max_ttl")]
    DefaultAboveMax,
}

impl TtlLimits {
    /// Takes `min <= default <= max`.
    pub fn new(min: Duration, default: Duration, max: Duration) -> Result<Self, BadTtlLimits> {
        if min > max {
            return Err(BadTtlLimits::MinAboveMax);
        }
        if default < min {
            return Err(BadTtlLimits::DefaultBelowMin);
        }
        if default > max {
            return Err(BadTtlLimits::DefaultAboveMax);
        }
        if default.is_zero() {
            return Err(BadTtlLimits::DefaultIsZero);
        }
        Ok(Self { min, default, max })
    }

    /// The lease a client gets who asks for so many seconds; none or 0 asks for the default.
    pub fn grant(self, seconds: Option<u32>) -> Duration {
        match seconds.unwrap_or(0) {
            0 => self.default,
            seconds => Duration::from_secs(seconds.into()).clamp(self.min, self.max),
        }
    }
}

/// What is wrong with a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Mistake {
    #[error("the service name is missing")]
    ServiceNameMissing,
    #[error("the endpoint is missing")]
    EndpointMissing,
    #[error("the endpoint needs a type and a value")]
    EndpointPartMissing,
    #[error("the endpoint type is none of tcp, udp, http, https, user")]
    EndpointTypeUnknown,
    #[error("the status is none of UP, STARTING, OUT_OF_SERVICE")]
    StatusUnknown,
    #[error("the service name is longer than {SERVICE_NAME_BYTES_MAX} bytes")]
    ServiceNameTooLong,
    #[error("the endpoint value is longer than {ENDPOINT_VALUE_BYTES_MAX} bytes")]
    EndpointTooLong,
    #[error("the status is longer than {STATUS_BYTES_MAX} bytes")]
    StatusTooLong,
    #[error("the metadata is longer than {METADATA_BYTES_MAX} bytes")]
    MetadataTooLong,
}

/// Checks a registration and names the first mistake.
pub fn admit(registration: Registration, limits: TtlLimits) -> Result<Admitted, Mistake> {
    let Registration { service_name, endpoint, ttl, status, metadata, tags } = registration;
    let service = ServiceName::new(service_name).map_err(|_| Mistake::ServiceNameMissing)?;
    let endpoint = check_endpoint(endpoint)?;
    let status = check_status(status.as_deref().unwrap_or_default())?;
    let lengths = [
        (service.as_str().len(), SERVICE_NAME_BYTES_MAX, Mistake::ServiceNameTooLong),
        (endpoint.value.len(), ENDPOINT_VALUE_BYTES_MAX, Mistake::EndpointTooLong),
        (status.as_str().len(), STATUS_BYTES_MAX, Mistake::StatusTooLong),
        (
            metadata.as_ref().map_or(0, |metadata| metadata.as_json().len()),
            METADATA_BYTES_MAX,
            Mistake::MetadataTooLong,
        ),
    ];
    if let Some((_, _, mistake)) = lengths.into_iter().find(|(length, max, _)| length > max) {
        return Err(mistake);
    }
    let ttl = limits.grant(ttl);
    let instance = Instance {
        id: native_id(&service, &endpoint),
        service_name: service,
        endpoint,
        ttl: whole_seconds(ttl),
        status,
        tags: tags.unwrap_or_default(),
        metadata,
        last_heartbeat: None,
    };
    Ok(Admitted::new(instance, ttl))
}

fn check_endpoint(endpoint: Option<RegistrationEndpoint>) -> Result<Endpoint, Mistake> {
    let RegistrationEndpoint { kind, value } = endpoint.ok_or(Mistake::EndpointMissing)?;
    // Blanks alone name no address (spec/registry.md 1.2 allows the refusal).
    if kind.is_empty() || value.trim().is_empty() {
        return Err(Mistake::EndpointPartMissing);
    }
    let kind = EndpointType::parse(&kind).ok_or(Mistake::EndpointTypeUnknown)?;
    Ok(Endpoint { kind, value })
}

fn check_status(text: &str) -> Result<Status, Mistake> {
    if text.is_empty() {
        return Ok(Status::new(Status::UP));
    }
    native_status(text).map(Status::new).ok_or(Mistake::StatusUnknown)
}

/// One of the three statuses of the native API, written in any case.
pub fn native_status(text: &str) -> Option<&'static str> {
    [Status::UP, Status::STARTING, Status::OUT_OF_SERVICE]
        .into_iter()
        .find(|status| status.eq_ignore_ascii_case(text))
}

/// A lease as others are shown it.
pub fn whole_seconds(ttl: Duration) -> u32 {
    // Rounded up: a lease of half a second is not one of none.
    u32::try_from(ttl.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> TtlLimits {
        let seconds = Duration::from_secs;
        TtlLimits::new(seconds(10), seconds(30), seconds(600)).unwrap()
    }

    fn check(json: &str) -> Result<Admitted, Mistake> {
        admit(serde_json::from_str(json).unwrap(), limits())
    }

    /// Section 9.2 N15 to N18, N27; 9.8 X3; sections 0.3 and 1.2.
    #[test]
    fn the_first_mistake_in_the_order_of_the_spec_is_named() {
        let long = "x".repeat(129);
        for (json, mistake) in [
            (r#"{}"#.to_owned(), Mistake::ServiceNameMissing),
            (r#"{"service_name":"","endpoint":{}}"#.to_owned(), Mistake::ServiceNameMissing),
            (r#"{"service_name":"s","status":"blah"}"#.to_owned(), Mistake::EndpointMissing),
            (
                r#"{"service_name":"s","endpoint":{"type":"tcp","value":""}}"#.to_owned(),
                Mistake::EndpointPartMissing,
            ),
            (
                r#"{"service_name":"s","endpoint":{"type":"tcp","value":"  "}}"#.to_owned(),
                Mistake::EndpointPartMissing,
            ),
            (
                r#"{"service_name":"s","endpoint":{"type":"","value":"h:1"}}"#.to_owned(),
                Mistake::EndpointPartMissing,
            ),
            (
                r#"{"service_name":"s","endpoint":{"type":"icmp","value":"h:1"},"status":"blah"}"#.to_owned(),
                Mistake::EndpointTypeUnknown,
            ),
            (
                r#"{"service_name":"s","endpoint":{"type":"TCP","value":"h:1"}}"#.to_owned(),
                Mistake::EndpointTypeUnknown,
            ),
            (
                format!(
                    r#"{{"service_name":"{long}","endpoint":{{"type":"tcp","value":"h:1"}},"status":"blah"}}"#
                ),
                Mistake::StatusUnknown,
            ),
            (
                format!(r#"{{"service_name":"{long}","endpoint":{{"type":"tcp","value":"{long}"}}}}"#),
                Mistake::ServiceNameTooLong,
            ),
            (
                format!(r#"{{"service_name":"s","endpoint":{{"type":"tcp","value":"{long}"}}}}"#),
                Mistake::EndpointTooLong,
            ),
            (
                format!(
                    r#"{{"service_name":"s","endpoint":{{"type":"tcp","value":"h:1"}},"metadata":"{}"}}"#,
                    "x".repeat(1_023)
                ),
                Mistake::MetadataTooLong,
            ),
        ] {
            assert_eq!(check(&json), Err(mistake), "{json}");
        }
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let (service, value, metadata) = ("s".repeat(64), "v".repeat(128), "m".repeat(1_022));
        let json = format!(
            r#"{{"service_name":"{service}","endpoint":{{"type":"tcp","value":"{value}"}},"metadata":"{metadata}"}}"#
        );
        assert!(check(&json).is_ok());
    }

    #[test]
    fn statuses_are_taken_in_any_case_and_kept_in_upper_case() {
        for (sent, kept) in
            [("", "UP"), ("up", "UP"), ("Starting", "STARTING"), ("OUT_of_service", "OUT_OF_SERVICE")]
        {
            let json = format!(
                r#"{{"service_name":"s","endpoint":{{"type":"tcp","value":"h"}},"status":"{sent}"}}"#
            );
            assert_eq!(check(&json).unwrap().instance().status.as_str(), kept);
        }
    }

    /// Section 9.6 M6 to M10.
    #[test]
    fn a_lease_is_clamped_and_none_or_zero_means_the_default() {
        for (asked, granted) in [
            (None, 30),
            (Some(0), 30),
            (Some(15), 15),
            (Some(1), 10),
            (Some(601), 600),
            (Some(u32::MAX), 600),
        ] {
            assert_eq!(limits().grant(asked), Duration::from_secs(granted), "{asked:?}");
        }
    }

    /// Section 9.6 M49.
    #[test]
    fn limits_are_in_order() {
        let limits = |min, default, max| {
            let millis = Duration::from_millis;
            TtlLimits::new(millis(min), millis(default), millis(max)).err()
        };
        for (min, default, max, problem) in [
            (5, 5, 5, None),
            (1, 2, 3, None),
            (2, 2, 3, None),
            (1, 3, 3, None),
            (3, 2, 1, Some(BadTtlLimits::MinAboveMax)),
            (2, 1, 3, Some(BadTtlLimits::DefaultBelowMin)),
            (1, 4, 3, Some(BadTtlLimits::DefaultAboveMax)),
            (0, 0, 3, Some(BadTtlLimits::DefaultIsZero)),
        ] {
            assert_eq!(limits(min, default, max), problem, "{min} {default} {max}");
        }
    }

    #[test]
    fn a_lease_shorter_than_a_second_still_shows_as_one() {
        let millis = Duration::from_millis;
        let limits = TtlLimits::new(millis(100), millis(500), millis(1_500)).unwrap();
        let json = r#"{"service_name":"s","endpoint":{"type":"tcp","value":"h"}}"#;
        let admitted = admit(serde_json::from_str(json).unwrap(), limits).unwrap();
        assert_eq!((admitted.instance().ttl, admitted.ttl()), (1, millis(500)));
    }
}
