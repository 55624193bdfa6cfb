//! Traces through a real proxy, and its spans at a collector that is another program: what arrives there is what any
//! collector of OTLP over HTTP would get.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use conformance::{Cluster, Origin, Proxy, Request, eventually, get};
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const ZIPKINS: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const ZIPKINS_SPAN: &str = "e457b5a2e4d86bd1";

/// Takes spans and keeps them.
struct Collector {
    origin: Origin,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start() -> Self {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        let origin = Origin::with(move |exchange| {
            let posted = exchange.method() == "POST" && exchange.target() == "/v1/traces";
            let json = exchange.head.field("content-type") == Some("application/json");
            let body: Value = serde_json::from_slice(exchange.body()?).unwrap_or_default();
            if !posted || !json {
                return exchange.answer(400, &[], "");
            }
            let resource = &body["resourceSpans"][0];
            let service = &resource["resource"]["attributes"][0]["value"]["stringValue"];
            for span in resource["scopeSpans"][0]["spans"].as_array().into_iter().flatten() {
                let mut span = span.clone();
                span["service"] = service.clone();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(span);
            }
            exchange.answer(200, &["Content-Type: application/json"], "{}")
        });
        Self { origin, spans }
    }

    /// The span of a trace. Spans are sent aside, so it is waited for.
    #[track_caller]
    fn span(&self, trace: &str) -> Value {
        eventually("the span arrives", || {
            let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
            spans.iter().find(|span| span["traceId"] == trace).cloned().ok_or_else(|| format!("{spans:?}"))
        })
    }
}

fn attribute(span: &Value, key: &str) -> Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    let value = found.and_then(|attribute| attribute["value"].as_object()?.values().next().cloned());
    value.unwrap_or_else(|| panic!("no {key} in {span}"))
}

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
    _origin: Origin,
}

/// One echoing instance of `s`, and a proxy in this environment.
fn scene(variables: &[(&str, &str)]) -> Scene {
    let cluster = Cluster::start();
    let origin = Origin::echo("o");
    cluster.registry.register("s", &["t"], origin.address());
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, Path::new(*value))).collect();
    let proxy = cluster.proxy_in("gateway", super::ENGINE, &variables);
    proxy.await_instances(1);
    Scene { proxy, cluster, _origin: origin }
}

