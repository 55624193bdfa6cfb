//! The attempts of one request: which instance is next, what a failure means, and whether another follows.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use control_api::{LbType, Retries, RetryOn};
use routing::{Address, Budget, Decision, Failure, Outcome, Purpose, Verdict};

use super::{ATTEMPTS_MAX, Attempt, Cause, Context, Replay, Target, Upstream};
use crate::access_log::Flag;
use crate::board::{BoardView, EndpointLive, Retrying};
use crate::metrics::Ejection;
use crate::respond::Reply;
use crate::shortage::Shortage;

/// The percentage of the requests in flight that may be retries, when the route does not say.
const BUDGET_PERCENT_DEFAULT: f64 = 20.0;

impl Context {
    /// How long to wait before the next attempt.
    pub(crate) fn take_wait(&mut self) -> Duration {
        std::mem::take(&mut self.wait)
    }

    /// Chooses the instance for the next attempt and counts it as in flight.
    pub(crate) fn begin_attempt(&mut self, now: Instant) -> Result<Target, Cause> {
        // Whatever was answered before was not passed on.
        self.answer_came = false;
        let Some(decision @ Decision { outcome: Outcome::Forward(backend), timeout, .. }) = self.decision
        else {
            return Err(Cause::Unreachable);
        };
        let time_left = self.time_left(now);
        if time_left.is_zero() {
            return Err(Cause::Late);
        }
        let table = Arc::clone(&self.table);
        let backend = table.backend(backend);
        let draw = decision.pick_draw(self.seed, self.number(), backend.key);
        let view = BoardView::at(now);
        let endpoint = routing::pick(backend, &view, &self.tried, backend.live.ticket(), draw)
            .ok_or(Cause::Unreachable)?;
        let chosen = &backend.endpoints[endpoint];
        // A host name that was never resolved; counted as tried, so that another may have its turn.
        let Some(address) = chosen.live.address() else {
            self.tried.push(endpoint);
            return Err(Cause::Unreachable);
        };
        self.attempt = Some(Attempt { in_flight: chosen.live.begin(), endpoint, address, began: now });
        let tls_name = chosen.address.tls.then(|| chosen.address.host.clone());
        // The answer may begin until the deadline, and then has the whole time anew between any two reads.
        self.connected = false;
        self.signals.iter().for_each(|signals| signals.sending(false));
        let within = self.try_within();
        self.try_until = within.filter(|_| self.body_ended).map(|within| now + within);
        let watched = self.watch();
        let time_left = within.map_or(time_left, |within| within.min(time_left));
        let read_within = if watched { timeout } else { time_left };
        let requests_per_connection = backend.live.limits().requests_per_connection;
        Ok(Target {
            address,
            tls_name,
            time_left,
            read_within,
            write_within: timeout,
            requests_per_connection,
        })
    }

    /// The `Host` field for the current attempt: only instances that registered a host name want their own.
    pub(crate) fn host(&self) -> Option<String> {
        let address = self.endpoint_address()?;
        address.literal.is_none().then(|| address.authority())
    }

    /// The instance of the current attempt, for as long as a table has it.
    pub(crate) fn endpoint(&self) -> Weak<EndpointLive> {
        self.attempt.as_ref().map_or_else(Weak::new, |attempt| attempt.in_flight.downgrade())
    }

    /// Takes note of an attempt that failed; whether another follows.
    pub(crate) fn failed(&mut self, cause: Cause, replay: Replay<'_>, now: Instant) -> bool {
        let cause = match cause {
            Cause::Late | Cause::Stalled if self.call_until == Some(self.deadline) => Cause::Expired,
            cause => cause,
        };
        self.report(cause, now);
        self.ended(cause, replay, now)
    }

    /// Ends an attempt that did not bring what was wanted; whether another follows.
    fn ended(&mut self, cause: Cause, replay: Replay<'_>, now: Instant) -> bool {
        self.last = Some(cause);
        let again = self.verdict(cause, replay, now);
        self.end_attempt(now);
        let Some(after) = again else { return false };
        self.retried += 1;
        self.wait = after;
        if let Some(service) = self.decision.and_then(|decision| decision.service) {
            self.table.service(service).live.series().retried();
        }
        true
    }

