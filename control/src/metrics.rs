//! What control counts, for `GET /metrics`. No label holds a namespace: where tokens are trusted, the
//! namespace is one. Names and label values are constants, so the number of series is bounded.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

/// From a millisecond to the longest poll that is usual.
const REQUEST_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const PROPAGATION_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.75, 1.0, 2.0, 5.0, 15.0, 60.0];

/// The values that are only known when somebody asks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Levels {
    pub(crate) namespaces: usize,
    pub(crate) rules: usize,
    pub(crate) instances: usize,
    pub(crate) stale_instances: usize,
    pub(crate) waiters: usize,
    pub(crate) proxies: usize,
    pub(crate) lag: Duration,
    pub(crate) follow_age: Duration,
}

/// Counters, histograms and gauges of one running control.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    pub(crate) propagation: Histogram,
    pub(crate) publications: IntCounter,
    pub(crate) encodings: IntCounterVec,
    pub(crate) watch_answers: IntCounterVec,
    pub(crate) rejections: IntCounter,
    pub(crate) follow_failures: IntCounter,
    pub(crate) follow_mismatches: IntCounter,
    namespaces: IntGauge,
    rules: IntGauge,
    instances: IntGauge,
    stale_instances: IntGauge,
    waiters: IntGauge,
    proxies: IntGauge,
    lag: Gauge,
    follow_age: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let labels = &["operation", "result"];
        let requests = Opts::new("a8_control_requests_total", "Answered requests.");
        let durations = HistogramOpts::new("a8_control_request_duration_seconds", "Time to answer.")
            .buckets(REQUEST_BUCKETS.to_vec());
        let propagation = HistogramOpts::new(
            "a8_control_propagation_seconds",
            "From a snapshot's publication to a proxy's poll that says it serves there.",
        )
        .buckets(PROPAGATION_BUCKETS.to_vec());
        let this = Self {
            registry: Registry::new(),
            requests: valid(IntCounterVec::new(requests, labels)),
            durations: valid(HistogramVec::new(durations, labels)),
            propagation: valid(Histogram::with_opts(propagation)),
            publications: counter("a8_control_publications_total", "Published snapshots."),
            encodings: counters(
                "a8_control_encodings_total",
                "Answers encoded, each shared by all waiters.",
                "form",
            ),
            watch_answers: counters("a8_control_watch_answers_total", "Answered polls.", "form"),
            rejections: counter("a8_control_rejections_total", "Snapshots that a proxy could not use."),
            follow_failures: counter("a8_control_follow_failures_total", "Failed polls of the registry."),
            follow_mismatches: counter(
                "a8_control_follow_mismatches_total",
                "Answers of the registry that did not fit.",
            ),
            namespaces: gauge("a8_control_namespaces", "Namespaces in use."),
            rules: gauge("a8_control_rules", "Rules of all namespaces."),
            instances: gauge("a8_control_instances", "Instances of all namespaces."),
            stale_instances: gauge(
                "a8_control_stale_instances",
                "Instances kept that the registry lacks after a restart.",
            ),
            waiters: gauge("a8_control_waiters", "Polls in flight."),
            proxies: gauge("a8_control_proxies", "Connected proxies."),
            lag: valid(Gauge::new(
                "a8_control_proxy_lag_seconds",
                "The longest time a connected proxy is behind.",
            )),
            follow_age: valid(Gauge::new(
                "a8_control_follow_age_seconds",
                "The longest time since the registry was heard.",
            )),
        };
        for collector in this.collectors() {
            valid(this.registry.register(collector));
        }
        this
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.requests.clone()),
            Box::new(self.durations.clone()),
            Box::new(self.propagation.clone()),
            Box::new(self.publications.clone()),
            Box::new(self.encodings.clone()),
            Box::new(self.watch_answers.clone()),
            Box::new(self.rejections.clone()),
            Box::new(self.follow_failures.clone()),
            Box::new(self.follow_mismatches.clone()),
            Box::new(self.namespaces.clone()),
            Box::new(self.rules.clone()),
            Box::new(self.instances.clone()),
            Box::new(self.stale_instances.clone()),
            Box::new(self.waiters.clone()),
            Box::new(self.proxies.clone()),
            Box::new(self.lag.clone()),
            Box::new(self.follow_age.clone()),
        ]
    }

    /// One request was answered.
    pub(crate) fn answered(&self, operation: &'static str, success: bool, took: Duration) {
        let labels = &[operation, if success { "success" } else { "failure" }];
        self.requests.with_label_values(labels).inc();
        self.durations.with_label_values(labels).observe(took.as_secs_f64());
    }

    /// Everything in the text format 0.0.4.
    pub(crate) fn text(&self, levels: Levels) -> Vec<u8> {
        let set = |gauge: &IntGauge, level: usize| gauge.set(i64::try_from(level).unwrap_or(i64::MAX));
        set(&self.namespaces, levels.namespaces);
        set(&self.rules, levels.rules);
        set(&self.instances, levels.instances);
        set(&self.stale_instances, levels.stale_instances);
        set(&self.waiters, levels.waiters);
        set(&self.proxies, levels.proxies);
        self.lag.set(levels.lag.as_secs_f64());
        self.follow_age.set(levels.follow_age.as_secs_f64());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("a vector takes every byte");
        text
    }
}

fn valid<T>(made: prometheus::Result<T>) -> T {
    made.expect("names and labels are constants, valid and distinct")
}

fn counter(name: &str, help: &str) -> IntCounter {
    valid(IntCounter::new(name, help))
}

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    valid(IntCounterVec::new(Opts::new(name, help), &[label]))
}

fn gauge(name: &str, help: &str) -> IntGauge {
    valid(IntGauge::new(name, help))
}
