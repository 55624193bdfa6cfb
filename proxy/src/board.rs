//! The live state beside the table: counts in flight, turns, ejections and metric handles, keyed by stable
//! identity so that a swap forgets nothing. It decides nothing; routing reads it through [`BoardView`].

mod endpoint;
mod limits;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control_api::RuleId;
use registry_api::{Instance, InstanceId, ServiceName};
use routing::{Address, Attach, BackendSpec, Load, RetryBudget};

pub use endpoint::{EndpointLive, InFlight};
pub use limits::Limits;

use crate::metrics::{Codes, Metrics, OTHER, ServiceSeries};
use crate::resolve::Resolver;

/// How many services have series of their own; those beyond share one set.
pub const SERVICES_MAX: usize = 20_000;
/// How many backends have series of their own; those beyond share one set.
pub const BACKENDS_MAX: usize = 50_000;

/// The state of a service: its metric series.
pub type ServiceLive = ServiceSeries;

/// Everything that outlives a table.
pub struct Board {
    metrics: Arc<Metrics>,
    resolver: Arc<Resolver>,
    origin: Instant,
    services: Mutex<Kept<ServiceName, ServiceSeries>>,
    backends: Mutex<Kept<BackendKey, BackendState>>,
    /// By their labels, which two backends may share: a series goes with its last user.
    codes: Mutex<Kept<[String; 3], Codes>>,
    endpoints: Mutex<Kept<EndpointKey, EndpointLive>>,
    /// When the table that is being compiled is made.
    compiled_at: Mutex<Instant>,
    /// Whoever is new from now on has just come up.
    settled: AtomicBool,
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
    /// An empty board. `now` is the origin of its times.
    pub fn new(metrics: Arc<Metrics>, resolver: Arc<Resolver>, now: Instant) -> Self {
        Self {
            metrics,
            resolver,
            origin: now,
            services: Mutex::default(),
            backends: Mutex::default(),
            codes: Mutex::default(),
            endpoints: Mutex::default(),
            compiled_at: Mutex::new(now),
            settled: AtomicBool::new(false),
        }
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
        lock(&self.endpoints).sweep(|_| {});
        lock(&self.backends).sweep(|_| {});
        lock(&self.codes).sweep(Codes::remove);
        lock(&self.services).sweep(ServiceSeries::remove);
    }
}

impl Board {
    fn codes(&self, labels: [String; 3]) -> Arc<Codes> {
        let mut codes = lock(&self.codes);
        let labels =
            if codes.has_room(&labels, BACKENDS_MAX) { labels } else { [OTHER; 3].map(str::to_owned) };
        codes.get(labels.clone(), || self.metrics.backend(labels))
    }
}

impl Attach for Board {
    type Service = Arc<ServiceLive>;
    type Backend = Arc<BackendLive>;
    type Endpoint = Arc<EndpointLive>;

    fn service(&self, name: &ServiceName) -> Arc<ServiceLive> {
        let mut services = lock(&self.services);
        let other = || ServiceName::new(OTHER).expect("the label is not empty");
        let name = if services.has_room(name, SERVICES_MAX) { name.clone() } else { other() };
        services.get(name.clone(), || self.metrics.service(name.as_str()))
    }

    fn backend(
        &self,
        destination: &ServiceName,
        rule: Option<&RuleId>,
        backend: &BackendSpec<'_>,
    ) -> Arc<BackendLive> {
        let key = (destination.clone(), rule.cloned(), backend.service.clone(), backend.label.to_owned());
        let state = lock(&self.backends).get(key, || BackendState {
            ticket: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            retrying: AtomicU32::new(0),
            budget: Mutex::default(),
            origin: self.origin,
            codes: self.codes([
                destination.to_string(),
                backend.label.to_owned(),
                rule.map(ToString::to_string).unwrap_or_default(),
            ]),
        });
        // Limits are the rule's and may change under the same id; counts may not.
        Arc::new(BackendLive { limits: Limits::of(&backend.resilience), state })
    }

    fn endpoint(
        &self,
        service: &ServiceName,
        instance: &Arc<Instance>,
        address: &Address,
    ) -> Arc<EndpointLive> {
        let key = (service.clone(), instance.id.clone(), address.clone());
        let mut endpoints = lock(&self.endpoints);
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
    retrying: AtomicU32,
    budget: Mutex<RetryBudget>,
    origin: Instant,
    codes: Arc<Codes>,
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
        self.state.codes.count(code);
    }

    /// Requests that hold a [`Permit`].
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
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

/// States by key. Each is kept until two sweeps in a row found that nobody else holds it: an instance that
/// flaps keeps its ejections, and a last count is seen by whoever scrapes.
struct Kept<K, V> {
    states: HashMap<K, (Arc<V>, bool)>,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self { states: HashMap::new() }
    }
}

impl<K: Hash + Eq, V> Kept<K, V> {
    /// Whether the key is there, or may come.
    fn has_room(&self, key: &K, max: usize) -> bool {
        self.states.len() < max || self.states.contains_key(key)
    }

    /// Whether anybody else holds the state.
    fn is_used(&self, key: &K) -> bool {
        self.states.get(key).is_some_and(|(state, _)| Arc::strong_count(state) > 1)
    }

    fn get(&mut self, key: K, new: impl FnOnce() -> V) -> Arc<V> {
        let (state, idle) = self.states.entry(key).or_insert_with(|| (Arc::new(new()), false));
        *idle = false;
        Arc::clone(state)
    }

    fn sweep(&mut self, gone: impl Fn(&V)) {
        self.states.retain(|_, (state, idle)| {
            let used = Arc::strong_count(state) > 1;
            let keep = used || !*idle;
            *idle = !used;
            if !keep {
                gone(state);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests;
