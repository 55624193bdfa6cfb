//! What outlives control: acknowledged writes, the revision; and what a start refuses: a directory in use,
//! a damaged file, a port in use.
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Control, Http, Registry, config, data_dir};

fn redb(data_dir: &Path) -> control::Config {
    // Rules need no registry; nobody answers there.
    let data_dir = format!("--data_dir={}", data_dir.display());
    config(&["--database_type=redb", "--auth_mode=trusted", "--registry_url=http://127.0.0.1:9", &data_dir])
}

fn rule(id: &str, priority: i64) -> Value {
    json!({"id": id, "priority": priority, "destination": "d", "actions": [{"action": "abort", "return_code": 503}]})
}

/// Runs a control for as long as `work` takes, then lets everything fall at once, like a killed process.
fn until_dropped<T>(data_dir: &Path, work: impl AsyncFnOnce(Http) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = runtime.block_on(async {
        let control = Control::start_with(redb(data_dir)).await.unwrap();
        work(control.http.clone()).await
    });
    drop(runtime);
    done
}

#[test]
fn an_acknowledged_write_outlives_a_control_that_falls() {
    let (_directory, data_dir) = data_dir();
    let mut expected = json!([]);
    for life in 0..4_i64 {
        let found = until_dropped(&data_dir, async |http| {
            let blue = http.with_token("blue");
            let found = blue.get("/v1/rules").await.json();
            blue.post_rules(json!([rule("same", life), rule(&format!("r{life}"), life)])).await;
            blue.delete("/v1/rules?id=r0").await.is(200);
            http.with_token("green").delete("/v1/rules").await.is(200);
            (found, blue.get("/v1/rules").await.json()["rules"].clone())
        });
        let (found, left) = found;
        assert_eq!(found, json!({"rules": expected, "revision": life * 2}));
        expected = left;
    }
    let green = until_dropped(&data_dir, async |http| http.with_token("green").get("/v1/rules").await.json());
    assert_eq!(green, json!({"rules": [], "revision": 4}), "a revision outlives its rules");
}

#[test]
fn a_file_that_is_damaged_stops_the_start_and_stays_as_it_is() {
    let (_directory, data_dir) = data_dir();
    until_dropped(&data_dir, async |http| {
        http.with_token("blue").post_rules(json!([rule("x", 1)])).await;
    });
    let file = data_dir.join("rules.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    std::fs::write(&file, &bytes).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(async { Control::start_with(redb(&data_dir)).await.err().unwrap() });
    assert_eq!(refused.setting, "data_dir");
    assert!(refused.problem.contains("rules.redb"), "{refused}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_process() {
    let (_directory, data_dir) = data_dir();
    let _first = Control::start_with(redb(&data_dir)).await.unwrap();
    let refused = Control::start_with(redb(&data_dir)).await.err().unwrap();
    assert_eq!(refused.setting, "data_dir");
    assert!(refused.problem.ends_with("is in use by another process"), "{refused}");
}

#[tokio::test]
async fn a_data_directory_is_ours_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, data_dir) = data_dir();
    let _control = Control::start_with(redb(&data_dir)).await.unwrap();
    assert_eq!(std::fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_and_a_port_in_use_are_named() {
    let (directory, _) = data_dir();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = Control::start_with(redb(&file.join("below"))).await.err().unwrap();
    assert_eq!(refused.setting, "data_dir");

    let registry = Registry::start().await;
    let port = registry.address.port();
    let refused = Control::start_with(config(&[&format!("--api_port={port}")])).await.err().unwrap();
    assert_eq!(refused.to_string(), format!("api_port: cannot listen on 127.0.0.1:{port}: address in use"));
}

#[tokio::test]
async fn an_orderly_end_frees_the_directory_at_once() {
    let (_directory, data_dir) = data_dir();
    for life in 0..3_u64 {
        let mut control = Control::start_with(redb(&data_dir)).await.unwrap();
        let blue = control.http.with_token("blue");
        assert_eq!(blue.get("/v1/rules").await.json()["revision"], json!(life));
        blue.post_rules(json!([rule("x", 1)])).await;
        control.announce_end();
        control.ended().await;
    }
}
