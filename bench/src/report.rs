//! Results as a table for people and as JSON for machines.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use serde_json::Value;

/// A table with a header; the first column is text, the others are numbers.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(|column| (*column).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width =
            |at: usize| self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or_default()).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let padded = if at == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
                text.push_str(&padded);
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
            if number == 0 {
                text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1)));
                text.push('\n');
            }
        }
        text
    }
}

/// Prints to standard output.
#[expect(clippy::print_stdout, reason = "a bench's table is its output")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Writes the results where `--json` says.
pub(crate) fn write_json(path: Option<&Path>, json: &Value) -> io::Result<()> {
    match path {
        Some(path) => fs::write(path, format!("{json:#}\n")),
        None => Ok(()),
    }
}

/// Microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

/// The middle of several measurements; NaN when there are none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// A number as a cell; a dash when there is none.
pub(crate) fn cell(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}") } else { "-".to_owned() }
}

/// A number for JSON, to four decimals; null when there is none.
pub(crate) fn number(value: f64) -> Value {
    serde_json::Number::from_f64((value * 1e4).round() / 1e4).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_ignores_what_is_no_number() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, f64::NAN, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_table_lines_up() {
        let mut table = Table::new(&["proxy", "us"]);
        table.row(vec!["a8".to_owned(), cell(12.345, 1)]);
        table.row(vec!["envoy".to_owned(), cell(f64::NAN, 1)]);
        assert_eq!(table.text(), "proxy    us\n-----------\na8     12.3\nenvoy     -\n");
    }
}
