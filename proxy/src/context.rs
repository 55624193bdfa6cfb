//! One request on its way, as no engine sees it: the pinned table, the decision, the attempts and what became of
//! them. It performs nothing; engines ask it what to do next and tell it what happened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control_api::AbortCode;
use http::HeaderValue;
use routing::{
    Address, Budget, Decision, Failure, Outcome, Purpose, Refusal, RequestHead, Seed, TIMEOUT_DEFAULT,
    Verdict,
};

use crate::access_log::{Flag, Flags};
use crate::board::{BoardView, InFlight, Permit};
use crate::metrics::Fault;
use crate::patience::{Patience, Watch};
use crate::respond::Reply;
use crate::tables::Table;

/// The most attempts of one request, whatever its route says.
pub(crate) const ATTEMPTS_MAX: u32 = 100;
/// Time for one connection to come about (spec/control-and-proxy.md 3.7).
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// One request.
pub(crate) struct Context {
    pub(crate) table: Arc<Table>,
    pub(crate) started: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) request_id: HeaderValue,
    pub(crate) flags: Flags,
    /// The client asked for another protocol.
    pub(crate) upgrade: bool,
    /// The client is to see its connection end, and nothing else.
    pub(crate) close: bool,
    /// For how long the connection was to be kept, in seconds.
    pub(crate) keepalive: Option<u64>,
    /// The body of the request has arrived.
    body_ended: bool,
    patience: Option<Arc<Patience>>,
    decision: Option<Decision>,
    seed: Seed,
    deadline: Instant,
    permit: Option<Permit>,
    attempt: Option<Attempt>,
    /// Attempts that failed and were followed by another.
    retried: u32,
    tried: Vec<usize>,
    wait: Duration,
    last: Option<Cause>,
    upstream: Option<Upstream>,
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
}

/// Where one attempt goes.
#[derive(Debug)]
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
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It could not be connected to.
    Unreachable,
    /// It refused the stream without looking at it.
    RefusedStream,
    /// It ended the connection instead of answering.
    Unanswered,
    /// What it sent is no answer.
    Unintelligible,
    /// It answered with this status.
    Status(u16),
    /// The time of the request ran out.
    Late,
    /// The client stopped sending.
    Stalled,
}

