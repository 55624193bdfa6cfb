use super::*;
use crate::rulebook::Edit;
use control_api::RawRule;
use redb::StorageBackend;
use serde_json::json;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

fn raw(id: &str) -> RawRule {
    let text = json!({"id": id, "destination": "d", "priority": 3,
        "route": {"backends": [{"tags": ["v1"], "weight": 0.25}, {"tags": ["v2"]}]}});
    serde_json::from_value(text).unwrap()
}

fn write(store: &RedbStore, namespace: &str, book: &RuleBook, edit: Edit) -> RuleBook {
    let accepted = book.edit(edit, String::new).unwrap();
    store.commit(&Namespace::new(namespace).unwrap(), &accepted).unwrap();
    accepted.book
}

fn filled(directory: &Path) -> Vec<(Namespace, RuleBook)> {
    let store = RedbStore::open(directory).unwrap();
    let a = write(&store, "a", &RuleBook::default(), Edit::Upsert(vec![raw("x"), raw("y")]));
    let a = write(
        &store,
        "a",
        &a,
        Edit::Delete(crate::rulebook::Filter { ids: ["x".into()].into(), ..Default::default() }),
    );
    let b = write(&store, "b", &RuleBook::default(), Edit::Upsert(vec![raw("x")]));
    let b = write(&store, "b", &b, Edit::Delete(crate::rulebook::Filter::default()));
    let list = vec![(Namespace::new("a").unwrap(), a), (Namespace::new("b").unwrap(), b)];
    assert_eq!(store.load().unwrap(), list);
    list
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let list = filled(directory.path());
    assert_eq!(list[1].1.revision(), 2, "a namespace without rules keeps its revision");
    assert_eq!(RedbStore::open(directory.path()).unwrap().load().unwrap(), list);
}

#[test]
fn the_switch_of_the_faults_is_kept_and_a_file_from_before_it_opens() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path()).unwrap();
    let book = write(&store, "a", &RuleBook::default(), Edit::Upsert(vec![raw("x")]));
    let without_table = |database: &Database| {
        let transaction = database.begin_write().unwrap();
        assert!(transaction.delete_table(FAULTS).unwrap());
        transaction.commit().unwrap();
        Ok(())
    };
    store.with(without_table).unwrap();
    assert_eq!(store.load().unwrap(), [(Namespace::new("a").unwrap(), book.clone())]);
    let book = write(&store, "a", &book, Edit::Faults { disabled: true });
    drop(store);
    let kept = RedbStore::open(directory.path()).unwrap().load().unwrap();
    assert!(kept[0].1.faults_disabled());
    assert_eq!(kept, [(Namespace::new("a").unwrap(), book)]);
}

#[test]
fn a_file_copied_in_the_middle_of_its_life_opens_with_everything_that_was_committed() {
    // What a process leaves behind that is killed between two writes: the file without a clean close.
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = RedbStore::open(directory.path()).unwrap();
    let mut book = RuleBook::default();
    for n in 0..20 {
        book = write(&store, "a", &book, Edit::Upsert(vec![raw(&format!("r{n}"))]));
        fs::copy(directory.path().join(FILE), other.path().join(FILE)).unwrap();
        let kept = RedbStore::open(other.path()).unwrap().load().unwrap();
        assert_eq!(kept, [(Namespace::new("a").unwrap(), book.clone())]);
    }
}

#[test]
fn a_start_that_was_killed_while_it_made_the_file_hinders_nobody() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(NEW_FILE), "half of a file").unwrap();
    filled(directory.path());
    assert!(!directory.path().join(NEW_FILE).exists());
}

