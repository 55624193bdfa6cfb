//! The rules API from outside, over a really served control: routes and filters of
//! spec/control-and-proxy.md 1.4, envelopes of 1.2, tenancy of 1.3, refusals of 2.3.
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use serde_json::{Value, json};
use support::{Answer, Control, Http, Registry};

async fn control(flags: &[&str]) -> Control {
    Control::start(&Registry::start().await, flags).await
}

fn route(id: &str, destination: &str) -> Value {
    json!({"id": id, "destination": destination, "route": {"backends": [{"tags": ["version=v1"]}]}})
}

fn action(id: &str, destination: &str) -> Value {
    json!({"id": id, "destination": destination, "actions": [{"action": "delay", "duration": 7}]})
}

fn ids(rules: &Value) -> Vec<&str> {
    rules.as_array().unwrap().iter().map(|rule| rule["id"].as_str().unwrap()).collect()
}

/// The rules of F02: one with tags and actions, one with a route.
async fn two_rules(http: &Http) {
    let mut rule1 = action("rule1", "service1");
    rule1["tags"] = json!(["tag1", "tag2"]);
    http.post_rules(json!([rule1, route("rule2", "service2")])).await;
}

fn framework(answer: &Answer) -> String {
    answer.json()["Error"].as_str().unwrap_or_default().to_owned()
}

