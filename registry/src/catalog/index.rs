//! Where the instances of a catalog are, by the hashes of their ids. One look touches one line of the cache, where a table
//! of tags beside one of values touches two. It knows no ids: which of the places under a hash is meant is told by the caller.

/// The place of an instance. It is given to another one once its instance is gone.
pub(super) type At = u32;

/// How many places share a line of the cache.
const WIDTH: usize = 8;
/// So many of these are taken before there are twice as many groups: few spill over to the next one until then.
const TAKEN_MAX: usize = 6;

/// Places by hashes. What finds its group full goes to the next one that is not, so all groups between are full.
#[derive(Debug, Default)]
pub(super) struct Index {
    // As many as a power of two, or none.
    groups: Vec<Group>,
    len: usize,
}

/// The upper half of a hash, never zero. The group is told by its upper bits, so that groups can be doubled without the
/// hash, and in the order in which they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag(u32);

/// A tag of zero is a free slot.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Group {
    tags: [u32; WIDTH],
    places: [At; WIDTH],
}

const _: () = assert!(size_of::<Group>() == 64);

impl Tag {
    fn of(hash: u64) -> Self {
        Self((hash >> 32) as u32 | 1)
    }

    /// The first of so many groups in which to look.
    fn home(self, groups: usize) -> usize {
        ((u64::from(self.0) * groups as u64) >> 32) as usize
    }
}

impl Group {
    /// A bit in the byte of each slot with this tag, which is what processors compare at once.
    fn slots_of(&self, tag: u32) -> u64 {
        u64::from_le_bytes(self.tags.map(|other| u8::from(other == tag)))
    }

    fn is_full(&self) -> bool {
        self.slots_of(0) == 0
    }
}

/// The slots of which the bits are set.
fn slots(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let slot = (bits != 0).then(|| bits.trailing_zeros() as usize / 8);
        bits &= bits.wrapping_sub(1);
        slot
    })
}

