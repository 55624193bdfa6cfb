//! The proxy's metrics: an own registry, every series of spec/control-and-proxy.md 3.9, and handles that are
//! resolved once. Labels come from the applied table only, never from a request.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
/// The label of codes that are none.
pub const OTHER: &str = "(other)";
/// The label of the services, versions and rules that have no series of their own.
pub const OVERFLOW: &str = "__overflow__";
/// How many codes of one backend are found without a lock; requests seldom see more.
const CODES_AT_HAND: usize = 8;
/// Upper bounds of the duration buckets in seconds: fine where a local call ends, coarse where a timeout does.
const DURATION_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 7.5, 15.0];

/// What an injected fault did, as in the label `action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request was held.
    Delay,
    /// The request was failed.
    Abort,
    /// The body of the answer was slowed down.
    Bandwidth,
    /// The body of the answer was cut off.
    Truncate,
}

impl Fault {
    /// Each.
    pub const ALL: [Self; 4] = [Self::Delay, Self::Abort, Self::Bandwidth, Self::Truncate];

    /// As in the label `action`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Bandwidth => "bandwidth",
            Self::Truncate => "truncate",
        }
    }
}

/// What a check found, as in the label `result`.
const HEALTH_RESULTS: [&str; 2] = ["failure", "success"];

/// Why an instance was ejected, as in the label `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejection {
    /// It failed so many times in a row.
    ConsecutiveErrors,
    /// It failed more often than the others.
    SuccessRate,
}

impl Ejection {
    const ALL: [Self; 2] = [Self::ConsecutiveErrors, Self::SuccessRate];

    fn label(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_errors",
            Self::SuccessRate => "success_rate",
        }
    }
}

/// Why a copy of a request did not reach its mirror, as in the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyLost {
    /// The request's body is longer than what is kept.
    BodyTooLarge,
    /// All copies together hold too much.
    NoRoom,
    /// Too many wait already.
    QueueFull,
    /// The request ended before its body did.
    Incomplete,
    /// The request asked for another protocol.
    Upgrade,
    /// The request is a copy itself.
    Copy,
    /// The mirror could not be reached, or did not answer in time.
    Failed,
}

impl CopyLost {
    const ALL: [Self; 7] = [
        Self::BodyTooLarge,
        Self::NoRoom,
        Self::QueueFull,
        Self::Incomplete,
        Self::Upgrade,
        Self::Copy,
        Self::Failed,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::BodyTooLarge => "body_too_large",
            Self::NoRoom => "no_room",
            Self::QueueFull => "queue_full",
            Self::Incomplete => "incomplete",
            Self::Upgrade => "upgrade",
            Self::Copy => "copy",
            Self::Failed => "failed",
        }
    }
}

