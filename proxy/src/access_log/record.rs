//! One request as the access log tells it: field names, order and escaping of spec/control-and-proxy.md 3.8.
//! Values are whatever a client sent, so every one is escaped and bounded here.

use std::cell::Cell;
use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, SystemTime};

/// The most bytes of one value; longer ones are cut. A head of 64 KiB must not become a line of 64 KiB.
pub const VALUE_MAX_BYTES: usize = 4096;
/// The key of the trace that every line has, as the ancestors wrote it; `-` when no trace rule was met.
const UNTRACED: &str = "gremlin_recipe_id";
/// The fields of every line. A trace may not take their names.
const FIELDS: [&str; 21] = [
    "status",
    "start_time",
    "request_time",
    "upstream_response_time",
    "upstream_response_time_s",
    "timestamp_ms",
    "src",
    "dst",
    "message",
    "module",
    "method",
    "path",
    "protocol",
    "response_flags",
    "x_forwarded",
    "user_agent",
    "request_id",
    "auth",
    "upstream_host",
    "gremlin_recipe_id",
    "fault_rule",
];

/// Why a request ended as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// No healthy upstream: `UH`.
    NoHealthyUpstream,
    /// Connecting failed: `UF`.
    ConnectFailure,
    /// A breaker was open: `UO`.
    Overflow,
    /// The upstream took too long: `UT`.
    UpstreamTimeout,
    /// The upstream broke off: `UR`.
    UpstreamReset,
    /// No route: `NR`.
    NoRoute,
    /// A delay was injected: `DI`.
    DelayInjected,
    /// A fault was injected: `FI`.
    FaultInjected,
    /// A limit of the route was reached: `RL`.
    RateLimited,
    /// The proxy lacked what a connection takes: `PX`.
    Shortage,
}

const FLAGS: [(Flag, &str); 10] = [
    (Flag::NoHealthyUpstream, "UH"),
    (Flag::ConnectFailure, "UF"),
    (Flag::Overflow, "UO"),
    (Flag::UpstreamTimeout, "UT"),
    (Flag::UpstreamReset, "UR"),
    (Flag::NoRoute, "NR"),
    (Flag::DelayInjected, "DI"),
    (Flag::FaultInjected, "FI"),
    (Flag::RateLimited, "RL"),
    (Flag::Shortage, "PX"),
];

/// A set of [`Flag`]s, written comma-joined, `-` when empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// Adds a flag.
    pub fn set(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u8;
    }

    /// Whether a flag is in the set.
    pub fn has(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (flag, word) in FLAGS {
            if self.has(flag) {
                write!(f, "{separator}{word}")?;
                separator = ",";
            }
        }
        if separator.is_empty() { f.write_str("-") } else { Ok(()) }
    }
}

/// Everything a line says. Empty values are written as `-`.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// What was sent; 499 when the client left before the answer, 0 when its connection was closed by a fault or is no request.
    pub status: u16,
    /// When the request came.
    pub start: SystemTime,
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
    /// The part of it spent with the upstream; `None` when none was called.
    pub upstream_duration: Option<Duration>,
    /// Whom this proxy stands for.
    pub src: &'a str,
    /// The chosen backend, `service:tag,tag`.
    pub dst: &'a str,
    /// Key and value of each trace action that ran.
    pub traces: &'a [(&'a str, &'a str)],
    /// As sent.
    pub method: &'a str,
    /// Before rewriting, with its query.
    pub path: &'a str,
    /// `HTTP/1.1`, or `TCP`.
    pub protocol: &'a str,
    /// See [`Flag`].
    pub flags: Flags,
    /// `X-Forwarded-For` as received.
    pub x_forwarded: &'a [u8],
    /// `User-Agent` as received.
    pub user_agent: &'a [u8],
    /// `X-Request-Id`, received or made here.
    pub request_id: &'a [u8],
    /// The authority.
    pub authority: &'a [u8],
    /// The instance that answered; `None` when none was called.
    pub upstream: Option<SocketAddr>,
    /// Bytes received and sent; `None` for a request, and then not written.
    pub bytes: Option<[u64; 2]>,
    /// The rule whose faults the request met; empty when it met none, and then not written.
    pub fault_rule: &'a str,
}

