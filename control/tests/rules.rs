//! The rules API from outside, over a really served control: routes and filters of
//! spec/control-and-proxy.md 1.4, refusals of 2.3.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use serde_json::{Value, json};
use support::Http;
use support::rules::{action, application, control, ids, route};

/// The rules of F02: one with tags and actions, one with a route.
async fn two_rules(http: &Http) {
    let mut rule1 = action("rule1", "service1");
    rule1["tags"] = json!(["tag1", "tag2"]);
    http.post_rules(json!([rule1, route("rule2", "service2")])).await;
}

#[tokio::test]
async fn the_example_of_1_4_holds() {
    let control = control(&[]).await;
    let backends = json!([{"tags": ["version=v2"], "weight": 0.25}, {"tags": ["version=v1"]}]);
    let rule = json!({"priority": 1, "destination": "reviews", "route": {"backends": backends}});
    let created = control.http.post_rules(json!([rule])).await;
    assert_eq!(created.header("a8-revision"), "1");
    let body = created.json();
    let id = body["ids"][0].as_str().unwrap();
    assert_eq!((body.as_object().unwrap().len(), id.len()), (1, 36));
    let expected = json!({"rules": [{"id": id, "priority": 1, "destination": "reviews",
        "route": {"backends": backends}}], "revision": 1});
    let answer = control.http.get("/v1/rules").await.is(200);
    assert_eq!(answer.json(), expected);
    assert!(answer.header("content-type").starts_with("application/json"));
}

#[tokio::test]
async fn c05_to_c08_writes_count_and_refused_ones_do_not() {
    let control = control(&[]).await;
    let http = &control.http;
    let empty = json!({"rules": [], "revision": 0});
    assert_eq!(http.get("/v1/rules").await.json(), empty);
    let refused = json!({"rules": [route("x", "a"), {"id": "y", "destination": "b"}]});
    assert_eq!(application(&http.json("POST", "/v1/rules", &refused).await.is(400)).0, "error_invalid_rule");
    assert_eq!(http.get("/v1/rules").await.json(), empty, "all or nothing");

    let id = http.post_rules(json!([route("", "DestinationX")])).await.json()["ids"][0].clone();
    let by_id = format!("/v1/rules?id={}", id.as_str().unwrap());
    let read = http.get(&by_id).await.is(200).json();
    assert_eq!((&read["rules"][0]["destination"], &read["revision"]), (&json!("DestinationX"), &json!(1)));

    let mut changed = route("", "DestinationY");
    changed["id"] = id;
    let put = http.json("PUT", "/v1/rules", &json!({"rules": [changed]})).await.is(200);
    assert_eq!((put.text().as_str(), put.header("a8-revision")), ("", "2"));
    assert_eq!(http.get(&by_id).await.json()["rules"][0]["destination"], json!("DestinationY"));

    let deleted = http.delete(&by_id).await.is(200);
    assert_eq!((deleted.text().as_str(), deleted.header("a8-revision")), ("", "3"));
    assert_eq!(http.get("/v1/rules").await.json(), json!({"rules": [], "revision": 3}));
    assert_eq!(
        http.delete(&by_id).await.is(200).header("a8-revision"),
        "4",
        "repeating is allowed and counts"
    );
}

#[tokio::test]
async fn f01_to_f04_filters_are_anded_and_name_rules_that_exist() {
    let control = control(&[]).await;
    let http = &control.http;
    two_rules(http).await;
    for (query, expected) in [
        ("", &["rule1", "rule2"][..]),
        ("?tag=tag1", &["rule1"]),
        ("?tag=tag2&tag=tag1", &["rule1"]),
        ("?tag=tag1&tag=tag1", &["rule1"]),
        ("?tag=tag1&tag=tag3", &[]),
        ("?tag=", &[]),
        ("?destination=service2", &["rule2"]),
        ("?destination=service1&destination=service2", &["rule1", "rule2"]),
        ("?id=rule1&id=rule2&tag=tag1", &["rule1"]),
        ("?id=rule2&destination=service1", &[]),
        ("?unknown=x", &["rule1", "rule2"]),
    ] {
        let body = http.get(&format!("/v1/rules{query}")).await.is(200).json();
        assert_eq!(ids(&body["rules"]), expected, "{query}");
        assert_eq!(body["revision"], json!(1), "{query}");
    }
    for query in ["?id=nobody", "?id=rule1&id=nobody", "?id="] {
        let answer = http.get(&format!("/v1/rules{query}")).await.is(404);
        assert_eq!(application(&answer).0, "error_rule_not_found", "{query}");
    }
}

