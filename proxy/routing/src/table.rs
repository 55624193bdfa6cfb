//! The table that requests are decided against: a snapshot compiled for one identity. Immutable; the next
//! snapshot makes a new one that shares every service the change did not touch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use control_api::{Identity, Snapshot, without_port};
use registry_api::{ContentHash, Namespace, ServiceName};

use crate::backend::{Attach, Backend};
use crate::changes::Changes;
use crate::decision::{ActionRuleRef, BackendRef, RouteRuleRef, ServiceIndex};
use crate::fault::ActionRule;
use crate::head::{SEGMENT_MAX_BYTES, first_segment, percent_decoded};
use crate::pattern::Patterns;
use crate::service::{Pool, RouteRule, Service, Workshop};
use crate::uri::UriIndex;

/// A compiled snapshot. `A` says what the proxy hangs onto its parts.
pub struct RouteTable<A: Attach = ()> {
    revision: u64,
    /// The hash of the snapshot it was made of.
    basis: ContentHash,
    identity: Identity,
    namespace: Namespace,
    names: Arc<Names>,
    /// Sorted by name.
    services: Vec<Arc<Service<A>>>,
    /// The services that use instances of others.
    borrowers: Arc<BTreeSet<ServiceName>>,
    uris: Arc<UriIndex>,
    patterns: Patterns,
    skipped: usize,
}

/// Hosts below it name services.
const DOMAIN: &str = ".a8";

/// What was made anew, by name; `None` for a service that is no more.
type Made<A> = BTreeMap<ServiceName, Option<Arc<Service<A>>>>;

type Names = HashMap<ServiceName, ServiceIndex, ahash::RandomState>;

impl<A: Attach> RouteTable<A> {
    /// A table that knows nobody.
    pub fn empty() -> Self {
        Self::bare(Identity::default(), Patterns::default())
    }

    /// The table of a snapshot, for the proxy that stands for `identity`. Total: what cannot be dialled is
    /// left out and counted in [`Self::skipped`].
    pub fn compile(snapshot: &Snapshot, identity: &Identity, attach: &A) -> Self {
        Self::bare(identity.clone(), Patterns::default()).advance(&Snapshot::default(), snapshot, attach)
    }

    /// The table of `new`, sharing every service that the change from `old` did not touch. `old` should be
    /// what this table was made of; otherwise, and for another identity, everything is made anew.
    #[must_use]
    pub fn recompile(&self, old: &Snapshot, new: &Snapshot, identity: &Identity, attach: &A) -> Self {
        if *identity == self.identity && old.hash() == self.basis {
            self.advance(old, new, attach)
        } else {
            let bare = Self::bare(identity.clone(), self.patterns.clone());
            bare.advance(&Snapshot::default(), new, attach)
        }
    }

    /// The snapshot's count of rule writes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whom it was compiled for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Instances that are up and of a routable type, but whose endpoint cannot be read.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// A service of this table.
    pub fn service(&self, at: ServiceIndex) -> &Service<A> {
        &self.services[at.0 as usize]
    }

