//! The rule store in one file of the data directory: table `rules` (namespace, id) -> JSON and table `meta`
//! namespace -> revision, table `faults` namespace -> disabled, one transaction per edit. A damaged file is reported and left
//! as it is; one that could not be written is opened again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use control_api::Rule;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use registry_api::Namespace;

use self::untouched::Untouched;
use super::{RuleStore, StoreError, encode};
use crate::rulebook::{Accepted, RuleBook};

mod untouched;

const RULES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("rules");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FAULTS: TableDefinition<'_, &str, bool> = TableDefinition::new("faults");

/// The file within the data directory.
const FILE: &str = "rules.redb";
/// The file until it is complete for the first time.
const NEW_FILE: &str = "rules.redb.new";
/// Rules are held in memory anyway; the pages need little.
const CACHE_BYTES: usize = 16 << 20;

type Opened = Result<Database, StoreError>;

/// Rules in a redb file.
pub struct RedbStore {
    open: Box<dyn Fn() -> Opened + Send + Sync>,
    /// Why it cannot be opened, while it cannot. After one failed write redb takes no other until it is opened again.
    database: Mutex<Opened>,
}

impl RedbStore {
    /// Opens or creates the file in `directory`, which must exist and be ours alone.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        if path.exists() {
            examine(&path)?;
        } else {
            create(&path, &directory.join(NEW_FILE))?;
            // The new file must survive as an entry of its directory, too.
            let directory = fs::File::open(directory).and_then(|directory| directory.sync_all());
            directory.map_err(|error| failed(&path, &error))?;
        }
        Self::opened_by(move || builder().open(&path).map_err(|error| opening(&path, error)))
    }

    fn opened_by(open: impl Fn() -> Opened + Send + Sync + 'static) -> Result<Self, StoreError> {
        let database = Mutex::new(Ok(open()?));
        Ok(Self { open: Box::new(open), database })
    }

    /// Works with the database, which is opened first where it is not, and again after a failure.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(self.mended(&mut database)?);
        if let Err(error) = &done {
            // Two of one file cannot be open: the old one goes first.
            *database = Err(error.clone());
            // Whether it opens is asked again by whoever comes next.
            let _ = self.mended(&mut database);
        }
        done
    }

    fn mended<'a>(&self, database: &'a mut Opened) -> Result<&'a Database, StoreError> {
        if database.is_err() {
            *database = (self.open)();
        }
        database.as_ref().map_err(Clone::clone)
    }
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("RedbStore").field("database", &self.database).finish_non_exhaustive()
    }
}

impl RuleStore for RedbStore {
    fn load(&self) -> Result<Vec<(Namespace, RuleBook)>, StoreError> {
        self.with(read_all)
    }

    fn commit(&self, namespace: &Namespace, accepted: &Accepted) -> Result<(), StoreError> {
        let failed = |error: redb::Error| StoreError::Failed(error.to_string());
        self.with(|database| try_commit(database, namespace, accepted).map_err(failed))
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.database.try_lock() {
            Ok(mut database) => self.mended(&mut database).map(|_| ()),
            // Somebody works with it, and opens it where it is not.
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Poisoned(poisoned)) => self.mended(&mut poisoned.into_inner()).map(|_| ()),
        }
    }
}

fn try_commit(database: &Database, namespace: &Namespace, accepted: &Accepted) -> Result<(), redb::Error> {
    let Accepted { book, changes, .. } = accepted;
    let name = namespace.as_str();
    let transaction = database.begin_write()?;
    {
        let mut rules = transaction.open_table(RULES)?;
        let before =
            transaction.open_table(META)?.insert(name, changes.revision)?.map(|before| before.value());
        let put: Vec<_> = if before.unwrap_or(0) + 1 == changes.revision {
            for id in &changes.delete {
                rules.remove((name, id.as_str()))?;
            }
            changes.put.iter().collect()
        } else {
            // An edit was kept whose caller was told that it failed. The book knows nothing of it.
            rules.retain(|(of, _), _| of != name)?;
            book.rules().values().collect()
        };
        for rule in put {
            rules.insert((name, rule.id.as_str()), encode(rule).as_slice())?;
        }
        transaction.open_table(FAULTS)?.insert(name, book.faults_disabled())?;
    }
    transaction.commit()?;
    Ok(())
}