#[tokio::test]
async fn rules_are_listed_by_kind_and_destination() {
    let control = control(&[]).await;
    let http = &control.http;
    let rules = json!([
        route("r1", "a"),
        route("r2", "a"),
        route("r3", "b.c/d"),
        action("x1", "a"),
        action("x2", "c")
    ]);
    http.post_rules(rules).await;
    let services = |path: &'static str| async move { http.get(path).await.is(200).json() };
    let routes = services("/v1/rules/routes").await;
    assert_eq!(routes.as_object().unwrap().len(), 1, "no revision here");
    assert_eq!(ids(&routes["services"]["a"]), ["r1", "r2"]);
    assert_eq!(ids(&routes["services"]["b.c/d"]), ["r3"]);
    assert_eq!(routes["services"].as_object().unwrap().len(), 2);
    let actions = services("/v1/rules/actions?destination=c").await;
    assert_eq!(ids(&actions["services"]["c"]), ["x2"]);
    assert_eq!(actions["services"].as_object().unwrap().len(), 1);
    assert_eq!(services("/v1/rules/routes?id=nobody").await, json!({"services": {}}));
    for (path, expected) in [
        ("/v1/rules/routes/a", &["r1", "r2"][..]),
        ("/v1/rules/routes/b.c%2Fd?destination=a", &["r3"]),
        ("/v1/rules/actions/a", &["x1"]),
        ("/v1/rules/actions/nobody", &[]),
    ] {
        let body = http.get(path).await.is(200).json();
        assert_eq!((ids(&body["rules"]), &body["revision"]), (expected.to_vec(), &json!(1)), "{path}");
    }
}

#[tokio::test]
async fn deleting_by_kind_leaves_the_other_kind_alone() {
    let control = control(&[]).await;
    let http = &control.http;
    http.post_rules(json!([route("r1", "a"), route("r2", "b"), action("x1", "a"), action("x2", "b")])).await;
    let left = || async { http.get("/v1/rules").await.json() };
    assert_eq!(http.delete("/v1/rules/routes/a").await.is(200).text(), "");
    assert_eq!(ids(&left().await["rules"]), ["r2", "x1", "x2"]);
    http.delete("/v1/rules/actions/b").await.is(200);
    assert_eq!(ids(&left().await["rules"]), ["r2", "x1"]);
    http.delete("/v1/rules/actions/nobody").await.is(200);
    http.delete("/v1/rules?destination=b&tag=none").await.is(200);
    assert_eq!(left().await["revision"], json!(5));
    http.delete("/v1/rules").await.is(200);
    assert_eq!(left().await, json!({"rules": [], "revision": 6}));
}

#[tokio::test]
async fn posting_a_file_again_replaces_its_rules() {
    let control = control(&[]).await;
    let http = &control.http;
    for destination in ["first", "second"] {
        let answer = http.post_rules(json!([route("named", destination), route("named", destination)])).await;
        assert_eq!(answer.json(), json!({"ids": ["named", "named"]}));
    }
    let body = http.get("/v1/rules").await.json();
    assert_eq!((body["rules"].as_array().unwrap().len(), &body["revision"]), (1, &json!(2)));
    assert_eq!(body["rules"][0]["destination"], json!("second"));
}

#[tokio::test]
async fn a_replacement_of_a_rule_that_is_not_there_changes_nothing() {
    let control = control(&[]).await;
    let http = &control.http;
    two_rules(http).await;
    for rules in [json!([route("rule2", "x"), route("nobody", "x")]), json!([route("", "x")])] {
        let answer = http.json("PUT", "/v1/rules", &json!({"rules": rules})).await.is(404);
        assert_eq!(application(&answer).0, "error_rule_not_found");
    }
    let body = http.get("/v1/rules").await.json();
    assert_eq!((&body["rules"][1]["destination"], &body["revision"]), (&json!("service2"), &json!(1)));
    let mut whole = route("rule1", "elsewhere");
    whole["priority"] = json!(-3);
    http.json("PUT", "/v1/rules", &json!({"rules": [whole]})).await.is(200);
    assert_eq!(http.get("/v1/rules?id=rule1").await.json()["rules"], json!([whole]), "replaced, not merged");
}