#[test]
fn a_damaged_file_is_reported_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    filled(directory.path());
    let good = fs::read(&path).unwrap();
    let mut rubbish = good.clone();
    rubbish.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
    // A letter of the one rule that is left, in the middle of an intact file.
    let flipped = |good: &[u8]| {
        let mut bytes = good.to_vec();
        let needle = b"\"destination\"";
        let places: Vec<_> =
            (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
        assert!(!places.is_empty());
        places.iter().for_each(|at| bytes[at + 2] = b'E');
        bytes
    };
    for bad in [vec![], b"not a database".to_vec(), rubbish, good[..good.len() / 3].to_vec(), flipped(&good)]
    {
        fs::write(&path, &bad).unwrap();
        let error = RedbStore::open(directory.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged(_)), "{error}");
        assert!(fs::read(&path).unwrap() == bad, "the file was changed");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}

/// A file on a disk that may be full.
#[derive(Debug)]
struct Disk {
    file: fs::File,
    full: Arc<AtomicBool>,
    /// Whether what is written arrives although it is said to have failed.
    arrives: bool,
}

impl Disk {
    fn take(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let full = self.full.load(Ordering::Relaxed);
        if !full || self.arrives {
            write()?;
        }
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // The last step of a write, after everything has arrived.
        self.take(|| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.arrives {
            self.file.write_all_at(data, offset)
        } else {
            self.take(|| self.file.write_all_at(data, offset))
        }
    }
}

fn on_a_disk(directory: &Path, arrives: bool) -> (RedbStore, Arc<AtomicBool>) {
    drop(RedbStore::open(directory).unwrap());
    let (path, full) = (directory.join(FILE), Arc::new(AtomicBool::new(false)));
    let open = {
        let full = Arc::clone(&full);
        move || {
            let file = fs::File::options().read(true).write(true).open(&path).unwrap();
            let disk = Disk { file, full: Arc::clone(&full), arrives };
            builder().create_with_backend(disk).map_err(|error| opening(&path, error))
        }
    };
    (RedbStore::opened_by(open).unwrap(), full)
}

#[test]
fn after_a_full_disk_rules_are_kept_again() {
    for arrives in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (store, full) = on_a_disk(directory.path(), arrives);
        let book = write(&store, "a", &RuleBook::default(), Edit::Upsert(vec![raw("x")]));
        let other = write(&store, "b", &RuleBook::default(), Edit::Upsert(vec![raw("x")]));
        store.check().unwrap();
        full.store(true, Ordering::Relaxed);
        let refused = book.edit(Edit::Upsert(vec![raw("y")]), String::new).unwrap();
        for _ in 0..3 {
            store.commit(&Namespace::new("a").unwrap(), &refused).unwrap_err();
            let reason = store.check().unwrap_err().to_string();
            assert!(!reason.contains("Previous"), "{reason}");
        }
        full.store(false, Ordering::Relaxed);
        store.check().unwrap();
        // Whatever became of the edit that failed, its caller was told that there is no such rule.
        let book = write(&store, "a", &book, Edit::Upsert(vec![raw("z")]));
        assert_eq!(book.rules().len(), 2);
        let kept = [(Namespace::new("a").unwrap(), book), (Namespace::new("b").unwrap(), other)];
        assert_eq!(store.load().unwrap(), kept);
        drop(store);
        assert_eq!(RedbStore::open(directory.path()).unwrap().load().unwrap(), kept);
    }
}

#[test]
fn an_edit_that_was_kept_although_it_failed_is_gone_with_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path()).unwrap();
    let book = write(&store, "a", &RuleBook::default(), Edit::Upsert(vec![raw("x")]));
    let other = write(&store, "ab", &RuleBook::default(), Edit::Upsert(vec![raw("x")]));
    write(&store, "a", &book, Edit::Upsert(vec![raw("y")]));
    let book = write(&store, "a", &book, Edit::Upsert(vec![raw("z")]));
    let names: Vec<_> = book.rules().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["x", "z"]);
    let kept = [(Namespace::new("a").unwrap(), book), (Namespace::new("ab").unwrap(), other)];
    assert_eq!(store.load().unwrap(), kept);
}

#[test]
fn a_file_is_examined_where_nothing_can_be_written() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let before = fs::read(directory.path().join(FILE)).unwrap();
    examine(&directory.path().join(FILE)).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(fs::read(directory.path().join(FILE)).unwrap(), before);
}
