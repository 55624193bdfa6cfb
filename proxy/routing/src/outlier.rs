//! Which instances of a backend do worse than the others, how many of them may be left alone at once, and when that is too
//! many. It counts and ejects nothing: tallies and the time are told to it.

use std::collections::BTreeMap;
use std::time::Duration;

use control_api::SuccessRate;

/// Rates that differ by less are equal: they are quotients, and so is their mean.
const EQUAL_WITHIN: f64 = 1e-9;

/// What one instance has answered since it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// All requests that came to an end.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
}

impl Tally {
    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
        }
    }

    /// `None` below so many requests.
    fn rate(self, requests_min: u64) -> Option<f64> {
        let (requests, failures) = (self.requests as f64, self.failures as f64);
        (self.requests >= requests_min.max(1)).then(|| 1.0 - failures / requests)
    }
}

/// The instances whose success rate is lower than the mean by more than `factor` standard deviations, the worst first, as
/// indices into `tallies`. Only those with enough requests are looked at, and nobody when these are too few.
pub fn outliers(tallies: &[Tally], rule: &SuccessRate) -> Vec<usize> {
    let rates: Vec<(usize, f64)> = tallies
        .iter()
        .enumerate()
        .filter_map(|(index, tally)| Some((index, tally.rate(rule.requests_min)?)))
        .collect();
    if rates.is_empty() || rates.len() < rule.instances_min {
        return Vec::new();
    }
    let mean_of = |values: &dyn Fn(f64) -> f64| {
        rates.iter().map(|(_, rate)| values(*rate)).sum::<f64>() / rates.len() as f64
    };
    let mean = mean_of(&|rate| rate);
    let deviation = mean_of(&|rate| (rate - mean).powi(2)).sqrt();
    let least = mean - rule.factor * deviation - EQUAL_WITHIN;
    let mut low: Vec<_> = rates.into_iter().filter(|(_, rate)| *rate < least).collect();
    low.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    low.into_iter().map(|(index, _)| index).collect()
}

/// What instances had answered when the current interval began. Times are since any one moment.
#[derive(Debug, Clone)]
pub struct Detection<K> {
    began: Option<Duration>,
    before: BTreeMap<K, Tally>,
}