/// What stands in front of a value: a comma, the name of the field, a colon.
macro_rules! before {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// The same in front of a string.
macro_rules! quoted {
    ($name:literal) => {
        concat!(before!($name), "\"")
    };
}

impl Record<'_> {
    /// Appends the line, with its end.
    pub fn write_to(&self, text: &mut Vec<u8>) {
        let mut line = Line(text);
        line.put("{\"status\":\"");
        line.number(u64::from(self.status));
        line.moment(concat!("\"", quoted!("start_time")), self.start);
        line.put(concat!("Z\"", before!("request_time")));
        line.number(millis(self.duration));
        line.put(quoted!("upstream_response_time"));
        match self.upstream_duration {
            Some(time) => line.number(millis(time)),
            None => line.put("-"),
        }
        line.text(concat!("\"", quoted!("src")), self.src);
        line.text(quoted!("dst"), self.dst);
        self.traces(&mut line);
        line.put(quoted!("message"));
        let method = line.kept(cut(self.method));
        line.put(" ");
        let path = line.kept(cut(self.path));
        line.put(" ");
        line.number(u64::from(self.status));
        line.again(concat!("\"", quoted!("module"), "A8PROXY\"", quoted!("method")), method);
        line.again(quoted!("path"), path);
        line.text(quoted!("protocol"), self.protocol);
        line.put(quoted!("response_flags"));
        if self.flags == Flags::default() {
            line.put("-");
        } else {
            let _ = write!(line.0, "{}", self.flags);
        }
        line.bytes(concat!("\"", quoted!("x_forwarded")), self.x_forwarded);
        line.bytes(quoted!("user_agent"), self.user_agent);
        line.bytes(quoted!("request_id"), self.request_id);
        line.bytes(quoted!("auth"), self.authority);
        line.put(quoted!("upstream_host"));
        match self.upstream {
            Some(address) => line.address(address),
            None => line.put("-"),
        }
        line.put(concat!("\"", before!("upstream_response_time_s")));
        line.seconds(self.upstream_duration.unwrap_or_default());
        line.put(before!("timestamp_ms"));
        line.millis_since_1970(self.start);
        if let Some([received, sent]) = self.bytes {
            line.put(before!("bytes_received"));
            line.number(received);
            line.put(before!("bytes_sent"));
            line.number(sent);
        }
        if !self.fault_rule.is_empty() {
            line.text(quoted!("fault_rule"), self.fault_rule);
        }
        line.put("}\n");
    }

    fn traces(&self, line: &mut Line<'_>) {
        if self.traces.is_empty() {
            return line.put(concat!(quoted!("gremlin_recipe_id"), "-\""));
        }
        for (at, (key, value)) in self.traces.iter().enumerate() {
            // One key twice makes a line that readers disagree about: the last one counts.
            if self.traces[at + 1..].iter().any(|(later, _)| later == key) {
                continue;
            }
            let taken = *key != UNTRACED && FIELDS.contains(key);
            line.trace(if taken { "trace_" } else { "" }, key, value);
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000).saturating_add(u64::from(time.subsec_millis()))
}

thread_local! {
    /// The last second that this thread wrote, and its text: hardly any second has only one line.
    static SECOND: Cell<(u64, [u8; SECOND_BYTES])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
}

const SECOND_BYTES: usize = 19;

/// The text of a second since 1970; for what lies beyond the year 9999, the last that was written.
fn second(secs: u64) -> [u8; SECOND_BYTES] {
    let (at, text) = SECOND.get();
    if at == secs {
        return text;
    }
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
    let mut long = String::with_capacity(SECOND_BYTES + 1);
    // Whatever is wrong with it, a time is no reason to lose a line.
    let written =
        fmt::Write::write_fmt(&mut long, format_args!("{}", humantime::format_rfc3339_seconds(moment)));
    let fresh = written.ok().and_then(|()| long.as_bytes().get(..SECOND_BYTES)?.try_into().ok());
    let Some(fresh) = fresh else { return text };
    SECOND.set((secs, fresh));
    fresh
}

/// Whether JSON takes these bytes as they are. Looks at eight at once, and at some twice where that saves a look at each.
fn is_plain(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().all(|byte| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\'));
    };
    let words = bytes.as_chunks().0.iter().chain([last]);
    words.fold(0, |odd, word| odd | odd_in(u64::from_ne_bytes(*word))) == 0
}

/// Other than zero when one of eight bytes is not plain.
fn odd_in(word: u64) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    // The highest bit of the lowest byte that is less than `than`; those above it may be wrong, but then one is right.
    let less = |word: u64, than: u8| word.wrapping_sub(each(than)) & !word;
    let is = |byte: u8| less(word ^ each(byte), 1);
    (less(word, 0x20) | is(b'"') | is(b'\\') | is(0x7f) | word) & each(0x80)
}

/// The longest beginning of at most [`VALUE_MAX_BYTES`] that is whole characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(VALUE_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

struct Line<'t>(&'t mut Vec<u8>);

