//! Traces on their way to an instance, and spans on theirs to a collector. Which values are valid is tested where they
//! are read, and what a span says where it is encoded.

use proxy::server::Limits;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{Conn, Instance, Proxy, actions, fields, get, nobody, ok, route, soon};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn arrives(
    instance: &mut Instance,
    conn: &mut Conn,
    upstream: &mut Option<Conn>,
    lines: &str,
) -> String {
    conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await;
    let head = match upstream {
        Some(upstream) => instance.next_request(upstream).await,
        None => {
            let (conn, head) = instance.request().await;
            *upstream = Some(conn);
            head
        }
    };
    upstream.as_mut().unwrap().send(ok("x")).await;
    assert_eq!(conn.answer().await.body, "x");
    head
}

#[tokio::test]
async fn a_trace_goes_on_untouched_and_one_begins_where_there_is_none() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let (mut conn, mut upstream) = (proxy.connect().await, None);
    let kept = format!("traceparent: {PARENT}\r\ntracestate: a=1,b=2\r\n");
    let head = arrives(&mut instance, &mut conn, &mut upstream, &kept).await;
    assert_eq!((fields(&head, "traceparent"), fields(&head, "tracestate")), (vec![PARENT], vec!["a=1,b=2"]));
    let mut seen = Vec::new();
    for lines in
        [String::new(), "traceparent: broken\r\ntracestate: a=1\r\n".to_owned(), format!("{kept}{kept}")]
    {
        let head = arrives(&mut instance, &mut conn, &mut upstream, &lines).await;
        let parents = fields(&head, "traceparent");
        assert_eq!(parents.len(), 1, "{head}");
        assert!(
            parents[0].len() == 55 && parents[0].starts_with("00-") && parents[0].ends_with("-00"),
            "{head}"
        );
        assert_eq!(fields(&head, "tracestate"), [""; 0]);
        seen.push(parents[0].to_owned());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3, "each request its own");
    let zipkin = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1";
    // Whether it is recorded is left to whoever comes next, or is said.
    for (said, parents) in [("", vec![]), ("-0", vec![format!("00-{zipkin}-00")])] {
        let line = format!("b3: {zipkin}{said}\r\n");
        let head = arrives(&mut instance, &mut conn, &mut upstream, &line).await;
        assert_eq!(fields(&head, "b3"), [format!("{zipkin}{said}")]);
        assert_eq!(fields(&head, "traceparent"), parents);
    }
}

#[tokio::test]
async fn a_trace_of_zipkins_goes_on_in_both_tongues() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let (mut conn, mut upstream) = (proxy.connect().await, None);
    let multi = "X-B3-TraceId: 64fe8b2a57d3eff7\r\nX-B3-SpanId: e457b5a2e4d86bd1\r\nX-B3-Sampled: 1\r\n\
                 X-B3-ParentSpanId: 05e3ac9a4f6e3b90\r\n";
    let single = "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90\r\n";
    for (lines, parent) in [
        (multi, "00-000000000000000064fe8b2a57d3eff7-e457b5a2e4d86bd1-01"),
        (single, "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01"),
    ] {
        let head =
            arrives(&mut instance, &mut conn, &mut upstream, &format!("{lines}tracestate: a=1\r\n")).await;
        assert_eq!(fields(&head, "traceparent"), [parent]);
        assert_eq!(fields(&head, "tracestate"), [""; 0], "that of no trace");
        for line in lines.split("\r\n").filter(|line| !line.is_empty()) {
            assert!(head.to_lowercase().contains(&line.to_lowercase()), "{line} in {head}");
        }
    }
    // One of W3C's goes before it.
    let both = format!("traceparent: {PARENT}\r\n{single}");
    let head = arrives(&mut instance, &mut conn, &mut upstream, &both).await;
    assert_eq!(fields(&head, "traceparent"), [PARENT]);
}

/// A collector that takes everything, and what it got.
async fn collector() -> (String, mpsc::UnboundedReceiver<Value>) {
    let (tell, told) = mpsc::unbounded_channel();
    let at = Instance::answering(move |head, body| {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert_eq!(fields(head, "content-type"), ["application/json"]);
        let _gone = tell.send(serde_json::from_str(body).unwrap());
        ok("{}")
    })
    .await;
    (format!("http://{at}"), told)
}

fn tracing(flags: &[&str], rules: &[Value], instances: &[(&str, &str, String)]) -> Proxy {
    let engine = format!("--engine={}", crate::chosen::ENGINE);
    let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).chain([engine]).collect();
    let mut proxy = Proxy::told(&flags, Limits::default(), rules, instances);
    let mut exporter = proxy.exporter.take().unwrap();
    tokio::spawn(async move { exporter.run().await });
    proxy
}

fn attribute(span: &Value, key: &str) -> Option<Value> {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key)?;
    found["value"].as_object()?.values().next().cloned()
}

