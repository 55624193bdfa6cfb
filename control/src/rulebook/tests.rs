use super::*;
use proptest::prelude::*;
use serde_json::json;

fn raw(rule: serde_json::Value) -> RawRule {
    serde_json::from_value(rule).unwrap()
}

fn route(id: &str, destination: &str) -> RawRule {
    raw(json!({"id": id, "destination": destination, "route": {"backends": [{"tags": ["v1"]}]}}))
}

fn no_id() -> String {
    panic!("every rule of this test has an id")
}

fn book(edits: Vec<Edit>) -> RuleBook {
    edits.into_iter().fold(RuleBook::default(), |book, edit| book.edit(edit, no_id).unwrap().book)
}

fn ids(book: &RuleBook, filter: &Filter) -> Vec<String> {
    book.select(filter).iter().map(|rule| rule.id.to_string()).collect()
}

/// The two rules of F01 to F04.
fn two() -> RuleBook {
    let rule1 = raw(
        json!({"id": "rule1", "tags": ["tag1", "tag2"], "destination": "service1", "actions": [{"action": "trace"}]}),
    );
    let rule2 = route("rule2", "service2");
    book(vec![Edit::Upsert(vec![rule1, rule2])])
}

#[test]
fn filters_select_as_f01_to_f04_say() {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<BTreeSet<_>>();
    let tags = |items: &[&str]| Filter { tags: list(items), ..Filter::default() };
    let destinations = |items: &[&str]| Filter { destinations: list(items), ..Filter::default() };
    let kind = |kind| Filter { kind: Some(kind), ..Filter::default() };
    for (filter, expected) in [
        (Filter::default(), &["rule1", "rule2"][..]),
        (tags(&["tag1"]), &["rule1"]),
        (tags(&["tag2", "tag1"]), &["rule1"]),
        (tags(&["tag1", "tag1"]), &["rule1"]),
        (tags(&["tag1", "tag3"]), &[]),
        (destinations(&["service2"]), &["rule2"]),
        (destinations(&["service1", "service2"]), &["rule1", "rule2"]),
        (kind(Kind::Actions), &["rule1"]),
        (kind(Kind::Route), &["rule2"]),
        (Filter { ids: list(&["rule1"]), ..destinations(&["service2"]) }, &[]),
        (Filter { ids: list(&[""]), ..Filter::default() }, &[]),
    ] {
        assert_eq!(ids(&two(), &filter), expected, "{filter:?}");
    }
}

#[test]
fn a_health_check_is_among_all_rules_and_of_neither_kind() {
    let check = raw(json!({"id": "check", "destination": "service1", "health_check": {"type": "tcp"}}));
    let book = book(vec![Edit::Upsert(vec![check, route("rule", "service1")])]);
    let of = |kind| ids(&book, &Filter { kind, ..Filter::default() });
    assert_eq!(of(None), ["check", "rule"]);
    assert_eq!((of(Some(Kind::Actions)), of(Some(Kind::Route))), (vec![], vec!["rule".to_owned()]));
}

#[test]
fn a_rule_without_an_id_gets_a_new_one_and_one_with_an_id_keeps_it() {
    let mut names = ["n1", "n2"].into_iter();
    let edit = Edit::Upsert(vec![route("", "a"), route("mine", "a"), route("", "b")]);
    let accepted = RuleBook::default().edit(edit, || names.next().unwrap().to_owned()).unwrap();
    let ids: Vec<_> = accepted.ids.iter().map(RuleId::as_str).collect();
    assert_eq!(ids, ["n1", "mine", "n2"]);
}

#[test]
fn of_two_rules_with_one_id_the_last_wins_and_both_ids_are_listed() {
    let edit = Edit::Upsert(vec![route("x", "first"), route("x", "last")]);
    let accepted = RuleBook::default().edit(edit, no_id).unwrap();
    assert_eq!(accepted.ids.len(), 2);
    assert_eq!(accepted.book.rules().len(), 1);
    assert_eq!(accepted.book.rules().values().next().unwrap().destination.as_str(), "last");
}

#[test]
fn posting_again_replaces_and_every_accepted_write_counts_once() {
    let one = book(vec![Edit::Upsert(vec![route("x", "a"), route("y", "a")])]);
    assert_eq!(one.revision(), 1);
    let two = one.edit(Edit::Upsert(vec![route("x", "b")]), no_id).unwrap().book;
    assert_eq!((two.revision(), two.rules().len()), (2, 2));
    let nothing = Filter { ids: ["nobody".to_owned()].into(), ..Filter::default() };
    let three = two.edit(Edit::Delete(nothing), no_id).unwrap();
    assert_eq!((three.book.revision(), three.changes.delete.len()), (3, 0));
    let four = three.book.edit(Edit::Delete(Filter::default()), no_id).unwrap().book;
    assert_eq!((four.revision(), four.rules().len()), (4, 0));
}

