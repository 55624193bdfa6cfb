//! What may register, and what becomes of it (spec/registry.md 3.9, 9.3).

use serde_json::{Value, json};

use crate::support::Running;
use crate::{A8, ask, ids, one, register, status_of};

#[tokio::test]
async fn section_9_3_e1_to_e5_what_may_register() {
    let running = Running::start(&[]).await;
    let good = json!({"hostName": "localhost", "ipAddr": "127.0.0.1", "vipAddress": "v",
        "port": {"$": "8080", "@enabled": "true"}, "leaseInfo": {"durationInSecs": 30}, "metadata": {"key": "value"}});
    let with = |changes: Value| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({ "instance": body }).to_string()
    };
    let long = |length: usize| "x".repeat(length);
    for (case, body, status) in [
        ("E1", with(json!({"hostName": ""})), 400),
        ("E2", with(json!({"ipAddr": ""})), 400),
        ("E3", with(json!({"vipAddress": ""})), 400),
        ("E4", with(json!({})).replace("\"key\"", "\"key"), 400),
        ("E5", with(json!({})), 204),
        ("no instance", "{}".to_owned(), 400),
        ("no body", String::new(), 400),
        ("another application", with(json!({"app": "https"})), 400),
        ("C8", with(json!({"app": "HTTP"})), 204),
        ("metadata absent", with(json!({"metadata": null})), 204),
        ("metadata a list", with(json!({"metadata": []})), 400),
        ("metadata of 1024 bytes", with(json!({"metadata": {"k": long(1_016)}})), 204),
        ("metadata of 1025 bytes", with(json!({"metadata": {"k": long(1_017)}})), 400),
        ("host and port of 129 bytes", with(json!({"hostName": long(124)})), 400),
        ("status of 33 bytes", with(json!({"status": long(33)})), 400),
        ("id of 257 bytes", with(json!({"instanceId": long(257)})), 400),
        ("too much of the rest", with(json!({"homePageUrl": long(9_000)})), 400),
        ("unknown data center without an id", with(json!({"dataCenterInfo": {"name": "Moon"}})), 400),
        (
            "unknown data center with an id",
            with(json!({"dataCenterInfo": {"name": "Moon"}, "instanceId": "i"})),
            204,
        ),
        ("an enabled port that is none", with(json!({"port": {"$": -1, "@enabled": "true"}})), 400),
        ("a disabled port that is none", with(json!({"securePort": {"$": -1, "@enabled": "false"}})), 204),
    ] {
        let reply = running.json("POST", &format!("{A8}/apps/http"), &body).await;
        assert_eq!(reply.status, status, "{case}: {reply:?}");
        assert_eq!(reply.body.is_empty(), status == 204, "{case}");
        assert!(status == 204 || reply.is_error(), "{case}");
    }
    let long = long(65);
    assert_eq!(register(&running, &long, "i", json!({})).await.status, 400, "name of 65 bytes");
    running.stop().await;
}

#[tokio::test]
async fn section_3_9_older_data_lose_and_overrides_survive_a_registration() {
    let running = Running::start(&[]).await;
    let dirty = |at: u64, more: Value| {
        let mut body = json!({ "lastDirtyTimestamp": at.to_string() });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    register(&running, "A", "i", dirty(200, json!({"metadata": {"v": "new"}}))).await;
    let before = one(&running, "A", "i").await;
    assert_eq!(register(&running, "a", "i", dirty(100, json!({"metadata": {"v": "old"}}))).await.status, 204);
    let kept = one(&running, "A", "i").await;
    assert_eq!((&kept["metadata"]["v"], &kept["lastDirtyTimestamp"]), (&json!("new"), &json!("200")));
    assert_eq!(
        register(&running, "A", "i", dirty(300, json!({"metadata": {"v": "newer"}}))).await.status,
        204
    );
    let after = one(&running, "A", "i").await;
    assert_eq!((&after["metadata"]["v"], &after["lastDirtyTimestamp"]), (&json!("newer"), &json!("300")));
    let up_since = |instance: &Value| instance["leaseInfo"]["serviceUpTimestamp"].as_u64().unwrap();
    assert_eq!(up_since(&after), up_since(&before));

    assert_eq!(status_of(&running, "PUT", "/eureka/apps/A/i/status?value=OUT_OF_SERVICE").await, 200);
    for status in ["UP", "STARTING", "UP"] {
        register(&running, "A", "i", dirty(400, json!({ "status": status }))).await;
        let shown = one(&running, "A", "i").await;
        let expected = if status == "UP" { "OUT_OF_SERVICE" } else { status };
        assert_eq!(
            (&shown["status"], &shown["overriddenstatus"]),
            (&json!(expected), &json!("OUT_OF_SERVICE"))
        );
    }
    // One that comes in a body counts if there is none.
    register(&running, "A", "j", json!({"overriddenstatus": "DOWN"})).await;
    let shown = one(&running, "A", "j").await;
    assert_eq!((&shown["status"], &shown["overriddenstatus"]), (&json!("DOWN"), &json!("DOWN")));
    // Cancelling drops it.
    assert_eq!(status_of(&running, "DELETE", "/eureka/apps/A/i").await, 200);
    register(&running, "A", "i", json!({})).await;
    assert_eq!(one(&running, "A", "i").await["overriddenstatus"], "UNKNOWN");
    running.stop().await;
}

#[tokio::test]
async fn section_3_9_a_full_namespace_refuses_with_403() {
    let running = Running::start(&["--namespace_capacity", "1"]).await;
    assert_eq!(register(&running, "A", "i", json!({})).await.status, 204);
    assert_eq!(register(&running, "A", "j", json!({})).await.status, 403);
    assert_eq!(register(&running, "a", "i", json!({})).await.status, 204, "the same under another spelling");
    assert_eq!(ids(&ask(&running, "/eureka/apps").await).len(), 1);
    running.stop().await;
}
