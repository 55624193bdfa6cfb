//! One namespace at work: its catalog behind a lock, the bell its watchers wait for, and the encodings they
//! share. The laws are the catalog's; this only makes them safe to use from many requests at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use prometheus::IntGauge;
use registry_api::{Change, InstanceId, Position, WatchAnswer};

use crate::admitted::Admitted;
use crate::bell::Bell;
use crate::catalog::{Catalog, Command, Leased, Refused, Source};
use crate::encodings::{Encodings, Shared};
use crate::metrics::{Metrics, TenantMeters};
use crate::news::{Held, News, Scope};
use crate::timestamp::Timestamp;

/// How many leases are renewed in one go.
const RENEWED_AT_ONCE_MAX: usize = 512;

/// How many places are copied under one lock: whoever waits for it waits for so many, and not for all.
const COPIED_AT_ONCE_MAX: usize = 1_024;

/// One namespace.
#[derive(Debug)]
pub struct Tenant {
    epoch: Arc<str>,
    catalog: RwLock<Catalog>,
    bell: Arc<Bell>,
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
    /// A namespace of this life of the registry, with an empty catalog.
    pub fn new(
        epoch: Arc<str>,
        catalog: Catalog,
        meters: TenantMeters,
        metrics: Metrics,
        changes: Arc<AtomicU64>,
    ) -> Self {
        Self {
            epoch,
            catalog: RwLock::new(catalog),
            bell: Arc::default(),
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

    /// Renews many leases, and says of each, in the same order, whether it is known.
    pub fn renew_all(&self, ids: &[String], now: Timestamp) -> Vec<bool> {
        let mut known = Vec::with_capacity(ids.len());
        // In pieces: a registration that waits for the lock also holds up whoever reads after it.
        for some in ids.chunks(RENEWED_AT_ONCE_MAX) {
            self.read().renew_all(some, now, |is_known| known.push(is_known));
        }
        known
    }

    /// Removes what nobody renewed and says how many that were.
    pub fn expire(&self, now: Timestamp) -> usize {
        let changes = self.write(|catalog| catalog.expire(now));
        // What was hidden behind an expired instance comes to light: that is a change, but no expiry.
        let expired = changes.iter().filter(|change| matches!(change, Change::Delete { .. })).count();
        self.meters.expirations.inc_by(expired as u64);
        expired
    }

    /// Counts every lease from `now` at the earliest, because nobody could renew in the time before.
    pub fn hear_from(&self, now: Timestamp) {
        self.write(|catalog| catalog.hear_from(now));
    }

    /// Takes over all that a read-only catalog holds now.
    pub fn replace_source(&self, source: Source, held: Vec<Admitted>, now: Timestamp) {
        self.write(|catalog| catalog.replace_source(source, held, now));
    }

    /// Fills the empty catalog from a snapshot.
    pub fn restore(&self, kept: Vec<Admitted>, now: Timestamp) {
        self.write(|catalog| catalog.restore(kept, now));
    }

    /// Every instance that registered itself, copied in pieces with a `pause` between two: who wants to write waits for one
    /// piece, however many there are. So it is not the catalog at one moment, but each instance as it was at some moment
    /// during the call. Whatever changed meanwhile has been counted, and whoever looks at the count asks again.
    pub fn registered(&self, mut pause: impl FnMut()) -> Vec<Leased> {
        let mut copied = Vec::new();
        let mut from = Some(0);
        while let Some(place) = from {
            from = self.read().copy_registered(place, COPIED_AT_ONCE_MAX, &mut copied);
            pause();
        }
        copied
    }

    /// The catalog to read from. Held for a few lines, never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Catalog> {
        // A panic elsewhere has been reported; the registry goes on with what it holds.
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings after the next change. Listen before asking [`Self::tell`], so that no change is missed.
    pub fn listen(&self) -> impl Future<Output = ()> + Send + use<> {
        self.bell.listen()
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

    fn gauges(&self) -> [&IntGauge; 5] {
        let TenantMeters { instances, leases, held, with_metadata, with_tags, .. } = &self.meters;
        [instances, leases, held, with_metadata, with_tags]
    }

    fn encodings(&self) -> MutexGuard<'_, Encodings> {
        self.encodings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides and acts in one step, and wakes the watchers if something changed for them.
    pub fn write<T>(&self, step: impl FnOnce(&mut Catalog) -> T) -> T {
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        let (edits, index) = (catalog.edits(), catalog.index());
        let before = counts(&catalog);
        let outcome = step(&mut catalog);
        let after = counts(&catalog);
        let (edited, changed) = (catalog.edits() != edits, catalog.index() != index);
        let seen = catalog.take_seen();
        drop(catalog);
        for ((gauge, before), after) in self.gauges().into_iter().zip(before).zip(after) {
            gauge.add(after - before);
        }
        self.metrics.saw(&seen);
        if edited {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        if changed {
            // Outside the lock: the woken read the catalog at once.
            self.bell.ring();
        }
        outcome
    }
}

/// What [`Tenant::gauges`] show, in the same order.
fn counts(catalog: &Catalog) -> [i64; 5] {
    let census = catalog.census();
    let counts =
        [catalog.len(), catalog.leases(), catalog.held(), census.with_metadata(), census.with_tags()];
    counts.map(|count| count as i64)
}

/// A watcher that is waiting.
#[derive(Debug)]
pub struct Attendance(TenantMeters);

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.watchers.dec();
    }
}
