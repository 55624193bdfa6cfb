//! What the tests of the ancestor prove of its HTTP layer, line by line under the ids of spec/registry.md 9.1, 9.2, 9.4
//! and 9.5. What lies behind the lines is tested beside it.

use serde_json::{Value, json};

use crate::registration;
use crate::support::{Reply, Running};

const JSON: &str = "Content-Type: application/json";
const SECURE: &str = "X-Forwarded-Proto: https";

async fn asked(
    registry: &Running,
    line: &str,
    (method, path): (&str, &str),
    body: &str,
    status: u16,
) -> Reply {
    let reply = registry.send(method, path, &[JSON], body).await;
    assert_eq!(reply.status, status, "{line}: {method} {path} {body}: {reply:?}");
    assert!(status < 400 || method == "HEAD" || reply.is_error(), "{line}: {reply:?}");
    reply
}

#[tokio::test]
async fn section_9_1_s1_to_s8_the_server() {
    // S1: it is the server of its settings.
    let registry = Running::start(&["--namespace_capacity=0"]).await;
    asked(&registry, "S1", ("POST", "/api/v1/instances"), &registration("s", "tcp", "h:1", ""), 403).await;
    asked(&registry, "S2", ("GET", "/hello"), "", 404).await;
    asked(&registry, "S3", ("GET", "/"), "", 200).await;
    let uptime = asked(&registry, "S4", ("GET", "/uptime"), "", 200).await;
    for (component, health) in uptime.value().as_object().unwrap() {
        assert!(
            health["healthy"].is_boolean()
                && health["properties"].is_null() | health["properties"].is_object(),
            "S4 {component}: {health}"
        );
    }
    // S5: what surrounds every request surrounds it once.
    let metrics = registry.get("/metrics").await;
    let once = r#"a8_registry_requests_total{code="200",operation="GetInfo",result="success"} 1"#;
    assert!(metrics.text().lines().any(|line| line == once), "S5: {}", metrics.text());
    asked(&registry, "S6", ("GET", "/api/v1/services"), "", 200).await;
    registry.stop().await;
    let registry = Running::start(&["--require_https"]).await;
    for (line, headers, status) in [("S7", &[][..], 301), ("S8", &[SECURE], 200)] {
        assert_eq!(registry.send("GET", "/api/v1/services", headers, "").await.status, status, "{line}");
    }
    registry.stop().await;
}