impl Scene {
    /// The values of a field as the instance got them.
    fn arrives(&self, request: Request, name: &str) -> Vec<String> {
        let echoed = request.call(self.proxy.http).expect(200).json();
        let fields = echoed["headers"].as_array().unwrap().iter();
        fields
            .filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name))
            .map(|field| field[1].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn a_trace_is_passed_on_or_taken_over_from_zipkin_or_begun() {
    let scene = scene(&[]);
    let sent = format!("00-{TRACE}-{PARENT}-01");
    let given = || get("/s/x").header("traceparent", &sent).header("tracestate", "a=1");
    assert_eq!(scene.arrives(given(), "traceparent"), [&*sent]);
    assert_eq!(scene.arrives(given(), "tracestate"), ["a=1"]);

    let single = format!("{ZIPKINS}-{ZIPKINS_SPAN}-1");
    let b3 = || get("/s/x").header("b3", &single);
    assert_eq!(scene.arrives(b3(), "traceparent"), [format!("00-{ZIPKINS}-{ZIPKINS_SPAN}-01")]);
    assert_eq!(scene.arrives(b3(), "b3"), [&*single]);
    let multi = get("/s/x")
        .header("X-B3-TraceId", ZIPKINS)
        .header("X-B3-SpanId", ZIPKINS_SPAN)
        .header("X-B3-Sampled", "0");
    assert_eq!(scene.arrives(multi, "traceparent"), [format!("00-{ZIPKINS}-{ZIPKINS_SPAN}-00")]);

    let begun: Vec<_> = (0..2).flat_map(|_| scene.arrives(get("/s/x"), "traceparent")).collect();
    assert_eq!(begun.len(), 2);
    assert_ne!(begun[0], begun[1]);
    assert!(begun.iter().all(|parent| parent.len() == 55 && parent.ends_with("-00")), "{begun:?}");
}

#[test]
fn spans_reach_a_collector_with_the_fault_and_the_rule_that_they_met() {
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.origin.address());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_SERVICE_NAME", "edge")];
    let scene = scene(&variables);
    scene.cluster.control.write(json!([
        {"id": "way", "destination": "s", "route": {"backends": [{"tags": ["t"]}]}},
        {"id": "slow", "priority": 1, "destination": "s", "match": {"headers": {"X-F": "delay"}},
         "actions": [{"action": "delay", "duration": 0.02}]},
        {"id": "broken", "priority": 1, "destination": "s", "match": {"headers": {"X-F": "abort"}},
         "actions": [{"action": "abort", "return_code": 503}]},
    ]));
    let traced = |trace: &str, fault: &str| {
        get("/s/x?secret=1").header("traceparent", format!("00-{trace}-{PARENT}-01")).header("X-F", fault)
    };
    let other = TRACE.replace("0af7", "1bf8");
    let plain = TRACE.replace("0af7", "2cf9");
    let parents = scene.arrives(traced(TRACE, "delay"), "traceparent");
    traced(&other, "abort").call(scene.proxy.http).expect_refusal(503, "fault_abort");
    let _ = traced(&plain, "").call(scene.proxy.http).expect(200);

    let span = collector.span(TRACE);
    assert_eq!(span["parentSpanId"], PARENT);
    // The instance's parent is the proxy's own span.
    assert_eq!(parents, [format!("00-{TRACE}-{}-01", span["spanId"].as_str().unwrap())]);
    for (key, value) in [
        ("a8.service", "s"),
        ("a8.backend", "s:t"),
        ("a8.rule", "way"),
        ("a8.fault", "delay"),
        ("a8.fault.rule", "slow"),
        ("http.response.status_code", "200"),
        ("url.path", "/s/x"),
    ] {
        assert_eq!(attribute(&span, key), value, "{key}: {span}");
    }
    assert_eq!(span["service"], "edge");
    let aborted = collector.span(&other);
    for (key, value) in
        [("a8.fault", "abort"), ("a8.fault.rule", "broken"), ("http.response.status_code", "503")]
    {
        assert_eq!(attribute(&aborted, key), value, "{key}: {aborted}");
    }
    assert_eq!(aborted["status"]["code"], 2);
    assert!(!collector.span(&plain).to_string().contains("a8.fault"), "it met none");
    assert!(!format!("{span}{aborted}").contains("secret"));

    // Whoever decided before is followed: b3 says that this one is recorded, and traceparent that the other is not.
    let single = format!("{ZIPKINS}-{ZIPKINS_SPAN}-1");
    let _ = get("/s/x").header("b3", &single).call(scene.proxy.http).expect(200);
    assert_eq!(collector.span(ZIPKINS)["parentSpanId"], ZIPKINS_SPAN);
    let unsampled = TRACE.replace("0af7", "3dfa");
    let sent = format!("00-{unsampled}-{PARENT}-00");
    assert_eq!(scene.arrives(get("/s/x").header("traceparent", &sent), "traceparent"), [&*sent]);
    let _ = traced(&TRACE.replace("0af7", "4efb"), "").call(scene.proxy.http).expect(200);
    collector.span(&TRACE.replace("0af7", "4efb"));
    let spans = collector.spans.lock().unwrap().clone();
    assert!(spans.iter().all(|span| span["traceId"] != unsampled), "{spans:?}");
    eventually("the spans are counted", || {
        let metrics = scene.proxy.metrics();
        match metrics.sum("a8_proxy_spans_exported_total", &[]) {
            5.0 => Ok(()),
            count => Err(format!("{count}")),
        }
    });
}
