//! `GET /api/v1/watch` from outside (design.md 5): the two forms, the settled points, and that no change is
//! lost between two polls.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use registry_api::client::{Polled, RegistryClient};
use registry_api::{Followed, Position, Registration, WatchAnswer};
use support::{PATIENCE, Reply, Running};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(60);

fn client(registry: &Running) -> Arc<RegistryClient> {
    Arc::new(RegistryClient::new(&[format!("http://{}", registry.address)], None).unwrap())
}

fn place(reply: &Reply) -> (String, String, String) {
    let header = |name| reply.header(name).to_owned();
    (header("a8-epoch"), header("a8-index"), header("a8-hash"))
}

fn at(reply: &Reply) -> String {
    let (epoch, index, hash) = place(reply);
    format!("/api/v1/watch?epoch={epoch}&index={index}&hash={hash}")
}

async fn waiting(registry: &Running, count: usize) {
    let line = format!("a8_registry_watchers{{namespace=\"default\"}} {count}");
    registry.eventually("/metrics", |reply| reply.text().lines().any(|found| found == line)).await;
}

/// So many instances of a service, so that one change is a small part of all.
async fn fill(registry: &Running, service: &str, count: usize) {
    for number in 0..count {
        registry.register(service, &format!("10.0.0.{number}:80"), "").await;
    }
}

