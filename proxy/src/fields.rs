//! The fields of a head as they stand in its bytes: read strictly, kept as places, found by name. It copies nothing and
//! does not know what any field means.

use std::borrow::Cow;
use std::ops::Range;

use http::header::HeaderName;
use routing::separator;

/// Nine exabytes; anything longer is no length but an attempt.
const LENGTH_DIGITS_MAX: usize = 18;
/// So many bytes are looked at together; compilers make one instruction of each step.
const BLOCK_BYTES: usize = 16;

/// Where a name and its value stand in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    /// Start and end.
    name: (u32, u32),
    /// Start and end, without blanks around it.
    value: (u32, u32),
}

impl Field {
    /// The name, in the head that the field was read from.
    pub(crate) fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.name.0 as usize..self.name.1 as usize]
    }

    /// The value, in the head that the field was read from.
    pub(crate) fn value<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.value.0 as usize..self.value.1 as usize]
    }
}

/// The fields of one head.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    list: &'a [Field],
}

impl<'a> Fields<'a> {
    /// `bytes` is the head that `list` was read from.
    pub(crate) fn new(bytes: &'a [u8], list: &'a [Field]) -> Self {
        Self { bytes, list }
    }

    /// The length of the head they are of.
    pub(crate) fn head_len(self) -> usize {
        self.bytes.len()
    }

    /// All names and values, in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        self.list.iter().map(move |field| (field.name(self.bytes), field.value(self.bytes)))
    }

    /// The values of the field `name`, in order; the case of its letters does not matter.
    pub(crate) fn all(self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.named(name)
    }

    /// The first value of the field `name`.
    pub(crate) fn first(self, name: &str) -> Option<&'a [u8]> {
        self.named(name).next()
    }

    fn named<'n>(self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a, 'n> {
        // Slices of different length are told apart before any letter is looked at.
        self.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

impl routing::Headers for Fields<'_> {
    fn joined(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        let mut values = self.named(name.as_str());
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.extend_from_slice(separator(name));
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }
}

/// Goes over the lines of a head; each has to end with CRLF and to hold neither of the two.
pub(crate) struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// Before the first line. Places are numbers of 32 bits: whoever calls this has limited the length.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        debug_assert!(u32::try_from(bytes.len()).is_ok(), "a head has a limit far below");
        Self { bytes, at: 0 }
    }

    /// The next line without its end; `None` at the empty line.
    pub(crate) fn line(&mut self) -> Result<Option<Range<usize>>, &'static str> {
        let len = end_of_line(&self.bytes[self.at..])?;
        let line = self.at..self.at + len;
        self.at = line.end + 2;
        Ok((len > 0).then_some(line))
    }

    /// The next line as a field; `None` at the empty line.
    pub(crate) fn field(&mut self) -> Result<Option<Field>, &'static str> {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(b"\r\n") {
            self.at += 2;
            return Ok(None);
        }
        let Some((colon, end)) = colon_and_end(rest) else { return Err(fault_of(rest)) };
        let value = &rest[colon + 1..end];
        let begun = value.trim_ascii_start();
        let start = end - begun.len();
        let place = |at: usize| (self.at + at) as u32;
        let field = Field {
            name: (place(0), place(colon)),
            value: (place(start), place(start + begun.trim_ascii_end().len())),
        };
        self.at += end + 2;
        Ok(Some(field))
    }
}

/// The colon and the end of the sound field at the begin of `bytes`; `None` if it is not sound. Every byte is looked at
/// once: what ends a name must be its colon, and the first control character in a value must be the end of the line.
fn colon_and_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let colon = bytes.iter().position(|byte| !is_token(*byte))?;
    if colon == 0 || bytes[colon] != b':' {
        return None;
    }
    let end = colon + 1 + find(&bytes[colon + 1..], is_control)?;
    bytes[end..].starts_with(b"\r\n").then_some((colon, end))
}

/// What is wrong with the line at the begin of `bytes`, which is no sound field.
fn fault_of(bytes: &[u8]) -> &'static str {
    let line = match end_of_line(bytes) {
        Ok(len) => &bytes[..len],
        Err(why) => return why,
    };
    match line.iter().position(|byte| *byte == b':') {
        None => "a header field has no colon",
        // A folded line and a space before the colon as well.
        Some(colon) if colon == 0 || !line[..colon].iter().all(|byte| is_token(*byte)) => {
            "the name of a header field is malformed"
        }
        Some(_) => "the value of a header field holds a control character",
    }
}

fn end_of_line(bytes: &[u8]) -> Result<usize, &'static str> {
    let feed = find(bytes, |byte| byte == b'\n').ok_or("the head has no end")?;
    if feed == 0 || bytes[feed - 1] != b'\r' {
        return Err("a line ends with a bare line feed");
    }
    Ok(feed - 1)
}

/// The place of the first byte that `is` holds for.
pub(crate) fn find(bytes: &[u8], is: impl Fn(u8) -> bool) -> Option<usize> {
    let none = |block: &&[u8]| !block.iter().fold(false, |found, byte| found | is(*byte));
    let at = bytes.chunks_exact(BLOCK_BYTES).take_while(none).count() * BLOCK_BYTES;
    bytes[at..].iter().position(|byte| is(*byte)).map(|found| at + found)
}