impl Line<'_> {
    /// What needs no escaping. Of known length where it is called, which is faster to copy than any other.
    #[inline(always)]
    fn put(&mut self, text: &'static str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    #[inline(always)]
    fn text(&mut self, before: &'static str, value: &str) {
        self.put(before);
        self.value(if value.is_empty() { "-" } else { cut(value) });
    }

    #[inline(always)]
    fn bytes(&mut self, before: &'static str, value: &[u8]) {
        self.put(before);
        let value = &value[..value.len().min(VALUE_MAX_BYTES)];
        // Nearly everything is plain, and then nobody has to ask whether it is text.
        if value.is_empty() {
            self.put("-\"");
        } else if is_plain(value) {
            self.0.extend_from_slice(value);
            self.put("\"");
        } else {
            self.value(cut(&String::from_utf8_lossy(value)));
        }
    }

    /// To the end of its string.
    fn value(&mut self, value: &str) {
        self.escaped(value);
        self.0.push(b'"');
    }

    /// Where in the line it is, to be written again.
    fn kept(&mut self, value: &str) -> Range<usize> {
        let start = self.0.len();
        self.escaped(value);
        start..self.0.len()
    }

    /// A value that stands in the line already.
    #[inline(always)]
    fn again(&mut self, before: &'static str, value: Range<usize>) {
        self.put(before);
        if value.is_empty() {
            self.put("-");
        } else {
            self.0.extend_from_within(value);
        }
        self.put("\"");
    }

    /// In UTC, down to the digits of the millisecond; a clock may stand before 1970, which is written as 1970.
    fn moment(&mut self, before: &'static str, at: SystemTime) {
        let since_1970 = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = since_1970.subsec_millis();
        self.put(before);
        self.0.extend_from_slice(&second(since_1970.as_secs()));
        self.0.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis)]);
    }

    /// Seconds with as many digits as needed, down to a microsecond. Floating point would take far longer to write.
    fn seconds(&mut self, time: Duration) {
        self.number(time.as_secs());
        let mut micros = time.subsec_micros();
        let mut digits = [b'0'; 6];
        for place in digits.iter_mut().rev() {
            *place = digit(micros);
            micros /= 10;
        }
        if let Some(last) = digits.iter().rposition(|digit| *digit != b'0') {
            self.0.push(b'.');
            self.0.extend_from_slice(&digits[..=last]);
        }
    }

    fn millis_since_1970(&mut self, at: SystemTime) {
        let since_1970 = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = since_1970.subsec_millis();
        if since_1970.as_secs() == 0 {
            return self.number(u64::from(millis));
        }
        self.number(since_1970.as_secs());
        self.0.extend_from_slice(&[digit(millis / 100), digit(millis / 10), digit(millis)]);
    }

    fn number(&mut self, mut value: u64) {
        // Most are times of few milliseconds.
        if value < 10 {
            return self.0.push(b'0' + value as u8);
        }
        // The longest number has twenty digits.
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        while start == digits.len() || value > 0 {
            start -= 1;
            digits[start] = b'0' + (value % 10) as u8;
            value /= 10;
        }
        self.0.extend_from_slice(&digits[start..]);
    }

    /// `ip:port`. Nearly every instance has a short one, for which the general way takes as long as half a line.
    fn address(&mut self, address: SocketAddr) {
        let IpAddr::V4(ip) = address.ip() else {
            let _ = write!(self.0, "{address}");
            return;
        };
        // Gathered first: each of up to thirty pieces would ask whether there is room for it.
        let mut text = [0; "255.255.255.255:65535".len()];
        let mut start = text.len();
        let mut put = |mut number: u32, before: u8| {
            loop {
                start -= 1;
                text[start] = digit(number);
                number /= 10;
                if number == 0 {
                    break;
                }
            }
            if before != 0 {
                start -= 1;
                text[start] = before;
            }
        };
        put(u32::from(address.port()), b':');
        let [a, b, c, d] = ip.octets().map(u32::from);
        [(d, b'.'), (c, b'.'), (b, b'.'), (a, 0)].into_iter().for_each(|(octet, before)| put(octet, before));
        self.0.extend_from_slice(&text[start..]);
    }

    /// Both the key and the value are an operator's.
    fn trace(&mut self, before: &str, key: &str, value: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(before.as_bytes());
        self.escaped(cut(key));
        self.0.extend_from_slice(b"\":\"");
        self.escaped(if value.is_empty() { "-" } else { cut(value) });
        self.0.push(b'"');
    }

    /// The inside of a JSON string (RFC 8259 7). Other line separators are escaped too, for readers that
    /// split at them.
    fn escaped(&mut self, text: &str) {
        if is_plain(text.as_bytes()) {
            return self.0.extend_from_slice(text.as_bytes());
        }
        for c in text.chars() {
            match c {
                '"' => self.0.extend_from_slice(b"\\\""),
                '\\' => self.0.extend_from_slice(b"\\\\"),
                '\n' => self.0.extend_from_slice(b"\\n"),
                '\r' => self.0.extend_from_slice(b"\\r"),
                '\t' => self.0.extend_from_slice(b"\\t"),
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(c));
                }
                c => self.0.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// The last decimal digit of a number.
fn digit(number: u32) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_told_apart_at_every_place() {
        for len in 1..=25 {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'~'; len];
                    bytes[at] = byte;
                    let plain = (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain(&bytes), plain, "{byte} at {at} of {len}");
                }
            }
        }
        assert!(is_plain(b""));
    }

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        for address in ["0.0.0.0:0", "255.255.255.255:65535", "10.0.100.9:80", "127.0.0.1:10203", "[::1]:80"]
        {
            let mut text = Vec::new();
            Line(&mut text).address(address.parse().unwrap());
            assert_eq!(String::from_utf8(text).unwrap(), address);
        }
    }

    #[test]
    fn milliseconds_keep_their_leading_zeros_within_a_second_only() {
        for millis in [0, 7, 999, 1_000, 1_007, 59_070, 1_795_316_160_008] {
            let mut text = Vec::new();
            Line(&mut text).millis_since_1970(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!(String::from_utf8(text).unwrap(), millis.to_string());
        }
    }
}