/// What an engine knows about sending a request again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replay {
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
            close: false,
            keepalive: None,
            body_ended: false,
            patience: None,
            decision: None,
            seed: Seed::of(b""),
            deadline: now + TIMEOUT_DEFAULT,
            permit: None,
            attempt: None,
            retried: 0,
            tried: Vec::new(),
            wait: Duration::ZERO,
            last: None,
            upstream: None,
        }
    }

    /// Whatever the client's stream is told about deadlines goes here.
    pub(crate) fn watched_by(&mut self, patience: Arc<Patience>) {
        self.patience = Some(patience);
    }

    /// Gives the request its id, and with it its chance.
    pub(crate) fn identify(&mut self, id: HeaderValue) {
        self.seed = Seed::of(id.as_bytes());
        self.request_id = id;
    }

    /// Decides the request; how long to hold it first.
    pub(crate) fn decide(&mut self, head: &RequestHead<'_>) -> Duration {
        let decision = self.table.decide(head, self.seed);
        self.decision = Some(decision);
        decision.faults.delay
    }

    /// Notes that the request was held.
    pub(crate) fn delayed(&mut self) {
        self.flags.set(Flag::DelayInjected);
        self.faulted(Fault::Delay);
    }

    /// What happens next. The time of the request starts now: injected delays are not charged to it.
    pub(crate) fn course(&mut self, path: &str, now: Instant) -> Course {
        let Some(decision) = self.decision else { return Course::Answer(Reply::internal()) };
        match decision.outcome {
            Outcome::Refuse(refusal) => {
                self.flags.set(match refusal {
                    Refusal::NoInstances => Flag::NoHealthyUpstream,
                    Refusal::UnknownService | Refusal::NoRoute => Flag::NoRoute,
                });
                let named = decision.service.map(|service| self.table.service(service).name.as_str());
                let destination = named.unwrap_or_else(|| path.split('/').nth(1).unwrap_or_default());
                Course::Answer(Reply::refused(refusal, destination))
            }
            Outcome::Abort(_, code) => {
                self.flags.set(Flag::FaultInjected);
                self.faulted(Fault::Abort);
                match code {
                    AbortCode::Status(status) => Course::Answer(Reply::fault(status)),
                    AbortCode::Close(_) => Course::Close,
                }
            }
            Outcome::Forward(backend) => {
                self.deadline = now + decision.timeout;
                self.permit = self.table.backend(backend).live.admit();
                if self.permit.is_some() {
                    return Course::Forward;
                }
                self.flags.set(Flag::Overflow);
                Course::Answer(Reply::overloaded())
            }
        }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn take_wait(&mut self) -> Duration {
        std::mem::take(&mut self.wait)
    }

    /// Chooses the instance for the next attempt and counts it as in flight.
    pub(crate) fn begin_attempt(&mut self, now: Instant) -> Result<Target, Cause> {
        let Some(Decision { outcome: Outcome::Forward(backend), timeout, .. }) = self.decision else {
            return Err(Cause::Unreachable);
        };
        let time_left = self.time_left(now);
        if time_left.is_zero() {
            return Err(Cause::Late);
        }
        let table = Arc::clone(&self.table);
        let backend = table.backend(backend);
        let draw = self.seed.draw(Purpose::Pick(self.number()), 0);
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
        let watched = self.watch();
        let read_within = if watched { timeout } else { time_left };
        Ok(Target { address, tls_name, time_left, read_within, write_within: timeout })
    }

    /// Takes note of a piece of the request's body. The time that the client takes to send it is not charged: as
    /// long as it sends, the time of the request starts anew.
    pub(crate) fn body_came(&mut self, piece: bool, end: bool, now: impl FnOnce() -> Instant) {
        if self.body_ended {
            return;
        }
        self.body_ended = end;
        if piece {
            self.deadline = now() + self.decision.map_or(TIMEOUT_DEFAULT, |decision| decision.timeout);
            self.watch();
        }
    }

    /// Nothing more is waited for.
    pub(crate) fn unwatch(&self) {
        if let Some(patience) = &self.patience {
            patience.disarm();
        }
    }

    /// The `Host` field for the current attempt: only instances that registered a host name want their own.
    pub(crate) fn host(&self) -> Option<String> {
        let address = self.endpoint_address()?;
        address.literal.is_none().then(|| address.authority())
    }

    /// The path for the instance.
    pub(crate) fn upstream_path<'p>(&self, path: &'p str) -> std::borrow::Cow<'p, str> {
        match &self.decision {
            Some(decision) => self.table.upstream_path(decision, path),
            None => path.into(),
        }
    }

    /// Takes note of an attempt that failed; whether another follows.
    pub(crate) fn failed(&mut self, cause: Cause, replay: Replay, now: Instant) -> bool {
        // An instance cannot answer a request that it has not got.
        let cause = if cause == Cause::Late && !self.body_ended { Cause::Stalled } else { cause };
        self.last = Some(cause);
        self.report(cause, now);
        let again = self.verdict(cause, replay, now);
        self.end_attempt(now);
        let Some(after) = again else { return false };
        self.retried += 1;
        self.wait = after;
        if let Some(service) = self.decision.and_then(|decision| decision.service) {
            self.table.service(service).live.retried();
        }
        true
    }

    /// Takes note of an answer with a status; whether another attempt follows instead of it.
    pub(crate) fn answered(&mut self, status: u16, replay: Replay, now: Instant) -> bool {
        if status >= 500 {
            let again = self.failed(Cause::Status(status), replay, now);
            // The answer itself is sent: whatever comes later is not this failure.
            self.last = None;
            return again;
        }
        if let Some(attempt) = &self.attempt {
            attempt.in_flight.endpoint().succeeded();
            self.upstream = Some(attempt.as_upstream(now));
        }
        self.last = None;
        false
    }

    /// Whether the time for an answer is over.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.time_left(now).is_zero()
    }

    /// The answer when no attempt is left.
    pub(crate) fn reply(&mut self) -> Reply {
        let (flag, reply) = match self.last {
            Some(Cause::Late) => (Flag::UpstreamTimeout, Reply::late()),
            Some(Cause::Stalled) => return Reply::request_timeout("the body of the request took too long"),
            Some(Cause::Unreachable | Cause::RefusedStream) => (Flag::ConnectFailure, Reply::unreachable()),
            Some(Cause::Unanswered) => (Flag::UpstreamReset, Reply::unanswered()),
            Some(Cause::Unintelligible | Cause::Status(_)) => (Flag::UpstreamReset, Reply::unintelligible()),
            None => return Reply::internal(),
        };
        self.flags.set(flag);
        reply
    }

    /// Notes that an answer broke off, or that the instance was to blame for the end in another way.
    pub(crate) fn broke_off(&mut self, cause: Cause, now: Instant) {
        self.flags.set(if cause == Cause::Late { Flag::UpstreamTimeout } else { Flag::UpstreamReset });
        self.report(cause, now);
    }

    pub(crate) fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    pub(crate) fn upstream(&self) -> Option<Upstream> {
        self.upstream
    }

    /// Passes the deadline on to the client's stream; whether there is one that looks.
    fn watch(&self) -> bool {
        // The first attempt needs no timer: it has as long as the engine waits for one read anyway.
        let watch = if self.retried == 0 && !self.upgrade { Watch::Glance } else { Watch::Timer };
        match &self.patience {
            Some(patience) => {
                patience.arm(self.deadline, watch);
                true
            }
            None => false,
        }
    }

    fn time_left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
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

    fn verdict(&self, cause: Cause, replay: Replay, now: Instant) -> Option<Duration> {
        let (failure, sent) = match cause {
            Cause::Unreachable => (Failure::Connect, false),
            Cause::RefusedStream => (Failure::RefusedStream, false),
            Cause::Unanswered | Cause::Unintelligible => (Failure::Closed, true),
            Cause::Status(status) => (Failure::Status(status), false),
            Cause::Late | Cause::Stalled => return None,
        };
        let retries = self.decision.map_or(0, |decision| decision.retries).min(ATTEMPTS_MAX - 1);
        let budget = Budget {
            attempts_left: retries.saturating_sub(self.retried),
            time_left: self.time_left(now),
            // Whether an instance that broke off did the work is not known; only what may be done twice is tried
            // again then (RFC 9110 9.2.2). Statuses of 500 and more are tried again by the spec's policy.
            replayable: replay.body && (replay.idempotent || !sent),
        };
        match routing::verdict(
            failure,
            budget,
            self.retried,
            self.seed.draw(Purpose::Backoff(self.number()), 0),
        ) {
            Verdict::Retry { after } => Some(after),
            Verdict::GiveUp => None,
        }
    }

    /// Tells the board about a failure of the current attempt.
    fn report(&self, cause: Cause, now: Instant) {
        let Some(Decision { outcome: Outcome::Forward(backend), .. }) = self.decision else { return };
        let Some(attempt) = self.attempt.as_ref().filter(|_| cause != Cause::Stalled) else { return };
        let (endpoint, limits) = (attempt.in_flight.endpoint(), self.table.backend(backend).live.limits());
        let ejected = match cause {
            Cause::Unreachable => endpoint.unreachable(now, limits),
            _ => endpoint.failed(now, limits),
        };
        if ejected {
            tracing::warn!(instance = %attempt.address, "instance ejected");
        }
    }

    fn end_attempt(&mut self, now: Instant) {
        if let Some(attempt) = self.attempt.take() {
            self.upstream = Some(attempt.as_upstream(now));
            self.tried.push(attempt.endpoint);
        }
    }

    fn faulted(&self, fault: Fault) {
        if let Some(service) = self.decision.and_then(|decision| decision.service) {
            self.table.service(service).live.faulted(fault);
        }
    }
}

impl Attempt {
    fn as_upstream(&self, now: Instant) -> Upstream {
        Upstream { address: self.address, duration: now.saturating_duration_since(self.began) }
    }
}
