//! What is counted of many instances that come and go (spec/registry.md 8, 9.6).

use crate::registration;
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

/// The number of a series; 0 when it is not there.
fn number(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |text| text.parse().unwrap())
}

#[tokio::test]
async fn section_9_6_m32_counts_add_up_over_namespaces_and_catalogs() {
    let files = tempfile::tempdir().unwrap();
    let listed = r#"{"instances":[{"service_name":"f","endpoint":{"type":"tcp","value":"h:9"}}]}"#;
    std::fs::write(files.path().join("b.json"), listed).unwrap();
    let flags = ["--auth_mode=trusted", "--fs_catalog", files.path().to_str().unwrap()];
    let registry = Running::start(&flags).await;
    for (namespace, value) in [("a", "h:1"), ("a", "h:2"), ("b", "h:1")] {
        let headers = ["Content-Type: application/json", &format!("Authorization: Bearer {namespace}")];
        let body = registration("s", "tcp", value, "");
        assert_eq!(registry.send("POST", "/api/v1/instances", &headers, &body).await.status, 201);
    }
    let metrics = registry.get("/metrics").await;
    let of =
        |namespace| number(metrics.text(), &format!("a8_registry_instances{{namespace=\"{namespace}\"}}"));
    assert_eq!((of("a"), of("b")), (2.0, 2.0), "M32 with the one from the file: {}", metrics.text());
    registry.stop().await;
}

#[tokio::test]
async fn section_9_6_m33_to_m38_what_instances_carry_and_how_long_they_live_is_counted() {
    let registry = Running::start(&["--min_ttl=200ms", "--default_ttl=300ms", "--max_ttl=10m"]).await;
    let mean = |metrics: &str, series: &str| {
        let count = number(metrics, &format!("a8_registry_{series}_count"));
        number(metrics, &format!("a8_registry_{series}_sum")) / count.max(1.0)
    };
    let carrying = |metrics: &str, what: &str| {
        number(metrics, &format!("a8_registry_{what}_instances{{namespace=\"default\"}}"))
    };
    let more = |bytes: usize, tags: &str| {
        format!(r#","ttl":600,"metadata":"{}","tags":[{tags}]"#, "x".repeat(bytes - 2))
    };
    let mut ids = Vec::new();
    for (line, value, more, means, with) in [
        ("M33, M34 two", "h:1", more(10, r#""a","b""#), (10.0, 2.0), 1.0),
        ("M33, M34 four", "h:2", more(26, r#""a","b","c","d""#), (18.0, 3.0), 2.0),
        ("M33, M34 without", "h:3", r#","ttl":600"#.to_owned(), (18.0, 3.0), 2.0),
        ("M35, M36 without any more", "h:2", r#","ttl":600"#.to_owned(), (18.0, 3.0), 1.0),
    ] {
        ids.push(registry.register("s", value, &more).await);
        let metrics = registry.get("/metrics").await;
        let text = metrics.text();
        assert_eq!((mean(text, "metadata_length_bytes"), mean(text, "tags_length")), means, "{line}: {text}");
        assert_eq!((carrying(text, "metadata"), carrying(text, "tags")), (with, with), "{line}: {text}");
    }
    let lived = tokio::time::Instant::now();
    for id in &ids[..3] {
        assert_eq!(registry.send("DELETE", &format!("/api/v1/instances/{id}"), &[], "").await.status, 200);
    }
    let before = registry.get("/metrics").await;
    let lives = "instances_lifetime_seconds";
    assert_eq!(number(before.text(), &format!("a8_registry_{lives}_count")), 3.0, "M38");
    assert!(mean(before.text(), lives) < 20.0, "M38: {}", before.text());
    for number in 0..3 {
        registry.register("short", &format!("h:{number}"), "").await;
    }
    let expired = "a8_registry_expirations_total{namespace=\"default\"} 3\n";
    let after = registry.eventually("/metrics", |reply| reply.text().contains(expired)).await;
    assert_eq!(number(after.text(), &format!("a8_registry_{lives}_count")), 6.0, "M37, M38");
    let sum = |metrics: &str| number(metrics, &format!("a8_registry_{lives}_sum"));
    let mean = (sum(after.text()) - sum(before.text())) / 3.0;
    assert!(mean > 0.3 && mean <= lived.elapsed().as_secs_f64(), "M38: {mean} s");
    registry.stop().await;
}

/// Section 9.6 M42 to M45.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_registrations_are_all_there_and_go_again() {
    // Longer leases than a busy machine takes for all of it: nobody renews in between.
    let registry = std::sync::Arc::new(Running::start(&["--default_ttl=10m"]).await);
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
