//! The instances of a catalog, found by their ids, and laid out so that a renewal touches three places in memory and no
//! more: the index, a byte of its control word, and the lease. What they mean together is the catalog's.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use registry_api::{ContentHash, Instance};

use super::Leased;
use crate::admitted::{Admitted, Extension};
use crate::lease::Lease;
use crate::timestamp::Timestamp;

/// How many leases are looked for before the first of them is renewed. Finding waits for memory, and the searches wait
/// at the same time; a renewal is a step that lets nothing overtake it.
const FOUND_AT_ONCE_MAX: usize = 64;

/// The place of an instance. It is given to another one once its instance is gone.
pub(super) type At = u32;

/// What is known of one instance beside its lease.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) instance: Arc<Instance>,
    pub(super) hash: ContentHash,
    pub(super) bytes: usize,
    pub(super) extension: Option<Extension>,
    pub(super) registered_at: Timestamp,
}

/// One instance with its lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) at: At,
    pub(super) entry: &'a Entry,
    pub(super) lease: &'a Lease,
}

/// Instances by their ids.
#[derive(Debug, Default)]
pub(super) struct Entries {
    // Clients choose ids, so the hash has a key of its own in every catalog.
    hasher: RandomState,
    index: HashTable<At>,
    // By place. A row outlives its instance until another one takes the place; the index no longer leads to it.
    rows: Vec<Row>,
    entries: Vec<Option<Entry>>,
    free: Vec<At>,
}

/// What a renewal needs: half a cache line, and never on two of them.
#[derive(Debug)]
#[repr(align(32))]
struct Row {
    brief: Brief,
    lease: Lease,
}

const _: () = assert!(size_of::<Row>() == 32);

/// An id that tells itself apart from most others without another look: the whole id up to 16 bytes, as the registry's
/// own are, and the end of a longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Brief([u8; 16]);

impl Brief {
    // Neither is ever a byte of a text in UTF-8.
    const PADDING: u8 = 0xff;
    const LONGER: u8 = 0xfe;

    fn of(id: &str) -> Self {
        let bytes = id.as_bytes();
        if let Ok(whole) = bytes.try_into() {
            return Self(whole);
        }
        let mut brief = [Self::PADDING; 16];
        match bytes.len().checked_sub(brief.len() - 1) {
            Some(end) => {
                brief[0] = Self::LONGER;
                brief[1..].copy_from_slice(&bytes[end..]);
            }
            None => brief[..bytes.len()].copy_from_slice(bytes),
        }
        Self(brief)
    }

    fn is_whole(self) -> bool {
        self.0[0] != Self::LONGER
    }
}

impl Entries {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The place of an id.
    pub(super) fn find(&self, id: &str) -> Option<At> {
        let brief = Brief::of(id);
        let is_it = |at: &At| {
            let place = *at as usize;
            self.rows[place].brief == brief && (brief.is_whole() || self.id(place) == Some(id))
        };
        self.index.find(self.hasher.hash_one(id), is_it).copied()
    }

    /// The instance of an id.
    pub(super) fn get(&self, id: &str) -> Option<Held<'_>> {
        self.find(id).and_then(|at| self.at(at))
    }

    /// The instance at a place.
    pub(super) fn at(&self, at: At) -> Option<Held<'_>> {
        let entry = self.entries.get(at as usize)?.as_ref()?;
        Some(Held { at, entry, lease: &self.rows[at as usize].lease })
    }

    /// The instances at so many places from one on, and the place behind them unless it is the end.
    pub(super) fn from(&self, place: usize, count: usize) -> (impl Iterator<Item = Held<'_>>, Option<usize>) {
        let end = place.saturating_add(count).min(self.entries.len());
        let places = place.min(end)..end;
        let next = (end < self.entries.len()).then_some(end);
        (places.filter_map(|place| self.at(place as At)), next)
    }

    /// The lease of an id.
    pub(super) fn lease(&self, id: &str) -> Option<&Lease> {
        self.find(id).map(|at| self.lease_at(at))
    }

    /// The lease at a place that [`Self::find`] or [`Self::insert`] named.
    pub(super) fn lease_at(&self, at: At) -> &Lease {
        &self.rows[at as usize].lease
    }

    /// The leases of many ids, in the same order.
    pub(super) fn leases<'a, S: AsRef<str>>(&'a self, ids: &'a [S], mut each: impl FnMut(Option<&'a Lease>)) {
        for some in ids.chunks(FOUND_AT_ONCE_MAX) {
            let mut found = [None; FOUND_AT_ONCE_MAX];
            for (found, id) in found.iter_mut().zip(some) {
                *found = self.lease(id.as_ref());
            }
            for lease in &found[..some.len()] {
                each(*lease);
            }
        }
    }

    /// Sets when the instance at a place was registered.
    pub(super) fn registered_again(&mut self, at: At, now: Timestamp) {
        if let Some(Some(entry)) = self.entries.get_mut(at as usize) {
            entry.registered_at = now;
        }
    }

    /// Gives the instance at a place another lease.
    pub(super) fn set_lease(&mut self, at: At, lease: Lease) {
        self.rows[at as usize].lease = lease;
    }

    /// Puts in an instance whose id is not there.
    pub(super) fn insert(&mut self, entry: Entry, lease: Lease) -> At {
        let id = Arc::clone(&entry.instance);
        let id = id.id.as_str();
        let row = Row { brief: Brief::of(id), lease };
        let at = match self.free.pop() {
            Some(at) => {
                self.rows[at as usize] = row;
                self.entries[at as usize] = Some(entry);
                at
            }
            None => {
                self.rows.push(row);
                self.entries.push(Some(entry));
                At::try_from(self.rows.len() - 1).expect("memory ends before four thousand million instances")
            }
        };
        let Self { hasher, entries, .. } = self;
        // Only what is in the index is hashed again, and that has an entry.
        let hash_of = |at: &At| {
            let entry = entries[*at as usize].as_ref();
            hasher.hash_one(entry.map_or("", |entry| entry.instance.id.as_str()))
        };
        self.index.insert_unique(hasher.hash_one(id), at, hash_of);
        at
    }

    /// Takes an instance out, and says where it was.
    pub(super) fn remove(&mut self, id: &str) -> Option<(At, Entry)> {
        let at = self.find(id)?;
        let found = self.index.find_entry(self.hasher.hash_one(id), |place| *place == at);
        found.ok()?.remove();
        let entry = self.entries[at as usize].take()?;
        self.free.push(at);
        Some((at, entry))
    }

    fn id(&self, place: usize) -> Option<&str> {
        self.entries[place].as_ref().map(|entry| entry.instance.id.as_str())
    }
}

