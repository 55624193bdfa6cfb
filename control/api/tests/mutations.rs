//! Examples of docs/rules.md with one place changed into something odd: whatever comes in is accepted or refused, and
//! what is accepted means the same when it is written and read again. What is refused is not this test's matter.

#![allow(clippy::unwrap_used, reason = "a test stops where its world is wrong")]

use std::time::UNIX_EPOCH;

use control_api::{RawRule, Rule};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/rules.md");

fn examples() -> Vec<Value> {
    let texts = PAGE.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let values = texts.map(|text| serde_json::from_str::<Value>(text).unwrap());
    values.flat_map(|value| value.as_array().cloned().unwrap_or_else(|| vec![value])).collect()
}

/// The paths of all places within a value, its own first.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{at}/{key}"), found);
            });
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(place, value)| places(value, &format!("{at}/{place}"), found));
        }
        _ => {}
    }
}

fn odd() -> impl Strategy<Value = Value> {
    let odd = select(vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(""),
        json!("/"),
        json!("*"),
        json!("a\r\nb: c"),
        json!("\u{0}"),
        json!("höst"),
        json!("(a|b"),
        json!("version=^999999999999999999999.1"),
        json!("+999999-12-31T23:59:60Z"),
        json!([]),
        json!([null]),
        json!({}),
        json!({"": ""}),
    ]);
    prop_oneof![3 => odd, 1 => any::<i64>().prop_map(|number| json!(number)), 1 => any::<String>().prop_map(|text| json!(text))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_changed_rule_is_refused_or_means_the_same_when_read_again(
        example: Index, place: Index, other: Index, odd in odd(), graft: bool,
    ) {
        let examples = examples();
        let mut rule = example.get(examples.as_slice()).clone();
        let mut found = Vec::new();
        places(&rule, "", &mut found);
        // Either something odd, or a piece of another rule.
        let piece = if graft {
            let donor = other.get(examples.as_slice());
            let mut pieces = Vec::new();
            places(donor, "", &mut pieces);
            donor.pointer(&pieces[other.index(pieces.len())]).unwrap().clone()
        } else {
            odd
        };
        *rule.pointer_mut(&found[place.index(found.len())]).unwrap() = piece;
        let Ok(mut raw) = serde_json::from_value::<RawRule>(rule) else { return Ok(()) };
        raw.begin(UNIX_EPOCH);
        let Ok(parsed) = Rule::try_from(raw) else { return Ok(()) };
        let text = serde_json::to_string(&parsed).unwrap();
        let again: Rule = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&again, &parsed);
        prop_assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
}
