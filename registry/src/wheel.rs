//! A hashed timing wheel: which leases are worth a look now. It decides nothing: a key that comes up is
//! examined by the owner and filed again if its lease was renewed meanwhile.

use std::collections::HashSet;
use std::hash::Hash;

use crate::timestamp::Timestamp;

/// The width of a slot. A sweep looks at whole slots, so this bounds how often a key comes up too early.
const SLOT_MS: u64 = 100;
/// One revolution is 51.2 s; a key with a later deadline comes up once per revolution until then.
const SLOTS: u64 = 512;

/// Where a key lies, for taking it out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// Keys by the time they should be looked at. Every key lies in one slot at most, so the wheel is never
/// larger than what it watches.
#[derive(Debug)]
pub struct Wheel<K> {
    // Empty until the first key: a namespace that only reads needs no slots.
    slots: Vec<HashSet<K>>,
    // The last tick that was swept. It is swept again next time, since only its beginning had passed.
    swept: u64,
    len: usize,
}

impl<K> Default for Wheel<K> {
    fn default() -> Self {
        Self { slots: Vec::new(), swept: 0, len: 0 }
    }
}

impl<K: Hash + Eq> Wheel<K> {
    /// How many keys it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Files a key that is in no slot now; it comes up in the first sweep after `deadline`.
    pub fn file(&mut self, key: K, deadline: Timestamp) -> Slot {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS as usize, HashSet::new);
        }
        // Behind the sweep a key would wait a whole revolution.
        let tick = (deadline.as_millis() / SLOT_MS).max(self.swept);
        let slot = index(tick);
        self.len += usize::from(self.slots[slot].insert(key));
        Slot(slot)
    }

    /// Takes a key out of the slot it was filed in.
    pub fn unfile(&mut self, key: &K, slot: Slot) {
        if let Some(keys) = self.slots.get_mut(slot.0) {
            self.len -= usize::from(keys.remove(key));
        }
    }

    /// Takes out every key whose slot has begun by `now`, in no particular order. Their deadlines may still
    /// be ahead: later in the slot, in a later revolution, or moved by a renewal.
    pub fn due(&mut self, now: Timestamp) -> Vec<K> {
        let tick = (now.as_millis() / SLOT_MS).max(self.swept);
        let first = self.swept.max((tick + 1).saturating_sub(SLOTS));
        self.swept = tick;
        if self.len == 0 {
            return Vec::new();
        }
        let mut keys = Vec::new();
        for tick in first..=tick {
            keys.extend(std::mem::take(&mut self.slots[index(tick)]));
        }
        self.len -= keys.len();
        keys
    }
}

fn index(tick: u64) -> usize {
    (tick % SLOTS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_key_comes_up_in_the_slot_of_its_deadline_and_not_before() {
        let mut wheel = Wheel::default();
        wheel.file("a", at(30_050));
        assert_eq!(wheel.due(at(29_999)), [""; 0]);
        assert_eq!(wheel.due(at(30_051)), ["a"]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_deadline_behind_the_sweep_comes_up_next_time() {
        let mut wheel = Wheel::default();
        assert!(wheel.due(at(1_000_000)).is_empty());
        wheel.file("late", at(5));
        assert_eq!(wheel.due(at(1_000_001)), ["late"]);
    }

    #[test]
    fn a_pause_longer_than_a_revolution_skips_no_slot() {
        let mut wheel = Wheel::default();
        for millis in (0..51_200).step_by(100) {
            wheel.file(millis, at(millis));
        }
        assert_eq!(wheel.len(), 512);
        assert_eq!(wheel.due(at(10_000_000)).len(), 512);
    }

    #[test]
    fn a_key_taken_out_does_not_come_up() {
        let mut wheel = Wheel::default();
        let slot = wheel.file("a", at(100));
        wheel.file("b", at(100));
        wheel.unfile(&"a", slot);
        wheel.unfile(&"a", slot);
        assert_eq!(wheel.len(), 1);
        assert_eq!(wheel.due(at(200)), ["b"]);
    }
}
