//! The series of one service: its requests, retries, ejections, checks and copies.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus::{Histogram, IntCounter, IntGauge};

use super::labels::HEALTH_RESULTS;
use super::{Codes, CopyLost, Ejection, Metrics};
use crate::shortage::Shortage;

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

impl fmt::Debug for ServiceSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceSeries").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ServiceSeries {
    /// The handles; nothing is on the page yet.
    pub(super) fn new(metrics: Arc<Metrics>, name: &str) -> Self {
        Self {
            codes: metrics.backend([name.to_owned(), String::new(), String::new()]),
            name: name.to_owned(),
            metrics,
            duration: OnceLock::new(),
            instances: OnceLock::new(),
            retries: OnceLock::new(),
            exhausted: OnceLock::new(),
        }
    }

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

    /// Counts an attempt that failed for want of something in here.
    pub(crate) fn lacked(&self, shortage: Shortage) {
        self.metrics.shortages.with_label_values(&[&*self.name, shortage.label()]).inc();
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
        for shortage in Shortage::ALL {
            let _ = self.metrics.shortages.remove_label_values(&[name[0], shortage.label()]);
        }
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
