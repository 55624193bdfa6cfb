//! The law of one request, in the order of spec 2.7: route, instances, actions. Total, without a clock, a
//! lock or an allocation; the performing is left to the engines.

use std::borrow::Cow;

use control_api::{Answer, Draw};

use crate::backend::Attach;
use crate::circumstances::Circumstances;
use crate::decision::{ActionRuleRef, BackendRef, Decision, Faults, Outcome, Refusal, Rewrite, RouteRuleRef};
use crate::decision::{RETRIES_DEFAULT, ServiceIndex, TIMEOUT_DEFAULT};
use crate::explain::AddressedBy;
use crate::fault::ActionRule;
use crate::head::{RequestHead, first_segment};
use crate::key;
use crate::matching::{Miss, Values};
use crate::recorder::{Recorder, Silent};
use crate::redirect;
use crate::seed::{Purpose, Seed, mix};
use crate::service::Service;
use crate::sieve;
use crate::table::RouteTable;

impl<A: Attach> RouteTable<A> {
    /// Decides what happens to one request.
    ///
    /// Total: a request that fits nothing gets a named refusal. Does not allocate once the expressions of
    /// the rules it meets have been run by this thread on such values, unless a header occurs several times or the name
    /// of the service is encoded.
    pub fn decide(&self, head: &RequestHead<'_>, seed: Seed, now: &impl Circumstances) -> Decision {
        self.judge(head, seed, now, &mut Silent)
    }

    /// The path for the instance: without the service's segment, or as the rule's `uri` or `edge` says; otherwise
    /// nothing is normalised. `path` is the one that was decided about, without the query.
    pub fn upstream_path<'p>(&self, decision: &Decision, path: &'p str) -> Cow<'p, str> {
        match decision.rewrite {
            Rewrite::Keep => Cow::Borrowed(path),
            Rewrite::Strip => Cow::Borrowed(match first_segment(path) {
                Some((_, rest)) if !rest.is_empty() => rest,
                _ => "/",
            }),
            Rewrite::Uri(rule) => match &self.route(rule).capture {
                Some(capture) => capture.rewritten(path),
                None => Cow::Borrowed(path),
            },
        }
    }

    /// Where a redirect leads, when the decision is one: a whole address as far as the rule or the request
    /// knows it. `head` is the one that was decided about.
    pub fn location(&self, decision: &Decision, head: &RequestHead<'_>) -> Option<String> {
        let Outcome::Answer(rule) = decision.outcome else { return None };
        let Answer::Redirect(redirect) = self.route(rule).answer()? else { return None };
        let rest = match decision.rewrite {
            Rewrite::Keep => head.path,
            Rewrite::Strip => first_segment(head.path).map_or("", |(_, rest)| rest),
            Rewrite::Uri(rule) => {
                self.route(rule).capture.as_ref().map_or(head.path, |capture| capture.rest(head.path))
            }
        };
        Some(redirect::location(redirect, rest, head))
    }

    pub(crate) fn judge<R: Recorder>(
        &self,
        head: &RequestHead<'_>,
        seed: Seed,
        now: &impl Circumstances,
        notes: &mut R,
    ) -> Decision {
        let captured = self.captured(head, notes);
        if let Some(at) = captured.filter(|at| !self.route(*at).names_only()) {
            let choice = self.choice(at, Rewrite::Uri(at), head, seed, now, notes);
            let mut values = Values::new(head, &self.service(at.service).fields);
            return self.go(at.service, choice, &mut values, seed, now, notes);
        }
        let edge = captured.map(|rule| (rule.service, None, Rewrite::Uri(rule), AddressedBy::Edge));
        let host = || Some((self.named_by_host(head.authority)?, None, Rewrite::Keep, AddressedBy::Host));
        let segment = || {
            let (at, path) = self.named(head.path)?;
            Some((at, path, Rewrite::Strip, AddressedBy::Segment))
        };
        let Some((at, path, rewrite, by)) = edge.or_else(host).or_else(segment) else {
            return Decision::refuse(None, Refusal::UnknownService);
        };
        let head = &RequestHead { path: path.as_deref().unwrap_or(head.path), ..*head };
        let service = self.service(at);
        let mut values = Values::new(head, &service.fields);
        notes.named(by, &service.routes, &service.silenced);
        let choice = if service.is_ruled {
            let Some(place) = first_route(service, &mut values, notes) else {
                return Decision::refuse(Some(at), Refusal::NoRoute);
            };
            self.choice(RouteRuleRef { service: at, place }, rewrite, head, seed, now, notes)
        } else {
            Choice {
                route: None,
                place: Some(0),
                timeout: TIMEOUT_DEFAULT,
                retries: RETRIES_DEFAULT,
                rewrite,
                limit_key: None,
            }
        };
        self.go(at, choice, &mut values, seed, now, notes)
    }

    /// The first rule in overall precedence that captures the request by its path.
    fn captured<R: Recorder>(&self, head: &RequestHead<'_>, notes: &mut R) -> Option<RouteRuleRef> {
        let mut best: Option<u32> = None;
        for ranks in self.uris().covering(head.path) {
            let mut better = ranks.iter().copied().take_while(|rank| best.is_none_or(|best| *rank < best));
            let found = better.find(|rank| self.holds(self.uris().rule(*rank), head, notes));
            best = found.or(best);
        }
        best.map(|rank| self.uris().rule(rank))
    }

    fn holds<R: Recorder>(&self, at: RouteRuleRef, head: &RequestHead<'_>, notes: &mut R) -> bool {
        let route = self.route(at);
        let mut values = Values::new(head, &self.service(at.service).fields);
        let fits = route.capture.as_ref().is_none_or(|capture| capture.fits(head));
        let found = if fits { route.matcher.holds(&mut values) } else { Err(Miss::Edge) };
        notes.captures(&route.rule, found);
        found.is_ok()
    }

    /// What a route rule chooses for the request.
    fn choice<R: Recorder>(
        &self,
        at: RouteRuleRef,
        rewrite: Rewrite,
        head: &RequestHead<'_>,
        seed: Seed,
        now: &impl Circumstances,
        notes: &mut R,
    ) -> Choice {
        let (service, route) = (self.service(at.service), self.route(at));
        let place = route.answer().is_none().then(|| {
            let hash = route.sticky().map(|key| (key, key::hashed(key, head, || now.client())));
            if let Some((key, hash)) = hash {
                notes.sticky(key, hash.is_some());
            }
            if let Some((_, Some(hash))) = hash {
                let backends = &service.backends[route.first as usize..];
                return route.first + route.split.keep(hash, backends.iter().map(|backend| backend.key));
            }
            let draw = seed.draw(Purpose::Split, route.key);
            notes.split(draw);
            route.first + route.split.choose(draw)
        });
        let limit_key = route.rate_limit().and_then(|limit| limit.key.as_ref());
        let limit_key = limit_key.and_then(|key| key::hashed(key, head, || now.client()));
        Choice { route: Some(at), place, timeout: route.timeout, retries: route.retries, rewrite, limit_key }
    }

    /// Who gets a copy of a request that is sent.
    fn mirror(&self, route: RouteRuleRef, seed: Seed) -> Option<BackendRef> {
        let rule = self.route(route);
        let (mirror, place) = rule.mirror()?;
        let at = BackendRef { service: route.service, place };
        let chosen = mirror.share.contains(seed.draw(Purpose::Mirror, rule.key));
        (chosen && !self.backend(at).endpoints.is_empty()).then_some(at)
    }

    /// From the chosen backend on: instances first, so that a fault never hides that there are none.
    fn go<R: Recorder>(
        &self,
        at: ServiceIndex,
        choice: Choice,
        values: &mut Values<'_>,
        seed: Seed,
        now: &impl Circumstances,
        notes: &mut R,
    ) -> Decision {
        let service = self.service(at);
        let Choice { route, place, timeout, retries, rewrite, limit_key } = choice;
        let reference = place.map(|place| BackendRef { service: at, place });
        let backend = reference.map(|reference| self.backend(reference));
        let hash_on = backend.and_then(|backend| Some((backend.hash_on.as_ref()?, backend.key)));
        let affinity = hash_on.and_then(|(on, own)| {
            let hash = key::hashed(on, values.head(), || now.client())?;
            Some(Draw::from_bits(mix(hash ^ own)))
        });
        let decision = |outcome, faults| Decision {
            service: Some(at),
            route,
            backend: reference,
            outcome,
            faults,
            timeout,
            retries,
            rewrite,
            affinity,
            limit_key,
            mirror: route
                .filter(|_| matches!(outcome, Outcome::Forward(_)))
                .and_then(|route| self.mirror(route, seed)),
        };
        if backend.is_some_and(|backend| backend.endpoints.is_empty()) {
            return decision(Outcome::Refuse(Refusal::NoInstances), Faults::default());
        }
        let goal = match (reference, route) {
            (Some(reference), _) => Outcome::Forward(reference),
            (None, Some(route)) => Outcome::Answer(route),
            (None, None) => Outcome::Refuse(Refusal::NoRoute),
        };
        notes.actions(&service.silenced);
        let Some((place, rule)) = first_actions(service, values, notes) else {
            return decision(goal, Faults::default());
        };
        let tags = backend.map(|backend| backend.tags.as_slice()).unwrap_or_default();
        let (faults, abort) = rule.run(ActionRuleRef { service: at, place }, tags, seed, now, notes);
        decision(abort.map_or(goal, Outcome::Abort), faults)
    }
}

