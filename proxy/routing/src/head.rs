//! What rules may look at in a request: a small view that any engine can give. It parses nothing and
//! owns nothing.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};

/// Header lookup as rules need it.
pub trait Headers {
    /// All values of the field in order, joined with `, ` (`; ` for `Cookie`); borrowed when it occurs once
    /// (spec 2.2). `None` when the field is absent.
    fn joined(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>>;
}

/// One request, as far as rules can see it.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The path without the query, as sent: nothing decoded, nothing normalised.
    pub path: &'a str,
    /// What follows the first question mark, as sent; empty when there is none.
    pub query: &'a str,
    /// `Host` or `:authority`; empty when there is none. A rule on `Host` sees it when the field is absent.
    pub authority: &'a str,
    /// The header fields.
    pub headers: &'a dyn Headers,
}

impl Headers for HeaderMap {
    fn joined(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        let mut values = self.get_all(name).iter();
        let first = values.next()?.as_bytes();
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.extend_from_slice(separator(name));
            joined.extend_from_slice(value.as_bytes());
        }
        Some(Cow::Owned(joined))
    }
}

/// What stands between the values of a field that occurs several times.
pub fn separator(name: &HeaderName) -> &'static [u8] {
    if name == COOKIE { b"; " } else { b", " }
}

/// The first segment of a path and what follows it: `/reviews/x` gives `reviews` and `/x`. `None` when the
/// path names nothing.
pub(crate) fn first_segment(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix('/')?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (segment, rest) = rest.split_at(end);
    (!segment.is_empty()).then_some((segment, rest))
}

/// The longest service name that is looked for in encoded form; registered names have at most 64 bytes.
pub(crate) const SEGMENT_MAX_BYTES: usize = 256;

/// The segment with its percent-encoding undone, for services whose names cannot stand in a path. `None`
/// when there is nothing to undo or the result is no text.
pub(crate) fn percent_decoded<'b>(segment: &str, buffer: &'b mut [u8; SEGMENT_MAX_BYTES]) -> Option<&'b str> {
    if !segment.contains('%') {
        return None;
    }
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let (mut bytes, mut length) = (segment.bytes(), 0);
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => u8::try_from(digit(bytes.next())? << 4 | digit(bytes.next())?).ok()?,
            _ => byte,
        };
        *buffer.get_mut(length)? = decoded;
        length += 1;
    }
    std::str::from_utf8(&buffer[..length]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_field_that_occurs_once_is_borrowed_and_repeated_ones_are_joined() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("cookie", "a=1"), ("cookie", "b=2"), ("x", "1"), ("x", "2"), ("y", "z")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let read = |name: &'static str| headers.joined(&HeaderName::from_static(name));
        assert_eq!(read("cookie").unwrap().as_ref(), b"a=1; b=2");
        assert_eq!(read("x").unwrap().as_ref(), b"1, 2");
        assert!(matches!(read("y"), Some(Cow::Borrowed(b"z"))));
        assert!(read("absent").is_none());
    }

    #[test]
    fn percent_encoding_is_undone_once_or_not_at_all() {
        for (segment, decoded) in [
            ("my%20service", Some("my service")),
            ("a%2Fb%2fc", Some("a/b/c")),
            ("%25%32%30", Some("%20")),
            ("plain", None),
            ("%", None),
            ("%2", None),
            ("%zz", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(percent_decoded(segment, &mut [0; SEGMENT_MAX_BYTES]), decoded, "{segment}");
        }
        let long = "%61".repeat(SEGMENT_MAX_BYTES + 1);
        assert_eq!(percent_decoded(&long, &mut [0; SEGMENT_MAX_BYTES]), None);
    }

    #[test]
    fn the_first_segment_ends_at_the_second_slash() {
        for (path, found) in [
            ("/reviews/x/y", Some(("reviews", "/x/y"))),
            ("/reviews", Some(("reviews", ""))),
            ("/reviews/", Some(("reviews", "/"))),
            ("/reviews//x/../y", Some(("reviews", "//x/../y"))),
            ("/", None),
            ("//reviews", None),
            ("", None),
            ("*", None),
            ("reviews/x", None),
        ] {
            assert_eq!(first_segment(path), found, "{path}");
        }
    }
}