#[tokio::test]
async fn section_9_2_n1_to_n39_requests_one_by_one() {
    let registry = Running::start(&[]).await;
    for (line, path, methods) in [
        ("N1 to N7", "/api/v1/instances", "CONNECT DELETE HEAD OPTIONS PATCH PUT TRACE"),
        ("N8 to N14", "/api/v1/instances/fakeid", "CONNECT HEAD OPTIONS PATCH PUT TRACE"),
        ("N38", "/api/v1/services/fakeservice", "CONNECT HEAD OPTIONS PATCH POST PUT TRACE"),
        ("N39", "/api/v1/services", "CONNECT HEAD OPTIONS PATCH POST PUT TRACE"),
    ] {
        for method in methods.split(' ') {
            asked(&registry, line, (method, path), "", 405).await;
        }
    }
    let of = |more: &str| registration("http", "tcp", "192.168.1.1:8087", more);
    let damaged = of(r#","metadata":{"key":"value"}"#).replace("\"value\"", "\"value\0\"");
    for (line, body, status) in [
        ("N15", registration("", "tcp", "h:1", ""), 400),
        ("N16", registration("http", "tcp", "", ""), 400),
        ("N17", registration("http", "", "h:1", ""), 400),
        ("N18", registration("http", "icmp", "h:1", r#","ttl":30"#), 400),
        ("N19", damaged, 400),
        ("N20", of(r#","metadata":1"#), 201),
        ("N21", of(r#","metadata":true"#), 201),
        ("N22", of(r#","metadata":"text""#), 201),
        ("N23", of(r#","metadata":{"key":"value"}"#), 201),
        ("N24", of(r#","ttl":30"#), 201),
        ("N25", of(r#","status":"STARTING""#), 201),
        ("N26", of(r#","status":"OUT_OF_SERVICE""#), 201),
        ("N27", of(r#","status":"blah""#), 400),
        ("N28", of(r#","tags":["a","b"]"#), 201),
        ("N29", of(r#","tags":[]"#), 201),
        ("N31", r#"{"service_name":"http","host":"h","port":1}"#.to_owned(), 400),
    ] {
        let reply = asked(&registry, line, ("POST", "/api/v1/instances"), &body, status).await;
        if status == 201 {
            let value = reply.value();
            let has = |key: &str| value.get(key).is_some();
            assert!(
                !has("endpoint") && has("links") && value["ttl"].as_u64().unwrap() > 0,
                "N30 {line}: {value}"
            );
        }
    }
    let first = registry.register("http", "192.168.1.1:8087", "").await;
    let second = registry.register("http", "192.168.1.2:8087", "").await;
    let own = |id: &str| format!("/api/v1/instances/{id}");
    let beat = |id: &str| format!("/api/v1/instances/{id}/heartbeat");
    for (line, method, path, status) in [
        ("N36 first", "PUT", beat(&first), 200),
        ("N36 second", "PUT", beat(&second), 200),
        ("N37", "PUT", beat("unknown"), 410),
        ("N32 first", "DELETE", own(&first), 200),
        ("N32 second", "DELETE", own(&second), 200),
        ("N33", "DELETE", own(&second), 410),
        ("N34", "DELETE", own("unknown"), 410),
        ("N35", "GET", "/api/v1/services/http".to_owned(), 404),
    ] {
        asked(&registry, line, (method, &path), "", status).await;
    }
    registry.stop().await;
}

/// Set F of the spec. One of its statuses cannot be registered, so it comes from a file.
#[tokio::test]
async fn section_9_2_n40_to_n56_filters() {
    let set = [
        ("UP", "DB,NoSQL"),
        ("UP", "DB"),
        ("STARTING", "DB"),
        ("OUT_OF_SERVICE", "DB,NoSQL"),
        ("user_defined", "DB,NoSQL"),
    ];
    let instances: Vec<Value> = (1..)
        .zip(set)
        .map(|(number, (status, tags))| {
            let endpoint = json!({"type": "tcp", "value": format!("192.168.0.1:{number}")});
            let tags: Vec<_> = tags.split(',').collect();
            json!({"service_name": "http-1", "endpoint": endpoint, "status": status, "tags": tags})
        })
        .collect();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("default.json"), json!({ "instances": instances }).to_string()).unwrap();
    let registry = Running::start(&["--fs_catalog", files.path().to_str().unwrap()]).await;
    for (line, query, status, found) in [
        ("N40", "tags=DB,NoSQL", 200, &[1, 4, 5][..]),
        ("N41", "tags=DB", 200, &[1, 2, 3, 4, 5]),
        ("N42", "tags=DB,MySQL", 200, &[]),
        ("N43", "status=UP", 200, &[1, 2]),
        ("N44", "status=DOWN", 200, &[]),
        ("N45", "tags=DB,NoSQL&status=UP", 200, &[1]),
        ("N46", "tags=DB,NoSQL&status=DOWN", 200, &[]),
        ("N47", "ttl=5", 400, &[]),
        ("N48", "BLABLA=5", 400, &[]),
        ("N49", "status=up", 200, &[1, 2]),
        ("N50", "status=ALL", 200, &[1, 2, 3, 4, 5]),
        ("N51", "status=STARTING", 200, &[3]),
        ("N52", "status=OUT_OF_SERVICE", 200, &[4]),
        ("N53", "status=ALL&tags=DB", 200, &[1, 2, 3, 4, 5]),
        ("N54", "status=STARTING&tags=DB", 200, &[3]),
        ("N55", "tags=DB&status=STARTING", 200, &[3]),
        ("N56", "status=user_defined", 200, &[5]),
    ] {
        let path = format!("/api/v1/instances?service_name=http-1&{query}");
        let reply = asked(&registry, line, ("GET", &path), "", status).await;
        if status == 200 {
            let listed = reply.value()["instances"].as_array().unwrap().clone();
            let number =
                |one: &Value| one["endpoint"]["value"].as_str().unwrap()[12..].parse::<usize>().unwrap();
            let mut numbers: Vec<_> = listed.iter().map(number).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, found, "{line}");
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn section_9_2_n57_to_n64_projections_and_services() {
    let registry = Running::start(&[]).await;
    let more = r#","ttl":30,"metadata":{"key":"value"}"#;
    registry.register("http", "h:1", more).await;
    let always = |shown: &Value| shown["endpoint"] == json!({"type": "tcp", "value": "h:1"});
    for (line, fields, expected) in [
        ("N57", "status,ttl,status", json!({"ttl": 30, "status": "UP"})),
        ("N58", "status,ttl,status,endpoint", json!({"ttl": 30, "status": "UP"})),
        ("N59", "", json!({})),
        (
            "N60",
            "endpoint,ttl,metadata,status",
            json!({"ttl": 30, "metadata": {"key": "value"}, "status": "UP"}),
        ),
    ] {
        let reply =
            asked(&registry, line, ("GET", &format!("/api/v1/instances?fields={fields}")), "", 200).await;
        let mut shown = reply.value()["instances"][0].clone();
        assert!(always(&shown), "{line}: {shown}");
        shown.as_object_mut().unwrap().retain(|key, _| key != "id" && key != "endpoint");
        assert_eq!(shown, expected, "{line}");
    }
    registry.register("http", "h:2", more).await;
    let service = asked(&registry, "N61", ("GET", "/api/v1/services/http"), "", 200).await.value();
    let instances = service["instances"].as_array().unwrap();
    assert_eq!((service["service_name"].as_str(), instances.len()), (Some("http"), 2), "N61");
    for shown in instances {
        let has = shown["last_heartbeat"].is_string() && shown["metadata"] == json!({"key": "value"});
        assert!(shown["status"] == "UP" && has, "N61: {shown}");
    }
    asked(&registry, "N62", ("GET", "/api/v1/services/"), "", 404).await;
    asked(&registry, "N63", ("GET", "/api/v1/services/https"), "", 404).await;
    registry.register("two", "h:1", "").await;
    registry.register("three", "h:1", r#","status":"STARTING""#).await;
    let services = asked(&registry, "N64", ("GET", "/api/v1/services"), "", 200).await.value();
    assert_eq!(services, json!({"services": ["http", "three", "two"]}), "N64");
    registry.stop().await;
}

#[tokio::test]
async fn section_9_4_a1_to_a6_a12_a13_tokens() {
    let unreachable = ["--auth_mode=jwt", "--jwt_keys=/nowhere/keys.json"];
    // {"alg":"RS256"}.{}: the key is nowhere to be had.
    let unknown = "Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.AA";
    let (none, trusted) = (&[][..], &["--auth_mode=trusted"][..]);
    for (line, flags, headers, status) in [
        ("A1, A5, A12 empty", none, &[][..], 200),
        ("A12 default", none, &["Authorization: Bearer default"], 200),
        ("A3, A12 invalid", none, &["Authorization: Bearer invalid-token"], 401),
        ("A2, A13 empty", trusted, &[], 401),
        ("A13 valid", trusted, &["Authorization: Bearer valid-token"], 200),
        ("A4", trusted, &["X-Custom: x", "Authorization: Bearer valid-token"], 200),
        ("A6", &unreachable, &[unknown], 503),
    ] {
        let registry = Running::start(flags).await;
        let reply = registry.send("GET", "/api/v1/services", headers, "").await;
        assert_eq!(reply.status, status, "{line}: {reply:?}");
        registry.stop().await;
    }
}

/// The check is ours and cannot be exchanged as in the ancestor's library; what its lines are about is seen from outside.
#[tokio::test]
async fn section_9_5_h1_to_h8_https() {
    let path = "/api/v1/instances?status=UP&tags=a%20b";
    let off = Running::start(&["--require_https=false"]).await;
    assert_eq!(off.get(path).await.status, 200, "H3");
    off.stop().await;
    let on = Running::start(&["--require_https"]).await;
    for (line, path, headers, status) in [
        ("H1, H4", path, &[][..], 301),
        ("H2, H5", path, &["$WSSC: https"], 200),
        ("H7", path, &[SECURE], 200),
        ("H7 other", path, &["X-Forwarded-Proto: http"], 301),
        ("H8", "/uptime", &[], 200),
    ] {
        let reply = on.send("GET", path, headers, "").await;
        assert_eq!(reply.status, status, "{line}");
        if status == 301 {
            assert_eq!(reply.header("location"), format!("https://h:8080{path}"), "H6 {line}");
            assert!(reply.body.is_empty(), "H4: the handler did not run");
        }
    }
    on.stop().await;
}