impl<K> Default for Detection<K> {
    fn default() -> Self {
        Self { began: None, before: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Detection<K> {
    /// Looks at an interval that is over at `now`, and begins the next; the outliers in it, the worst first. `tallies` is
    /// asked only then. An instance that was not there when the interval began is judged in the next.
    pub fn judge(
        &mut self,
        now: Duration,
        interval: Duration,
        rule: &SuccessRate,
        tallies: impl FnOnce() -> Vec<(K, Tally)>,
    ) -> Vec<K> {
        if self.began.is_some_and(|began| now.saturating_sub(began) < interval) {
            return Vec::new();
        }
        self.began = Some(now);
        let before = std::mem::replace(&mut self.before, tallies().into_iter().collect());
        let (names, counts): (Vec<&K>, Vec<Tally>) =
            self.before.iter().filter_map(|(key, tally)| Some((key, tally.since(*before.get(key)?)))).unzip();
        outliers(&counts, rule).into_iter().map(|place| names[place].clone()).collect()
    }
}

/// Whether one more of `all` instances may be ejected while `ejected` are: one always may, more up to a percentage.
pub fn may_eject(ejected: usize, all: usize, percent_max: u32) -> bool {
    ejected == 0 || (ejected + 1) * 100 <= all * percent_max as usize
}

/// Whether so few of `all` instances are usable that using the others as well is better.
pub fn panics(usable: usize, all: usize, threshold_percent: u32) -> bool {
    usable * 100 < all * threshold_percent as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(json: &str) -> SuccessRate {
        let rule = format!(
            r#"{{"id":"r","destination":"d","route":{{"backends":[{{"tags":["a"],"resilience":{{"success_rate":{json}}}}}]}}}}"#
        );
        let rule: control_api::Rule = serde_json::from_str(&rule).unwrap();
        rule.route().unwrap().backends[0].resilience.as_deref().unwrap().success_rate.unwrap()
    }

    fn tally(requests: u64, failures: u64) -> Tally {
        Tally { requests, failures }
    }

    #[test]
    fn the_defaults_are_those_of_envoy() {
        let rule = rule("{}");
        assert_eq!((rule.factor, rule.instances_min, rule.requests_min), (1.9, 5, 100));
        let good = [tally(100, 0); 4];
        for (last, found) in
            [(tally(100, 100), true), (tally(100, 1), true), (tally(100, 0), false), (tally(99, 99), false)]
        {
            let tallies = [&good[..], &[last]].concat();
            assert_eq!(outliers(&tallies, &rule), if found { vec![4] } else { vec![] }, "{last:?}");
        }
        let mixed = [tally(100, 2), tally(100, 0), tally(100, 1), tally(100, 3), tally(100, 5)];
        assert_eq!(outliers(&mixed, &rule), [0_usize; 0], "within 1.9 deviations");
    }

    #[test]
    fn the_worst_comes_first_and_nobody_is_judged_when_few_are_known() {
        let rule = rule(r#"{"factor": 0.3, "minimum_instances": 3, "minimum_requests": 10}"#);
        let tallies = [tally(10, 5), tally(10, 0), tally(10, 9), tally(10, 0), tally(9, 9)];
        assert_eq!(outliers(&tallies, &rule), [2, 0]);
        assert_eq!(outliers(&[tally(10, 0), tally(10, 9), tally(9, 9)], &rule), [0_usize; 0]);
        assert_eq!(outliers(&[], &rule), [0_usize; 0]);
    }

    #[test]
    fn one_may_always_be_ejected_and_others_up_to_the_percentage() {
        for (all, percent, most) in
            [(1, 10, 1), (4, 10, 1), (4, 50, 2), (4, 74, 2), (4, 75, 3), (30, 10, 3), (5, 100, 5)]
        {
            let ejected = (0..all).filter(|ejected| may_eject(*ejected, all, percent)).count();
            assert_eq!(ejected, most, "{percent}% of {all}");
        }
    }

    #[test]
    fn panic_is_when_fewer_are_left_than_asked_for() {
        assert!(panics(1, 3, 50) && panics(0, 1, 1) && panics(9, 10, 100));
        assert!(!panics(2, 4, 50) && !panics(0, 5, 0) && !panics(0, 0, 100) && !panics(10, 10, 100));
    }

    /// A request that an instance ended, time that passes, an instance that comes or goes.
    #[derive(Debug, Clone)]
    enum Event {
        Ended(usize, bool),
        Pass(u64),
        Toggle(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            24 => (0..5_usize, prop::bool::weighted(0.7)).prop_map(|(who, well)| Event::Ended(who, well)),
            2 => (0..8_u64).prop_map(Event::Pass),
            1 => (0..5_usize).prop_map(Event::Toggle),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: each interval is judged once, by what happened in it, and among those alone
        /// that were there when it began and when it ended.
        #[test]
        fn every_interval_is_judged_by_itself(events in prop::collection::vec(event(), 0..600), interval in 1..10_u64) {
            let rule = rule(r#"{"factor": 1, "minimum_instances": 2, "minimum_requests": 3}"#);
            let mut detection = Detection::default();
            let (mut counted, mut there) = ([Tally::default(); 5], [true; 5]);
            // The same history, told anew for each interval.
            let (mut now, mut began, mut within) = (0, None, BTreeMap::<usize, Tally>::new());
            for event in events {
                match event {
                    Event::Pass(seconds) => now += seconds,
                    Event::Toggle(who) => there[who] = !there[who],
                    Event::Ended(who, well) if there[who] => {
                        for tally in [Some(&mut counted[who]), within.get_mut(&who)].into_iter().flatten() {
                            tally.requests += 1;
                            tally.failures += u64::from(!well);
                        }
                    }
                    Event::Ended(..) => {}
                }
                let all = || (0..5).filter(|who| there[*who]);
                let read = || all().map(|who| (who, counted[who])).collect();
                let found =
                    detection.judge(Duration::from_secs(now), Duration::from_secs(interval), &rule, read);
                let mut expected = Vec::new();
                if began.is_none_or(|began| now - began >= interval) {
                    let (names, tallies): (Vec<_>, Vec<_>) =
                        all().filter_map(|who| Some((who, *within.get(&who)?))).unzip();
                    expected = outliers(&tallies, &rule).into_iter().map(|place| names[place]).collect();
                    began = Some(now);
                    within = all().map(|who| (who, Tally::default())).collect();
                }
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn the_best_is_never_an_outlier_and_equals_are_treated_alike(
            tallies in prop::collection::vec((0..50_u64, 0..50_u64), 0..12), factor in 0.01..3.0_f64,
        ) {
            let rule = rule(&format!(r#"{{"factor": {factor}, "minimum_instances": 1, "minimum_requests": 5}}"#));
            let tallies: Vec<_> = tallies.into_iter().map(|(good, bad)| tally(good + bad, bad)).collect();
            let found = outliers(&tallies, &rule);
            let rate = |place: usize| tallies[place].rate(5);
            let best = (0..tallies.len()).filter_map(rate).fold(0.0, f64::max);
            prop_assert!(found.iter().all(|place| rate(*place).unwrap() < best));
            for place in 0..tallies.len() {
                let equal = |other: &usize| tallies[*other] == tallies[place];
                prop_assert!(!found.iter().any(equal) || found.contains(&place));
            }
            prop_assert!(found.windows(2).all(|pair| rate(pair[0]) <= rate(pair[1])));
        }
    }
}
