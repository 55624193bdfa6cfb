//! What may register, and what it is called then (spec/registry.md 1.2, 9.2, 9.6).

use crate::registration;
use crate::support::Running;

/// Section 9.2 N15 to N31; 9.8 X3; section 1.2.
#[tokio::test]
async fn a_registration_is_stored_or_refused_as_the_spec_says() {
    let registry = Running::start(&[]).await;
    let ok = |more: &str| registration("http", "tcp", "192.168.1.1:8087", more);
    let nul = ok(r#","metadata":{"a":"b"}"#).replace("\"b\"", "\"b\0\"");
    for (body, status) in [
        (registration("", "tcp", "h:1", ""), 400),
        (registration("http", "tcp", "", ""), 400),
        (registration("http", "", "h:1", ""), 400),
        (registration("http", "icmp", "h:1", r#","ttl":30"#), 400),
        (nul, 400),
        (ok(r#","metadata":1"#), 201),
        (ok(r#","metadata":true"#), 201),
        (ok(r#","metadata":"text""#), 201),
        (ok(r#","metadata":{"a":[1,2]}"#), 201),
        (ok(r#","metadata":null"#), 201),
        (ok(r#","ttl":30"#), 201),
        (ok(r#","ttl":0"#), 201),
        (ok(r#","ttl":4294967295"#), 201),
        (ok(r#","ttl":4294967296"#), 400),
        (ok(r#","ttl":-1"#), 400),
        (ok(r#","ttl":1.5"#), 400),
        (ok(r#","ttl":"30""#), 400),
        (ok(r#","status":"STARTING""#), 201),
        (ok(r#","status":"OUT_OF_SERVICE""#), 201),
        (ok(r#","status":"blah""#), 400),
        (ok(r#","tags":["a","b"]"#), 201),
        (ok(r#","tags":[]"#), 201),
        (ok(r#","tags":[1]"#), 400),
        (ok(r#","tags":"a""#), 400),
        (ok(r#","unknown":{"x":1}"#), 201),
        (r#"{"service_name":"http","host":"h","port":1}"#.to_owned(), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
        ("\"x\"".to_owned(), 400),
        (ok("") + "x", 400),
        (registration(&"s".repeat(65), "tcp", "h:1", ""), 400),
        (registration("http", "tcp", &"v".repeat(129), ""), 400),
        (ok(&format!(r#","metadata":"{}""#, "m".repeat(1_023))), 400),
        (ok(&format!(r#","metadata":"{}""#, "m".repeat(1_022))), 201),
    ] {
        let reply = registry.json("POST", "/api/v1/instances", &body).await;
        assert_eq!(reply.status, status, "{body}");
        if status != 201 {
            assert!(reply.is_error(), "{body}");
            continue;
        }
        let value = reply.value();
        assert_eq!(value.as_object().unwrap().len(), 3, "only id, ttl and links");
        assert!(value["ttl"].as_u64().unwrap() > 0);
        assert_eq!(value["id"], "4cd7e786e63fb7e8");
        let this = "http://h:8080/api/v1/instances/4cd7e786e63fb7e8";
        assert_eq!(value["links"]["self"], this);
        assert_eq!(value["links"]["heartbeat"], format!("{this}/heartbeat"));
        assert_eq!(reply.header("location"), this);
    }
    let reply = registry.json("POST", "/api/v1/instances", "").await;
    assert_eq!(reply.status, 400, "no body at all");
    assert_eq!(
        registry.get("/api/v1/instances?status=all").await.value()["instances"].as_array().unwrap().len(),
        1
    );
    registry.stop().await;
}

/// Section 9.2 N29; 9.6 M11 to M14; section 1.2.
#[tokio::test]
async fn ids_are_a_function_of_service_type_and_value() {
    let registry = Running::start(&[]).await;
    let mut ids = Vec::new();
    for (service, kind, value) in
        [("s", "tcp", "h:1"), ("s", "udp", "h:1"), ("s", "tcp", "h:2"), ("t", "tcp", "h:1")]
    {
        let body = registration(service, kind, value, "");
        ids.push(registry.json("POST", "/api/v1/instances", &body).await.value()["id"].to_string());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    // The same again, with other data, replaces.
    registry
        .register("s", "h:1", r#","status":"starting","metadata":[1],"ttl":60,"tags":["b","a","b"]"#)
        .await;
    let list = registry.get("/api/v1/services/s").await.value();
    let replaced: Vec<_> =
        list["instances"].as_array().unwrap().iter().filter(|one| one["ttl"] == 60).collect();
    assert_eq!(replaced.len(), 1);
    assert_eq!(replaced[0]["status"], "STARTING");
    assert_eq!(replaced[0]["tags"], serde_json::json!(["b", "a", "b"]));
    assert_eq!(list["instances"].as_array().unwrap().len(), 3);
    registry.stop().await;
}
