//! Clients that fall silent together (spec/registry.md 3.16).

use serde_json::json;

use crate::support::Running;
use crate::{register, status_of};

#[tokio::test]
async fn section_3_16_clients_that_fall_silent_together_are_held_and_said_to_be_and_nobody_else_is() {
    let leases = ["--min_ttl=200ms", "--default_ttl=1s", "--max_ttl=10m"];
    let flags = [&["--eureka_self_preservation", "--eureka_renewal_threshold=0.9"], &leases[..]].concat();
    let running = Running::start(&flags).await;
    let uptime = running.get("/uptime").await.value();
    let component =
        json!({"healthy": true, "properties": {"self_preservation": false, "namespaces": 0, "held": 0}});
    assert_eq!(uptime["EUREKA"], component);
    for number in 0..12 {
        let lease = json!({"leaseInfo": {"durationInSecs": 3}});
        assert_eq!(register(&running, "A", &format!("i{number}"), lease).await.status, 204);
    }
    running.register("native", "h:1", "").await;
    // Renewed at one moment, so that they are overdue at one.
    let ids: Vec<_> = (0..12).map(|number| format!("A:i{number}")).collect();
    let renewed = running.json("PUT", "/api/v1/heartbeats", &json!({ "ids": ids }).to_string()).await;
    assert!(!renewed.text().contains("410"), "{renewed:?}");
    let held = |reply: &crate::support::Reply| reply.value()["EUREKA"]["properties"]["held"] == 12;
    let component = running.eventually("/uptime", held).await.value()["EUREKA"].clone();
    assert_eq!(
        (&component["healthy"], &component["properties"]["self_preservation"]),
        (&json!(true), &json!(true))
    );
    assert!(component["properties"]["message"].is_string());
    for (path, status) in [("/eureka/apps/A/i0", 200), ("/api/v1/services/native", 404)] {
        assert_eq!(status_of(&running, "GET", path).await, status, "{path}");
    }
    let metrics = running.get("/metrics").await;
    assert!(metrics.text().contains("a8_registry_held_instances{namespace=\"default\"} 12"));
    running.stop().await;

    let plain = Running::start(&leases).await;
    let component = plain.get("/uptime").await.value()["EUREKA"].clone();
    assert_eq!(component, json!({"healthy": true, "properties": {"self_preservation": false}}));
    plain.stop().await;
}
