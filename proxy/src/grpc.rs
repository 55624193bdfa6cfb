//! What gRPC says about a call in its fields: what it is, how long it may take (gRPC over HTTP/2, "Timeout") and what became of it.
//! What any of it means for a request is the law's business.

use std::time::Duration;

use http::HeaderValue;

/// The field for the time of a call.
pub(crate) const TIMEOUT: &str = "grpc-timeout";
/// The field that says what became of a call: a number, 0 when all went well.
pub(crate) const STATUS: &str = "grpc-status";
/// The field that says it to people.
pub(crate) const MESSAGE: &str = "grpc-message";
/// What a call is sent as, unless it names the form of its messages behind it.
const MEDIA_TYPE: &[u8] = b"application/grpc";
/// The status of a call whose time ran out.
pub(crate) const DEADLINE_EXCEEDED: u16 = 4;
/// The status of a call that would take more than there is.
pub(crate) const RESOURCE_EXHAUSTED: u16 = 8;
/// What a call that failed is in HTTP/1.1, whatever it failed of: those who call so find more in [`STATUS`].
pub(crate) const FAILED_STATUS: u16 = 503;
/// The most digits of a value.
const DIGITS_MAX: usize = 8;
/// The highest number that they write.
const COUNT_MAX: u128 = 99_999_999;
/// The units from the shortest to the longest, with their nanoseconds.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Whether a media type is that of a call; that of gRPC-Web, which is another protocol, is not.
pub(crate) fn is_media_type(value: &[u8]) -> bool {
    value.split_at_checked(MEDIA_TYPE.len()).is_some_and(|(kind, rest)| {
        kind.eq_ignore_ascii_case(MEDIA_TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// Whether a call with this status has failed. What is no number is no success.
pub(crate) fn has_failed(status: &[u8]) -> bool {
    status.is_empty() || status.iter().any(|digit| *digit != b'0')
}

/// The time that a value gives: one to eight digits that are not all zero, and a unit. `None` for everything else, which is
/// then no limit: what the instance makes of it is up to the instance, and some servers refuse such calls.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let &(_, nanos) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u32::from(digit - b'0'));
    (count > 0).then(|| Duration::from_nanos(nanos) * count)
}

/// The value for what is left of a time: never more than it, at least a nanosecond, and exact to eight digits.
pub(crate) fn value(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos().max(1);
    let mut counts = UNITS.iter().map(|(letter, unit)| (*letter, nanos / u128::from(*unit)));
    let (letter, count) = counts.find(|(_, count)| *count <= COUNT_MAX).unwrap_or((b'H', COUNT_MAX));
    let text = format!("{count}{}", char::from(letter));
    HeaderValue::try_from(text).expect("digits and a letter are text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_their_media_type_and_failures_by_their_status() {
        for kind in
            ["application/grpc", "application/grpc+proto", "Application/GRPC; x=y", "application/grpc ;x"]
        {
            assert!(is_media_type(kind.as_bytes()), "{kind}");
        }
        for kind in ["", "application/grp", "application/grpc-web", "application/grpcx", "text/plain"] {
            assert!(!is_media_type(kind.as_bytes()), "{kind}");
        }
        assert!(!has_failed(b"0") && !has_failed(b"00"));
        assert!(["", "1", "16", "x", "-0"].iter().all(|status| has_failed(status.as_bytes())));
    }

    #[test]
    fn a_time_has_digits_and_a_unit_and_nothing_else_is_one() {
        for (value, time) in [
            ("1n", Some(Duration::from_nanos(1))),
            ("250u", Some(Duration::from_micros(250))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("00000010S", Some(Duration::from_secs(10))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0S", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("1h", None),
            ("123456789n", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            (" 1S", None),
            ("1S ", None),
            ("1SS", None),
            ("\u{661}S", None),
        ] {
            assert_eq!(timeout(value.as_bytes()), time, "{value:?}");
        }
    }

    #[test]
    fn what_is_left_is_told_as_exactly_as_eight_digits_can_and_never_as_more() {
        for (left, value_of) in [
            (Duration::ZERO, "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_millis(1999), "1999000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(value(left), value_of);
            let read = timeout(value(left).as_bytes()).unwrap();
            assert!(read <= left.max(Duration::from_nanos(1)), "{left:?}: {read:?}");
        }
    }
}
