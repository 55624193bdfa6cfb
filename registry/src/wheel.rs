//! A hashed timing wheel: which leases are worth a look now. It decides nothing: a key that comes up is
//! examined by the owner and filed again if its lease was renewed meanwhile.

use crate::timestamp::Timestamp;

/// The width of a slot. A sweep looks at whole slots, so this bounds how often a key comes up too early.
const SLOT_MS: u64 = 100;
/// One revolution is 51.2 s; a key with a later deadline comes up once per revolution until then.
const SLOTS: u64 = 512;

/// Where a key lies, for taking it out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Filed {
    slot: u16,
    at: u32,
}

const NOWHERE: Filed = Filed { slot: u16::MAX, at: 0 };

/// Small numbers by the time they should be looked at. Every key lies in one slot at most, so the wheel is never
/// larger than what it watches.
#[derive(Debug, Default)]
pub struct Wheel {
    // Empty until the first key: a namespace that only reads needs no slots.
    slots: Vec<Vec<u32>>,
    // By key, as far as the largest that was ever filed.
    filed: Vec<Filed>,
    // The last tick that was swept. It is swept again next time, since only its beginning had passed.
    swept: u64,
    len: usize,
}

impl Wheel {
    /// How many keys it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Files a key, which comes up in the first sweep after `deadline` and at no other time it was filed for.
    pub fn file(&mut self, key: u32, deadline: Timestamp) {
        self.unfile(key);
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS as usize, Vec::new);
        }
        if self.filed.len() <= key as usize {
            self.filed.resize(key as usize + 1, NOWHERE);
        }
        // Behind the sweep a key would wait a whole revolution.
        let tick = (deadline.as_millis() / SLOT_MS).max(self.swept);
        let slot = index(tick);
        self.filed[key as usize] = Filed { slot: slot as u16, at: self.slots[slot].len() as u32 };
        self.slots[slot].push(key);
        self.len += 1;
    }

    /// Takes a key out, if it is in.
    pub fn unfile(&mut self, key: u32) {
        let Some(filed) = self.filed.get_mut(key as usize) else { return };
        let Filed { slot, at } = std::mem::replace(filed, NOWHERE);
        let Some(keys) = self.slots.get_mut(slot as usize) else { return };
        keys.swap_remove(at as usize);
        if let Some(moved) = keys.get(at as usize) {
            self.filed[*moved as usize].at = at;
        }
        self.len -= 1;
    }

    /// Takes out every key whose slot has begun by `now`, in no particular order. Their deadlines may still
    /// be ahead: later in the slot, in a later revolution, or moved by a renewal.
    pub fn due(&mut self, now: Timestamp) -> Vec<u32> {
        let tick = (now.as_millis() / SLOT_MS).max(self.swept);
        let first = self.swept.max((tick + 1).saturating_sub(SLOTS));
        self.swept = tick;
        if self.len == 0 {
            return Vec::new();
        }
        let mut due = Vec::new();
        for tick in first..=tick {
            due.append(&mut std::mem::take(&mut self.slots[index(tick)]));
        }
        for key in &due {
            self.filed[*key as usize] = NOWHERE;
        }
        self.len -= due.len();
        due
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
        wheel.file(7, at(30_050));
        assert_eq!(wheel.due(at(29_999)), [0; 0]);
        assert_eq!(wheel.due(at(30_051)), [7]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_deadline_behind_the_sweep_comes_up_next_time() {
        let mut wheel = Wheel::default();
        assert!(wheel.due(at(1_000_000)).is_empty());
        wheel.file(3, at(5));
        assert_eq!(wheel.due(at(1_000_001)), [3]);
    }

    #[test]
    fn a_pause_longer_than_a_revolution_skips_no_slot() {
        let mut wheel = Wheel::default();
        for tick in 0..512 {
            wheel.file(tick, at(u64::from(tick) * 100));
        }
        assert_eq!(wheel.len(), 512);
        assert_eq!(wheel.due(at(10_000_000)).len(), 512);
    }

    #[test]
    fn a_key_taken_out_does_not_come_up_and_the_others_of_its_slot_do() {
        let mut wheel = Wheel::default();
        for key in 0..4 {
            wheel.file(key, at(100));
        }
        for taken in [1, 1, 3, 99] {
            wheel.unfile(taken);
        }
        assert_eq!(wheel.len(), 2);
        let mut due = wheel.due(at(200));
        due.sort_unstable();
        assert_eq!(due, [0, 2]);
    }

    #[test]
    fn a_key_that_is_filed_again_comes_up_once() {
        let mut wheel = Wheel::default();
        wheel.file(1, at(100));
        wheel.file(2, at(100));
        wheel.file(1, at(900));
        assert_eq!((wheel.len(), wheel.due(at(200))), (2, vec![2]));
        assert_eq!((wheel.due(at(1_000)), wheel.len()), (vec![1], 0));
    }
}
