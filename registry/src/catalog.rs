//! The instances of one namespace: commands go in, changes come out. Pure: time is an argument, and who
//! asks, who listens and where it is kept are other files' business.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use registry_api::{Change, ContentHash, Instance, InstanceId, Reason, ServiceName, Status};

use crate::admitted::Admitted;
use crate::history::{History, Recorded};
use crate::lease::Lease;
use crate::query::Query;
use crate::timestamp::Timestamp;
use crate::wheel::{Slot, Wheel};

/// What somebody wants to happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Register, or replace what has the same id.
    Register(Admitted),
    /// Remove.
    Deregister(InstanceId),
}

/// Why a command is refused. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such instance: never registered, expired, or removed already.
    #[error("the instance is not registered")]
    Unknown,
    /// The namespace holds as many instances as it may.
    #[error("the namespace is full")]
    Full,
}

/// The instances of one namespace.
#[derive(Debug, Default)]
pub struct Catalog {
    entries: HashMap<InstanceId, Entry>,
    services: BTreeMap<ServiceName, Service>,
    hash: ContentHash,
    bytes: usize,
    history: History,
    // Exactly the instances that can expire.
    leases: Wheel<InstanceId>,
    // Before this moment no renewal could be heard.
    heard_since: Timestamp,
    capacity: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    instance: Arc<Instance>,
    hash: ContentHash,
    bytes: usize,
    lease: Lease,
    // None: it never expires.
    filed: Option<Slot>,
}

#[derive(Debug, Default)]
struct Service {
    ids: BTreeSet<InstanceId>,
    hash: ContentHash,
    bytes: usize,
}

/// An instance with its lease, as lists and snapshots need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    /// The instance.
    pub instance: Arc<Instance>,
    /// When it last gave a sign of life.
    pub renewed_at: Timestamp,
    /// The exact time to live.
    pub ttl: std::time::Duration,
}

impl Catalog {
    /// An empty catalog for at most `capacity` instances; `None` is unlimited.
    pub fn new(capacity: Option<usize>) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// Carries a command out and says what changed. A registration equal in content to the one before
    /// changes nothing, but its lease begins anew.
    pub fn apply(&mut self, command: Command, now: Timestamp) -> Result<Vec<Change>, Refused> {
        match command {
            Command::Register(admitted) => self.register(admitted, now),
            Command::Deregister(id) => {
                self.remove(&id, Reason::Deregistered).map(|change| vec![change]).ok_or(Refused::Unknown)
            }
        }
    }

    /// Renews a lease. Not a change, so a shared reference is enough.
    pub fn renew(&self, id: &InstanceId, now: Timestamp) -> Result<(), Refused> {
        self.entries.get(id).map(|entry| entry.lease.renew(now)).ok_or(Refused::Unknown)
    }

