//! One request on its way, as no engine sees it: the pinned table, the decision, the attempts and what became of
//! them. It performs nothing; engines ask it what to do next and tell it what happened.

mod attempts;
mod copies;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use control_api::{AbortCode, Answer, Edits, HeaderEdits, unix_s};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, LOCATION};
use routing::{Decision, Outcome, Refusal, RequestHead, RouteRuleRef, Seed, TIMEOUT_DEFAULT};

use crate::access_log::{Flag, Flags};
use crate::board::{InFlight, Permit, Retrying};
use crate::counts::{Counts, Met, Moment};
use crate::metrics::Fault;
use crate::mirror::Draft;
use crate::respond::Reply;
use crate::shortage::Shortage;
use crate::signals::{Signals, Watch};
use crate::tables::Table;
use crate::throttle::{Flow, Limits};
use crate::trace::{Carried, Onward};
use crate::tracer::{Span, Tracer};

/// The most attempts of one request, whatever its route says.
pub(crate) const ATTEMPTS_MAX: u32 = 100;
/// The media type of what a rule answers without saying so.
const TEXT: &str = "text/plain; charset=utf-8";
/// Time for one connection to come about (spec/control-and-proxy.md 3.7).
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Between two reads of a request body, and for every write to the client.
pub(crate) const CLIENT_WITHIN: Duration = Duration::from_secs(60);
/// For the rest of a request body that nobody wants, so that the connection can be used again.
pub(crate) const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// This much of a request body is kept to be sent again (spec/control-and-proxy.md 3.7); Pingora keeps as much. Up to
/// this size an unwanted rest is read.
pub(crate) const REPLAY_BYTES_MAX: u64 = 64 * 1024;

/// One request.
pub(crate) struct Context {
    pub(crate) table: Arc<Table>,
    pub(crate) started: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) request_id: HeaderValue,
    pub(crate) flags: Flags,
    /// The client asked for another protocol.
    pub(crate) upgrade: bool,
    /// A call of gRPC that came in HTTP/1.1 and goes on in HTTP/2.
    pub(crate) bridged: bool,
    /// The client is to see its connection end, and nothing else.
    pub(crate) close: bool,
    /// For how long the connection was to be kept, in seconds.
    pub(crate) keepalive: Option<u64>,
    /// The body of the request has arrived.
    body_ended: bool,
    /// The current attempt had to connect first.
    connected: bool,
    /// The answer has begun, the instance's or one of the proxy's own.
    answer_came: bool,
    /// The connection of the current attempt carries nothing else.
    pub(crate) apart: bool,
    /// The body of the answer, where nobody but the engine itself can hold it back.
    pub(crate) flow: Option<Flow>,
    signals: Option<Arc<Signals>>,
    decision: Option<Decision>,
    seed: Seed,
    /// What goes on of the trace that it is part of; the same for every attempt.
    trace: Onward,
    /// Where it stands in it, if it is recorded.
    span: Option<Span>,
    deadline: Instant,
    /// Until when the client itself waits, if it said so.
    call_until: Option<Instant>,
    /// Until when the current attempt has to begin to answer, where its route limits that and the request has come.
    try_until: Option<Instant>,
    permit: Option<Permit>,
    /// Faults of which only so many may be met at a time.
    met: Vec<Met>,
    /// The kinds of faults that were injected, in the order of [`Fault::ALL`].
    injected: [bool; Fault::ALL.len()],
    retrying: Option<Retrying>,
    attempt: Option<Attempt>,
    /// Attempts that failed and were followed by another.
    retried: u32,
    tried: Vec<usize>,
    wait: Duration,
    last: Option<Cause>,
    upstream: Option<Upstream>,
    /// The copy for the route's mirror, until it is whole.
    copy: Option<Box<Draft>>,
}

/// What happens to a request after its delay.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// It is sent to an instance.
    Forward,
    /// The proxy answers.
    Answer(Reply),
    /// The connection ends without an answer.
    Close,
    /// The same, with a reset.
    Reset,
}

/// Where one attempt goes.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The name that the certificate must carry; `None` for plain text. Never empty.
    pub(crate) tls_name: Option<String>,
    /// What is left until the deadline.
    pub(crate) time_left: Duration,
    /// The most between two reads of the answer.
    pub(crate) read_within: Duration,
    /// The most for one write.
    pub(crate) write_within: Duration,
    /// How many requests one connection carries.
    pub(crate) requests_per_connection: u32,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It could not be connected to.
    Unreachable,
    /// The proxy could not begin to connect, for want of this.
    Lacking(Shortage),
    /// It refused the stream without looking at it.
    RefusedStream,
    /// It ended the connection instead of answering.
    Unanswered,
    /// What it sent is no answer.
    Unintelligible,
    /// Its answer is longer than what can be held of it.
    Oversized,
    /// Its answer does not say what became of a call, perhaps because it knows nothing of calls.
    Untold,
    /// It answered with this status.
    Status(u16),
    /// The time of the request ran out.
    Late,
    /// The time that the client gave its call ran out, and not that of the route.
    Expired,
    /// The time of this attempt ran out, and not yet that of the request.
    TryLate,
    /// The client stopped sending.
    Stalled,
}

