//! The choice among weighted backends: exact fractions of the draw space. It rolls no dice.

use control_api::Draw;

use crate::seed::mix;

/// Where each backend's part of the draws ends.
pub(crate) struct Split(Box<[f64]>);

impl Split {
    /// From the exact share of each backend, which sum to 1 up to rounding.
    pub(crate) fn new(shares: &[f64]) -> Self {
        let mut end = 0.0;
        let mut ends: Box<[f64]> = shares
            .iter()
            .map(|share| {
                end += share;
                end
            })
            .collect();
        // Rounding must neither lose a draw nor give one to a backend without a share.
        if let Some(last) = shares.iter().rposition(|share| *share > 0.0) {
            ends[last..].fill(1.0);
        }
        Self(ends)
    }

    /// The place of the backend that a hash keeps: each gets its share of all hashes, and a share that changes a
    /// little moves as few of them. `keys` are those of the backends.
    pub(crate) fn keep(&self, hash: u64, keys: impl Iterator<Item = u64>) -> u32 {
        // Each backend draws a time to wait that is the shorter the larger its share is; who is first has it
        // with a probability of its share, and no other backend's time depends on that.
        let begins = std::iter::once(&0.0).chain(&self.0);
        let times = self.0.iter().zip(begins).zip(keys).map(|((end, begin), key)| {
            let draw = Draw::from_bits(mix(hash ^ mix(key)));
            -(1.0 - draw.get()).ln() / (end - begin)
        });
        let first = (0..).zip(times).filter(|(_, time)| time.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1));
        first.map_or(0, |(place, _)| place)
    }

    /// The place of the backend whose part holds the draw.
    pub(crate) fn choose(&self, draw: Draw) -> u32 {
        let place = self.0.iter().position(|end| draw.get() < *end);
        place.unwrap_or(self.0.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(shares: &[f64], draws: u32) -> Vec<usize> {
        let split = Split::new(shares);
        let mut counts = vec![0; shares.len()];
        Draw::evenly_spaced(draws).for_each(|draw| counts[split.choose(draw) as usize] += 1);
        counts
    }

    #[test]
    fn every_backend_gets_exactly_its_share() {
        assert_eq!(counts(&[0.25, 0.75], 1000), [250, 750]);
        assert_eq!(counts(&[1.0 / 3.0; 3], 999), [333, 333, 333]);
        assert_eq!(counts(&[0.29, 0.71], 100), [29, 71]);
        assert_eq!(counts(&[0.1; 10], 1000), [100; 10]);
        assert_eq!(counts(&[1.0], 7), [7]);
    }

    #[test]
    fn a_backend_without_a_share_gets_nothing_wherever_it_stands() {
        assert_eq!(counts(&[0.0, 0.7, 0.3, 0.0], 100), [0, 70, 30, 0]);
        // Ten tenths add up to a little less than one: the highest draw is beyond them.
        let mut shares = [0.1; 11];
        shares[10] = 0.0;
        assert_eq!(Split::new(&shares).choose(Draw::from_bits(u64::MAX)), 9);
    }

    #[test]
    fn a_hash_keeps_its_backend_while_shares_change_a_little() {
        let kept = |shares: &[f64]| -> Vec<u32> {
            let split = Split::new(shares);
            (0..20_000).map(|number| split.keep(mix(number), [11, 22, 33].into_iter())).collect()
        };
        let (before, after) = (kept(&[0.10, 0.60, 0.30]), kept(&[0.12, 0.58, 0.30]));
        for (place, share) in [(0, 0.10), (1, 0.60), (2, 0.30)] {
            let part = before.iter().filter(|kept| **kept == place).count() as f64 / 20_000.0;
            assert!((part - share).abs() < 0.02, "{place} keeps {part}");
        }
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        // Two of a hundred must move; a draw of its own for every share would move twice that.
        assert!((200..700).contains(&moved), "{moved} of 20000 moved");
        assert!(!kept(&[0.0, 0.5, 0.5]).contains(&0), "without a share there is nothing to keep");
    }

    proptest! {
        #[test]
        fn whatever_the_weights_are_the_draws_are_divided_exactly(
            parts in prop::collection::vec(0..100_u32, 1..8).prop_filter("somebody", |parts| parts.iter().sum::<u32>() > 0),
        ) {
            let sum: u32 = parts.iter().sum();
            let shares: Vec<_> = parts.iter().map(|part| f64::from(*part) / f64::from(sum)).collect();
            let expected: Vec<_> = parts.iter().map(|part| *part as usize).collect();
            prop_assert_eq!(counts(&shares, sum), expected);
        }
    }
}
