//! Heartbeats, deletes and ends of leases (spec/registry.md 1.3, 1.6, 3.16, 9.2, 9.6).

use crate::support::{Reply, Running};

/// Section 9.2 N32 to N37; 9.6 M19 to M26; sections 0.4 and 1.3.
#[tokio::test]
async fn heartbeats_and_deletes_know_only_the_living() {
    let registry = Running::start(&[]).await;
    let ids = [registry.register("http", "h:1", "").await, registry.register("http", "h:2", "").await];
    let beat = |id: &str| format!("/api/v1/instances/{id}/heartbeat");
    let own = |id: &str| format!("/api/v1/instances/{id}");
    // Encoded once is decoded once.
    let encoded = ids[0].bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    for (method, path, status) in [
        ("PUT", beat(&ids[0]), 200),
        ("PUT", beat(&encoded), 200),
        ("PUT", beat(&encoded.replace('%', "%25")), 410),
        ("PUT", beat("unknown"), 410),
        ("PUT", beat("a%2Fb"), 410),
        ("PUT", beat(""), 400),
        ("PUT", beat("%FF"), 400),
        ("DELETE", own("unknown"), 410),
        ("DELETE", own("%C3%28"), 400),
        ("DELETE", own(&ids[0]), 200),
        ("DELETE", own(&ids[1]), 200),
        ("DELETE", own(&ids[1]), 410),
        ("PUT", beat(&ids[0]), 410),
        ("GET", "/api/v1/services/http".to_owned(), 404),
    ] {
        let reply = registry.send(method, &path, &[], "").await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.header("content-type"), "application/json; charset=utf-8", "{method} {path}");
        assert!(if status == 200 { reply.body.is_empty() } else { reply.is_error() }, "{method} {path}");
    }
    assert_eq!(registry.get("/api/v1/services").await.text(), r#"{"services":[]}"#);
    registry.stop().await;
}

/// Section 1.3, for many at once.
#[tokio::test]
async fn many_heartbeats_in_one_request_are_answered_one_by_one() {
    let registry = Running::start(&[]).await;
    let (first, second) = (registry.register("s", "h:1", "").await, registry.register("s", "h:2", "").await);
    let before = registry.get("/api/v1/services/s").await.value();
    let ids = format!(r#"{{"ids":["{first}","unknown","","{second}","{first}"],"more":1}}"#);
    let reply = registry.json("PUT", "/api/v1/heartbeats", &ids).await;
    assert_eq!(reply.status, 200);
    let results = reply.value()["results"].as_array().unwrap().clone();
    let results: Vec<_> =
        results.iter().map(|r| (r["id"].as_str().unwrap(), r["status"].as_u64().unwrap())).collect();
    assert_eq!(
        results,
        [(first.as_str(), 200), ("unknown", 410), ("", 400), (second.as_str(), 200), (first.as_str(), 200)]
    );
    let beaten = |reply: &Reply| {
        reply.value()["instances"][0]["last_heartbeat"] != before["instances"][0]["last_heartbeat"]
    };
    registry.json("PUT", "/api/v1/heartbeats", &ids).await;
    assert!(beaten(&registry.get("/api/v1/services/s").await));

    let many = |count: usize| format!(r#"{{"ids":[{}]}}"#, vec![r#""x""#; count].join(","));
    for (body, status) in [
        (r#"{"ids":[]}"#.to_owned(), 200),
        (many(10_000), 200),
        (many(10_001), 400),
        (r#"{"ids":[7]}"#.to_owned(), 400),
        (r#"{"ids":"x"}"#.to_owned(), 400),
        ("{}".to_owned(), 400),
        ("[]".to_owned(), 400),
        ("{".to_owned(), 400),
    ] {
        let reply = registry.json("PUT", "/api/v1/heartbeats", &body).await;
        assert_eq!(reply.status, status, "{}", &body[..body.len().min(40)]);
        assert!(status == 200 || reply.is_error());
    }
    assert_eq!(registry.send("PUT", "/api/v1/heartbeats", &[], "").await.status, 400);
    assert_eq!(
        registry.send("PUT", "/api/v1/heartbeats", &["Content-Type: text/plain"], &ids).await.status,
        415
    );
    registry.stop().await;
}

/// Section 9.6 M17, M31, M37; section 1.6.
#[tokio::test]
async fn a_lease_ends_in_time_and_an_instance_out_of_service_stays() {
    let registry = Running::start(&["--min_ttl=200ms", "--default_ttl=300ms", "--max_ttl=10m"]).await;
    let began = std::time::Duration::from_millis(300);
    registry.register("kept", "h:1", r#","status":"OUT_OF_SERVICE""#).await;
    registry.register("long", "h:1", r#","ttl":600"#).await;
    let clock = tokio::time::Instant::now();
    let id = registry.register("gone", "h:1", r#","status":"STARTING""#).await;
    registry.eventually("/api/v1/services/gone", |reply| reply.status == 404).await;
    assert!(clock.elapsed() >= began, "never before its time");
    assert_eq!(registry.send("PUT", &format!("/api/v1/instances/{id}/heartbeat"), &[], "").await.status, 410);
    let services = registry.get("/api/v1/services").await.value();
    assert_eq!(services, serde_json::json!({"services": ["kept", "long"]}));
    let metrics = registry.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "a8_registry_instances{namespace=\"default\"} 2",
        "a8_registry_leases{namespace=\"default\"} 1",
        "a8_registry_expirations_total{namespace=\"default\"} 1",
        "a8_registry_requests_total{code=\"410\",operation=\"Renew\",result=\"failure\"} 1",
        "a8_registry_requests_total{code=\"201\",operation=\"Register\",result=\"success\"} 3",
        "a8_registry_request_duration_seconds_count{operation=\"Register\"} 3",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in {}", metrics.text());
    }
    registry.stop().await;
}
