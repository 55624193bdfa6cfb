//! One service of a table: its endpoints and its rules, compiled for one identity. Services are shared
//! between tables as long as nothing they are made of changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use control_api::Snapshot;
use control_api::{
    Answer, Body, HeaderEdits, HealthCheck, Identity, Key, Mirror, RateLimit, Retries, Route, Rule, RuleId,
    TagTest,
};
use registry_api::{Instance, ServiceName};

use crate::address::Address;
use crate::backend::{Attach, Backend, Endpoint, Endpoints, carrying};
use crate::changes::Hashing;
use crate::decision::{RETRIES_DEFAULT, TIMEOUT_DEFAULT};
use crate::fault::ActionRule;
use crate::matching::{Elsewhere, Fields, Matcher};
use crate::pattern::Patterns;
use crate::seed::rule_key;
use crate::sieve::Sieve;
use crate::split::Split;
use crate::uri::Capture;

/// A service that has instances or rules.
pub struct Service<A: Attach> {
    /// Its name.
    pub name: ServiceName,
    /// What the proxy hung onto it.
    pub live: A::Service,
    /// All its rules in order of precedence, those for other sources too.
    pub(crate) rules: Box<[Arc<Rule>]>,
    pub(crate) pool: Pool<A>,
    /// The default backend, or those of the rules one after the other.
    pub(crate) backends: Box<[Backend<A>]>,
    /// In order of precedence, those that capture by path too.
    pub(crate) routes: Box<[RouteRule]>,
    /// In order of precedence.
    pub(crate) actions: Box<[ActionRule]>,
    /// What the proxy hung onto the routes, by their place.
    pub(crate) route_lives: Box<[A::Rule]>,
    /// And onto the action rules.
    pub(crate) action_lives: Box<[A::Rule]>,
    /// Of the routes and of the actions.
    pub(crate) route_sieve: Option<Sieve>,
    pub(crate) action_sieve: Option<Sieve>,
    pub(crate) silenced: Box<[Silenced]>,
    /// The first rule that says how its instances are checked.
    health: Option<Arc<Rule>>,
    pub(crate) fields: Fields,
    /// Whether any route rule exists that decides, for whatever source: then there is no default (spec 2.7, 4).
    pub(crate) is_ruled: bool,
}

/// A route rule that can apply on this proxy.
pub struct RouteRule {
    pub(crate) rule: Arc<Rule>,
    pub(crate) matcher: Matcher,
    pub(crate) split: Split,
    pub(crate) key: u64,
    /// The place of its first backend.
    pub(crate) first: u32,
    pub(crate) timeout: Duration,
    pub(crate) retries: u32,
    /// Boxed: whoever looks through many rules only asks whether it is there.
    pub(crate) capture: Option<Box<Capture>>,
    /// The place of the backend that gets copies, after those of the split.
    mirror: Option<u32>,
}

/// A rule that can never apply on this proxy; kept to explain.
pub(crate) struct Silenced {
    pub(crate) rule: Arc<Rule>,
    pub(crate) why: Elsewhere,
}

/// The instances of one service.
pub(crate) struct Pool<A: Attach> {
    /// Those that are up and can be dialled, sorted by id.
    pub(crate) endpoints: Endpoints<A>,
    /// All of them.
    pub(crate) registered: usize,
    /// Those that are up and should be routable, but whose endpoint is no address.
    pub(crate) skipped: usize,
}

/// Pools by service.
pub(crate) type Pools<'n, A> = HashMap<&'n ServiceName, Pool<A>, Hashing>;

/// What every service of a table is made with.
pub(crate) struct Workshop<'a, A> {
    pub(crate) identity: &'a Identity,
    pub(crate) patterns: &'a Patterns,
    /// Whether no fault of the namespace happens.
    pub(crate) faults_disabled: bool,
    pub(crate) attach: &'a A,
}