#[tokio::test]
async fn an_empty_namespace_has_an_index_and_a_full_answer() {
    let registry = Running::start(&[]).await;
    let reply = registry.get("/api/v1/watch").await;
    let (epoch, index, hash) = place(&reply);
    assert!(!epoch.is_empty());
    assert_eq!((index.as_str(), hash.as_str()), ("1", "0".repeat(32).as_str()));
    let expected = format!(r#"{{"epoch":"{epoch}","index":1,"hash":"{hash}","full":true,"instances":[]}}"#);
    assert_eq!(reply.text(), expected);
    registry.stop().await;
}

#[tokio::test]
async fn a_change_is_a_delta_a_renewal_and_an_identical_registration_are_nothing() {
    let registry = Running::start(&[]).await;
    fill(&registry, "s", 5).await;
    let id = registry.register("s", "h:1", r#","status":"STARTING""#).await;
    let full = registry.get("/api/v1/watch").await;
    assert!(full.text().contains("STARTING"), "every status is visible");
    assert!(!full.text().contains("last_heartbeat"));

    registry.send("PUT", &format!("/api/v1/instances/{id}/heartbeat"), &[], "").await;
    registry.register("s", "h:1", r#","status":"STARTING""#).await;
    let unchanged = registry.get(&format!("{}&wait=0", at(&full))).await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(place(&unchanged), place(&full));

    registry.register("s", "h:1", "").await;
    let delta = registry.get(&at(&full)).await.value();
    assert_eq!((delta["from"].as_u64(), delta["index"].as_u64()), (Some(7), Some(8)));
    assert_eq!(delta["full"], false);
    assert_eq!(delta["changes"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&delta["changes"][0]["op"], &delta["changes"][0]["instance"]["status"]),
        (&"put".into(), &"UP".into())
    );

    registry.send("DELETE", &format!("/api/v1/instances/{id}"), &[], "").await;
    let delta = registry.get(&at(&full)).await.value();
    let gone = serde_json::json!({"op": "delete", "id": id, "service_name": "s", "reason": "deregistered"});
    assert_eq!(delta["changes"][1], gone);
    registry.stop().await;
}

#[tokio::test]
async fn the_settled_points_hold_on_the_wire() {
    let registry = Running::start(&[]).await;
    fill(&registry, "s", 3).await;
    let full = registry.get("/api/v1/watch").await;
    let (epoch, index, hash) = place(&full);
    let other = "1".repeat(32);
    for (query, status) in [
        // Nothing held, an unknown epoch, the future, another content: everything, at once.
        (format!("epoch={epoch}&index=0&hash={hash}"), 200),
        (format!("index={index}"), 200),
        (format!("epoch=x&index={index}"), 200),
        (format!("epoch=x&index={index}&hash={other}"), 200),
        (format!("epoch={epoch}&index=99&hash={hash}"), 200),
        (format!("epoch={epoch}&index={index}&hash={other}"), 200),
        // An unknown epoch with the same content: at once, with the place to adopt.
        (format!("epoch=x&index=99&hash={hash}&wait=10m"), 304),
        (format!("index=99&hash={hash}&wait=10m"), 304),
        // Current.
        (format!("epoch={epoch}&index={index}&hash={hash}&wait=0&unknown=1"), 304),
        (format!("epoch={epoch}&index={index}&wait=0s"), 304),
        ("index=x".to_owned(), 400),
        ("index=-1".to_owned(), 400),
        ("hash=1".to_owned(), 400),
        ("wait=soon".to_owned(), 400),
        ("service=".to_owned(), 400),
    ] {
        let reply = registry.get(&format!("/api/v1/watch?{query}")).await;
        assert_eq!(reply.status, status, "{query}");
        match status {
            400 => assert!(reply.is_error()),
            304 => assert_eq!((place(&reply), reply.body.len()), (place(&full), 0), "{query}"),
            _ => assert_eq!((place(&reply), &reply.body), (place(&full), &full.body), "{query}"),
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn a_poll_ends_with_its_wait_and_not_before() {
    let registry = Running::start(&[]).await;
    let full = registry.get("/api/v1/watch").await;
    let began = Instant::now();
    let reply = registry.get(&format!("{}&wait=300ms", at(&full))).await;
    assert_eq!(reply.status, 304);
    assert!(began.elapsed() >= Duration::from_millis(300));
    registry.stop().await;
}

#[tokio::test]
async fn a_filtered_poll_sleeps_through_changes_elsewhere() {
    let registry = Running::start(&[]).await;
    fill(&registry, "mine", 5).await;
    let full = registry.get("/api/v1/watch?service=mine&service=ghost").await;
    assert_eq!(full.value()["instances"].as_array().unwrap().len(), 5);
    let path = format!("{}&service=mine&service=ghost&wait=60s", at(&full));
    let poll = registry.get(&path);
    let changes = async {
        waiting(&registry, 1).await;
        registry.register("other", "h:1", "").await;
        registry.register("other", "h:2", "").await;
        waiting(&registry, 1).await;
        registry.register("ghost", "h:9", "").await
    };
    let (reply, id) = tokio::join!(poll, changes);
    let delta = reply.value();
    assert_eq!(delta["full"], false, "{delta}");
    assert_eq!(delta["changes"].as_array().unwrap().len(), 1);
    assert_eq!(delta["changes"][0]["instance"]["id"], id);
    assert_eq!((delta["from"].as_u64(), delta["index"].as_u64()), (Some(6), Some(9)));
    // Unfiltered, the same place is not what this hash says: everything.
    let unfiltered = registry.get(&at(&reply)).await.value();
    assert_eq!(unfiltered["instances"].as_array().unwrap().len(), 8);
    // Elsewhere only: unchanged, under the newer index.
    registry.register("other", "h:3", "").await;
    let unchanged = registry.get(&format!("{}&service=mine&service=ghost&wait=0", at(&reply))).await;
    assert_eq!((unchanged.status, unchanged.header("a8-index")), (304, "10"));
    registry.stop().await;
}

/// Section 1.6.
#[tokio::test]
async fn an_expiry_reaches_watchers_with_its_reason() {
    let registry = Running::start(&["--min_ttl=100ms", "--default_ttl=10m"]).await;
    fill(&registry, "s", 4).await;
    let id = registry.register("s", "h:1", r#","ttl":1"#).await;
    let full = registry.get("/api/v1/watch").await;
    let delta = registry.get(&at(&full)).await.value();
    let gone = serde_json::json!([{"op": "delete", "id": id, "service_name": "s", "reason": "expired"}]);
    assert_eq!(delta["changes"], gone);
    registry.stop().await;
}

#[tokio::test]
async fn a_delta_that_would_be_long_and_a_place_that_fell_off_are_full() {
    let registry = Running::start(&[]).await;
    fill(&registry, "s", 4).await;
    let old = registry.get("/api/v1/watch").await;
    fill(&registry, "t", 10).await;
    assert_eq!(registry.get(&at(&old)).await.value()["full"], true);
    let client = client(&registry);
    for number in 0..registry::history::CHANGES_MAX {
        let tag = number.to_string();
        client.register(&Registration::http("flapping", &[&tag], "h:1")).await.unwrap();
    }
    assert_eq!(registry.get(&at(&old)).await.value()["full"], true);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_waiters_share_one_encoding() {
    const WAITERS: usize = 200;
    let registry = Running::start(&[]).await;
    fill(&registry, "s", 5).await;
    let client = client(&registry);
    let Polled::News(position, _) = client.watch(&Position::default(), LONG).await.unwrap() else {
        panic!("nothing held is news");
    };
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let (client, position) = (Arc::clone(&client), position.clone());
        waiters.spawn(async move { client.watch(&position, LONG).await.unwrap() });
    }
    waiting(&registry, WAITERS).await;
    registry.register("s", "h:1", "").await;
    let told = tokio::time::timeout(PATIENCE, waiters.join_all()).await.unwrap();
    assert!(told.iter().all(|polled| *polled == told[0] && matches!(polled, Polled::News(..))));
    let metrics = registry.get("/metrics").await;
    // One full answer at the beginning, one delta for all.
    assert!(metrics.text().contains("a8_registry_watch_encodings_total 2\n"), "{}", metrics.text());
    assert!(metrics.text().contains("a8_registry_watch_answers_total{kind=\"delta\"} 200\n"));
    waiting(&registry, 0).await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_under_a_stream_of_changes_ends_with_what_is_there() {
    let registry = Running::start(&["--min_ttl=1s"]).await;
    fill(&registry, "base", 50).await;
    let client = client(&registry);
    let writer = {
        let client = Arc::clone(&client);
        tokio::spawn(async move {
            for round in 0..300 {
                let service = format!("s{}", round % 3);
                let address = format!("h:{}", round % 40);
                let tag = round.to_string();
                let registered =
                    client.register(&Registration::http(&service, &[&tag], &address)).await.unwrap();
                if round % 4 == 0 {
                    assert!(client.deregister(&registered.id).await.unwrap());
                }
            }
            client.register(&Registration::http("end", &[], "h:1")).await.unwrap();
        })
    };
    let mut followed = Followed::default();
    let mut deltas = 0;
    let following = async {
        while !followed.instances().keys().any(|(service, _)| service.as_str() == "end") {
            match client.watch(followed.position(), LONG).await.unwrap() {
                Polled::Unchanged(position) => followed.adopt(position),
                Polled::News(position, update) => {
                    deltas += usize::from(matches!(update, registry_api::Update::Delta { .. }));
                    followed.apply(position, update).expect("every answer fits what is held");
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, following).await.unwrap();
    writer.await.unwrap();
    assert!(deltas > 0);
    let last: WatchAnswer = serde_json::from_slice(&registry.get("/api/v1/watch").await.body).unwrap();
    assert_eq!(followed.instances().values().cloned().collect::<Vec<_>>(), last.instances.unwrap());
    registry.stop().await;
}

#[tokio::test]
async fn the_end_of_the_registry_answers_waiting_polls_at_once() {
    let registry = Running::start(&[]).await;
    let full = registry.get("/api/v1/watch").await;
    let address = registry.address;
    let path = format!("{}&wait=10m", at(&full));
    let poll = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    waiting(&registry, 1).await;
    let began = Instant::now();
    registry.stop().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let answer = tokio::time::timeout(PATIENCE, poll).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 304 "), "{answer}");
}

/// Section 4.4.
#[tokio::test]
async fn a_watch_of_one_namespace_hears_nothing_of_another() {
    let registry = Running::start(&["--auth_mode=trusted"]).await;
    let url = format!("http://{}", registry.address);
    let [a, b] = ["a", "b"].map(|token| RegistryClient::new(&[&url], Some(token)).unwrap());
    a.register(&Registration::http("s", &[], "h:1")).await.unwrap();
    let Polled::News(position, registry_api::Update::Full(instances)) =
        b.watch(&Position::default(), LONG).await.unwrap()
    else {
        panic!("nothing held is news")
    };
    assert!(instances.is_empty());
    a.register(&Registration::http("s", &[], "h:2")).await.unwrap();
    let wait = Duration::from_millis(50);
    assert_eq!(b.watch(&position, wait).await.unwrap(), Polled::Unchanged(position));
    registry.stop().await;
}
