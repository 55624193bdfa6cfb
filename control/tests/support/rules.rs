//! What the tests of the rules API share: a control without instances, rules, and both envelopes.

use serde_json::{Value, json};

use super::{Answer, Control, Registry};

pub async fn control(flags: &[&str]) -> Control {
    Control::start(&Registry::start().await, flags).await
}

pub fn route(id: &str, destination: &str) -> Value {
    json!({"id": id, "destination": destination, "route": {"backends": [{"tags": ["version=v1"]}]}})
}

pub fn action(id: &str, destination: &str) -> Value {
    json!({"id": id, "destination": destination, "actions": [{"action": "delay", "duration": 7}]})
}

pub fn ids(rules: &Value) -> Vec<&str> {
    rules.as_array().unwrap().iter().map(|rule| rule["id"].as_str().unwrap()).collect()
}

pub fn framework(answer: &Answer) -> String {
    answer.json()["Error"].as_str().unwrap_or_default().to_owned()
}

pub fn application(answer: &Answer) -> (String, String) {
    let body = answer.json();
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (text("error"), text("description"))
}
