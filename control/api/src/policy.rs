//! How a route treats what it forwards: what ties a client to a choice, what is tried again, how much may come, and
//! who else hears of it. Right by construction; the state that some of it needs lives beside the proxies' tables.

use std::fmt;
use std::time::Duration;

use http::HeaderName;
use registry_api::ServiceName;

use crate::route::positive;
use crate::rule::{BadRule, distinct};
use crate::share::Share;
use crate::tag::check_tags;
use crate::wire::{RawKey, RawMirror, RawRateLimit, RawRetries};

/// The most extra attempts that a rule may ask for.
pub const RETRIES_MAX: i64 = 99;
/// The share of the requests in flight that may be retries, unless told.
pub const BUDGET_PERCENT_DEFAULT: f64 = 20.0;
/// The longest first back-off.
pub const BACKOFF_MAX_MS: i64 = 60_000;
/// The highest rate, and the largest burst, of a rate limit.
pub const RATE_MAX: f64 = 1e6;

/// What of a request is hashed, so that equal clients are treated equally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The whole value of a header field, and its name as written.
    Header(HeaderName, String),
    /// The value of a cookie.
    Cookie(String),
    /// The address of the client.
    Source,
}

/// What is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// `5xx`: any answer of 500 and more, and everything that is no answer.
    ServerError,
    /// `gateway-error`: 502, 503 and 504.
    GatewayError,
    /// `connect-failure`: no connection came about.
    Connect,
    /// `refused-stream`: an HTTP/2 instance refused the stream unprocessed.
    RefusedStream,
    /// `reset`: the connection ended before an answer.
    Reset,
    /// `timeout`: one try took longer than `per_try_timeout`.
    Timeout,
    /// One status, 400 to 599.
    Status(u16),
}

/// When and how often a request is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    /// Extra attempts; `None` means the default of the spec.
    pub count: Option<u32>,
    /// What is tried again; empty means the policy of the spec.
    pub on: Vec<RetryOn>,
    /// Methods that are tried again; empty means every one.
    pub methods: Vec<String>,
    /// Time for one try, within that of the whole request.
    pub per_try_timeout: Option<Duration>,
    /// The percentage of the requests in flight that may be retries.
    pub budget_percent: f64,
    /// The longest wait before the first retry; `None` means the default.
    pub backoff: Option<Duration>,
    written: RawRetries,
}

/// How many requests may come.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// On average, more than 0.
    pub requests_per_s: f64,
    /// At once, at least 1.
    pub burst: u32,
    /// Every key has its own limit; `None`: all requests share one.
    pub key: Option<Key>,
    is_default_burst: bool,
}

/// Who gets a copy of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// The service; `None` means the rule's destination.
    pub service: Option<ServiceName>,
    /// An instance must carry all of them; may be empty.
    pub tags: Vec<String>,
    /// Of how many requests.
    pub share: Share,
    percent: f64,
}

impl Key {
    /// `header x`, `cookie x` or `source`.
    pub fn describe(&self) -> String {
        match self {
            Self::Header(name, _) => format!("header {name}"),
            Self::Cookie(name) => format!("cookie {name}"),
            Self::Source => "source".to_owned(),
        }
    }

    pub(crate) fn read(field: &'static str, raw: RawKey) -> Result<Self, BadRule> {
        match (raw.header.as_str(), raw.cookie.as_str(), raw.source) {
            (header, "", false) if !header.is_empty() => {
                let name = HeaderName::from_bytes(header.as_bytes())
                    .map_err(|_| BadRule::new(field, format!("`{header}` is no header name")))?;
                Ok(Self::Header(name, raw.header))
            }
            // The names of cookies are tokens, like those of fields (RFC 6265 4.1.1).
            ("", cookie, false) if HeaderName::from_bytes(cookie.as_bytes()).is_ok() => {
                Ok(Self::Cookie(raw.cookie))
            }
            ("", "", true) => Ok(Self::Source),
            _ => Err(BadRule::new(field, "needs one of header, cookie and source")),
        }
    }
}

impl RetryOn {
    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "5xx" => Self::ServerError,
            "gateway-error" => Self::GatewayError,
            "connect-failure" => Self::Connect,
            "refused-stream" => Self::RefusedStream,
            "reset" => Self::Reset,
            "timeout" => Self::Timeout,
            status => Self::Status(status.parse().ok().filter(|status| (400..=599).contains(status))?),
        })
    }
}

impl fmt::Display for RetryOn {
    /// The word of the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerError => f.write_str("5xx"),
            Self::GatewayError => f.write_str("gateway-error"),
            Self::Connect => f.write_str("connect-failure"),
            Self::RefusedStream => f.write_str("refused-stream"),
            Self::Reset => f.write_str("reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::Status(status) => write!(f, "{status}"),
        }
    }
}