#[test]
fn one_refused_rule_refuses_the_whole_edit() {
    let bad = raw(json!({"id": "bad", "destination": "a"}));
    let before = two();
    for (edit, expected) in [
        (Edit::Upsert(vec![]), "no rules provided"),
        (Edit::Replace(vec![]), "no rules provided"),
        (Edit::Upsert(vec![route("x", "a"), bad.clone()]), "rule 1 (id `bad`): route: a rule needs"),
        (Edit::Replace(vec![bad, route("nobody", "a")]), "rule 0 (id `bad`): route: a rule needs"),
        (Edit::Replace(vec![route("rule1", "a"), route("nobody", "a")]), "rule `nobody` does not exist"),
        (Edit::Replace(vec![route("", "a")]), "rule `` does not exist"),
    ] {
        let refused = before.edit(edit.clone(), no_id).unwrap_err().to_string();
        assert!(refused.starts_with(expected), "{edit:?}: {refused}");
    }
}

#[test]
fn a_namespace_holds_so_many_rules_and_bytes_and_no_more() {
    let upsert = |book: &RuleBook, rule| book.edit(Edit::Upsert(vec![rule]), no_id);
    let one = Arc::new(Rule::try_from(route("r", "a")).unwrap());
    let many = (0..RULES_MAX).map(|n| {
        let id = RuleId::new(n.to_string()).unwrap();
        Arc::new(Rule { id, ..(*one).clone() })
    });
    let full = RuleBook::restore(7, many);
    assert_eq!(upsert(&full, route("more", "a")), Err(Refused::TooMuch));
    assert_eq!(upsert(&full, route("0", "b")).unwrap().book.rules().len(), RULES_MAX);

    let long = "x".repeat(RULES_BYTES_MAX / 2);
    let half = upsert(&RuleBook::default(), route("0", &long)).unwrap().book;
    assert_eq!(upsert(&half, route("1", &long)), Err(Refused::TooMuch));
    let again = upsert(&half, route("0", &long)).unwrap().book;
    assert_eq!(again.bytes, half.bytes);
    let empty = again.edit(Edit::Delete(Filter::default()), no_id).unwrap().book;
    assert_eq!(empty.bytes, 0);
}

#[test]
fn a_replacement_replaces_the_whole_rule() {
    let accepted = two().edit(Edit::Replace(vec![route("rule1", "elsewhere")]), no_id).unwrap();
    let rule = &accepted.book.rules()[&RuleId::new("rule1").unwrap()];
    assert_eq!((rule.destination.as_str(), rule.tags.len(), rule.route().is_some()), ("elsewhere", 0, true));
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let ids = || prop::collection::vec(0..5_u8, 1..4);
    let rules =
        |ids: Vec<u8>| ids.into_iter().map(|id| route(&format!("r{id}"), &format!("d{id}"))).collect();
    let names = |ids: Vec<u8>| ids.into_iter().map(|id| format!("r{id}")).collect();
    let edit = prop_oneof![
        ids().prop_map(move |ids| Edit::Upsert(rules(ids))),
        ids().prop_map(move |ids| Edit::Replace(rules(ids))),
        ids().prop_map(move |ids| Edit::Delete(Filter { ids: names(ids), ..Filter::default() })),
    ];
    prop::collection::vec(edit, 0..20)
}

proptest! {
    #[test]
    fn repeating_the_changes_gives_the_book_and_a_refusal_changes_nothing(edits in edits()) {
        let mut book = RuleBook::default();
        let mut repeated = BTreeMap::new();
        let mut writes = 0;
        for edit in edits {
            match book.edit(edit, no_id) {
                Ok(accepted) => {
                    writes += 1;
                    accepted.changes.put.iter().for_each(|rule| {
                        repeated.insert(rule.id.clone(), Arc::clone(rule));
                    });
                    accepted.changes.delete.iter().for_each(|id| {
                        repeated.remove(id);
                    });
                    prop_assert_eq!(accepted.changes.revision, writes);
                    book = accepted.book;
                }
                Err(refused) => prop_assert!(matches!(refused, Refused::NotFound { .. }), "another refusal"),
            }
            prop_assert_eq!(book.revision(), writes);
            prop_assert_eq!(book.rules(), &repeated);
        }
    }
}

#[test]
fn a_fault_that_lasts_is_kept_with_the_moment_it_ends() {
    let fault: RawRule = serde_json::from_value(serde_json::json!({"id": "f", "destination": "a",
        "actions": [{"action": "delay", "duration": 1, "duration_s": 60}]}))
    .unwrap();
    let refused = RuleBook::default().edit(Edit::Upsert(vec![fault.clone()]), || unreachable!());
    assert!(matches!(refused, Err(Refused::Invalid { why, .. }) if why.field == "actions.duration_s"));
    let edit = Edit::Upsert(vec![fault]).begun(std::time::UNIX_EPOCH);
    let book = RuleBook::default().edit(edit, || unreachable!()).unwrap().book;
    let rule = serde_json::to_value(book.rules().values().next().unwrap()).unwrap();
    assert_eq!(rule["actions"][0]["expires_at"], "1970-01-01T00:01:00Z");
}
