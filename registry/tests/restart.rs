//! What a restart keeps: a registry that comes back never publishes an empty catalog, and nothing on its
//! disk is lost silently.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use std::net::TcpListener;
use std::time::Duration;

use registry_api::client::{Polled, RegistryClient};
use registry_api::{Followed, Position, Registration};
use support::{Running, settings};

const FILE: &str = "registry.snapshot";

fn client(registry: &Running, token: &str) -> RegistryClient {
    RegistryClient::new(&[format!("http://{}", registry.address)], Some(token)).unwrap()
}

/// Section 0.1: a namespace is never removed.
#[tokio::test]
async fn a_restart_keeps_every_namespace_and_watchers_notice_nothing() {
    let home = tempfile::tempdir().unwrap();
    let trusted = ["--auth_mode=trusted"];
    let before = Running::start_in(home.path(), &trusted).await;
    let mut registration = Registration::http("s", &["v1"], "h:1");
    registration.metadata = Some(registry_api::Metadata::from_json(r#"{ "k" : 1 }"#.to_owned()).unwrap());
    let id = client(&before, "a").register(&registration).await.unwrap().id;
    client(&before, "b").register(&Registration::http("t", &[], "h:2")).await.unwrap();
    let mut followed = Followed::default();
    let polled = client(&before, "a").watch(followed.position(), Duration::ZERO).await.unwrap();
    let Polled::News(position, update) = polled else { panic!("nothing held is news") };
    followed.apply(position, update).unwrap();
    before.stop().await;

    let after = Running::start_in(home.path(), &trusted).await;
    assert_eq!(client(&after, "b").services().await.unwrap(), ["t"]);
    // Another life, the same content: unchanged, at once.
    let polled = client(&after, "a").watch(followed.position(), Duration::from_secs(60)).await.unwrap();
    let Polled::Unchanged(position) = polled else { panic!("the content is the same") };
    assert_ne!(position.epoch, followed.position().epoch);
    assert_eq!(position.hash, followed.position().hash);
    assert!(position.index >= 1);
    assert!(
        client(&after, "a").heartbeat(&id).await.unwrap(),
        "the instance goes on as if nothing had happened"
    );
    after.stop().await;
}

/// Section 1.6, after a restart.
#[tokio::test]
async fn leases_get_one_full_time_to_live_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let short = ["--min_ttl=100ms", "--default_ttl=700ms"];
    let before = Running::start_in(home.path(), &short).await;
    before.register("s", "h:1", "").await;
    before.register("kept", "h:1", r#","status":"OUT_OF_SERVICE""#).await;
    before.stop().await;
    let began = tokio::time::Instant::now();
    let after = Running::start_in(home.path(), &short).await;
    assert_eq!(after.get("/api/v1/services/s").await.status, 200);
    after.eventually("/api/v1/services/s", |reply| reply.status == 404).await;
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert_eq!(after.get("/api/v1/services/kept").await.status, 200);
    after.stop().await;
}

#[tokio::test]
async fn what_is_registered_reaches_the_disk_without_a_clean_stop() {
    let home = tempfile::tempdir().unwrap();
    let running = Running::start_in(home.path(), &[]).await;
    running.register("s", "h:1", "").await;
    let holds = |bytes: &[u8]| registry::snapshot::decode(bytes).is_ok_and(|contents| contents.len() == 1);
    // Every write is whole: what is found at any time is a good file.
    running.eventually("/", |_| std::fs::read(home.path().join(FILE)).is_ok_and(|bytes| holds(&bytes))).await;
    running.stop().await;
}

/// Section 0.5.
#[tokio::test]
async fn a_file_that_cannot_be_written_is_told_until_it_can() {
    let home = tempfile::tempdir().unwrap();
    let running = Running::start_in(home.path(), &[]).await;
    let in_the_way = home.path().join(FILE.to_owned() + ".new");
    std::fs::create_dir(&in_the_way).unwrap();
    running.register("s", "h:1", "").await;
    let unwell = running.eventually("/uptime", |reply| reply.status == 503).await.value();
    assert_eq!((&unwell["STORE"]["healthy"], &unwell["UPTIME"]["healthy"]), (&false.into(), &true.into()));
    assert!(unwell["STORE"]["properties"]["cause"].is_string(), "{unwell}");
    assert_eq!(running.get("/api/v1/services").await.status, 200, "it goes on");
    std::fs::remove_dir(&in_the_way).unwrap();
    let well = running.eventually("/uptime", |reply| reply.status == 200).await.value();
    assert_eq!(well["STORE"], serde_json::json!({"healthy": true}));
    running.stop().await;
}

#[tokio::test]
async fn a_damaged_file_is_kept_under_another_name() {
    let home = tempfile::tempdir().unwrap();
    let before = Running::start_in(home.path(), &[]).await;
    before.register("s", "h:1", "").await;
    before.stop().await;
    let file = home.path().join(FILE);
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let after = Running::start_in(home.path(), &[]).await;
    assert_eq!(after.get("/api/v1/services").await.text(), r#"{"services":[]}"#);
    assert_eq!(std::fs::read(home.path().join("registry.snapshot.corrupt-1")).unwrap(), bytes);
    after.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_names_the_setting() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let serve = async |home: &std::path::Path, port: u16| {
        let mut settings = settings(home, &[]);
        settings.api_port = port.to_string();
        let config = settings.check().unwrap();
        registry::serve(config, |_| panic!("it must not get ready"), std::future::pending())
            .await
            .unwrap_err()
    };
    let refused = serve(home.path(), port).await;
    assert_eq!(refused.to_string(), format!("api_port: cannot listen on 127.0.0.1:{port}: address in use"));

    let running = Running::start_in(home.path(), &[]).await;
    let refused = serve(home.path(), 0).await;
    assert_eq!(refused.setting, "data_dir");
    assert!(refused.problem.contains("in use by another process"), "{refused}");
    running.stop().await;
}

#[tokio::test]
async fn an_index_from_another_life_is_never_taken_for_ones_own() {
    let home = tempfile::tempdir().unwrap();
    let before = Running::start_in(home.path(), &[]).await;
    before.register("s", "h:1", "").await;
    let client_before = client(&before, "default");
    let Polled::News(old, _) = client_before.watch(&Position::default(), Duration::ZERO).await.unwrap()
    else {
        panic!("nothing held is news")
    };
    before.stop().await;
    let after = Running::start_in(home.path(), &[]).await;
    // The same count of changes, but another content.
    after.register("t", "h:1", "").await;
    let polled = client(&after, "default").watch(&old, Duration::from_secs(60)).await.unwrap();
    let Polled::News(new, registry_api::Update::Full(instances)) = polled else { panic!("everything anew") };
    assert_eq!((new.index, instances.len()), (old.index, 2));
    after.stop().await;
}
