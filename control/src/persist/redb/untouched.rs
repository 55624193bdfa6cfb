//! A file that a database may read and believes to write: what is written stays in memory and goes with it. Nothing
//! is copied, and the file remains as it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// What is kept of writes is kept in pieces of this length.
const BLOCK_BYTES: usize = 4096;

/// A file and what was written over it.
#[derive(Debug)]
pub(super) struct Untouched {
    file: File,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    bytes: u64,
    /// How much of the file still counts; beyond are zeros.
    file_bytes: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

impl Untouched {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, over: Mutex::new(Over { bytes, file_bytes: bytes, blocks: BTreeMap::new() }) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.over().bytes == 0
    }

    fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file has from `offset` on, and zeros behind its end.
    fn read_file(&self, offset: u64, out: &mut [u8], file_bytes: u64) -> io::Result<()> {
        let left = usize::try_from(file_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (there, beyond) = out.split_at_mut(left.min(out.len()));
        self.file.read_exact_at(there, offset)?;
        beyond.fill(0);
        Ok(())
    }
}

impl StorageBackend for Untouched {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        if offset + out.len() as u64 > over.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (block, at, piece) in pieces(offset, out) {
            match over.blocks.get(&block) {
                Some(written) => piece.copy_from_slice(&written[at..at + piece.len()]),
                None => self.read_file(block * BLOCK_BYTES as u64 + at as u64, piece, over.file_bytes)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut over = self.over();
        over.bytes = bytes;
        over.file_bytes = over.file_bytes.min(bytes);
        // What is cut off must be zeros should the length grow again.
        over.blocks.retain(|block, _| block * (BLOCK_BYTES as u64) < bytes);
        let (last, kept) = (bytes / BLOCK_BYTES as u64, (bytes % BLOCK_BYTES as u64) as usize);
        if let Some(block) = over.blocks.get_mut(&last) {
            block[kept..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        over.bytes = over.bytes.max(offset + data.len() as u64);
        let mut data = data.to_vec();
        for (block, at, piece) in pieces(offset, &mut data) {
            if !over.blocks.contains_key(&block) {
                let mut before = Box::new([0; BLOCK_BYTES]);
                self.read_file(block * BLOCK_BYTES as u64, &mut before[..], over.file_bytes)?;
                over.blocks.insert(block, before);
            }
            let written = over.blocks.get_mut(&block).expect("it was put there");
            written[at..at + piece.len()].copy_from_slice(piece);
        }
        Ok(())
    }
}

/// The bytes from `offset` on, cut at the borders of blocks: the block, where in it, and the piece.
fn pieces(offset: u64, mut bytes: &mut [u8]) -> impl Iterator<Item = (u64, usize, &mut [u8])> {
    let mut offset = offset;
    std::iter::from_fn(move || {
        let (block, at) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        let length = (BLOCK_BYTES - at).min(bytes.len());
        let (piece, rest) = std::mem::take(&mut bytes).split_at_mut(length);
        (bytes, offset) = (rest, offset + length as u64);
        (length > 0).then_some((block, at, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_000_u64, vec(any::<u8>(), 0..9_000)).prop_map(|(at, data)| Step::Write(at, data)),
            (0..20_000_u64).prop_map(Step::SetLen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_reads_as_a_file_would_that_was_written_and_the_file_stays(
            first in vec(any::<u8>(), 0..12_000),
            steps in vec(step(), 0..8),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            std::fs::write(&path, &first).unwrap();
            let untouched = Untouched::open(&path).unwrap();
            let mut expected = first.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let end = at as usize + data.len();
                        expected.resize(expected.len().max(end), 0);
                        expected[at as usize..end].copy_from_slice(&data);
                        untouched.write(at, &data).unwrap();
                    }
                    Step::SetLen(bytes) => {
                        expected.resize(bytes as usize, 0);
                        untouched.set_len(bytes).unwrap();
                    }
                }
                let mut found = vec![1; untouched.len().unwrap() as usize];
                untouched.read(0, &mut found).unwrap();
                prop_assert!(found == expected);
            }
            prop_assert!(untouched.read(untouched.len().unwrap(), &mut [0]).is_err());
            prop_assert!(std::fs::read(&path).unwrap() == first);
        }
    }
}