#[tokio::test]
async fn bodies_that_are_no_rules_are_refused_by_name() {
    let control = control(&[]).await;
    let http = control.http.with("content-type", "application/json");
    let invalid = ("error_invalid_json", "Could not parse JSON, invalid JSON provided");
    let none = ("error_no_rules_provided", "No rules provided");
    for method in ["POST", "PUT"] {
        for (body, (id, text)) in [
            ("", invalid),
            ("{", invalid),
            ("[]", invalid),
            (r#"{"rules":[{"priority":1.5}]}"#, invalid),
            (r#"{"rules":[{"tags":[1]}]}"#, invalid),
            ("{}", none),
            (r#"{"rules":null}"#, none),
            (r#"{"rules":[]}"#, none),
        ] {
            let answer = http.send(method, "/v1/rules", body).await.is(400);
            assert_eq!(application(&answer), (id.to_owned(), text.to_owned()), "{method} {body}");
        }
    }
}

#[tokio::test]
async fn every_refusal_of_2_3_is_a_400_and_leaves_the_revision_alone() {
    let control = control(&[]).await;
    let http = &control.http;
    let with = |key: &str, value: Value| {
        let mut rule = route("x", "d");
        rule[key] = value;
        rule
    };
    let backend = |backend: Value| with("route", json!({"backends": [backend]}));
    let act = |action: Value| json!({"destination": "d", "actions": [action]});
    let refused = [
        with("destination", json!("")),
        json!({"route": {"backends": [{"tags": ["a"]}]}}),
        json!({"destination": "d"}),
        with("actions", json!([{"action": "trace"}])),
        json!({"destination": "d", "actions": []}),
        with("match", json!({})),
        with("match", json!({"headers": {}})),
        with("match", json!({"source": {"tags": ["a"]}})),
        with("match", json!({"source": {"name": "s", "tags": ["a", "a"]}})),
        with("match", json!({"headers": {"Cookie": "(unclosed"}})),
        with("route", json!({"backends": []})),
        backend(json!({"weight": 0.5})),
        backend(json!({"tags": []})),
        backend(json!({"tags": ["a", "a"]})),
        backend(json!({"tags": ["a"], "weight": 1.01})),
        backend(json!({"tags": ["a"], "weight": -0.1})),
        backend(json!({"tags": ["a"], "lb_type": "fastest"})),
        backend(json!({"tags": ["a"], "resilience": {"max_connections": -1}})),
        with("route", json!({"backends": [{"tags": ["a"], "weight": 0.6}, {"tags": ["b"], "weight": 0.6}]})),
        with("route", json!({"backends": [{"tags": ["a"]}], "http_req_timeout": -1})),
        with("route", json!({"backends": [{"tags": ["a"]}], "http_req_retries": -1})),
        with("route", json!({"backends": [{"tags": ["a"]}], "uri": {"path": "/a", "prefix": "/b"}})),
        with("route", json!({"backends": [{"tags": ["a"]}], "uri": {}})),
        act(json!({"action": "explode"})),
        act(json!({"action": "delay"})),
        act(json!({"action": "abort"})),
        act(json!({"action": "abort", "return_code": 600})),
        act(json!({"action": "abort", "return_code": 99})),
        act(json!({"action": "abort", "return_code": 500, "probability": 1.5})),
        act(json!({"action": "trace", "probability": 0.5})),
        act(json!({"action": "delay", "duration": 1, "return_code": 500})),
        act(json!({"action": "delay", "duration": 1, "tags": ["a", "a"]})),
        Value::Null,
    ];
    for rule in refused {
        let body = json!({"rules": [route("fine", "d"), rule]});
        let answer = http.json("POST", "/v1/rules", &body).await.is(400);
        let (id, text) = application(&answer);
        assert_eq!(id, "error_invalid_rule", "{rule}");
        assert!(text.starts_with("Invalid rule provided: rule 1 "), "{text}");
        assert_eq!(answer.header("a8-revision"), "");
    }
    assert_eq!(http.get("/v1/rules").await.json(), json!({"rules": [], "revision": 0}));
}

#[tokio::test]
async fn what_is_zero_is_omitted_and_uri_is_always_whole() {
    let control = control(&[]).await;
    let written = json!({"id": "x", "priority": 0, "tags": [], "destination": "d", "color": "red",
        "route": {"backends": [{"tags": ["a"], "weight": 0, "name": "", "timeout": 3}],
            "uri": {"prefix": "/p"}, "http_req_timeout": 0, "http_req_retries": 0}});
    let kept = json!({"id": "x", "destination": "d", "route": {"backends": [{"tags": ["a"]}],
        "uri": {"path": "", "prefix": "/p", "prefix_rewrite": ""}}});
    control.http.post_rules(json!([written])).await;
    assert_eq!(control.http.get("/v1/rules").await.json()["rules"], json!([kept]));
}

#[tokio::test]
async fn all_any_and_none_are_kept() {
    let control = control(&[]).await;
    let matching = json!({"source": {"name": "gateway", "tags": ["version=none"]}, "headers": {"Foo": "bar"},
        "all": [{"headers": {"A": "1"}}], "any": [{"source": {"name": "s"}}], "none": [{"headers": {"B": "2"}}]});
    let mut rule = route("x", "d");
    rule["match"] = matching.clone();
    control.http.post_rules(json!([rule])).await;
    assert_eq!(control.http.get("/v1/rules").await.json()["rules"][0]["match"], matching);
}

#[tokio::test]
async fn a_bad_wait_is_refused_before_anything_is_written() {
    let control = control(&[]).await;
    let http = &control.http;
    let body = json!({"rules": [route("x", "a")]});
    for query in ["wait=soon", "wait=applied&timeout=soon", "wait=applied&timeout=-1s"] {
        for (method, path) in [("POST", "/v1/rules"), ("PUT", "/v1/rules"), ("DELETE", "/v1/rules")] {
            let answer = http.json(method, &format!("{path}?{query}"), &body).await.is(400);
            assert_eq!(application(&answer).0, "error_invalid_parameter", "{method} {query}");
        }
    }
    assert_eq!(http.get("/v1/rules").await.json(), json!({"rules": [], "revision": 0}));
}

#[tokio::test]
async fn writes_at_the_same_time_are_all_kept_and_counted() {
    let (_directory, data_dir) = support::data_dir();
    let data_dir = format!("--data_dir={}", data_dir.display());
    let control = control(&["--database_type=redb", &data_dir]).await;
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..40 {
        let http = control.http.clone();
        writes.spawn(async move {
            let answer = http.post_rules(json!([route(&format!("r{n}"), "a")])).await;
            answer.header("a8-revision").parse::<u64>().unwrap()
        });
    }
    let mut revisions = writes.join_all().await;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=40).collect::<Vec<_>>(), "each write has its own revision");
    let body = control.http.get("/v1/rules").await.json();
    assert_eq!((body["rules"].as_array().unwrap().len(), &body["revision"]), (40, &json!(40)));
}

#[tokio::test]
async fn one_switch_disables_every_fault_and_touches_no_rule() {
    let (_registry, control) = support::watch::started(&[]).await;
    let http = &control.http;
    http.post_rules(json!([action("rule1", "service1")])).await;
    assert_eq!(http.get("/v1/faults").await.is(200).json(), json!({"disabled": false, "revision": 1}));
    let put = http.json("PUT", "/v1/faults", &json!({"disabled": true})).await.is(200);
    assert_eq!((put.text().as_str(), put.header("a8-revision")), ("", "2"));
    assert_eq!(http.get("/v1/faults").await.json(), json!({"disabled": true, "revision": 2}));
    assert_eq!(http.get("/v1/rules").await.json()["rules"][0]["id"], "rule1");
    control.eventually("/v1/watch", |answer| answer.text().contains(r#""faults_disabled":true"#)).await;
    for body in [json!({}), json!({"disabled": 1}), json!([])] {
        let refused = http.json("PUT", "/v1/faults", &body).await.is(400);
        assert_eq!(application(&refused).0, "error_invalid_json");
    }
    http.json("PUT", "/v1/faults", &json!({"disabled": false})).await.is(200);
    let answer = control.eventually("/v1/watch", |answer| !answer.text().contains("faults_disabled")).await;
    assert_eq!(answer.json()["revision"], 3);
}
