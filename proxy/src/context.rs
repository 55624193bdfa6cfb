//! One request on its way, as no engine sees it: the pinned table, the decision, the attempts and what became of
//! them. It performs nothing; engines ask it what to do next and tell it what happened.

mod attempts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control_api::AbortCode;
use http::HeaderValue;
use routing::{Decision, Outcome, Refusal, RequestHead, Seed, TIMEOUT_DEFAULT};

use crate::access_log::{Flag, Flags};
use crate::board::{InFlight, Permit};
use crate::metrics::Fault;
use crate::respond::Reply;
use crate::signals::{Signals, Watch};
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
    /// The current attempt had to connect first.
    connected: bool,
    signals: Option<Arc<Signals>>,
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
            connected: false,
            signals: None,
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
    pub(crate) fn watched_by(&mut self, signals: Arc<Signals>) {
        self.signals = Some(signals);
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

    /// Nothing more is waited for.
    pub(crate) fn unwatch(&self) {
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

    /// Whether the time for an answer is over.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.time_left(now).is_zero()
    }

    pub(crate) fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    pub(crate) fn upstream(&self) -> Option<Upstream> {
        self.upstream
    }

    /// Passes the deadline on to the client's stream; whether there is one that looks.
    fn watch(&self) -> bool {
        // A first attempt on a connection that is there already has as long as the engine waits for one read anyway.
        let whole = self.retried == 0 && !self.connected && !self.upgrade;
        let watch = if whole { Watch::Glance } else { Watch::Timer };
        match &self.signals {
            Some(signals) => {
                signals.arm(self.deadline, watch);
                true
            }
            None => false,
        }
    }

    fn time_left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    fn faulted(&self, fault: Fault) {
        if let Some(service) = self.decision.and_then(|decision| decision.service) {
            self.table.service(service).live.faulted(fault);
        }
    }
}
