//! The live state beside the table: counts in flight, turns, ejections and metric handles, keyed by stable
//! identity so that a swap forgets nothing. It decides nothing; routing reads it through [`BoardView`].

mod endpoint;
mod gauges;
mod kept;
mod limits;
mod series;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control_api::{Rule, RuleId};
use registry_api::{Instance, InstanceId, ServiceName};
use routing::{Address, Attach, BackendSpec, Detection, Load, RetryBudget, Tally, may_eject};

pub use endpoint::{EndpointLive, InFlight};
pub use limits::Limits;
pub use series::{SERIES_MAX_DEFAULT, Slot};

use self::gauges::Gauges;
use self::kept::Kept;
use self::series::Labelled;
use crate::courtesy;
use crate::metrics::{Codes, Metrics, RuleSeries, ServiceSeries};
use crate::resolve::Resolver;

/// The state of a service: its metric series.
pub type ServiceLive = Slot<ServiceSeries>;
/// The state of a rule that can be counted by itself: one with actions, one that answers, one with a limit.
pub type RuleLive = Slot<RuleSeries>;

/// Everything that outlives a table.
pub struct Board {
    resolver: Arc<Resolver>,
    origin: Instant,
    /// When the table that is being compiled is made.
    compiled_at: Mutex<Instant>,
    /// Whoever is new from now on has just come up.
    settled: AtomicBool,
    state: Arc<State>,
}

struct State {
    backends: Mutex<Kept<BackendKey, BackendState>>,
    endpoints: Mutex<Kept<EndpointKey, EndpointLive>>,
    /// Taken last where another is held.
    series: Mutex<Labelled>,
}

/// Destination, rule, service and label: what makes two backends of two tables the same one.
type BackendKey = (ServiceName, Option<RuleId>, ServiceName, String);
type EndpointKey = (ServiceName, InstanceId, Address);

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    /// An empty board, the only one of these metrics. `now` is the origin of its times.
    pub fn new(metrics: Arc<Metrics>, resolver: Arc<Resolver>, now: Instant) -> Self {
        let state = Arc::new(State {
            backends: Mutex::default(),
            endpoints: Mutex::default(),
            series: Mutex::new(Labelled::new(Arc::clone(&metrics), SERIES_MAX_DEFAULT)),
        });
        metrics.gather_from(Gauges::of(&state));
        Self { resolver, origin: now, compiled_at: Mutex::new(now), settled: AtomicBool::new(false), state }
    }

    /// The same with another bound of the parts that have series of their own; before anything is attached.
    #[must_use]
    pub fn with_series_max(self, max: usize) -> Self {
        lock(&self.state.series).set_max(max);
        self
    }

    /// A table is about to be compiled: whichever instance is new in it came up `now`.
    pub fn compiling(&self, now: Instant) {
        *lock(&self.compiled_at) = now;
    }

    /// Control was heard once: whichever instance is new from now on has just come up. Before that nobody knows for how long
    /// an instance has been there, and none has a slow start.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Forgets what no table has used since the sweep before this one, series included. For the feed, now
    /// and then.
    pub fn sweep(&self) {
        lock(&self.state.endpoints).sweep(|_| {});
        lock(&self.state.backends).sweep(|_| {});
        lock(&self.state.series).sweep();
    }
}

impl Attach for Board {
    type Service = Arc<ServiceLive>;
    type Rule = Option<Arc<RuleLive>>;
    type Backend = Arc<BackendLive>;
    type Endpoint = Arc<EndpointLive>;

    fn service(&self, name: &ServiceName) -> Arc<ServiceLive> {
        // Asked once for each service that is compiled.
        courtesy::stand_aside();
        lock(&self.state.series).service(name)
    }

    /// What other rules do is counted with their backends.
    fn rule(&self, destination: &ServiceName, rule: &Rule) -> Option<Arc<RuleLive>> {
        let counted = rule.route().is_none_or(|route| route.answer.is_some() || route.rate_limit.is_some());
        counted.then(|| lock(&self.state.series).rule(destination, &rule.id))
    }

    fn backend(
        &self,
        destination: &ServiceName,
        rule: Option<&RuleId>,
        backend: &BackendSpec<'_>,
    ) -> Arc<BackendLive> {
        let key = (destination.clone(), rule.cloned(), backend.service.clone(), backend.label.to_owned());
        let labels = || {
            let rule = rule.map(ToString::to_string).unwrap_or_default();
            [destination.to_string(), backend.label.to_owned(), rule]
        };
        let state = lock(&self.state.backends).get(key, || BackendState {
            ticket: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            requests_max: AtomicU32::new(0),
            retrying: AtomicU32::new(0),
            budget: Mutex::default(),
            detection: Mutex::default(),
            ejecting: Mutex::default(),
            origin: self.origin,
            codes: lock(&self.state.series).codes(labels()),
        });
        // Limits are the rule's and may change under the same id; counts may not.
        let limits = Limits::of(&backend.resilience);
        state.requests_max.store(limits.requests_max, Ordering::Relaxed);
        Arc::new(BackendLive { limits, state })
    }

