//! The Eureka API over real connections, every test named after the section of spec/registry.md it holds. The bodies in
//! `fixtures` have the shapes that the clients' documentation gives; what single readers accept is tested beside them.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "../support/mod.rs"]
mod support;

mod ancestors;
mod documents;
mod life;
mod mapping;
mod mounts;
mod peers;
mod queries;
mod registrations;
mod self_preservation;
mod sessions;

use serde_json::{Value, json};
use support::{Reply, Running};

const JAVA_JSON: &str = include_str!("../fixtures/java_register.json");
const JAVA_XML: &str = include_str!("../fixtures/java_register.xml");
const JS: &str = include_str!("../fixtures/js_register.json");
const AMAZON: &str = include_str!("../fixtures/amazon_register.json");

/// The mount of the ancestor, with an empty token.
const A8: &str = "/api/eureka//v2";
const JSON: &str = "Content-Type: application/json";
const XML: &str = "Content-Type: application/xml";
const WANT_JSON: &str = "Accept: application/json";
const WANT_XML: &str = "Accept: application/xml";
const PEER: &str = "x-netflix-discovery-replication: true";

fn instance(app: &str, id: &str, more: Value) -> String {
    let mut instance = json!({"app": app, "instanceId": id, "hostName": format!("{id}.example"), "ipAddr": "10.0.0.1",
        "vipAddress": app, "port": {"$": 80, "@enabled": "true"}});
    instance.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "instance": instance }).to_string()
}

async fn register(running: &Running, app: &str, id: &str, more: Value) -> Reply {
    running.json("POST", &format!("/eureka/apps/{app}"), &instance(app, id, more)).await
}

async fn ask(running: &Running, path: &str) -> Value {
    let reply = running.send("GET", path, &[WANT_JSON], "").await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    assert!(reply.header("content-type").starts_with("application/json"), "{reply:?}");
    reply.value()
}

async fn status_of(running: &Running, method: &str, path: &str) -> u16 {
    running.send(method, path, &[], "").await.status
}

async fn one(running: &Running, app: &str, id: &str) -> Value {
    ask(running, &format!("/eureka/apps/{app}/{id}")).await["instance"].clone()
}

fn ids(applications: &Value) -> Vec<(String, String)> {
    let of = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let apps = applications["applications"]["application"].as_array().unwrap();
    let instances = apps.iter().flat_map(|app| app["instance"].as_array().unwrap());
    instances.map(|instance| (of(instance, "instanceId"), of(instance, "actionType"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(id, action)| ((*id).to_owned(), (*action).to_owned())).collect()
}
