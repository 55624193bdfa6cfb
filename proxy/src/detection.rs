//! Looks after the instances of backends whose rules compare them: ejects those that do worse than the others, and says
//! when too few are left. Which they are is routing's to say; it runs beside the requests, not within them.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use routing::{Backend, Endpoint, Service, ServiceIndex, panics};
use tokio::time::sleep;

use crate::board::{Board, ServiceLive};
use crate::clock;
use crate::metrics::Ejection;
use crate::tables::{Table, Tables};

/// How often intervals are looked at. A rule's interval ends at most so much late.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same while no rule asks for it: a new table may.
const LOOK_FOR_WORK_EVERY: Duration = Duration::from_secs(1);

/// Looks for as long as the proxy serves.
pub(crate) async fn run(tables: Arc<Tables>) {
    let mut watched = Watched::default();
    loop {
        watched.look(&tables.pin(), clock::now());
        sleep(if watched.places.is_empty() { LOOK_FOR_WORK_EVERY } else { LOOK_EVERY }).await;
    }
}

/// The backends of one table that ask for it.
#[derive(Default)]
struct Watched {
    /// Which one; not held, so that it goes with its last request.
    table: Weak<Table>,
    /// Service and place of the backend; those of one service follow each other.
    places: Vec<(ServiceIndex, usize)>,
    panicking: Vec<Arc<ServiceLive>>,
}

impl Watched {
    fn look(&mut self, table: &Arc<Table>, now: Instant) {
        if !std::ptr::eq(self.table.as_ptr(), Arc::as_ptr(table)) {
            self.places = places(table);
            self.table = Arc::downgrade(table);
        }
        let before = std::mem::take(&mut self.panicking);
        for places in self.places.chunk_by(|one, other| one.0 == other.0) {
            let service = table.service(places[0].0);
            let mut count = 0;
            for (_, place) in places {
                let backend = &service.backends()[*place];
                eject_outliers(service, backend, now);
                let usable = backend.endpoints.iter().filter(|endpoint| endpoint.live.usable(now)).count();
                let threshold = backend.resilience.panic_threshold_percent.unwrap_or(0);
                count += usize::from(panics(usable, backend.endpoints.len(), threshold));
            }
            if count > 0 {
                if !before.iter().any(|live| Arc::ptr_eq(live, &service.live)) {
                    tracing::warn!(service = %service.name, "too few instances are usable, all are used");
                }
                service.live.set_panicking(count);
                self.panicking.push(Arc::clone(&service.live));
            }
        }
        let still = |live: &Arc<ServiceLive>| self.panicking.iter().any(|other| Arc::ptr_eq(live, other));
        before.iter().filter(|live| !still(live)).for_each(|live| live.set_panicking(0));
    }
}

fn places(table: &Table) -> Vec<(ServiceIndex, usize)> {
    let mut places = Vec::new();
    for service in table.services() {
        let Some(at) = table.find(service.name.as_str()) else { continue };
        for (place, backend) in service.backends().iter().enumerate() {
            let resilience = &backend.resilience;
            if resilience.success_rate.is_some() || resilience.panic_threshold_percent.is_some() {
                places.push((at, place));
            }
        }
    }
    places
}

fn eject_outliers(service: &Service<Board>, backend: &Backend<Board>, now: Instant) {
    let all = &backend.endpoints;
    let tally = |endpoint: &Arc<Endpoint<Board>>| (endpoint.instance.id.clone(), endpoint.live.tally());
    for outlier in backend.live.outliers(now, || all.iter().map(tally).collect()) {
        let Some(endpoint) = all.iter().find(|endpoint| endpoint.instance.id == outlier) else { continue };
        let ejected = || all.iter().filter(|endpoint| endpoint.live.ejected(now)).count();
        let Some(_turn) = backend.live.turn_to_eject(ejected, all.len()) else { return };
        if endpoint.live.eject(now, backend.live.limits()) {
            service.live.series().ejected(Ejection::SuccessRate);
            tracing::warn!(instance = %endpoint.address, "instance ejected: the others do better");
        }
    }
}
