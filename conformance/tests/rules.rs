//! The rule API as operators meet it: ids, filters, revisions, both error envelopes, and validation. The full tables are
//! in control's own tests; here it is the shipped program that answers.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use conformance::{Cluster, Request, delete, get, post, put};
use serde_json::{Value, json};

fn route(id: &str, destination: &str, tag: &str) -> Value {
    json!({"id": id, "destination": destination, "route": {"backends": [{"tags": [tag]}]}})
}

fn rules(rules: Value) -> Value {
    json!({ "rules": rules })
}

#[test]
fn rules_are_created_listed_replaced_and_deleted_with_a_revision_each() {
    let cluster = Cluster::start();
    let at = cluster.control.address();
    assert_eq!(get("/v1/rules").call(at).expect(200).json(), json!({"rules": [], "revision": 0}));

    let body = rules(json!([
        {"priority": 1, "destination": "reviews", "tags": ["x", "y"],
         "route": {"backends": [{"tags": ["version=v2"], "weight": 0.25}, {"tags": ["version=v1"]}]}},
        route("named", "ratings", "version=v1"),
    ]));
    let created = post("/v1/rules", &body).call(at).expect(201);
    assert_eq!(created.header("A8-Revision"), "1");
    assert_eq!(created.json()["ids"][1], "named");
    let generated = created.json()["ids"][0].as_str().unwrap().to_owned();
    assert_eq!(generated.len(), 36);

    let one = get(format!("/v1/rules?id={generated}")).call(at).expect(200).json();
    let expected = json!({"id": generated, "priority": 1, "destination": "reviews", "tags": ["x", "y"],
        "route": {"backends": [{"tags": ["version=v2"], "weight": 0.25}, {"tags": ["version=v1"]}]}});
    assert_eq!(one, json!({"rules": [expected], "revision": 1}));

    // Posting a demo file twice succeeds (spec 1.4: upsert).
    let _ = post("/v1/rules", &rules(json!([route("named", "ratings", "version=v2")]))).call(at).expect(201);
    let replaced =
        put("/v1/rules", &rules(json!([route("named", "ratings", "version=v3")]))).call(at).expect(200);
    assert!(replaced.body.is_empty());
    assert_eq!(replaced.header("A8-Revision"), "3");
    let kept = get("/v1/rules?id=named").call(at).json();
    assert_eq!(kept["rules"][0]["route"]["backends"][0]["tags"], json!(["version=v3"]));

    assert_eq!(delete("/v1/rules?id=nobody").call(at).expect(200).header("A8-Revision"), "4");
    let _ = delete("/v1/rules").call(at).expect(200);
    assert_eq!(get("/v1/rules").call(at).json(), json!({"rules": [], "revision": 5}));
}

#[test]
fn filters_select_by_id_tag_destination_and_kind() {
    let cluster = Cluster::start();
    let at = cluster.control.address();
    let body = rules(json!([
        {"id": "r1", "tags": ["tag1", "tag2"], "destination": "service1",
         "actions": [{"action": "abort", "return_code": 500}]},
        route("r2", "service2", "v1"),
        route("r3", "ser.vice/3", "v1"),
    ]));
    let _ = post("/v1/rules", &body).call(at).expect(201);
    let ids = |target: &str| {
        let list = get(target).call(at).expect(200).json();
        let mut ids: Vec<_> = list["rules"].as_array().unwrap().iter().map(|r| r["id"].to_string()).collect();
        ids.sort();
        ids.join(" ").replace('"', "")
    };
    for (target, expected) in [
        ("/v1/rules", "r1 r2 r3"),
        ("/v1/rules?tag=tag1", "r1"),
        ("/v1/rules?tag=tag1&tag=tag1&tag=tag2", "r1"),
        ("/v1/rules?tag=tag1&tag=other", ""),
        ("/v1/rules?destination=service2&destination=service1", "r1 r2"),
        ("/v1/rules?id=r1&destination=service2", ""),
        ("/v1/rules?colour=red", "r1 r2 r3"),
        ("/v1/rules/routes/service2", "r2"),
        ("/v1/rules/routes/ser.vice%2F3", "r3"),
        ("/v1/rules/routes/service1", ""),
        ("/v1/rules/actions/service1", "r1"),
    ] {
        assert_eq!(ids(target), expected, "{target}");
    }
    let routes = get("/v1/rules/routes").call(at).expect(200).json();
    assert_eq!(routes["services"]["service2"][0]["id"], "r2");
    assert!(routes["services"].get("service1").is_none() && routes.get("revision").is_none());
    let _ = delete("/v1/rules/actions/service2").call(at).expect(200);
    let _ = delete("/v1/rules/routes/service2").call(at).expect(200);
    assert_eq!(ids("/v1/rules"), "r1 r3");
}

