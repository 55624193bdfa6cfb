//! The live state of one instance: where it is, what it carries, whether it is ejected. Failures that we
//! injected ourselves must not be reported here.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use routing::{Address, Tally};

use super::limits::{Ejections, Limits};
use crate::resolve::Host;

/// An answer is so small a part of the latency that is known.
const LATENCY_MEMORY: u128 = 8;
/// Without answers a latency is half as long after this time.
const LATENCY_HALVES_IN: Duration = Duration::from_secs(10);

/// One instance.
#[derive(Debug)]
pub struct EndpointLive {
    place: Place,
    active: AtomicU32,
    /// Checks have found so.
    unhealthy: AtomicBool,
    errors_in_a_row: AtomicU32,
    /// Requests, and failures among them, of backends that eject by success rate.
    requests: AtomicU64,
    failures: AtomicU64,
    /// Nanoseconds since the origin; 0: never ejected.
    ejected_until: AtomicU64,
    /// Nanoseconds since the origin; 0: it was there when the proxy began.
    came_up: AtomicU64,
    ejections: Mutex<Ejections>,
    /// How long answers took of late, in microseconds; 0: not known.
    latency_us: AtomicU64,
    /// When that was noted, in microseconds since the origin.
    noted_us: AtomicU64,
    origin: Instant,
}

#[derive(Debug)]
enum Place {
    Literal(SocketAddr),
    Named(Arc<Host>, u16),
}

impl EndpointLive {
    pub(crate) fn new(address: &Address, host: impl FnOnce(&str) -> Arc<Host>, origin: Instant) -> Self {
        let place = match address.literal {
            Some(literal) => Place::Literal(literal),
            None => Place::Named(host(&address.host), address.port),
        };
        Self {
            place,
            active: AtomicU32::new(0),
            unhealthy: AtomicBool::new(false),
            errors_in_a_row: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            came_up: AtomicU64::new(0),
            ejections: Mutex::default(),
            latency_us: AtomicU64::new(0),
            noted_us: AtomicU64::new(0),
            origin,
        }
    }

