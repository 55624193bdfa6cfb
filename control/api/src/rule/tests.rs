use super::*;
use serde_json::json;

fn parse(rule: serde_json::Value) -> Result<Rule, String> {
    let raw: RawRule = serde_json::from_value(rule).map_err(|error| format!("json: {error}"))?;
    Rule::try_from(raw).map_err(|error| format!("rule: {error}"))
}

fn with_match(matching: serde_json::Value) -> serde_json::Value {
    json!({"id": "r", "destination": "d", "match": matching, "route": {"backends": [{"tags": ["v1"]}]}})
}

fn with_route(route: serde_json::Value) -> serde_json::Value {
    json!({"id": "r", "destination": "d", "route": route})
}

fn with_action(action: serde_json::Value) -> serde_json::Value {
    json!({"id": "r", "destination": "d", "actions": [action]})
}

#[test]
fn what_2_3_refuses_is_refused() {
    let refused = [
        json!({"id": "r", "route": {"backends": [{"tags": ["v1"]}]}}),
        json!({"id": "r", "destination": "", "route": {"backends": [{"tags": ["v1"]}]}}),
        json!({"id": "r", "destination": "d"}),
        json!({"id": "r", "destination": "d", "actions": []}),
        json!({"id": "r", "destination": "d", "route": {"backends": [{"tags": ["a"]}]}, "actions": [{"action": "trace"}]}),
        with_match(json!({})),
        with_match(json!({"headers": {}})),
        with_match(json!({"source": {"tags": ["a"]}})),
        with_match(json!({"source": {"name": "s", "tags": ["a", "a"]}})),
        with_match(json!({"headers": {"X": "("}})),
        with_match(json!({"headers": {"X": "a)(b"}})),
        with_match(json!({"headers": {"not a name": "x"}})),
        with_match(json!({"any": [{}]})),
        with_route(json!({})),
        with_route(json!({"backends": []})),
        with_route(json!({"backends": [{"weight": 0.5}]})),
        with_route(json!({"backends": [{"tags": []}]})),
        with_route(json!({"backends": [{"tags": ["a", "a"]}]})),
        with_route(json!({"backends": [{"tags": ["a"], "weight": -0.1}]})),
        with_route(json!({"backends": [{"tags": ["a"], "weight": 1.1}]})),
        with_route(json!({"backends": [{"tags": ["a"], "weight": 0.6}, {"tags": ["b"], "weight": 0.6}]})),
        with_route(json!({"backends": [{"tags": ["a"], "lb_type": "fastest"}]})),
        with_route(json!({"backends": [{"tags": ["a"], "resilience": {"max_requests": -1}}]})),
        with_route(json!({"backends": [{"tags": ["a"], "resilience": {"sleep_window": -1}}]})),
        with_route(json!({"backends": [{"tags": ["a"]}], "http_req_timeout": -1})),
        with_route(json!({"backends": [{"tags": ["a"]}], "http_req_retries": -1})),
        with_route(json!({"backends": [{"tags": ["a"]}], "uri": {}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "uri": {"path": "/a", "prefix": "/b"}})),
        with_action(json!({"action": "explode"})),
        with_action(json!({"action": "delay"})),
        with_action(json!({"action": "delay", "duration": -1})),
        with_action(json!({"action": "delay", "duration": 1, "probability": 1.5})),
        with_action(json!({"action": "delay", "duration": 1, "return_code": 500})),
        with_action(json!({"action": "abort"})),
        with_action(json!({"action": "abort", "return_code": 99})),
        with_action(json!({"action": "abort", "return_code": 600})),
        with_action(json!({"action": "abort", "return_code": -6})),
        with_action(json!({"action": "abort", "return_code": 500, "duration": 1})),
        with_action(json!({"action": "abort", "return_code": 500, "log_key": "k"})),
        with_action(json!({"action": "trace", "probability": 0.5})),
        with_action(json!({"action": "trace", "tags": ["a", "a"]})),
    ];
    for rule in refused {
        let answer = parse(rule.clone());
        assert!(answer.as_ref().is_err_and(|error| error.starts_with("rule: ")), "{rule} -> {answer:?}");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_invalid_json_and_not_an_invalid_rule() {
    for rule in [
        json!({"id": "r", "destination": 5, "route": {"backends": [{"tags": ["v1"]}]}}),
        json!({"id": "r", "destination": "d", "priority": 1.5, "route": {"backends": [{"tags": ["v1"]}]}}),
        with_route(json!({"backends": [{"tags": ["a"]}], "http_req_retries": 1.5})),
        with_action(json!({"action": "abort", "return_code": 500.5})),
        with_match(json!({"headers": {"X": 1}})),
    ] {
        assert!(parse(rule.clone()).is_err_and(|error| error.starts_with("json: ")), "{rule}");
    }
}

#[test]
fn what_is_accepted_is_answered_as_it_was_written_without_zeroes() {
    for rule in [
        with_route(json!({"backends": [{"tags": ["version=v2"], "weight": 0.25}, {"tags": ["version=v1"]}]})),
        with_route(json!({"backends": [{"name": "other", "tags": ["a"], "lb_type": "random",
            "resilience": {"max_requests": 200, "sleep_window": 2.5}}],
            "uri": {"path": "", "prefix": "/api/", "prefix_rewrite": "/"},
            "http_req_timeout": 2.5, "http_req_retries": 3})),
        with_match(
            json!({"source": {"name": "s", "tags": ["b", "a"]}, "headers": {"Cookie": "^(.*?;)?(user=jason)(;.*)?$"}}),
        ),
        with_match(
            json!({"all": [{"headers": {"a": "1"}}], "any": [{"source": {"name": "x"}}], "none": [{"headers": {"b": "2"}}]}),
        ),
        with_action(json!({"action": "delay", "duration": 7, "probability": 1, "tags": ["version=v1"]})),
        with_action(json!({"action": "abort", "return_code": -1, "probability": 0.5})),
        with_action(json!({"action": "trace", "log_key": "k", "log_value": "v"})),
        json!({"id": "r", "priority": -3, "tags": ["t", "t"], "destination": "d", "route": {"backends": [{"tags": ["v1"]}]}}),
    ] {
        let parsed = parse(rule.clone()).unwrap();
        assert_eq!(serde_json::to_value(&parsed).unwrap(), rule);
    }
}

#[test]
fn zero_null_and_unknown_fields_count_as_absent() {
    let rule = parse(json!({"id": "r", "destination": "d", "priority": 0, "match": null, "colour": "red",
        "route": {"backends": [{"tags": ["a"], "weight": 0, "timeout": 3}], "http_req_timeout": 0, "http_req_retries": null},
        "actions": []}))
    .unwrap();
    assert!(rule.matching.is_everything());
    let route = rule.route().unwrap();
    assert_eq!((route.timeout, route.retries, route.backends[0].weight), (None, None, None));
    assert_eq!(parse(with_action(json!({"action": "trace"}))).unwrap().actions()[0].kind(), "trace");
}

#[test]
fn weights_are_exact_fractions() {
    for (weights, shares) in [
        (vec![json!(0.25), json!(null)], vec![0.25, 0.75]),
        (vec![json!(null), json!(null)], vec![0.5, 0.5]),
        (vec![json!(0.5), json!(0.25), json!(null), json!(null)], vec![0.5, 0.25, 0.125, 0.125]),
        (vec![json!(null)], vec![1.0]),
        (vec![json!(0.25), json!(0.25)], vec![0.5, 0.5]),
        (vec![json!(null); 3], vec![1.0 / 3.0; 3]),
    ] {
        let backends: Vec<_> =
            weights.iter().map(|weight| json!({"tags": ["t"], "weight": weight})).collect();
        let rule = parse(with_route(json!({"backends": backends}))).unwrap();
        assert_eq!(rule.route().unwrap().shares(), shares);
    }
}

#[test]
fn higher_priority_goes_first_and_the_smaller_id_between_equals() {
    let rule = |id: &str, priority: i64| {
        parse(json!({"id": id, "priority": priority, "destination": "d", "route": {"backends": [{"tags": ["v"]}]}})).unwrap()
    };
    let mut rules = [rule("b", 1), rule("a", 1), rule("z", 9), rule("c", -1)];
    rules.sort_by(Rule::precedence);
    assert_eq!(rules.map(|rule| rule.id.to_string()), ["z", "a", "b", "c"]);
}
