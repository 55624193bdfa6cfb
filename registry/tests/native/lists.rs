//! Lists, their filters and their fields (spec/registry.md 1.4, 1.5, 9.2).

use crate::support::Running;

/// Section 9.2 N40 to N64; 9.6 M3, M4, M16; sections 1.4 and 1.5.
#[tokio::test]
async fn lists_filter_project_and_omit() {
    let registry = Running::start(&[]).await;
    assert_eq!(registry.get("/api/v1/instances").await.text(), r#"{"instances":[]}"#);
    let starting = registry.register("http-1", "h:3", r#","tags":["DB"],"status":"STARTING""#).await;
    for (value, more) in [
        ("h:1", r#","tags":["DB","NoSQL"],"metadata":{ "k" :  1 },"ttl":30"#),
        ("h:2", r#","tags":["DB"]"#),
        ("h:4", r#","tags":["DB","NoSQL"],"status":"OUT_OF_SERVICE""#),
    ] {
        registry.register("http-1", value, more).await;
    }
    registry.register("http-2", "h:5", "").await;
    registry.register("a b", "h:6", "").await;
    for (query, status, count) in [
        ("", 200, 4),
        ("?service_name=http-1", 200, 4),
        ("?service_name=http-1&tags=DB,NoSQL", 200, 2),
        ("?service_name=http-1&tags=DB%2CNoSQL", 200, 2),
        ("?service_name=http-1&tags=DB,MySQL", 200, 0),
        ("?service_name=http-1&status=UP", 200, 2),
        ("?service_name=http-1&status=up", 200, 2),
        ("?service_name=http-1&status=DOWN", 200, 0),
        ("?service_name=http-1&status=ALL", 200, 4),
        ("?service_name=http-1&status=STARTING&tags=DB", 200, 1),
        ("?status=all", 200, 6),
        ("?service_name=a+b", 200, 1),
        ("?service_name=a%20b", 200, 1),
        ("?service_name=nobody", 200, 0),
        ("?ttl=5", 400, 0),
        ("?BLABLA=5", 400, 0),
        ("?fields=nope", 400, 0),
    ] {
        let reply = registry.get(&format!("/api/v1/instances{query}")).await;
        assert_eq!(reply.status, status, "{query}");
        if status == 200 {
            assert_eq!(reply.value()["instances"].as_array().unwrap().len(), count, "{query}");
        } else {
            assert!(reply.is_error());
        }
    }
    let by_id = registry.get(&format!("/api/v1/instances?id={starting}")).await.value();
    assert_eq!(by_id["instances"][0]["endpoint"]["value"], "h:3");

    let one = registry.get("/api/v1/services/http-1?whatever=x").await;
    let text = one.text();
    assert!(text.starts_with(r#"{"service_name":"http-1","instances":["#), "{text}");
    assert!(text.contains(r#""metadata":{ "k" :  1 }"#), "byte for byte: {text}");
    assert!(!text.contains("links"));
    for instance in one.value()["instances"].as_array().unwrap() {
        assert_eq!(instance["service_name"], "http-1");
        let heartbeat = instance["last_heartbeat"].as_str().unwrap();
        assert!(
            heartbeat.len() == 24 && heartbeat.ends_with('Z') && heartbeat.starts_with("20"),
            "{heartbeat}"
        );
    }
    let projected = registry.get("/api/v1/instances?fields=&id=".to_owned().as_str()).await;
    assert_eq!(projected.text(), r#"{"instances":[]}"#);
    let projected = registry.get(&format!("/api/v1/instances?fields=status,ttl,status&id={starting}")).await;
    let expected = format!(
        r#"{{"instances":[{{"id":"{starting}","endpoint":{{"type":"tcp","value":"h:3"}},"ttl":30,"status":"STARTING"}}]}}"#
    );
    assert_eq!(projected.text(), expected);
    let services = registry.get("/api/v1/services").await.value();
    assert_eq!(services, serde_json::json!({"services": ["a b", "http-1", "http-2"]}));
    assert_eq!(registry.get("/api/v1/services/a%20b").await.status, 200);
    assert_eq!(registry.get("/api/v1/services/HTTP-1").await.status, 404);
    registry.stop().await;
}
