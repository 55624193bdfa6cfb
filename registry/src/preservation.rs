//! Whether instances that nobody renewed may go, when many of them are silent at once: then it is rather the network
//! that is broken than they (notes/scale.md 3.3). Pure, bounded in time, and off unless somebody asks for it.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use registry_api::InstanceId;

use crate::timestamp::Timestamp;

/// Fewer leases than this say nothing about a network.
pub const LEASES_MIN: usize = 10;
/// Losses count together when they lie no further apart than this.
pub const WINDOW: Duration = Duration::from_secs(60);
/// The longest time that instances are held before the release begins.
pub const HOLD_MAX: Duration = Duration::from_secs(15 * 60);
/// The release lets this share of the leases go per minute.
pub const RELEASE_PER_MINUTE: f64 = 0.05;
/// How often a held instance is looked at: whether it was heard again, and whether it may go now.
pub const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// How many moments of loss are remembered. More is impossible with ten sweeps a second within [`WINDOW`].
const LOSSES_MAX: usize = 1_024;

/// The share of leases that must go on being renewed for silence to count as death.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold(f64);

/// The number is no such share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the threshold is a number above 0 and at most 1")]
pub struct NotAThreshold;

impl Threshold {
    /// Takes a share above 0 and at most 1.
    pub fn new(share: f64) -> Result<Self, NotAThreshold> {
        if share > 0.0 && share <= 1.0 { Ok(Self(share)) } else { Err(NotAThreshold) }
    }
}

/// Holds the silent ones of one namespace.
#[derive(Debug, Default)]
pub struct Preservation {
    threshold: Option<Threshold>,
    held: HashSet<InstanceId>,
    losses: VecDeque<(Timestamp, usize)>,
    holding: Option<Holding>,
}

#[derive(Debug)]
struct Holding {
    since: Timestamp,
    leases: usize,
    released: usize,
}

/// What happens to instances whose time is over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// They go now.
    pub go: Vec<InstanceId>,
    /// They are held, and looked at again after [`LOOK_PERIOD`].
    pub stay: Vec<InstanceId>,
}

impl Preservation {
    /// Holds nobody without a threshold.
    pub fn new(threshold: Option<Threshold>) -> Self {
        Self { threshold, ..Self::default() }
    }

    /// How many instances are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The instance was heard again, or is gone for another reason.
    pub fn forget(&mut self, id: &InstanceId) {
        self.held.remove(id);
    }

    /// Decides about those of `leases` instances whose time was over before `now`, in the order given.
    pub fn judge(&mut self, overdue: Vec<InstanceId>, leases: usize, now: Timestamp) -> Judged {
        let Some(Threshold(threshold)) = self.threshold else { return Judged { go: overdue, stay: vec![] } };
        while self.losses.len() > LOSSES_MAX
            || self.losses.front().is_some_and(|(at, _)| now > at.plus(WINDOW))
        {
            self.losses.pop_front();
        }
        let lost: usize = self.losses.iter().map(|(_, count)| count).sum();
        let newly = overdue.iter().filter(|id| !self.held.contains(*id)).count();
        let (silent, all) = (lost + self.held.len() + newly, lost + leases);
        if leases < LEASES_MIN || silent as f64 <= (1.0 - threshold) * all as f64 {
            self.holding = None;
            return self.parted(overdue, usize::MAX, now);
        }
        let holding = self.holding.get_or_insert(Holding { since: now, leases, released: 0 });
        let may_go = holding.allowance(now);
        holding.released += may_go.min(overdue.len());
        self.parted(overdue, may_go, now)
    }

    fn parted(&mut self, overdue: Vec<InstanceId>, may_go: usize, now: Timestamp) -> Judged {
        let mut go = overdue;
        let stay = go.split_off(may_go.min(go.len()));
        for id in &go {
            self.held.remove(id);
        }
        if !go.is_empty() {
            self.losses.push_back((now, go.len()));
        }
        self.held.extend(stay.iter().cloned());
        Judged { go, stay }
    }
}

impl Holding {
    /// How many more may go by now.
    fn allowance(&self, now: Timestamp) -> usize {
        let begins = self.since.plus(HOLD_MAX);
        let millis = now.as_millis().saturating_sub(begins.as_millis());
        let released = self.leases as f64 * RELEASE_PER_MINUTE * millis as f64 / 60_000.0;
        (released as usize).saturating_sub(self.released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn ids(range: std::ops::Range<usize>) -> Vec<InstanceId> {
        range.map(|number| InstanceId::new(format!("{number:03}")).unwrap()).collect()
    }

    fn preserving() -> Preservation {
        Preservation::new(Some(Threshold::new(0.85).unwrap()))
    }

    #[test]
    fn without_a_threshold_and_among_few_everybody_goes() {
        for (mut preservation, leases) in [(Preservation::new(None), 100), (preserving(), LEASES_MIN - 1)] {
            let judged = preservation.judge(ids(0..leases), leases, at(0));
            assert_eq!((judged.go.len(), judged.stay.len(), preservation.held()), (leases, 0, 0));
        }
    }

    #[test]
    fn a_few_may_go_and_many_stay_also_when_they_fall_silent_one_by_one() {
        let mut preservation = preserving();
        let gone: Vec<_> = (0..40)
            .map(|number| {
                let gone = (0..number).filter(|earlier| *earlier < 15).count();
                preservation.judge(ids(number..number + 1), 100 - gone, at(number as u64)).go.len()
            })
            .collect();
        assert_eq!(gone.iter().sum::<usize>(), 15);
        assert_eq!(preservation.held(), 25);
        // All at once.
        let mut preservation = preserving();
        assert_eq!(preservation.judge(ids(0..16), 100, at(0)).stay.len(), 16);
        let mut preservation = preserving();
        assert_eq!(preservation.judge(ids(0..15), 100, at(0)).go.len(), 15);
    }

    #[test]
    fn whoever_is_heard_again_is_held_no_more_and_the_rest_may_then_go() {
        let mut preservation = preserving();
        preservation.judge(ids(0..50), 100, at(0));
        for id in ids(0..40) {
            preservation.forget(&id);
        }
        assert_eq!(preservation.held(), 10);
        let judged = preservation.judge(ids(40..50), 100, at(5));
        assert_eq!((judged.go.len(), preservation.held()), (10, 0));
    }

    #[test]
    fn nobody_is_held_for_ever() {
        let mut preservation = preserving();
        let mut silent = ids(0..100);
        let mut gone_at = Vec::new();
        for second in (0..4_000).step_by(5) {
            let judged = preservation.judge(std::mem::take(&mut silent), 100 - gone_at.len(), at(second));
            gone_at.extend(judged.go.iter().map(|_| second));
            silent = judged.stay;
        }
        assert_eq!(gone_at.len(), 100);
        let limit = HOLD_MAX.as_secs();
        assert!(gone_at[0] > limit && gone_at[0] <= limit + 15, "{gone_at:?}");
        // Five of a hundred per minute, until so few are left that they say nothing.
        let in_first_ten_minutes = gone_at.iter().filter(|second| **second <= limit + 600).count();
        assert_eq!(in_first_ten_minutes, 50);
        assert!(*gone_at.last().unwrap() <= limit + 20 * 60);
        assert_eq!(preservation.held(), 0);
    }

    #[test]
    fn a_threshold_is_a_share() {
        for bad in [0.0, -0.1, 1.01, f64::NAN, f64::INFINITY] {
            assert_eq!(Threshold::new(bad), Err(NotAThreshold));
        }
        assert!(Threshold::new(1.0).is_ok());
    }
}