/// Every metric of one proxy.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    retries: IntCounterVec,
    faults: IntCounterVec,
    limited: IntCounterVec,
    exhausted: IntCounterVec,
    ejections: IntCounterVec,
    panicking: IntGaugeVec,
    health_checks: IntCounterVec,
    unhealthy: IntGaugeVec,
    copies: IntCounterVec,
    copies_lost: IntCounterVec,
    instances: IntGaugeVec,
    last_success: GaugeVec,
    unrouted: Codes,
    /// Client connections that are open.
    pub active_connections: IntGauge,
    /// Client connections that were closed because there were too many.
    pub connections_refused: IntCounter,
    /// Handshakes of TLS with clients that came to nothing.
    pub tls_failures: IntCounter,
    /// Requests whose head could not be read.
    pub parse_failures: IntCounter,
    /// What the lane counts.
    pub lane: LaneSeries,
    /// Access-log lines that were not written.
    pub access_log_dropped: IntCounter,
    /// Services, versions and rules that have no series of their own.
    pub series_folded: IntGauge,
    /// Spans that a collector has taken.
    pub spans_exported: IntCounter,
    /// Spans that nobody has taken.
    pub spans_dropped: IntCounter,
    /// Tables put in place.
    pub table_swaps: IntCounter,
    /// Control's index of the snapshot that serves.
    pub snapshot_index: IntGauge,
    /// The rule revision of the snapshot that serves.
    pub snapshot_revision: IntGauge,
    /// Snapshots that could not be used.
    pub snapshot_rejected: IntCounter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero, in a registry of their own.
    pub fn new() -> Self {
        let registry = Registry::new();
        let make = Maker(&registry);
        let requests = make.counters(
            "a8_proxy_requests_total",
            "Client requests by the code that was sent.",
            &["service", "backend", "rule", "code"],
        );
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "a8_proxy_request_duration_seconds",
                "Time from the request's head to the end of the answer.",
            )
            .buckets(DURATION_BUCKETS.to_vec()),
            &["service"],
        )
        .expect(NAMES);
        registry.register(Box::new(durations.clone())).expect(NAMES);
        let last_success = GaugeVec::new(
            Opts::new(
                "a8_control_last_success_timestamp_seconds",
                "When control was last heard, in Unix seconds.",
            ),
            &["source"],
        )
        .expect(NAMES);
        registry.register(Box::new(last_success.clone())).expect(NAMES);
        Self {
            unrouted: Codes::new(&requests, [String::new(), String::new(), String::new()]),
            retries: make.counters("a8_proxy_retries_total", "Further attempts.", &["service"]),
            faults: make.counters(
                "a8_proxy_faults_total",
                "Injected faults.",
                &["service", "action", "rule"],
            ),
            limited: make.counters(
                "a8_proxy_rate_limited_total",
                "Requests beyond the limit of their route.",
                &["service", "rule"],
            ),
            exhausted: make.counters(
                "a8_proxy_retry_budget_exhausted_total",
                "Further attempts that the budget did not allow.",
                &["service"],
            ),
            ejections: make.counters(
                "a8_proxy_ejections_total",
                "Times that an instance was left alone for its failures.",
                &["service", "kind"],
            ),
            panicking: make.gauges(
                "a8_proxy_panicking_backends",
                "Backends with so few usable instances that all are used.",
                &["service"],
            ),
            health_checks: make.counters(
                "a8_proxy_health_checks_total",
                "Checks of instances by what they found.",
                &["service", "result"],
            ),
            unhealthy: make.gauges(
                "a8_proxy_unhealthy_instances",
                "Instances that checks have found unhealthy.",
                &["service"],
            ),
            copies: make.counters(
                "a8_proxy_mirrored_total",
                "Copies of requests that a mirror has answered.",
                &["service"],
            ),
            copies_lost: make.counters(
                "a8_proxy_mirror_lost_total",
                "Copies of requests that no mirror has answered.",
                &["service", "reason"],
            ),
            instances: make.gauges("a8_proxy_instances", "Instances that requests may go to.", &["service"]),
            active_connections: make.gauge("a8_proxy_active_connections", "Open client connections."),
            connections_refused: make.counter(
                "a8_proxy_connections_refused_total",
                "Client connections closed for being too many.",
            ),
            tls_failures: make.counter(
                "a8_proxy_tls_failures_total",
                "Handshakes with clients that failed or took too long.",
            ),
            lane: LaneSeries::new(&make),
            parse_failures: make
                .counter("a8_proxy_parse_failures_total", "Requests whose head could not be read."),
            access_log_dropped: make
                .counter("a8_proxy_access_log_dropped_total", "Access-log lines that were not written."),
            series_folded: make.gauge(
                "a8_proxy_series_folded",
                "Services, versions and rules without series of their own, counted as __overflow__.",
            ),
            spans_exported: make
                .counter("a8_proxy_spans_exported_total", "Spans that the collector has taken."),
            spans_dropped: make.counter(
                "a8_proxy_spans_dropped_total",
                "Spans that were not sent: too many waited, or the collector did not take them.",
            ),
            table_swaps: make.counter("a8_proxy_table_swaps_total", "Tables put in place."),
            snapshot_index: make.gauge("a8_proxy_snapshot_index", "Control's index of what serves."),
            snapshot_revision: make.gauge("a8_proxy_snapshot_revision", "The rule revision of what serves."),
            snapshot_rejected: make
                .counter("a8_proxy_snapshot_rejected_total", "Snapshots that could not be used."),
            requests,
            durations,
            last_success,
            registry,
        }
    }

    /// The text format, version 0.0.4.
    pub fn encode(&self) -> Vec<u8> {
        self.lane.gather();
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    /// Counts a request that belongs to no known service.
    pub fn count_unrouted(&self, code: u16) {
        self.unrouted.count(code);
    }

    /// Notes that control was heard; one feed brings rules and instances together.
    pub fn heard_control(&self, unix_seconds: f64) {
        for source in ["rules", "discovery"] {
            self.last_success.with_label_values(&[source]).set(unix_seconds);
        }
    }

    /// Adds what looks at its numbers only when they are asked for. Its names are its own.
    pub fn gather_from(&self, gauges: impl Collector + 'static) {
        self.registry.register(Box::new(gauges)).expect(NAMES);
    }

    /// The handles of one rule's series.
    pub fn rule(self: &Arc<Self>, service: &str, rule: &str) -> RuleSeries {
        RuleSeries {
            labels: [service, rule].map(str::to_owned),
            answers: Codes::new(&self.requests, [service.to_owned(), String::new(), rule.to_owned()]),
            faults: Default::default(),
            limited: OnceLock::new(),
            metrics: Arc::clone(self),
        }
    }

    /// The handles of one service's series.
    pub fn service(self: &Arc<Self>, name: &str) -> ServiceSeries {
        ServiceSeries {
            codes: Codes::new(&self.requests, [name.to_owned(), String::new(), String::new()]),
            name: name.to_owned(),
            metrics: Arc::clone(self),
            duration: OnceLock::new(),
            instances: OnceLock::new(),
            retries: OnceLock::new(),
            exhausted: OnceLock::new(),
        }
    }

    /// The handles of one backend's series. The labels are service, comma-joined tags or nothing, and the
    /// rule's id or nothing.
    pub fn backend(&self, labels: [String; 3]) -> Codes {
        Codes::new(&self.requests, labels)
    }
}

