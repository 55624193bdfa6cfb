//! The file catalog from outside (spec/registry.md 7.1 and 7.4): shown beside what registered itself, followed as it
//! changes, and never written.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use support::{Running, settings};

fn of(value: &str) -> String {
    format!(
        r#"{{"instances":[{{"service_name":"shop","endpoint":{{"type":"tcp","value":"{value}"}},"ttl":5,"tags":["old"]}}]}}"#
    )
}

/// Section 7.4.
#[tokio::test]
async fn a_file_is_there_from_the_first_answer_on_and_followed() {
    let files = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
    put("default.json", &of("h:1"));
    let registry = Running::start(&["--fs_catalog", files.path().to_str().unwrap()]).await;
    let listed = registry.get("/api/v1/instances").await.value()["instances"].clone();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed[0]["tags"], serde_json::json!(["old", "filesystem"]));
    assert_eq!(listed[0]["last_heartbeat"], "0001-01-01T00:00:00Z");
    assert_eq!((listed[0].get("ttl"), listed[0]["status"].as_str()), (None, Some("UP")));
    assert_eq!(registry.get("/api/v1/services").await.text(), r#"{"services":["shop"]}"#);
    let own = format!("/api/v1/instances/{id}");
    assert_eq!(registry.send("PUT", &format!("{own}/heartbeat"), &[], "").await.status, 410);
    assert_eq!(registry.send("DELETE", &own, &[], "").await.status, 410);

    // The same endpoint registers itself: it may, and both are listed.
    assert_eq!(registry.register("shop", "h:1", "").await, id);
    let both = registry.get("/api/v1/services/shop").await.value();
    assert_eq!(both["instances"].as_array().unwrap().len(), 2);
    assert_eq!(registry.send("DELETE", &own, &[], "").await.status, 200);
    assert_eq!(registry.get("/api/v1/services/shop").await.value()["instances"].as_array().unwrap().len(), 1);

    // A change reaches a poll that waits, without any request.
    let watched = registry.get("/api/v1/watch?wait=0").await;
    let (epoch, index) = (watched.header("a8-epoch"), watched.header("a8-index"));
    let path = format!("/api/v1/watch?wait=20s&epoch={epoch}&index={index}");
    let poll = registry.get(&path);
    let change = async {
        registry
            .eventually("/metrics", |reply| {
                reply.text().contains("a8_registry_watchers{namespace=\"default\"} 1")
            })
            .await;
        put("default.json", &of("h:2"));
    };
    let (news, ()) = tokio::join!(poll, change);
    assert!(news.status == 200 && news.text().contains("h:2"), "{news:?}");
    put("default.json", "{\"instances\":[");
    put("other.json", &of("o:1"));
    put("default.conf", &of("h:3"));
    let kept = registry.get("/api/v1/services/shop").await;
    assert!(kept.text().contains("h:2"), "{kept:?}");
    std::fs::remove_file(files.path().join("default.json")).unwrap();
    registry.eventually("/api/v1/services/shop", |reply| reply.text().contains("h:3")).await;
    std::fs::remove_file(files.path().join("default.conf")).unwrap();
    registry.eventually("/api/v1/services", |reply| reply.text() == r#"{"services":[]}"#).await;
    registry.stop().await;
}

/// Section 7.4.
#[tokio::test]
async fn a_file_is_of_its_namespace_alone_and_not_kept_over_a_restart() {
    let (files, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(files.path().join("blue.json"), of("h:1")).unwrap();
    let flags = ["--auth_mode=trusted", "--fs_catalog", files.path().to_str().unwrap()];
    let registry = Running::start_in(home.path(), &flags).await;
    for (namespace, services) in [("blue", r#"{"services":["shop"]}"#), ("green", r#"{"services":[]}"#)] {
        let header = format!("Authorization: Bearer {namespace}");
        assert_eq!(registry.send("GET", "/api/v1/services", &[&header], "").await.text(), services);
    }
    registry.stop().await;
    let registry = Running::start_in(home.path(), &["--auth_mode=trusted"]).await;
    let reply = registry.send("GET", "/api/v1/services", &["Authorization: Bearer blue"], "").await;
    assert_eq!(reply.text(), r#"{"services":[]}"#);
    registry.stop().await;
    let config = settings(home.path(), &["--fs_catalog", "/nowhere/at/all"]).check().unwrap();
    let refused = registry::serve(config, |_| panic!("it listens"), async {}).await.unwrap_err();
    assert_eq!(refused.setting, "fs_catalog");
}