/// Written aside and then renamed: whoever is killed meanwhile leaves no half of a file behind.
fn create(path: &Path, aside: &Path) -> Result<(), StoreError> {
    if let Err(error) = fs::remove_file(aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(aside, &error));
    }
    let made =
        create_aside(aside).and_then(|()| fs::rename(aside, path).map_err(|error| failed(path, &error)));
    if made.is_err() {
        // What cannot be removed is removed by the next start.
        let _ = fs::remove_file(aside);
    }
    made
}

fn create_aside(aside: &Path) -> Result<(), StoreError> {
    let database = builder().create(aside).map_err(|error| opening(aside, error))?;
    create_tables(&database).map_err(|error| StoreError::Failed(error.to_string()))
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(RULES)?;
    transaction.open_table(META)?;
    transaction.open_table(FAULTS)?;
    transaction.commit()?;
    Ok(())
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Walks through the file without writing to it, as opening it would: what is damaged must stay as it is for whoever
/// repairs it.
fn examine(path: &Path) -> Result<(), StoreError> {
    let reading = |error: &io::Error| StoreError::Failed(format!("cannot read {}: {error}", path.display()));
    let file = Untouched::open(path).map_err(|error| reading(&error))?;
    let walk = || {
        if file.is_empty() {
            return Err("it is empty".to_owned());
        }
        let mut database = builder().create_with_backend(file).map_err(|error| error.to_string())?;
        if !database.check_integrity().map_err(|error| error.to_string())? {
            return Err("checksums do not match".to_owned());
        }
        read_all(&database).map(|_| ()).map_err(|error| error.to_string())
    };
    // A page that makes no sense may end in a panic of the reader.
    let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(walk));
    verdict.unwrap_or_else(|_| Err("it cannot be read".to_owned())).map_err(|reason| {
        StoreError::Damaged(format!("{} is damaged and was left as it is: {reason}", path.display()))
    })
}

fn read_all(database: &Database) -> Result<Vec<(Namespace, RuleBook)>, StoreError> {
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    read_into(database, &mut kept)?;
    let book = |(namespace, Kept { revision, rules, faults_disabled })| {
        let namespace = Namespace::new(namespace).map_err(|error| StoreError::Damaged(error.to_string()))?;
        Ok((namespace, RuleBook::restore(revision, rules).with_faults_disabled(faults_disabled)))
    };
    kept.into_iter().map(book).collect()
}

/// What is kept of one namespace.
#[derive(Default)]
struct Kept {
    revision: u64,
    rules: Vec<Arc<Rule>>,
    faults_disabled: bool,
}

fn read_into(database: &Database, kept: &mut BTreeMap<String, Kept>) -> Result<(), StoreError> {
    let damaged = |error: redb::Error| StoreError::Damaged(error.to_string());
    let transaction = database.begin_read().map_err(|error| damaged(error.into()))?;
    let meta = transaction.open_table(META).map_err(|error| damaged(error.into()))?;
    for entry in meta.iter().map_err(|error| damaged(error.into()))? {
        let (namespace, revision) = entry.map_err(|error| damaged(error.into()))?;
        kept.entry(namespace.value().to_owned()).or_default().revision = revision.value();
    }
    let rules = transaction.open_table(RULES).map_err(|error| damaged(error.into()))?;
    for entry in rules.iter().map_err(|error| damaged(error.into()))? {
        let (key, value) = entry.map_err(|error| damaged(error.into()))?;
        let (namespace, id) = key.value();
        let rule: Rule = serde_json::from_slice(value.value())
            .map_err(|error| StoreError::Damaged(format!("rule `{id}` cannot be read: {error}")))?;
        kept.entry(namespace.to_owned()).or_default().rules.push(Arc::new(rule));
    }
    // A file from before the switch has no such table.
    let faults = match transaction.open_table(FAULTS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        other => other.map_err(|error| damaged(error.into()))?,
    };
    for entry in faults.iter().map_err(|error| damaged(error.into()))? {
        let (namespace, disabled) = entry.map_err(|error| damaged(error.into()))?;
        kept.entry(namespace.value().to_owned()).or_default().faults_disabled = disabled.value();
    }
    Ok(())
}

fn opening(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Failed(format!("{} is in use by another process", path.display()))
        }
        other => StoreError::Failed(format!("cannot open {}: {other}", path.display())),
    }
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
