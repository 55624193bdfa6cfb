//! The series of one rule: its faults, its own answers, what its limit held back.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus::IntCounter;

use super::{Codes, Fault, Metrics};

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
    /// The handles; nothing is on the page yet.
    pub(super) fn new(metrics: Arc<Metrics>, service: &str, rule: &str) -> Self {
        Self {
            labels: [service, rule].map(str::to_owned),
            answers: metrics.backend([service.to_owned(), String::new(), rule.to_owned()]),
            faults: Default::default(),
            limited: OnceLock::new(),
            metrics,
        }
    }

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