impl Held<'_> {
    /// Whether a registration says nothing new.
    pub(super) fn is(&self, admitted: &Admitted) -> bool {
        self.entry.hash == admitted.hash()
            && self.lease.ttl() == admitted.ttl()
            && self.entry.extension.as_ref() == admitted.extension()
    }

    /// As lists and snapshots need it.
    pub(super) fn leased(&self) -> Leased {
        Leased {
            instance: Arc::clone(&self.entry.instance),
            renewed_at: self.lease.renewed_at(),
            ttl: self.lease.ttl(),
            registered_at: self.entry.registered_at,
            extension: self.entry.extension.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn entry(id: &str) -> Entry {
        let instance = json!({"id": id, "service_name": "s", "ttl": 30, "status": "UP",
            "endpoint": {"type": "http", "value": "h:1"}});
        let admitted = Admitted::new(serde_json::from_value(instance).unwrap(), Duration::from_secs(30));
        Entry {
            instance: Arc::clone(admitted.instance()),
            hash: admitted.hash(),
            bytes: admitted.bytes(),
            extension: None,
            registered_at: Timestamp::default(),
        }
    }

    fn lease(millis: u64) -> Lease {
        Lease::begin(Duration::from_secs(30), Timestamp::from_millis(millis))
    }

    #[test]
    fn ids_around_the_length_that_is_held_whole_are_told_apart() {
        let ids = [
            "a",
            "a2",
            "fifteen-letters",
            "sixteen-letters!",
            "seventeen-letters",
            "xeventeen-letters",
            "x-and-a-long-beginning-seventeen-letters",
            "\u{e4}bcdefghijklmno",
            "\u{e4}bcdefghijklmn",
        ];
        let mut entries = Entries::default();
        for (number, id) in ids.iter().enumerate() {
            assert_eq!(entries.find(id), None, "{id}");
            entries.insert(entry(id), lease(number as u64));
        }
        for (number, id) in ids.iter().enumerate() {
            let held = entries.get(id).unwrap();
            assert_eq!(
                (held.entry.instance.id.as_str(), held.lease.renewed_at().as_millis()),
                (*id, number as u64)
            );
        }
        for absent in ["", "A", "fifteen-letterz", "sixteen-letters", "yeventeen-letters", "eventeen-letters"]
        {
            assert_eq!(entries.find(absent), None, "{absent}");
        }
    }

    proptest! {
        /// Whatever comes and goes, each id leads to its own instance, as in a map.
        #[test]
        fn entries_are_a_map(steps in prop::collection::vec((any::<bool>(), 0..40_usize), 0..300)) {
            let id = |number: usize| if number.is_multiple_of(2) {
                format!("{number}")
            } else {
                format!("{number}:of-those-with-a-long-common-end")
            };
            let (mut entries, mut model) = (Entries::default(), BTreeMap::new());
            for (step, (comes, number)) in steps.into_iter().enumerate() {
                let (id, moment) = (id(number), step as u64);
                if !comes {
                    let removed = entries.remove(&id);
                    prop_assert_eq!(removed.map(|(at, _)| at), model.remove(&number).map(|(at, _)| at));
                } else if let Some((at, _)) = model.get(&number) {
                    prop_assert_eq!(entries.find(&id), Some(*at));
                } else {
                    model.insert(number, (entries.insert(entry(&id), lease(moment)), moment));
                }
                prop_assert_eq!(entries.len(), model.len());
            }
            let ids: Vec<_> = (0..40).map(id).collect();
            let expected: Vec<_> = (0..40).map(|number| model.get(&number).map(|(_, moment)| *moment)).collect();
            let mut found = Vec::new();
            entries.leases(&ids, |lease| found.push(lease.map(|lease| lease.renewed_at().as_millis())));
            prop_assert_eq!(found, expected);
            for (number, (at, _)) in &model {
                prop_assert_eq!(entries.at(*at).unwrap().entry.instance.id.as_str(), &ids[*number]);
            }
        }
    }

    #[test]
    fn many_are_found_across_the_pieces() {
        let mut entries = Entries::default();
        let ids: Vec<_> = (0..FOUND_AT_ONCE_MAX * 2 + 7).map(|number| format!("{number}")).collect();
        for id in ids.iter().step_by(2) {
            entries.insert(entry(id), lease(1));
        }
        let mut found = Vec::new();
        entries.leases(&ids, |lease| found.push(lease.is_some()));
        assert!(
            found.len() == ids.len() && found.iter().enumerate().all(|(at, found)| *found == (at % 2 == 0))
        );
    }
}
