//! Batches of Eureka peers (spec/registry.md 3.17).

use serde_json::{Value, json};

use crate::support::Running;
use crate::{JSON, PEER, instance, status_of};

#[tokio::test]
async fn section_3_17_batches_of_peers_are_answered_item_by_item() {
    let running = Running::start(&["--eureka_compat", "amalgam8"]).await;
    let bare = |id: &str| {
        serde_json::from_str::<Value>(&instance("A", id, json!({"lastDirtyTimestamp": 200}))).unwrap()
    };
    let item = |action: &str, id: &str, more: Value| {
        let mut item =
            json!({"appName": "A", "id": id, "action": action, "status": null, "instanceInfo": null});
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    };
    let steps = [
        (item("Register", "i", json!({"instanceInfo": bare("i")["instance"]})), 200),
        (item("Register", "j", json!({"instanceInfo": bare("j")})), 200),
        (item("Register", "k", json!({"instanceInfo": {"hostName": ""}})), 400),
        (item("Register", "k", json!({})), 400),
        (item("Heartbeat", "i", json!({"lastDirtyTimestamp": "200"})), 200),
        (item("Heartbeat", "i", json!({"lastDirtyTimestamp": 100, "overriddenStatus": "UNKNOWN"})), 409),
        (item("Heartbeat", "i", json!({"lastDirtyTimestamp": 300})), 404),
        (item("Heartbeat", "x", json!({})), 404),
        (item("StatusUpdate", "j", json!({"status": "DOWN"})), 200),
        (item("StatusUpdate", "x", json!({"status": "DOWN"})), 404),
        (item("StatusUpdate", "j", json!({})), 400),
        (item("DeleteStatusOverride", "j", json!({"status": "UP"})), 200),
        (item("Cancel", "j", json!({})), 200),
        (item("Cancel", "j", json!({})), 404),
        (item("Dance", "j", json!({})), 500),
        (json!({"action": 7}), 500),
        (json!("nothing"), 500),
    ];
    let list: Vec<&Value> = steps.iter().map(|(item, _)| item).collect();
    for path in ["/eureka/peerreplication/batch/", "/eureka/v2/peerreplication/batch"] {
        let body = json!({ "replicationList": list }).to_string();
        let reply = running.send("POST", path, &[JSON, PEER], &body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let answers = reply.value()["responseList"].as_array().unwrap().clone();
        assert_eq!(answers.len(), steps.len());
        for ((item, status), answer) in steps.iter().zip(&answers) {
            assert_eq!(answer["statusCode"], *status, "{item}");
            let entity = answer.get("responseEntity").map(|entity| entity["instanceId"].clone());
            assert_eq!(entity, (*status == 409).then(|| json!("i")), "{item}");
        }
        assert_eq!(status_of(&running, "DELETE", "/eureka/apps/A/i").await, 200);
    }
    for (body, status) in [
        (json!({"replicationList": steps[0].0}).to_string(), 200),
        (json!({"replicationList": null}).to_string(), 200),
        ("{}".to_owned(), 200),
        (json!({"replicationList": 7}).to_string(), 400),
        (json!({"replicationList": vec![0; 1_001]}).to_string(), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
    ] {
        let reply = running.send("POST", "/eureka/peerreplication/batch", &[JSON], &body).await;
        assert_eq!(reply.status, status, "{body:.80}");
    }
    running.stop().await;
}

/// What a replicated registration of the ancestor's cluster does, here by Eureka's batches.
#[tokio::test]
async fn section_9_7_g4_a_replicated_registration_opens_its_namespace() {
    let running = Running::start(&["--auth_mode", "trusted"]).await;
    let body = instance("A", "i", json!({}));
    let info: Value = serde_json::from_str(&body).unwrap();
    let item = json!({"appName": "A", "id": "i", "action": "Register", "instanceInfo": info["instance"]});
    let batch = json!({ "replicationList": [item] }).to_string();
    for namespace in ["unseen", "unseen-too"] {
        let token = format!("Authorization: Bearer {namespace}");
        let listed = async || {
            let reply = running.send("GET", "/api/v1/instances", &[&token], "").await;
            reply.value()["instances"].as_array().unwrap().len()
        };
        assert_eq!(listed().await, 0, "G4 {namespace}");
        let reply =
            running.send("POST", "/eureka/peerreplication/batch/", &[JSON, PEER, &token], &batch).await;
        assert_eq!(reply.value()["responseList"][0]["statusCode"], 200, "G4 {namespace}: {reply:?}");
        assert_eq!(listed().await, 1, "G4 {namespace}");
    }
    running.stop().await;
}
