//! Content hashes: equal hash means nothing to send, on any replica. A set's hash is the sum of its
//! members' hashes, so that one change costs one addition; it protects against bugs, not attackers.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The hash of a set, independent of order. The empty set has the hash zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash(u128);

impl ContentHash {
    /// The hash of one member, given its canonical bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_digest(Sha256::new_with_prefix(bytes))
    }

    fn of_digest(digest: Sha256) -> Self {
        let mut head = [0; 16];
        head.copy_from_slice(&digest.finalize()[..16]);
        Self(u128::from_be_bytes(head))
    }

    /// This set with `member` added.
    #[must_use]
    pub fn with(self, member: Self) -> Self {
        Self(self.0.wrapping_add(member.0))
    }

    /// This set with `member` taken out.
    #[must_use]
    pub fn without(self, member: Self) -> Self {
        Self(self.0.wrapping_sub(member.0))
    }

    /// One hash for several sets and numbers that belong together. Order matters.
    pub fn combine(parts: &[Self], number: u64) -> Self {
        let mut bytes = Vec::with_capacity(parts.len() * 16 + 8);
        for part in parts {
            bytes.extend_from_slice(&part.0.to_be_bytes());
        }
        bytes.extend_from_slice(&number.to_be_bytes());
        Self::of(&bytes)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Passes bytes on and hashes them, so that nobody has to hold all of them at once.
#[derive(Debug)]
pub struct HashingWriter<W> {
    to: W,
    digest: Sha256,
}

impl<W> HashingWriter<W> {
    /// Passes everything on to `to`.
    pub fn new(to: W) -> Self {
        Self { to, digest: Sha256::new() }
    }

    /// Where it went, and the hash of what was written.
    pub fn finish(self) -> (W, ContentHash) {
        (self.to, ContentHash::of_digest(self.digest))
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a content hash has 32 hexadecimal digits")]
pub struct NotAHash;

impl FromStr for ContentHash {
    type Err = NotAHash;
    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex {
            return Err(NotAHash);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| NotAHash)
    }
}

impl TryFrom<String> for ContentHash {
    type Error = NotAHash;
    fn try_from(text: String) -> Result<Self, NotAHash> {
        text.parse()
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        hash.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_members_does_not_matter_and_removal_undoes_addition() {
        let (a, b) = (ContentHash::of(b"a"), ContentHash::of(b"b"));
        let empty = ContentHash::default();
        assert_eq!(empty.with(a).with(b), empty.with(b).with(a));
        assert_eq!(empty.with(a).with(b).without(a), empty.with(b));
        assert_ne!(empty.with(a), empty);
    }

    #[test]
    fn what_is_passed_on_piece_by_piece_is_hashed_as_a_whole() {
        let mut writer = HashingWriter::new(vec![]);
        [b"on".as_slice(), b"", b"e thing"].into_iter().for_each(|piece| writer.write_all(piece).unwrap());
        let (written, hash) = writer.finish();
        assert_eq!((written.as_slice(), hash), (b"one thing".as_slice(), ContentHash::of(b"one thing")));
        // Only what the other end took counts.
        let mut short = [0; 3];
        let mut writer = HashingWriter::new(short.as_mut_slice());
        assert_eq!(writer.write(b"one thing").unwrap(), 3);
        assert_eq!(writer.finish().1, ContentHash::of(b"one"));
    }

    #[test]
    fn text_and_back_is_identity_and_odd_text_is_refused() {
        let hash = ContentHash::of(b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for odd in ["", "12", "+0000000000000000000000000000001", "zz000000000000000000000000000000"] {
            assert_eq!(odd.parse::<ContentHash>(), Err(NotAHash));
        }
    }
}
