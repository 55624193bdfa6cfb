//! Reads a request's body and takes the rules out of it. It says what is no JSON of the right types; what is
//! no valid rule is the rule book's to say.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use control_api::RawRule;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error::Refusal;

/// The longest body that is read.
const BODY_MAX_BYTES: usize = 1 << 20;
/// How long it may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a body is read without asking for room; most writes are below, and never wait for others.
const BODY_FREE_BYTES: usize = 16 << 10;
/// How much room there is for what is longer, in all bodies together.
const BODIES_MAX_BYTES: usize = 32 << 20;
/// No valid rule is shorter, so more rules than fit into a body are not all valid, and need not be decoded:
/// three bytes would become hundreds.
const RULE_MIN_BYTES: usize = 50;
const RULES_MAX: usize = BODY_MAX_BYTES / RULE_MIN_BYTES;
/// How much of a body that is too long is thrown away before it is refused, so that a caller who sends
/// before it reads still gets the answer.
const DISCARD_MAX_BYTES: usize = 16 << 20;

/// Keys whose values are objects, and keys whose values are lists of objects. The decoder would take a
/// list for an object; the ancestor does not.
const OBJECTS: &[&str] = &[
    "match",
    "route",
    "uri",
    "resilience",
    "response",
    "redirect",
    "uniform",
    "normal",
    "exponential",
    "edge",
    "sticky",
    "retries",
    "rate_limit",
    "key",
    "mirror",
    "hash_on",
    "success_rate",
    "health_check",
];
const OBJECT_LISTS: &[&str] = &["rules", "all", "any", "none", "backends", "actions"];

/// The room for bodies that are being read or written.
#[derive(Debug)]
pub(super) struct Bodies(Semaphore);

impl Default for Bodies {
    fn default() -> Self {
        Self(Semaphore::new(BODIES_MAX_BYTES))
    }
}

/// A whole body, and the room that it takes.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

impl Bodies {
    /// The whole body. What is long takes room as it arrives; without room it is refused.
    pub(super) async fn read(&self, body: Body) -> Result<Received<'_>, Refusal> {
        timeout(BODY_TIMEOUT, self.read_slowly(body)).await.unwrap_or(Err(Refusal::BodyTooSlow))
    }

    async fn read_slowly(&self, mut body: Body) -> Result<Received<'_>, Refusal> {
        let mut bytes = BytesMut::new();
        let mut room: Option<SemaphorePermit<'_>> = None;
        while let Some(frame) = body.frame().await {
            // The caller broke off; nobody will read this.
            let frame = frame.map_err(|_| Refusal::InvalidJson)?;
            let Ok(data) = frame.into_data() else { continue };
            let length = bytes.len() + data.len();
            if length > BODY_MAX_BYTES {
                discard(body).await;
                return Err(Refusal::BodyTooLarge);
            }
            let taken = room.as_ref().map_or(0, SemaphorePermit::num_permits);
            let more = u32::try_from(length.saturating_sub(BODY_FREE_BYTES + taken))
                .expect("a body is no longer than BODY_MAX_BYTES");
            if more > 0 {
                let more = self.0.try_acquire_many(more).map_err(|_| Refusal::TooMuch("long bodies"))?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Received { bytes: bytes.freeze(), _room: room })
    }
}

async fn discard(mut body: Body) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > DISCARD_MAX_BYTES {
            return;
        }
    }
}

/// The rules of `{"rules":[..]}`.
pub(super) fn rules(body: &[u8]) -> Result<Vec<RawRule>, Refusal> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Refusal::InvalidJson)?;
    if !value.is_object() || !has_shape(&value) {
        return Err(Refusal::InvalidJson);
    }
    match value.get("rules") {
        None | Some(Value::Null) => Err(Refusal::NoRules),
        Some(Value::Array(rules)) if rules.is_empty() => Err(Refusal::NoRules),
        Some(Value::Array(rules)) if rules.len() > RULES_MAX => {
            Err(Refusal::InvalidRule(format!("some of {} rules are empty", rules.len())))
        }
        Some(Value::Array(rules)) => {
            // A rule of null is one without any field, as it is for the ancestor.
            let rule = |rule: &Value| serde_json::from_value::<Option<RawRule>>(rule.clone());
            let rules = rules.iter().map(|one| rule(one).map(Option::unwrap_or_default));
            rules.collect::<Result<_, _>>().map_err(|_| Refusal::InvalidJson)
        }
        Some(_) => Err(Refusal::InvalidJson),
    }
}

