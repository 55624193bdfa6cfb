//! Reads the Prometheus text format strictly enough to notice what a scraper would trip over. It aggregates nothing.

use std::collections::{BTreeMap, BTreeSet};

/// One scrape.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// Value by series, as in `name{a="b"}`, labels in the order given.
    pub series: BTreeMap<String, f64>,
    /// Type by metric name.
    pub types: BTreeMap<String, String>,
}

impl Scrape {
    /// Reads a page. Refuses duplicates, values that are no number, and series without a `# TYPE`.
    pub fn read(page: &str) -> Result<Self, String> {
        let mut scrape = Self::default();
        for line in page.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("odd type line: {line}"))?;
                if scrape.types.insert(name.to_owned(), kind.to_owned()).is_some() {
                    return Err(format!("two types for {name}"));
                }
            } else if !line.starts_with('#') {
                scrape.add(line)?;
            }
        }
        Ok(scrape)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (series, value) = line.rsplit_once(' ').ok_or_else(|| format!("odd line: {line}"))?;
        let value = value.parse().map_err(|_| format!("no number: {line}"))?;
        let name = series.split('{').next().unwrap_or(series);
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|base| self.types.contains_key(*base))
            .unwrap_or(name);
        if !self.types.contains_key(base) {
            return Err(format!("no type for {name}"));
        }
        match self.series.insert(series.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(format!("twice: {series}")),
        }
    }

    /// The sum over all series of a metric that carry these labels, given as `name="value"`.
    pub fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        self.with(metric, labels).map(|(_, value)| value).sum()
    }

    /// Every series of a metric that carries these labels.
    pub fn with<'a>(
        &'a self,
        metric: &'a str,
        labels: &'a [&'a str],
    ) -> impl Iterator<Item = (&'a str, f64)> {
        self.series
            .iter()
            .filter(move |(series, _)| series.split('{').next() == Some(metric))
            .filter(move |(series, _)| labels.iter().all(|label| series.contains(label)))
            .map(|(series, value)| (series.as_str(), *value))
    }

    /// The label names that a metric's series use.
    pub fn labels(&self, metric: &str) -> BTreeSet<String> {
        let names = self.with(metric, &[]).filter_map(|(series, _)| series.split_once('{'));
        // Every name is followed by `="`, and no value of ours holds that.
        let names = names.flat_map(|(_, labels)| {
            let pieces: Vec<&str> = labels.split("=\"").collect();
            let ends = pieces.split_last().map_or(&[][..], |(_, names)| names).to_vec();
            ends.into_iter().map(|piece| piece.rsplit(['"', ',']).next().unwrap_or_default().to_owned())
        });
        names.collect()
    }
}
