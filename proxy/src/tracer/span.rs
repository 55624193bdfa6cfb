//! A finished span and its form on the wire: OTLP in JSON (opentelemetry-proto, trace/v1), with the attributes of the
//! semantic conventions for HTTP servers and our own, which begin with `a8.`. It sends nothing.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Span;

/// The longest value of an attribute; longer ones are cut.
const VALUE_BYTES_MAX: usize = 1024;
/// `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// A request that was recorded, with what is told of it. Texts that are empty are left out.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Where it stands in its trace.
    pub span: Span,
    /// When the request came.
    pub start: SystemTime,
    /// From its head to the end of its answer.
    pub duration: Duration,
    /// As sent.
    pub method: String,
    /// Without the query, which may hold what is nobody's business.
    pub path: String,
    /// `https` or `http`; empty when it is not known.
    pub scheme: &'static str,
    /// As sent.
    pub authority: String,
    /// `1.1` or `2`.
    pub protocol: String,
    /// As sent.
    pub user_agent: String,
    /// What was sent; 0 when the connection was closed instead.
    pub status: u16,
    /// The service the request was for.
    pub service: String,
    /// The chosen backend, `service:tag,tag`.
    pub backend: String,
    /// The route rule.
    pub rule: String,
    /// The faults that happened, joined by commas.
    pub fault: String,
    /// The rule of those faults.
    pub fault_rule: String,
    /// Further attempts.
    pub retries: u32,
    /// The instance called last.
    pub upstream: Option<SocketAddr>,
    /// `X-Request-Id`.
    pub request_id: String,
    /// The flags of the access log, `-` for none.
    pub flags: String,
}

/// The body of one call to a collector.
pub(super) fn encode(service_name: &str, spans: &[Finished]) -> Vec<u8> {
    let resource = Attributed { attributes: vec![Attribute::text("service.name", service_name)] };
    let scope = Scope { name: "a8", version: env!("CARGO_PKG_VERSION") };
    let spans = spans.iter().map(Wire::of).collect();
    let request =
        Request { resource_spans: [ResourceSpans { resource, scope_spans: [ScopeSpans { scope, spans }] }] };
    serde_json::to_vec(&request).expect("spans are plain data and always encode")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Attributed<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Attributed<'a> {
    attributes: Vec<Attribute<'a>>,
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<Wire<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

/// Numbers of 64 bits are text in JSON (protobuf's mapping).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Value<'a> {
    StringValue(Cow<'a, str>),
    IntValue(String),
}

impl<'a> Attribute<'a> {
    fn text(key: &'static str, value: &'a str) -> Self {
        Self { key, value: Value::StringValue(Cow::Borrowed(cut(value))) }
    }

    fn written(key: &'static str, value: impl ToString) -> Self {
        Self { key, value: Value::StringValue(Cow::Owned(value.to_string())) }
    }

    fn number(key: &'static str, value: u64) -> Self {
        Self { key, value: Value::IntValue(value.to_string()) }
    }
}

impl<'a> Wire<'a> {
    fn of(finished: &'a Finished) -> Self {
        let Finished { span, start, duration, status, .. } = finished;
        let started = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Paths are without number; a span's name is not to be.
        let name = [cut(&finished.method), &finished.service].join(" ");
        Self {
            trace_id: format!("{:032x}", span.trace),
            span_id: format!("{:016x}", span.id),
            parent_span_id: span.parent.map(|parent| format!("{parent:016x}")),
            name: name.trim_end().to_owned(),
            kind: SERVER,
            start_time_unix_nano: started.as_nanos().to_string(),
            end_time_unix_nano: (started + *duration).as_nanos().to_string(),
            attributes: attributes(finished),
            // What a client did wrong is no error of a server's (semantic conventions, HTTP spans).
            status: (*status == 0 || *status >= 500).then_some(Status { code: ERROR }),
        }
    }
}

fn attributes(finished: &Finished) -> Vec<Attribute<'_>> {
    let (host, port) = match finished.authority.rsplit_once(':') {
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) => (host, Some(port)),
            Err(_) => (finished.authority.as_str(), None),
        },
        None => (finished.authority.as_str(), None),
    };
    let texts = [
        ("http.request.method", finished.method.as_str()),
        ("url.path", &finished.path),
        ("url.scheme", finished.scheme),
        ("server.address", host),
        ("network.protocol.name", "http"),
        ("network.protocol.version", &finished.protocol),
        ("user_agent.original", &finished.user_agent),
        ("a8.service", &finished.service),
        ("a8.backend", &finished.backend),
        ("a8.rule", &finished.rule),
        ("a8.fault", &finished.fault),
        ("a8.fault.rule", &finished.fault_rule),
        ("a8.request_id", &finished.request_id),
        ("a8.flags", if finished.flags == "-" { "" } else { &finished.flags }),
        ("error.type", if finished.status == 0 { "closed" } else { "" }),
    ];
    let texts = texts.into_iter().filter(|(_, value)| !value.is_empty());
    let mut attributes: Vec<_> = texts.map(|(key, value)| Attribute::text(key, value)).collect();
    if finished.status > 0 {
        attributes.push(Attribute::number("http.response.status_code", finished.status.into()));
    }
    if finished.status >= 500 {
        attributes.push(Attribute::written("error.type", finished.status));
    }
    if let Some(upstream) = finished.upstream {
        attributes.push(Attribute::written("a8.upstream", upstream));
    }
    if let Some(port) = port {
        attributes.push(Attribute::number("server.port", port.into()));
    }
    if finished.retries > 0 {
        attributes.push(Attribute::number("a8.retries", finished.retries.into()));
    }
    attributes
}

/// The longest beginning that is whole characters.
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(VALUE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