fn has_shape(object: &Value) -> bool {
    let object_or_null = |value: &Value| value.is_null() || (value.is_object() && has_shape(value));
    let fits = |(key, value): (&String, &Value)| {
        if OBJECTS.contains(&key.as_str()) {
            object_or_null(value)
        } else if OBJECT_LISTS.contains(&key.as_str()) {
            value.is_null() || value.as_array().is_some_and(|list| list.iter().all(object_or_null))
        } else if key == "path" || key == "source" {
            // Objects in a match; a text in a uri, and a boolean in a key.
            !value.is_array()
        } else {
            // Among them `headers`, whose keys are not ours; the decoder refuses a list for it.
            true
        }
    };
    object.as_object().is_none_or(|fields| fields.iter().all(fits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_of_the_right_types_is_refused() {
        for body in [
            "",
            " ",
            "{",
            "null",
            "7",
            "[]",
            "[[]]",
            r#"{"rules":{}}"#,
            r#"{"rules":"x"}"#,
            r#"{"rules":["x"]}"#,
            r#"{"rules":[["id"]]}"#,
            r#"{"rules":[{"priority":1.5}]}"#,
            r#"{"rules":[{"priority":"1"}]}"#,
            r#"{"rules":[{"tags":"a"}]}"#,
            r#"{"rules":[{"match":[]}]}"#,
            r#"{"rules":[{"match":{"source":["a"]}}]}"#,
            r#"{"rules":[{"match":{"source":true}}]}"#,
            r#"{"rules":[{"route":{"sticky":{"source":{"name":"a"}}}}]}"#,
            r#"{"rules":[{"match":{"headers":["a"]}}]}"#,
            r#"{"rules":[{"match":{"all":[[]]}}]}"#,
            r#"{"rules":[{"route":{"backends":[["v1"]]}}]}"#,
            r#"{"rules":[{"route":{"http_req_retries":0.5}}]}"#,
            r#"{"rules":[{"match":{"path":["/a"]}}]}"#,
            r#"{"rules":[{"route":{"redirect":[302]}}]}"#,
            r#"{"rules":[{"actions":[{"uniform":[1,2]}]}]}"#,
            r#"{"rules":[{"actions":{}}]}"#,
            r#"{"rules":[{"actions":[{"return_code":"500"}]}]}"#,
            r#"{"rules":[{}]} x"#,
        ] {
            assert_eq!(rules(body.as_bytes()), Err(Refusal::InvalidJson), "{body}");
        }
    }

    #[test]
    fn no_rules_are_told_from_wrong_ones() {
        for body in ["{}", r#"{"rules":null}"#, r#"{"rules":[]}"#, r#"{"other":[1]}"#] {
            assert_eq!(rules(body.as_bytes()), Err(Refusal::NoRules), "{body}");
        }
    }

    #[test]
    fn unknown_fields_and_nulls_are_dropped() {
        let body = r#"{"rules":[{"destination":"d","color":[1],"match":null,"tags":null,
            "route":{"backends":[{"tags":["v1"],"timeout":7}],"uri":null}}, null]}"#;
        let rules = rules(body.as_bytes()).unwrap();
        assert_eq!((rules[0].destination.as_str(), rules[0].matching.is_none()), ("d", true));
        assert_eq!(rules[1], RawRule::default());
    }

    #[test]
    fn whatever_the_page_about_rules_shows_is_read() {
        let page = include_str!("../../../docs/rules.md");
        for block in page.split("```json\n").skip(1) {
            let example = block.split("```").next().unwrap().trim();
            let list = if example.starts_with('[') { example.to_owned() } else { format!("[{example}]") };
            let body = format!(r#"{{"rules":{list}}}"#);
            assert!(rules(body.as_bytes()).is_ok(), "{example}");
        }
    }

    #[test]
    fn a_header_may_be_called_like_one_of_our_keys() {
        let body = r#"{"rules":[{"match":{"headers":{"source":"a","any":"b"}}}]}"#;
        assert!(rules(body.as_bytes()).is_ok());
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused_and_one_at_it_is_read() {
        let body = |length| Body::from(vec![b' '; length]);
        let bodies = Bodies::default();
        let read = async |length| bodies.read(body(length)).await.map(|received| received.bytes.len());
        assert_eq!(read(BODY_MAX_BYTES).await, Ok(BODY_MAX_BYTES));
        assert_eq!(read(BODY_MAX_BYTES + 1).await, Err(Refusal::BodyTooLarge));
    }

    #[tokio::test]
    async fn long_bodies_share_their_room_and_short_ones_need_none() {
        let body = |length| Body::from(vec![b' '; length]);
        let bodies = Bodies::default();
        let mut held = Vec::new();
        while let Ok(received) = bodies.read(body(BODY_MAX_BYTES)).await {
            held.push(received);
        }
        assert_eq!(held.len(), 32, "what is free is not counted, so the rest is too short for one more");
        let refused = bodies.read(body(BODY_MAX_BYTES)).await.map(|_| ());
        assert_eq!(refused, Err(Refusal::TooMuch("long bodies")));
        assert!(bodies.read(body(BODY_FREE_BYTES)).await.is_ok());
        held.pop();
        assert!(bodies.read(body(BODY_MAX_BYTES)).await.is_ok());
    }

    #[test]
    fn more_rules_than_can_be_valid_are_refused_undecoded() {
        let body = format!(r#"{{"rules":[{}{{}}]}}"#, "{},".repeat(RULES_MAX));
        assert!(matches!(rules(body.as_bytes()), Err(Refusal::InvalidRule(_))));
        let shortest = r#"{"destination":"d","actions":[{"action":"trace"}]}"#;
        assert!(shortest.len() >= RULE_MIN_BYTES);
    }
}
