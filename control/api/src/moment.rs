//! A moment in UTC as rules write it: RFC 3339 ending in `Z`, from 1970 to 9999. It reads no clock and knows no other
//! zone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_S: u64 = 86_400;
/// The first second after the year 9999.
const END_UNIX_S: u64 = 253_402_300_800;

/// A moment, to the second, with the text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    text: String,
    unix_s: u64,
}

impl Moment {
    /// Reads `2026-01-31T12:00:00Z`. A fraction of a second is rounded up.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let ([year, month, day], [hour, minute, second]) = (numbers(date, '-', 4)?, numbers(time, ':', 2)?);
        let is_date = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day);
        let is_time = hour < 24 && minute < 60 && second < 60;
        let is_fraction = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
        if !is_date || !is_time || !is_fraction {
            return None;
        }
        let years: u64 = (1970..year).map(days_of_year).sum();
        let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
        let whole = (years + months + day - 1) * DAY_S + hour * 3600 + minute * 60 + second;
        let rounded = u64::from(fraction.bytes().any(|digit| digit != b'0'));
        Some(Self { text: text.to_owned(), unix_s: whole + rounded })
    }

    /// The moment that begins no earlier than `at`; `None` before 1970 and after 9999.
    pub fn not_before(at: SystemTime) -> Option<Self> {
        let since = at.duration_since(UNIX_EPOCH).ok()?;
        let unix_s = since.as_secs() + u64::from(since > Duration::from_secs(since.as_secs()));
        if unix_s >= END_UNIX_S {
            return None;
        }
        let (mut days, second) = (unix_s / DAY_S, unix_s % DAY_S);
        let (mut year, mut month) = (1970, 1);
        while days >= days_of_year(year) {
            days -= days_of_year(year);
            year += 1;
        }
        while days >= days_of(year, month) {
            days -= days_of(year, month);
            month += 1;
        }
        let (hour, minute, second, day) = (second / 3600, second / 60 % 60, second % 60, days + 1);
        let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
        Some(Self { text, unix_s })
    }

    /// Seconds since 1970.
    pub fn unix_s(&self) -> u64 {
        self.unix_s
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Seconds since 1970 as limits are compared with; 0 before.
pub fn unix_s(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Three numbers: the first of `width` digits, the others of two.
fn numbers(text: &str, separator: char, width: usize) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut number = |width: usize| {
        let part = parts.next().filter(|part| part.len() == width)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let numbers = [number(width)?, number(2)?, number(2)?];
    parts.next().is_none().then_some(numbers)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<u64> {
        Moment::parse(text).map(|moment| moment.unix_s())
    }

    #[test]
    fn known_moments_are_read() {
        for (text, unix_s) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-01-31T12:00:00Z", 1_769_860_800),
            ("2026-01-31T12:00:00.000Z", 1_769_860_800),
            ("2026-01-31T12:00:00.001Z", 1_769_860_801),
            ("9999-12-31T23:59:59Z", END_UNIX_S - 1),
        ] {
            assert_eq!(read(text), Some(unix_s), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_in_utc_is_refused() {
        for text in [
            "",
            "Z",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00Z",
            "2026-01-31T12:00:00+01:00",
            "2026-02-29T12:00:00Z",
            "2100-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-01-00T12:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:60:00Z",
            "2026-01-31T12:00:60Z",
            "1969-12-31T23:59:59Z",
            "+2026-01-31T12:00:00Z",
            "2026-1-31T12:00:00Z",
            "2026-01-31T12:00:+1Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00-00Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(unix_s in 0..END_UNIX_S, nanos in 0..1_000_000_000_u32) {
            let at = UNIX_EPOCH + Duration::new(unix_s, nanos);
            let Some(moment) = Moment::not_before(at) else {
                prop_assert!(unix_s == END_UNIX_S - 1 && nanos > 0);
                return Ok(());
            };
            prop_assert_eq!(moment.unix_s(), unix_s + u64::from(nanos > 0));
            prop_assert_eq!(Moment::parse(moment.as_str()), Some(moment));
        }
    }
}
