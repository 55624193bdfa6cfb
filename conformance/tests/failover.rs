//! What goes on when a part is gone: losing control changes no decision, losing the registry empties no catalog, and an
//! acknowledged write is never lost (design.md 8, invariant 6).

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conformance::{Cluster, Origin, Proxy, eventually, get, never, post};
use serde_json::{Value, json};

/// Several times the proxy's and control's first back-off steps: a wrong reaction to the loss would show by then.
const WATCHED: Duration = Duration::from_millis(1_500);

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
    _origins: [Origin; 2],
}

fn to(tag: &str) -> Value {
    json!({"id": "r", "destination": "s", "route": {"backends": [{"tags": [tag]}]}})
}

/// Two versions of `s`, all traffic to v1.
fn scene() -> Scene {
    let cluster = Cluster::start();
    let origins = [Origin::echo("v1"), Origin::echo("v2")];
    for (origin, tag) in origins.iter().zip(["v1", "v2"]) {
        cluster.registry.register("s", &[tag], origin.address());
    }
    let proxy = cluster.proxy("gateway");
    proxy.await_instances(2);
    cluster.control.write(json!([to("v1")]));
    Scene { cluster, proxy, _origins: origins }
}

#[track_caller]
fn serves_on(proxy: &Proxy) {
    never(WATCHED, "traffic is unharmed", || match get("/s/x").send(proxy.http) {
        Ok(answer) if answer.status == 200 && answer.json()["by"] == "v1" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[track_caller]
fn obeys(scene: &Scene, tag: &str) {
    let at = scene.cluster.control.address();
    let _ = post("/v1/rules", &json!({"rules": [to(tag)]})).call(at).expect(201);
    eventually("a new rule is obeyed", || match scene.proxy.get("/s/x").by() {
        by if by == tag => Ok(()),
        by => Err(by),
    });
}

#[test]
fn losing_control_changes_no_decision_and_its_return_brings_new_ones() {
    let mut scene = scene();
    scene.cluster.control.kill();
    serves_on(&scene.proxy);
    scene.cluster.control.restart();
    obeys(&scene, "v2");
    eventually("control knows its proxy again", || {
        let nodes = scene.cluster.control.proxies();
        if nodes.iter().any(|node| node["connected"] == true) { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
}

#[test]
fn losing_the_registry_empties_no_catalog_and_rules_go_on() {
    let mut scene = scene();
    scene.cluster.registry.kill();
    serves_on(&scene.proxy);
    obeys(&scene, "v2");
    obeys(&scene, "v1");
    assert_eq!(get("/health").call(scene.cluster.control.address()).status, 200);
    assert_eq!(get("/readyz").call(scene.cluster.control.address()).status, 200, "both were loaded once");
    scene.cluster.registry.restart();
    let late = Origin::echo("late");
    scene.cluster.registry.register("late", &[], late.address());
    eventually("control follows the registry again", || match get("/late/x").call(scene.proxy.http).status {
        200 => Ok(()),
        status => Err(status),
    });
    serves_on(&scene.proxy);
}

#[test]
fn losing_everything_but_the_proxy_changes_no_decision() {
    let mut scene = scene();
    scene.cluster.registry.kill();
    scene.cluster.control.kill();
    serves_on(&scene.proxy);
}

#[test]
fn a_registry_that_ends_in_order_comes_back_with_its_instances_at_once() {
    let mut scene = scene();
    scene.cluster.registry.terminate();
    scene.cluster.registry.restart();
    let list = get("/api/v1/instances").call(scene.cluster.registry.address()).expect(200).json();
    assert_eq!(list["instances"].as_array().unwrap().len(), 2, "{list}");
    serves_on(&scene.proxy);
}

#[test]
fn a_registry_that_lost_its_disk_empties_nothing() {
    let mut scene = scene();
    scene.cluster.registry.kill();
    fs::remove_dir_all(scene.cluster.registry.data_dir()).unwrap();
    scene.cluster.registry.restart();
    let list = get("/api/v1/instances").call(scene.cluster.registry.address()).expect(200).json();
    assert_eq!(list["instances"], json!([]), "it really lost everything");
    let fresh = Origin::echo("fresh");
    scene.cluster.registry.register("fresh", &[], fresh.address());
    eventually("control follows the new life", || match get("/fresh/x").call(scene.proxy.http).status {
        200 => Ok(()),
        status => Err(status),
    });
    serves_on(&scene.proxy);
}

#[test]
fn a_registry_file_that_is_damaged_is_set_aside_and_the_registry_starts() {
    let mut scene = scene();
    scene.cluster.registry.terminate();
    let dir = scene.cluster.registry.data_dir().to_owned();
    let files = || -> Vec<_> { fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path()).collect() };
    let snapshot = files()
        .into_iter()
        .filter(|path| !path.ends_with("lock"))
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    fs::write(snapshot.unwrap(), b"no snapshot at all").unwrap();
    scene.cluster.registry.restart();
    assert!(files().iter().any(|path| path.to_string_lossy().contains(".corrupt-")), "{:?}", files());
    serves_on(&scene.proxy);
}

/// The file of the last-good snapshot, once it holds the rule. It is put in place as a whole, so it is waited for.
fn last_good(dir: &Path) -> PathBuf {
    let path = dir.join("last-good.json");
    eventually("the last-good snapshot is on disk", || match fs::read_to_string(&path) {
        Ok(text) if text.contains("backends") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    path
}

#[test]
fn a_proxy_starts_without_control_from_its_last_good_snapshot() {
    let mut scene = scene();
    let dir = scene.proxy.data_dir().to_owned();
    scene.cluster.control.kill();
    let control = scene.cluster.control.address();
    last_good(&dir);
    let Scene { cluster, proxy, _origins } = scene;
    let mut process = proxy.process;
    process.kill();
    let reborn = Proxy::start(&dir, "gateway", "node-0", control, &[]);
    eventually("it is ready", || match get("/readyz").send(reborn.admin) {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    serves_on(&reborn);
    drop(cluster);
}

#[test]
fn a_damaged_last_good_snapshot_is_reported_and_ignored() {
    let mut scene = scene();
    let dir = scene.proxy.data_dir().to_owned();
    let last_good = last_good(&dir);
    scene.cluster.control.kill();
    scene.proxy.process.terminate();
    fs::write(last_good, b"damaged").unwrap();
    let reborn = Proxy::start(&dir, "gateway", "node-0", scene.cluster.control.address(), &[]);
    // Nothing is known: the honest answer is that, not a crash and not a guess.
    reborn.get("/s/x").expect_refusal(404, "unknown_service");
    assert_eq!(reborn.admin("/readyz").status, 503);
    assert_eq!(reborn.admin("/health").status, 200);
    scene.cluster.control.restart();
    eventually("control's answer heals it", || match get("/s/x").call(reborn.http).status {
        200 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn a_proxy_that_starts_before_control_serves_as_soon_as_control_is_there() {
    let mut scene = scene();
    scene.cluster.control.kill();
    let dir = scene.cluster.dir().join("early");
    let early = Proxy::start(&dir, "early", "early", scene.cluster.control.address(), &[]);
    assert_eq!(early.admin("/readyz").status, 503);
    early.get("/s/x").expect_refusal(404, "unknown_service");
    scene.cluster.control.restart();
    eventually("it serves", || match get("/s/x").call(early.http).status {
        200 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn control_killed_right_after_an_acknowledgement_still_has_the_rule() {
    let mut cluster = Cluster::start();
    for round in 0..5_u64 {
        let rule =
            json!({"id": format!("r{round}"), "destination": "s", "route": {"backends": [{"tags": ["v"]}]}});
        let _ = post("/v1/rules", &json!({"rules": [rule]})).call(cluster.control.address()).expect(201);
        cluster.control.kill();
        cluster.control.restart();
        let rules = get("/v1/rules").call(cluster.control.address()).expect(200).json();
        assert_eq!(rules["revision"], round + 1);
        assert_eq!(rules["rules"].as_array().unwrap().len() as u64, round + 1, "{rules}");
    }
}

#[test]
fn an_instance_that_dies_is_avoided_while_another_lives() {
    let scene = scene();
    let second = Origin::echo("v1");
    scene.cluster.registry.register("s", &["v1"], second.address());
    scene.proxy.await_instances(3);
    let Scene { cluster, proxy, _origins: [first, other] } = scene;
    drop(first);
    serves_on(&proxy);
    drop((cluster, other));
}
