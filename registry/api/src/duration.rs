//! Durations as the wire, the settings and the rule files write them: `500ms`, `30s`, `1m30s`, `2h`, or
//! bare seconds (`30`, `0.5`). Never negative, never more than ten years.

use std::time::Duration;

const SECONDS_MAX: f64 = 10.0 * 365.0 * 86_400.0;

/// The text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no duration; write 500ms, 30s, 1m30s or bare seconds")]
pub struct NotADuration(String);

/// Reads a duration.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let refuse = || NotADuration(text.chars().take(64).collect());
    let mut seconds = 0.0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            // Bare seconds stand alone: `1m30` would leave the reader guessing.
            "" if digits == text.len() => 1.0,
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(refuse()),
        };
        seconds += number * unit;
        rest = &rest[letters..];
    }
    seconds_to_duration(seconds).ok_or_else(refuse)
}

/// A number of seconds as rules write it; `None` when negative, not finite, or beyond ten years.
pub fn seconds_to_duration(seconds: f64) -> Option<Duration> {
    (seconds.is_finite() && (0.0..=SECONDS_MAX).contains(&seconds)).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_written_form_is_read() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("30", 30_000),
            ("0.5", 500),
            ("1.5s", 1_500),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "s", "-1s", "1x", "1m30", "1e3", "..", "1.2.3s", "99999999h", " 1s", "1 s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
