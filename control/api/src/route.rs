//! Where a route rule sends requests: weighted backends or an answer of its own, the path it captures, time and
//! tries (spec/control-and-proxy.md 2.4). It knows no instances.

use std::time::Duration;

use registry_api::ServiceName;
use registry_api::duration::seconds_to_duration;

use crate::answer::Answer;
use crate::edge::Edge;
use crate::header::HeaderEdits;
use crate::policy::{Key, Mirror, RateLimit, Retries};
use crate::rule::{BadRule, fitting};
use crate::share::Share;
use crate::tag::check_tags;
use crate::wire::{
    RawBackend, RawEdge, RawHeaderEdits, RawKey, RawMirror, RawRateLimit, RawRedirect, RawRetries,
};
use crate::wire::{RawResilience, RawResponse, RawRoute, RawSuccessRate, RawUri};

/// How one of a backend's instances is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LbType {
    /// In turn.
    #[default]
    RoundRobin,
    /// Of two drawn at random, the one with fewer requests in flight.
    LeastRequest,
    /// Evenly at random.
    Random,
    /// Of two drawn at random, the one whose recent latency times requests in flight is less.
    P2cEwma,
    /// By a hash of the request, so that equal keys meet the same instance while it lives.
    RingHash,
}

impl LbType {
    /// The word of the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastRequest => "least_request",
            Self::Random => "random",
            Self::P2cEwma => "p2c_ewma",
            Self::RingHash => "ring_hash",
        }
    }
}

/// Limits of a backend; absent means the default of the spec.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Resilience {
    pub max_connections: Option<u64>,
    pub max_pending_requests: Option<u64>,
    pub max_requests: Option<u64>,
    pub max_requests_per_connection: Option<u64>,
    pub consecutive_errors: Option<u64>,
    pub detection_interval: Option<Duration>,
    pub sleep_window: Option<Duration>,
    /// Whom of them to leave alone because the others do better; `None`: nobody.
    pub success_rate: Option<SuccessRate>,
    /// How many percent of the instances may be left alone at once for their failures; one always may. `None`: all.
    pub max_ejection_percent: Option<u32>,
    /// When fewer percent of the instances than this are usable, all are used.
    pub panic_threshold_percent: Option<u32>,
}

/// Instances whose success rate is lower than the mean by more than some standard deviations are ejected. Defaults are
/// those of Envoy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// So many standard deviations; more than 0. Among `n` instances none is ever further off than the root of `n - 1`.
    pub factor: f64,
    /// Nobody is ejected when fewer instances than this had enough requests.
    pub instances_min: usize,
    /// So many requests in one detection interval are enough.
    pub requests_min: u64,
    written: RawSuccessRate,
}

/// See [`SuccessRate::factor`].
pub const SUCCESS_RATE_FACTOR_DEFAULT: f64 = 1.9;
/// See [`SuccessRate::instances_min`].
pub const SUCCESS_RATE_INSTANCES_DEFAULT: usize = 5;
/// See [`SuccessRate::requests_min`].
pub const SUCCESS_RATE_REQUESTS_DEFAULT: u64 = 100;

/// Instances of one service that carry all of some tags, with a share of the requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// The service; `None` means the rule's destination.
    pub name: Option<ServiceName>,
    /// At least one; an instance must carry all of them, see [`TagTest`](crate::TagTest). As written.
    pub tags: Vec<String>,
    /// As written; `None` shares the rest equally with the other backends without one.
    pub weight: Option<Share>,
    /// Choice among the instances; `None` means the default.
    pub lb_type: Option<LbType>,
    /// What `ring_hash` hashes; there exactly then.
    pub hash_on: Option<Key>,
    /// For how long an instance that has come up gets less than its part.
    pub slow_start: Option<Duration>,
    /// Limits. Boxed, as in [`Route`].
    pub resilience: Option<Box<Resilience>>,
}

/// The path condition of a `uri`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// The beginning of the path.
    Prefix(String),
}

/// Which request path a route captures, and what replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriMatch {
    /// The condition.
    pub path: PathMatch,
    /// Replaces the matched part; `None` leaves the path alone.
    pub rewrite: Option<String>,
}