/// What the lane counts: some of it in each thread by itself, so that no request writes what another thread writes.
pub struct LaneSeries {
    /// Requests that the general engine took over.
    pub handed_over: IntCounter,
    upstream_idle: IntGauge,
    buffers: IntGauge,
    threads: Mutex<Vec<LaneThread>>,
}

struct LaneThread {
    upstream_idle: Arc<AtomicI64>,
    buffers: Arc<AtomicI64>,
}

impl LaneSeries {
    fn new(make: &Maker<'_>) -> Self {
        Self {
            handed_over: make.counter(
                "a8_proxy_lane_handovers_total",
                "Requests that the lane left to the general engine.",
            ),
            upstream_idle: make.gauge(
                "a8_proxy_upstream_connections",
                "Connections to instances that the lane keeps for the next request.",
            ),
            buffers: make.gauge("a8_proxy_lane_buffers", "Buffers with bytes of requests in progress."),
            threads: Mutex::default(),
        }
    }

    /// Adds the counts of one thread.
    pub fn count_thread(&self, upstream_idle: Arc<AtomicI64>, buffers: Arc<AtomicI64>) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(LaneThread { upstream_idle, buffers });
    }

    fn gather(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&LaneThread) -> &AtomicI64| {
            threads.iter().map(|thread| of(thread).load(Ordering::Relaxed)).sum()
        };
        self.upstream_idle.set(sum(|thread| &thread.upstream_idle));
        self.buffers.set(sum(|thread| &thread.buffers));
    }
}

