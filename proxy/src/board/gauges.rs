//! How the live state stands at the moment of a scrape: requests in flight, breakers, ejections. It is read from the
//! state itself, so that no request pays for it, and what no table uses is not on the page.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use super::{State, lock};
use crate::clock;

/// Looks at the state for as long as there is a board.
pub(super) struct Gauges {
    state: Weak<State>,
    /// Only for its descriptions, which the registry asks for once.
    described: Page,
}

/// One page's worth; made for every scrape, so that what is gone leaves nothing.
struct Page {
    in_flight: IntGaugeVec,
    open: IntGaugeVec,
    ejected: IntGaugeVec,
}

const BACKEND: [&str; 3] = ["service", "backend", "rule"];

impl Page {
    fn new() -> Self {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels).expect("names and labels are fixed and valid")
        };
        Self {
            in_flight: gauges(
                "a8_proxy_requests_in_flight",
                "Requests that a backend has and has not answered.",
                &BACKEND,
            ),
            open: gauges(
                "a8_proxy_breaker_open",
                "1 while a backend has as many requests as it may have, and further ones are refused.",
                &BACKEND,
            ),
            ejected: gauges(
                "a8_proxy_ejected_instances",
                "Instances that get no requests because they failed.",
                &["service"],
            ),
        }
    }

    fn families(&self) -> [&IntGaugeVec; 3] {
        [&self.in_flight, &self.open, &self.ejected]
    }
}

impl Gauges {
    pub(super) fn of(state: &Arc<State>) -> Self {
        Self { state: Arc::downgrade(state), described: Page::new() }
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.described.families().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let page = Page::new();
        if let Some(state) = self.state.upgrade() {
            backends(&state, &page);
            endpoints(&state, &page);
        }
        page.families().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Backends share labels when they have no room, or differ in nothing that is a label: their requests add up, and one
/// breaker that is open is enough to tell.
fn backends(state: &State, page: &Page) {
    for (_, backend) in lock(&state.backends).in_use().filter(|(_, backend)| backend.was_used()) {
        let labels = backend.codes.series().labels();
        let (in_flight, max) = (backend.in_flight(), backend.requests_max());
        page.in_flight.with_label_values(&labels).add(i64::from(in_flight));
        let open = page.open.with_label_values(&labels);
        open.set(open.get().max(i64::from(in_flight >= max)));
    }
}

/// Services of which no instance was ever ejected are not told of.
fn endpoints(state: &State, page: &Page) {
    let now = clock::now();
    let mut ejected = BTreeMap::new();
    for (key, endpoint) in lock(&state.endpoints).in_use().filter(|(_, endpoint)| endpoint.was_ejected()) {
        *ejected.entry(key.0.clone()).or_insert(0) += i64::from(endpoint.ejected(now));
    }
    let series = lock(&state.series);
    for (service, count) in ejected {
        page.ejected.with_label_values(&[series.label(&service)]).add(count);
    }
}