/// The elements of a list between commas, without blanks around them and without the empty ones.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// The number that a `Content-Length` gives, if it is one.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// What no value may hold; a tab may stand in it.
pub(crate) const fn is_control(byte: u8) -> bool {
    // Not the lazy operators: this is asked about blocks.
    (byte < b' ') & (byte != b'\t') | (byte == 0x7f)
}

/// RFC 9110 5.6.2 `tchar`.
pub(crate) const fn is_token(byte: u8) -> bool {
    const TOKENS: [bool; 256] = {
        let mut tokens = [false; 256];
        let marks = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < marks.len() {
            tokens[marks[at] as usize] = true;
            at += 1;
        }
        let mut byte = 0;
        while byte < 128 {
            tokens[byte] |= (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        tokens
    };
    TOKENS[byte as usize]
}

#[cfg(test)]
mod tests {
    use routing::Headers as _;

    use super::*;

    fn read(head: &[u8]) -> Result<Vec<Field>, &'static str> {
        let mut lines = Lines::new(head);
        let mut list = Vec::new();
        while let Some(field) = lines.field()? {
            list.push(field);
        }
        assert_eq!(lines.at, head.len());
        Ok(list)
    }

    #[test]
    fn names_and_values_are_found_where_they_stand() {
        let head =
            b"Host: a\r\nX-One:\t  spaced \t out \t\r\nempty:\r\nblank:  \r\nx-one: 2\r\nCookie: a=1\r\n\
                     cookie: b\r\nlong: 0123456789 0123456789 0123456789\r\n\r\n";
        let list = read(head).unwrap();
        let fields = Fields::new(head, &list);
        let all: Vec<(&[u8], &[u8])> = fields.iter().collect();
        assert_eq!(all.len(), 8);
        assert_eq!(all[1], (&b"X-One"[..], &b"spaced \t out"[..]));
        assert_eq!((all[2].1, all[3].1), (&b""[..], &b""[..]));
        assert_eq!(all[7].1, b"0123456789 0123456789 0123456789");
        assert_eq!(fields.all("X-ONE").collect::<Vec<_>>(), [&b"spaced \t out"[..], b"2"]);
        assert_eq!(fields.first("host"), Some(&b"a"[..]));
        assert_eq!((fields.first("hos"), fields.first("absent")), (None, None));
        let joined = |name: &'static str| fields.joined(&HeaderName::from_static(name));
        assert!(matches!(joined("host"), Some(Cow::Borrowed(b"a"))));
        assert_eq!(joined("x-one").unwrap().as_ref(), b"spaced \t out, 2");
        assert_eq!(joined("cookie").unwrap().as_ref(), b"a=1; b");
        assert!(joined("absent").is_none());
    }

    #[test]
    fn every_fault_has_its_name() {
        for (line, why) in [
            ("a: b", "the head has no end"),
            ("a: b\r", "the head has no end"),
            ("\n", "a line ends with a bare line feed"),
            ("a: b\n\r\n", "a line ends with a bare line feed"),
            ("a\r\n\r\n", "a header field has no colon"),
            (": b\r\n\r\n", "the name of a header field is malformed"),
            ("a : b\r\n\r\n", "the name of a header field is malformed"),
            (" a: b\r\n\r\n", "the name of a header field is malformed"),
            ("a\u{e9}: b\r\n\r\n", "the name of a header field is malformed"),
            ("a: b\rc\r\n\r\n", "the value of a header field holds a control character"),
            ("a: 0123456789abcdef\0\r\n\r\n", "the value of a header field holds a control character"),
            ("a: \u{7f}\r\n\r\n", "the value of a header field holds a control character"),
            ("a: b\r\r\n\r\n", "the value of a header field holds a control character"),
        ] {
            assert_eq!(read(line.as_bytes()), Err(why), "{line:?}");
        }
    }

    #[test]
    fn a_byte_is_found_wherever_it_stands() {
        for len in 0..50 {
            let mut bytes = vec![b'x'; len];
            assert_eq!(find(&bytes, is_control), None);
            for at in (0..len).rev() {
                bytes[at] = b'\n';
                assert_eq!(find(&bytes, is_control), Some(at), "{len}");
            }
        }
    }

    #[test]
    fn classes_are_those_of_the_grammar() {
        for byte in 0..=u8::MAX {
            let mark = b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(byte), byte.is_ascii_alphanumeric() || mark, "{byte}");
            assert_eq!(is_control(byte), byte.is_ascii_control() && byte != b'\t', "{byte}");
        }
        assert_eq!((length(b"007"), length(b"+7"), length(b""), length(b"7 ")), (Some(7), None, None, None));
        assert_eq!(length(&[b'9'; 18]), Some(999_999_999_999_999_999));
        assert_eq!(length(&[b'1'; 19]), None);
        assert_eq!(tokens(b" a,, b c ,\t,d").collect::<Vec<_>>(), [&b"a"[..], b"b c", b"d"]);
    }
}
