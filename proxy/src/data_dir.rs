//! The proxy's folder on disk: made when missing, private to its owner, used by one process at a time. What
//! is in it is the business of others.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use registry_api::setting::BadSetting;

const LOCK_FILE: &str = "lock";

/// The folder, locked for the life of this value.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder and takes its lock.
    pub fn open(path: &Path) -> Result<Self, BadSetting> {
        let refuse = |error: io::Error| bad(path, &format!("cannot be used: {error}"));
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(refuse)?;
        let file = path.join(LOCK_FILE);
        let lock = OpenOptions::new().create(true).append(true).open(file).map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(bad(path, "is in use by another process")),
            Err(TryLockError::Error(error)) => Err(refuse(error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
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
        let held = DataDir::open(&path).unwrap();
        assert_eq!(held.path(), path);
        let refused = DataDir::open(&path).unwrap_err();
        assert_eq!(refused.setting, "data_dir");
        assert!(refused.problem.ends_with("is in use by another process"), "{refused}");
        drop(held);
        DataDir::open(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_path_that_is_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(DataDir::open(&dir.path().join("file")).unwrap_err().setting, "data_dir");
    }
}
