//! A backend and its endpoints, with room for what the proxy hangs onto them. Live state is only carried
//! here, never read.

use std::sync::Arc;
use std::time::Duration;

use control_api::{Key, LbType, Resilience, Rule, RuleId, TagTest};
use registry_api::{Instance, ServiceName};

use crate::address::Address;
use crate::ring::Ring;
use crate::seed::stable_hash;

/// Gives live state and metric handles for parts of a table, resolved once while it is compiled. The same
/// part of a later table must get the same state, so that a swap forgets nothing.
pub trait Attach {
    /// Hangs onto a service.
    type Service;
    /// Hangs onto a rule that can apply.
    type Rule;
    /// Hangs onto a backend.
    type Backend;
    /// Hangs onto an endpoint.
    type Endpoint;
    /// The state of a service.
    fn service(&self, name: &ServiceName) -> Self::Service;
    /// The state of a rule of `destination`.
    fn rule(&self, destination: &ServiceName, rule: &Rule) -> Self::Rule;
    /// The state of a backend of `destination`; `rule` is `None` for the default backend.
    fn backend(
        &self,
        destination: &ServiceName,
        rule: Option<&RuleId>,
        backend: &BackendSpec<'_>,
    ) -> Self::Backend;
    /// The state of an endpoint.
    fn endpoint(&self, service: &ServiceName, instance: &Arc<Instance>, address: &Address) -> Self::Endpoint;
}

/// What is known of a backend when its state is asked for.
#[derive(Debug, Clone, Copy)]
pub struct BackendSpec<'a> {
    /// The service whose instances it uses.
    pub service: &'a ServiceName,
    /// Sorted.
    pub tags: &'a [String],
    /// See [`Backend::label`].
    pub label: &'a str,
    /// Limits; absent numbers mean the defaults of spec 2.4.
    pub resilience: Resilience,
}

/// Instances among which a request is balanced.
pub struct Backend<A: Attach> {
    /// The service whose instances it uses.
    pub service: ServiceName,
    /// Sorted; empty for the default backend.
    pub tags: Vec<String>,
    /// The tags joined with commas; empty for the default backend.
    pub label: String,
    /// `service:label`, or the service alone: `dst` of the access log.
    pub dst: String,
    /// Choice among the endpoints.
    pub lb: LbType,
    /// Sorted by instance id.
    pub endpoints: Endpoints<A>,
    /// The route rule it belongs to; `None` for the default backend.
    pub rule: Option<RuleId>,
    /// For [`Seed::draw`](crate::Seed::draw) with [`Purpose::Pick`](crate::Purpose::Pick): one request id that
    /// passes several proxies must not pick the same place in every backend.
    pub key: u64,
    /// Limits.
    pub resilience: Resilience,
    /// For how long an endpoint that has come up gets less than its part.
    pub slow_start: Option<Duration>,
    /// What the proxy hung onto it.
    pub live: A::Backend,
    /// With `ring_hash`: what is hashed.
    pub(crate) hash_on: Option<Key>,
    pub(crate) ring: Option<Ring>,
}

/// Endpoints sorted by instance id, shared between the backends that use all of them.
pub type Endpoints<A> = Arc<[Arc<Endpoint<A>>]>;

/// One instance that can be dialled.
pub struct Endpoint<A: Attach> {
    /// As registered.
    pub instance: Arc<Instance>,
    /// Where it is dialled.
    pub address: Address,
    /// What the proxy hung onto it.
    pub live: A::Endpoint,
}

impl Attach for () {
    type Service = ();
    type Rule = ();
    type Backend = ();
    type Endpoint = ();
    fn service(&self, _: &ServiceName) {}
    fn rule(&self, _: &ServiceName, _: &Rule) {}
    fn backend(&self, _: &ServiceName, _: Option<&RuleId>, _: &BackendSpec<'_>) {}
    fn endpoint(&self, _: &ServiceName, _: &Arc<Instance>, _: &Address) {}
}

impl<A: Attach> Backend<A> {
    /// All instances of a service, for requests that no route rule concerns.
    pub(crate) fn default_of(service: &ServiceName, endpoints: &Endpoints<A>, attach: &A) -> Self {
        let resilience = Resilience::default();
        let spec = BackendSpec { service, tags: &[], label: "", resilience };
        Self {
            live: attach.backend(service, None, &spec),
            service: service.clone(),
            tags: Vec::new(),
            label: String::new(),
            dst: service.to_string(),
            key: stable_hash(service.as_str().as_bytes()),
            lb: LbType::default(),
            endpoints: Arc::clone(endpoints),
            rule: None,
            resilience,
            slow_start: None,
            hash_on: None,
            ring: None,
        }
    }

    /// A backend as a rule writes it. `endpoints` are all of its service.
    pub(crate) fn of_rule(
        destination: &ServiceName,
        rule: &RuleId,
        written: &control_api::Backend,
        endpoints: &Endpoints<A>,
        attach: &A,
    ) -> Self {
        let service = written.name.as_ref().unwrap_or(destination);
        let mut tags = written.tags.clone();
        tags.sort_unstable();
        let label = tags.join(",");
        let resilience = written.resilience.as_deref().copied().unwrap_or_default();
        let dst = if label.is_empty() { service.to_string() } else { format!("{service}:{label}") };
        let tests: Vec<_> =
            tags.iter().map(|tag| TagTest::new(tag).expect("a Backend has checked its tags")).collect();
        let endpoints = carrying(endpoints, &tests);
        let ids = || endpoints.iter().map(|endpoint| endpoint.instance.id.as_str());
        let spec = BackendSpec { service, tags: &tags, label: &label, resilience };
        Self {
            live: attach.backend(destination, Some(rule), &spec),
            service: service.clone(),
            key: stable_hash(dst.as_bytes()),
            dst,
            lb: written.lb_type.unwrap_or_default(),
            slow_start: written.slow_start,
            hash_on: written.hash_on.clone(),
            ring: written.hash_on.as_ref().map(|_| Ring::new(ids())),
            endpoints,
            rule: Some(rule.clone()),
            resilience,
            tags,
            label,
        }
    }
}

/// The endpoints whose instances carry every tag; the same allocation when all do.
pub(crate) fn carrying<A: Attach>(endpoints: &Endpoints<A>, tests: &[TagTest<'_>]) -> Endpoints<A> {
    let carries =
        |endpoint: &Arc<Endpoint<A>>| tests.iter().all(|test| test.is_held(&endpoint.instance.tags));
    if endpoints.iter().all(carries) {
        Arc::clone(endpoints)
    } else {
        endpoints.iter().filter(|endpoint| carries(endpoint)).cloned().collect()
    }
}
