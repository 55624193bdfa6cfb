//! One namespace at work: its catalog behind a lock, the bell its watchers wait for, and the encodings they
//! share. The laws are the catalog's; this only makes them safe to use from many requests at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use registry_api::{InstanceId, Position, WatchAnswer};
use tokio::sync::watch;

use crate::admitted::Admitted;
use crate::catalog::{Catalog, Command, Refused};
use crate::encodings::{Encodings, Shared};
use crate::metrics::{Metrics, TenantMeters};
use crate::news::{Held, News, Scope};
use crate::timestamp::Timestamp;

/// One namespace.
#[derive(Debug)]
pub struct Tenant {
    epoch: Arc<str>,
    catalog: RwLock<Catalog>,
    bell: watch::Sender<()>,
    encodings: Mutex<Encodings>,
    meters: TenantMeters,
    metrics: Metrics,
    // Counts the changes of all namespaces, for the snapshot file.
    changes: Arc<AtomicU64>,
}

/// What a watcher is told now.
#[derive(Debug)]
pub enum Told {
    /// News.
    News(Arc<Shared>),
    /// At once that what it holds is current.
    Moved(Position),
    /// Nothing; this is what holds for now.
    Nothing(Position),
}

impl Tenant {
    /// An empty namespace of this life of the registry.
    pub fn new(
        epoch: Arc<str>,
        capacity: Option<usize>,
        meters: TenantMeters,
        metrics: Metrics,
        changes: Arc<AtomicU64>,
    ) -> Self {
        Self {
            epoch,
            catalog: RwLock::new(Catalog::new(capacity)),
            bell: watch::Sender::new(()),
            encodings: Mutex::default(),
            meters,
            metrics,
            changes,
        }
    }

    /// Carries a command out and wakes the watchers if something changed.
    pub fn apply(&self, command: Command, now: Timestamp) -> Result<(), Refused> {
        self.write(|catalog| catalog.apply(command, now)).map(drop)
    }

    /// Renews a lease; heartbeats of different instances do not wait for each other.
    pub fn renew(&self, id: &InstanceId, now: Timestamp) -> Result<(), Refused> {
        self.read().renew(id, now)
    }

    /// Removes what nobody renewed and says how many that were.
    pub fn expire(&self, now: Timestamp) -> usize {
        let expired = self.write(|catalog| catalog.expire(now)).len();
        self.meters.expirations.inc_by(expired as u64);
        expired
    }

    /// Counts every lease from `now` at the earliest, because nobody could renew in the time before.
    pub fn hear_from(&self, now: Timestamp) {
        self.write(|catalog| catalog.hear_from(now));
    }

    /// Fills the empty catalog from a snapshot.
    pub fn restore(&self, kept: Vec<Admitted>, now: Timestamp) {
        self.write(|catalog| catalog.restore(kept, now));
    }

    /// The catalog to read from. Held for a few lines, never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Catalog> {
        // A panic elsewhere has been reported; the registry goes on with what it holds.
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings after every change. Subscribe before asking [`Self::tell`], so that no change is missed.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    /// Counts a waiting watcher for as long as the guard lives.
    pub fn attend(&self) -> Attendance {
        self.meters.watchers.inc();
        Attendance(self.meters.clone())
    }

    /// What a watcher hears now.
    pub fn tell(&self, held: &Held, scope: &Scope) -> Told {
        let catalog = self.read();
        match catalog.news(&self.epoch, held, scope) {
            News::Nothing => Told::Nothing(self.position(&catalog, scope)),
            News::Moved => Told::Moved(self.position(&catalog, scope)),
            News::Full => Told::News(self.shared(&catalog, None, scope)),
            News::Delta => Told::News(self.shared(&catalog, Some(held.index), scope)),
        }
    }

    fn position(&self, catalog: &Catalog, scope: &Scope) -> Position {
        Position { epoch: self.epoch.to_string(), index: catalog.index(), hash: catalog.scope_hash(scope) }
    }

    /// The answer from `from`. The catalog is the caller's, so that what is collected fits the index.
    fn shared(&self, catalog: &Catalog, from: Option<u64>, scope: &Scope) -> Arc<Shared> {
        self.encodings().get(from, catalog.index(), scope, || {
            self.metrics.encodings.inc();
            let Position { epoch, index, hash } = self.position(catalog, scope);
            let changes = from.map(|from| catalog.scope_changes(from, scope));
            let instances = from.is_none().then(|| catalog.scope_instances(scope));
            let about_bytes = match from {
                Some(from) => catalog.scope_changes_bytes(from, scope),
                None => catalog.scope_bytes(scope),
            };
            let full = from.is_none();
            Shared::new(WatchAnswer { epoch, index, from, hash, full, instances, changes }, about_bytes)
        })
    }

    fn encodings(&self) -> MutexGuard<'_, Encodings> {
        self.encodings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, step: impl FnOnce(&mut Catalog) -> T) -> T {
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        let before = (catalog.len() as i64, catalog.leases() as i64, catalog.index());
        let outcome = step(&mut catalog);
        let after = (catalog.len() as i64, catalog.leases() as i64, catalog.index());
        drop(catalog);
        self.meters.instances.add(after.0 - before.0);
        self.meters.leases.add(after.1 - before.1);
        if after.2 != before.2 {
            self.changes.fetch_add(1, Ordering::Relaxed);
            // Outside the lock: the woken read the catalog at once.
            self.bell.send_replace(());
        }
        outcome
    }
}

/// A watcher that is waiting.
#[derive(Debug)]
pub struct Attendance(TenantMeters);

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.watchers.dec();
    }
}
