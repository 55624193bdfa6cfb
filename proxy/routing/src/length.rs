//! The length of one delay, from the distribution of the rule and the chance of the request. It waits for nobody.

use std::time::Duration;

use control_api::{Draw, Length};

/// The longest delay that a rule can write, and so the longest that is drawn: ten years.
pub const DELAY_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// To the microsecond, and never below zero. The second number only matters to the bell curve.
pub(crate) fn drawn(length: Length, first: impl Fn() -> Draw, second: impl Fn() -> Draw) -> Duration {
    let seconds = match length {
        Length::Fixed(duration) => return duration,
        Length::Uniform { min, max } => {
            let (min, max) = (min.as_secs_f64(), max.as_secs_f64());
            min + (max - min) * first().get()
        }
        Length::Exponential { mean } => -mean.as_secs_f64() * (1.0 - first().get()).ln(),
        Length::Normal { mean, stddev } => {
            // Box and Muller: two even numbers give one that lies on the curve.
            let radius = (-2.0 * (1.0 - first().get()).ln()).sqrt();
            let angle = std::f64::consts::TAU * second().get();
            mean.as_secs_f64() + stddev.as_secs_f64() * radius * angle.cos()
        }
    };
    Duration::from_micros((seconds.clamp(0.0, DELAY_MAX.as_secs_f64()) * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// All lengths over a grid of both numbers, in seconds.
    fn lengths(length: Length) -> Vec<f64> {
        let draws = || Draw::evenly_spaced(200);
        draws()
            .flat_map(|first| draws().map(move |second| drawn(length, || first, || second).as_secs_f64()))
            .collect()
    }

    fn mean(lengths: &[f64]) -> f64 {
        lengths.iter().sum::<f64>() / lengths.len() as f64
    }

    fn share(lengths: &[f64], holds: impl Fn(f64) -> bool) -> f64 {
        lengths.iter().filter(|length| holds(**length)).count() as f64 / lengths.len() as f64
    }

    #[test]
    fn a_uniform_length_is_as_likely_in_every_part_of_its_range() {
        let lengths = lengths(Length::Uniform { min: SECOND, max: 3 * SECOND });
        assert!(lengths.iter().all(|length| (1.0..3.0).contains(length)));
        assert!((share(&lengths, |length| length < 1.5) - 0.25).abs() < 1e-9);
        assert!((mean(&lengths) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn an_exponential_length_has_its_mean_and_its_median() {
        let lengths = lengths(Length::Exponential { mean: 2 * SECOND });
        assert!((mean(&lengths) - 2.0).abs() < 0.02);
        assert!((share(&lengths, |length| length < 2.0 * 2_f64.ln()) - 0.5).abs() < 0.01);
    }

    #[test]
    fn a_normal_length_lies_on_the_bell_curve() {
        let lengths = lengths(Length::Normal { mean: 10 * SECOND, stddev: SECOND });
        assert!((mean(&lengths) - 10.0).abs() < 0.01);
        assert!((share(&lengths, |length| (length - 10.0).abs() < 1.0) - 0.6827).abs() < 0.01);
        assert!((share(&lengths, |length| (length - 10.0).abs() < 2.0) - 0.9545).abs() < 0.01);
    }

    #[test]
    fn no_length_is_below_zero_or_beyond_the_longest() {
        let wide = Length::Normal { mean: SECOND, stddev: DELAY_MAX };
        let lengths = lengths(wide);
        assert!(lengths.iter().all(|length| (0.0..=DELAY_MAX.as_secs_f64()).contains(length)));
        assert!(lengths.contains(&0.0) && lengths.contains(&DELAY_MAX.as_secs_f64()));
    }
}
