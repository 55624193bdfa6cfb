//! The directory the registry keeps its files in: created, locked against a second process, and written so
//! that a crash leaves the old file or the new one. What is in the files is not known here.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use registry_api::setting::BadSetting;

/// How many damaged files are kept of one name; then an operator has to tidy up.
pub const SET_ASIDE_MAX: usize = 100;

const SETTING: &str = "data_dir";

/// A locked directory. The lock ends with the value, or with the process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory, readable by its owner alone, and locks it.
    pub fn open(path: &Path) -> Result<Self, BadSetting> {
        let failed = |what: &str, error: io::Error| {
            BadSetting::new(SETTING, format!("cannot {what} {}: {error}", path.display()))
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failed("create", error))?;
        let lock = private().create(true).truncate(false).open(path.join("lock"));
        let lock = lock.map_err(|error| failed("write in", error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(BadSetting::new(SETTING, format!("{} is in use by another process", path.display())))
            }
            Err(TryLockError::Error(error)) => Err(failed("lock", error)),
        }
    }

    /// The whole file, or `None` when there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BadSetting> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BadSetting::new(SETTING, format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// Replaces the file as a whole, durably.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let aside = self.path.join(format!("{name}.new"));
        let mut file = private().create(true).truncate(true).open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    /// Renames a damaged file to `<name>.corrupt-<n>` and returns the new path.
    pub fn set_aside(&self, name: &str) -> Result<PathBuf, BadSetting> {
        let damaged = self.path.join(name);
        let free = (1..=SET_ASIDE_MAX)
            .map(|number| self.path.join(format!("{name}.corrupt-{number}")))
            .find(|path| !path.exists());
        let Some(free) = free else {
            let problem = format!("{} holds {SET_ASIDE_MAX} damaged files already", self.path.display());
            return Err(BadSetting::new(SETTING, problem));
        };
        fs::rename(&damaged, &free).map_err(|error| {
            BadSetting::new(SETTING, format!("cannot rename {}: {error}", damaged.display()))
        })?;
        Ok(free)
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/er");
        let first = DataDir::open(&path).unwrap();
        let refused = DataDir::open(&path).unwrap_err();
        assert_eq!(refused.setting, "data_dir");
        assert!(refused.problem.ends_with("is in use by another process"), "{refused}");
        drop(first);
        assert!(DataDir::open(&path).is_ok());
    }

    #[test]
    fn a_path_that_is_no_directory_is_a_bad_setting() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(DataDir::open(&file).unwrap_err().setting, "data_dir");
    }

    #[test]
    fn files_are_replaced_whole_and_set_aside_under_free_names() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        assert_eq!(dir.read("f").unwrap(), None);
        for (number, text) in ["one", "two"].into_iter().enumerate() {
            dir.replace("f", text.as_bytes()).unwrap();
            assert_eq!(dir.read("f").unwrap().as_deref(), Some(text.as_bytes()));
            let aside = dir.set_aside("f").unwrap();
            assert_eq!(aside, home.path().join(format!("f.corrupt-{}", number + 1)));
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
        }
    }
}
