//! Which of many rules may hold for a request, told from one header field without asking each of them. It never passes
//! over a rule that holds; one that it leaves may still fail.

use std::collections::{BTreeMap, HashMap};

use crate::bigrams::{self, ANY, Bits, NOTHING};
use crate::matching::{Fields, Matcher, Values};

/// From so many rules on it pays.
const RULES_WORTH_IT: usize = 8;
/// How many rules one word tells apart.
const STRETCH: usize = 64;

/// The rules of one service, in their order.
pub(crate) struct Sieve {
    /// The field that most of them ask for.
    field: usize,
    stretches: Box<[Stretch]>,
}

/// Some rules that follow one another, by what each of them needs of the field's value: of the pairs of its text the two
/// that the fewest others need as well.
struct Stretch {
    /// The rarest of each.
    needed: Bits,
    /// For every bit where its mask is; counting the bits before it takes longer.
    places: Box<[u8; BITS]>,
    /// The rules that need a bit of `needed`, in its order.
    masks: Box<[u64]>,
    /// The second of each rule.
    seconds: Box<[u16]>,
}

const BITS: usize = ANY as usize + 1;

impl Sieve {
    /// `None` where asking each rule costs less.
    pub(crate) fn of<'m>(matchers: impl Iterator<Item = &'m Matcher>, fields: &Fields) -> Option<Self> {
        let field = fields.busiest()?;
        let needs: Vec<Vec<u16>> = matchers.map(|matcher| matcher.needs(field).collect()).collect();
        if needs.len() < RULES_WORTH_IT {
            return None;
        }
        let mut wanted: HashMap<u16, usize> = HashMap::new();
        needs.iter().flatten().for_each(|bit| *wanted.entry(*bit).or_default() += 1);
        let rarest = |bits: &[u16], but: u16| {
            let others = bits.iter().copied().filter(|bit| *bit != but);
            others.min_by_key(|bit| (wanted[bit], *bit)).unwrap_or(ANY)
        };
        let two = |bits: &Vec<u16>| {
            let first = rarest(bits, ANY);
            [first, rarest(bits, first)]
        };
        let chosen: Vec<[u16; 2]> = needs.iter().map(two).collect();
        Some(Self { field, stretches: chosen.chunks(STRETCH).map(Stretch::of).collect() })
    }
}

impl Stretch {
    /// `chosen`: what each rule needs.
    fn of(chosen: &[[u16; 2]]) -> Self {
        let mut masks: BTreeMap<u16, u64> = BTreeMap::new();
        for (at, [first, _]) in chosen.iter().enumerate() {
            *masks.entry(*first).or_default() |= 1 << at;
        }
        let (mut needed, mut places) = ([0; NOTHING.len()], Box::new([0; BITS]));
        for (place, bit) in (0..).zip(masks.keys()) {
            bigrams::set(&mut needed, *bit);
            places[usize::from(*bit)] = place;
        }
        let seconds = chosen.iter().map(|[_, second]| *second).collect();
        Self { needed, places, masks: masks.into_values().collect(), seconds }
    }

    /// The rules that a value with these bits leaves; the lowest bit is the first of them.
    fn left(&self, bits: &Bits) -> u64 {
        let mut left = 0;
        for (word, (needed, there)) in self.needed.iter().zip(bits).enumerate() {
            let mut hits = needed & there;
            while hits != 0 {
                let place = self.places[word * 64 + hits.trailing_zeros() as usize];
                left |= self.masks[usize::from(place)];
                hits &= hits - 1;
            }
        }
        // Few are left, so each is looked at by itself.
        let mut rest = left;
        while rest != 0 {
            let second = self.seconds[rest.trailing_zeros() as usize];
            if !bigrams::has(bits, second) {
                left &= !(rest & rest.wrapping_neg());
            }
            rest &= rest - 1;
        }
        left
    }
}

/// The place of the first of `count` rules that `holds` says yes to; only those that `sieve` leaves are asked.
pub(crate) fn first<'r>(
    count: usize,
    sieve: Option<&Sieve>,
    values: &mut Values<'r>,
    mut holds: impl FnMut(usize, &mut Values<'r>) -> bool,
) -> Option<u32> {
    let Some(sieve) = sieve else { return (0..count).find(|at| holds(*at, values)).map(|at| at as u32) };
    for (stretch, rules) in sieve.stretches.iter().enumerate() {
        let mut left = rules.left(values.bits(sieve.field));
        while left != 0 {
            let at = stretch * STRETCH + left.trailing_zeros() as usize;
            if holds(at, values) {
                return Some(at as u32);
            }
            left &= left - 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rule_is_left_exactly_when_both_its_bits_are_there(
            chosen in prop::collection::vec([0..=ANY, 0..=ANY], 1..=STRETCH),
            there in prop::collection::vec(0..ANY, 0..2000),
        ) {
            let mut bits = NOTHING;
            there.iter().for_each(|bit| bigrams::set(&mut bits, *bit));
            let left = Stretch::of(&chosen).left(&bits);
            let is_there = |bit: &u16| *bit == ANY || there.contains(bit);
            for (at, two) in chosen.iter().enumerate() {
                prop_assert_eq!(left >> at & 1 == 1, two.iter().all(is_there), "{} of {:?}", at, two);
            }
            prop_assert_eq!(left.checked_shr(chosen.len() as u32).unwrap_or(0), 0);
        }
    }
}
