//! What one change does to a table: it reaches whoever it concerns, and nobody else. All changes at once are
//! the properties' matter.

#![allow(clippy::unwrap_used, reason = "a test stops where its world is wrong")]

use std::sync::Arc;

use control_api::{Identity, RuleId, Snapshot, TagTest};
use http::HeaderMap;
use registry_api::{Instance, InstanceId, Namespace, ServiceName};
use routing::{At, Outcome, RequestHead, RouteTable, Seed};
use serde_json::{Value, json};

fn instance(service: &str, id: &str, status: &str) -> Arc<Instance> {
    let text = json!({"id": id, "service_name": service, "status": status, "tags": ["v1"],
        "endpoint": {"type": "http", "value": "10.0.0.1:80"}});
    Arc::new(serde_json::from_value(text).unwrap())
}

fn world() -> Snapshot {
    let rules = [
        json!({"id": "borrow", "destination": "front", "route": {"backends": [{"name": "shared", "tags": ["v1"]}]}}),
        json!({"id": "api", "destination": "web", "route": {"uri": {"prefix": "/api/"}, "backends": [{"tags": ["v1"]}]}}),
    ];
    let instances =
        ["front", "other", "shared", "web"].map(|service| instance(service, &format!("{service}-1"), "UP"));
    Snapshot::new(1, rules.into_iter().map(rule), instances)
}

fn rule(text: Value) -> Arc<control_api::Rule> {
    Arc::new(serde_json::from_value(text).unwrap())
}

/// The ids of the instances that a request for the path may reach, or the refusal's name.
fn reach(table: &RouteTable, path: &str) -> String {
    reach_at(table, "", path)
}

/// The same for a request with a host.
fn reach_at(table: &RouteTable, authority: &str, path: &str) -> String {
    let headers = HeaderMap::new();
    let head = RequestHead { method: "GET", path, query: "", authority, headers: &headers };
    match table.decide(&head, Seed::of(b""), &At(0)).outcome {
        Outcome::Refuse(refusal) => refusal.status_and_id().1.to_owned(),
        Outcome::Abort(_) | Outcome::Answer(_) => "answered".to_owned(),
        Outcome::Forward(at) => {
            let ids = table.backend(at).endpoints.iter().map(|endpoint| endpoint.instance.id.to_string());
            ids.collect::<Vec<_>>().join(" ")
        }
    }
}

/// The table before and after a change, and the names of the services that both share.
fn after(change: impl FnOnce(&mut Snapshot)) -> (RouteTable, Vec<String>) {
    let old = world();
    let identity = Identity::parse("gateway");
    let before: RouteTable = RouteTable::compile(&old, &identity, &());
    let mut new = old.clone();
    change(&mut new);
    let table = before.recompile(&old, &new, &identity, &());
    let shared = before.services().filter(|service| {
        table.find(service.name.as_str()).is_some_and(|at| std::ptr::eq(table.service(at), *service))
    });
    let shared = shared.map(|service| service.name.to_string()).collect();
    (table, shared)
}

fn key(service: &str) -> (ServiceName, InstanceId) {
    (ServiceName::new(service).unwrap(), InstanceId::new(format!("{service}-1")).unwrap())
}

#[test]
fn a_change_of_instances_reaches_the_service_and_whoever_borrows_from_it() {
    let (table, shared) = after(|snapshot| snapshot.put_instance(instance("shared", "shared-2", "UP")));
    assert_eq!(reach(&table, "/shared/"), "shared-1 shared-2");
    assert_eq!(reach(&table, "/front/"), "shared-1 shared-2");
    assert_eq!(shared, ["other", "web"]);
}

#[test]
fn the_last_instance_of_a_borrowed_service_is_missed_at_once() {
    let (table, shared) = after(|snapshot| snapshot.delete_instance(&key("shared")));
    assert_eq!(reach(&table, "/shared/"), "unknown_service");
    assert_eq!(reach(&table, "/front/"), "no_instances");
    assert_eq!(shared, ["other", "web"]);
}

#[test]
fn a_borrowed_service_that_comes_later_is_used_from_then_on() {
    let (table, _) = after(|snapshot| {
        snapshot.put_rule(rule(json!({"id": "later", "destination": "other", "route": {"backends": [{"name": "late", "tags": ["v1"]}]}})));
    });
    assert_eq!(reach(&table, "/other/"), "no_instances");
    let mut old = world();
    old.put_rule(rule(json!({"id": "later", "destination": "other", "route": {"backends": [{"name": "late", "tags": ["v1"]}]}})));
    let mut new = old.clone();
    new.put_instance(instance("late", "late-1", "UP"));
    let table = table.recompile(&old, &new, &Identity::parse("gateway"), &());
    assert_eq!(reach(&table, "/other/"), "late-1");
}

#[test]
fn captures_find_their_service_though_its_place_moved() {
    let (table, shared) = after(|snapshot| snapshot.put_instance(instance("aaa", "aaa-1", "UP")));
    assert_eq!(reach(&table, "/api/x"), "web-1");
    assert_eq!(reach(&table, "/aaa/x"), "aaa-1");
    assert_eq!(shared, ["front", "other", "shared", "web"]);
    let names: Vec<_> = table.services().map(|service| service.name.to_string()).collect();
    assert_eq!(names, ["aaa", "front", "other", "shared", "web"]);
}

