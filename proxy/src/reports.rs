//! What is told about a request when it is over: one line in the access log, its counts and its time. Nothing is
//! decided here, and no engine is known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use routing::Outcome;

use crate::access_log::{AccessLog, Flag, Flags, Record};
use crate::context::Context;
use crate::metrics::{Fault, Metrics};
use crate::respond::Reply;
use crate::tracer::{Finished, Span, Tracer, cut};

/// The status of a request whose client left before the answer.
pub(crate) const CLIENT_LEFT: u16 = 499;

/// Where reports go.
pub(crate) struct Reports {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Arc<AccessLog>,
    /// Records requests; `None` when nobody wants to know.
    pub(crate) tracer: Option<Arc<Tracer>>,
    /// Whom this proxy stands for, `service:tag,tag`.
    pub(crate) src: String,
}

/// A request as its client sent it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) method: &'a str,
    /// `https` or `http`.
    pub(crate) scheme: &'static str,
    pub(crate) path: &'a str,
    pub(crate) protocol: &'a str,
    pub(crate) authority: &'a [u8],
    /// The first `X-Forwarded-For`, empty when there is none.
    pub(crate) x_forwarded: &'a [u8],
    /// The first `User-Agent`, empty when there is none.
    pub(crate) user_agent: &'a [u8],
}

/// A connection of plain TCP that is over.
#[derive(Debug)]
pub(crate) struct Piped<'a> {
    pub(crate) start: SystemTime,
    pub(crate) duration: Duration,
    /// The service and tags of its listener.
    pub(crate) dst: &'a str,
    /// Where the client connected to.
    pub(crate) listener: &'a str,
    pub(crate) flag: Option<Flag>,
    /// The instance, and how long it took to be connected to.
    pub(crate) upstream: Option<(SocketAddr, Duration)>,
    /// Bytes from the client, and to it.
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Reports {
    /// A request that an engine had, and the status that was sent; 0 when its connection was closed instead.
    pub(crate) fn finished(&self, context: &Context, received: Received<'_>, status: u16, now: Instant) {
        let duration = now.saturating_duration_since(context.started);
        let (dst, traces) = self.count(context, status, duration);
        if let Some(span) = context.span() {
            self.record(span, context, received, (status, duration, dst));
        }
        if !self.access_log.is_on() {
            return;
        }
        let upstream = context.upstream();
        self.access_log.write(&Record {
            status,
            start: context.wall,
            duration,
            upstream_duration: upstream.map(|upstream| upstream.duration),
            src: &self.src,
            dst,
            traces: &traces,
            method: received.method,
            path: received.path,
            protocol: received.protocol,
            flags: context.flags,
            x_forwarded: received.x_forwarded,
            user_agent: received.user_agent,
            request_id: context.request_id.as_bytes(),
            authority: received.authority,
            upstream: upstream.map(|upstream| upstream.address),
            bytes: None,
            fault_rule: context.fault_rule().unwrap_or_default(),
        });
    }

    /// The request as a span, with what it met on its way.
    fn record(
        &self,
        span: Span,
        context: &Context,
        received: Received<'_>,
        (status, duration, dst): (u16, Duration, &str),
    ) {
        let Some(tracer) = &self.tracer else { return };
        // Cut here already: many wait for a collector that does not answer.
        let text = |bytes: &[u8]| cut(&String::from_utf8_lossy(bytes)).to_owned();
        let table = &context.table;
        let decision = context.decision();
        let service = decision.and_then(|decision| decision.service);
        let rule = decision.and_then(|decision| decision.route);
        let path = received.path.split('?').next().unwrap_or_default();
        tracer.finish(Finished {
            span,
            start: context.wall,
            duration,
            method: cut(received.method).to_owned(),
            path: cut(path).to_owned(),
            scheme: received.scheme,
            authority: text(received.authority),
            protocol: received.protocol.strip_prefix("HTTP/").unwrap_or_default().to_owned(),
            user_agent: text(received.user_agent),
            status,
            service: service.map(|at| table.service(at).name.to_string()).unwrap_or_default(),
            backend: dst.to_owned(),
            rule: rule.map(|at| table.route(at).id().to_string()).unwrap_or_default(),
            fault: context.injected().map(Fault::label).collect::<Vec<_>>().join(","),
            fault_rule: context.fault_rule().unwrap_or_default().to_owned(),
            retries: context.retried(),
            upstream: context.upstream().map(|upstream| upstream.address),
            request_id: text(context.request_id.as_bytes()),
            flags: context.flags.to_string(),
        });
    }

    /// A request that no engine saw, because its head could not be used.
    pub(crate) fn refused(&self, reply: &Reply, received: Option<(&str, &str)>, wall: SystemTime) {
        self.metrics.parse_failures.inc();
        self.unserved(reply, received, wall);
    }

    /// A request that no engine could serve.
    pub(crate) fn unserved(&self, reply: &Reply, received: Option<(&str, &str)>, wall: SystemTime) {
        self.metrics.count_unrouted(reply.status);
        let (method, path) = received.unwrap_or_default();
        self.access_log.write(&Record {
            status: reply.status,
            start: wall,
            duration: Duration::ZERO,
            upstream_duration: None,
            src: &self.src,
            dst: "",
            traces: &[],
            method: if method.is_empty() { "-" } else { method },
            path: if path.is_empty() { "-" } else { path },
            protocol: "",
            flags: Flags::default(),
            x_forwarded: b"",
            user_agent: b"",
            request_id: b"",
            authority: b"",
            upstream: None,
            bytes: None,
            fault_rule: "",
        });
    }

    /// A connection of plain TCP, of which metrics are its listener's.
    pub(crate) fn piped(&self, piped: &Piped<'_>) {
        if !self.access_log.is_on() {
            return;
        }
        let mut flags = Flags::default();
        piped.flag.into_iter().for_each(|flag| flags.set(flag));
        self.access_log.write(&Record {
            status: 0,
            start: piped.start,
            duration: piped.duration,
            upstream_duration: piped.upstream.map(|(_, connecting)| connecting),
            src: &self.src,
            dst: piped.dst,
            traces: &[],
            method: "-",
            path: "-",
            protocol: "TCP",
            flags,
            x_forwarded: b"",
            user_agent: b"",
            request_id: b"",
            authority: piped.listener.as_bytes(),
            upstream: piped.upstream.map(|(address, _)| address),
            bytes: Some([piped.received, piped.sent]),
            fault_rule: "",
        });
    }

    /// The counts; the destination and the traces for the log on the way.
    fn count<'c>(
        &self,
        context: &'c Context,
        status: u16,
        duration: Duration,
    ) -> (&'c str, Vec<(&'c str, &'c str)>) {
        let Some((decision, service)) = context
            .decision()
            .and_then(|decision| Some((decision, context.table.service(decision.service?))))
        else {
            self.metrics.count_unrouted(status);
            return ("", Vec::new());
        };
        service.live.series().observe(duration.as_secs_f64());
        let dst = match decision.backend {
            Some(backend) => {
                let backend = context.table.backend(backend);
                backend.live.count(status);
                backend.dst.as_str()
            }
            None => {
                match decision.outcome {
                    // A rule that answers has series.
                    Outcome::Answer(rule) => {
                        context.table.route_live(rule).iter().for_each(|rule| rule.series().answered(status))
                    }
                    _ => service.live.series().count(status),
                }
                ""
            }
        };
        let faults = &decision.faults;
        let traces = faults.rule.map(|rule| context.table.actions(rule).traces(faults.fired).collect());
        (dst, traces.unwrap_or_default())
    }
}
