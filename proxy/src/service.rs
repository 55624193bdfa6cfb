//! Serves one client connection: tells the protocols apart, checks each head in its time, and hands one request
//! after the other to the engine. It decides nothing about a request that is well formed.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::time::Instant;

use crate::clock;
use crate::connections::Connections;
use crate::gateway::Gateway;
use crate::head::{self, HEAD_BYTES_MAX, Head, Malformed};
use crate::reports::Reports;
use crate::respond::Reply;
use crate::wire::Wire;

/// From the first byte of a request, or from the connection, to the end of the head.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request.
pub(crate) const IDLE_WITHIN: Duration = Duration::from_secs(60);
/// How long requests in progress may take to end after a signal (spec/control-and-proxy.md 3.4).
const DRAIN_WITHIN: Duration = Duration::from_secs(3);
/// An HTTP/2 connection without a stream is closed after this time.
const HTTP2_IDLE_WITHIN: Duration = Duration::from_secs(120);

/// RFC 9113 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Everything in front of the engine.
pub(crate) struct Front {
    pub(crate) proxy: Arc<HttpProxy<Gateway>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) limits: Limits,
}

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first byte of a request, or from the connection, to the end of the head.
    pub head_within: Duration,
    /// Until the next request of a connection.
    pub idle_within: Duration,
    /// Until the next stream of an HTTP/2 connection that has none.
    pub http2_idle_within: Duration,
    /// For requests in progress to end, when the proxy is told to.
    pub drain_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_within: HEAD_WITHIN,
            idle_within: IDLE_WITHIN,
            http2_idle_within: HTTP2_IDLE_WITHIN,
            drain_within: DRAIN_WITHIN,
        }
    }
}

/// What a connection brings next.
enum Next {
    Request(Head),
    Http2,
    Refused(Reply),
    /// Nothing, and nobody to tell.
    End,
}

#[async_trait]
impl ServerApp for Front {
    /// Moves the connection into a task of its own, so that what accepted it is freed while it is idle.
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let connection = self.connections.enter()?;
        let (front, shutdown) = (Arc::clone(self), shutdown.clone());
        tokio::spawn(async move {
            front.serve(stream, shutdown).await;
            drop(connection);
        });
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

impl Front {
    async fn serve(&self, stream: Stream, shutdown: ShutdownWatch) {
        let mut wire = Box::new(Wire::new(stream));
        // Registered once per connection, not once per request.
        let mut down = pin!(ended(shutdown.clone()));
        let mut first = true;
        loop {
            match self.next(&mut wire, first, down.as_mut()).await {
                Next::Request(head) => {
                    let Some(reused) = self.request(wire, &head, &shutdown).await else { return };
                    wire = reused;
                    first = false;
                }
                Next::Http2 => {
                    wire.open();
                    ServerApp::process_new(&self.proxy, wire, &shutdown).await;
                    return;
                }
                Next::Refused(reply) => {
                    self.reports.refused(&reply, head::method_and_target(wire.held()), clock::wall());
                    return wire.conclude(&reply.final_http1()).await;
                }
                Next::End => return,
            }
        }
    }

    /// One request through the engine; the connection, if another may follow.
    async fn request(&self, mut wire: Box<Wire>, head: &Head, shutdown: &ShutdownWatch) -> Option<Box<Wire>> {
        wire.admit(head);
        let bytes = wire.take(head.len);
        let bytes = head::normal_form(&bytes, head).unwrap_or(bytes);
        let signals = Arc::clone(wire.signals());
        let mut session = ServerSession::new_http1(wire);
        session.set_connection_user_context(Some(Box::new(signals)));
        // The engine finds a complete head and reads nothing before it has parsed that.
        session.set_pipelined_prefix(bytes);
        let (stream, _) = self.proxy.process_new_http(session, shutdown).await?.consume();
        let wire: Box<Wire> = stream.into_any().downcast().ok()?;
        wire.is_at_boundary().then_some(wire)
    }

    /// `down` is ready once the proxy shuts down.
    async fn next<D>(&self, wire: &mut Wire, first: bool, mut down: Pin<&mut D>) -> Next
    where
        D: Future<Output = ()>,
    {
        let mut seen = 0;
        // On a new connection the time for the head starts with the connection, later with its first byte.
        let mut begun = first || !wire.held().is_empty();
        let within = if begun { self.limits.head_within } else { self.limits.idle_within };
        let mut until = Instant::now() + within;
        loop {
            wire.skip_empty_lines();
            if let Some(next) = look(wire.held(), seen, first) {
                return next;
            }
            seen = wire.held().len();
            let filled = tokio::select! {
                // A request that is already here is served even while the proxy shuts down.
                biased;
                filled = wire.fill(until) => filled,
                () = down.as_mut(), if seen == 0 => return Next::End,
            };
            match filled {
                Some(Ok(true)) if begun => {}
                Some(Ok(true)) => {
                    begun = true;
                    until = Instant::now() + self.limits.head_within;
                }
                Some(Ok(false) | Err(_)) => return Next::End,
                None if wire.held().is_empty() => return Next::End,
                None => {
                    return Next::Refused(Reply::request_timeout("the head of the request took too long"));
                }
            }
        }
    }
}

/// Returns when the proxy shuts down.
async fn ended(mut shutdown: ShutdownWatch) {
    // Whoever could say it being gone says it as well.
    let _down = shutdown.wait_for(|down| *down).await;
}

/// What is held so far, of which `seen` bytes were looked at before; `None` when more is needed.
fn look(held: &[u8], seen: usize, first: bool) -> Option<Next> {
    if first && held.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(held) {
        return None;
    }
    if first && held.starts_with(HTTP2_PREFACE) {
        return Some(Next::Http2);
    }
    if held.first().is_some_and(|byte| !head::may_begin(*byte)) {
        return Some(Next::Refused(Reply::bad_request("this is no HTTP request")));
    }
    let refused = |malformed| Next::Refused(Reply::malformed(malformed));
    match head::end_of_head(held, seen) {
        Some(end) if end <= HEAD_BYTES_MAX => {
            Some(head::read(&held[..end]).map_or_else(refused, Next::Request))
        }
        None if held.len() <= HEAD_BYTES_MAX => None,
        _ => Some(refused(Malformed::TooLarge("the head of the request is too large"))),
    }
}
