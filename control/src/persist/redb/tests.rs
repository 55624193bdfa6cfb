use super::*;
use crate::rulebook::Edit;
use control_api::RawRule;
use serde_json::json;

fn raw(id: &str) -> RawRule {
    let text = json!({"id": id, "destination": "d", "priority": 3,
        "route": {"backends": [{"tags": ["v1"], "weight": 0.25}, {"tags": ["v2"]}]}});
    serde_json::from_value(text).unwrap()
}

fn write(store: &RedbStore, namespace: &str, book: &RuleBook, edit: Edit) -> RuleBook {
    let accepted = book.edit(edit, String::new).unwrap();
    store.commit(&Namespace::new(namespace).unwrap(), &accepted.changes).unwrap();
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
    let transaction = store.database.begin_write().unwrap();
    assert!(transaction.delete_table(FAULTS).unwrap());
    transaction.commit().unwrap();
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
    fs::write(directory.path().join(EXAMINED_FILE), "half of a copy").unwrap();
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
        assert!(!directory.path().join(EXAMINED_FILE).exists());
    }
}
