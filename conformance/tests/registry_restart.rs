//! Watchers of a registry that goes and comes back: whatever ends it, they continue and never hear of an empty catalog
//! (notes/scale.md 3.3). What the file holds and how it is read is the registry's own suite's matter.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use conformance::{Registry, Request, eventually, get};
use registry_api::client::{Polled, RegistryClient};
use registry_api::{Followed, Update};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const WATCHERS: usize = 20;
const SERVICES: usize = 50;
/// Longer than any restart here takes, shorter than the patience of CI.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the watchers went through together.
#[derive(Debug, Default)]
struct Heard {
    lives: AtomicUsize,
    news: AtomicUsize,
    lost: AtomicUsize,
}

/// Polls over every loss until `last` is registered. Everything it hears of must be there at all times, and every answer
/// must lead from what it held to what it is told.
async fn watch(client: Arc<RegistryClient>, heard: Arc<Heard>, last: &'static str) {
    let mut followed = Followed::default();
    while !followed.instances().keys().any(|(service, _)| service.as_str() == last) {
        let epoch = followed.position().epoch.clone();
        match client.watch(followed.position(), Duration::from_secs(5)).await {
            Err(_) => {
                heard.lost.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
                continue;
            }
            Ok(Polled::Unchanged(position)) => followed.adopt(position),
            Ok(Polled::News(position, update)) => {
                heard.news.fetch_add(1, Ordering::Relaxed);
                if let Update::Full(instances) = &update {
                    assert!(instances.len() >= SERVICES, "{} of {SERVICES} are told", instances.len());
                }
                followed.apply(position, update).expect("every answer fits what is held");
            }
        }
        assert!(followed.instances().len() >= SERVICES, "{}", followed.instances().len());
        heard.lives.fetch_add(usize::from(followed.position().epoch != epoch), Ordering::Relaxed);
    }
}

/// Lists over every loss: whenever there is an answer, everybody is in it.
async fn list(client: Arc<RegistryClient>) {
    loop {
        if let Ok(instances) = client.instances().await {
            assert!(instances.len() >= SERVICES, "{} of {SERVICES} are listed", instances.len());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn beaten(registry: &Registry, id: &str) -> u16 {
    Request::new("PUT", format!("/api/v1/instances/{id}/heartbeat")).call(registry.address()).status
}

#[test]
fn watchers_continue_over_restarts_and_never_hear_of_an_empty_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = Registry::start(dir.path(), &[]);
    let ids: Vec<_> = (0..SERVICES)
        .map(|number| registry.register(&format!("s{number}"), &["v1"], format!("10.0.0.{number}:80")))
        .collect();
    let on_disk = |name: &str| {
        let file = dir.path().join("registry.snapshot");
        eventually(&format!("{name} is on disk"), || match std::fs::read_to_string(&file) {
            Ok(text) if text.contains(name) => Ok(()),
            other => Err(format!("{other:.80?}")),
        });
    };
    on_disk(ids.last().unwrap());

    let runtime = Runtime::new().unwrap();
    let url = format!("http://{}", registry.address());
    let client = || Arc::new(RegistryClient::new(&[&url], None).unwrap());
    let heard = Arc::new(Heard::default());
    let watchers: Vec<JoinHandle<()>> =
        (0..WATCHERS).map(|_| runtime.spawn(watch(client(), Arc::clone(&heard), "last"))).collect();
    let lister = runtime.spawn(list(client()));
    let lives = |count: usize| {
        eventually(&format!("all watchers follow life {count}"), || {
            match heard.lives.load(Ordering::Relaxed) {
                lives if lives >= WATCHERS * count => Ok(()),
                lives => Err(lives),
            }
        });
    };
    lives(1);
    // As an operator does, as a power cut does, and again with a change just before.
    for (life, ends) in (2..).zip([Registry::terminate, Registry::kill, Registry::terminate, Registry::kill])
    {
        let fresh = registry.register(&format!("fresh{life}"), &[], "h:1");
        on_disk(&fresh);
        ends(&mut registry);
        registry.restart();
        lives(life);
        assert_eq!(beaten(&registry, &ids[0]), 200, "nobody has to register again");
        assert_eq!(get(format!("/api/v1/services/fresh{life}")).call(registry.address()).status, 200);
    }
    registry.register("last", &[], "h:1");
    runtime.block_on(async {
        for watcher in watchers {
            timeout(PATIENCE, watcher).await.expect("every watcher hears the last change").unwrap();
        }
        assert!(!lister.is_finished(), "{:?}", lister.await);
    });
    assert!(heard.lost.load(Ordering::Relaxed) > 0, "it was really gone: {heard:?}");
    assert!(heard.news.load(Ordering::Relaxed) >= WATCHERS, "{heard:?}");
}
