//! Instances that come from elsewhere and are only shown here (spec/registry.md 7.1): from a cluster, another registry,
//! a file. Where they come from and when is not known here; nobody renews, removes or counts them.

use std::collections::{BTreeMap, HashMap};

use registry_api::{Change, InstanceId, Reason};

use super::{Catalog, Held, Leased};
use crate::admitted::Admitted;
use crate::history::Recorded;
use crate::lease::Lease;
use crate::recent::Action;
use crate::timestamp::Timestamp;

/// Where instances come from, in the order in which their ids count: what registered itself comes before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A Kubernetes cluster.
    Kubernetes,
    /// Another registry, by Eureka's protocol.
    Eureka,
    /// A file.
    File,
}

/// What the sources hold, and which of it is shown.
#[derive(Debug, Default)]
pub(super) struct ReadOnly {
    sets: BTreeMap<Source, BTreeMap<InstanceId, Admitted>>,
    // Of an id that several hold only the first is an entry of the catalog; lists show the others as well.
    shown: HashMap<InstanceId, Source>,
}

impl ReadOnly {
    /// Whether the entry of this id came from a source.
    pub(super) fn shows(&self, id: &str) -> bool {
        self.shown.contains_key(id)
    }

    /// How many entries came from a source.
    pub(super) fn len(&self) -> usize {
        self.shown.len()
    }

    /// The entry is gone.
    pub(super) fn forget(&mut self, id: &InstanceId) {
        self.shown.remove(id);
    }

    /// What is hidden behind an equal id; mostly nothing.
    fn shadowed(&self) -> impl Iterator<Item = &Admitted> {
        let all: usize = self.sets.values().map(BTreeMap::len).sum();
        let some = (all > self.shown.len()).then_some(&self.sets);
        let each =
            some.into_iter().flatten().flat_map(|(source, set)| set.iter().map(move |held| (source, held)));
        each.filter(|(source, (id, _))| self.shown.get(*id) != Some(*source))
            .map(|(_, (_, admitted))| admitted)
    }
}

impl Catalog {
    /// Takes over all that a source holds now, in place of what it held before. Of equal ids the last counts.
    pub fn replace_source(&mut self, source: Source, held: Vec<Admitted>, now: Timestamp) -> Vec<Change> {
        let next: BTreeMap<_, _> =
            held.into_iter().map(|admitted| (admitted.instance().id.clone(), admitted)).collect();
        let ids: Vec<InstanceId> = next.keys().cloned().collect();
        let before = self.read_only.sets.insert(source, next).unwrap_or_default();
        let mut changes = Vec::new();
        for id in before.keys().filter(|id| ids.binary_search(id).is_err()) {
            if self.read_only.shown.get(id) == Some(&source) {
                changes.extend(self.remove(id, Reason::Deregistered, now));
                changes.extend(self.unshadow(id, now));
            }
        }
        for id in &ids {
            let registered = self.entries.lease(id.as_str()).is_some_and(Lease::is_ours);
            let earlier = self.read_only.shown.get(id).is_some_and(|shown| *shown < source);
            if !registered && !earlier {
                changes.extend(self.unshadow(id, now));
            }
        }
        if ids.is_empty() {
            self.read_only.sets.remove(&source);
        }
        changes
    }

    /// Shows what the first source holds under an id that nobody has registered.
    pub(super) fn unshadow(&mut self, id: &InstanceId, now: Timestamp) -> Vec<Change> {
        let first =
            self.read_only.sets.iter().find_map(|(source, set)| Some((*source, set.get(id)?.clone())));
        let Some((source, admitted)) = first else { return Vec::new() };
        let mut changes = Vec::new();
        if let Some(held) = self.entries.get(id.as_str()) {
            if held.entry.hash == admitted.hash() {
                self.read_only.shown.insert(id.clone(), source);
                return changes;
            }
            if held.entry.instance.service_name != admitted.instance().service_name {
                changes.extend(self.remove(id, Reason::Deregistered, now));
            }
        }
        let change = Change::Put(std::sync::Arc::clone(admitted.instance()));
        let service_before = self.service_hash(&admitted.instance().service_name);
        let (bytes, ttl) = (admitted.bytes(), admitted.ttl());
        let at = self.insert(admitted, now, now);
        // It does not live here, so it does not die here either.
        self.entries.set_lease(at, Lease::elsewhere(ttl, now));
        self.leases.unfile(at);
        self.read_only.shown.insert(id.clone(), source);
        self.note(id, Action::Added, now);
        self.history.record(Recorded { change: change.clone(), service_before, bytes });
        changes.push(change);
        changes
    }

    /// Copies those instances that registered themselves from the next `count` places, and says where to go on; `None` when
    /// these were the last. An instance keeps its place for as long as it is registered, so between two calls others may
    /// come and go, and no one who stays is missed.
    pub fn copy_registered(&self, from: usize, count: usize, into: &mut Vec<Leased>) -> Option<usize> {
        let (held, next) = self.entries.from(from, count);
        into.extend(held.filter(|held| held.lease.is_ours()).map(|held| held.leased()));
        next
    }

    /// How many instances registered themselves.
    pub fn registered_len(&self) -> usize {
        self.entries.len() - self.read_only.len()
    }

    /// What sources hold beside an equal id of somebody before them. Lists show it, watchers do not: they know an
    /// instance by its id.
    pub fn shadowed(&self) -> impl Iterator<Item = Leased> {
        self.read_only.shadowed().map(|admitted| Leased {
            instance: std::sync::Arc::clone(admitted.instance()),
            renewed_at: Timestamp::default(),
            ttl: admitted.ttl(),
            registered_at: Timestamp::default(),
            extension: None,
        })
    }

    /// Whether the entry of an id came from a source.
    pub fn is_read_only(&self, id: &str) -> bool {
        self.read_only.shows(id)
    }

    /// The entry of an id that may be renewed or removed.
    pub(super) fn writable(&self, id: &str) -> Option<Held<'_>> {
        self.entries.get(id).filter(|held| held.lease.is_ours())
    }
}
