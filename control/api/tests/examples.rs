//! Every JSON example of docs/rules.md is a rule, or a list of rules, that the constructors accept and answer as
//! written. What the rules do is routing's matter.

#![allow(clippy::unwrap_used, reason = "a test stops where an example is wrong")]

use std::time::UNIX_EPOCH;

use control_api::{RawRule, Rule};
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/rules.md");

fn examples() -> impl Iterator<Item = &'static str> {
    PAGE.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap())
}

#[test]
fn every_example_is_accepted_and_answered_as_written() {
    let mut count = 0;
    for text in examples() {
        let example: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let rules = example.as_array().cloned().unwrap_or_else(|| vec![example]);
        for rule in rules {
            let mut raw: RawRule =
                serde_json::from_value(rule.clone()).unwrap_or_else(|error| panic!("{error}: {rule}"));
            assert_eq!(serde_json::to_value(&raw).unwrap(), rule);
            // As control does it when the rule is written.
            raw.begin(UNIX_EPOCH);
            let parsed = Rule::try_from(raw.clone()).unwrap_or_else(|error| panic!("{error}: {rule}"));
            assert_eq!(RawRule::from(parsed), raw);
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} examples were found");
}
