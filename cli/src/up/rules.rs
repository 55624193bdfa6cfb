//! The rules of the tour, which are those of bookinfo's acceptance script (spec/control-and-proxy.md 5.2).

use control_api::RawRule;
use serde_json::{Value, json};

/// The fraction of the split that goes to v1.
pub(super) const SPLIT: f64 = 0.25;
/// The fraction that is aborted, and with which status.
pub(super) const ABORTED: f64 = 0.5;
pub(super) const ABORT_STATUS: u16 = 503;

const JASON: &str = "^(.*?;)?(user=jason)(;.*)?$";

/// Everything to version v1.
pub(super) fn all_to_v1() -> Vec<RawRule> {
    ["details", "productpage", "ratings", "reviews"].map(|service| rule(to_v1(service))).to_vec()
}

/// Part of the reviews from v1, the rest from v3. Replaces the default route of reviews.
pub(super) fn split() -> Vec<RawRule> {
    vec![reviews(json!([{ "tags": ["version=v1"], "weight": SPLIT }, { "tags": ["version=v3"] }]))]
}

/// All reviews from v1 again. Replaces the split.
pub(super) fn no_split() -> Vec<RawRule> {
    vec![rule(to_v1("reviews"))]
}

/// All reviews from v3. Replaces the default route of reviews.
pub(super) fn all_to_v3() -> Vec<RawRule> {
    vec![reviews(json!([{ "tags": ["version=v3"] }]))]
}

/// Jason gets the reviews of v2.
pub(super) fn jason_to_v2() -> Vec<RawRule> {
    vec![rule(json!({
        "id": "bookinfo-jason-reviews-v2-route-rules",
        "priority": 2,
        "destination": "reviews",
        "match": { "headers": { "Cookie": JASON } },
        "route": { "backends": [{ "tags": ["version=v2"] }] },
    }))]
}

/// The id of [`delay_for_jason`].
pub(super) const DELAY: &str = "bookinfo-jason-7s-delay";

/// Ratings take seven seconds when reviews v2 asks for jason.
pub(super) fn delay_for_jason() -> Vec<RawRule> {
    vec![rule(json!({
        "id": DELAY,
        "priority": 10,
        "destination": "ratings",
        "match": {
            "source": { "name": "reviews", "tags": ["version=v2"] },
            "headers": { "Cookie": JASON },
        },
        "actions": [{ "action": "delay", "duration": 7, "probability": 1, "tags": ["version=v1"] }],
    }))]
}

/// Half of the requests for details fail.
pub(super) fn abort_details() -> Vec<RawRule> {
    let abort = json!({ "action": "abort", "return_code": ABORT_STATUS, "probability": ABORTED });
    vec![rule(
        json!({ "id": "bookinfo-abort-details", "priority": 10, "destination": "details", "actions": [abort] }),
    )]
}

fn to_v1(service: &str) -> Value {
    json!({
        "id": format!("bookinfo-default-route-{service}"),
        "priority": 1,
        "destination": service,
        "route": { "backends": [{ "tags": ["version=v1"] }] },
    })
}

fn reviews(backends: Value) -> RawRule {
    let id = "bookinfo-default-route-reviews";
    rule(json!({ "id": id, "priority": 1, "destination": "reviews", "route": { "backends": backends } }))
}

fn rule(value: Value) -> RawRule {
    serde_json::from_value(value).expect("the rules above have the fields and types of a rule")
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::Rule;

    #[test]
    fn every_rule_of_the_tour_is_one_that_control_takes() {
        let rules = [
            all_to_v1(),
            split(),
            no_split(),
            all_to_v3(),
            jason_to_v2(),
            delay_for_jason(),
            abort_details(),
        ];
        for rule in rules.concat() {
            let id = rule.id.clone();
            assert!(Rule::try_from(rule).is_ok(), "{id}");
        }
    }
}