/// The body of a route rule. Boxed is what is large and rare: rules are kept by the ten thousand, and most say little.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// At least one, unless there is an answer, or an edge that only names the service.
    pub backends: Vec<Backend>,
    /// Given instead of calling an instance.
    pub answer: Option<Box<Answer>>,
    /// What happens to the headers that pass.
    pub headers: Option<Box<HeaderEdits>>,
    /// Captures requests by path, whatever their first segment.
    pub uri: Option<UriMatch>,
    /// Captures requests from outside by host and path.
    pub edge: Option<Box<Edge>>,
    /// Total time including retries; `None` means the default of 15 s.
    pub timeout: Option<Duration>,
    /// Extra attempts; `None` means the default of 1.
    pub retries: Option<u32>,
    /// Equal keys keep the same backend, as far as weights allow.
    pub sticky: Option<Key>,
    /// More about extra attempts.
    pub retry: Option<Box<Retries>>,
    /// How many requests may come.
    pub rate_limit: Option<Box<RateLimit>>,
    /// Who gets a copy.
    pub mirror: Option<Box<Mirror>>,
}

/// Weights may exceed 1 by this much in sum, for the sake of decimal fractions.
const WEIGHT_TOLERANCE: f64 = 1e-6;

impl Route {
    /// Whether it only names the service, and leaves the rest to the service's other rules.
    pub fn names_only(&self) -> bool {
        self.backends.is_empty() && self.answer.is_none()
    }

    /// The exact fraction of each backend, in order; they sum to 1 (spec 2.4, Weights). Backends without a
    /// weight share the remainder equally; explicit weights that sum to less than 1 are scaled up.
    pub fn shares(&self) -> Vec<f64> {
        let given: f64 = self.backends.iter().filter_map(|b| b.weight).map(Share::fraction).sum();
        let unset = self.backends.iter().filter(|backend| backend.weight.is_none()).count();
        let rest = if unset == 0 { 0.0 } else { (1.0 - given).max(0.0) / unset as f64 };
        let scale = if unset == 0 || given > 1.0 { 1.0 / given } else { 1.0 };
        self.backends.iter().map(|b| b.weight.map_or(rest, |w| w.fraction() * scale)).collect()
    }
}

impl TryFrom<RawRoute> for Route {
    type Error = BadRule;
    fn try_from(raw: RawRoute) -> Result<Self, BadRule> {
        if raw.uri.is_some() && raw.edge.is_some() {
            return Err(BadRule::new("route", "takes either uri or edge"));
        }
        let answer = match (raw.response, raw.redirect) {
            (None, None) if raw.backends.is_empty() && raw.edge.is_none() => {
                return Err(BadRule::new("route.backends", "is missing or empty"));
            }
            (None, None) => None,
            (Some(response), None) => Some(Answer::Response(response.try_into()?)),
            (None, Some(redirect)) => Some(Answer::Redirect(redirect.try_into()?)),
            (Some(_), Some(_)) => {
                return Err(BadRule::new("route", "takes either response or redirect"));
            }
        };
        let forwards = [
            (!raw.backends.is_empty(), "backends"),
            (raw.headers.is_some(), "headers"),
            (raw.http_req_timeout != 0.0, "http_req_timeout"),
            (raw.http_req_retries != 0, "http_req_retries"),
            (raw.sticky.is_some(), "sticky"),
            (raw.retries.is_some(), "retries"),
            (raw.mirror.is_some(), "mirror"),
        ];
        if let Some((_, field)) = forwards.iter().find(|(given, _)| *given && answer.is_some()) {
            return Err(BadRule::new("route", format!("an answer of its own takes no {field}")));
        }
        // Whatever else it says would be lost on the rules that decide.
        let names_only = raw.backends.is_empty() && answer.is_none();
        let limits = [(raw.rate_limit.is_some(), "rate_limit")];
        if let Some((_, field)) = forwards.iter().chain(&limits).find(|(given, _)| *given && names_only) {
            return Err(BadRule::new("route", format!("an edge without backends takes no {field}")));
        }
        let backends = fitting(raw.backends.into_iter().map(backend).collect::<Result<Vec<_>, _>>()?);
        let sum: f64 = backends.iter().filter_map(|b| b.weight).map(Share::fraction).sum();
        if sum > 1.0 + WEIGHT_TOLERANCE {
            return Err(BadRule::new(
                "route.backends.weight",
                format!("the weights sum to {sum}, more than 1"),
            ));
        }
        let retries = u32::try_from(raw.http_req_retries)
            .map_err(|_| BadRule::new("route.http_req_retries", "is negative or too large"))?;
        let retry = raw.retries.map(Retries::try_from).transpose()?;
        if retries > 0 && retry.as_ref().is_some_and(|retry| retry.count.is_some()) {
            return Err(BadRule::new("route.retries.count", "and http_req_retries say the same thing"));
        }
        Ok(Self {
            sticky: raw.sticky.map(|key| Key::read("route.sticky", key)).transpose()?,
            retry: retry.map(Box::new),
            rate_limit: raw.rate_limit.map(RateLimit::try_from).transpose()?.map(Box::new),
            mirror: raw.mirror.map(Mirror::try_from).transpose()?.map(Box::new),
            backends,
            answer: answer.map(Box::new),
            headers: raw.headers.map(HeaderEdits::try_from).transpose()?.map(Box::new),
            uri: raw.uri.map(uri).transpose()?,
            edge: raw.edge.map(Edge::try_from).transpose()?.map(Box::new),
            timeout: positive("route.http_req_timeout", raw.http_req_timeout)?,
            retries: (retries > 0).then_some(retries),
        })
    }
}