impl<A: Attach> Service<A> {
    /// The endpoints of the service: up, routable, sorted by instance id.
    pub fn endpoints(&self) -> &[Arc<Endpoint<A>>] {
        &self.pool.endpoints
    }

    /// Those of them whose instances carry every tag: whom a backend with these tags would have, for those who have no rule
    /// to say so.
    pub fn carrying(&self, tags: &[TagTest<'_>]) -> Endpoints<A> {
        carrying(&self.pool.endpoints, tags)
    }

    /// The backends that a decision can choose.
    pub fn backends(&self) -> &[Backend<A>] {
        &self.backends
    }

    /// How its instances are checked by this proxy; `None`: they are not.
    pub fn health_check(&self) -> Option<&HealthCheck> {
        self.health.as_ref()?.health_check()
    }

    /// The other services whose instances it uses.
    pub(crate) fn lenders(&self) -> impl Iterator<Item = &ServiceName> {
        self.backends.iter().map(|backend| &backend.service).filter(|lender| **lender != self.name)
    }

    /// `rules` are all of the destination, in order of precedence; `pool_of` gives the instances of other
    /// services that its backends name.
    pub(crate) fn compile(
        name: &ServiceName,
        rules: Box<[Arc<Rule>]>,
        pool: Pool<A>,
        pool_of: &dyn Fn(&ServiceName) -> Pool<A>,
        shop: &Workshop<'_, A>,
    ) -> Self {
        let (mut routes, mut actions, mut silenced) = (Vec::new(), Vec::new(), Vec::new());
        let written = || rules.iter().filter_map(|rule| rule.route());
        let is_ruled = written().any(|route| !route.names_only());
        let named = written().map(|route| route.backends.len() + usize::from(route.mirror.is_some()));
        let mut backends = Vec::with_capacity(named.sum::<usize>() + usize::from(!is_ruled));
        let (mut fields, mut health) = (Fields::default(), None);
        for rule in &rules {
            let matcher = match Matcher::compile(&rule.matching, shop.identity, &mut fields, shop.patterns) {
                Ok(matcher) => matcher,
                // It concerns no request, so none is told why it does not apply.
                Err(_) if rule.health_check().is_some() => continue,
                Err(why) => {
                    silenced.push(Silenced { rule: Arc::clone(rule), why });
                    continue;
                }
            };
            match &rule.body {
                Body::HealthCheck(_) => health = health.or_else(|| Some(Arc::clone(rule))),
                Body::Actions(_) => actions.push(ActionRule::new(rule, matcher, shop.faults_disabled)),
                Body::Route(route) => {
                    routes.push(RouteRule::new(rule, route, matcher, backends.len()));
                    let make = |backend: &control_api::Backend| {
                        let other = backend.name.as_ref().filter(|other| *other != name).map(pool_of);
                        let endpoints = &other.as_ref().unwrap_or(&pool).endpoints;
                        Backend::of_rule(name, &rule.id, backend, endpoints, shop.attach)
                    };
                    backends.extend(route.backends.iter().map(make));
                    backends.extend(route.mirror.as_ref().map(|mirror| make(&copies(mirror))));
                }
            }
        }
        if !is_ruled {
            backends.push(Backend::default_of(name, &pool.endpoints, shop.attach));
        }
        let live = |rule: &Arc<Rule>| shop.attach.rule(name, rule);
        Self {
            name: name.clone(),
            live: shop.attach.service(name),
            route_lives: routes.iter().map(|route: &RouteRule| live(&route.rule)).collect(),
            action_lives: actions.iter().map(|rule: &ActionRule| live(&rule.rule)).collect(),
            rules,
            pool,
            backends: backends.into(),
            route_sieve: Sieve::of(routes.iter().map(|route| &route.matcher), &fields),
            action_sieve: Sieve::of(actions.iter().map(|rule| &rule.matcher), &fields),
            routes: routes.into(),
            actions: actions.into(),
            silenced: silenced.into(),
            health,
            fields: fields.finish(),
            is_ruled,
        }
    }
}

impl RouteRule {
    /// The rule's id.
    pub fn id(&self) -> &RuleId {
        &self.rule.id
    }