/// What the route decides.
struct Choice {
    route: Option<RouteRuleRef>,
    /// The backend; `None` for a route that answers by itself.
    place: Option<u32>,
    timeout: std::time::Duration,
    retries: u32,
    rewrite: Rewrite,
    limit_key: Option<u64>,
}

/// Who listens hears why each rule fails: all are asked then.
fn first_route<A: Attach, R: Recorder>(
    service: &Service<A>,
    values: &mut Values<'_>,
    notes: &mut R,
) -> Option<u32> {
    let sieve = service.route_sieve.as_ref().filter(|_| !R::HEARS);
    sieve::first(service.routes.len(), sieve, values, |at, values| {
        let route = &service.routes[at];
        if route.capture.is_some() {
            return false;
        }
        let found = route.matcher.holds(values);
        notes.route(&route.rule, found);
        found.is_ok()
    })
}

fn first_actions<'t, A: Attach, R: Recorder>(
    service: &'t Service<A>,
    values: &mut Values<'_>,
    notes: &mut R,
) -> Option<(u32, &'t ActionRule)> {
    let sieve = service.action_sieve.as_ref().filter(|_| !R::HEARS);
    let found = sieve::first(service.actions.len(), sieve, values, |at, values| {
        let rule = &service.actions[at];
        let found = rule.matcher.holds(values);
        notes.action_rule(&rule.rule, found);
        found.is_ok()
    });
    found.map(|at| (at, &service.actions[at as usize]))
}
