//! Counts durations in buckets whose width grows with the value, so that any percentile is exact to better than one per
//! cent at a fixed, small size. It does not correct anything: the load generator counts from the moment a request was due.

use std::time::Duration;

/// Each power of two is cut into this many buckets.
const STEPS: u64 = 128;
const STEPS_LOG2: u32 = STEPS.trailing_zeros();
/// Up to 2^43 ns, more than two hours; what is longer counts as that.
const OCTAVES: u32 = 36;

/// A distribution of durations.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; bucket_of(u64::MAX) + 1], count: 0 }
    }
}

impl Histogram {
    /// Adds one duration.
    pub(crate) fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(nanos)] += 1;
        self.count += 1;
    }

    /// The smallest duration that at least this part (0..=1) of all does not exceed; zero when there are none.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let rank = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_edge(bucket));
            }
        }
        Duration::ZERO
    }
}

fn bucket_of(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let octave = nanos.ilog2() - STEPS_LOG2;
    if octave >= OCTAVES {
        return (u64::from(OCTAVES + 1) * STEPS) as usize - 1;
    }
    let step = (nanos >> octave) - STEPS;
    (u64::from(octave + 1) * STEPS + step) as usize
}

fn upper_edge(bucket: usize) -> u64 {
    let (octave, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    match octave {
        0 => step,
        _ => ((STEPS + step + 1) << (octave - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nanos: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        nanos.into_iter().for_each(|nanos| histogram.add(Duration::from_nanos(nanos)));
        histogram
    }

    #[test]
    fn every_value_is_found_again_to_better_than_a_hundredth() {
        for exponent in 0..43 {
            for offset in [0, 1, 3] {
                let nanos = (1_u64 << exponent) + offset * (1 << exponent) / 5;
                let found = of([nanos]).quantile(0.5).as_nanos() as f64;
                assert!(
                    found >= nanos as f64 && found <= nanos as f64 * 1.01 + 1.0,
                    "{nanos} became {found}"
                );
            }
        }
    }

    #[test]
    fn quantiles_are_ranks() {
        let histogram = of(1..=100);
        let at = |part| histogram.quantile(part).as_nanos();
        assert_eq!((at(0.0), at(0.01), at(0.5), at(0.99), at(1.0)), (1, 1, 50, 99, 100));
        assert_eq!(Histogram::default().quantile(0.99), Duration::ZERO);
        assert_eq!(histogram.count, 100);
    }

    #[test]
    fn what_is_longer_than_the_scale_counts_as_its_end() {
        assert!(of([u64::MAX]).quantile(1.0) > Duration::from_secs(3_600));
    }
}