    fn endpoint(
        &self,
        service: &ServiceName,
        instance: &Arc<Instance>,
        address: &Address,
    ) -> Arc<EndpointLive> {
        let key = (service.clone(), instance.id.clone(), address.clone());
        let mut endpoints = lock(&self.state.endpoints);
        let back = !endpoints.is_used(&key);
        let live =
            endpoints.get(key, || EndpointLive::new(address, |host| self.resolver.host(host), self.origin));
        if back && self.settled.load(Ordering::Relaxed) {
            live.come_up(*lock(&self.compiled_at));
        }
        live
    }
}

/// How routing sees the endpoints at one moment.
#[derive(Debug, Clone, Copy)]
pub struct BoardView {
    now: Instant,
}

impl BoardView {
    /// The state at `now`.
    pub fn at(now: Instant) -> Self {
        Self { now }
    }
}

impl Load<Arc<EndpointLive>> for BoardView {
    fn active(&self, endpoint: &Arc<EndpointLive>) -> u32 {
        endpoint.active()
    }

    fn usable(&self, endpoint: &Arc<EndpointLive>) -> bool {
        endpoint.usable(self.now)
    }

    fn known(&self, endpoint: &Arc<EndpointLive>) -> bool {
        endpoint.known()
    }

    fn latency(&self, endpoint: &Arc<EndpointLive>) -> Duration {
        endpoint.latency(self.now)
    }

    fn age(&self, endpoint: &Arc<EndpointLive>) -> Option<Duration> {
        endpoint.age(self.now)
    }
}

/// The state of a backend, with the limits of the table that holds it.
#[derive(Debug)]
pub struct BackendLive {
    limits: Limits,
    state: Arc<BackendState>,
}

#[derive(Debug)]
struct BackendState {
    ticket: AtomicU64,
    in_flight: AtomicU32,
    /// As the newest table says; only for whoever looks on.
    requests_max: AtomicU32,
    retrying: AtomicU32,
    budget: Mutex<RetryBudget>,
    detection: Mutex<Detection<InstanceId>>,
    ejecting: Mutex<()>,
    origin: Instant,
    codes: Arc<Slot<Codes>>,
}

impl BackendState {
    fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn requests_max(&self) -> u32 {
        self.requests_max.load(Ordering::Relaxed)
    }

    /// Whether any request came.
    fn was_used(&self) -> bool {
        self.ticket.load(Ordering::Relaxed) > 0 || self.in_flight() > 0
    }
}

impl BackendLive {
    /// What the rule allows.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The next turn.
    pub fn ticket(&self) -> u64 {
        self.state.ticket.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts one client request by the code that was sent; 0 when the connection was closed instead.
    pub fn count(&self, code: u16) {
        self.state.codes.series().count(code);
    }

    /// Requests that hold a [`Permit`].
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight()
    }

    /// Admits one request; `None` when the backend's limit is reached: answer `overloaded`, 503.
    pub fn admit(&self) -> Option<Permit> {
        let before = self.state.in_flight.fetch_add(1, Ordering::Relaxed);
        // Made first: dropping it takes the count back.
        let permit = Permit(Arc::clone(&self.state));
        (before < self.limits.requests_max).then_some(permit)
    }
}

impl BackendLive {
    /// Counts one more retry, unless there are too many: `percent` of the requests in flight, and a few a second.
    pub fn retry(&self, percent: f64, now: Instant) -> Option<Retrying> {
        let state = &self.state;
        let before = state.retrying.fetch_add(1, Ordering::Relaxed);
        // Made first: dropping it takes the count back.
        let retrying = Retrying(Arc::clone(state));
        let since = now.saturating_duration_since(state.origin);
        let admitted = lock(&state.budget).admit(percent, self.in_flight(), before, since);
        admitted.then_some(retrying)
    }
}

/// The right to eject one more instance of a backend, until dropped: nobody else has it meanwhile.
#[derive(Debug)]
pub struct Turn<'b>(#[expect(dead_code, reason = "only held")] MutexGuard<'b, ()>);

impl BackendLive {
    /// The right to eject one more of `all` instances, unless `ejected` are enough already. Asked for when an instance is
    /// about to be ejected, and then alone.
    pub fn turn_to_eject(&self, ejected: impl FnOnce() -> usize, all: usize) -> Option<Turn<'_>> {
        let turn = lock(&self.state.ejecting);
        may_eject(ejected(), all, self.limits.max_ejection_percent).then_some(Turn(turn))
    }

    /// The instances that did worse than the others in a detection interval that is over, the worst first; nobody while it
    /// goes on, and where the rule does not ask for it. Not for threads that serve requests.
    pub fn outliers(
        &self,
        now: Instant,
        tallies: impl FnOnce() -> Vec<(InstanceId, Tally)>,
    ) -> Vec<InstanceId> {
        let Some(rule) = &self.limits.success_rate else { return Vec::new() };
        let since = now.saturating_duration_since(self.state.origin);
        lock(&self.state.detection).judge(since, self.limits.detection_interval, rule, tallies)
    }
}

/// One request of a backend that is tried again, until dropped.
#[derive(Debug)]
pub struct Retrying(Arc<BackendState>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retrying.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One admitted request of a backend, until dropped.
#[derive(Debug)]
pub struct Permit(Arc<BackendState>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
