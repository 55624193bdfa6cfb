//! Which series the parts of a table count in: their own while there is room, and else those that all share. How many
//! have their own is bounded, so that no operator's rules can make a page that nobody can scrape.

use std::hash::Hash;
use std::sync::Arc;

use control_api::RuleId;
use registry_api::ServiceName;

use super::kept::Kept;
use crate::metrics::{Codes, Metrics, OVERFLOW, RuleSeries, ServiceSeries};

/// How many services, versions of them and rules have series of their own, unless a setting says otherwise. Ten thousand
/// services of two versions with a rule each fit.
pub const SERIES_MAX_DEFAULT: usize = 50_000;

/// The series of one part of a table.
#[derive(Debug)]
pub struct Slot<T> {
    series: T,
    own: bool,
}

impl<T> Slot<T> {
    /// Where to count.
    pub fn series(&self) -> &T {
        &self.series
    }
}

impl Slot<ServiceSeries> {
    /// Says how many instances requests may go to. Of services that share, nobody could tell whose they are.
    pub fn set_instances(&self, count: usize) {
        if self.own {
            self.series.set_instances(count);
        }
    }

    /// Says how many of its instances were found unwell; of services that share, not at all.
    pub fn set_unhealthy(&self, count: usize) {
        if self.own {
            self.series.set_unhealthy(count);
        }
    }

    /// Says how many of its backends use all instances because too few are usable; of services that share, not at all.
    pub fn set_panicking(&self, count: usize) {
        if self.own {
            self.series.set_panicking(count);
        }
    }
}

/// A part that has no room again when it is asked for by a later table still shares: it is looked at anew only after no
/// table has used it for two sweeps.
pub(super) struct Labelled {
    max: usize,
    own: usize,
    metrics: Arc<Metrics>,
    services: Kept<ServiceName, Slot<ServiceSeries>>,
    /// By their labels, which two backends may share: a series goes with its last user.
    codes: Kept<[String; 3], Slot<Codes>>,
    rules: Kept<(ServiceName, RuleId), Slot<RuleSeries>>,
}

impl Labelled {
    pub(super) fn new(metrics: Arc<Metrics>, max: usize) -> Self {
        Self {
            max,
            own: 0,
            metrics,
            services: Kept::default(),
            codes: Kept::default(),
            rules: Kept::default(),
        }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(super) fn service(&mut self, name: &ServiceName) -> Arc<Slot<ServiceSeries>> {
        let metrics = &self.metrics;
        let mut room = Room { own: &mut self.own, max: self.max, metrics };
        let new = |label: Option<&str>| metrics.service(label.unwrap_or(name.as_str()));
        self.services.get(name.clone(), || room.slot(new))
    }

    pub(super) fn codes(&mut self, labels: [String; 3]) -> Arc<Slot<Codes>> {
        let metrics = &self.metrics;
        let mut room = Room { own: &mut self.own, max: self.max, metrics };
        let new = |label: Option<&str>| {
            metrics.backend(label.map_or_else(|| labels.clone(), |label| [label; 3].map(str::to_owned)))
        };
        self.codes.get(labels.clone(), || room.slot(new))
    }

    pub(super) fn rule(&mut self, service: &ServiceName, rule: &RuleId) -> Arc<Slot<RuleSeries>> {
        let metrics = &self.metrics;
        let mut room = Room { own: &mut self.own, max: self.max, metrics };
        let new = |label: Option<&str>| {
            metrics.rule(label.unwrap_or(service.as_str()), label.unwrap_or(rule.as_str()))
        };
        self.rules.get((service.clone(), rule.clone()), || room.slot(new))
    }

    /// The label of a service that is known: its own name, or that of those that share.
    pub(super) fn label<'n>(&self, service: &'n ServiceName) -> &'n str {
        let own = self.services.peek(service).is_some_and(|slot| slot.own);
        if own { service.as_str() } else { OVERFLOW }
    }

    /// Forgets what no table has used since the sweep before this one, series included.
    pub(super) fn sweep(&mut self) {
        sweep(&mut self.rules, &mut self.own, &self.metrics, RuleSeries::remove);
        sweep(&mut self.codes, &mut self.own, &self.metrics, Codes::remove);
        sweep(&mut self.services, &mut self.own, &self.metrics, ServiceSeries::remove);
    }
}

/// What is left of the bound.
struct Room<'a> {
    own: &'a mut usize,
    max: usize,
    metrics: &'a Metrics,
}

impl Room<'_> {
    /// `new` makes series of the part's own labels, or of the one that is given.
    fn slot<T>(&mut self, new: impl FnOnce(Option<&str>) -> T) -> Slot<T> {
        let own = *self.own < self.max;
        if own {
            *self.own += 1;
        } else {
            self.metrics.series_folded.inc();
        }
        Slot { series: new((!own).then_some(OVERFLOW)), own }
    }
}

fn sweep<K: Hash + Eq, T>(
    kept: &mut Kept<K, Slot<T>>,
    own: &mut usize,
    metrics: &Metrics,
    remove: impl Fn(&T),
) {
    kept.sweep(|slot| {
        if slot.own {
            *own -= 1;
            remove(&slot.series);
        } else {
            metrics.series_folded.dec();
        }
    });
}
