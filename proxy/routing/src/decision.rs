//! What to do with one request: small data that borrows nothing. It says what, the engines do it; how it
//! came about is told by an explanation.

use std::num::NonZeroU64;
use std::time::Duration;

use control_api::{AbortCode, Draw};

use crate::seed::{Purpose, Seed};

/// The total time of a request whose route does not say otherwise (spec 2.4).
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// The extra attempts of a request whose route does not say otherwise (spec 2.4).
pub const RETRIES_DEFAULT: u32 = 1;

/// A service of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceIndex(pub(crate) u32);

/// A backend of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendRef {
    pub(crate) service: ServiceIndex,
    pub(crate) place: u32,
}

/// A route rule of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteRuleRef {
    pub(crate) service: ServiceIndex,
    pub(crate) place: u32,
}

/// An action rule of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActionRuleRef {
    pub(crate) service: ServiceIndex,
    pub(crate) place: u32,
}

/// What to do with one request. Every reference is good for the table that decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// The service the request is for; `None` when it names none that is known.
    pub service: Option<ServiceIndex>,
    /// The route rule that applies; `None` for the default of a service without any.
    pub route: Option<RouteRuleRef>,
    /// The backend chosen, also when it has no instances; `None` when it did not come to a choice.
    pub backend: Option<BackendRef>,
    /// What happens, after the delay of `faults`.
    pub outcome: Outcome,
    /// What the action rule did.
    pub faults: Faults,
    /// Total time including retries. Injected delays are not charged to it.
    pub timeout: Duration,
    /// Extra attempts.
    pub retries: u32,
    /// How the path changes on its way up.
    pub rewrite: Rewrite,
    /// Where the key of the request lies, for a backend that hashes; see [`Self::pick_draw`].
    pub affinity: Option<Draw>,
    /// Whose limit the request counts against, where the route has one by key and the request carries it.
    pub limit_key: Option<u64>,
    /// Who gets a copy of the request; has at least one endpoint.
    pub mirror: Option<BackendRef>,
}

/// The end of the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Send it to one of the backend's endpoints, of which there is at least one.
    Forward(BackendRef),
    /// Fail it as an action wants; no instance is called.
    Abort(AbortCode),
    /// Answer as the route rule says; no instance is called. See [`RouteRule::answer`](crate::RouteRule::answer).
    Answer(RouteRuleRef),
    /// Answer with a named refusal.
    Refuse(Refusal),
}

/// Why a request goes nowhere (spec 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The path names no service that has instances or rules: 404 `unknown_service`.
    UnknownService,
    /// Route rules exist for the service and none matches: 404 `no_route`.
    NoRoute,
    /// The choice has no instance that is up and routable: 503 `no_instances`.
    NoInstances,
}

/// What the one action rule that applies to a request does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// The rule; `None` when none applies.
    pub rule: Option<ActionRuleRef>,
    /// How long to hold the request before the outcome, all its delays together.
    pub delay: Duration,
    /// The body of the answer is sent no faster than this.
    pub bytes_per_s: Option<NonZeroU64>,
    /// The connection ends after this much of the answer's body.
    pub after_bytes: Option<u64>,
    /// Which actions of the rule happened.
    pub fired: Fired,
}

/// A set of actions of one rule, by their place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fired(u64);

impl Fired {
    /// The most actions of one rule that run; those after them never do.
    pub const ACTIONS_MAX: usize = 64;

    /// Whether the action at this place happened.
    pub fn contains(self, place: usize) -> bool {
        place < Self::ACTIONS_MAX && self.0 & (1 << place) != 0
    }

    /// Whether nothing happened.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn insert(&mut self, place: usize) {
        debug_assert!(place < Self::ACTIONS_MAX);
        self.0 |= 1 << place;
    }
}

/// How the path of a request changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// Not at all.
    Keep,
    /// The first segment, which names the service, is taken off.
    Strip,
    /// As the `uri` of the rule says.
    Uri(RouteRuleRef),
}

impl Decision {
    /// The draw that [`pick`](crate::pick) needs for an attempt: the place of the request's key where there is one,
    /// otherwise a chance of its own for every attempt. `key` is that of the backend.
    pub fn pick_draw(&self, seed: Seed, attempt: u8, key: u64) -> Draw {
        self.affinity.unwrap_or_else(|| seed.draw(Purpose::Pick(attempt), key))
    }

    /// A refusal before a backend was chosen.
    pub(crate) fn refuse(service: Option<ServiceIndex>, refusal: Refusal) -> Self {
        Self {
            service,
            route: None,
            backend: None,
            outcome: Outcome::Refuse(refusal),
            faults: Faults::default(),
            timeout: TIMEOUT_DEFAULT,
            retries: RETRIES_DEFAULT,
            rewrite: Rewrite::Keep,
            affinity: None,
            limit_key: None,
            mirror: None,
        }
    }
}

impl Refusal {
    /// The status and the error id of spec 3.7.
    pub fn status_and_id(self) -> (u16, &'static str) {
        match self {
            Self::UnknownService => (404, "unknown_service"),
            Self::NoRoute => (404, "no_route"),
            Self::NoInstances => (503, "no_instances"),
        }
    }
}