fn backend(raw: RawBackend) -> Result<Backend, BadRule> {
    if raw.tags.is_empty() {
        return Err(BadRule::new("route.backends.tags", "is missing or empty"));
    }
    let tags = check_tags("route.backends.tags", raw.tags)?;
    let weight = Share::new(raw.weight).map_err(|e| BadRule::new("route.backends.weight", e.to_string()))?;
    let lb_type = match raw.lb_type.as_str() {
        "" => None,
        "round_robin" => Some(LbType::RoundRobin),
        "least_request" => Some(LbType::LeastRequest),
        "random" => Some(LbType::Random),
        "p2c_ewma" => Some(LbType::P2cEwma),
        "ring_hash" => Some(LbType::RingHash),
        other => return Err(BadRule::new("route.backends.lb_type", format!("`{other}` is unknown"))),
    };
    let hash_on = raw.hash_on.map(|key| Key::read("route.backends.hash_on", key)).transpose()?;
    let slow_start = positive("route.backends.slow_start", raw.slow_start)?;
    let is_ring = lb_type == Some(LbType::RingHash);
    if is_ring != hash_on.is_some() {
        return Err(BadRule::new("route.backends.hash_on", "goes with lb_type ring_hash, and with no other"));
    }
    if is_ring && slow_start.is_some() {
        return Err(BadRule::new("route.backends.slow_start", "does not go with lb_type ring_hash"));
    }
    Ok(Backend {
        hash_on,
        slow_start,
        name: ServiceName::new(&raw.name).ok(),
        tags,
        weight: (weight.fraction() > 0.0).then_some(weight),
        lb_type,
        resilience: raw.resilience.map(resilience).transpose()?.map(Box::new),
    })
}

fn uri(raw: RawUri) -> Result<UriMatch, BadRule> {
    let path = match (raw.path.is_empty(), raw.prefix.is_empty()) {
        (false, true) => PathMatch::Exact(raw.path),
        (true, false) => PathMatch::Prefix(raw.prefix),
        _ => return Err(BadRule::new("route.uri", "needs either path or prefix")),
    };
    Ok(UriMatch { path, rewrite: (!raw.prefix_rewrite.is_empty()).then_some(raw.prefix_rewrite) })
}

fn resilience(raw: RawResilience) -> Result<Resilience, BadRule> {
    let count = |number: i64| {
        u64::try_from(number)
            .map(|count| (count > 0).then_some(count))
            .map_err(|_| BadRule::new("route.backends.resilience", "a number is negative"))
    };
    let time = |seconds| positive("route.backends.resilience", seconds);
    Ok(Resilience {
        max_connections: count(raw.max_connections)?,
        max_pending_requests: count(raw.max_pending_requests)?,
        max_requests: count(raw.max_requests)?,
        max_requests_per_connection: count(raw.max_requests_per_connection)?,
        consecutive_errors: count(raw.consecutive_errors)?,
        detection_interval: time(raw.detection_interval)?,
        sleep_window: time(raw.sleep_window)?,
        success_rate: raw.success_rate.map(SuccessRate::try_from).transpose()?,
        max_ejection_percent: percent(
            "route.backends.resilience.max_ejection_percent",
            raw.max_ejection_percent,
        )?,
        panic_threshold_percent: percent(
            "route.backends.resilience.panic_threshold_percent",
            raw.panic_threshold_percent,
        )?,
    })
}

/// Zero is absent.
fn percent(field: &'static str, number: i64) -> Result<Option<u32>, BadRule> {
    let percent = u32::try_from(number).ok().filter(|percent| *percent <= 100);
    let percent = percent.ok_or_else(|| BadRule::new(field, "is outside 0..=100"))?;
    Ok((percent > 0).then_some(percent))
}

