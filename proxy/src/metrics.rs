//! The proxy's metrics: an own registry, every series of spec/control-and-proxy.md 3.9, and handles that are
//! resolved once. Labels come from the applied table only, never from a request.

mod codes;
mod labels;
mod lane;
mod rule;
mod service;
mod tcp;

use std::fmt;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use codes::{Codes, OTHER};
pub use labels::{CopyLost, Ejection, Fault};
pub use lane::LaneSeries;
pub use rule::RuleSeries;
pub use service::ServiceSeries;
pub use tcp::{TcpEnd, TcpSeries};

use self::tcp::TcpFamilies;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
/// The label of the services, versions and rules that have no series of their own.
pub const OVERFLOW: &str = "__overflow__";
/// Upper bounds of the duration buckets in seconds: fine where a local call ends, coarse where a timeout does.
const DURATION_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 7.5, 15.0];

/// Every metric of one proxy.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    retries: IntCounterVec,
    faults: IntCounterVec,
    limited: IntCounterVec,
    exhausted: IntCounterVec,
    shortages: IntCounterVec,
    ejections: IntCounterVec,
    panicking: IntGaugeVec,
    health_checks: IntCounterVec,
    unhealthy: IntGaugeVec,
    copies: IntCounterVec,
    copies_lost: IntCounterVec,
    instances: IntGaugeVec,
    last_success: GaugeVec,
    tcp: TcpFamilies,
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
            shortages: make.counters(
                "a8_proxy_shortages_total",
                "Attempts that failed because the proxy itself lacked what a connection takes.",
                &["service", "reason"],
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
            tcp: TcpFamilies::new(&make),
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
        RuleSeries::new(Arc::clone(self), service, rule)
    }

    /// The handles of one service's series.
    pub fn service(self: &Arc<Self>, name: &str) -> ServiceSeries {
        ServiceSeries::new(Arc::clone(self), name)
    }

    /// The handles of one listener's series; `backend` is its tags, joined with commas.
    pub fn tcp(&self, service: &str, backend: &str) -> TcpSeries {
        self.tcp.of(service, backend)
    }

    /// The handles of one backend's series. The labels are service, comma-joined tags or nothing, and the
    /// rule's id or nothing.
    pub fn backend(&self, labels: [String; 3]) -> Codes {
        Codes::new(&self.requests, labels)
    }
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
