//! The table of the tour: what was expected, what was measured, and whether the two agree. It measures
//! nothing itself.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::table;
use crate::up::load::Seen;

/// How many standard deviations a count may be off: once in sixteen thousand runs by chance.
const SIGMAS: f64 = 4.0;

/// How many of `count` requests are hit when each is with `probability`, as an inclusive range.
pub(super) fn binomial(count: usize, probability: f64) -> [usize; 2] {
    let n = count as f64;
    let off = SIGMAS * (n * probability * (1.0 - probability)).sqrt();
    let mean = n * probability;
    [(mean - off).max(0.0).ceil() as usize, (mean + off).min(n).floor() as usize]
}

/// For each word, how many answers may carry it; no other word may occur.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expected(Vec<(String, [usize; 2])>);

impl Expected {
    /// Every one of `count` answers carries the same word.
    pub(super) fn all(word: &str, count: usize) -> Self {
        Self::within(&[(word, [count, count])])
    }

    /// Each word within its inclusive range.
    pub(super) fn within(ranges: &[(&str, [usize; 2])]) -> Self {
        Self(ranges.iter().map(|(word, range)| ((*word).to_owned(), *range)).collect())
    }

    fn holds(&self, counts: &BTreeMap<String, usize>) -> bool {
        let foreign = counts.keys().any(|word| !self.0.iter().any(|(known, _)| known == word));
        !foreign
            && self.0.iter().all(|(word, [least, most])| {
                (*least..=*most).contains(&counts.get(word).copied().unwrap_or(0))
            })
    }

    fn text(&self) -> String {
        let one = |(word, [least, most]): &(String, [usize; 2])| {
            if least == most { format!("{least} {word}") } else { format!("{least} to {most} {word}") }
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// What was counted, in the order of what was expected; what nobody expected comes last.
    fn measured(&self, counts: &BTreeMap<String, usize>) -> String {
        let place = |word: &String| self.0.iter().position(|(known, _)| known == word).unwrap_or(usize::MAX);
        let mut counts: Vec<_> = counts.iter().collect();
        counts.sort_by_key(|(word, _)| place(word));
        counts.iter().map(|(word, count)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
    }
}

#[derive(Debug)]
struct Row {
    step: &'static str,
    what: String,
    expected: String,
    measured: String,
    holds: bool,
}

/// The rows so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    step: &'static str,
    rows: Vec<Row>,
}

impl Report {
    /// Rows that follow belong to this step.
    pub(super) fn step(&mut self, name: &'static str) {
        self.step = name;
    }

    /// Adds counts.
    pub(super) fn row(&mut self, what: String, expected: Expected, counts: &BTreeMap<String, usize>) {
        let holds = expected.holds(counts);
        self.add(what, expected.text(), expected.measured(counts), holds);
    }

    /// Adds one word.
    pub(super) fn word(&mut self, what: &str, expected: &str, measured: &str) {
        self.add(what.to_owned(), expected.to_owned(), measured.to_owned(), expected == measured);
    }

    /// Adds the fastest and the slowest of some answers, which must lie within `bounds`.
    pub(super) fn times(&mut self, what: &str, seen: &[Seen], bounds: [Duration; 2]) {
        let fastest = seen.iter().map(|seen| seen.took).min().unwrap_or_default();
        let slowest = seen.iter().map(|seen| seen.took).max().unwrap_or_default();
        let range =
            |[from, to]: [Duration; 2]| format!("{:.1} to {:.1} s", from.as_secs_f64(), to.as_secs_f64());
        let holds = !seen.is_empty() && fastest >= bounds[0] && slowest <= bounds[1];
        self.add(what.to_owned(), range(bounds), range([fastest, slowest]), holds);
    }

    /// Adds how many proxies serve a change.
    pub(super) fn applied(&mut self, proxies: usize, serving: usize, took: Duration) {
        let measured = format!("{serving} in {} ms", took.as_millis());
        self.add(
            "proxies that serve the change".to_owned(),
            proxies.to_string(),
            measured,
            serving == proxies,
        );
    }

    fn add(&mut self, what: String, expected: String, measured: String, holds: bool) {
        self.rows.push(Row { step: self.step, what, expected, measured, holds });
    }

    /// Whether there are rows and all hold.
    pub(super) fn holds(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.holds)
    }

    /// How many rows hold.
    pub(super) fn summary(&self) -> String {
        let holding = self.rows.iter().filter(|row| row.holds).count();
        format!("{holding} of {} rows hold", self.rows.len())
    }

    /// All rows; the name of a step stands at its first.
    pub(super) fn table(&self) -> String {
        let mut shown = "";
        let row = |row: &Row| {
            let step = if row.step == shown { "" } else { row.step };
            shown = row.step;
            let holds = if row.holds { "yes" } else { "NO" };
            vec![
                step.to_owned(),
                row.what.clone(),
                row.expected.clone(),
                row.measured.clone(),
                holds.to_owned(),
            ]
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        table::draw(&["Step", "What", "Expected", "Measured", "Holds"], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(given: &[(&str, usize)]) -> BTreeMap<String, usize> {
        given.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
    }

    #[test]
    fn four_sigma_around_the_mean() {
        // sqrt(2000 * 0.25 * 0.75) is 19.36.
        assert_eq!(binomial(2_000, 0.25), [423, 577]);
        assert_eq!(binomial(1_000, 0.5), [437, 563]);
        assert_eq!(binomial(10, 1.0), [10, 10]);
    }

    #[test]
    fn a_row_holds_only_when_every_word_is_in_range_and_no_other_occurs() {
        let expected = Expected::within(&[("v1", [2, 3]), ("v3", [1, 9])]);
        for (measured, holds) in [
            (counts(&[("v1", 2), ("v3", 1)]), true),
            (counts(&[("v1", 4), ("v3", 1)]), false),
            (counts(&[("v1", 2)]), false),
            (counts(&[("v1", 2), ("v3", 1), ("v2", 1)]), false),
            (counts(&[]), false),
        ] {
            assert_eq!(expected.holds(&measured), holds, "{measured:?}");
        }
        assert_eq!(expected.measured(&counts(&[("a", 1), ("v1", 2), ("v3", 3)])), "2 v1, 3 v3, 1 a");
    }

    #[test]
    fn a_report_without_rows_proves_nothing() {
        let mut report = Report::default();
        assert!(!report.holds());
        report.step("a");
        report.applied(5, 5, Duration::from_millis(7));
        assert!(report.holds());
        report.applied(5, 4, Duration::from_millis(7));
        assert!(!report.holds());
        assert_eq!(report.summary(), "1 of 2 rows hold");
    }
}
