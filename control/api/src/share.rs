//! A fraction of all requests, and the chance of one request that it is compared with. Exact: over evenly
//! spaced draws a share holds exactly its part.

/// One number of a request's chance, in `0..1`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Draw(f64);

impl Draw {
    /// From 64 evenly distributed bits; the upper 53 count.
    pub fn from_bits(bits: u64) -> Self {
        Self((bits >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// The midpoints of `count` equal intervals: what tests walk through instead of rolling dice.
    pub fn evenly_spaced(count: u32) -> impl Iterator<Item = Self> {
        (0..count).map(move |i| Self((f64::from(i) + 0.5) / f64::from(count)))
    }

    /// The number itself, at least 0 and below 1.
    pub fn get(self) -> f64 {
        self.0
    }

    /// An index below `count`, each equally likely. `count` must not be 0.
    pub fn index(self, count: usize) -> usize {
        ((self.0 * count as f64) as usize).min(count.saturating_sub(1))
    }
}

/// A fraction of all requests.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Share(f64);

/// The number is no fraction.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{0} is outside 0..=1")]
pub struct NotAShare(pub f64);

impl Share {
    /// Every request.
    pub const ALL: Self = Self(1.0);

    /// Refuses anything outside `0..=1`, including NaN.
    pub fn new(fraction: f64) -> Result<Self, NotAShare> {
        if (0.0..=1.0).contains(&fraction) { Ok(Self(fraction)) } else { Err(NotAShare(fraction)) }
    }

    /// The fraction.
    pub fn fraction(self) -> f64 {
        self.0
    }

    /// Whether the request with this draw is among the share.
    pub fn contains(self, draw: Draw) -> bool {
        draw.0 < self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_holds_exactly_its_part_of_evenly_spaced_draws() {
        for thousandths in 0..=1_000_u32 {
            let share = Share::new(f64::from(thousandths) / 1_000.0).unwrap();
            let hits = Draw::evenly_spaced(1_000).filter(|draw| share.contains(*draw)).count();
            assert_eq!(hits, thousandths as usize);
        }
    }

    #[test]
    fn what_is_no_fraction_is_refused() {
        for odd in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Share::new(odd).is_err());
        }
    }

    #[test]
    fn a_draw_is_always_below_one() {
        assert!(Draw::from_bits(u64::MAX).get() < 1.0);
        assert_eq!(Draw::from_bits(u64::MAX).index(7), 6);
        assert_eq!(Draw::from_bits(0).index(7), 0);
    }
}