    /// Takes note of an answer with a status; whether another attempt follows instead of it.
    pub(crate) fn answered(&mut self, status: u16, replay: Replay<'_>, now: Instant) -> bool {
        if (500..600).contains(&status) {
            let again = self.failed(Cause::Status(status), replay, now);
            // The answer itself is sent: whatever comes later is not this failure.
            self.last = None;
            return again;
        }
        if let Some(attempt) = &self.attempt {
            let endpoint = attempt.in_flight.endpoint();
            if let Some(at) = self.decision.and_then(|decision| decision.backend) {
                endpoint.succeeded(self.table.backend(at).live.limits());
            }
            if self.balances_by_latency() {
                endpoint.took(now.saturating_duration_since(attempt.began), now);
            }
        }
        // An answer that the route would rather not have is no failure of the instance.
        if self.is_named(status) && self.ended(Cause::Status(status), replay, now) {
            self.last = None;
            return true;
        }
        if let Some(attempt) = &self.attempt {
            self.upstream = Some(attempt.as_upstream(now));
        }
        self.last = None;
        false
    }

    /// The answer when no attempt is left.
    pub(crate) fn reply(&mut self) -> Reply {
        let (flag, reply) = match self.last {
            Some(Cause::Late | Cause::TryLate | Cause::Expired) => (Flag::UpstreamTimeout, Reply::late()),
            Some(Cause::Stalled) => return Reply::request_timeout("the body of the request took too long"),
            Some(Cause::Unreachable | Cause::RefusedStream) => (Flag::ConnectFailure, Reply::unreachable()),
            Some(Cause::Lacking(_)) => (Flag::Shortage, Reply::exhausted()),
            Some(Cause::Unanswered) => (Flag::UpstreamReset, Reply::unanswered()),
            Some(Cause::Unintelligible | Cause::Untold | Cause::Status(_)) => {
                (Flag::UpstreamReset, Reply::unintelligible())
            }
            Some(Cause::Oversized) => (Flag::UpstreamReset, Reply::oversized()),
            None => return Reply::internal(),
        };
        self.flags.set(flag);
        reply
    }

    /// Notes that an answer broke off, or that the instance was to blame for the end in another way. Nothing is noted of
    /// attempts that have failed: what was sent then is no instance's answer.
    pub(crate) fn broke_off(&mut self, cause: Cause, now: Instant) {
        if self.last.is_some() || (self.attempt.is_none() && self.upstream.is_none()) {
            return;
        }
        self.flags.set(if cause == Cause::Late { Flag::UpstreamTimeout } else { Flag::UpstreamReset });
        self.report(cause, now);
    }

    /// The number of the current attempt, from 0.
    fn number(&self) -> u8 {
        u8::try_from(self.retried).unwrap_or(u8::MAX)
    }

    fn endpoint_address(&self) -> Option<&Address> {
        let Some(Decision { outcome: Outcome::Forward(backend), .. }) = self.decision else { return None };
        let endpoint = self.attempt.as_ref()?.endpoint;
        Some(&self.table.backend(backend).endpoints.get(endpoint)?.address)
    }

    fn verdict(&mut self, cause: Cause, replay: Replay<'_>, now: Instant) -> Option<Duration> {
        // Nobody has seen the request: as long as there is an instance that was not tried, the client need not learn of
        // it, whatever the route says about trying again, and it costs the instances nothing.
        let unsent = match cause {
            Cause::Unreachable => true,
            Cause::Lacking(shortage) => shortage.is_of_one_instance(),
            _ => false,
        };
        let elsewhere = unsent
            && replay.body
            && self.retried + 1 < ATTEMPTS_MAX
            && !self.time_left(now).is_zero()
            && self.has_untried();
        let (failure, sent) = match cause {
            Cause::Unreachable => (Failure::Connect, false),
            Cause::Lacking(_) => return elsewhere.then_some(Duration::ZERO),
            Cause::RefusedStream => (Failure::RefusedStream, false),
            Cause::Unanswered | Cause::Unintelligible => (Failure::Closed, true),
            Cause::TryLate => (Failure::TryTimeout, true),
            Cause::Status(status) => (Failure::Status(status), false),
            Cause::Late | Cause::Expired | Cause::Stalled | Cause::Oversized | Cause::Untold => return None,
        };
        let retries = self.decision.map_or(0, |decision| decision.retries).min(ATTEMPTS_MAX - 1);
        let budget = Budget {
            attempts_left: retries.saturating_sub(self.retried),
            time_left: self.time_left(now),
            // Whether an instance that broke off did the work is not known; only what may be done twice is tried
            // again then (RFC 9110 9.2.2). Statuses of 500 and more are tried again by the spec's policy.
            replayable: replay.body && (replay.idempotent || !sent),
        };
        let table = Arc::clone(&self.table);
        let route = self.decision.and_then(|decision| decision.route).map(|route| table.route(route));
        let policy = route.and_then(|route| route.retries());
        match routing::verdict_of(
            policy,
            replay.method,
            failure,
            budget,
            self.retried,
            self.seed.draw(Purpose::Backoff(self.number()), 0),
        ) {
            // No instance has seen the request: trying again asks nothing of those that are busy.
            Verdict::Retry { after } if elsewhere || cause == Cause::Unreachable => Some(after),
            Verdict::GiveUp => elsewhere.then_some(Duration::ZERO),
            Verdict::Retry { after } => {
                // One request is one retry at a time.
                self.retrying = None;
                self.retrying = self.within_budget(policy, now);
                self.retrying.is_some().then_some(after)
            }
        }
    }