#[tokio::test]
async fn a_recorded_request_tells_the_collector_what_it_met() {
    let mut instance = Instance::start().await;
    let (endpoint, mut spans) = collector().await;
    let proxy = tracing(
        &[&format!("--otel_exporter_otlp_endpoint={endpoint}/")],
        &[route(json!({})), actions(json!([{"action": "delay", "duration": 0.02}]))],
        &[("s", "v1", instance.at.to_string())],
    );
    let mut conn = proxy.connect().await;
    let lines = format!("traceparent: {PARENT}\r\ntracestate: a=1\r\n");
    conn.send(format!("GET /s/p?secret=1 HTTP/1.1\r\nHost: shop\r\n{lines}\r\n")).await;
    let (mut upstream, first) = instance.request().await;
    upstream.send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await;
    let second = instance.next_request(&mut upstream).await;
    upstream.send(ok("x")).await;
    assert_eq!(conn.answer().await.body, "x");
    let body = soon("the spans", spans.recv()).await.unwrap();
    assert_eq!(body["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"], "caller");
    let span = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(&PARENT[3..35]), &json!(&PARENT[36..52])));
    let own = format!("00-{}-{}-01", &PARENT[3..35], span["spanId"].as_str().unwrap());
    for head in [&first, &second] {
        assert_eq!((fields(head, "traceparent"), fields(head, "tracestate")), (vec![&*own], vec!["a=1"]));
    }
    assert_ne!(own, PARENT);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", "/s/p"),
        ("url.scheme", "http"),
        ("server.address", "shop"),
        ("network.protocol.version", "1.1"),
        ("a8.service", "s"),
        ("a8.backend", "s:v1"),
        ("a8.rule", "r"),
        ("a8.fault", "delay"),
        ("a8.fault.rule", "a"),
        ("a8.retries", "1"),
        ("a8.upstream", &instance.at.to_string()),
    ] {
        assert_eq!(attribute(span, key), Some(json!(value)), "{key}");
    }
    assert!(!body.to_string().contains("secret"));
    proxy.metric_becomes("a8_proxy_spans_exported_total", 1.0).await;
}

#[tokio::test]
async fn whoever_decided_before_is_followed_and_a_trace_may_begin_here() {
    let mut instance = Instance::start().await;
    let (endpoint, mut spans) = collector().await;
    let flags = [&*format!("--otel_exporter_otlp_endpoint={endpoint}"), "--otel_service_name=edge"];
    let proxy = tracing(&flags, &[], &[("s", "v1", instance.at.to_string())]);
    let (mut conn, mut upstream) = (proxy.connect().await, None);
    let unsampled = format!("{}00", &PARENT[..53]);
    let lines = format!("traceparent: {unsampled}\r\n");
    let head = arrives(&mut instance, &mut conn, &mut upstream, &lines).await;
    assert_eq!(fields(&head, "traceparent"), [&unsampled], "not recorded, and not touched");
    let zipkin = "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\r\n";
    arrives(&mut instance, &mut conn, &mut upstream, zipkin).await;
    let head = arrives(&mut instance, &mut conn, &mut upstream, "").await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let body = soon("the spans", spans.recv()).await.unwrap();
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "edge");
        seen.extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().clone());
    }
    assert_eq!(seen[0]["traceId"], "80f198ee56343ba864fe8b2a57d3eff7");
    assert_eq!(seen[0]["parentSpanId"], "e457b5a2e4d86bd1");
    assert!(seen[1].get("parentSpanId").is_none());
    let begun =
        format!("00-{}-{}-01", seen[1]["traceId"].as_str().unwrap(), seen[1]["spanId"].as_str().unwrap());
    assert_eq!(fields(&head, "traceparent"), [&begun]);
    assert_eq!(proxy.metric("a8_proxy_spans_dropped_total"), Some(0.0));
}

#[tokio::test]
async fn an_abort_is_told_of_and_a_collector_that_is_away_costs_spans_alone() {
    let instance = Instance::named("x").await;
    let abort = actions(json!([{"action": "abort", "return_code": 503}]));
    let instances = [("s", "v1", instance.to_string())];
    let (endpoint, mut spans) = collector().await;
    let flag = format!("--otel_exporter_otlp_endpoint={endpoint}");
    let proxy = tracing(&[&flag], std::slice::from_ref(&abort), &instances);
    assert_eq!(proxy.ask(&get("/s")).await.status, 503);
    let body = soon("the spans", spans.recv()).await.unwrap();
    let span = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(attribute(span, "a8.fault"), Some(json!("abort")));
    assert_eq!(attribute(span, "error.type"), Some(json!("503")));
    assert_eq!(span["status"], json!({"code": 2}));

    let flag = format!("--otel_exporter_otlp_endpoint=http://{}", nobody().await);
    let proxy = tracing(&[&flag], &[abort], &instances);
    for _ in 0..3 {
        assert_eq!(proxy.ask(&get("/s")).await.status, 503);
    }
    proxy.metric_becomes("a8_proxy_spans_dropped_total", 3.0).await;
    let off = "--otel_traces_sampler=always_off".to_owned();
    let proxy = tracing(&[&flag, &off], &[], &instances);
    assert_eq!(proxy.ask(&get("/s")).await.body, "x");
}

#[tokio::test]
async fn every_attempt_belongs_to_the_same_trace() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conn = proxy.connect().await;
    conn.send(get("/s")).await;
    let (mut upstream, first) = instance.request().await;
    upstream.send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n").await;
    let second = instance.next_request(&mut upstream).await;
    upstream.send(ok("x")).await;
    assert_eq!(conn.answer().await.body, "x");
    assert_eq!(fields(&first, "traceparent"), fields(&second, "traceparent"));
}
