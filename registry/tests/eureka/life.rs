//! Renewals, overrides and metadata (spec/registry.md 3.10, 3.12, 3.13).

use serde_json::json;

use crate::support::Running;
use crate::{JAVA_JSON, PEER, WANT_JSON, ask, ids, one, pairs, register, status_of};

#[tokio::test]
async fn section_3_10_renewals_are_judged_by_their_dirty_timestamp() {
    let running = Running::start(&[]).await;
    register(&running, "A", "i", json!({"lastDirtyTimestamp": 200})).await;
    let path = "/eureka/apps/A/i";
    for (query, peer, status) in [
        ("", false, 200),
        ("?status=UP&lastDirtyTimestamp=200", false, 200),
        ("?lastDirtyTimestamp=100", false, 200),
        ("?lastDirtyTimestamp=100", true, 409),
        ("?lastDirtyTimestamp=201", false, 404),
        ("?lastDirtyTimestamp=201", true, 404),
        ("?lastDirtyTimestamp=", false, 200),
        ("?lastDirtyTimestamp=0", false, 200),
        ("?lastDirtyTimestamp=soon", false, 400),
    ] {
        let headers = if peer { vec![PEER, WANT_JSON] } else { vec![WANT_JSON] };
        let reply = running.send("PUT", &format!("{path}{query}"), &headers, "").await;
        assert_eq!(reply.status, status, "{query} {peer}");
        match status {
            200 => assert!(reply.body.is_empty()),
            409 => assert_eq!(reply.value()["instance"]["instanceId"], "i"),
            _ => assert!(reply.is_error()),
        }
    }
    // A peer's override counts although the client must register again.
    let query = "?lastDirtyTimestamp=201&overriddenstatus=DOWN";
    assert_eq!(running.send("PUT", &format!("{path}{query}"), &[PEER], "").await.status, 404);
    let shown = one(&running, "A", "i").await;
    assert_eq!((&shown["status"], &shown["overriddenstatus"]), (&json!("DOWN"), &json!("DOWN")));
    running.stop().await;
}

#[tokio::test]
async fn section_3_12_a_status_is_overridden_until_the_override_is_dropped() {
    let running = Running::start(&[]).await;
    register(&running, "A", "i", json!({"lastDirtyTimestamp": 100})).await;
    let path = "/eureka/apps/A/i";
    assert_eq!(
        status_of(&running, "PUT", &format!("{path}/status?value=DOWN&lastDirtyTimestamp=150")).await,
        200
    );
    let shown = one(&running, "A", "i").await;
    assert_eq!((&shown["status"], &shown["overriddenstatus"]), (&json!("DOWN"), &json!("DOWN")));
    assert_eq!(shown["lastDirtyTimestamp"], "150");
    assert_eq!(running.get("/api/v1/instances?id=A:i").await.value()["instances"][0]["status"], "DOWN");
    assert_eq!(status_of(&running, "PUT", path).await, 200);
    assert_eq!(one(&running, "A", "i").await["status"], "DOWN", "a renewal clears nothing");

    assert_eq!(status_of(&running, "DELETE", &format!("{path}/status?value=UP")).await, 200);
    let shown = one(&running, "A", "i").await;
    assert_eq!((&shown["status"], &shown["overriddenstatus"]), (&json!("UP"), &json!("UNKNOWN")));
    assert_eq!(status_of(&running, "DELETE", &format!("{path}/status")).await, 200);
    assert_eq!(one(&running, "A", "i").await["status"], "UNKNOWN");
    assert_eq!(status_of(&running, "PUT", path).await, 404, "3.10: nothing but its being there is known");
    register(&running, "A", "i", json!({})).await;
    assert_eq!(one(&running, "A", "i").await["status"], "UP");
    running.stop().await;
}

#[tokio::test]
async fn section_3_13_metadata_are_merged_within_their_limit() {
    let running = Running::start(&[]).await;
    register(&running, "A", "i", json!({"metadata": {"a": "1"}})).await;
    let path = "/eureka/apps/A/i/metadata";
    assert_eq!(status_of(&running, "PUT", &format!("{path}?a=2&b=x%20y&amalgam8.tags=v2")).await, 200);
    let native = running.get("/api/v1/instances?id=A:i").await.value()["instances"][0].clone();
    assert_eq!(native["metadata"], json!({"a": "2", "b": "x y", "amalgam8.tags": "v2"}));
    assert_eq!(native["tags"], json!(["v2"]));
    assert_eq!(ids(&ask(&running, "/eureka/apps/delta").await), pairs(&[("i", "MODIFIED")]));
    let long = format!("{path}?b={}", "x".repeat(1_024));
    assert_eq!(status_of(&running, "PUT", &long).await, 400);
    running.stop().await;
}

#[tokio::test]
async fn section_3_overrides_and_descriptions_survive_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let running = Running::start_in(home.path(), &[]).await;
    running.json("POST", "/eureka/apps/ORDERS", JAVA_JSON).await;
    status_of(&running, "PUT", "/eureka/apps/ORDERS/app-host%3Aorders%3A8080/status?value=DOWN").await;
    let before = one(&running, "ORDERS", "app-host:orders:8080").await;
    running.stop().await;
    let running = Running::start_in(home.path(), &[]).await;
    let mut after = one(&running, "ORDERS", "app-host:orders:8080").await;
    after["leaseInfo"] = before["leaseInfo"].clone();
    assert_eq!(after, before);
    running.stop().await;
}
