//! Which traces are recorded, in the words of OpenTelemetry's settings (`OTEL_TRACES_SAMPLER` and its argument). Pure.

use std::fmt;

/// A sampler's name and argument that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSampler {
    /// Nobody knows it.
    #[error("`{0}` is not one of {NAMES}")]
    Name(String),
    /// It is no share.
    #[error("`{0}` is no number from 0 to 1")]
    Ratio(String),
}

const NAMES: &str = "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, \
                     parentbased_traceidratio";

/// Decides for a whole trace, by its id, so that every proxy with the same settings decides the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Whoever has decided before is followed.
    parent_based: bool,
    root: Root,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Root {
    On,
    Off,
    /// Traces whose id, in its lower 63 bits, is below this.
    Below(u64),
}

/// One more than the largest number that a trace's id is compared by.
const IDS: f64 = (1_u64 << 63) as f64;

impl Sampler {
    /// The sampler of this name. `ratio` is the share of traces, all of them when empty; only the samplers that end in
    /// `traceidratio` look at it.
    pub fn new(name: &str, ratio: &str) -> Result<Self, BadSampler> {
        let parent_based = name.starts_with("parentbased_");
        let root = match name.strip_prefix("parentbased_").unwrap_or(name) {
            "always_on" => Root::On,
            "always_off" => Root::Off,
            "traceidratio" => {
                let share = if ratio.is_empty() { Ok(1.0) } else { ratio.parse::<f64>() };
                let share = share.ok().filter(|share| (0.0..=1.0).contains(share));
                let share = share.ok_or_else(|| BadSampler::Ratio(ratio.to_owned()))?;
                Root::Below((share * IDS) as u64)
            }
            _ => return Err(BadSampler::Name(name.to_owned())),
        };
        Ok(Self { parent_based, root })
    }

    /// Whether a trace is recorded. `asked` is what whoever came before has decided, if anybody has.
    pub fn records(self, trace: u128, asked: Option<bool>) -> bool {
        match (asked.filter(|_| self.parent_based), self.root) {
            (Some(asked), _) => asked,
            (None, Root::On) => true,
            (None, Root::Off) => false,
            // The lower half is random whoever made the id (W3C Trace Context 3.2.2.3).
            (None, Root::Below(end)) => (trace as u64) >> 1 < end,
        }
    }
}

impl Default for Sampler {
    /// `parentbased_always_on`.
    fn default() -> Self {
        Self { parent_based: true, root: Root::On }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.parent_based { "parentbased_" } else { "" })?;
        match self.root {
            Root::On => f.write_str("always_on"),
            Root::Off => f.write_str("always_off"),
            Root::Below(end) => write!(f, "traceidratio({})", end as f64 / IDS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shares_are_those_of_opentelemetry_and_others_are_refused() {
        for (name, ratio, shown) in [
            ("always_on", "", "always_on"),
            ("always_off", "x", "always_off"),
            ("traceidratio", "0.25", "traceidratio(0.25)"),
            ("traceidratio", "", "traceidratio(1)"),
            ("parentbased_always_on", "", "parentbased_always_on"),
            ("parentbased_always_off", "", "parentbased_always_off"),
            ("parentbased_traceidratio", "0", "parentbased_traceidratio(0)"),
        ] {
            assert_eq!(Sampler::new(name, ratio).unwrap().to_string(), shown);
        }
        assert_eq!(Sampler::new("parentbased_always_on", "").unwrap(), Sampler::default());
        for name in ["", "ALWAYS_ON", "parentbased_", "parentbased_parentbased_always_on", "jaeger_remote"] {
            assert_eq!(Sampler::new(name, ""), Err(BadSampler::Name(name.to_owned())));
        }
        for ratio in ["-0.1", "1.1", "NaN", "half", "inf"] {
            assert_eq!(Sampler::new("traceidratio", ratio), Err(BadSampler::Ratio(ratio.to_owned())));
        }
    }

    #[test]
    fn parents_are_followed_by_those_that_say_so_alone() {
        for (name, none, yes, no) in [
            ("always_on", true, true, true),
            ("always_off", false, false, false),
            ("parentbased_always_on", true, true, false),
            ("parentbased_always_off", false, true, false),
        ] {
            let sampler = Sampler::new(name, "").unwrap();
            let records = [None, Some(true), Some(false)].map(|asked| sampler.records(1, asked));
            assert_eq!(records, [none, yes, no], "{name}");
        }
    }

    #[test]
    fn a_quarter_is_a_quarter_of_all_ids_and_the_ends_are_none_and_all() {
        let recorded = |ratio: &str| {
            let sampler = Sampler::new("traceidratio", ratio).unwrap();
            let ids = (0..1_000_u128).map(|at| (at << 64) | (at * u128::from(u64::MAX) / 999));
            ids.filter(|id| sampler.records(*id, None)).count()
        };
        assert_eq!([recorded("0"), recorded("0.25"), recorded("1")], [0, 250, 1_000]);
    }
}
