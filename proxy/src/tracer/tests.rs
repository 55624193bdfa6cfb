//! Who is recorded, where it stands in its trace, and what becomes of too much.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::trace::Caller;

fn tracer(name: &str) -> (Arc<Tracer>, Receiver<Finished>, IntCounter) {
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let (tracer, finished) = Tracer::new(Sampler::new(name, "").unwrap(), dropped.clone());
    (tracer, finished, dropped)
}

fn finished(id: u64) -> Finished {
    Finished {
        span: Span { trace: 0xabc, id, parent: Some(7) },
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
        duration: Duration::from_millis(250),
        method: "GET".to_owned(),
        path: "/reviews/1".to_owned(),
        scheme: "http",
        authority: "shop.example:8080".to_owned(),
        protocol: "1.1".to_owned(),
        user_agent: String::new(),
        status: 503,
        service: "reviews".to_owned(),
        backend: "reviews:version=v1".to_owned(),
        rule: "split".to_owned(),
        fault: "delay,abort".to_owned(),
        fault_rule: "game-day".to_owned(),
        retries: 2,
        upstream: Some("10.0.0.1:80".parse().unwrap()),
        request_id: "id".to_owned(),
        flags: "-".to_owned(),
    }
}

#[test]
fn a_recorded_request_stands_between_its_caller_and_the_instance() {
    let (tracer, ..) = tracer("parentbased_always_on");
    let caller = Caller { trace: 5, span: 6, sampled: Some(true) };
    let (onward, span) = tracer.join(Carried::Parent(caller), [1, 2, 3]);
    assert_eq!(span, Some(Span { trace: 5, id: 3, parent: Some(6) }));
    let parent = b"00-00000000000000000000000000000005-0000000000000003-01";
    assert_eq!((onward.parent.as_ref(), onward.keeps_state), (Some(parent), true));
    let (_, span) = tracer.join(Carried::Zipkin(Caller { sampled: None, ..caller }), [1, 2, 3]);
    assert_eq!(span, Some(Span { trace: 5, id: 3, parent: Some(6) }));
    let (onward, span) = tracer.join(Carried::Nothing(None), [1, 2, 0]);
    assert_eq!(span, Some(Span { trace: 1 << 64 | 2, id: 1, parent: None }));
    assert!(onward.parent.is_some_and(|parent| parent.ends_with(b"-0000000000000001-01")));
}

#[test]
fn what_is_not_recorded_goes_on_as_if_nobody_did() {
    let (tracer, ..) = tracer("parentbased_always_on");
    for carried in [
        Carried::Parent(Caller { trace: 5, span: 6, sampled: Some(false) }),
        Carried::Zipkin(Caller { trace: 5, span: 6, sampled: Some(false) }),
        Carried::Nothing(Some(false)),
    ] {
        assert_eq!(tracer.join(carried, [1, 2, 3]), (Onward::unrecorded(carried, [1, 2, 3]), None));
    }
}

#[test]
fn what_the_queue_cannot_hold_is_dropped_and_counted() {
    let (tracer, mut received, dropped) = tracer("always_on");
    (0..QUEUE_SPANS_MAX as u64 + 3).for_each(|id| tracer.finish(finished(id)));
    assert_eq!((dropped.get(), received.len()), (3, QUEUE_SPANS_MAX));
    assert_eq!(received.try_recv().unwrap().span.id, 0, "the oldest are kept");
    tracer.finish(finished(1));
    assert_eq!(dropped.get(), 3);
    drop(received);
    tracer.finish(finished(1));
    assert_eq!(dropped.get(), 4, "nobody is there to send it");
}

#[test]
fn spans_have_the_form_of_otlp_and_the_names_of_its_conventions() {
    let mut plain = finished(0x22);
    plain.span.parent = None;
    (plain.status, plain.fault, plain.upstream, plain.retries) = (200, String::new(), None, 0);
    plain.path = "/".repeat(5_000);
    let body: Value = serde_json::from_slice(&span::encode("gateway", &[finished(0x11), plain])).unwrap();
    let resource = &body["resourceSpans"][0];
    assert_eq!(
        resource["resource"]["attributes"],
        json!([{"key": "service.name", "value": {"stringValue": "gateway"}}])
    );
    let scope = &resource["scopeSpans"][0];
    assert_eq!(scope["scope"]["name"], "a8");
    let [first, second] = [&scope["spans"][0], &scope["spans"][1]];
    for (field, value) in [
        ("traceId", json!("00000000000000000000000000000abc")),
        ("spanId", json!("0000000000000011")),
        ("parentSpanId", json!("0000000000000007")),
        ("name", json!("GET reviews")),
        ("kind", json!(2)),
        ("startTimeUnixNano", json!("1500000000")),
        ("endTimeUnixNano", json!("1750000000")),
        ("status", json!({"code": 2})),
    ] {
        assert_eq!(first[field], value, "{field}");
    }
    let of = |span: &Value, key: &str| {
        let attributes = span["attributes"].as_array().unwrap();
        let all: Vec<_> = attributes.iter().filter(|attribute| attribute["key"] == key).collect();
        assert!(all.len() < 2, "{key} twice");
        all.first().map(|attribute| attribute["value"].clone())
    };
    for (key, value) in [
        ("http.request.method", json!({"stringValue": "GET"})),
        ("http.response.status_code", json!({"intValue": "503"})),
        ("url.path", json!({"stringValue": "/reviews/1"})),
        ("url.scheme", json!({"stringValue": "http"})),
        ("server.address", json!({"stringValue": "shop.example"})),
        ("server.port", json!({"intValue": "8080"})),
        ("error.type", json!({"stringValue": "503"})),
        ("a8.service", json!({"stringValue": "reviews"})),
        ("a8.rule", json!({"stringValue": "split"})),
        ("a8.fault", json!({"stringValue": "delay,abort"})),
        ("a8.fault.rule", json!({"stringValue": "game-day"})),
        ("a8.retries", json!({"intValue": "2"})),
        ("a8.upstream", json!({"stringValue": "10.0.0.1:80"})),
    ] {
        assert_eq!(of(first, key), Some(value), "{key}");
    }
    assert!(second.get("parentSpanId").is_none() && second.get("status").is_none(), "{second}");
    for absent in ["a8.fault", "a8.retries", "a8.upstream", "error.type", "user_agent.original", "a8.flags"] {
        assert_eq!(of(second, absent), None, "{absent}");
    }
    assert_eq!(of(second, "url.path").unwrap()["stringValue"].as_str().unwrap().len(), 1024, "cut");
}