    /// Whether it only names the service.
    pub(crate) fn names_only(&self) -> bool {
        self.written().is_some_and(Route::names_only)
    }

    /// What it answers instead of calling an instance.
    pub fn answer(&self) -> Option<&Answer> {
        self.written()?.answer.as_deref()
    }

    /// What it does to the headers that pass.
    pub fn headers(&self) -> Option<&HeaderEdits> {
        self.written()?.headers.as_deref()
    }

    /// What ties a client to one of its backends.
    pub fn sticky(&self) -> Option<&Key> {
        self.written()?.sticky.as_ref()
    }

    /// When it is tried again, beyond how often.
    pub fn retries(&self) -> Option<&Retries> {
        self.written()?.retry.as_deref()
    }

    /// How many requests may come; the key of one is [`Decision::limit_key`](crate::Decision::limit_key).
    pub fn rate_limit(&self) -> Option<&RateLimit> {
        self.written()?.rate_limit.as_deref()
    }

    /// Of how many requests somebody gets a copy; who it is [`Decision::mirror`](crate::Decision::mirror) says.
    pub(crate) fn mirror(&self) -> Option<(&Mirror, u32)> {
        self.written()?.mirror.as_deref().zip(self.mirror)
    }

    fn written(&self) -> Option<&Route> {
        self.rule.route()
    }

    fn new(rule: &Arc<Rule>, route: &Route, matcher: Matcher, first: usize) -> Self {
        Self {
            rule: Arc::clone(rule),
            matcher,
            split: Split::new(&route.shares()),
            key: rule_key(&rule.id),
            first: first as u32,
            timeout: route.timeout.unwrap_or(TIMEOUT_DEFAULT),
            retries: route
                .retries
                .or_else(|| route.retry.as_ref().and_then(|retry| retry.count))
                .unwrap_or(RETRIES_DEFAULT),
            capture: route
                .uri
                .as_ref()
                .map(Capture::new)
                .or(route.edge.as_deref().map(Capture::of_edge))
                .map(Box::new),
            mirror: route.mirror.as_ref().map(|_| (first + route.backends.len()) as u32),
        }
    }
}

/// A backend in name only: it is in no split.
fn copies(mirror: &Mirror) -> control_api::Backend {
    control_api::Backend {
        name: mirror.service.clone(),
        tags: mirror.tags.clone(),
        weight: None,
        lb_type: None,
        hash_on: None,
        slow_start: None,
        resilience: None,
    }
}

impl<A: Attach> Pool<A> {
    /// The pools of these services.
    pub(crate) fn of_all<'n>(names: &'n [ServiceName], snapshot: &Snapshot, attach: &A) -> Pools<'n, A> {
        names.iter().map(|name| (name, Self::of(name, snapshot.instances().of(name), attach))).collect()
    }

    fn of<'s>(name: &ServiceName, instances: impl Iterator<Item = &'s Arc<Instance>>, attach: &A) -> Self {
        let (mut endpoints, mut registered, mut skipped) = (Vec::new(), 0, 0);
        for instance in instances {
            registered += 1;
            if !instance.status.is_up() || !Address::is_routable(instance.endpoint.kind) {
                continue;
            }
            match Address::of(&instance.endpoint) {
                None => skipped += 1,
                Some(address) => endpoints.push(Arc::new(Endpoint {
                    live: attach.endpoint(name, instance, &address),
                    instance: Arc::clone(instance),
                    address,
                })),
            }
        }
        Self { endpoints: endpoints.into(), registered, skipped }
    }
}

impl<A: Attach> Default for Pool<A> {
    fn default() -> Self {
        Self { endpoints: Arc::from([]), registered: 0, skipped: 0 }
    }
}

impl<A: Attach> Clone for Pool<A> {
    fn clone(&self) -> Self {
        Self { endpoints: Arc::clone(&self.endpoints), ..*self }
    }
}