    /// All services, sorted by name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service<A>> {
        self.services.iter().map(|service| &**service)
    }

    /// The services that `other` does not share, sorted by name. Those that it does are not looked into.
    pub fn apart_from<'t>(&'t self, other: &'t Self) -> impl Iterator<Item = &'t Service<A>> {
        let mut others = other.services.iter().peekable();
        let mut is_shared = move |service: &Arc<Service<A>>| {
            others.next_if(|other| Arc::ptr_eq(other, service)).is_some() || {
                while others.next_if(|other| other.name < service.name).is_some() {}
                others.next_if(|other| Arc::ptr_eq(other, service)).is_some()
            }
        };
        self.services.iter().filter(move |service| !is_shared(service)).map(|service| &**service)
    }

    /// The service of this name.
    pub fn find(&self, name: &str) -> Option<ServiceIndex> {
        self.names.get(name).copied()
    }

    /// A backend of this table.
    pub fn backend(&self, at: BackendRef) -> &Backend<A> {
        &self.service(at.service).backends[at.place as usize]
    }

    /// An action rule of this table.
    pub fn actions(&self, at: ActionRuleRef) -> &ActionRule {
        &self.service(at.service).actions[at.place as usize]
    }

    /// A route rule of this table.
    pub fn route(&self, at: RouteRuleRef) -> &RouteRule {
        &self.service(at.service).routes[at.place as usize]
    }

    /// What the proxy hung onto an action rule of this table.
    pub fn actions_live(&self, at: ActionRuleRef) -> &A::Rule {
        &self.service(at.service).action_lives[at.place as usize]
    }

    /// What the proxy hung onto a route rule of this table.
    pub fn route_live(&self, at: RouteRuleRef) -> &A::Rule {
        &self.service(at.service).route_lives[at.place as usize]
    }

    pub(crate) fn uris(&self) -> &UriIndex {
        &self.uris
    }

    /// The service that a host below the domain of the fabric names: `service.a8`, or `service.namespace.a8` with
    /// the namespace of the snapshot.
    pub(crate) fn named_by_host(&self, authority: &str) -> Option<ServiceIndex> {
        let host = without_port(authority);
        let start = host.len().checked_sub(DOMAIN.len()).filter(|start| *start > 0)?;
        if !host.as_bytes()[start..].eq_ignore_ascii_case(DOMAIN.as_bytes()) {
            return None;
        }
        // What is cut off is ASCII, so this is a boundary.
        let name = host.get(..start)?;
        self.find(name).or_else(|| {
            let (service, namespace) = name.rsplit_once('.')?;
            self.find(service).filter(|_| namespace == self.namespace.as_str())
        })
    }

    /// The service that the first segment of a path names, as written or with its encoding undone; then also the path
    /// as rules see it: a name has one way to be written there, so that no rule is passed by in another.
    pub(crate) fn named(&self, path: &str) -> Option<(ServiceIndex, Option<String>)> {
        let (segment, rest) = first_segment(path)?;
        if let Some(at) = self.find(segment) {
            return Some((at, None));
        }
        let mut buffer = [0; SEGMENT_MAX_BYTES];
        let name = percent_decoded(segment, &mut buffer)?;
        Some((self.find(name)?, Some(format!("/{name}{rest}"))))
    }

    fn bare(identity: Identity, patterns: Patterns) -> Self {
        Self {
            revision: 0,
            basis: Snapshot::default().hash(),
            identity,
            namespace: Namespace::default(),
            names: Arc::new(names_of::<A>(&[])),
            services: Vec::new(),
            borrowers: Arc::default(),
            uris: Arc::default(),
            patterns,
            skipped: 0,
        }
    }

    /// The one way a table comes about: from the one before and the changes since.
    fn advance(&self, old: &Snapshot, new: &Snapshot, attach: &A) -> Self {
        let changes = Changes::between(old, new);
        let made = self.remake(&changes, new, attach);
        let before = made.keys().filter_map(|name| self.shared(name));
        let skipped = self.skipped - skipped(before) + skipped(made.values().flatten());
        let (names, services) = self.arrange(&made);
        let captures = |service: &Arc<Service<A>>| service.routes.iter().any(|route| route.capture.is_some());
        let edited = |(name, service): (&ServiceName, &Option<_>)| {
            changes.rules.contains_key(name) && self.shared(name).into_iter().chain(service).any(captures)
        };
        let moved = !Arc::ptr_eq(&names, &self.names) && !self.uris.is_empty();
        let uris = if moved || made.iter().any(edited) {
            Arc::new(uris_of(&services))
        } else {
            Arc::clone(&self.uris)
        };
        if !changes.rules.is_empty() {
            self.patterns.prune();
        }
        let (identity, patterns) = (self.identity.clone(), self.patterns.clone());
        let (revision, basis) = (new.revision(), new.hash());
        let (namespace, borrowers) = (new.namespace().clone(), self.borrowers(&made));
        Self { revision, basis, identity, namespace, names, services, borrowers, uris, patterns, skipped }
    }

    /// Who borrows instances after `made`; the same allocation as before when nobody begins or ceases to.
    fn borrowers(&self, made: &Made<A>) -> Arc<BTreeSet<ServiceName>> {
        let borrows = |service: &Option<Arc<Service<A>>>| {
            service.as_ref().is_some_and(|service| service.lenders().next().is_some())
        };
        let mut borrowers = Arc::clone(&self.borrowers);
        for (name, service) in made {
            match (borrows(service), self.borrowers.contains(name)) {
                (true, false) => drop(Arc::make_mut(&mut borrowers).insert(name.clone())),
                (false, true) => drop(Arc::make_mut(&mut borrowers).remove(name)),
                (true, true) | (false, false) => {}
            }
        }
        borrowers
    }

    /// The services with what was made anew in its place. The names are the same allocation as before when
    /// every service kept its index.
    fn arrange(&self, made: &Made<A>) -> (Arc<Names>, Vec<Arc<Service<A>>>) {
        if made.iter().any(|(name, service)| service.is_some() != self.shared(name).is_some()) {
            let services = merged(&self.services, made);
            return (Arc::new(names_of(&services)), services);
        }
        let mut services = self.services.clone();
        for service in made.values().flatten() {
            services[self.names[&service.name].0 as usize] = Arc::clone(service);
        }
        (Arc::clone(&self.names), services)
    }

    /// The services that the changes touch; `None` for one that is no more.
    fn remake(&self, changes: &Changes, new: &Snapshot, attach: &A) -> Made<A> {
        let pools = Pool::of_all(&changes.instances, new, attach);
        let pool_of = |name: &ServiceName| -> Pool<A> {
            let known = pools.get(name).or_else(|| self.shared(name).map(|service| &service.pool));
            known.cloned().unwrap_or_default()
        };
        let is_touched = |service: &Arc<Service<A>>| service.lenders().any(|name| pools.contains_key(name));
        let borrowers = self.borrowers.iter().filter(|name| self.shared(name).is_some_and(is_touched));
        let mut touched: Vec<&ServiceName> = changes.instances.iter().collect();
        touched.extend(changes.rules.keys().chain(borrowers).filter(|name| !pools.contains_key(name)));
        touched.sort_unstable();
        touched.dedup();
        let faults_disabled = new.faults_disabled();
        let shop = Workshop { identity: &self.identity, patterns: &self.patterns, faults_disabled, attach };
        touched
            .into_iter()
            .map(|name| {
                let rules = self.shared(name).map(|service| &*service.rules).unwrap_or_default();
                let rules = changes.rules.get(name).map_or_else(|| rules.into(), |edits| edits.apply(rules));
                let pool = pool_of(name);
                let exists = pool.registered > 0 || !rules.is_empty();
                let service = exists.then(|| Arc::new(Service::compile(name, rules, pool, &pool_of, &shop)));
                (name.clone(), service)
            })
            .collect()
    }

    fn shared(&self, name: &ServiceName) -> Option<&Arc<Service<A>>> {
        self.names.get(name).map(|at| &self.services[at.0 as usize])
    }
}

