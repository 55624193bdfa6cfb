//! What the body of an answer looks like: a pattern that depends on the position alone, so that a few bytes tell whether
//! anything was lost, doubled or shifted. It does not compare every byte: the generator would become the bottleneck.

/// Looked at in each stretch, besides its last byte.
const LOOKS: usize = 4;

/// The body of this length.
pub(crate) fn of(bytes: usize) -> Vec<u8> {
    (0..bytes).map(byte_at).collect()
}

/// Whether these bytes may stand at this position of a body.
pub(crate) fn stands_at(stretch: &[u8], position: usize) -> bool {
    let Some(last) = stretch.len().checked_sub(1) else { return true };
    let looks = (0..LOOKS).map(|look| look * stretch.len() / LOOKS).chain([last]);
    looks.into_iter().all(|at| stretch[at] == byte_at(position + at))
}

/// Multiplying by the golden ratio spreads neighbours over all values, with a period beyond any body.
fn byte_at(position: usize) -> u8 {
    ((position as u32).wrapping_mul(0x9E37_79B1) >> 24) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stretch_stands_where_it_is_cut_out_and_nowhere_near() {
        let body = of(64 << 10);
        for (from, to) in [(0, 1), (0, 1_024), (7, 9), (1_000, 64 << 10), (63 << 10, 64 << 10)] {
            assert!(stands_at(&body[from..to], from), "{from}..{to}");
        }
        for shift in [1, 2, 8, 1_024, 4_096, 65_536] {
            assert!(!stands_at(&body[..1_024], shift), "{shift}");
        }
        assert!(stands_at(&[], 5));
    }

    #[test]
    fn a_last_byte_that_differs_is_seen() {
        let mut body = of(100);
        body[99] ^= 1;
        assert!(!stands_at(&body, 0));
    }
}