    /// Whether the backend's budget of retries has room for one more, which then counts until the request is over.
    fn within_budget(&self, policy: Option<&Retries>, now: Instant) -> Option<Retrying> {
        let Some(Decision { outcome: Outcome::Forward(backend), service, .. }) = self.decision else {
            return None;
        };
        let percent = policy.map_or(BUDGET_PERCENT_DEFAULT, |policy| policy.budget_percent);
        let retrying = self.table.backend(backend).live.retry(percent, now);
        if retrying.is_none()
            && let Some(service) = service
        {
            self.table.service(service).live.series().budget_exhausted();
        }
        retrying
    }

    /// The time for one attempt, where the route limits it.
    pub(crate) fn try_within(&self) -> Option<Duration> {
        self.table.route(self.decision?.route?).retries()?.per_try_timeout
    }

    /// Whether the route wants this very status tried again.
    fn is_named(&self, status: u16) -> bool {
        let Some(route) = self.decision.and_then(|decision| decision.route) else { return false };
        let policy = self.table.route(route).retries();
        policy.is_some_and(|policy| policy.on.contains(&RetryOn::Status(status)))
    }

    /// Whether anybody asks how long answers take: writing it down is not for nothing.
    fn balances_by_latency(&self) -> bool {
        let backend = self.decision.and_then(|decision| decision.backend);
        backend.is_some_and(|at| self.table.backend(at).lb == LbType::P2cEwma)
    }

    /// Whether the backend has an instance beside those that were tried, the current one included.
    fn has_untried(&self) -> bool {
        let Some(Decision { outcome: Outcome::Forward(backend), .. }) = self.decision else { return false };
        let current = self.attempt.as_ref().map(|attempt| attempt.endpoint);
        (0..self.table.backend(backend).endpoints.len())
            .any(|endpoint| Some(endpoint) != current && !self.tried.contains(&endpoint))
    }

    /// Tells the board about a failure of the current attempt.
    fn report(&self, cause: Cause, now: Instant) {
        let Some(Decision { outcome: Outcome::Forward(backend), service, .. }) = self.decision else {
            return;
        };
        if let Cause::Lacking(shortage) = cause {
            // What is wrong in here must not be held against anybody out there; but the name's next address may do, where this
            // machine has none of its own to reach this one from.
            if let Some(attempt) = self.attempt.as_ref().filter(|_| shortage == Shortage::Ports) {
                attempt.in_flight.endpoint().look_elsewhere();
            }
            return service.iter().for_each(|at| self.table.service(*at).live.series().lacked(shortage));
        }
        // Whoever calls chooses how long its call may take, and what it calls so, and must not choose who is ejected.
        let blameless = match cause {
            Cause::Stalled | Cause::Expired | Cause::Oversized | Cause::Untold => true,
            // Towards clients of HTTP/2 that is also how an answer ends that had begun.
            Cause::Late => self.call_left(now) == Some(Duration::ZERO),
            _ => false,
        };
        let Some(attempt) = self.attempt.as_ref().filter(|_| !blameless) else { return };
        let (endpoint, backend) = (attempt.in_flight.endpoint(), self.table.backend(backend));
        let (all, limits) = (&backend.endpoints, backend.live.limits());
        let turn = || {
            let ejected = || all.iter().filter(|endpoint| endpoint.live.ejected(now)).count();
            backend.live.turn_to_eject(ejected, all.len())
        };
        let ejected = match cause {
            Cause::Unreachable => endpoint.unreachable(now, limits, turn),
            _ => endpoint.failed(now, limits, turn),
        };
        if ejected {
            let service = self.table.find(backend.service.as_str());
            // Rare enough to be looked up: a backend may have another service's instances.
            if let Some(service) = service {
                self.table.service(service).live.series().ejected(Ejection::ConsecutiveErrors);
            }
            tracing::warn!(instance = %attempt.address, "instance ejected");
        }
    }

    fn end_attempt(&mut self, now: Instant) {
        if let Some(attempt) = self.attempt.take() {
            self.upstream = Some(attempt.as_upstream(now));
            self.tried.push(attempt.endpoint);
        }
    }
}

impl Attempt {
    fn as_upstream(&self, now: Instant) -> Upstream {
        Upstream { address: self.address, duration: now.saturating_duration_since(self.began) }
    }
}
