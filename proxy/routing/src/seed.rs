//! A request's chance: one seed, and an independent draw for every purpose and rule. The numbers are a
//! function of the request id and the rule id alone, so the same request meets the same fate on every proxy.

use control_api::{Draw, RuleId};

/// The chance of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u64);

/// What a draw is for. The number tells apart several draws of one kind: the place of an action in its
/// rule, the number of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The choice among weighted backends.
    Split,
    /// Whether an action of an action rule happens.
    Action(u8),
    /// How long a delay of an action rule is. Two numbers, since a bell curve needs two.
    Length(u8, Half),
    /// The choice among instances, per attempt.
    Pick(u8),
    /// Whether a copy is sent.
    Mirror,
    /// The jitter before an attempt.
    Backoff(u8),
}

/// Which of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Half {
    First,
    Second,
}

impl Seed {
    /// The seed of a request id. Part of the contract between proxies: never change what it computes.
    pub fn of(request_id: &[u8]) -> Self {
        Self(stable_hash(request_id))
    }

    /// One draw. `key` is that of the rule ([`rule_key`]) or the backend concerned
    /// ([`Backend::key`](crate::Backend::key)), 0 where there is none; different purposes and different keys
    /// give independent numbers.
    pub fn draw(self, purpose: Purpose, key: u64) -> Draw {
        let purpose = match purpose {
            Purpose::Split => 1 << 8,
            Purpose::Action(place) => 2 << 8 | u64::from(place),
            Purpose::Pick(attempt) => 3 << 8 | u64::from(attempt),
            Purpose::Backoff(attempt) => 4 << 8 | u64::from(attempt),
            Purpose::Mirror => 7 << 8,
            Purpose::Length(place, Half::First) => 5 << 8 | u64::from(place),
            Purpose::Length(place, Half::Second) => 6 << 8 | u64::from(place),
        };
        Draw::from_bits(mix(self.0 ^ mix(key ^ mix(purpose))))
    }
}

/// The key of a rule for [`Seed::draw`]: equal ids give equal keys on every proxy.
pub fn rule_key(id: &RuleId) -> u64 {
    stable_hash(id.as_str().as_bytes())
}

/// A hash that is ours, so that no dependency's update can change a request's fate.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mut state = mix(bytes.len() as u64);
    for word in &mut words {
        let word: [u8; 8] = word.try_into().expect("chunks_exact gives eight bytes");
        state = mix(state ^ u64::from_le_bytes(word));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(state ^ u64::from_le_bytes(last))
}

/// The output step of SplitMix64: every bit of the input moves every bit of the output.
pub(crate) fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_has_the_same_fate_in_every_release() {
        let fate =
            |id: &str| Seed::of(id.as_bytes()).draw(Purpose::Split, rule_key(&RuleId::new("r").unwrap()));
        let known = [("", 0.530_232), ("a", 0.610_772), ("6fa459ea-ee8a-3ca4-894e-db77e160355e", 0.144_842)];
        for (id, draw) in known {
            assert_eq!(format!("{:.6}", fate(id).get()), format!("{draw:.6}"), "{id}");
        }
    }

    #[test]
    fn every_purpose_and_every_rule_draws_its_own_number() {
        let seed = Seed::of(b"id");
        let lengths = [Half::First, Half::Second].map(|half| Purpose::Length(0, half));
        let mut draws: Vec<_> = [Purpose::Split, Purpose::Action(0), Purpose::Action(1), Purpose::Pick(0)]
            .into_iter()
            .chain(lengths)
            .chain([Purpose::Mirror])
            .chain([Purpose::Pick(1), Purpose::Backoff(0)])
            .flat_map(|purpose| [0, 1].map(|key| seed.draw(purpose, key).get().to_bits()))
            .collect();
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), 18);
    }

    #[test]
    fn trailing_zeroes_and_lengths_count() {
        assert_ne!(Seed::of(b"a"), Seed::of(b"a\0"));
        assert_ne!(Seed::of(b"12345678"), Seed::of(b"12345678\0"));
        assert_ne!(Seed::of(b""), Seed::of(b"\0\0\0\0\0\0\0\0"));
    }
}
