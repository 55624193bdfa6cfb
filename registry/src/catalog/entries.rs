//! The instances of a catalog, found by their ids, and laid out so that a renewal touches two places in memory and no more:
//! a line of the index, and the lease. What they mean together is the catalog's.

use std::sync::Arc;

use ahash::RandomState;
use registry_api::{ContentHash, Instance};

use super::Leased;
pub(super) use super::index::At;
use super::index::Index;
use crate::admitted::{Admitted, Extension};
use crate::lease::Lease;
use crate::timestamp::Timestamp;

/// How many leases are looked for before the first of them is renewed. Finding waits for memory, and the searches wait
/// at the same time; a renewal is a step that lets nothing overtake it.
const FOUND_AT_ONCE_MAX: usize = 64;

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
    index: Index,
    // By place. A row outlives its instance until another one takes the place; no id leads to it meanwhile.
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
/// own are, and the end of a longer one. A number, because processors hand those on in registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Brief(u128);

impl Brief {
    // None of these is ever a byte of a text in UTF-8.
    const PADDING: u8 = 0xff;
    const LONGER: u8 = 0xfe;
    /// That of a place without an instance.
    const NOBODY: Self = Self(0xfd);

    #[inline]
    fn of(id: &str) -> Self {
        match id.as_bytes().try_into() {
            Ok(whole) => Self(u128::from_le_bytes(whole)),
            Err(_) => Self::of_another_length(id.as_bytes()),
        }
    }

    #[inline(never)]
    fn of_another_length(id: &[u8]) -> Self {
        let mut brief = [Self::PADDING; 16];
        match id.len().checked_sub(brief.len() - 1) {
            Some(end) => {
                brief[0] = Self::LONGER;
                brief[1..].copy_from_slice(&id[end..]);
            }
            None => brief[..id.len()].copy_from_slice(id),
        }
        Self(u128::from_le_bytes(brief))
    }

    fn is_whole(self) -> bool {
        self.0 as u8 != Self::LONGER
    }
}

/// What an id is looked for by.
#[derive(Debug, Clone, Copy, Default)]
struct Key {
    hash: u64,
    brief: Brief,
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
    #[inline]
    pub(super) fn find(&self, id: &str) -> Option<At> {
        let key = self.key(id);
        let guess = self.index.guess(key.hash);
        self.is_it(guess, key.brief, id).then_some(guess).or_else(|| self.search(id))
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
    #[inline]
    pub(super) fn lease(&self, id: &str) -> Option<&Lease> {
        self.find(id).map(|at| self.lease_at(at))
    }

    /// The lease at a place that [`Self::find`] or [`Self::insert`] named.
    #[inline]
    pub(super) fn lease_at(&self, at: At) -> &Lease {
        &self.rows[at as usize].lease
    }

    /// The leases of many ids, in the same order.
    pub(super) fn leases<'a, S: AsRef<str>>(&'a self, ids: &'a [S], mut each: impl FnMut(Option<&'a Lease>)) {
        for some in ids.chunks(FOUND_AT_ONCE_MAX) {
            let mut keys = [Key::default(); FOUND_AT_ONCE_MAX];
            for (key, id) in keys.iter_mut().zip(some) {
                *key = self.key(id.as_ref());
            }
            let mut guesses = [0; FOUND_AT_ONCE_MAX];
            for (guess, key) in guesses.iter_mut().zip(&keys[..some.len()]) {
                *guess = self.index.guess(key.hash);
            }
            let mut found = [None; FOUND_AT_ONCE_MAX];
            for (((found, guess), key), id) in found.iter_mut().zip(guesses).zip(&keys).zip(some) {
                let id = id.as_ref();
                let at = self.is_it(guess, key.brief, id).then_some(guess).or_else(|| self.search(id));
                *found = at.map(|at| self.lease_at(at));
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
        let Key { hash, brief } = self.key(id);
        let row = Row { brief, lease };
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
        self.index.insert(hash, at);
        at
    }

    /// Takes an instance out, and says where it was.
    pub(super) fn remove(&mut self, id: &str) -> Option<(At, Entry)> {
        let at = self.find(id)?;
        self.index.remove(self.key(id).hash, at);
        self.rows[at as usize].brief = Brief::NOBODY;
        let entry = self.entries[at as usize].take()?;
        self.free.push(at);
        Some((at, entry))
    }

    #[inline]
    fn key(&self, id: &str) -> Key {
        let brief = Brief::of(id);
        let hash = if brief.is_whole() { self.hasher.hash_one(brief.0) } else { self.hash_of_longer(id) };
        Key { hash, brief }
    }

    // Apart, so that what is left for most ids is short enough to be part of every search.
    #[inline(never)]
    fn hash_of_longer(&self, id: &str) -> u64 {
        self.hasher.hash_one(id)
    }

    /// Whether an id is that of a place, whatever led there.
    #[inline]
    fn is_it(&self, at: At, brief: Brief, id: &str) -> bool {
        let row = self.rows.get(at as usize);
        row.is_some_and(|row| row.brief == brief) && (brief.is_whole() || self.id(at) == Some(id))
    }

    /// Where an id is of which the first guess is wrong: it spilled over, or is not there.
    #[cold]
    fn search(&self, id: &str) -> Option<At> {
        let Key { hash, brief } = self.key(id);
        self.index.find(hash, |at| self.is_it(at, brief, id))
    }

    fn id(&self, at: At) -> Option<&str> {
        self.entries[at as usize].as_ref().map(|entry| entry.instance.id.as_str())
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
    fn a_place_that_was_left_is_nobodys() {
        for id in ["gone", "sixteen-letters!", "one-of-those-that-are-longer"] {
            let mut entries = Entries::default();
            let at = entries.insert(entry(id), lease(1));
            assert_eq!(entries.remove(id).map(|(at, _)| at), Some(at));
            assert_eq!(entries.find(id), None, "{id}");
            let mut found = Vec::new();
            entries.leases(&[id], |lease| found.push(lease.is_some()));
            assert_eq!(found, [false], "{id}");
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