impl TryFrom<RawSuccessRate> for SuccessRate {
    type Error = BadRule;
    fn try_from(raw: RawSuccessRate) -> Result<Self, BadRule> {
        let bad = |problem: &str| BadRule::new("route.backends.resilience.success_rate", problem);
        if !(raw.factor >= 0.0 && raw.factor.is_finite()) {
            return Err(bad("factor is no positive number"));
        }
        let instances = usize::try_from(raw.minimum_instances).map_err(|_| bad("a number is negative"))?;
        let requests = u64::try_from(raw.minimum_requests).map_err(|_| bad("a number is negative"))?;
        Ok(Self {
            factor: if raw.factor > 0.0 { raw.factor } else { SUCCESS_RATE_FACTOR_DEFAULT },
            instances_min: if instances > 0 { instances } else { SUCCESS_RATE_INSTANCES_DEFAULT },
            requests_min: if requests > 0 { requests } else { SUCCESS_RATE_REQUESTS_DEFAULT },
            written: raw,
        })
    }
}

/// Zero is absent.
pub(crate) fn positive(field: &'static str, seconds: f64) -> Result<Option<Duration>, BadRule> {
    let duration =
        seconds_to_duration(seconds).ok_or_else(|| BadRule::new(field, format!("{seconds} is no time")))?;
    Ok((!duration.is_zero()).then_some(duration))
}

impl From<&Route> for RawRoute {
    fn from(route: &Route) -> Self {
        Self {
            backends: route.backends.iter().map(RawBackend::from).collect(),
            response: match route.answer.as_deref() {
                Some(Answer::Response(response)) => Some(RawResponse::from(response)),
                _ => None,
            },
            redirect: match route.answer.as_deref() {
                Some(Answer::Redirect(redirect)) => Some(RawRedirect::from(redirect)),
                _ => None,
            },
            headers: route.headers.as_deref().map(RawHeaderEdits::from),
            uri: route.uri.as_ref().map(RawUri::from),
            edge: route.edge.as_deref().map(RawEdge::from),
            http_req_timeout: route.timeout.map_or(0.0, |time| time.as_secs_f64()),
            http_req_retries: route.retries.map_or(0, i64::from),
            sticky: route.sticky.as_ref().map(RawKey::from),
            retries: route.retry.as_deref().map(RawRetries::from),
            rate_limit: route.rate_limit.as_deref().map(RawRateLimit::from),
            mirror: route.mirror.as_deref().map(RawMirror::from),
        }
    }
}

impl From<&Backend> for RawBackend {
    fn from(backend: &Backend) -> Self {
        Self {
            name: backend.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            tags: backend.tags.clone(),
            weight: backend.weight.map_or(0.0, Share::fraction),
            lb_type: backend.lb_type.map(|lb| lb.as_str().to_owned()).unwrap_or_default(),
            hash_on: backend.hash_on.as_ref().map(RawKey::from),
            slow_start: backend.slow_start.map_or(0.0, |time| time.as_secs_f64()),
            resilience: backend.resilience.as_deref().map(RawResilience::from),
        }
    }
}

impl From<&UriMatch> for RawUri {
    fn from(uri: &UriMatch) -> Self {
        let (path, prefix) = match &uri.path {
            PathMatch::Exact(path) => (path.clone(), String::new()),
            PathMatch::Prefix(prefix) => (String::new(), prefix.clone()),
        };
        Self { path, prefix, prefix_rewrite: uri.rewrite.clone().unwrap_or_default() }
    }
}

impl From<&Resilience> for RawResilience {
    fn from(limits: &Resilience) -> Self {
        let count = |number: Option<u64>| number.map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX));
        let time = |time: Option<Duration>| time.map_or(0.0, |time| time.as_secs_f64());
        Self {
            max_connections: count(limits.max_connections),
            max_pending_requests: count(limits.max_pending_requests),
            max_requests: count(limits.max_requests),
            max_requests_per_connection: count(limits.max_requests_per_connection),
            consecutive_errors: count(limits.consecutive_errors),
            detection_interval: time(limits.detection_interval),
            sleep_window: time(limits.sleep_window),
            success_rate: limits.success_rate.map(|rate| rate.written),
            max_ejection_percent: limits.max_ejection_percent.map_or(0, i64::from),
            panic_threshold_percent: limits.panic_threshold_percent.map_or(0, i64::from),
        }
    }
}
