use super::*;
use control_api::{Rule, RuleId};
use proptest::prelude::*;
use registry_api::{Instance, Position, Reason};
use serde_json::json;
use std::collections::BTreeMap;

fn rule(id: u8, priority: u8) -> Arc<Rule> {
    let text = json!({"id": format!("r{id}"), "priority": priority, "destination": "d",
        "route": {"backends": [{"tags": ["v"]}]}});
    Arc::new(serde_json::from_value(text).unwrap())
}

fn instance(id: u8, port: u8) -> Arc<Instance> {
    let text = json!({"id": format!("i{id}"), "service_name": "s", "endpoint": {"type": "http", "value": format!("h:{port}")}});
    Arc::new(serde_json::from_value(text).unwrap())
}

fn snapshot(revision: u64, rules: &BTreeMap<u8, u8>, instances: &BTreeMap<u8, u8>) -> Arc<Snapshot> {
    let rules = rules.iter().map(|(id, priority)| rule(*id, *priority));
    let instances = instances.iter().map(|(id, port)| instance(*id, *port));
    Arc::new(Snapshot::new(revision, rules, instances))
}

fn touched(old: &Snapshot, new: &Snapshot) -> Touched {
    let delta = old.delta_to(new, |_| Reason::Expired);
    let rules: Vec<RuleId> = delta.rules_put.iter().map(|rule| rule.id.clone()).collect();
    let gone = delta.instances_delete.into_iter().map(|gone| (gone.service_name, gone.id));
    let instances = delta.instances_put.iter().map(|one| one.key()).chain(gone);
    Touched {
        rules: rules.into_iter().chain(delta.rules_delete).collect(),
        instances: instances.map(|key| (key, Reason::Expired)).collect(),
    }
}

fn editions(snapshots: &[Arc<Snapshot>]) -> Vec<Edition> {
    let mut list = vec![Edition::first("e".into(), Arc::clone(&snapshots[0]), Moment::millis(0))];
    for pair in snapshots.windows(2) {
        let last = list.last().unwrap();
        let now = last.at() + std::time::Duration::from_millis(10);
        list.push(last.next(Arc::clone(&pair[1]), touched(&pair[0], &pair[1]), now));
    }
    list
}

fn held(edition: &Edition) -> Held {
    Held { epoch: edition.epoch().to_owned(), index: edition.index(), hash: Some(edition.hash()) }
}

fn revisions(count: u64) -> Vec<Edition> {
    let rules = (0..20).map(|id| (id, 1)).collect();
    editions(&(0..count).map(|revision| snapshot(revision, &rules, &BTreeMap::new())).collect::<Vec<_>>())
}

#[test]
fn each_kind_of_caller_is_told_what_the_design_says() {
    let list = revisions(3);
    let (first, current) = (&list[0], &list[2]);
    let foreign = |edition: &Edition| Held { epoch: "other".to_owned(), ..held(edition) };
    let without_hash = |edition: &Edition| Held { hash: None, ..held(edition) };
    let nothing = Held { index: 0, ..held(first) };
    for (name, held, rejected, expected) in [
        ("holds nothing", Held::default(), None, Verdict::Full),
        ("says it holds nothing, although it has a hash", nothing, None, Verdict::Full),
        ("is current", held(current), None, Verdict::Wait),
        ("is current, without a hash", without_hash(current), None, Verdict::Wait),
        ("is behind", held(first), None, Verdict::Delta(1)),
        ("is behind, without a hash", without_hash(first), None, Verdict::Delta(1)),
        ("comes from another life with equal content", foreign(current), None, Verdict::Adopt),
        ("comes from another life", foreign(first), None, Verdict::Full),
        ("comes from the future", Held { index: 9, ..held(first) }, None, Verdict::Full),
        ("holds something broken", Held { hash: Some(first.hash()), ..held(current) }, None, Verdict::Full),
        ("holds the content under an old index", Held { index: 1, ..held(current) }, None, Verdict::Adopt),
        ("rejected the newest", held(first), Some(3), Verdict::Wait),
        ("rejected the first it got", Held::default(), Some(3), Verdict::Wait),
        ("rejected an older one", held(first), Some(2), Verdict::Delta(1)),
    ] {
        assert_eq!(current.verdict(&held, rejected), expected, "{name}");
    }
}

#[test]
fn who_fell_off_the_history_gets_everything() {
    let list = revisions(STEPS_MAX as u64 + 2);
    let current = list.last().unwrap();
    assert_eq!(current.verdict(&held(&list[0]), None), Verdict::Full);
    assert_eq!(current.verdict(&held(&list[1]), None), Verdict::Full);
    assert_eq!(current.verdict(&held(&list[2]), None), Verdict::Delta(3));
    assert_eq!(current.steps_after(0).count(), STEPS_MAX);
}

