//! The proxy's folder on disk: made when missing, private to its owner, used by one process at a time. What
//! is in it is the business of others.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use registry_api::setting::BadSetting;

const LOCK_FILE: &str = "lock";

/// The folder, locked for the life of this value.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Makes the folder and takes its lock. `inherited` is the lock that a predecessor holds and gives away, if it is
    /// that of this folder.
    pub fn open(path: &Path, inherited: Option<File>) -> Result<Self, BadSetting> {
        let refuse = |error: io::Error| bad(path, &format!("cannot be used: {error}"));
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(refuse)?;
        let file = path.join(LOCK_FILE);
        let lock = OpenOptions::new().create(true).append(true).open(file).map_err(refuse)?;
        if let Some(inherited) = inherited.filter(|inherited| is_same(inherited, &lock)) {
            return Ok(Self { path: path.to_owned(), lock: inherited });
        }
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(bad(path, "is in use by another process")),
            Err(TryLockError::Error(error)) => Err(refuse(error)),
        }
    }

    /// What holds the folder, for one who is to hold it as well.
    pub fn share(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn is_same(one: &File, other: &File) -> bool {
    let file = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
}

fn bad(path: &Path, problem: &str) -> BadSetting {
    BadSetting::new("data_dir", format!("{} {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_and_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let held = DataDir::open(&path, None).unwrap();
        assert_eq!(held.path(), path);
        let refused = DataDir::open(&path, None).unwrap_err();
        assert_eq!(refused.setting, "data_dir");
        assert!(refused.problem.ends_with("is in use by another process"), "{refused}");
        drop(held);
        DataDir::open(&path, None).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_lock_that_is_given_away_holds_its_own_folder_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        let old = DataDir::open(&here, None).unwrap();
        let new = DataDir::open(&here, Some(old.share().unwrap())).unwrap();
        drop(old);
        assert!(DataDir::open(&here, None).is_err(), "the new one holds it");
        let other = DataDir::open(&there, Some(new.share().unwrap())).unwrap();
        assert!(DataDir::open(&there, None).is_err());
        drop((new, other));
        DataDir::open(&here, None).unwrap();
    }

    #[test]
    fn a_path_that_is_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(DataDir::open(&dir.path().join("file"), None).unwrap_err().setting, "data_dir");
    }
}
