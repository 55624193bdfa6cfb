//! Requests of the tour: many at a time through the gateway, each with its own request id, each answer kept.
//! The ids are the same on every run, and so is what splits and faults make of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use registry_api::client::Caller;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many requests are under way at the same time.
const WORKERS: usize = 16;
/// Longer than anything the tour does to a request.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Jason,
    Shriram,
}

impl Who {
    fn cookie(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Jason => "foo=bar;user=jason;ding=dong;x",
            Self::Shriram => "foo=bar;user=shriram;x",
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Jason => "jason",
            Self::Shriram => "shriram",
        }
    }
}

/// One answer. Status 0 means that there was none.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) took: Duration,
}

/// Sends `count` requests and waits for every answer.
pub(super) async fn ask(
    gateway: &Arc<Caller>,
    path: &'static str,
    who: Who,
    step: &'static str,
    count: usize,
) -> Vec<Seen> {
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS.min(count) {
        let gateway = Arc::clone(gateway);
        workers.spawn(async move {
            let mut seen = Vec::new();
            for at in (worker..count).step_by(WORKERS) {
                seen.push(one(&gateway, path, who, &format!("tour-{step}-{}-{at}", who.name())).await);
            }
            seen
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

async fn one(gateway: &Caller, path: &str, who: Who, request_id: &str) -> Seen {
    let mut fields = HeaderMap::new();
    fields.insert(COOKIE, who.cookie());
    if let Ok(id) = HeaderValue::from_str(request_id) {
        fields.insert(HeaderName::from_static("x-request-id"), id);
    }
    let begun = Instant::now();
    let answer = gateway.call_with(Method::GET, path, &fields, None, ANSWER_LIMIT).await;
    let took = begun.elapsed();
    match answer {
        Ok(answer) => Seen { status: answer.status.as_u16(), body: answer.json().unwrap_or_default(), took },
        Err(error) => Seen { status: 0, body: Value::String(error.to_string()), took },
    }
}

/// Counts answers by a word for each.
pub(super) fn tally(seen: &[Seen], word: impl Fn(&Seen) -> String) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in seen {
        *counts.entry(word(answer)).or_insert(0) += 1;
    }
    counts
}

/// Which reviews a page shows.
pub(super) fn page(seen: &Seen) -> String {
    if seen.status != 200 {
        return status(seen);
    }
    if seen.body.get("details").is_none() {
        return "without details".to_owned();
    }
    seen.body.get("reviews").map_or("without reviews".to_owned(), reviews)
}

/// Which version of reviews answered.
pub(super) fn review(seen: &Seen) -> String {
    if seen.status == 200 { reviews(&seen.body) } else { status(seen) }
}

/// The status, or that there was no answer.
pub(super) fn status(seen: &Seen) -> String {
    if seen.status == 0 { "no answer".to_owned() } else { format!("status {}", seen.status) }
}

fn reviews(body: &Value) -> String {
    let version = body["version"].as_str().unwrap_or("unknown");
    let rating = &body["reviews"][0]["rating"];
    match (rating["color"].as_str(), rating.get("error")) {
        (Some(color), _) => format!("{version} {color}"),
        (None, Some(_)) => format!("{version} without stars"),
        (None, None) => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_page_has_its_word() {
        let rated = |rating| json!({ "version": "v2", "reviews": [{ "rating": rating }] });
        for (status, body, word) in [
            (200, json!({ "details": {}, "reviews": { "version": "v1", "reviews": [{}] } }), "v1"),
            (200, json!({ "details": {}, "reviews": rated(json!({ "color": "black" })) }), "v2 black"),
            (200, json!({ "details": {}, "reviews": rated(json!({ "error": "x" })) }), "v2 without stars"),
            (200, json!({ "details": {} }), "without reviews"),
            (200, json!({}), "without details"),
            (503, json!({}), "status 503"),
            (0, json!("refused"), "no answer"),
        ] {
            assert_eq!(page(&Seen { status, body, took: Duration::ZERO }), word);
        }
    }
}
