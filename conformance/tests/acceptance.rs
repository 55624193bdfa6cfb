//! The lines of the acceptance list that are about control (spec/control-and-proxy.md 6), each named by the test that holds
//! it, against the shipped program. Those about routing and faults are in `proxy/acceptance.rs`.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use conformance::{Cluster, Launch, delete, get, post, put};
use serde_json::{Value, json};

/// A control that would start but for what is added, with its rules in a place of its own.
fn control(dir: &tempfile::TempDir) -> Launch {
    let launch = Launch::a8(["control"]).flag("data_dir", dir.path());
    launch.env("A8_API_PORT", "0").env("A8_API_HOST", "127.0.0.1")
}

#[test]
fn c01_without_flags_control_has_a_port_and_a_store() {
    let shown = Launch::a8(["control"]).arg("--show_settings").finish();
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    // One behind the registry's, so that both can be on one machine; and what is written lasts.
    for line in ["api_port = 8081 (default)", "database_type = redb (default)"] {
        assert!(shown.stdout.lines().any(|shown| shown == line), "{line}\n{}", shown.stdout);
    }
}

#[test]
fn c02_a_port_a_key_of_16_characters_and_memory_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let launch = control(&dir).flag("encryption_key", "ABCEDFGHIJKLMNOP").flag("database_type", "memory");
    let process = launch.start("control");
    let _ = get("/health").call(process.address("api")).expect(200);
}

#[test]
fn c03_and_c04_a_key_of_another_length_and_an_unknown_store_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (setting, value) in [
        ("encryption_key", "ABCD"),
        ("encryption_key", "ABCEDFGHIJKLMNOPQ"),
        ("encryption_key", ""),
        ("database_type", "gihanson"),
        ("database_type", "cloudant"),
        ("database_type", ""),
    ] {
        let ended = control(&dir).flag(setting, value).finish();
        assert_eq!(ended.code, Some(1), "{setting} {value:?}: {ended:?}");
        assert!(ended.stderr.contains(setting) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
    }
}

fn rule(destination: &str) -> Value {
    json!({ "destination": destination, "route": {"backends": [{"tags": ["v1"]}]}})
}

/// How the rules of the tenant `test` are, and how often they have changed.
fn book(at: SocketAddr) -> (usize, u64) {
    let rules = get("/v1/rules").token("test").call(at).expect(200).json();
    (rules["rules"].as_array().unwrap().len(), rules["revision"].as_u64().unwrap())
}

/// A control with one rule of the tenant `test`, and that rule's id.
fn one_rule() -> (Cluster, SocketAddr, String) {
    let trusted = [("auth_mode", "trusted")];
    let cluster = Cluster::start_with(&trusted, &trusted);
    let at = cluster.control.address();
    let created = post("/v1/rules", &json!({"rules": [rule("DestinationX")]})).token("test").call(at);
    let ids = created.expect(201).json()["ids"].clone();
    assert_eq!(ids.as_array().unwrap().len(), 1);
    (cluster, at, ids[0].as_str().unwrap().to_owned())
}

fn destination_of(at: SocketAddr, id: &str) -> Value {
    let read = get(format!("/v1/rules?id={id}")).token("test").call(at).expect(200).json();
    read["rules"][0]["destination"].clone()
}

#[test]
fn c05_a_rule_that_is_added_has_an_id_by_which_it_is_read() {
    let (_cluster, at, id) = one_rule();
    assert!(!id.is_empty());
    assert_eq!((destination_of(at, &id), book(at)), (json!("DestinationX"), (1, 1)));
}

#[test]
fn c06_a_rule_that_is_updated_reads_as_it_was_written() {
    let (_cluster, at, id) = one_rule();
    let mut changed = rule("DestinationY");
    changed["id"] = json!(id);
    let _ = put("/v1/rules", &json!({ "rules": [changed] })).token("test").call(at).expect(200);
    assert_eq!((destination_of(at, &id), book(at)), (json!("DestinationY"), (1, 2)));
}

#[test]
fn c07_a_rule_that_is_deleted_is_gone() {
    let (_cluster, at, id) = one_rule();
    let _ = delete(format!("/v1/rules?id={id}")).token("test").call(at).expect(200);
    assert_eq!(book(at), (0, 2));
}

#[test]
fn c08_a_rule_that_is_refused_changes_nothing() {
    let cluster = Cluster::start_with(&[("auth_mode", "trusted")], &[("auth_mode", "trusted")]);
    let at = cluster.control.address();
    let rules = json!({"rules": [rule("DestinationX"), {"destination": "DestinationZ"}]});
    let refused = post("/v1/rules", &rules).token("test").call(at).expect(400).json();
    assert_eq!((&refused["error"], refused.get("ids")), (&json!("error_invalid_rule"), None));
    assert_eq!(book(at), (0, 0));
}

#[test]
fn f01_to_f04_filters_select_by_tag_destination_and_kind() {
    let cluster = Cluster::start();
    let at = cluster.control.address();
    let mut second = rule("service2");
    second["id"] = json!("rule2");
    let rules = json!({"rules": [
        {"id": "rule1", "tags": ["tag1", "tag2"], "destination": "service1",
         "actions": [{"action": "abort", "return_code": 500}]}, second]});
    let _ = post("/v1/rules", &rules).call(at).expect(201);
    let ids = |list: &Value| -> BTreeSet<String> {
        let rules = list.as_array().unwrap().iter();
        rules.map(|rule| rule["id"].as_str().unwrap().to_owned()).collect()
    };
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    for (line, query, expected) in [
        ("F01", "", &["rule1", "rule2"][..]),
        ("F02", "?tag=tag1", &["rule1"]),
        ("F03", "?destination=service2", &["rule2"]),
    ] {
        let read = get(format!("/v1/rules{query}")).call(at).expect(200).json();
        assert_eq!(ids(&read["rules"]), of(expected), "{line}");
    }
    for (kind, service, id) in [("actions", "service1", "rule1"), ("routes", "service2", "rule2")] {
        let read = get(format!("/v1/rules/{kind}")).call(at).expect(200).json();
        assert_eq!(read["services"].as_object().unwrap().len(), 1, "F04 {kind}: {read}");
        assert_eq!(ids(&read["services"][service]), of(&[id]), "F04 {kind}");
    }
    // And when they delete.
    let _ = delete("/v1/rules?tag=tag2").call(at).expect(200);
    assert_eq!(ids(&get("/v1/rules").call(at).json()["rules"]), of(&["rule2"]));
}