/// One service's series. They exist from their first use on, and go with [`ServiceSeries::remove`].
pub struct ServiceSeries {
    name: String,
    metrics: Arc<Metrics>,
    codes: Codes,
    duration: OnceLock<Histogram>,
    instances: OnceLock<IntGauge>,
    retries: OnceLock<IntCounter>,
    exhausted: OnceLock<IntCounter>,
}

/// What is counted of one rule by itself. The series exist from their first use on, and go with [`RuleSeries::remove`].
pub struct RuleSeries {
    /// Service and rule.
    labels: [String; 2],
    metrics: Arc<Metrics>,
    answers: Codes,
    faults: [OnceLock<IntCounter>; Fault::ALL.len()],
    limited: OnceLock<IntCounter>,
}

impl fmt::Debug for RuleSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RuleSeries").field(&self.labels).finish()
    }
}

impl RuleSeries {
    /// Counts a fault that the rule injected.
    pub fn faulted(&self, fault: Fault) {
        let [service, rule] = &self.labels;
        let counter = || self.metrics.faults.with_label_values(&[service, fault.label(), rule]);
        self.faults[fault as usize].get_or_init(counter).inc();
    }

    /// Counts a request beyond the limit of the route.
    pub fn rate_limited(&self) {
        self.limited.get_or_init(|| self.metrics.limited.with_label_values(&self.labels())).inc();
    }

    /// Counts a request that the rule answered by itself.
    pub fn answered(&self, code: u16) {
        self.answers.count(code);
    }

    /// Takes the series out of the page; for a rule that no table knows any more.
    pub fn remove(&self) {
        let [service, rule] = self.labels();
        // Removing what is not there is refused by the library and right for us.
        let _ = self.metrics.limited.remove_label_values(&[service, rule]);
        for fault in Fault::ALL {
            let _ = self.metrics.faults.remove_label_values(&[service, fault.label(), rule]);
        }
        self.answers.remove();
    }

    fn labels(&self) -> [&str; 2] {
        let [service, rule] = &self.labels;
        [service, rule]
    }
}