impl Cause {
    /// Whether no instance is to blame for it, so that it stays what it is although the request's time is over as well.
    pub(crate) fn blames_nobody(self) -> bool {
        matches!(self, Self::Stalled | Self::Lacking(_) | Self::Oversized | Self::Untold)
    }
}

/// What an engine knows about sending a request again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replay<'r> {
    pub(crate) method: &'r str,
    /// Everything read of the body so far is still there.
    pub(crate) body: bool,
    /// Doing it twice is like doing it once.
    pub(crate) idempotent: bool,
}

struct Attempt {
    in_flight: InFlight,
    endpoint: usize,
    address: SocketAddr,
    began: Instant,
}

/// The instance called last, for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) duration: Duration,
}

impl Context {
    /// A request that came `now`; `table` is the only one it will ever see.
    pub(crate) fn new(table: Arc<Table>, now: Instant, wall: SystemTime) -> Self {
        Self {
            table,
            started: now,
            wall,
            request_id: HeaderValue::from_static(""),
            flags: Flags::default(),
            upgrade: false,
            bridged: false,
            close: false,
            keepalive: None,
            body_ended: false,
            connected: false,
            answer_came: false,
            apart: false,
            flow: None,
            signals: None,
            decision: None,
            seed: Seed::of(b""),
            trace: Onward { parent: None, keeps_state: true },
            span: None,
            deadline: now + TIMEOUT_DEFAULT,
            call_until: None,
            try_until: None,
            permit: None,
            met: Vec::new(),
            injected: [false; Fault::ALL.len()],
            retrying: None,
            attempt: None,
            retried: 0,
            tried: Vec::new(),
            wait: Duration::ZERO,
            last: None,
            upstream: None,
            copy: None,
        }
    }

    /// Whatever the client's stream is told about deadlines goes here.
    pub(crate) fn watched_by(&mut self, signals: Arc<Signals>) {
        self.signals = Some(signals);
    }

    /// Whatever tells a connection to an instance about deadlines, for a request whose client's stream is not told.
    pub(crate) fn watched_apart(&mut self) -> Arc<Signals> {
        Arc::clone(self.signals.get_or_insert_with(|| Arc::new(Signals::new(self.started))))
    }

    /// Gives the request its id, and with it its chance.
    pub(crate) fn identify(&mut self, id: HeaderValue) {
        self.seed = Seed::of(id.as_bytes());
        self.request_id = id;
    }

    /// The client waits no longer than this, counted from when its request came: whatever holds the request is charged to
    /// it, and so is the time that its body takes.
    pub(crate) fn expires_after(&mut self, within: Duration) {
        self.call_until = self.started.checked_add(within);
    }

    /// What is left of the time for which the client itself waits.
    pub(crate) fn call_left(&self, now: Instant) -> Option<Duration> {
        Some(self.call_until?.saturating_duration_since(now))
    }

    /// Takes part in the trace that the request carries, or begins one. Without a tracer nothing is recorded.
    pub(crate) fn join(&mut self, carried: Carried, tracer: Option<&Tracer>) {
        let chance = [fastrand::u64(..), fastrand::u64(..), fastrand::u64(..)];
        match tracer {
            None => self.trace = Onward::unrecorded(carried, chance),
            Some(tracer) => (self.trace, self.span) = tracer.join(carried, chance),
        }
    }

    /// Decides the request, once; how long to hold it first.
    pub(crate) fn decide(
        &mut self,
        head: &RequestHead<'_>,
        client: Option<IpAddr>,
        counts: &Counts,
    ) -> Duration {
        if let Some(decision) = &self.decision {
            return decision.faults.delay;
        }
        let client = client.map(|client| client.to_canonical());
        let moment = Moment { counts, unix_s: unix_s(self.wall), client, met: Mutex::default() };
        let decision = self.table.decide(head, self.seed, &moment);
        self.met = moment.met.into_inner().unwrap_or_default();
        self.decision = Some(decision);
        decision.faults.delay
    }

    /// Notes that the request was held.
    pub(crate) fn delayed(&mut self) {
        self.flags.set(Flag::DelayInjected);
        self.faulted(Fault::Delay);
    }

    /// What a rule does to the body of the answer. The general engine does it; the lane leaves such requests to it.
    pub(crate) fn limits(&self) -> Option<Limits> {
        let decision = self.decision.as_ref()?;
        matches!(decision.outcome, Outcome::Forward(_)).then(|| Limits::of(&decision.faults)).flatten()
    }