fn application(answer: &Answer) -> (String, String) {
    let body = answer.json();
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (text("error"), text("description"))
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
async fn the_framework_refuses_before_anybody_is_asked_who_they_are() {
    let control = control(&["--auth_mode=trusted"]).await;
    let http = &control.http;
    for (method, path, status, text) in [
        ("GET", "/", 404, "Resource not found"),
        ("GET", "/v1", 404, "Resource not found"),
        ("GET", "/v1/rules/", 404, "Resource not found"),
        ("GET", "/v1/rules/routes/", 404, "Resource not found"),
        ("GET", "/v1/rules/routes/a/b", 404, "Resource not found"),
        ("PATCH", "/v1/rules", 405, "Method not allowed"),
        ("OPTIONS", "/v1/rules", 405, "Method not allowed"),
        ("PUT", "/v1/rules/routes/a", 405, "Method not allowed"),
        ("PUT", "/v1/rules/actions/a", 405, "Method not allowed"),
        ("POST", "/v1/rules/routes", 405, "Method not allowed"),
        ("DELETE", "/v1/rules/routes", 405, "Method not allowed"),
        ("POST", "/v1/watch", 405, "Method not allowed"),
        ("DELETE", "/v1/proxies", 405, "Method not allowed"),
        ("POST", "/health", 405, "Method not allowed"),
    ] {
        let answer = http.send(method, path, "").await.is(status);
        assert_eq!(framework(&answer), text, "{method} {path}");
        assert_eq!(answer.header("a8-request-id").len(), 36, "{method} {path}");
    }
    let unsupported = "Bad Content-Type or charset, expected 'application/json'";
    for (method, path) in [("POST", "/v1/rules"), ("GET", "/nowhere"), ("PATCH", "/health")] {
        for content_type in ["", "text/plain", "application/json; charset=latin1"] {
            let answer = http.with("content-type", content_type).send(method, path, "{}").await.is(415);
            assert_eq!(framework(&answer), unsupported, "{method} {path} {content_type}");
            assert_eq!(answer.header("a8-request-id").len(), 36);
        }
    }
    for path in ["/health", "/v1/rules", "/v1/rules/routes/a", "/v1/watch", "/metrics"] {
        let answer = http.send("HEAD", path, "").await.is(405);
        assert_eq!(answer.text(), "", "a HEAD has no body");
    }
}

#[tokio::test]
async fn a_request_id_is_returned_or_made() {
    let control = control(&[]).await;
    let http = &control.http;
    assert_eq!(http.with("a8-request-id", "mine").get("/v1/rules").await.header("a8-request-id"), "mine");
    assert_eq!(http.with("a8-request-id", "mine").get("/nowhere").await.header("a8-request-id"), "mine");
    let (one, two) = (http.get("/health").await, http.get("/health").await);
    assert_ne!(one.header("a8-request-id"), two.header("a8-request-id"));
}

#[tokio::test]
async fn a_body_over_a_mebibyte_is_refused() {
    let control = control(&[]).await;
    let http = control.http.with("content-type", "application/json");
    let mut rule = route("x", "d");
    rule["tags"] = json!(["t".repeat(1 << 20)]);
    let answer = http.send("POST", "/v1/rules", json!({"rules": [rule]}).to_string()).await.is(413);
    assert!(!framework(&answer).is_empty());
    rule["tags"] = json!(["t".repeat((1 << 20) - 1_000)]);
    http.send("POST", "/v1/rules", json!({"rules": [rule]}).to_string()).await.is(201);
}

#[tokio::test]
async fn health_has_no_body_and_needs_no_token() {
    let control = control(&["--auth_mode=trusted"]).await;
    let answer = control.http.get("/health").await.is(200);
    assert_eq!((answer.text().as_str(), answer.header("content-type")), ("", ""));
    control.eventually("/readyz", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn without_authentication_there_is_one_namespace() {
    let control = control(&[]).await;
    let http = &control.http;
    http.with_token("default").post_rules(json!([route("x", "a")])).await;
    assert_eq!(ids(&http.get("/v1/rules").await.json()["rules"]), ["x"]);
    for path in ["/v1/rules", "/v1/rules/routes/a", "/v1/watch", "/v1/proxies"] {
        let answer = http.with_token("invalid-token").get(path).await.is(401);
        let text = "Authorization failure, invalid token".to_owned();
        assert_eq!(application(&answer), ("error_auth_not_authorized".to_owned(), text), "{path}");
    }
}

#[tokio::test]
async fn a_trusted_token_is_the_namespace_and_namespaces_never_mix() {
    let control = control(&["--auth_mode=trusted"]).await;
    let http = &control.http;
    let blue = http.with_token("blue");
    let green = http.with("authorization", "bearer green");
    blue.post_rules(json!([route("x", "of-blue"), route("y", "of-blue")])).await;
    green.post_rules(json!([action("x", "of-green")])).await;
    green.delete("/v1/rules?id=y").await.is(200);
    let body = blue.get("/v1/rules").await.json();
    assert_eq!((ids(&body["rules"]), &body["revision"]), (vec!["x", "y"], &json!(1)));
    let body = green.get("/v1/rules").await.json();
    assert_eq!((&body["rules"][0]["destination"], &body["revision"]), (&json!("of-green"), &json!(2)));
    let nobody = http.with_token("never used").get("/v1/rules").await.is(200).json();
    assert_eq!(nobody, json!({"rules": [], "revision": 0}));

    let missing = "Missing request Authorization header";
    let malformed = "Malformed request Authorization header, expecting Bearer Token";
    for (header, id, text) in [
        (None, "error_auth_header_missing", missing),
        (Some("Basic abc"), "error_auth_header_malformed", malformed),
        (Some("BEARER abc"), "error_auth_header_malformed", malformed),
        (Some("abc"), "error_auth_header_malformed", malformed),
    ] {
        let http = header.map_or(http.clone(), |header| http.with("authorization", header));
        let answer = http.get("/v1/rules").await.is(401);
        assert_eq!(application(&answer), (id.to_owned(), text.to_owned()), "{header:?}");
    }
}

#[tokio::test]
async fn an_admin_acts_on_the_namespace_it_names() {
    let control = control(&["--auth_mode=trusted"]).await;
    let admin = control.http.with_token("admin");
    let answer = admin.get("/v1/rules").await.is(400);
    let id = "missing_namespace_header".to_owned();
    assert_eq!(application(&answer), (id.clone(), id));
    admin.with("a8-namespace", "blue").post_rules(json!([route("x", "a")])).await;
    assert_eq!(ids(&control.http.with_token("blue").get("/v1/rules").await.json()["rules"]), ["x"]);
}

#[tokio::test]
async fn plain_callers_are_redirected_when_https_is_required() {
    let control = control(&["--require_https", "--auth_mode=trusted"]).await;
    let http = &control.http;
    for path in ["/health", "/v1/rules?id=a%20b", "/nowhere"] {
        let answer = http.get(path).await.is(301);
        assert_eq!(answer.header("location"), format!("https://{}{path}", control.address));
        assert_eq!((answer.text().as_str(), answer.header("a8-request-id").len()), ("", 36));
    }
    http.with("x-forwarded-proto", "https").get("/health").await.is(200);
    http.with("$wssc", "https").get("/health").await.is(200);
    http.with("x-forwarded-proto", "http").get("/health").await.is(301);
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
async fn every_operation_is_counted_under_its_id() {
    let control = control(&[]).await;
    let http = &control.http;
    http.post_rules(json!([route("x", "a")])).await;
    http.json("POST", "/v1/rules", &json!({"rules": []})).await.is(400);
    http.json("PUT", "/v1/rules", &json!({"rules": [route("x", "b")]})).await.is(200);
    let reads = ["", "/routes", "/actions", "/routes/a", "/actions/a"];
    for path in reads {
        http.get(&format!("/v1/rules{path}")).await.is(200);
    }
    for path in ["/v1/rules/routes/a", "/v1/rules/actions/a", "/v1/rules"] {
        http.delete(path).await.is(200);
    }
    http.get("/health").await.is(200);
    http.get("/v1/proxies").await.is(200);
    let answer = http.get("/metrics").await.is(200);
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    for (operation, result) in [
        ("controller_health", "success"),
        ("add_rules", "success"),
        ("add_rules", "failure"),
        ("get_rules", "success"),
        ("update_rules", "success"),
        ("delete_rules", "success"),
        ("get_all_routes", "success"),
        ("get_all_actions", "success"),
        ("get_rule_route_destination", "success"),
        ("get_rule_action_destination", "success"),
        ("delete_rule_route_destination", "success"),
        ("delete_rule_action_destination", "success"),
        ("get_proxies", "success"),
    ] {
        let labels = format!("{{operation=\"{operation}\",result=\"{result}\"}} 1");
        assert!(text.contains(&format!("a8_control_requests_total{labels}")), "{labels}\n{text}");
        assert!(text.contains(&format!("a8_control_request_duration_seconds_count{labels}")), "{labels}");
    }
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
