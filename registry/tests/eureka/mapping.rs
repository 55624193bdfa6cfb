//! One instance, natively and to Eureka clients (spec/registry.md 3.5, 3.6, 7.1).

use serde_json::json;

use crate::support::Running;
use crate::{AMAZON, JS, ask, ids, one, pairs, register, status_of};

#[tokio::test]
async fn section_3_5_registrations_appear_natively() {
    let running = Running::start(&[]).await;
    for (app, body) in [("web", JS), ("SHOP", AMAZON)] {
        assert_eq!(running.json("POST", &format!("/eureka/apps/{app}"), body).await.status, 204);
    }
    let tags = json!({"metadata": {"amalgam8.tags": " v1; v2 ,,v1"}, "port": {"$": 80, "@enabled": "false"}});
    assert_eq!(register(&running, "t", "i", tags).await.status, 204);
    let native = running.get("/api/v1/instances?status=ALL").await.value();
    let find = |id: &str| {
        let found = native["instances"].as_array().unwrap().iter().find(|instance| instance["id"] == id);
        found.unwrap_or_else(|| panic!("{id} is not in {native}")).clone()
    };
    let web = find("web:web-1");
    assert_eq!((&web["status"], &web["ttl"], web.get("metadata")), (&json!("UP"), &json!(90), None));
    assert_eq!(web["endpoint"], json!({"type": "tcp", "value": "localhost:3000"}));
    let shop = find("SHOP:i-0abc");
    assert_eq!((&shop["status"], &shop["ttl"]), (&json!("STARTING"), &json!(45)));
    assert_eq!(shop["endpoint"], json!({"type": "https", "value": "ec2-1.example:8443"}));
    let tagged = find("t:i");
    assert_eq!(tagged["tags"], json!(["v1", "v2", "v1"]));
    assert_eq!(tagged["endpoint"], json!({"type": "tcp", "value": "i.example"}));
    let shop = one(&running, "shop", "i-0abc").await;
    assert_eq!(shop["dataCenterInfo"]["metadata"]["availability-zone"], "us-east-1c");
    // The native API's own verbs know the id.
    for (method, path) in [("PUT", "/api/v1/instances/t:i/heartbeat"), ("DELETE", "/api/v1/instances/t%3Ai")]
    {
        assert_eq!(status_of(&running, method, path).await, 200, "{path}");
    }
    assert_eq!(status_of(&running, "GET", "/eureka/apps/t/i").await, 404);
    running.stop().await;
}

#[tokio::test]
async fn section_3_6_native_instances_appear_to_eureka_clients() {
    let running = Running::start(&[]).await;
    let id = running.register("reviews", "10.0.0.1:9080", r#","metadata":[1],"status":"STARTING""#).await;
    let shown = one(&running, "REVIEWS", &id).await;
    for (field, expected) in [
        ("app", json!("REVIEWS")),
        ("vipAddress", json!("reviews")),
        ("appGroupName", json!("UNKNOWN")),
        ("instanceId", json!(id)),
        ("hostName", json!("10.0.0.1")),
        ("ipAddr", json!("10.0.0.1")),
        ("status", json!("STARTING")),
        ("port", json!({"$": 9080, "@enabled": "true"})),
        ("securePort", json!({"$": 443, "@enabled": "false"})),
        ("metadata", json!({})),
        ("countryId", json!(1)),
    ] {
        assert_eq!(shown[field], expected, "{field}");
    }
    let body = r#"{"service_name":"reviews","endpoint":{"type":"https","value":"https://[::1]:8443/x"}}"#;
    let id = running.json("POST", "/api/v1/instances", body).await.value()["id"].as_str().unwrap().to_owned();
    let shown = ask(&running, &format!("/eureka/instances/{id}")).await["instance"].clone();
    assert_eq!((&shown["hostName"], &shown["port"]["$"]), (&json!("::1"), &json!(80)));
    assert_eq!(shown["securePort"], json!({"$": 8443, "@enabled": "true"}));
    assert_eq!(ids(&ask(&running, "/eureka/vips/reviews").await).len(), 2);
    // They live by Eureka's verbs too.
    let path = format!("/eureka/apps/reviews/{id}");
    for (method, path) in
        [("PUT", path.clone()), ("PUT", format!("{path}/status?value=DOWN")), ("DELETE", path)]
    {
        assert_eq!(status_of(&running, method, &path).await, 200, "{method} {path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn section_7_1_instances_of_read_only_catalogs_are_shown_and_nothing_more() {
    let files = tempfile::tempdir().unwrap();
    let instances =
        r#"{"instances":[{"service_name":"files","endpoint":{"type":"http","value":"10.0.0.7:80"}}]}"#;
    std::fs::write(files.path().join("default.json"), instances).unwrap();
    let running = Running::start(&["--fs_catalog", files.path().to_str().unwrap()]).await;
    let all = ask(&running, "/eureka/apps").await;
    assert_eq!(all["applications"]["apps__hashcode"], "UP_1_");
    let (id, _) = ids(&all)[0].clone();
    // Clients that fetch deltas would otherwise find their counts wrong for ever (3.15).
    assert_eq!(ids(&ask(&running, "/eureka/apps/delta").await), pairs(&[(&id, "ADDED")]));
    assert_eq!(ids(&ask(&running, "/eureka/vips/files").await).len(), 1);
    let path = format!("/eureka/apps/FILES/{id}");
    for (method, path) in [
        ("PUT", path.clone()),
        ("DELETE", path.clone()),
        ("PUT", format!("{path}/status?value=DOWN")),
        ("PUT", format!("{path}/metadata?a=b")),
    ] {
        assert_eq!(status_of(&running, method, &path).await, 404, "{method} {path}");
    }
    assert_eq!(status_of(&running, "GET", &path).await, 200);
    running.stop().await;
}