    /// Removes every instance whose lease ran out strictly before `now`, in the order of their ids.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Change> {
        let mut due = self.leases.due(now);
        due.sort_unstable();
        let mut changes = Vec::new();
        for id in due {
            // A key that came up is in no slot any more.
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.filed = None;
            let deadline = entry.lease.deadline(self.heard_since);
            if now > deadline {
                changes.extend(self.remove(&id, Reason::Expired));
            } else {
                entry.filed = Some(self.leases.file(id, deadline));
            }
        }
        changes
    }

    /// Counts every lease from `now` at the earliest, because nobody could renew in the time before.
    pub fn hear_from(&mut self, now: Timestamp) {
        self.heard_since = now;
    }

    /// Fills an empty catalog with what was kept from before. No change is recorded, and every lease begins
    /// now: nobody could renew while the registry was away.
    pub fn restore(&mut self, kept: Vec<Admitted>, now: Timestamp) {
        for admitted in kept {
            self.insert(admitted, now);
        }
    }

    /// The count of changes; at least 1, also when nothing has happened yet.
    pub fn index(&self) -> u64 {
        self.history.index()
    }

    /// What happened lately.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// How many instances there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many instances can expire.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// The content hash of everything.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The content hash of one service; that of a service without instances is zero.
    pub fn service_hash(&self, service: &ServiceName) -> ContentHash {
        self.services.get(service).map(|service| service.hash).unwrap_or_default()
    }

    /// About how long all instances are on the wire.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same for one service.
    pub fn service_bytes(&self, service: &ServiceName) -> usize {
        self.services.get(service).map_or(0, |service| service.bytes)
    }

    /// Services with at least one instance, in order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// All instances, by service and id.
    pub fn instances(&self) -> impl Iterator<Item = Leased> {
        self.services.values().flat_map(|service| self.members(service))
    }

    /// The instances of one service, by id.
    pub fn instances_of(&self, service: &str) -> impl Iterator<Item = Leased> {
        self.services.get(service).into_iter().flat_map(|service| self.members(service))
    }

    /// The instances that a query means, by service and id.
    pub fn list(&self, query: &Query) -> Vec<Leased> {
        if let Some(id) = query.id() {
            let entry = self.entries.get(id).filter(|entry| query.matches(&entry.instance));
            return entry.map(Entry::leased).into_iter().collect();
        }
        let fits = |leased: &Leased| query.matches(&leased.instance);
        match query.service() {
            Some(service) => self.instances_of(service).filter(fits).collect(),
            None => self.instances().filter(fits).collect(),
        }
    }

    fn members(&self, service: &Service) -> impl Iterator<Item = Leased> {
        service.ids.iter().filter_map(|id| self.entries.get(id)).map(Entry::leased)
    }

    fn register(&mut self, admitted: Admitted, now: Timestamp) -> Result<Vec<Change>, Refused> {
        let id = &admitted.instance().id;
        let mut changes = Vec::new();
        match self.entries.get(id) {
            Some(entry) if entry.hash == admitted.hash() && entry.lease.ttl() == admitted.ttl() => {
                entry.lease.renew(now);
                return Ok(changes);
            }
            // The id alone identifies; watchers know it under its service too and must hear that it left.
            Some(entry) if entry.instance.service_name != admitted.instance().service_name => {
                let id = id.clone();
                changes.extend(self.remove(&id, Reason::Deregistered));
            }
            Some(_) => {}
            None if self.capacity.is_some_and(|capacity| self.entries.len() >= capacity) => {
                return Err(Refused::Full);
            }
            None => {}
        }
        let same_content = self.entries.get(id).is_some_and(|entry| entry.hash == admitted.hash());
        let change = Change::Put(Arc::clone(admitted.instance()));
        let (bytes, service_before) =
            (admitted.bytes(), self.service_hash(&admitted.instance().service_name));
        self.insert(admitted, now);
        if !same_content {
            self.history.record(Recorded { change: change.clone(), service_before, bytes });
            changes.push(change);
        }
        Ok(changes)
    }

    fn insert(&mut self, admitted: Admitted, now: Timestamp) {
        let (hash, bytes) = (admitted.hash(), admitted.bytes());
        let lease = Lease::begin(admitted.ttl(), now);
        let instance = Arc::clone(admitted.instance());
        let id = instance.id.clone();
        self.take_out(&id);
        let service = self.services.entry(instance.service_name.clone()).or_default();
        service.ids.insert(id.clone());
        service.hash = service.hash.with(hash);
        service.bytes += bytes;
        self.hash = self.hash.with(hash);
        self.bytes += bytes;
        let filed =
            expires(&instance).then(|| self.leases.file(id.clone(), lease.deadline(self.heard_since)));
        self.entries.insert(id, Entry { instance, hash, bytes, lease, filed });
    }

    fn remove(&mut self, id: &InstanceId, reason: Reason) -> Option<Change> {
        let service_name = self.entries.get(id)?.instance.service_name.clone();
        let service_before = self.service_hash(&service_name);
        self.take_out(id)?;
        // The wire form of a delete beside its two names.
        let bytes = id.as_str().len() + service_name.as_str().len() + 64;
        let change = Change::Delete { id: id.clone(), service_name, reason };
        self.history.record(Recorded { change: change.clone(), service_before, bytes });
        Some(change)
    }

    /// Undoes [`Self::insert`].
    fn take_out(&mut self, id: &InstanceId) -> Option<()> {
        let entry = self.entries.remove(id)?;
        if let Some(slot) = entry.filed {
            self.leases.unfile(id, slot);
        }
        self.hash = self.hash.without(entry.hash);
        self.bytes -= entry.bytes;
        if let Some(service) = self.services.get_mut(&entry.instance.service_name) {
            service.ids.remove(id);
            service.hash = service.hash.without(entry.hash);
            service.bytes -= entry.bytes;
            if service.ids.is_empty() {
                self.services.remove(&entry.instance.service_name);
            }
        }
        Some(())
    }
}

/// An operator took it out to look at it; it stays until somebody deletes it (spec/registry.md 1.6).
fn expires(instance: &Instance) -> bool {
    instance.status.as_str() != Status::OUT_OF_SERVICE
}

impl Entry {
    fn leased(&self) -> Leased {
        Leased {
            instance: Arc::clone(&self.instance),
            renewed_at: self.lease.renewed_at(),
            ttl: self.lease.ttl(),
        }
    }
}

#[cfg(test)]
mod tests;
