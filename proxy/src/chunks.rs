//! Follows the framing of a chunked body to know where it ends and what of it are trailer fields, and refuses what could
//! be read in two ways. It copies and decodes nothing.

use std::ops::Range;

use crate::fields::{is_control, is_token};

/// Sixty bits; more digits are no size but an attempt.
const SIZE_DIGITS_MAX: u32 = 15;
/// All trailer fields together, in bytes.
const TRAILER_BYTES_MAX: u32 = 16 * 1024;

/// The place in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    state: State,
    /// Digits of the size so far.
    digits: u32,
    /// Bytes of the trailer section so far.
    trailer: u32,
    /// What is left of the current chunk.
    size: u64,
    /// Bytes of data so far.
    data: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerFeed,
    LastFeed,
    Done,
}

/// What a stretch of a chunked body is, and how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// Sent on as it is.
    Kept(usize),
    /// Trailer fields, left out.
    Dropped(usize),
}

/// How many bytes were looked at, and how many of them are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sifted {
    pub(crate) kept: usize,
    pub(crate) used: usize,
}

/// The framing is wrong; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed: {0}")]
pub(crate) struct BadChunks(pub(crate) &'static str);

impl Chunks {
    /// Before the first size line.
    pub(crate) fn new() -> Self {
        Self { state: State::Size, digits: 0, trailer: 0, size: 0, data: 0 }
    }

    /// How many bytes of data came so far, without their framing.
    pub(crate) fn data(&self) -> u64 {
        self.data
    }

    /// How much data of the current chunk is to come.
    pub(crate) fn left_of_chunk(&self) -> usize {
        if self.state == State::Data { usize::try_from(self.size).unwrap_or(usize::MAX) } else { 0 }
    }

    /// The last chunk and the trailers were seen.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Goes over `bytes` as far as they are of one kind. The empty line that ends the body is kept; `Kept(0)` when there
    /// are no bytes, or none of them belongs to the body.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Stretch, BadChunks> {
        let dropped = bytes.first().is_some_and(|byte| self.is_of_trailer(*byte));
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done && self.is_of_trailer(bytes[at]) == dropped {
            if self.state == State::Data {
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                let step = left.min(bytes.len() - at);
                self.size -= step as u64;
                self.data += step as u64;
                at += step;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
            } else {
                self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(if dropped { Stretch::Dropped(at) } else { Stretch::Kept(at) })
    }

    /// Goes over `bytes` up to the end of the next piece of data, and says where that lies; empty when there is none.
    pub(crate) fn content(&mut self, bytes: &[u8]) -> Result<Range<usize>, BadChunks> {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.state, State::Data | State::Done) {
            self.step(bytes[at])?;
            at += 1;
        }
        let len = self.left_of_chunk().min(bytes.len() - at);
        // As far as it is data, it is of one kind.
        let _kept = self.next(&bytes[at..at + len])?;
        Ok(at..at + len)
    }

    /// Goes over `bytes` as far as they belong to the body, and moves those that are kept to the front.
    pub(crate) fn sift(&mut self, bytes: &mut [u8]) -> Result<Sifted, BadChunks> {
        let mut sifted = Sifted { kept: 0, used: 0 };
        loop {
            match self.next(&bytes[sifted.used..])? {
                Stretch::Kept(0) | Stretch::Dropped(0) => return Ok(sifted),
                Stretch::Kept(len) => {
                    if sifted.kept < sifted.used {
                        bytes.copy_within(sifted.used..sifted.used + len, sifted.kept);
                    }
                    sifted.kept += len;
                    sifted.used += len;
                }
                Stretch::Dropped(len) => sifted.used += len,
            }
        }
    }

    /// Whether `byte`, the next one, is part of a trailer field or its line end.
    fn is_of_trailer(&self, byte: u8) -> bool {
        match self.state {
            State::TrailerStart => byte != b'\r',
            State::TrailerName | State::TrailerValue | State::TrailerFeed => true,
            _ => false,
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunks> {
        if self.is_of_trailer(byte) {
            self.trailer += 1;
            if self.trailer > TRAILER_BYTES_MAX {
                return Err(BadChunks("the trailer section is too long"));
            }
        }
        self.state = match (self.state, byte) {
            (State::Size, _) if byte.is_ascii_hexdigit() => {
                self.digits += 1;
                if self.digits > SIZE_DIGITS_MAX {
                    return Err(BadChunks("a size has too many digits"));
                }
                self.size = self.size * 16 + u64::from(hex(byte));
                State::Size
            }
            (State::Size, _) if self.digits == 0 => return Err(BadChunks("a size is missing")),
            (State::Size, b'\r') => State::SizeFeed,
            // Nobody needs them, and what is skipped by one reader may mean something to the next.
            (State::Size, b';' | b' ' | b'\t') => return Err(BadChunks("a size has an extension")),
            (State::SizeFeed, b'\n') => {
                self.digits = 0;
                if self.size == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataReturn, b'\r') => State::DataFeed,
            (State::DataFeed, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::LastFeed,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, _) if !is_control(byte) => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerFeed,
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
            let taken = chunks.sift(&mut part.to_vec())?.used;
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
            b"A\r\n0123456789\r\n1\r\n-\r\n00\r\nX-Sum: 1\r\nY: 2\r\n\r\n",
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
            b"5;a\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"5\t\r\nhello\r\n",
            b"5 ;a=b\r\nhello\r\n",
            b"0;a\r\n\r\n",
            b"0 \r\n\r\n",
            b"5\r\r\nhello\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\n: y\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nX: y\r\n folded\r\n\r\n",
            b"0\r\nX: \0\r\n\r\n",
            b"0\r\nX: \r\r\n\r\n",
            b"0\r\n\r\r\n",
            b"0\r\n\n",
            b"1111111111111111\r\n",
        ] {
            assert!(follow(body, 1).is_err(), "{body:?}");
        }
        let long = [&b"0\r\nx:"[..], &vec![b'x'; TRAILER_BYTES_MAX as usize]].concat();
        assert!(follow(&long, 7).is_err());
        let many = [&b"0\r\n"[..], &b"a:\r\n".repeat(TRAILER_BYTES_MAX as usize / 4 + 1)].concat();
        assert!(follow(&many, 4096).is_err());
    }

    /// The kept and the dropped bytes of a whole body that comes in pieces, and how many there were.
    fn sort(pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>, usize), BadChunks> {
        let (mut chunks, mut kept, mut dropped) = (Chunks::new(), Vec::new(), Vec::new());
        for mut piece in pieces.iter().copied() {
            loop {
                let (to, len) = match chunks.next(piece)? {
                    Stretch::Kept(0) => break,
                    Stretch::Kept(len) => (&mut kept, len),
                    Stretch::Dropped(len) => (&mut dropped, len),
                };
                assert_ne!(len, 0);
                to.extend_from_slice(&piece[..len]);
                piece = &piece[len..];
            }
            assert!(piece.is_empty() || chunks.is_done());
        }
        assert!(chunks.is_done());
        let len = kept.len() + dropped.len();
        Ok((kept, dropped, len))
    }

    #[test]
    fn trailer_fields_are_told_apart_however_the_body_is_cut() {
        for (data, trailers) in [
            ("0\r\n", ""),
            ("0\r\n", "X: y\r\n"),
            ("000\r\n", "X:\r\n"),
            ("5\r\nhello\r\n0\r\n", "X-Sum: 1\t2\r\nY:\r\nhost: \u{e9}\r\n"),
            ("a\r\n0\r\n\r\nX: y\r\r\n0\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ] {
            let (lean, body) = (format!("{data}\r\n"), format!("{data}{trailers}\r\n"));
            let followed = format!("{body}5\r\nGET / HTTP/1.1");
            for first in 0..=body.len() {
                for second in first..=body.len() {
                    let (begin, rest) = followed.as_bytes().split_at(second);
                    let (begin, middle) = begin.split_at(first);
                    let (kept, dropped, len) = sort(&[begin, middle, rest]).unwrap();
                    assert_eq!((&*kept, &*dropped), (lean.as_bytes(), trailers.as_bytes()), "{body:?}");
                    assert_eq!(len, body.len());
                }
            }
            assert_eq!(follow(lean.as_bytes(), 3), Ok((lean.len(), true)));
        }
    }

    #[test]
    fn the_data_is_found_however_the_body_is_cut() {
        for (body, data) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("5\r\nhello\r\n009\r\n0\r\n\r\n5\r\n0\r\n0\r\nX: y\r\n\r\n", "hello0\r\n\r\n5\r\n0"),
        ] {
            let followed = format!("{body}5\r\nlater");
            for step in 1..=followed.len() {
                let (mut chunks, mut found) = (Chunks::new(), String::new());
                for mut piece in followed.as_bytes().chunks(step) {
                    while !piece.is_empty() && !chunks.is_done() {
                        let content = chunks.content(piece).unwrap();
                        found.push_str(std::str::from_utf8(&piece[content.clone()]).unwrap());
                        piece = &piece[content.end..];
                    }
                }
                assert!(chunks.is_done() && chunks.data() == data.len() as u64);
                assert_eq!(found, data, "by {step}");
            }
        }
        assert!(Chunks::new().content(b"5\nhello").is_err());
        assert_eq!(Chunks::new().content(b""), Ok(0..0));
    }

    #[test]
    fn without_bytes_and_behind_the_end_there_is_nothing() {
        let mut chunks = Chunks::new();
        assert_eq!(chunks.next(b""), Ok(Stretch::Kept(0)));
        assert_eq!(chunks.next(b"0\r\nX: y\r\n\r\n"), Ok(Stretch::Kept(3)));
        assert_eq!(chunks.next(b""), Ok(Stretch::Kept(0)));
        assert_eq!(chunks.next(b"X: y\r\n\r\n"), Ok(Stretch::Dropped(6)));
        assert_eq!(chunks.next(b"\r\nX: y"), Ok(Stretch::Kept(2)));
        assert!(chunks.is_done());
        assert_eq!(chunks.next(b"X: y"), Ok(Stretch::Kept(0)));
        assert_eq!(chunks.sift(&mut b"X: y".to_vec()), Ok(Sifted { kept: 0, used: 0 }));
    }
}