impl TryFrom<RawRetries> for Retries {
    type Error = BadRule;
    fn try_from(raw: RawRetries) -> Result<Self, BadRule> {
        if raw == RawRetries::default() {
            return Err(BadRule::new("route.retries", "is empty"));
        }
        let problem = || BadRule::new("route.retries.count", format!("is outside 0..={RETRIES_MAX}"));
        let count =
            |count: i64| u32::try_from(count).ok().filter(|_| count <= RETRIES_MAX).ok_or_else(problem);
        distinct("route.retries.on", &raw.on)?;
        let on = |text: &String| {
            let problem = || BadRule::new("route.retries.on", format!("`{text}` is unknown"));
            RetryOn::read(text).ok_or_else(problem)
        };
        distinct("route.retries.methods", &raw.methods)?;
        if let Some(odd) = raw.methods.iter().find(|name| http::Method::from_bytes(name.as_bytes()).is_err())
        {
            return Err(BadRule::new("route.retries.methods", format!("`{odd}` is no method")));
        }
        if !(0.0..=100.0).contains(&raw.budget_percent) {
            return Err(BadRule::new("route.retries.budget_percent", "is outside 0..=100"));
        }
        if !(0..=BACKOFF_MAX_MS).contains(&raw.backoff_ms) {
            let problem = format!("is outside 0..={BACKOFF_MAX_MS}");
            return Err(BadRule::new("route.retries.backoff_ms", problem));
        }
        let given = |percent: f64| if percent > 0.0 { percent } else { BUDGET_PERCENT_DEFAULT };
        let backoff = Duration::from_millis(raw.backoff_ms.unsigned_abs());
        Ok(Self {
            count: raw.count.map(count).transpose()?,
            on: raw.on.iter().map(on).collect::<Result<_, _>>()?,
            methods: raw.methods.clone(),
            per_try_timeout: positive("route.retries.per_try_timeout", raw.per_try_timeout)?,
            budget_percent: given(raw.budget_percent),
            backoff: (!backoff.is_zero()).then_some(backoff),
            written: raw,
        })
    }
}

impl TryFrom<RawRateLimit> for RateLimit {
    type Error = BadRule;
    fn try_from(raw: RawRateLimit) -> Result<Self, BadRule> {
        let rate = raw.requests_per_s;
        if !(rate > 0.0 && rate <= RATE_MAX) {
            return Err(BadRule::new("route.rate_limit.requests_per_s", "is outside 0..=1000000, or 0"));
        }
        let burst = match raw.burst {
            0 => rate.ceil() as u32,
            burst => u32::try_from(burst)
                .ok()
                .filter(|burst| f64::from(*burst) <= RATE_MAX)
                .ok_or_else(|| BadRule::new("route.rate_limit.burst", "is outside 1..=1000000"))?,
        };
        let key = raw.key.map(|key| Key::read("route.rate_limit.key", key)).transpose()?;
        Ok(Self { requests_per_s: rate, burst, key, is_default_burst: raw.burst == 0 })
    }
}

impl TryFrom<RawMirror> for Mirror {
    type Error = BadRule;
    fn try_from(raw: RawMirror) -> Result<Self, BadRule> {
        let tags = check_tags("route.mirror.tags", raw.tags)?;
        let service = ServiceName::new(&raw.service).ok();
        if service.is_none() && tags.is_empty() {
            return Err(BadRule::new("route.mirror", "needs a service or tags"));
        }
        let share = Share::new(raw.percent / 100.0)
            .map_err(|_| BadRule::new("route.mirror.percent", "is outside 0..=100"))?;
        let share = if raw.percent == 0.0 { Share::ALL } else { share };
        Ok(Self { service, tags, share, percent: raw.percent })
    }
}

impl From<&Key> for RawKey {
    fn from(key: &Key) -> Self {
        match key {
            Key::Header(_, written) => Self { header: written.clone(), ..Self::default() },
            Key::Cookie(name) => Self { cookie: name.clone(), ..Self::default() },
            Key::Source => Self { source: true, ..Self::default() },
        }
    }
}

impl From<&Retries> for RawRetries {
    fn from(retries: &Retries) -> Self {
        retries.written.clone()
    }
}

impl From<&RateLimit> for RawRateLimit {
    fn from(limit: &RateLimit) -> Self {
        Self {
            requests_per_s: limit.requests_per_s,
            burst: if limit.is_default_burst { 0 } else { limit.burst.into() },
            key: limit.key.as_ref().map(RawKey::from),
        }
    }
}

impl From<&Mirror> for RawMirror {
    fn from(mirror: &Mirror) -> Self {
        Self {
            service: mirror.service.as_ref().map(ToString::to_string).unwrap_or_default(),
            tags: mirror.tags.clone(),
            percent: mirror.percent,
        }
    }
}
