use std::time::Duration;

use super::*;
use crate::health::Probe;
use serde_json::json;

fn parse(rule: serde_json::Value) -> Result<Rule, String> {
    let raw: RawRule = serde_json::from_value(rule).map_err(|error| format!("json: {error}"))?;
    Rule::try_from(raw).map_err(|error| format!("rule: {error}"))
}

fn with_match(matching: serde_json::Value) -> serde_json::Value {
    json!({"id": "r", "destination": "d", "match": matching, "route": {"backends": [{"tags": ["v1"]}]}})
}

fn with_check(check: serde_json::Value) -> serde_json::Value {
    json!({"id": "r", "destination": "d", "health_check": check})
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
        with_check(json!({})),
        with_check(json!({"type": "ping"})),
        with_check(json!({"type": "http", "path": "x"})),
        with_check(json!({"type": "http", "path": "/a b"})),
        with_check(json!({"type": "http", "path": "/a\r\nX: y"})),
        with_check(json!({"type": "http", "path": "/", "service": "s"})),
        with_check(json!({"type": "http", "service": "s"})),
        with_check(json!({"type": "tcp", "path": "/"})),
        with_check(json!({"type": "grpc", "path": "/"})),
        with_check(json!({"type": "grpc", "service": "a b"})),
        with_check(json!({"type": "tcp", "interval_s": 0.01})),
        with_check(json!({"type": "tcp", "interval_s": 3601})),
        with_check(json!({"type": "tcp", "timeout_s": -1})),
        with_check(json!({"type": "tcp", "timeout_s": 61})),
        with_check(json!({"type": "tcp", "unhealthy_threshold": 101})),
        with_check(json!({"type": "tcp", "healthy_threshold": -1})),
        with_check(json!({"type": "tcp", "port": 65_536})),
        json!({"id": "r", "destination": "d", "health_check": {"type": "tcp"}, "actions": [{"action": "trace"}]}),
        json!({"id": "r", "destination": "d", "health_check": {"type": "tcp"}, "route": {"backends": [{"tags": ["a"]}]}}),
        json!({"id": "r", "destination": "d", "health_check": {"type": "tcp"}, "match": {"method": "GET"}}),
        json!({"id": "r", "destination": "d", "health_check": {"type": "tcp"}, "match": {"any": [{"source": {"name": "s"}}]}}),
        json!({"id": "r", "destination": "d", "route": {"backends": [{"tags": ["a"]}]}, "actions": [{"action": "trace"}]}),
        with_match(json!({})),
        with_match(json!({"headers": {}})),
        with_match(json!({"source": {"tags": ["a"]}})),
        with_match(json!({"source": {"name": "s", "tags": ["a", "a"]}})),
        with_match(json!({"headers": {"X": "("}})),
        with_match(json!({"headers": {"X": "a)(b"}})),
        with_match(json!({"headers": {"not a name": "x"}})),
        with_match(json!({"any": [{}]})),
        with_match(json!({"method": []})),
        with_match(json!({"method": ""})),
        with_match(json!({"method": "GET POST"})),
        with_match(json!({"method": ["GET", "GET"]})),
        with_match(json!({"path": {}})),
        with_match(json!({"path": {"exact": "/a", "prefix": "/b"}})),
        with_match(json!({"path": {"prefix": "a"}})),
        with_match(json!({"path": {"regex": "("}})),
        with_match(json!({"query": {"": "1"}})),
        with_match(json!({"query": {"a=b": "1"}})),
        with_match(json!({"query": {"a": "("}})),
        with_match(json!({"authority": "("})),
        with_match(json!({"all": [{"method": "("}]})),
        with_match(json!({"source": {"name": "s", "tags": ["version=^1.x.y"]}})),
        with_route(json!({"backends": [{"tags": ["version=>=1 <"]}]})),
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
        with_route(json!({"backends": [{"tags": ["a"], "resilience": {"max_ejection_percent": -1}}]})),
        with_route(json!({"backends": [{"tags": ["a"], "resilience": {"max_ejection_percent": 101}}]})),
        with_route(json!({"backends": [{"tags": ["a"], "resilience": {"panic_threshold_percent": 101}}]})),
        with_route(json!({"backends": [{"tags": ["a"], "resilience": {"success_rate": {"factor": -1}}}]})),
        with_route(
            json!({"backends": [{"tags": ["a"], "resilience": {"success_rate": {"minimum_instances": -1}}}]}),
        ),
        with_route(
            json!({"backends": [{"tags": ["a"], "resilience": {"success_rate": {"minimum_requests": -1}}}]}),
        ),
        with_route(json!({"backends": [{"tags": ["a"]}], "http_req_timeout": -1})),
        with_route(json!({"backends": [{"tags": ["a"]}], "http_req_retries": -1})),
        with_route(json!({"backends": [{"tags": ["a"]}], "uri": {}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "uri": {"path": "/a", "prefix": "/b"}})),
        with_route(json!({"response": {"status": 199}})),
        with_route(json!({"response": {"status": 600}})),
        with_route(json!({"response": {}})),
        with_route(json!({"response": {"status": 204, "body": "x"}})),
        with_route(json!({"response": {"status": 200, "body": "x".repeat(65_537)}})),
        with_route(json!({"response": {"status": 200, "headers": {"Content-Length": "7"}}})),
        with_route(json!({"response": {"status": 200, "headers": {"X": "a\r\nY: b"}}})),
        with_route(json!({"response": {"status": 200}, "redirect": {"path": "/"}})),
        with_route(json!({"response": {"status": 200}, "backends": [{"tags": ["a"]}]})),
        with_route(json!({"response": {"status": 200}, "http_req_retries": 1})),
        with_route(json!({"response": {"status": 200}, "headers": {"request": {"remove": ["X"]}}})),
        with_route(json!({"redirect": {}})),
        with_route(json!({"redirect": {"status": 304, "path": "/a"}})),
        with_route(json!({"redirect": {"scheme": "ftp"}})),
        with_route(json!({"redirect": {"host": "a@b"}})),
        with_route(json!({"redirect": {"host": "a b"}})),
        with_route(json!({"redirect": {"host": "a/b"}})),
        with_route(json!({"redirect": {"path": "//evil.example"}})),
        with_route(json!({"redirect": {"path": "a"}})),
        with_route(json!({"redirect": {"path": "/a b"}})),
        with_route(json!({"redirect": {"path": "/a", "prefix_rewrite": "/b"}})),
        with_route(json!({"redirect": {"prefix_rewrite": "/b?c"}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "headers": {}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "headers": {"request": {}}})),
        with_route(
            json!({"backends": [{"tags": ["a"]}], "headers": {"request": {"set": {"Transfer-Encoding": "x"}}}}),
        ),
        with_route(json!({"backends": [{"tags": ["a"]}], "headers": {"request": {"set": {"host": "x"}}}})),
        with_route(
            json!({"backends": [{"tags": ["a"]}], "headers": {"response": {"remove": ["Connection"]}}}),
        ),
        with_route(json!({"backends": [{"tags": ["a"]}], "headers": {"response": {"remove": ["X", "x"]}}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "headers": {"response": {"add": {"X": " a"}}}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "headers": {"response": {"add": {"X": "a\u{0}"}}}})),
        with_route(
            json!({"backends": [{"tags": ["a"]}], "headers": {"response": {"add": {"no name": "a"}}}}),
        ),
        with_route(json!({"backends": [{"tags": ["a"]}], "sticky": {}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "sticky": {"header": "X", "cookie": "c"}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "sticky": {"header": "no name"}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "sticky": {"cookie": "a;b"}})),
        with_route(json!({"response": {"status": 200}, "sticky": {"source": true}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"count": -1}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"count": 100}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"count": 2}, "http_req_retries": 2})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"on": ["sometimes"]}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"on": ["200"]}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"on": ["5xx", "5xx"]}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"methods": ["G ET"]}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"per_try_timeout": -1}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"budget_percent": 101}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "retries": {"backoff_ms": 60_001}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "rate_limit": {}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "rate_limit": {"requests_per_s": -1}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "rate_limit": {"requests_per_s": 1, "burst": -1}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "rate_limit": {"requests_per_s": 1, "key": {}}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "mirror": {}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "mirror": {"service": "s", "percent": 101}})),
        with_route(json!({"backends": [{"tags": ["a"]}], "mirror": {"tags": ["a", "a"]}})),
        with_route(json!({"backends": [{"tags": ["a"], "lb_type": "ring_hash"}]})),
        with_route(json!({"backends": [{"tags": ["a"], "hash_on": {"source": true}}]})),
        with_route(
            json!({"backends": [{"tags": ["a"], "lb_type": "ring_hash", "hash_on": {"source": true}, "slow_start": 1}]}),
        ),
        with_route(json!({"backends": [{"tags": ["a"], "slow_start": -1}]})),
        with_route(json!({"edge": {}})),
        with_route(json!({"edge": {"host": "shop.example:80"}})),
        with_route(json!({"edge": {"host": "shop..example"}})),
        with_route(json!({"edge": {"host": "*"}})),
        with_route(json!({"edge": {"host": "a*.example"}})),
        with_route(json!({"edge": {"path_prefix": "shop"}})),
        with_route(json!({"edge": {"host": "h"}, "uri": {"prefix": "/a"}, "backends": [{"tags": ["a"]}]})),
        with_route(json!({"edge": {"host": "h"}, "http_req_timeout": 1})),
        with_route(json!({"edge": {"host": "h"}, "rate_limit": {"requests_per_s": 1}})),
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
        with_action(json!({"action": "delay", "duration": 1, "uniform": {"max": 2}})),
        with_action(json!({"action": "delay", "uniform": {"min": 3, "max": 2}})),
        with_action(json!({"action": "delay", "uniform": {}})),
        with_action(json!({"action": "delay", "normal": {"stddev": 1}})),
        with_action(json!({"action": "delay", "normal": {"mean": 1, "stddev": -1}})),
        with_action(json!({"action": "delay", "exponential": {}})),
        with_action(json!({"action": "delay", "duration": 1, "first": -1})),
        with_action(json!({"action": "delay", "duration": 1, "max_concurrent": -1})),
        with_action(json!({"action": "delay", "duration": 1, "expires_at": "tomorrow"})),
        with_action(json!({"action": "delay", "duration": 1, "expires_at": "2026-01-31T12:00:00+01:00"})),
        with_action(json!({"action": "delay", "duration": 1, "duration_s": 60})),
        with_action(json!({"action": "abort", "reset": true, "return_code": 500})),
        with_action(json!({"action": "abort", "grpc_status": 17})),
        with_action(json!({"action": "abort", "grpc_status": -1})),
        with_action(json!({"action": "abort", "return_code": 500, "bytes_per_s": 1})),
        with_action(json!({"action": "bandwidth"})),
        with_action(json!({"action": "bandwidth", "bytes_per_s": -1})),
        with_action(json!({"action": "bandwidth", "bytes_per_s": 1, "after_bytes": 1})),
        with_action(json!({"action": "truncate"})),
        with_action(json!({"action": "truncate", "after_bytes": -1})),
        with_action(json!({"action": "trace", "first": 1})),
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
        with_match(json!({"method": 1})),
        with_match(json!({"path": "/a"})),
        with_match(json!({"query": ["a"]})),
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
        with_route(json!({"backends": [{"tags": ["a"]}, {"tags": ["b"]}], "sticky": {"cookie": "session"},
            "retries": {"count": 0, "on": ["gateway-error", "reset", "429"], "methods": ["GET"], "per_try_timeout": 0.5, "budget_percent": 12.5, "backoff_ms": 10},
            "rate_limit": {"requests_per_s": 0.5, "burst": 3, "key": {"header": "X-User"}}, "mirror": {"service": "shadow", "percent": 1}})),
        with_route(
            json!({"backends": [{"tags": ["a"], "lb_type": "p2c_ewma", "slow_start": 30}], "rate_limit": {"requests_per_s": 10}, "mirror": {"tags": ["b"]}}),
        ),
        with_route(
            json!({"backends": [{"tags": ["a"], "lb_type": "ring_hash", "hash_on": {"source": true}}]}),
        ),
        with_route(json!({"edge": {"host": "*.shop.example"}})),
        with_route(
            json!({"edge": {"path_prefix": "/shop", "prefix_rewrite": "/"}, "backends": [{"tags": ["a"]}]}),
        ),
        with_route(json!({"edge": {"host": "h", "path_prefix": "/"}, "response": {"status": 404}})),
        with_match(json!({"method": "GET"})),
        with_match(
            json!({"method": ["GET"], "path": {"prefix": "/a"}, "query": {"a": "1|2"}, "authority": "shop[.]example"}),
        ),
        with_match(
            json!({"any": [{"path": {"exact": "/a"}}, {"path": {"regex": "/a/[0-9]+"}}], "none": [{"method": ["PUT", "POST"]}]}),
        ),
        with_route(json!({"backends": [{"tags": ["version=^1.4", "zone=a"]}]})),
        with_action(json!({"action": "delay", "duration": 7, "probability": 1, "tags": ["version=v1"]})),
        with_action(json!({"action": "abort", "return_code": -1, "probability": 0.5})),
        with_action(json!({"action": "delay", "uniform": {"min": 0.5, "max": 2}, "probability": 0.5})),
        with_action(
            json!({"action": "delay", "normal": {"mean": 1, "stddev": 0.25}, "probability": 1, "first": 5}),
        ),
        with_action(
            json!({"action": "delay", "exponential": {"mean": 1}, "probability": 1, "max_concurrent": 2}),
        ),
        with_action(json!({"action": "abort", "reset": true, "probability": 1, "tags": ["v1"]})),
        with_action(
            json!({"action": "abort", "grpc_status": 14, "probability": 1, "duration_s": 60, "expires_at": "2026-01-31T12:00:00Z"}),
        ),
        with_action(json!({"action": "bandwidth", "bytes_per_s": 1024, "probability": 0.1})),
        with_action(json!({"action": "truncate", "after_bytes": 0, "probability": 1})),
        with_action(json!({"action": "trace", "log_key": "k", "log_value": "v"})),
        json!({"id": "r", "priority": -3, "tags": ["t", "t"], "destination": "d", "route": {"backends": [{"tags": ["v1"]}]}}),
    ] {
        let parsed = parse(rule.clone()).unwrap();
        assert_eq!(serde_json::to_value(&parsed).unwrap(), rule);
    }
}

