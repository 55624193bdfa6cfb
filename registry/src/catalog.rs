//! The instances of one namespace: commands go in, changes come out. Pure: time is an argument, and who
//! asks, who listens and where it is kept are other files' business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use registry_api::{Change, ContentHash, Instance, InstanceId, Reason, ServiceName};

use crate::admitted::{Admitted, Extension};
use crate::census::{Census, Seen};
use crate::history::{History, Recorded};
use crate::lease::Lease;
use crate::preservation::{Preservation, Threshold};
use crate::query::Query;
use crate::recent::{Action, Recent};
use crate::timestamp::Timestamp;
use crate::wheel::Wheel;

mod entries;
mod expiry;
mod index;
mod read_only;

use entries::{At, Entries, Entry, Held};
use expiry::{expires, is_guest};
use read_only::ReadOnly;
pub use read_only::Source;

/// What somebody wants to happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Register, or replace what has the same id.
    Register(Admitted),
    /// Replace what is known of a registered instance; it stays registered since when it was.
    Amend(Admitted, Lived),
    /// Remove.
    Deregister(InstanceId),
}

/// What an amendment says about the instance's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lived {
    /// It gave a sign of life: the lease begins anew.
    Renewed,
    /// Somebody else spoke: the lease goes on.
    On,
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
    entries: Entries,
    services: BTreeMap<ServiceName, Service>,
    // The services by their names in upper case, for protocols whose names have no case.
    folded: BTreeMap<String, BTreeSet<ServiceName>>,
    statuses: BTreeMap<String, usize>,
    census: Census,
    hash: ContentHash,
    bytes: usize,
    history: History,
    recent: Recent,
    edits: u64,
    // Exactly the instances that can expire.
    leases: Wheel,
    // How many of these came by another protocol.
    guests: usize,
    // Before this moment no renewal could be heard.
    heard_since: Timestamp,
    capacity: Option<usize>,
    preservation: Preservation,
    read_only: ReadOnly,
}

#[derive(Debug, Default)]
struct Service {
    // Where they are; the order of the ids is that of the answers.
    ids: BTreeMap<InstanceId, At>,
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
    /// When it was registered, or registered again.
    pub registered_at: Timestamp,
    /// What another protocol keeps with it.
    pub extension: Option<Extension>,
}

impl Catalog {
    /// An empty catalog for at most `capacity` instances; `None` is unlimited.
    pub fn new(capacity: Option<usize>) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// The same, but silent instances are held when too many of them are silent at once.
    #[must_use]
    pub fn preserving(self, threshold: Option<Threshold>) -> Self {
        Self { preservation: Preservation::new(threshold), ..self }
    }

    /// Carries a command out and says what changed. A registration equal in content to the one before
    /// changes nothing, but its lease begins anew.
    pub fn apply(&mut self, command: Command, now: Timestamp) -> Result<Vec<Change>, Refused> {
        match command {
            Command::Register(admitted) => self.register(admitted, now),
            Command::Amend(admitted, lived) => self.amend(admitted, lived, now),
            Command::Deregister(id) => {
                self.writable(id.as_str()).ok_or(Refused::Unknown)?;
                let mut changes: Vec<_> = self.remove(&id, Reason::Deregistered, now).into_iter().collect();
                changes.extend(self.unshadow(&id, now));
                Ok(changes)
            }
        }
    }

    /// Renews a lease. Not a change, so a shared reference is enough.
    pub fn renew(&self, id: &(impl AsRef<str> + ?Sized), now: Timestamp) -> Result<(), Refused> {
        let lease = self.entries.lease(id.as_ref()).filter(|lease| lease.is_ours());
        lease.map(|lease| lease.renew(now)).ok_or(Refused::Unknown)
    }

    /// Renews many leases, and says of each, in the same order, whether it is known.
    pub fn renew_all(&self, ids: &[impl AsRef<str>], now: Timestamp, mut known: impl FnMut(bool)) {
        self.entries.leases(ids, |lease| {
            let lease = lease.filter(|lease| lease.is_ours());
            known(lease.is_some());
            if let Some(lease) = lease {
                lease.renew(now);
            }
        });
    }

    /// Fills an empty catalog with what was kept from before. No change is recorded, and every lease begins
    /// now: nobody could renew while the registry was away.
    pub fn restore(&mut self, kept: Vec<Admitted>, now: Timestamp) {
        for admitted in kept {
            self.insert(admitted, now, now);
        }
    }