#[test]
fn a_delta_of_more_than_half_is_sent_as_everything() {
    let all = |port| (0..20).map(|id| (id, port)).collect::<BTreeMap<u8, u8>>();
    let mut some = all(1);
    some.extend((0..10).map(|id| (id, 2)));
    let list = editions(&[snapshot(1, &BTreeMap::new(), &all(1)), snapshot(1, &BTreeMap::new(), &some)]);
    assert_eq!(list[1].verdict(&held(&list[0]), None), Verdict::Delta(1));
    some.insert(10, 2);
    let list = editions(&[snapshot(1, &BTreeMap::new(), &all(1)), snapshot(1, &BTreeMap::new(), &some)]);
    assert_eq!(list[1].verdict(&held(&list[0]), None), Verdict::Full);
}

#[test]
fn the_history_remembers_no_more_entries_than_are_worth_a_delta() {
    let many = TOUCHED_MIN + 1;
    let key = |n: usize| instance(1, 1).key().0.as_str().to_owned() + &n.to_string();
    let instances = (0..many).map(|n| {
        let service = registry_api::ServiceName::new(key(n)).unwrap();
        ((service, instance(1, 1).id.clone()), Reason::Expired)
    });
    let touched = Touched { instances: instances.collect(), ..Touched::default() };
    let first = Edition::first("e".into(), Arc::default(), Moment::millis(0));
    let next = first.next(Arc::new(Snapshot::new(1, [], [])), touched, Moment::millis(1));
    assert_eq!(next.verdict(&held(&first), None), Verdict::Full);
    assert_eq!(next.index(), 2);
}

#[test]
fn the_history_remembers_no_more_bytes_than_it_may() {
    let long = |n: u64| RuleId::new(format!("{n}-{}", "x".repeat(TOUCHED_BYTES_MAX / 4))).unwrap();
    let mut edition = Edition::first("e".into(), Arc::default(), Moment::millis(0));
    for n in 1..20 {
        let touched = Touched { rules: [long(n)].into(), ..Touched::default() };
        edition = edition.next(Arc::new(Snapshot::new(n, [], [])), touched, Moment::millis(n));
    }
    assert_eq!(edition.steps_after(0).count(), 3);
}

#[test]
fn a_write_that_changed_nothing_is_a_delta_with_empty_sets() {
    let list = revisions(2);
    let answer = serde_json::to_value(list[1].delta(1)).unwrap();
    for set in ["rules_put", "rules_delete", "instances_put", "instances_delete"] {
        assert_eq!(answer[set], json!([]), "{set}");
    }
    assert_eq!((&answer["revision"], &answer["full"]), (&json!(1), &json!(false)));
}

#[test]
fn what_serves_is_known_by_index_or_by_content() {
    let list = revisions(3);
    let current = &list[2];
    let serving = |index, revision| Serving { index, revision };
    let foreign = |edition: &Edition| Held { epoch: "other".to_owned(), ..held(edition) };
    assert_eq!(current.serving(&held(&list[1])), serving(2, 1));
    assert_eq!(current.serving(&held(current)), serving(3, 2));
    assert_eq!(current.serving(&foreign(current)), serving(3, 2));
    assert_eq!(current.serving(&foreign(&list[0])), serving(0, 0));
    assert_eq!(current.serving(&Held::default()), serving(0, 0));
}

fn histories() -> impl Strategy<Value = Vec<Arc<Snapshot>>> {
    let entries = || prop::collection::btree_map(0..6_u8, 0..3_u8, 0..6);
    prop::collection::vec((entries(), entries()), 1..12).prop_map(|list| {
        list.iter()
            .enumerate()
            .map(|(revision, (rules, instances))| snapshot(revision as u64, rules, instances))
            .collect()
    })
}

proptest! {
    #[test]
    fn a_delta_applied_to_any_older_edition_gives_the_newest_as_published(snapshots in histories()) {
        let list = editions(&snapshots);
        let current = list.last().unwrap();
        for old in &list[..list.len() - 1] {
            let wire = serde_json::to_vec(&current.delta(old.index())).unwrap();
            let answer: SnapshotAnswer = serde_json::from_slice(&wire).unwrap();
            let (to, update) = answer.into_update().unwrap();
            let at = Position { epoch: "e".to_owned(), index: old.index(), hash: old.hash() };
            let led = update.lead(old.snapshot(), &at, &to).unwrap();
            prop_assert_eq!(&led, current.snapshot());
            prop_assert_eq!(to.hash, current.hash());
        }
    }
}
