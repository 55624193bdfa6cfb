//! Follows the framing of a chunked body to know where it ends, and refuses what could be read in two ways. It
//! copies and decodes nothing: the engine does that behind it.

/// Size line with its extension, in bytes.
const SIZE_LINE_BYTES_MAX: u32 = 256;
/// Sixty bits; more digits are no size but an attempt.
const SIZE_DIGITS_MAX: u32 = 15;
/// All trailer fields together, in bytes.
const TRAILER_BYTES_MAX: u32 = 16 * 1024;

/// The place in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    state: State,
    /// Digits or bytes of the line so far.
    line: u32,
    /// Bytes of the trailer section so far.
    trailer: u32,
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    TrailerStart,
    Trailer,
    TrailerFeed,
    LastFeed,
    Done,
}

/// The framing is wrong; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed: {0}")]
pub(crate) struct BadChunks(pub(crate) &'static str);

impl Chunks {
    /// Before the first size line.
    pub(crate) fn new() -> Self {
        Self { state: State::Size, line: 0, trailer: 0, size: 0 }
    }

    /// The last chunk and the trailers were seen.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Goes over `bytes`; how many of them belong to the body. Fewer than all only at its end.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<usize, BadChunks> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                let step = left.min(bytes.len() - at);
                self.size -= step as u64;
                at += step;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
            } else {
                self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunks> {
        self.state = match (self.state, byte) {
            (State::Size, _) if byte.is_ascii_hexdigit() => {
                self.line += 1;
                if self.line > SIZE_DIGITS_MAX {
                    return Err(BadChunks("a size has too many digits"));
                }
                self.size = self.size * 16 + u64::from(hex(byte));
                State::Size
            }
            (State::Size, _) if self.line == 0 => return Err(BadChunks("a size is missing")),
            (State::Size | State::Extension, b'\r') => State::SizeFeed,
            (State::Size, b';' | b' ' | b'\t') => State::Extension,
            (State::Extension, b' '..=b'~' | b'\t' | 0x80..) => {
                self.line += 1;
                if self.line > SIZE_LINE_BYTES_MAX {
                    return Err(BadChunks("a size line is too long"));
                }
                State::Extension
            }
            (State::SizeFeed, b'\n') => {
                self.line = 0;
                if self.size == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataReturn, b'\r') => State::DataFeed,
            (State::DataFeed, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::LastFeed,
            (State::Trailer, b'\r') => State::TrailerFeed,
            (State::TrailerStart | State::Trailer, b' '..=b'~' | b'\t' | 0x80..) => {
                self.trailer += 1;
                if self.trailer > TRAILER_BYTES_MAX {
                    return Err(BadChunks("the trailer section is too long"));
                }
                State::Trailer
            }
            (State::TrailerFeed, b'\n') => State::TrailerStart,
            (State::LastFeed, b'\n') => State::Done,
            _ => return Err(BadChunks("an unexpected byte")),
        };
        Ok(())
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(body: &[u8], step: usize) -> Result<(usize, bool), BadChunks> {
        let mut chunks = Chunks::new();
        let mut used = 0;
        for part in body.chunks(step) {
            let taken = chunks.follow(part)?;
            used += taken;
            if taken < part.len() {
                break;
            }
        }
        Ok((used, chunks.is_done()))
    }

    #[test]
    fn the_end_is_found_at_any_pace_and_nothing_behind_it_is_taken() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"A\r\n0123456789\r\n1;ext=\"x\"\r\n-\r\n00\r\nX-Sum: 1\r\nY: 2\r\n\r\n",
        ] {
            let mut followed = body.to_vec();
            followed.extend_from_slice(b"GET / HTTP/1.1\r\n");
            for step in 1..followed.len() {
                assert_eq!(follow(&followed, step), Ok((body.len(), true)), "{body:?} by {step}");
            }
            for cut in 0..body.len() {
                assert_eq!(follow(&body[..cut], 3), Ok((cut, false)), "{body:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for body in [
            &b"\r\nhello"[..],
            b"0x5\r\nhello\r\n",
            b"-5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloo\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\n\n",
            b"1111111111111111\r\n",
        ] {
            assert!(follow(body, 1).is_err(), "{body:?}");
        }
        let long = [&b"5;"[..], &[b'x'; 300]].concat();
        assert!(follow(&long, 7).is_err());
    }
}
