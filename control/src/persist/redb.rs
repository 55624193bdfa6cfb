//! The rule store in one file of the data directory: table `rules` (namespace, id) -> JSON and table `meta`
//! namespace -> revision, table `faults` namespace -> disabled, one transaction per edit. A damaged file is reported and left as it is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use control_api::Rule;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use registry_api::Namespace;

use super::{RuleStore, StoreError, encode};
use crate::rulebook::{Changes, RuleBook};

const RULES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("rules");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FAULTS: TableDefinition<'_, &str, bool> = TableDefinition::new("faults");

/// The file within the data directory.
const FILE: &str = "rules.redb";
/// The file until it is complete for the first time.
const NEW_FILE: &str = "rules.redb.new";
/// The copy that is examined before the file itself is opened.
const EXAMINED_FILE: &str = "rules.redb.examined";
/// Rules are held in memory anyway; the pages need little.
const CACHE_BYTES: usize = 16 << 20;

/// Rules in a redb file.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
}

impl RedbStore {
    /// Opens or creates the file in `directory`, which must exist and be ours alone.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        if path.exists() {
            examine(&path, &directory.join(EXAMINED_FILE))?;
        } else {
            create(&path, &directory.join(NEW_FILE))?;
            // The new file must survive as an entry of its directory, too.
            let directory = fs::File::open(directory).and_then(|directory| directory.sync_all());
            directory.map_err(|error| failed(&path, &error))?;
        }
        let database = builder().open(&path).map_err(|error| opening(&path, error))?;
        Ok(Self { database })
    }

    fn try_commit(&self, namespace: &Namespace, changes: &Changes) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut rules = transaction.open_table(RULES)?;
            for rule in &changes.put {
                rules.insert((namespace.as_str(), rule.id.as_str()), encode(rule).as_slice())?;
            }
            for id in &changes.delete {
                rules.remove((namespace.as_str(), id.as_str()))?;
            }
            transaction.open_table(META)?.insert(namespace.as_str(), changes.revision)?;
            if let Some(disabled) = changes.faults_disabled {
                transaction.open_table(FAULTS)?.insert(namespace.as_str(), disabled)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

impl RuleStore for RedbStore {
    fn load(&self) -> Result<Vec<(Namespace, RuleBook)>, StoreError> {
        read_all(&self.database)
    }

    fn commit(&self, namespace: &Namespace, changes: &Changes) -> Result<(), StoreError> {
        self.try_commit(namespace, changes).map_err(|error| StoreError::Failed(error.to_string()))
    }
}

/// Written aside and then renamed: whoever is killed meanwhile leaves no half of a file behind.
fn create(path: &Path, aside: &Path) -> Result<(), StoreError> {
    if let Err(error) = fs::remove_file(aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(aside, &error));
    }
    let database = builder().create(aside).map_err(|error| opening(aside, error))?;
    create_tables(&database).map_err(|error| StoreError::Failed(error.to_string()))?;
    drop(database);
    fs::rename(aside, path).map_err(|error| failed(path, &error))
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

/// Walks through a copy, because opening a file already writes to it: what is damaged must stay as it is
/// for whoever repairs it.
fn examine(path: &Path, copy: &Path) -> Result<(), StoreError> {
    fs::copy(path, copy).map_err(|error| failed(copy, &error))?;
    let verdict = examine_copy(copy).map_err(|reason| {
        StoreError::Damaged(format!("{} is damaged and was left as it is: {reason}", path.display()))
    });
    // A copy that stays is overwritten at the next start.
    let _ = fs::remove_file(copy);
    verdict
}

fn examine_copy(copy: &Path) -> Result<(), String> {
    let walk = || {
        let mut database = builder().open(copy).map_err(|error| error.to_string())?;
        if !database.check_integrity().map_err(|error| error.to_string())? {
            return Err("checksums do not match".to_owned());
        }
        read_all(&database).map(|_| ()).map_err(|error| error.to_string())
    };
    // A page that makes no sense may end in a panic of the reader.
    std::panic::catch_unwind(walk).unwrap_or_else(|_| Err("it cannot be read".to_owned()))
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