impl Index {
    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The place under a hash that is the one meant.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(At) -> bool) -> Option<At> {
        let (group, slot) = self.slot(hash, is_it)?;
        Some(self.groups[group].places[slot])
    }

    /// What is most likely under a hash, for a caller who finds out if it is not. It takes so few steps, and none of them
    /// depends on what is found, that many of these looks wait for memory at the same time.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> At {
        let tag = Tag::of(hash);
        let Some(group) = self.groups.get(tag.home(self.groups.len())) else { return 0 };
        let under_tag = |(other, at): (&u32, &At)| if *other == tag.0 { *at } else { 0 };
        // Where two have the same tag, which is rare, it may be neither.
        group.tags.iter().zip(&group.places).map(under_tag).fold(0, |guess, at| guess | at)
    }

    /// Puts a place in that is not there.
    pub(super) fn insert(&mut self, hash: u64, at: At) {
        if self.len >= self.groups.len() * TAKEN_MAX {
            self.grow();
        }
        self.put(Tag::of(hash), at);
        self.len += 1;
    }

    /// Takes a place out, if it is there.
    pub(super) fn remove(&mut self, hash: u64, at: At) {
        let Some((mut group, mut slot)) = self.slot(hash, |other| other == at) else { return };
        self.len -= 1;
        // A full group may have sent others on; one of these comes back, and leaves a slot behind itself.
        loop {
            let spilled = self.groups[group].is_full().then(|| self.spilled(group)).flatten();
            let Some((from_group, from_slot)) = spilled else { break };
            let from = self.groups[from_group];
            self.set(group, slot, from.tags[from_slot], from.places[from_slot]);
            (group, slot) = (from_group, from_slot);
        }
        self.set(group, slot, 0, 0);
    }

    fn slot(&self, hash: u64, is_it: impl Fn(At) -> bool) -> Option<(usize, usize)> {
        let tag = Tag::of(hash);
        let mut at = tag.home(self.groups.len());
        loop {
            let group = self.groups.get(at)?;
            if let Some(slot) = slots(group.slots_of(tag.0)).find(|slot| is_it(group.places[*slot])) {
                return Some((at, slot));
            }
            if !group.is_full() {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Where something lies that had to pass this group, which is full.
    fn spilled(&self, passed: usize) -> Option<(usize, usize)> {
        let mut at = self.after(passed);
        loop {
            let group = &self.groups[at];
            let has_passed = |slot: &usize| {
                let home = Tag(group.tags[*slot]).home(self.groups.len());
                self.distance(home, at) >= self.distance(passed, at)
            };
            let taken = (0..WIDTH).filter(|slot| group.tags[*slot] != 0);
            if let Some(slot) = taken.clone().find(has_passed) {
                return Some((at, slot));
            }
            if !group.is_full() {
                return None;
            }
            at = self.after(at);
        }
    }

    fn put(&mut self, tag: Tag, at: At) {
        let mut group = tag.home(self.groups.len());
        // There is one: not all slots are ever taken.
        let slot = loop {
            match slots(self.groups[group].slots_of(0)).next() {
                Some(slot) => break slot,
                None => group = self.after(group),
            }
        };
        self.set(group, slot, tag.0, at);
    }

    fn set(&mut self, group: usize, slot: usize, tag: u32, at: At) {
        self.groups[group].tags[slot] = tag;
        self.groups[group].places[slot] = at;
    }

    fn grow(&mut self) {
        let groups = vec![Group::default(); (self.groups.len() * 2).max(1)];
        for group in std::mem::replace(&mut self.groups, groups) {
            for (tag, at) in group.tags.into_iter().zip(group.places).filter(|(tag, _)| *tag != 0) {
                self.put(Tag(tag), at);
            }
        }
    }

    fn after(&self, group: usize) -> usize {
        (group + 1) & (self.groups.len() - 1)
    }

    /// How many steps it is from one group to another, behind the last of which the first comes again.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.groups.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Hashes of which many share a group, also the last one, and some are equal.
    fn hash() -> impl Strategy<Value = u64> {
        (0..6_u64, 0..3_u64).prop_map(|(upper, lower)| (upper.wrapping_mul(0x3333_3333) << 32) | lower)
    }

    proptest! {
        /// Every place is found by its hash, and no other one, whatever was taken out before.
        #[test]
        fn an_index_is_a_map(steps in prop::collection::vec((any::<bool>(), hash(), 0..30_u32), 0..300)) {
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for (comes, hash, at) in steps {
                match (comes, model.get(&at).copied()) {
                    (true, None) => {
                        index.insert(hash, at);
                        model.insert(at, hash);
                    }
                    (false, Some(known)) => {
                        index.remove(known, at);
                        model.remove(&at);
                    }
                    (true, Some(_)) => {}
                    (false, None) => index.remove(hash, at),
                }
                prop_assert_eq!((index.len(), index.is_empty()), (model.len(), model.is_empty()));
                for at in 0..30 {
                    let known = model.get(&at).copied();
                    prop_assert_eq!(index.find(known.unwrap_or(hash), |other| other == at), known.map(|_| at));
                }
            }
        }
    }

    #[test]
    fn places_of_one_hash_spill_over_and_are_all_found() {
        let mut index = Index::default();
        for at in 0..100 {
            index.insert(u64::MAX, at);
        }
        assert!((0..100).all(|at| index.find(u64::MAX, |other| other == at) == Some(at)));
        for at in (0..100).step_by(3) {
            index.remove(u64::MAX, at);
        }
        let left: Vec<_> =
            (0..100).filter(|at| index.find(u64::MAX, |other| other == *at).is_some()).collect();
        assert_eq!(left, (0..100).filter(|at| at % 3 != 0).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_guess_is_right_for_all_but_those_that_spilled_over() {
        let mut index = Index::default();
        assert_eq!(index.guess(7), 0);
        let hash = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for at in 0..1_000 {
            index.insert(hash(at), at as At);
        }
        let right = (0..1_000).filter(|at| index.guess(hash(*at)) == *at as At).count();
        assert!(right >= 950, "{right} of 1,000");
    }
}
