//! What every request passes, from outside: the envelopes and the order of spec/control-and-proxy.md 1.2,
//! tenancy of 1.3, health and metrics of 1.5.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use serde_json::json;
use support::rules::{action, application, control, framework, ids, route};

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
async fn http2_in_cleartext_is_served_alike() {
    let control = control(&["--require_https"]).await;
    let http = control.http.over_http2();
    let answer = http.get("/v1/rules").await.is(301);
    assert_eq!(answer.header("location"), format!("https://{}/v1/rules", control.address));
    let secure = http.with("x-forwarded-proto", "https");
    secure.post_rules(json!([route("x", "a")])).await;
    assert_eq!(ids(&secure.get("/v1/rules").await.json()["rules"]), ["x"]);
    assert_eq!(framework(&secure.get("/nowhere").await.is(404)), "Resource not found");
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
async fn long_lists_are_whole_and_whoever_takes_none_of_them_leaves_others_theirs() {
    let control = control(&[]).await;
    let http = &control.http;
    let tags: Vec<_> = (0..9_000).map(|n| format!("{n:0100}")).collect();
    for id in 0..6 {
        let rule = json!({"id": format!("r{id}"), "tags": &tags, "destination": "d",
            "route": {"backends": [{"tags": ["v"]}]}});
        http.post_rules(json!([rule])).await;
    }
    let list = http.get("/v1/rules").await.is(200);
    assert_eq!(list.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(list.json()["rules"].as_array().unwrap().len(), 6);

    // Each of these answers is too long for the buffers on its way, and nobody takes it.
    let mut silent = Vec::new();
    for _ in 0..60 {
        let mut stream = tokio::net::TcpStream::connect(control.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /v1/rules HTTP/1.1\r\nHost: h\r\n\r\n")
            .await
            .unwrap();
        silent.push(stream);
    }
    let refused = control.eventually("/v1/rules", |answer| answer.status == 503).await;
    assert_eq!(refused.json()["error"], "error_too_much");
    http.get("/v1/rules?id=r1").await.is(503);
    http.with_token("default").delete("/v1/rules?id=nobody").await.is(200);
    drop(silent);
    control.eventually("/v1/rules", |answer| answer.status == 200).await;
}