#[test]
fn a_refusal_names_the_field_with_the_words_of_the_wire() {
    for (rule, field) in [
        (with_match(json!({"method": ["GET", "GET"]})), "match.method: holds a duplicate"),
        (with_match(json!({"any": [{"path": {"prefix": "a"}}]})), "match.path: does not begin with a slash"),
        (with_match(json!({"query": {"a": "("}})), "match.query: `(` does not compile"),
        (with_match(json!({"authority": "("})), "match.authority: `(` does not compile"),
        (
            with_route(json!({"backends": [{"tags": ["v=^1.x.y"]}]})),
            "route.backends.tags: `v=^1.x.y` is no range",
        ),
    ] {
        let answer = parse(rule.clone()).unwrap_err();
        assert!(answer.starts_with(&format!("rule: {field}")), "{rule} -> {answer}");
    }
}

#[test]
fn a_fault_that_lasts_ends_so_long_after_it_was_written_and_stays_so() {
    let rule = with_action(json!({"action": "delay", "duration": 1, "duration_s": 90.5}));
    let mut raw: RawRule = serde_json::from_value(rule).unwrap();
    let at = |seconds| std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    raw.begin(at(1_000));
    raw.begin(at(2_000));
    assert_eq!(raw.actions[0].expires_at, "1970-01-01T00:18:11Z");
    let rule = Rule::try_from(raw).unwrap();
    let limits = &rule.actions()[0].chance().unwrap().limits;
    assert!(!limits.is_over(|| 1_090) && limits.is_over(|| 1_091));
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

#[test]
fn a_health_check_is_what_it_says_and_otherwise_what_is_usual() {
    let plain = parse(with_check(json!({"type": "http"}))).unwrap();
    let check = plain.health_check().unwrap();
    assert_eq!(check.probe, Probe::Http("/".to_owned()));
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(10), Duration::from_secs(2)));
    assert_eq!((check.unhealthy_threshold, check.healthy_threshold, check.port), (3, 2, None));
    assert!(plain.route().is_none() && plain.actions().is_empty());
    let written = json!({"id": "r", "destination": "d", "match": {"source": {"name": "gateway"}},
        "health_check": {"type": "grpc", "service": "pkg.Service", "interval_s": 0.5, "timeout_s": 0.25,
            "unhealthy_threshold": 1, "healthy_threshold": 1, "port": 9000}});
    let full = parse(written.clone()).unwrap();
    assert_eq!(full.health_check().unwrap().probe, Probe::Grpc("pkg.Service".to_owned()));
    assert_eq!(full.health_check().unwrap().port, Some(9000));
    assert_eq!(serde_json::to_value(&full).unwrap(), written);
}
