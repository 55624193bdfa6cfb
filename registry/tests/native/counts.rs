//! What is counted of many instances that come and go (spec/registry.md 8, 9.6).

use crate::support::Running;

/// Section 9.6 M28, M31.
#[tokio::test]
async fn the_count_of_instances_follows_whatever_comes_and_goes() {
    let registry = Running::start(&["--min_ttl=200ms", "--default_ttl=300ms", "--max_ttl=10m"]).await;
    let counted = async |count: usize| {
        let line = format!("a8_registry_instances{{namespace=\"default\"}} {count}\n");
        registry.eventually("/metrics", |reply| reply.text().contains(&line)).await;
    };
    assert!(
        !registry.get("/metrics").await.text().contains("a8_registry_instances{"),
        "nobody was ever there"
    );
    let long = r#","ttl":600,"tags":["t"],"metadata":{"k":1}"#;
    let first = registry.register("s", "h:1", long).await;
    counted(1).await;
    let second = registry.register("t", "h:1", long).await;
    registry.register("t", "h:2", r#","ttl":600"#).await;
    counted(3).await;
    assert_eq!(registry.send("DELETE", &format!("/api/v1/instances/{second}"), &[], "").await.status, 200);
    counted(2).await;
    // The same again is not another one; with the default it is soon over.
    registry.register("t", "h:2", "").await;
    counted(1).await;
    let found = registry.get(&format!("/api/v1/instances?id={first}")).await.value();
    let instance = &found["instances"][0];
    assert_eq!(instance["endpoint"], serde_json::json!({"type": "tcp", "value": "h:1"}));
    assert_eq!((&instance["service_name"], &instance["ttl"]), (&"s".into(), &600.into()));
    assert_eq!((&instance["tags"][0], &instance["metadata"]["k"]), (&"t".into(), &1.into()));
    registry.stop().await;
}

/// Section 9.6 M42 to M45.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_registrations_are_all_there_and_go_again() {
    let registry = std::sync::Arc::new(Running::start(&[]).await);
    let url = format!("http://{}", registry.address);
    let client = std::sync::Arc::new(registry_api::client::RegistryClient::new(&[url], None).unwrap());
    let mut crowd = tokio::task::JoinSet::new();
    for worker in 0..50 {
        let client = std::sync::Arc::clone(&client);
        crowd.spawn(async move {
            let mut ids = Vec::new();
            for number in 0..200 {
                let service = format!("s{}", number % 50);
                let address = format!("10.0.{worker}.{number}:80");
                let registration = registry_api::Registration::http(&service, &[], address);
                ids.push(client.register(&registration).await.unwrap().id);
            }
            for id in &ids {
                assert!(client.heartbeat(id).await.unwrap());
            }
            ids
        });
    }
    let ids = crowd.join_all().await;
    let services = registry.get("/api/v1/services").await.value();
    assert_eq!(services["services"].as_array().unwrap().len(), 50);
    let all = client.instances().await.unwrap();
    assert_eq!(all.len(), 10_000);
    assert_eq!(all.iter().filter(|instance| instance.service_name.as_str() == "s7").count(), 200);
    let mut crowd = tokio::task::JoinSet::new();
    for ids in ids {
        let client = std::sync::Arc::clone(&client);
        crowd.spawn(async move {
            for id in ids {
                assert!(client.deregister(&id).await.unwrap());
            }
        });
    }
    crowd.join_all().await;
    assert_eq!(registry.get("/api/v1/services").await.text(), r#"{"services":[]}"#);
    let Ok(registry) = std::sync::Arc::try_unwrap(registry) else { panic!("nobody else holds it") };
    registry.stop().await;
}