    /// Where to dial; `None` while a host name is not resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.place {
            Place::Literal(address) => Some(*address),
            Place::Named(host, port) => host.address(*port),
        }
    }

    /// It is here since `now`, or here again: its slow start begins.
    pub(super) fn come_up(&self, now: Instant) {
        self.came_up.store(nanos(self.since_origin(now)).max(1), Ordering::Relaxed);
    }

    /// How long it has been taking requests since it came up, was well again, or its last ejection ended; zero while it is ejected.
    /// `None` when it was there before the proxy knew better, and was never ejected.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let since = self.came_up.load(Ordering::Relaxed).max(self.ejected_until.load(Ordering::Relaxed));
        (since != 0).then(|| self.since_origin(now).saturating_sub(Duration::from_nanos(since)))
    }

    /// Attempts in flight.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts an attempt until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.active.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Whether it takes requests: its address is known, it is not ejected, and no check found it unhealthy.
    pub fn usable(&self, now: Instant) -> bool {
        !self.ejected(now) && !self.unhealthy.load(Ordering::Relaxed) && self.known()
    }

    /// Whether it can be dialled.
    pub fn known(&self) -> bool {
        matches!(self.place, Place::Literal(_)) || self.address().is_some()
    }

    /// Why it gets no requests while others can; `None` when it does.
    pub fn state(&self, now: Instant) -> Option<&'static str> {
        match () {
            () if !self.known() => Some("unresolved"),
            () if self.unhealthy.load(Ordering::Relaxed) => Some("unhealthy"),
            () if self.ejected(now) => Some("ejected"),
            () => None,
        }
    }

    /// What checks have found. An instance that is well again comes up anew.
    pub fn set_healthy(&self, healthy: bool, now: Instant) {
        let unhealthy = self.unhealthy.swap(!healthy, Ordering::Relaxed);
        if healthy && unhealthy {
            self.come_up(now);
        }
    }

    /// What it has answered to backends that eject by success rate.
    pub fn tally(&self) -> Tally {
        // In this order, so that there are never more failures than requests.
        let failures = self.failures.load(Ordering::Acquire);
        Tally { failures, requests: self.requests.load(Ordering::Relaxed) }
    }

    /// The instance answered below 500.
    pub fn succeeded(&self, limits: &Limits) {
        if limits.success_rate.is_some() {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        // Read first: the usual zero must not be written by every thread.
        if self.errors_in_a_row.load(Ordering::Relaxed) != 0 {
            self.errors_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Notes how long an answer took. Answers that come at once may lose one of their notes, which makes no difference.
    pub fn took(&self, time: Duration, now: Instant) {
        let (before, time) = (self.latency(now).as_micros(), time.as_micros().max(1));
        let mean = if before == 0 { time } else { (before * (LATENCY_MEMORY - 1) + time) / LATENCY_MEMORY };
        self.latency_us.store(u64::try_from(mean).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.noted_us.store(micros(self.since_origin(now)), Ordering::Relaxed);
    }

    /// How long answers took of late; zero when that is not known. It halves while nothing is heard, so that an instance
    /// that was slow once gets another chance.
    pub fn latency(&self, now: Instant) -> Duration {
        let latency = self.latency_us.load(Ordering::Relaxed);
        if latency == 0 {
            return Duration::ZERO;
        }
        let silent = micros(self.since_origin(now)).saturating_sub(self.noted_us.load(Ordering::Relaxed));
        let halvings = u128::from(silent) / LATENCY_HALVES_IN.as_micros();
        let shift = u32::try_from(halvings).unwrap_or(u32::MAX);
        Duration::from_micros(latency.checked_shr(shift).unwrap_or(0).max(1))
    }

    /// The instance could not be reached: as [`EndpointLive::failed`], and a host name's next address is tried.
    pub fn unreachable<T>(&self, now: Instant, limits: &Limits, turn: impl FnOnce() -> Option<T>) -> bool {
        self.look_elsewhere();
        self.failed(now, limits, turn)
    }

    /// A host name's next address is tried next time.
    pub fn look_elsewhere(&self) {
        if let Place::Named(host, _) = &self.place {
            host.advance();
        }
    }

    /// The instance answered 5xx, broke off, or took too long. As many failures in a row as the backend's
    /// limits say eject it, if `turn` gives the right to; says whether this one did.
    pub fn failed<T>(&self, now: Instant, limits: &Limits, turn: impl FnOnce() -> Option<T>) -> bool {
        if limits.success_rate.is_some() {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.failures.fetch_add(1, Ordering::Release);
        }
        // Requests that were on their way when it was ejected do not eject it again.
        if self.ejected(now) {
            return false;
        }
        let errors = self.errors_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // Of several threads at the threshold the one that takes the count away ejects.
        if errors < limits.consecutive_errors
            || self.errors_in_a_row.swap(0, Ordering::Relaxed) < limits.consecutive_errors
        {
            return false;
        }
        // Held until the ejection can be seen.
        let Some(_turn) = turn() else { return false };
        self.eject(now, limits)
    }

    /// Leaves the instance alone for as long as the backend's limits say; whether it was not before.
    pub fn eject(&self, now: Instant, limits: &Limits) -> bool {
        if self.ejected(now) {
            return false;
        }
        let mut ejections = self.ejections.lock().unwrap_or_else(PoisonError::into_inner);
        *ejections = ejections.another(self.since_origin(now), limits);
        self.ejected_until.store(nanos(ejections.until()), Ordering::Relaxed);
        true
    }

    /// Whether it was ever ejected.
    pub fn was_ejected(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) != 0
    }

    /// Whether it is left alone for its failures.
    pub fn ejected(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && self.since_origin(now) < Duration::from_nanos(until)
    }

    fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One attempt in flight, until dropped.
#[derive(Debug)]
pub struct InFlight(Arc<EndpointLive>);

impl InFlight {
    /// The instance that is being tried.
    pub fn endpoint(&self) -> &EndpointLive {
        &self.0
    }

    /// The same, for whoever must not keep it alive.
    pub fn downgrade(&self) -> Weak<EndpointLive> {
        Arc::downgrade(&self.0)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
