//! Checks the instances of services whose rules ask for it, beside the requests: each in its own time, so many at once. What
//! checks mean is routing's to say, and how one is made is the probe's.

mod grpc;
mod probe;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use control_api::HealthCheck;
use routing::{Endpoint, Health};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::probe::Finding;
use crate::board::{Board, ServiceLive};
use crate::clock;
use crate::tables::{Table, Tables};
use crate::upstream::Aside;

/// Checks under way. Beyond it they are late.
const CHECKS_AT_ONCE: usize = 64;
/// How often it is looked whose turn it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same while nobody is to be checked: a new table may say otherwise.
const LOOK_FOR_WORK_EVERY: Duration = Duration::from_secs(1);
/// The first checks of many instances that come at once are spread over this time, or over their interval.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// An interval is longer or shorter by up to this part of it, so that proxies do not ask together.
const JITTER: f64 = 0.1;

/// Checks for as long as the proxy serves.
pub(crate) async fn run(tables: Arc<Tables>) {
    let (aside, mut wards, mut checks) = (Arc::new(Aside::default()), Wards::default(), JoinSet::new());
    loop {
        wards.follow(&tables.pin(), clock::now(), fastrand::f64);
        while checks.len() < CHECKS_AT_ONCE {
            let Some((endpoint, check)) = wards.next_due(clock::now()) else { break };
            let aside = Arc::clone(&aside);
            checks.spawn(async move {
                let finding = match endpoint.live.address() {
                    Some(at) => probe::ask(&check, &endpoint.address, at, &aside).await,
                    None => Finding::Unwell,
                };
                (endpoint, finding)
            });
        }
        let pause = if wards.by_key.is_empty() { LOOK_FOR_WORK_EVERY } else { LOOK_EVERY };
        match timeout(pause, checks.join_next()).await {
            Ok(Some(Ok((endpoint, finding)))) => {
                wards.heard(&endpoint, finding, clock::now(), fastrand::f64());
            }
            Ok(Some(Err(error))) => tracing::error!(%error, "a health check came to nothing"),
            // Nothing is under way: there is only the time to wait for.
            Ok(None) => sleep(pause).await,
            Err(_) => {}
        }
    }
}

/// The place of the live state in memory, which stays the same from table to table.
type Key = usize;

fn key_of(endpoint: &Endpoint<Board>) -> Key {
    Arc::as_ptr(&endpoint.live) as Key
}

/// All instances that are checked.
#[derive(Default)]
struct Wards {
    /// The table that was followed last; not held, so that it goes with its last request.
    table: Weak<Table>,
    by_key: HashMap<Key, Ward>,
    /// Those that are not being checked, by when they are to be.
    turns: BTreeSet<(Instant, Key)>,
    /// Those that could not be asked the last time, so that it is said once.
    unasked: BTreeSet<Key>,
}

/// One instance that is checked.
struct Ward {
    /// Held, so that nobody else gets its key.
    endpoint: Arc<Endpoint<Board>>,
    service: Arc<ServiceLive>,
    check: Arc<HealthCheck>,
    health: Health,
    /// When it is to be checked next; `None` while it is.
    due: Option<Instant>,
}

impl Wards {
    /// Takes over whom a new table wants checked. What is known of an instance is kept.
    fn follow(&mut self, table: &Arc<Table>, now: Instant, luck: impl Fn() -> f64) {
        if std::ptr::eq(self.table.as_ptr(), Arc::as_ptr(table)) {
            return;
        }
        self.table = Arc::downgrade(table);
        let mut before = std::mem::take(&mut self.by_key);
        for service in table.services() {
            let Some(check) = service.health_check() else { continue };
            let check = Arc::new(check.clone());
            for endpoint in service.endpoints() {
                let key = key_of(endpoint);
                let soon = || Some(now + FIRST_WITHIN.min(check.interval).mul_f64(luck()));
                let (health, due) = match before.remove(&key) {
                    Some(ward) if ward.check == check || ward.due.is_none() => (ward.health, ward.due),
                    // What the other check has found stays until this one finds otherwise.
                    Some(ward) => (ward.health, soon()),
                    None => (Health::default(), soon()),
                };
                let (endpoint, check) = (Arc::clone(endpoint), Arc::clone(&check));
                let service = Arc::clone(&service.live);
                self.by_key.insert(key, Ward { endpoint, service, check, health, due });
            }
        }
        self.unasked.retain(|key| self.by_key.contains_key(key));
        self.turns = self.by_key.iter().filter_map(|(key, ward)| Some((ward.due?, *key))).collect();
        // Nobody checks these any more, so nobody would ever find them well.
        for ward in before.values().filter(|ward| !ward.health.is_healthy()) {
            ward.endpoint.live.set_healthy(true, now);
            self.count(&ward.service);
        }
    }

    /// Somebody whose turn it is at `now`, to be checked like this.
    fn next_due(&mut self, now: Instant) -> Option<(Arc<Endpoint<Board>>, Arc<HealthCheck>)> {
        let (due, key) = *self.turns.first().filter(|(due, _)| *due <= now)?;
        self.turns.remove(&(due, key));
        let ward = self.by_key.get_mut(&key)?;
        ward.due = None;
        Some((Arc::clone(&ward.endpoint), Arc::clone(&ward.check)))
    }

    /// What a check has found; the next follows after the interval, give or take by `luck` in `0..1`. Where the proxy could
    /// not ask, whatever is known stays.
    fn heard(&mut self, endpoint: &Endpoint<Board>, finding: Finding, now: Instant, luck: f64) {
        let key = key_of(endpoint);
        let Some(ward) = self.by_key.get_mut(&key) else { return };
        let before = ward.health;
        match finding {
            Finding::Well | Finding::Unwell => {
                let well = finding == Finding::Well;
                ward.service.series().health_checked(well);
                ward.health = before.after(well, &ward.check);
                self.unasked.remove(&key);
            }
            Finding::Unasked(shortage) => {
                ward.service.series().lacked(shortage);
                if self.unasked.insert(key) && self.unasked.len() == 1 {
                    tracing::error!(reason = %shortage, "instances cannot be checked, and count as they did before");
                }
            }
        }
        let due = now + ward.check.interval.mul_f64(1.0 + JITTER * (2.0 * luck - 1.0));
        if let Some(old) = ward.due.replace(due) {
            self.turns.remove(&(old, key));
        }
        self.turns.insert((due, key));
        let healthy = ward.health.is_healthy();
        if healthy == before.is_healthy() {
            return;
        }
        ward.endpoint.live.set_healthy(healthy, now);
        let instance = &ward.endpoint.address;
        if healthy {
            tracing::info!(%instance, "instance is healthy again");
        } else {
            tracing::warn!(%instance, check = ward.check.describe(), "instance is unhealthy");
        }
        let service = Arc::clone(&ward.service);
        self.count(&service);
    }

    /// Says how many instances of a service are unhealthy; they change seldom.
    fn count(&self, service: &Arc<ServiceLive>) {
        let of_it = self.by_key.values().filter(|ward| Arc::ptr_eq(&ward.service, service));
        service.set_unhealthy(of_it.filter(|ward| !ward.health.is_healthy()).count());
    }
}

#[cfg(test)]
mod tests;