impl fmt::Debug for ServiceSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceSeries").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ServiceSeries {
    /// Counts a request for which no backend was chosen.
    pub fn count(&self, code: u16) {
        self.codes.count(code);
    }

    /// Notes how long a request took.
    pub fn observe(&self, seconds: f64) {
        self.duration
            .get_or_init(|| self.metrics.durations.with_label_values(&[&self.name]))
            .observe(seconds);
    }

    /// Counts a further attempt.
    pub fn retried(&self) {
        self.retries.get_or_init(|| self.metrics.retries.with_label_values(&[&self.name])).inc();
    }

    /// Counts a further attempt that the budget did not allow.
    pub fn budget_exhausted(&self) {
        self.exhausted.get_or_init(|| self.metrics.exhausted.with_label_values(&[&self.name])).inc();
    }

    /// Counts an instance that was ejected.
    pub fn ejected(&self, why: Ejection) {
        self.metrics.ejections.with_label_values(&[&*self.name, why.label()]).inc();
    }

    /// Says how many of its backends use all instances because too few are usable.
    pub fn set_panicking(&self, count: usize) {
        let gauge = self.metrics.panicking.with_label_values(&[&self.name]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a check of one of its instances.
    pub fn health_checked(&self, well: bool) {
        self.metrics.health_checks.with_label_values(&[&*self.name, HEALTH_RESULTS[usize::from(well)]]).inc();
    }

    /// Says how many of its instances checks have found unhealthy.
    pub fn set_unhealthy(&self, count: usize) {
        let gauge = self.metrics.unhealthy.with_label_values(&[&self.name]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a copy that its mirror has answered.
    pub fn copied(&self) {
        self.metrics.copies.with_label_values(&[&self.name]).inc();
    }

    /// Counts a copy that came to nothing.
    pub fn copy_lost(&self, why: CopyLost) {
        self.metrics.copies_lost.with_label_values(&[&*self.name, why.label()]).inc();
    }

    /// Says how many instances requests may go to.
    pub fn set_instances(&self, count: usize) {
        self.instances
            .get_or_init(|| self.metrics.instances.with_label_values(&[&self.name]))
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Takes the series out of the page; for a service that no table knows any more.
    pub fn remove(&self) {
        let name = [self.name.as_str()];
        // Removing what is not there is refused by the library and right for us.
        let _ = self.metrics.durations.remove_label_values(&name);
        let _ = self.metrics.retries.remove_label_values(&name);
        let _ = self.metrics.exhausted.remove_label_values(&name);
        let _ = self.metrics.instances.remove_label_values(&name);
        let _ = self.metrics.panicking.remove_label_values(&name);
        for why in Ejection::ALL {
            let _ = self.metrics.ejections.remove_label_values(&[name[0], why.label()]);
        }
        let _ = self.metrics.unhealthy.remove_label_values(&name);
        for result in HEALTH_RESULTS {
            let _ = self.metrics.health_checks.remove_label_values(&[name[0], result]);
        }
        let _ = self.metrics.copies.remove_label_values(&name);
        for why in CopyLost::ALL {
            let _ = self.metrics.copies_lost.remove_label_values(&[name[0], why.label()]);
        }
        self.codes.remove();
    }
}

/// `a8_proxy_requests_total` of one service, backend and rule; per code found without a lock after its first use.
pub struct Codes {
    requests: IntCounterVec,
    labels: [String; 3],
    at_hand: [OnceLock<(u16, IntCounter)>; CODES_AT_HAND],
    seen: Mutex<BTreeSet<u16>>,
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Codes").field(&self.labels).finish()
    }
}

impl Codes {
    fn new(requests: &IntCounterVec, labels: [String; 3]) -> Self {
        Self { requests: requests.clone(), labels, at_hand: Default::default(), seen: Mutex::default() }
    }

    /// Counts one client request. `code` is what was sent, 0 when the connection was closed instead.
    pub fn count(&self, code: u16) {
        for slot in &self.at_hand {
            // Somebody else may fill the free slot first, with another code: look again, then go on.
            let (held, counter) = slot.get_or_init(|| (code, self.counter(code)));
            if *held == code {
                return counter.inc();
            }
        }
        self.counter(code).inc();
    }

    fn counter(&self, code: u16) -> IntCounter {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(code);
        let mut digits = [b'0'; 3];
        self.requests.with_label_values(&self.with(code_label(code, &mut digits)))
    }

    /// Service, backend and rule.
    pub fn labels(&self) -> [&str; 3] {
        self.labels.each_ref().map(String::as_str)
    }

    fn with<'a>(&'a self, code: &'a str) -> [&'a str; 4] {
        let [service, backend, rule] = self.labels();
        [service, backend, rule, code]
    }

    /// Takes the series out of the page.
    pub fn remove(&self) {
        let mut digits = [b'0'; 3];
        for code in &*self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = self.requests.remove_label_values(&self.with(code_label(*code, &mut digits)));
        }
    }
}

/// The code as a label: an upstream may invent codes up to 999, which must not become series.
fn code_label(code: u16, digits: &mut [u8; 3]) -> &str {
    if code == 0 {
        return "0";
    }
    if !(100..600).contains(&code) {
        return OTHER;
    }
    for (digit, place) in digits.iter_mut().zip([100, 10, 1]) {
        *digit = b'0' + u8::try_from(code / place % 10).expect("a decimal digit fits a byte");
    }
    std::str::from_utf8(digits).expect("decimal digits are ASCII")
}

const NAMES: &str = "names and labels are fixed, valid and distinct";

struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect(NAMES);
        self.0.register(Box::new(counter.clone())).expect(NAMES);
        counter
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect(NAMES);
        self.0.register(Box::new(gauge.clone())).expect(NAMES);
        gauge
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect(NAMES);
        self.0.register(Box::new(counters.clone())).expect(NAMES);
        counters
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect(NAMES);
        self.0.register(Box::new(gauges.clone())).expect(NAMES);
        gauges
    }
}

#[cfg(test)]
mod tests;
