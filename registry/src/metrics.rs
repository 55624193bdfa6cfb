//! What the registry counts, for Prometheus. Every label has a bounded set of values: namespaces beyond
//! the first hundred share one series.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use registry_api::Namespace;

use crate::census::Seen;

/// How many namespaces have series of their own; later ones are counted together as [`OVERFLOW`].
pub const NAMESPACE_SERIES_MAX: usize = 100;
/// The `namespace` label of all namespaces beyond [`NAMESPACE_SERIES_MAX`].
pub const OVERFLOW: &str = "_overflow";
/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All series of one registry. Not global: two registries in one process count apart.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    instances: IntGaugeVec,
    leases: IntGaugeVec,
    watchers: IntGaugeVec,
    held: IntGaugeVec,
    with_metadata: IntGaugeVec,
    with_tags: IntGaugeVec,
    expirations: IntCounterVec,
    metadata_bytes: Histogram,
    tags: Histogram,
    lifetimes: Histogram,
    requests: IntCounterVec,
    latency: HistogramVec,
    answers: IntCounterVec,
    /// Namespaces in memory.
    pub namespaces: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
    /// Watch answers that had to be encoded, as opposed to shared.
    pub encodings: IntCounter,
    /// Snapshot files that could not be written.
    pub snapshot_failures: IntCounter,
    /// How long writing a snapshot file took.
    pub snapshot_seconds: Histogram,
}

/// The series of one namespace.
#[derive(Debug, Clone)]
pub struct TenantMeters {
    /// Instances of any status.
    pub instances: IntGauge,
    /// Instances that can expire.
    pub leases: IntGauge,
    /// Polls that are waiting.
    pub watchers: IntGauge,
    /// Silent instances that are held because too many are silent at once.
    pub held: IntGauge,
    /// Instances with metadata.
    pub with_metadata: IntGauge,
    /// Instances with tags.
    pub with_tags: IntGauge,
    /// Instances removed because their lease ran out.
    pub expirations: IntCounter,
}

const VALID: &str = "metric names are constants, valid, and each is registered once";