#[test]
fn a_rule_that_moves_to_another_destination_leaves_the_old_one() {
    let (table, shared) = after(|snapshot| {
        snapshot.put_rule(rule(json!({"id": "borrow", "destination": "other", "route": {"backends": [{"name": "shared", "tags": ["v1"]}]}})));
        snapshot.set_revision(7);
    });
    assert_eq!(reach(&table, "/front/"), "front-1");
    assert_eq!(reach(&table, "/other/"), "shared-1");
    assert_eq!(shared, ["shared", "web"]);
    assert_eq!(table.revision(), 7);
}

#[test]
fn a_deleted_capture_captures_no_more_and_its_service_gets_its_default_back() {
    let (table, shared) = after(|snapshot| snapshot.delete_rule(&RuleId::new("api").unwrap()));
    assert_eq!(reach(&table, "/api/x"), "unknown_service");
    assert_eq!(reach(&table, "/web/x"), "web-1");
    assert_eq!(shared, ["front", "other", "shared"]);
}

#[test]
fn an_instance_that_goes_down_is_left_out() {
    let (table, _) = after(|snapshot| snapshot.put_instance(instance("other", "other-1", "OUT_OF_SERVICE")));
    assert_eq!(reach(&table, "/other/"), "no_instances");
}

#[test]
fn a_lease_alone_shares_everything() {
    let (_, shared) = after(|snapshot| {
        for service in ["other", "shared"] {
            let leased = Instance { ttl: 60, ..(*instance(service, &format!("{service}-1"), "UP")).clone() };
            snapshot.put_instance(Arc::new(leased));
        }
    });
    assert_eq!(shared.len(), 4, "{shared:?}");
}

#[test]
fn a_revision_alone_shares_everything() {
    let (table, shared) = after(|snapshot| snapshot.set_revision(9));
    assert_eq!((table.revision(), shared.len()), (9, 4));
}

#[test]
fn a_host_may_name_the_namespace_of_the_snapshot_and_no_other() {
    let named = |namespace: &str| {
        let mut snapshot = world();
        snapshot.set_namespace(Namespace::new(namespace).unwrap());
        snapshot
    };
    let (blue, identity) = (named("blue"), Identity::parse("gateway"));
    let table: RouteTable = RouteTable::compile(&blue, &identity, &());
    for (host, reached) in [
        ("other.a8", "other-1"),
        ("other.blue.a8", "other-1"),
        ("other.blue.a8:80", "other-1"),
        ("other.default.a8", "unknown_service"),
        ("other.Blue.a8", "unknown_service"),
    ] {
        assert_eq!(reach_at(&table, host, "/"), reached, "{host}");
    }
    // Whatever a table was made from.
    let mut later = blue.clone();
    later.set_revision(9);
    let next = table.recompile(&blue, &later, &identity, &());
    assert_eq!(reach_at(&next, "other.blue.a8", "/"), "other-1");
    let moved = next.recompile(&later, &named("green"), &identity, &());
    assert_eq!(reach_at(&moved, "other.blue.a8", "/"), "unknown_service");
    assert_eq!(reach_at(&moved, "other.green.a8", "/"), "other-1");
    let fresh = table.recompile(&Snapshot::default(), &blue, &Identity::parse("front"), &());
    assert_eq!(reach_at(&fresh, "other.blue.a8", "/"), "other-1");
}

#[test]
fn an_empty_table_knows_nobody() {
    let table: RouteTable = RouteTable::empty();
    assert_eq!(
        (reach(&table, "/a"), table.services().len(), table.revision()),
        ("unknown_service".to_owned(), 0, 0)
    );
}

/// P05 of spec 6: whoever has no rule selects by tags as a backend of a rule does.
#[test]
fn a_service_gives_those_instances_that_carry_every_tag() {
    let tagged = |id: &str, status: &str, tags: &[&str]| -> Arc<Instance> {
        let text = json!({"id": id, "service_name": "shoppingCart", "status": status, "tags": tags,
            "endpoint": {"type": "tcp", "value": "10.0.0.1:3050"}});
        Arc::new(serde_json::from_value(text).unwrap())
    };
    let instances = [
        tagged("1", "UP", &[]),
        tagged("2", "UP", &["first", "third"]),
        tagged("3", "UP", &["first", "second"]),
        tagged("4", "UP", &["second", "second", "version=1.4"]),
        tagged("5", "DOWN", &["first"]),
    ];
    let snapshot = Snapshot::new(1, [], instances);
    let table: RouteTable = RouteTable::compile(&snapshot, &Identity::default(), &());
    let service = table.service(table.find("shoppingCart").unwrap());
    for (tags, ids) in [
        (&[][..], "1 2 3 4"),
        (&["first"], "2 3"),
        (&["first", "second"], "3"),
        (&["second", "first"], "3"),
        (&["second"], "3 4"),
        (&["version=^1.2"], "4"),
        (&["fourth"], ""),
        (&["fir"], ""),
    ] {
        let tests: Vec<_> = tags.iter().map(|tag| TagTest::new(tag).unwrap()).collect();
        let carrying = service.carrying(&tests);
        let found: Vec<_> = carrying.iter().map(|endpoint| endpoint.instance.id.as_str()).collect();
        assert_eq!(found.join(" "), ids, "{tags:?}");
    }
}