#[test]
fn refused_writes_change_nothing_and_name_their_reason() {
    let cluster = Cluster::start();
    let at = cluster.control.address();
    let json_body =
        |body: &str| Request::new("POST", "/v1/rules").header("Content-Type", "application/json").body(body);
    let bad = |rule: Value| post("/v1/rules", &rules(json!([route("fine", "a", "v"), rule])));
    let backends = |backends: Value| bad(json!({"destination": "a", "route": {"backends": backends}}));
    let action = |action: Value| bad(json!({"destination": "a", "actions": [action]}));
    let cases: Vec<(&str, Request, u16, &str)> = vec![
        ("no body", json_body(""), 400, "error_invalid_json"),
        ("no json", json_body("{"), 400, "error_invalid_json"),
        ("wrong type", json_body(r#"{"rules":[{"destination":7}]}"#), 400, "error_invalid_json"),
        (
            "fractional priority",
            json_body(r#"{"rules":[{"priority":1.5,"destination":"a"}]}"#),
            400,
            "error_invalid_json",
        ),
        ("null rules", json_body(r#"{"rules":null}"#), 400, "error_no_rules_provided"),
        ("empty rules", json_body(r#"{"rules":[]}"#), 400, "error_no_rules_provided"),
        ("no destination", bad(json!({"route": {"backends": [{"tags": ["v"]}]}})), 400, "error_invalid_rule"),
        (
            "both kinds",
            bad(json!({"destination": "a", "route": {"backends": [{"tags": ["v"]}]},
            "actions": [{"action": "abort", "return_code": 500}]})),
            400,
            "error_invalid_rule",
        ),
        ("neither kind", bad(json!({"destination": "a", "actions": []})), 400, "error_invalid_rule"),
        (
            "empty match",
            bad(json!({"destination": "a", "match": {}, "route": {"backends": [{"tags": ["v"]}]}})),
            400,
            "error_invalid_rule",
        ),
        (
            "bad expression",
            bad(json!({"destination": "a", "match": {"headers": {"Cookie": "("}},
            "route": {"backends": [{"tags": ["v"]}]}})),
            400,
            "error_invalid_rule",
        ),
        ("untagged backend", backends(json!([{"name": "a"}])), 400, "error_invalid_rule"),
        ("weight", backends(json!([{"tags": ["v"], "weight": 1.1}])), 400, "error_invalid_rule"),
        (
            "weights together",
            backends(json!([{"tags": ["v"], "weight": 0.7}, {"tags": ["w"], "weight": 0.4}])),
            400,
            "error_invalid_rule",
        ),
        ("lb_type", backends(json!([{"tags": ["v"], "lb_type": "maglev"}])), 400, "error_invalid_rule"),
        ("unknown action", action(json!({"action": "explode"})), 400, "error_invalid_rule"),
        ("delay without duration", action(json!({"action": "delay"})), 400, "error_invalid_rule"),
        ("abort code", action(json!({"action": "abort", "return_code": 42})), 400, "error_invalid_rule"),
        (
            "probability",
            action(json!({"action": "abort", "return_code": 500, "probability": 1.5})),
            400,
            "error_invalid_rule",
        ),
        ("foreign field", action(json!({"action": "trace", "return_code": 500})), 400, "error_invalid_rule"),
        (
            "unknown id",
            put("/v1/rules", &rules(json!([route("nobody", "a", "v")]))),
            404,
            "error_rule_not_found",
        ),
        ("read unknown id", get("/v1/rules?id=nobody"), 404, "error_rule_not_found"),
        ("foreign token", get("/v1/rules").token("somebody"), 401, "error_auth_not_authorized"),
        ("scheme", get("/v1/rules").header("Authorization", "Basic x"), 401, "error_auth_header_malformed"),
    ];
    for (name, request, status, id) in cases {
        let answer = request.call(at);
        assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(id)), "{name}: {answer:?}");
        assert!(!answer.header("A8-Request-Id").is_empty(), "{name}");
    }
    assert_eq!(get("/v1/rules").call(at).json(), json!({"rules": [], "revision": 0}));
}

#[test]
fn framework_errors_have_the_other_envelope() {
    let cluster = Cluster::start();
    let at = cluster.control.address();
    let cases = [
        (
            Request::new("POST", "/v1/rules").body("{}"),
            415,
            "Bad Content-Type or charset, expected 'application/json'",
        ),
        (get("/v1/nowhere"), 404, "Resource not found"),
        (get("/v1/nowhere").token("somebody"), 404, "Resource not found"),
        (Request::new("PATCH", "/v1/rules"), 405, "Method not allowed"),
        (put("/v1/rules/routes/a", &json!({"rules": []})), 405, "Method not allowed"),
        (Request::new("OPTIONS", "/v1/rules"), 405, "Method not allowed"),
    ];
    for (request, status, text) in cases {
        let answer = request.clone().header("A8-Request-Id", "mine").call(at);
        assert_eq!((answer.status, answer.json()), (status, json!({"Error": text})), "{request:?}");
        assert_eq!(answer.header("A8-Request-Id"), "mine");
    }
    assert!(get("/health").call(at).expect(200).body.is_empty());
}