impl Metrics {
    /// New series, all at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let namespaced = ["namespace"];
        let gauges = |name: &str, help: &str| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &namespaced).expect(VALID);
            registry.register(Box::new(gauges.clone())).expect(VALID);
            gauges
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect(VALID);
            registry.register(Box::new(gauge.clone())).expect(VALID);
            gauge
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels).expect(VALID);
            registry.register(Box::new(counters.clone())).expect(VALID);
            counters
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect(VALID);
            registry.register(Box::new(counter.clone())).expect(VALID);
            counter
        };
        let latency = HistogramVec::new(
            HistogramOpts::new("a8_registry_request_duration_seconds", "Time to answer, by operation.")
                .buckets(vec![
                    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0,
                    60.0,
                ]),
            &["operation"],
        )
        .expect(VALID);
        registry.register(Box::new(latency.clone())).expect(VALID);
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histogram = Histogram::with_opts(opts).expect(VALID);
            registry.register(Box::new(histogram.clone())).expect(VALID);
            histogram
        };
        let snapshot_seconds = histogram(
            "a8_registry_snapshot_duration_seconds",
            "Time to write the snapshot file.",
            prometheus::DEFAULT_BUCKETS,
        );
        Self {
            instances: gauges("a8_registry_instances", "Registered instances of any status."),
            leases: gauges("a8_registry_leases", "Instances that expire unless renewed."),
            watchers: gauges("a8_registry_watchers", "Watch polls that are waiting."),
            held: gauges(
                "a8_registry_held_instances",
                "Silent instances held because too many are silent at once.",
            ),
            with_metadata: gauges("a8_registry_metadata_instances", "Instances that carry metadata."),
            with_tags: gauges("a8_registry_tags_instances", "Instances that carry tags."),
            metadata_bytes: histogram(
                "a8_registry_metadata_length_bytes",
                "Length of the metadata of registrations that carry some.",
                &[16.0, 64.0, 256.0, 512.0, 1_024.0],
            ),
            tags: histogram(
                "a8_registry_tags_length",
                "Number of tags of registrations that carry some.",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 64.0],
            ),
            lifetimes: histogram(
                "a8_registry_instances_lifetime_seconds",
                "Time from the last registration of an instance to its end.",
                &[1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0],
            ),
            expirations: counters(
                "a8_registry_expirations_total",
                "Instances removed because nobody renewed them.",
                &namespaced,
            ),
            requests: counters(
                "a8_registry_requests_total",
                "Requests answered, by operation, success or failure, and status code.",
                &["operation", "result", "code"],
            ),
            answers: counters(
                "a8_registry_watch_answers_total",
                "Watch answers: full, delta or unchanged.",
                &["kind"],
            ),
            namespaces: gauge("a8_registry_namespaces", "Namespaces in memory."),
            connections: gauge("a8_registry_connections", "Open connections."),
            encodings: counter(
                "a8_registry_watch_encodings_total",
                "Watch answers that were encoded; all others were shared.",
            ),
            snapshot_failures: counter(
                "a8_registry_snapshot_failures_total",
                "Snapshot files that could not be written.",
            ),
            snapshot_seconds,
            latency,
            registry,
        }
    }

    /// The series of the namespace that was opened as number `ordinal`, counting from zero.
    pub fn tenant(&self, namespace: &Namespace, ordinal: usize) -> TenantMeters {
        let label = if ordinal < NAMESPACE_SERIES_MAX { namespace.as_str() } else { OVERFLOW };
        TenantMeters {
            instances: self.instances.with_label_values(&[label]),
            leases: self.leases.with_label_values(&[label]),
            watchers: self.watchers.with_label_values(&[label]),
            held: self.held.with_label_values(&[label]),
            with_metadata: self.with_metadata.with_label_values(&[label]),
            with_tags: self.with_tags.with_label_values(&[label]),
            expirations: self.expirations.with_label_values(&[label]),
        }
    }

    /// Counts one answered request.
    pub fn answered(&self, operation: &str, status: http::StatusCode, seconds: f64) {
        let failed = status.is_client_error() || status.is_server_error();
        let result = if failed { "failure" } else { "success" };
        self.requests.with_label_values(&[operation, result, status.as_str()]).inc();
        self.latency.with_label_values(&[operation]).observe(seconds);
    }

    /// Counts what a namespace observed. These series are of all namespaces together, so that they need no bound.
    pub fn saw(&self, seen: &[Seen]) {
        for seen in seen {
            match seen {
                Seen::Metadata { bytes } => self.metadata_bytes.observe(*bytes as f64),
                Seen::Tags { count } => self.tags.observe(*count as f64),
                Seen::Lived(lived) => self.lifetimes.observe(lived.as_secs_f64()),
            }
        }
    }

    /// Counts one answer to a watcher.
    pub fn told(&self, kind: &str) {
        self.answers.with_label_values(&[kind]).inc();
    }

    /// Everything in the text format 0.0.4.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("gathered series are consistent")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_beyond_the_bound_share_one_series() {
        let metrics = Metrics::new();
        for number in 0..NAMESPACE_SERIES_MAX + 7 {
            let namespace = Namespace::new(format!("n{number}")).unwrap();
            metrics.tenant(&namespace, number).instances.add(2);
        }
        let text = metrics.text();
        assert!(text.contains("a8_registry_instances{namespace=\"_overflow\"} 14\n"), "{text}");
        assert_eq!(text.matches("a8_registry_instances{").count(), NAMESPACE_SERIES_MAX + 1);
    }

    #[test]
    fn a_request_is_counted_by_operation_result_and_code() {
        let metrics = Metrics::new();
        metrics.answered("Renew", http::StatusCode::GONE, 0.001);
        let line = "a8_registry_requests_total{code=\"410\",operation=\"Renew\",result=\"failure\"} 1\n";
        assert!(metrics.text().contains(line));
    }
}
