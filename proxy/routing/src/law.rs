//! The law of one request, in the order of spec 2.7: route, instances, actions. Total, without a clock, a
//! lock or an allocation; the performing is left to the engines.

use std::borrow::Cow;

use crate::backend::Attach;
use crate::decision::{ActionRuleRef, BackendRef, Decision, Faults, Outcome, Refusal, Rewrite, RouteRuleRef};
use crate::decision::{RETRIES_DEFAULT, ServiceIndex, TIMEOUT_DEFAULT};
use crate::fault::ActionRule;
use crate::head::{RequestHead, first_segment};
use crate::matching::Values;
use crate::recorder::{Recorder, Silent};
use crate::seed::{Purpose, Seed};
use crate::service::{RouteRule, Service};
use crate::table::RouteTable;

impl<A: Attach> RouteTable<A> {
    /// Decides what happens to one request.
    ///
    /// Total: a request that fits nothing gets a named refusal. Does not allocate once the expressions of
    /// the rules it meets have been run by this thread on such values, unless a header occurs several times.
    pub fn decide(&self, head: &RequestHead<'_>, seed: Seed) -> Decision {
        self.judge(head, seed, &mut Silent)
    }

    /// The path for the instance: without the service's segment, or as the rule's `uri` says; otherwise
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

    pub(crate) fn judge<R: Recorder>(&self, head: &RequestHead<'_>, seed: Seed, notes: &mut R) -> Decision {
        if let Some(at) = self.captured(head, notes) {
            let choice = Choice::of_rule(self.route(at), Rewrite::Uri(at), seed, notes);
            let mut values = Values::new(head, &self.service(at.service).fields);
            return self.go(at.service, choice, &mut values, seed, notes);
        }
        let Some(at) = self.named(head.path) else { return Decision::refuse(None, Refusal::UnknownService) };
        let service = self.service(at);
        let mut values = Values::new(head, &service.fields);
        notes.named(&service.routes, &service.silenced);
        let choice = if service.is_ruled {
            let Some(route) = first_route(service, &mut values, notes) else {
                return Decision::refuse(Some(at), Refusal::NoRoute);
            };
            Choice::of_rule(route, Rewrite::Strip, seed, notes)
        } else {
            Choice { place: 0, timeout: TIMEOUT_DEFAULT, retries: RETRIES_DEFAULT, rewrite: Rewrite::Strip }
        };
        self.go(at, choice, &mut values, seed, notes)
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
        let found = route.matcher.holds(&mut values);
        notes.captures(&route.rule, found);
        found.is_ok()
    }

    /// From the chosen backend on: instances first, so that a fault never hides that there are none.
    fn go<R: Recorder>(
        &self,
        at: ServiceIndex,
        choice: Choice,
        values: &mut Values<'_>,
        seed: Seed,
        notes: &mut R,
    ) -> Decision {
        let service = self.service(at);
        let Choice { place, timeout, retries, rewrite } = choice;
        let reference = BackendRef { service: at, place };
        let backend = self.backend(reference);
        let faults = Faults::default();
        let decision = |outcome, faults| Decision {
            service: Some(at),
            backend: Some(reference),
            outcome,
            faults,
            timeout,
            retries,
            rewrite,
        };
        if backend.endpoints.is_empty() {
            return decision(Outcome::Refuse(Refusal::NoInstances), faults);
        }
        notes.actions(&service.silenced);
        let Some((place, rule)) = first_actions(service, values, notes) else {
            return decision(Outcome::Forward(reference), faults);
        };
        let (faults, abort) = rule.run(ActionRuleRef { service: at, place }, &backend.tags, seed, notes);
        let outcome = abort.map_or(Outcome::Forward(reference), |code| Outcome::Abort(reference, code));
        decision(outcome, faults)
    }
}

/// What the route decides.
struct Choice {
    place: u32,
    timeout: std::time::Duration,
    retries: u32,
    rewrite: Rewrite,
}

impl Choice {
    fn of_rule<R: Recorder>(route: &RouteRule, rewrite: Rewrite, seed: Seed, notes: &mut R) -> Self {
        let draw = seed.draw(Purpose::Split, route.key);
        notes.split(draw);
        let place = route.first + route.split.choose(draw);
        Self { place, timeout: route.timeout, retries: route.retries, rewrite }
    }
}

fn first_route<'t, A: Attach, R: Recorder>(
    service: &'t Service<A>,
    values: &mut Values<'_>,
    notes: &mut R,
) -> Option<&'t RouteRule> {
    service.routes.iter().filter(|route| route.capture.is_none()).find(|route| {
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
    (0..).zip(&service.actions).find(|(_, rule)| {
        let found = rule.matcher.holds(values);
        notes.action_rule(&rule.rule, found);
        found.is_ok()
    })
}