    /// Notes that the body of the answer is slowed down.
    pub(crate) fn slowed_down(&mut self) {
        self.flags.set(Flag::FaultInjected);
        self.faulted(Fault::Bandwidth);
    }

    /// Notes that the answer was cut off.
    pub(crate) fn cut_off(&mut self) {
        self.flags.set(Flag::FaultInjected);
        self.faulted(Fault::Truncate);
    }

    /// What happens next. The time of the request starts now: injected delays are not charged to it.
    pub(crate) fn course(&mut self, head: &RequestHead<'_>, counts: &Counts, now: Instant) -> Course {
        let Some(decision) = self.decision else { return Course::Answer(Reply::internal()) };
        match decision.outcome {
            Outcome::Refuse(refusal) => {
                self.flags.set(match refusal {
                    Refusal::NoInstances => Flag::NoHealthyUpstream,
                    Refusal::UnknownService | Refusal::NoRoute => Flag::NoRoute,
                });
                let named = decision.service.map(|service| self.table.service(service).name.as_str());
                let destination = named.unwrap_or_else(|| head.path.split('/').nth(1).unwrap_or_default());
                Course::Answer(Reply::refused(refusal, destination))
            }
            Outcome::Abort(code) => {
                self.flags.set(Flag::FaultInjected);
                self.faulted(Fault::Abort);
                match code {
                    AbortCode::Status(status) => Course::Answer(Reply::fault(status)),
                    AbortCode::Close(_) => Course::Close,
                    AbortCode::Reset => {
                        self.reset();
                        Course::Reset
                    }
                    AbortCode::Grpc(status) => Course::Answer(Reply::grpc_fault(status)),
                }
            }
            Outcome::Answer(rule) => Course::Answer(self.given(rule, &decision, head)),
            Outcome::Forward(backend) => {
                if let Err(wait) = self.within_limit(&decision, counts, now) {
                    self.flags.set(Flag::RateLimited);
                    return Course::Answer(Reply::rate_limited(wait));
                }
                self.deadline = self.due(now);
                self.permit = self.table.backend(backend).live.admit();
                if self.permit.is_some() {
                    return Course::Forward;
                }
                self.flags.set(Flag::Overflow);
                Course::Answer(Reply::overloaded())
            }
        }
    }

    /// Takes note of a piece of the request's body. The time that the client takes to send it is not charged: as
    /// long as it sends, the time of the request starts anew, and that of an attempt starts with the end.
    pub(crate) fn body_came(&mut self, piece: bool, end: bool, now: impl FnOnce() -> Instant) {
        if self.body_ended {
            return;
        }
        self.body_ended = end;
        let within = if end && self.attempt.is_some() { self.try_within() } else { None };
        if piece || within.is_some() {
            let now = now();
            if piece {
                self.deadline = self.due(now);
            }
            self.try_until = within.map(|within| now + within);
            if !self.answer_came {
                self.watch();
            }
        }
    }

    /// The client's bytes belong to another protocol from now on.
    pub(crate) fn switch(&self) {
        if let Some(signals) = &self.signals {
            signals.switch();
        }
    }

    /// The current attempt had to connect first, which has taken some of its time.
    pub(crate) fn connected(&mut self) {
        self.connected = true;
        self.watch();
    }

    /// Nothing more is waited for, whatever still comes of the request.
    pub(crate) fn unwatch(&mut self) {
        self.answer_came = true;
        if let Some(signals) = &self.signals {
            signals.disarm();
        }
    }