    /// Grows whenever anything that is kept beyond a renewal was replaced, also what watchers do not see.
    pub fn edits(&self) -> u64 {
        self.edits
    }

    /// What happened in the last minutes, for protocols that tell it so.
    pub fn recent(&self) -> &Recent {
        &self.recent
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

    /// The services of which the name in upper case is this.
    pub fn services_like(&self, folded: &str) -> impl Iterator<Item = &ServiceName> {
        self.folded.get(folded).into_iter().flatten()
    }

    /// How many instances there are of each status.
    pub fn statuses(&self) -> impl Iterator<Item = (&str, usize)> {
        self.statuses.iter().map(|(status, count)| (status.as_str(), *count))
    }

    /// What is counted beside the number of instances.
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// What was observed since the last call.
    pub fn take_seen(&mut self) -> Vec<Seen> {
        self.census.take()
    }

    /// One instance.
    pub fn get(&self, id: &str) -> Option<Leased> {
        self.entries.get(id).map(|held| held.leased())
    }

    /// All instances, by service and id.
    pub fn instances(&self) -> impl Iterator<Item = Leased> {
        self.services.values().flat_map(|service| self.members(service))
    }

    /// The instances of one service, by id.
    pub fn instances_of(&self, service: &str) -> impl Iterator<Item = Leased> {
        self.services.get(service).into_iter().flat_map(|service| self.members(service))
    }

    /// The instances of one service in all catalogs; an id that several of them hold is there several times.
    pub fn all_of(&self, service: &str) -> impl Iterator<Item = Leased> {
        let shadowed = self.shadowed().filter(move |leased| leased.instance.service_name.as_str() == service);
        self.instances_of(service).chain(shadowed)
    }

    /// The instances that a query means, by service and id.
    pub fn list(&self, query: &Query) -> Vec<Leased> {
        if let Some(id) = query.id() {
            let held = self.entries.get(id).filter(|held| query.matches(&held.entry.instance));
            return held.map(|held| held.leased()).into_iter().collect();
        }
        let fits = |leased: &Leased| query.matches(&leased.instance);
        match query.service() {
            Some(service) => self.all_of(service).filter(fits).collect(),
            None => self.instances().chain(self.shadowed()).filter(fits).collect(),
        }
    }

    fn members(&self, service: &Service) -> impl Iterator<Item = Leased> {
        service.ids.values().filter_map(|at| self.entries.at(*at)).map(|held| held.leased())
    }

    fn register(&mut self, admitted: Admitted, now: Timestamp) -> Result<Vec<Change>, Refused> {
        let id = admitted.instance().id.clone();
        let mut changes = Vec::new();
        let full = self.capacity.is_some_and(|capacity| self.registered_len() >= capacity);
        if self.read_only.shows(id.as_str()) {
            if full {
                return Err(Refused::Full);
            }
            // Watchers hear in one answer that the one went and the other came.
            changes.extend(self.remove(&id, Reason::Deregistered, now));
        }
        match self.entries.get(id.as_str()) {
            Some(held) if held.is(&admitted) => {
                held.lease.renew(now);
                let at = held.at;
                self.entries.registered_again(at, now);
                self.census.registered(admitted.instance());
                self.note(&id, Action::Added, now);
                return Ok(changes);
            }
            // The id alone identifies; watchers know it under its service too and must hear that it left.
            Some(held) if held.entry.instance.service_name != admitted.instance().service_name => {
                changes.extend(self.remove(&id, Reason::Deregistered, now));
            }
            Some(_) => {}
            None if full => return Err(Refused::Full),
            None => {}
        }
        self.census.registered(admitted.instance());
        changes.extend(self.replace(admitted, now, now));
        self.note(&id, Action::Added, now);
        Ok(changes)
    }

    fn amend(&mut self, admitted: Admitted, lived: Lived, now: Timestamp) -> Result<Vec<Change>, Refused> {
        let id = admitted.instance().id.clone();
        let held = self.writable(id.as_str()).ok_or(Refused::Unknown)?;
        let renewed_at = match lived {
            Lived::Renewed => now,
            Lived::On => held.lease.renewed_at(),
        };
        if held.is(&admitted) {
            held.lease.renew(renewed_at);
            return Ok(Vec::new());
        }
        let registered_at = held.entry.registered_at;
        let changed = self.replace(admitted, renewed_at, registered_at);
        self.note(&id, Action::Modified, now);
        Ok(changed.into_iter().collect())
    }

    /// Puts an instance in, or in place of what has its id, and records it if watchers see a difference.
    fn replace(
        &mut self,
        admitted: Admitted,
        renewed_at: Timestamp,
        registered_at: Timestamp,
    ) -> Option<Change> {
        let instance = Arc::clone(admitted.instance());
        let before = self.entries.get(instance.id.as_str());
        let same_content = before.is_some_and(|held| held.entry.hash == admitted.hash());
        let (bytes, service_before) = (admitted.bytes(), self.service_hash(&instance.service_name));
        self.insert(admitted, renewed_at, registered_at);
        if same_content {
            return None;
        }
        let change = Change::Put(instance);
        self.history.record(Recorded { change: change.clone(), service_before, bytes });
        Some(change)
    }

    fn insert(&mut self, admitted: Admitted, renewed_at: Timestamp, registered_at: Timestamp) -> At {
        let (hash, bytes) = (admitted.hash(), admitted.bytes());
        let lease = Lease::begin(admitted.ttl(), renewed_at);
        let extension = admitted.extension().cloned();
        let instance = Arc::clone(admitted.instance());
        let id = instance.id.clone();
        self.take_out(&id);
        self.edits += 1;
        *self.statuses.entry(instance.status.as_str().to_owned()).or_default() += 1;
        self.census.came(&instance);
        if !self.services.contains_key(&instance.service_name) {
            let folded = self.folded.entry(folded(instance.service_name.as_str())).or_default();
            folded.insert(instance.service_name.clone());
        }
        let expiring = expires(&instance).then(|| lease.deadline(self.heard_since));
        self.guests += usize::from(expiring.is_some() && is_guest(extension.as_ref()));
        let service_name = instance.service_name.clone();
        let at = self.entries.insert(Entry { instance, hash, bytes, extension, registered_at }, lease);
        let service = self.services.entry(service_name).or_default();
        service.ids.insert(id, at);
        service.hash = service.hash.with(hash);
        service.bytes += bytes;
        self.hash = self.hash.with(hash);
        self.bytes += bytes;
        if let Some(deadline) = expiring {
            self.leases.file(at, deadline);
        }
        at
    }

    fn remove(&mut self, id: &InstanceId, reason: Reason, now: Timestamp) -> Option<Change> {
        let held = self.entries.get(id.as_str())?;
        let service_name = held.entry.instance.service_name.clone();
        if held.lease.is_ours() {
            self.census.ended(now.since(held.entry.registered_at));
        }
        let service_before = self.service_hash(&service_name);
        self.note(id, Action::Deleted, now);
        self.take_out(id)?;
        self.edits += 1;
        // The wire form of a delete beside its two names.
        let bytes = id.as_str().len() + service_name.as_str().len() + 64;
        let change = Change::Delete { id: id.clone(), service_name, reason };
        self.history.record(Recorded { change: change.clone(), service_before, bytes });
        Some(change)
    }

    fn note(&mut self, id: &InstanceId, action: Action, now: Timestamp) {
        if let Some(held) = self.entries.get(id.as_str()) {
            self.recent.record(action, held.leased(), now);
        }
    }

    /// Undoes [`Self::insert`].
    fn take_out(&mut self, id: &InstanceId) -> Option<()> {
        let (at, entry) = self.entries.remove(id.as_str())?;
        self.read_only.forget(id);
        self.preservation.forget(id);
        self.leases.unfile(at);
        self.hash = self.hash.without(entry.hash);
        self.bytes -= entry.bytes;
        self.census.went(&entry.instance);
        self.guests -= usize::from(expires(&entry.instance) && is_guest(entry.extension.as_ref()));
        if let Some(count) = self.statuses.get_mut(entry.instance.status.as_str()) {
            *count -= 1;
            if *count == 0 {
                self.statuses.remove(entry.instance.status.as_str());
            }
        }
        let name = &entry.instance.service_name;
        if let Some(service) = self.services.get_mut(name) {
            service.ids.remove(id);
            service.hash = service.hash.without(entry.hash);
            service.bytes -= entry.bytes;
            if service.ids.is_empty() {
                self.services.remove(name);
                self.unfold(name);
            }
        }
        Some(())
    }

    fn unfold(&mut self, name: &ServiceName) {
        let folded = folded(name.as_str());
        if let Some(names) = self.folded.get_mut(&folded) {
            names.remove(name);
            if names.is_empty() {
                self.folded.remove(&folded);
            }
        }
    }
}

/// A name without its case.
pub fn folded(name: &str) -> String {
    name.to_uppercase()
}

#[cfg(test)]
mod tests;
