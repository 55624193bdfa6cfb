//! The life of the ancestor's clients, under both profiles (spec/registry.md 0.2, 9.3).

use serde_json::json;

use crate::support::Running;
use crate::{A8, JSON, ids, instance, pairs, status_of};

#[tokio::test]
async fn section_9_3_e6_to_e16_the_life_of_the_ancestors_clients() {
    for (profile, unknown) in [("amalgam8", 410), ("netflix", 404)] {
        let running = Running::start(&["--eureka_compat", profile]).await;
        let app = format!("{A8}/apps/http");
        for id in ["http-1", "http-2"] {
            let body = instance("http", id, json!({"status": "STARTING", "metadata": {"k": 1}}));
            assert_eq!(running.json("POST", &app, &body).await.status, 204);
        }
        // E15.
        let reply = running.send("GET", &app, &[JSON], "").await;
        let application = reply.value()["application"].clone();
        assert_eq!(application["name"], if profile == "netflix" { "HTTP" } else { "http" }, "C5");
        let instances = application["instance"].as_array().unwrap();
        assert_eq!(instances.len(), 2);
        for instance in instances {
            assert_eq!((&instance["status"], &instance["metadata"]), (&json!("STARTING"), &json!({"k": 1})));
        }
        // E10 to E14.
        for (method, path, status) in [
            ("PUT", "http-1", 200),
            ("PUT", "http-2", 200),
            ("PUT", "http-3", unknown),
            ("PUT", "http-1/status?value=UP", 200),
            ("PUT", "http-2/status?value=DOWN", 200),
            ("PUT", "http-3/status?value=UNKNOWN", 404),
        ] {
            assert_eq!(
                status_of(&running, method, &format!("{app}/{path}")).await,
                status,
                "{method} {path}"
            );
        }
        for (id, status) in [("http-1", "UP"), ("http-2", "DOWN")] {
            let reply = running.send("GET", &format!("{app}/{id}"), &[JSON], "").await;
            assert_eq!(reply.value()["instance"]["status"], status);
        }
        // E6 to E8.
        for (id, status) in [("http-1", 200), ("http-2", 200), ("http-2", unknown), ("http-3", unknown)] {
            assert_eq!(status_of(&running, "DELETE", &format!("{app}/{id}")).await, status, "{id}");
        }
        // E9, E16: C3. And C4, C7.
        for (path, name) in [("http", "http"), ("https", "https")] {
            let reply = running.send("GET", &format!("{A8}/apps/{path}"), &[JSON], "").await;
            if profile == "netflix" {
                assert_eq!(reply.status, 404);
            } else {
                assert_eq!((reply.status, reply.value()), (200, json!({"application": {"name": name}})));
            }
        }
        let vip = running.send("GET", &format!("{A8}/vips/none"), &[JSON], "").await;
        let delta = running.send("GET", &format!("{A8}/apps/delta"), &[JSON], "").await.value();
        if profile == "netflix" {
            assert_eq!(vip.status, 404);
            assert_eq!(ids(&delta), pairs(&[("http-1", "DELETED"), ("http-2", "DELETED")]));
        } else {
            assert_eq!((vip.status, vip.value()), (200, json!({"applications": {}})));
            assert_eq!(delta, json!({"application": {"name": "delta"}}));
            let lower = running.json("POST", &app, &instance("HTTP", "i", json!({}))).await;
            assert_eq!(lower.status, 400, "C8");
            assert!(running.send("GET", &format!("{A8}/apps"), &[], "").await.text().starts_with('{'), "C6");
        }
        running.stop().await;
    }
}