fn skipped<'a, A: Attach + 'a>(services: impl Iterator<Item = &'a Arc<Service<A>>>) -> usize {
    services.map(|service| service.pool.skipped).sum()
}

/// Fixed seeds: names come from control, not from those who send requests, and nothing iterates over it.
fn names_of<A: Attach>(services: &[Arc<Service<A>>]) -> Names {
    let mut names =
        Names::with_capacity_and_hasher(services.len(), ahash::RandomState::with_seeds(1, 2, 3, 4));
    names.extend((0..).zip(services).map(|(at, service)| (service.name.clone(), ServiceIndex(at))));
    names
}

/// Both are sorted by name, and so is the result; what was made anew, or is no more, goes before.
fn merged<A: Attach>(old: &[Arc<Service<A>>], made: &Made<A>) -> Vec<Arc<Service<A>>> {
    let kept = old.iter().filter(|service| !made.contains_key(&service.name));
    let mut services: Vec<_> = kept.chain(made.values().flatten()).cloned().collect();
    // Two sorted runs: this is a merge.
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
}

fn uris_of<A: Attach>(services: &[Arc<Service<A>>]) -> UriIndex {
    let mut rules: Vec<_> = (0..)
        .zip(services)
        .flat_map(|(at, service)| {
            (0..)
                .zip(&service.routes)
                .map(move |(place, route)| (RouteRuleRef { service: ServiceIndex(at), place }, route))
        })
        .filter_map(|(at, route)| Some((at, route, route.capture.as_deref()?)))
        .collect();
    rules.sort_by(|a, b| a.1.rule.precedence(&b.1.rule));
    UriIndex::new(rules.into_iter().map(|(at, _, capture)| (at, capture)))
}