    /// The path for the instance.
    pub(crate) fn upstream_path<'p>(&self, path: &'p str) -> std::borrow::Cow<'p, str> {
        match &self.decision {
            Some(decision) => self.table.upstream_path(decision, path),
            None => path.into(),
        }
    }

    /// What the route does to the header of the request, on its way to an instance.
    pub(crate) fn request_edits(&self) -> Option<&Edits> {
        self.edits()?.request.as_ref()
    }

    /// What the route does to the header of the answer, on its way to the client.
    pub(crate) fn answer_edits(&self) -> Option<&Edits> {
        self.edits()?.response.as_ref()
    }

    /// Whether connections to the instances of the backend may carry only so many requests.
    pub(crate) fn counts_requests_of_connections(&self) -> bool {
        let backend = self.decision.and_then(|decision| decision.backend);
        backend.is_some_and(|at| self.table.backend(at).live.limits().requests_per_connection < u32::MAX)
    }

    /// Until when an answer of the current attempt may begin.
    pub(crate) fn answer_until(&self) -> Instant {
        self.try_until.map_or(self.deadline, |until| until.min(self.deadline))
    }

    /// The time for an answer to begin, and then between any two pieces of it.
    pub(crate) fn timeout(&self) -> Duration {
        self.decision.map_or(TIMEOUT_DEFAULT, |decision| decision.timeout)
    }

    /// Whether the time for an answer is over.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.time_left(now).is_zero()
    }

    /// Which time is over, of whoever was waited for until it was: the instance, once it has the request, and before that
    /// while it does not take what has come of it.
    pub(crate) fn lateness(&self, unsent: bool, now: Instant) -> Cause {
        match self.try_until {
            _ if !self.body_ended && !unsent => Cause::Stalled,
            Some(_) if !self.is_late(now) => Cause::TryLate,
            _ => Cause::Late,
        }
    }

    /// Whether the connection of the current attempt says that the instance takes no more of the request.
    pub(crate) fn is_stuck(&self) -> bool {
        self.signals.as_ref().is_some_and(|signals| signals.is_stuck())
    }

    pub(crate) fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    /// The kinds of faults that were injected.
    pub(crate) fn injected(&self) -> impl Iterator<Item = Fault> {
        let met = Fault::ALL.into_iter().zip(self.injected);
        met.filter_map(|(fault, injected)| injected.then_some(fault))
    }

    /// The rule of the faults that the request met; `None` when it met none.
    pub(crate) fn fault_rule(&self) -> Option<&str> {
        let met = self.flags.has(Flag::DelayInjected) || self.flags.has(Flag::FaultInjected);
        let rule = self.decision.as_ref()?.faults.rule.filter(|_| met)?;
        Some(self.table.actions(rule).id().as_str())
    }

    /// What goes on of the trace.
    pub(crate) fn trace(&self) -> &Onward {
        &self.trace
    }

    /// Where it stands in its trace; `None` when it is not recorded.
    pub(crate) fn span(&self) -> Option<Span> {
        self.span
    }

    /// Attempts that failed and were followed by another.
    pub(crate) fn retried(&self) -> u32 {
        self.retried
    }

    pub(crate) fn upstream(&self) -> Option<Upstream> {
        self.upstream
    }

    fn edits(&self) -> Option<&HeaderEdits> {
        self.table.route(self.decision?.route?).headers()
    }

    /// The answer that a route gives by itself.
    fn given(&self, rule: RouteRuleRef, decision: &Decision, head: &RequestHead<'_>) -> Reply {
        match self.table.route(rule).answer() {
            Some(Answer::Response(response)) => {
                let mut fields = response.headers.clone();
                if !response.body.is_empty() && fields.iter().all(|(name, _)| *name != CONTENT_TYPE) {
                    fields.push((CONTENT_TYPE, HeaderValue::from_static(TEXT)));
                }
                Reply::given(response.status, fields, Bytes::copy_from_slice(response.body.as_bytes()))
            }
            Some(Answer::Redirect(redirect)) => {
                let place = self.table.location(decision, head).and_then(|place| place.try_into().ok());
                let Some(place) = place else { return Reply::internal() };
                Reply::given(redirect.status, vec![(LOCATION, place)], Bytes::new())
            }
            None => Reply::internal(),
        }
    }

    /// Whether the route lets one more request pass; for how long it does not.
    fn within_limit(&self, decision: &Decision, counts: &Counts, now: Instant) -> Result<(), Duration> {
        let Some(at) = decision.route else { return Ok(()) };
        let route = self.table.route(at);
        let Some(limit) = route.rate_limit() else { return Ok(()) };
        counts
            .admit(route.id(), limit, decision.limit_key, now)
            .inspect_err(|_| self.table.route_live(at).iter().for_each(|rule| rule.series().rate_limited()))
    }

    /// Tells the client's stream to end with a reset.
    fn reset(&self) {
        if let Some(signals) = &self.signals {
            signals.reset();
        }
    }

    /// Passes the deadline on to the client's stream; whether there is one that looks.
    fn watch(&self) -> bool {
        // A first attempt on a connection that is there already has as long as the engine waits for one read anyway.
        let whole = self.retried == 0 && !self.connected && !self.upgrade && self.try_until.is_none();
        let watch = if whole { Watch::Glance } else { Watch::Timer };
        match &self.signals {
            Some(signals) => {
                signals.arm(self.answer_until(), watch);
                true
            }
            None => false,
        }
    }

    /// When a request has to be answered whose time starts now.
    fn due(&self, now: Instant) -> Instant {
        let due = now + self.timeout();
        self.call_until.map_or(due, |until| until.min(due))
    }

    fn time_left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    fn faulted(&mut self, fault: Fault) {
        self.injected[fault as usize] = true;
        if let Some(rule) = self.decision.and_then(|decision| decision.faults.rule) {
            self.table.actions_live(rule).iter().for_each(|rule| rule.series().faulted(fault));
        }
    }
}
