//! The series of the lane. Its threads count for themselves; here that is added up when somebody asks.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntGauge};

use super::Maker;

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
    pub(super) fn new(make: &Maker<'_>) -> Self {
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

    pub(super) fn gather(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&LaneThread) -> &AtomicI64| {
            threads.iter().map(|thread| of(thread).load(Ordering::Relaxed)).sum()
        };
        self.upstream_idle.set(sum(|thread| &thread.upstream_idle));
        self.buffers.set(sum(|thread| &thread.buffers));
    }
}
