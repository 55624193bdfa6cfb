//! How fast bytes may follow one another: a rate, kept smoothly, that silence saves up next to nothing for. Time is an
//! argument; who waits, and what for, is decided elsewhere.

use std::num::NonZeroU64;
use std::time::Duration;

/// What may flow at once after a wait, as the time in which it would have flowed.
const BURST: Duration = Duration::from_millis(50);
const NANOS_PER_S: u64 = 1_000_000_000;

/// The flow of one body.
///
/// In no stretch of time more flows than the rate allows for it, and a burst: what flows in 50 milliseconds, or two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    bytes_per_s: NonZeroU64,
    /// When everything that was admitted would have flowed at the rate, since the origin of times.
    due: Duration,
}

impl Pace {
    /// A flow of so many bytes a second, of which nothing has flowed yet.
    pub fn new(bytes_per_s: NonZeroU64) -> Self {
        Self { bytes_per_s, due: Duration::ZERO }
    }

    /// How many of `wanted` bytes, at least one, may flow `now`; those count as having flowed. Otherwise the later time at
    /// which to ask again: not before half a burst is due, or everything that is wanted, so that bytes do not drip one by
    /// one; whoever asks a little later than that makes up for it. Times are since some origin that the holder keeps.
    pub fn admit(&mut self, wanted: u64, now: Duration) -> Result<u64, Duration> {
        let start = self.due.max(now);
        let room = (now + self.burst()).saturating_sub(start);
        let allowed = self.bytes_in(room).min(wanted);
        let enough = (self.bytes_in(self.burst()) / 2).max(1).min(wanted);
        if allowed < enough {
            return Err((start + self.time_of(enough)).saturating_sub(self.burst()));
        }
        self.due = start + self.time_of(allowed);
        Ok(allowed)
    }

    /// Has `bytes` flow whatever is due; how long whoever lets them must wait first.
    pub fn owe(&mut self, bytes: u64, now: Duration) -> Duration {
        let start = self.due.max(now);
        self.due = start + self.time_of(bytes);
        self.due.saturating_sub(now + self.burst())
    }

    /// The longest time for which [`Pace::admit`] holds anything back that could flow.
    pub fn pause_max(self) -> Duration {
        self.burst()
    }

    /// At least the time of two bytes: one may flow, and whoever is late for it makes up for that.
    fn burst(self) -> Duration {
        self.time_of(2).max(BURST)
    }

    /// Rounded up: what flows too late by a nanosecond does not flow too fast.
    fn time_of(self, bytes: u64) -> Duration {
        let nanos = (u128::from(bytes) * u128::from(NANOS_PER_S)).div_ceil(self.bytes_per_s.get().into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn bytes_in(self, time: Duration) -> u64 {
        let bytes = time.as_nanos().saturating_mul(self.bytes_per_s.get().into()) / u128::from(NANOS_PER_S);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(bytes_per_s: u64) -> Pace {
        Pace::new(NonZeroU64::new(bytes_per_s).unwrap())
    }

    /// Rates from one byte a second to more than any network carries.
    fn rates() -> impl Strategy<Value = u64> {
        (0_u32..36, 1_u64..16).prop_map(|(power, first)| first << power)
    }

    #[test]
    fn a_slow_flow_is_even_and_begins_at_once() {
        let mut flow = pace(100);
        let (mut now, mut sent) = (Duration::ZERO, Vec::new());
        while now < Duration::from_secs(1) {
            match flow.admit(1000, now) {
                Ok(bytes) => sent.push((now.as_millis(), bytes)),
                Err(later) => now = later,
            }
        }
        let even: Vec<_> = (0..50).map(|step| (step * 20, if step == 0 { 5 } else { 2 })).collect();
        assert_eq!(sent, even, "a burst, and then half a one at a time");
    }

    #[test]
    fn silence_saves_up_no_more_than_a_burst() {
        let mut flow = pace(1000);
        assert_eq!(flow.admit(10, Duration::from_secs(3600)), Ok(10));
        assert_eq!(flow.admit(1000, Duration::from_secs(7200)), Ok(50));
        assert_eq!(flow.admit(1000, Duration::from_secs(7200)), Err(Duration::from_millis(7_200_025)));
    }

    #[test]
    fn a_piece_that_cannot_be_parted_waits_until_it_would_have_flowed() {
        let mut flow = pace(1000);
        assert_eq!(flow.owe(50, Duration::ZERO), Duration::ZERO, "a burst");
        assert_eq!(flow.owe(1000, Duration::ZERO), Duration::from_secs(1));
        assert_eq!(flow.owe(10, Duration::from_secs(9)), Duration::ZERO);
    }

    proptest! {
        /// Whatever is asked for whenever: between any two moments no more flows than the rate and a burst allow.
        #[test]
        fn no_stretch_of_time_sees_more_than_its_rate_and_a_burst(
            rate in rates(),
            asked in prop::collection::vec((0_u64..200_000_000, 1_u64..100_000), 1..60),
        ) {
            let (mut flow, mut now, mut flown) = (pace(rate), Duration::ZERO, Vec::new());
            for (pause_ns, wanted) in asked {
                now += Duration::from_nanos(pause_ns);
                match flow.admit(wanted, now) {
                    Ok(bytes) => {
                        prop_assert!(1 <= bytes && bytes <= wanted);
                        flown.push((now, bytes));
                    }
                    Err(later) => {
                        prop_assert!(later > now && later - now <= flow.pause_max());
                        let mut probe = flow;
                        prop_assert!(probe.admit(wanted, later).is_ok(), "it is worth asking then");
                    }
                }
            }
            for from in 0..flown.len() {
                let mut bytes = 0_u128;
                for (at, piece) in &flown[from..] {
                    bytes += u128::from(*piece);
                    let time = (*at - flown[from].0 + flow.pause_max()).as_nanos() + 1;
                    let most = time * u128::from(rate) / u128::from(NANOS_PER_S) + 1;
                    prop_assert!(bytes <= most, "{bytes} bytes, not {most}");
                }
            }
        }

        /// Whoever always has something to send, and asks when it is told to, gets its rate.
        #[test]
        fn a_body_is_through_when_its_rate_says_so(
            rate in prop_oneof![1_u64..100, 1_u64..1_000_000],
            len in 1_u64..10_000,
        ) {
            // A timer is late by less than this.
            for late in [Duration::ZERO, Duration::from_millis(2)] {
                let (mut flow, mut now, mut left) = (pace(rate), Duration::ZERO, len);
                while left > 0 {
                    match flow.admit(left, now) {
                        Ok(bytes) => left -= bytes,
                        Err(later) => now = later + late,
                    }
                }
                let ideal = Duration::from_secs_f64(len as f64 / rate as f64);
                prop_assert!(now <= ideal + late + Duration::from_millis(1), "{now:?}, not {ideal:?}");
            }
        }
    }
}
