//! Which pairs of neighbouring bytes a header value holds, so that a hundred patterns over one header cost
//! little more than one. It never says no to a value that holds the text; it may say yes to one that does not.

use crate::pattern::is_dotted;

/// The pairs of one value, as a small Bloom filter; in the word behind it [`ANY`] alone is set.
pub(crate) struct Bigrams {
    bits: Bits,
    is_dotted: bool,
}

/// What a text needs of a value's pairs.
pub(crate) struct Needle(Box<[u16]>);

/// A set of pairs, and [`ANY`].
pub(crate) type Bits = [u64; WORDS + 1];

const WORDS: usize = 16;
const BITS: u32 = (WORDS as u32) * 64;
/// A bit that every value has, whatever its pairs are.
pub(crate) const ANY: u16 = BITS as u16;
/// The bits of a value without pairs, or of none.
pub(crate) const NOTHING: Bits = {
    let mut bits = [0; WORDS + 1];
    bits[WORDS] = 1;
    bits
};
/// The most pairs of a text that are looked at.
const PAIRS_MAX: usize = 12;

impl Bigrams {
    pub(crate) fn of(value: &[u8]) -> Self {
        let mut bits = NOTHING;
        for pair in value.windows(2) {
            set(&mut bits, bit(pair[0], pair[1]));
        }
        Self { bits, is_dotted: is_dotted(value) }
    }

    /// The bits that it has.
    pub(crate) fn bits(&self) -> &Bits {
        &self.bits
    }

    /// Whether a dot stands for each byte of the value.
    pub(crate) fn is_dotted(&self) -> bool {
        self.is_dotted
    }

    /// False only if the value surely does not contain the needle's text.
    pub(crate) fn may_contain(&self, needle: &Needle) -> bool {
        needle.0.iter().all(|bit| has(&self.bits, *bit))
    }
}

impl Needle {
    /// The bits of its pairs.
    pub(crate) fn bits(&self) -> &[u16] {
        &self.0
    }

    /// The last pairs of the text: what differs between `user=jason` and `user=shriram` comes late.
    pub(crate) fn of(text: &[u8]) -> Self {
        Self(text.windows(2).rev().take(PAIRS_MAX).map(|pair| bit(pair[0], pair[1])).collect())
    }
}

/// Whether the bit is among them.
pub(crate) fn has(bits: &Bits, bit: u16) -> bool {
    bits[usize::from(bit / 64)] & (1 << (bit % 64)) != 0
}

/// Adds one bit.
pub(crate) fn set(bits: &mut Bits, bit: u16) {
    bits[usize::from(bit / 64)] |= 1 << (bit % 64);
}

fn bit(first: u8, second: u8) -> u16 {
    let pair = u32::from(first) << 8 | u32::from(second);
    // The upper bits of a multiplication are the well mixed ones; the result is below BITS.
    (pair.wrapping_mul(0x9e37_79b1) >> (32 - BITS.trailing_zeros())) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_that_is_there_is_never_denied(
            before in prop::collection::vec(any::<u8>(), 0..50),
            text in prop::collection::vec(any::<u8>(), 0..30),
            after in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let value = [before, text.clone(), after].concat();
            prop_assert!(Bigrams::of(&value).may_contain(&Needle::of(&text)));
        }
    }

    #[test]
    fn most_other_users_are_denied() {
        let value = Bigrams::of(b"session=0123456789abcdef;user=user-0042;theme=dark");
        let passed =
            (0..100).filter(|n| value.may_contain(&Needle::of(format!("user=user-{n:04}").as_bytes())));
        assert!(passed.count() < 10);
    }
}
