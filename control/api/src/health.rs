//! How the instances of a service are asked whether they are well. Right by construction; asking is the proxies' matter.

use std::time::Duration;

use registry_api::duration::seconds_to_duration;

use crate::rule::BadRule;
use crate::wire::RawHealthCheck;

/// The time between two checks of an instance, unless told.
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// The least and the most of it.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// See [`INTERVAL_MIN`].
pub const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// The time for one check, unless told.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// The most of it.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Checks that must fail in a row, unless told.
pub const UNHEALTHY_THRESHOLD_DEFAULT: u32 = 3;
/// Checks that must succeed in a row, unless told.
pub const HEALTHY_THRESHOLD_DEFAULT: u32 = 2;
/// The most of either.
pub const THRESHOLD_MAX: u32 = 100;
/// The longest path, and the longest name of a gRPC service.
pub const TEXT_BYTES_MAX: usize = 1024;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `GET` of a path with its query; any answer of 200 to 299 is well.
    Http(String),
    /// A connection.
    Tcp,
    /// `grpc.health.v1.Health/Check` of a service; the empty name asks for the server as a whole.
    Grpc(String),
}

/// How the instances of a service are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Between two checks of one instance.
    pub interval: Duration,
    /// For one check, from the connection to the answer.
    pub timeout: Duration,
    /// Checks in a row that must fail for an instance to be unhealthy; at least 1.
    pub unhealthy_threshold: u32,
    /// Checks in a row that must succeed for it to be healthy again; at least 1.
    pub healthy_threshold: u32,
    /// Where to ask, when not where requests go.
    pub port: Option<u16>,
    written: RawHealthCheck,
}

impl HealthCheck {
    /// `http /path`, `tcp`, `grpc` or `grpc name`.
    pub fn describe(&self) -> String {
        match &self.probe {
            Probe::Http(path) => format!("http {path}"),
            Probe::Tcp => "tcp".to_owned(),
            Probe::Grpc(service) if service.is_empty() => "grpc".to_owned(),
            Probe::Grpc(service) => format!("grpc {service}"),
        }
    }
}

impl TryFrom<RawHealthCheck> for HealthCheck {
    type Error = BadRule;
    fn try_from(raw: RawHealthCheck) -> Result<Self, BadRule> {
        let probe = match (raw.kind.as_str(), raw.path.as_str(), raw.service.as_str()) {
            ("http", "", "") => Probe::Http("/".to_owned()),
            ("http", path, "") => Probe::Http(target(path)?),
            ("tcp", "", "") => Probe::Tcp,
            ("grpc", "", service) => Probe::Grpc(name(service)?),
            ("http" | "tcp", "", _) => return Err(bad("service", "goes with type grpc, and with no other")),
            ("tcp" | "grpc", _, _) => return Err(bad("path", "goes with type http, and with no other")),
            ("http", _, _) => return Err(bad("service", "goes with type grpc, and with no other")),
            _ => return Err(BadRule::new("health_check.type", "is none of http, tcp and grpc")),
        };
        let time = |field, seconds: f64, default, range: std::ops::RangeInclusive<Duration>| {
            let time = seconds_to_duration(seconds).filter(|time| time.is_zero() || range.contains(time));
            let time = time.ok_or_else(|| BadRule::new(field, format!("{seconds} is out of range")))?;
            Ok(if time.is_zero() { default } else { time })
        };
        let threshold = |field, number: i64, default| {
            let number = u32::try_from(number).ok().filter(|number| *number <= THRESHOLD_MAX);
            let number =
                number.ok_or_else(|| BadRule::new(field, format!("is outside 0..={THRESHOLD_MAX}")))?;
            Ok(if number == 0 { default } else { number })
        };
        let port = u16::try_from(raw.port).map_err(|_| BadRule::new("health_check.port", "is no port"))?;
        Ok(Self {
            probe,
            interval: time(
                "health_check.interval_s",
                raw.interval_s,
                INTERVAL_DEFAULT,
                INTERVAL_MIN..=INTERVAL_MAX,
            )?,
            timeout: time(
                "health_check.timeout_s",
                raw.timeout_s,
                TIMEOUT_DEFAULT,
                Duration::from_millis(1)..=TIMEOUT_MAX,
            )?,
            unhealthy_threshold: threshold(
                "health_check.unhealthy_threshold",
                raw.unhealthy_threshold,
                UNHEALTHY_THRESHOLD_DEFAULT,
            )?,
            healthy_threshold: threshold(
                "health_check.healthy_threshold",
                raw.healthy_threshold,
                HEALTHY_THRESHOLD_DEFAULT,
            )?,
            port: (port > 0).then_some(port),
            written: raw,
        })
    }
}

fn bad(field: &str, problem: &str) -> BadRule {
    BadRule::new("health_check", format!("{field} {problem}"))
}

/// It is written into a request line.
fn target(path: &str) -> Result<String, BadRule> {
    let fits = path.starts_with('/')
        && path.len() <= TEXT_BYTES_MAX
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if fits { Ok(path.to_owned()) } else { Err(bad("path", "is no path of a request")) }
}

fn name(service: &str) -> Result<String, BadRule> {
    let fits = service.len() <= TEXT_BYTES_MAX && service.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(service.to_owned()) } else { Err(bad("service", "is no name of a gRPC service")) }
}

impl From<&HealthCheck> for RawHealthCheck {
    fn from(check: &HealthCheck) -> Self {
        check.written.clone()
    }
}
