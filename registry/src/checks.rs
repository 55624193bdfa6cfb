//! How the parts of the registry are asked whether they are well (spec/registry.md 0.5). Which parts there are is said where
//! they are put together; what a client is answered is [`crate::http`]'s.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

/// How a component is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// Whether it does what it is for.
    pub healthy: bool,
    /// Details, by name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
}

impl Health {
    /// It does what it is for.
    pub fn well() -> Self {
        Self { healthy: true, properties: Map::new() }
    }

    /// It does not: what, and why.
    pub fn unwell(message: &str, cause: &str) -> Self {
        Self { healthy: false, ..Self::well().with("message", message).with("cause", cause) }
    }

    /// The same with one more detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.insert(name.to_owned(), value.into());
        self
    }
}

type Check = Arc<dyn Fn() -> Health + Send + Sync>;

/// The checks by component.
#[derive(Default)]
pub struct Checks(RwLock<BTreeMap<String, Check>>);

impl Checks {
    /// Asks a component this way from now on. It may take its time, but ends.
    pub fn set(&self, component: &str, check: impl Fn() -> Health + Send + Sync + 'static) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(component.to_owned(), Arc::new(check));
    }

    /// Asks it no more.
    pub fn remove(&self, component: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(component);
    }

    /// Asks all at the same time. A check that panics is answered for.
    pub async fn run(&self) -> BTreeMap<String, Health> {
        let mut asked = JoinSet::new();
        for (component, check) in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let (component, check) = (component.clone(), Arc::clone(check));
            asked.spawn(async move {
                let health = tokio::task::spawn_blocking(move || check()).await;
                let health = health.unwrap_or_else(|lost| match lost.try_into_panic() {
                    Ok(panic) => Health::unwell("the check panicked", words(&*panic)),
                    Err(_) => Health::unwell("the check was cut off", "the registry is going down"),
                });
                (component, health)
            });
        }
        asked.join_all().await.into_iter().collect()
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(checks.keys()).finish()
    }
}

/// What a panic said, as far as it said it in words.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    async fn shown(checks: &Checks) -> Value {
        serde_json::to_value(checks.run().await).unwrap()
    }

    #[tokio::test]
    async fn section_9_11_u1_u2_what_is_set_replaced_and_removed_is_what_is_asked() {
        let checks = Checks::default();
        assert_eq!(shown(&checks).await, json!({}));
        checks.set("A", Health::well);
        checks.set("B", || Health::unwell("off", "nobody knows"));
        let unwell = json!({"healthy": false, "properties": {"message": "off", "cause": "nobody knows"}});
        assert_eq!(shown(&checks).await, json!({"A": {"healthy": true}, "B": unwell}));
        checks.set("B", Health::well);
        assert_eq!(shown(&checks).await, json!({"A": {"healthy": true}, "B": {"healthy": true}}));
        checks.remove("A");
        assert_eq!(shown(&checks).await, json!({"B": {"healthy": true}}));
    }

    #[tokio::test]
    async fn section_9_11_u3_all_are_asked_at_the_same_time() {
        // Each waits for a word of the other.
        let meets = |say: Sender<()>, hear: Receiver<()>| {
            let hear = Mutex::new(hear);
            move || {
                let _ = say.send(());
                let heard = hear.lock().unwrap().recv_timeout(Duration::from_secs(20));
                if heard.is_ok() { Health::well() } else { Health::unwell("alone", "it was asked later") }
            }
        };
        let ((to_left, of_left), (to_right, of_right)) = (channel(), channel());
        let checks = Checks::default();
        checks.set("LEFT", meets(to_right, of_left));
        checks.set("RIGHT", meets(to_left, of_right));
        assert_eq!(shown(&checks).await, json!({"LEFT": {"healthy": true}, "RIGHT": {"healthy": true}}));
    }

    #[tokio::test]
    async fn section_9_11_u4_a_check_that_panics_is_unhealthy_with_message_and_cause() {
        let checks = Checks::default();
        checks.set("WELL", Health::well);
        checks.set("WORDS", || panic!("on purpose"));
        checks.set("MORE", || panic!("number {}", 7));
        let of = |cause: &str| json!({"healthy": false, "properties": {"message": "the check panicked", "cause": cause}});
        let expected = json!({"WELL": {"healthy": true}, "WORDS": of("on purpose"), "MORE": of("number 7")});
        assert_eq!(shown(&checks).await, expected);
    }

    #[test]
    fn section_9_11_u6_details_are_properties_and_without_any_there_is_no_such_key() {
        for (health, text) in [
            (Health::well(), r#"{"healthy":true}"#),
            (Health::well().with("size", 3), r#"{"healthy":true,"properties":{"size":3}}"#),
            (Health::unwell("m", "c"), r#"{"healthy":false,"properties":{"cause":"c","message":"m"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&health).unwrap(), text);
        }
    }
}
