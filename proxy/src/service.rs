//! Serves one client connection: tells the protocols apart, checks each head in its time, and hands one request
//! after the other to the engine. It decides nothing about a request that is well formed.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp as _, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::{ALPN, Ssl as _, Stream};
use pingora::server::ShutdownWatch;
use tokio::time::{Instant, timeout};

use crate::clock;
use crate::connections::Connections;
use crate::gateway::Entry;
use crate::general::General;
use crate::head::{self, HEAD_BYTES_MAX, Head, Malformed};
use crate::http2::Http2;
use crate::lane::{Lane, Passed};
use crate::reports::Reports;
use crate::respond::Reply;
use crate::tls::Tls;
use crate::upstream::TUNNEL_IDLE_WITHIN;
use crate::wire::Wire;

/// From the first byte of a request, or from the connection, to the end of the head.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// For the handshake of TLS.
const TLS_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request.
pub(crate) const IDLE_WITHIN: Duration = Duration::from_secs(60);
/// How long requests in progress may take to end after a signal (spec/control-and-proxy.md 3.4).
const DRAIN_WITHIN: Duration = Duration::from_secs(3);
/// How long a connection of plain TCP may carry nothing: as long as a tunnel.
const TCP_IDLE_WITHIN: Duration = TUNNEL_IDLE_WITHIN;
/// An HTTP/2 connection without a stream is closed after this time.
const HTTP2_IDLE_WITHIN: Duration = Duration::from_secs(120);

/// RFC 9113 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Everything in front of the engine.
pub(crate) struct Front {
    pub(crate) general: Arc<General>,
    /// For ordinary requests, where it is wanted.
    pub(crate) lane: Option<Arc<Lane>>,
    /// For connections of HTTP/2.
    pub(crate) http2: Arc<Http2>,
    /// Whether gRPC calls in HTTP/1.1 go on in HTTP/2, which the general engine does.
    pub(crate) bridges: bool,
    /// Where clients speak TLS.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) limits: Limits,
    /// Says when connections that wait for a request are to end. Pingora's own watch says when the port is closed, which
    /// may be long before.
    pub(crate) down: ShutdownWatch,
}

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the handshake of TLS.
    pub tls_within: Duration,
    /// From the first byte of a request, or from the connection, to the end of the head.
    pub head_within: Duration,
    /// Until the next request of a connection.
    pub idle_within: Duration,
    /// Until the next stream of an HTTP/2 connection that has none.
    pub http2_idle_within: Duration,
    /// Until the next byte of a connection of plain TCP, either way.
    pub tcp_idle_within: Duration,
    /// For requests and connections of plain TCP in progress to end, when the proxy is told to.
    pub drain_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tls_within: TLS_WITHIN,
            head_within: HEAD_WITHIN,
            idle_within: IDLE_WITHIN,
            http2_idle_within: HTTP2_IDLE_WITHIN,
            tcp_idle_within: TCP_IDLE_WITHIN,
            drain_within: DRAIN_WITHIN,
        }
    }
}

/// What a connection may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// Plain text: its first bytes tell.
    Either,
    Http1,
    /// Agreed on in the handshake of TLS.
    Http2,
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
        self.general.cleanup().await;
    }
}

impl Front {
    async fn serve(&self, stream: Stream, shutdown: ShutdownWatch) {
        // Registered once per connection, not once per request.
        let mut down = pin!(ended(self.down.clone()));
        let stream = match &self.tls {
            None => stream,
            Some(tls) => match self.secured(tls, stream, down.as_mut()).await {
                Some(stream) => stream,
                None => return,
            },
        };
        let mut wire = Box::new(Wire::new(stream));
        let mut first = Some(Opening::of(&wire));
        loop {
            match self.next(&mut wire, first, down.as_mut()).await {
                Next::Request(head) => {
                    // Each in memory of its own, which an idle connection does not hold.
                    let passed = match &self.lane {
                        Some(lane) if head.ordinary && !(self.bridges && head.is_call(wire.held())) => {
                            Box::pin(lane.request(wire, &head)).await
                        }
                        _ => Err(Passed::unseen(wire, &head)),
                    };
                    let reused = match passed {
                        Ok(reused) => reused,
                        Err(passed) => Box::pin(self.request(passed, &head, &shutdown)).await,
                    };
                    let Some(reused) = reused else { return };
                    wire = reused;
                    first = None;
                }
                Next::Http2 => {
                    wire.open_for_many();
                    ServerApp::process_new(&self.http2, wire, &shutdown).await;
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

    /// The connection after its handshake; `down` is ready once the proxy shuts down, which nobody who has not even
    /// asked for anything holds up.
    async fn secured<D>(&self, tls: &Tls, stream: Stream, down: Pin<&mut D>) -> Option<Stream>
    where
        D: Future<Output = ()>,
    {
        // In memory of its own: a handshake needs far more than an idle connection.
        let accepted = Box::pin(timeout(self.limits.tls_within, tls.accept(stream)));
        let secured = tokio::select! {
            // What is done is done.
            biased;
            accepted = accepted => accepted.ok().flatten(),
            () = down => return None,
        };
        if secured.is_none() {
            self.reports.metrics.tls_failures.inc();
        }
        secured
    }

    /// One request through the general engine; the connection, if another may follow.
    async fn request(&self, passed: Passed, head: &Head, shutdown: &ShutdownWatch) -> Option<Box<Wire>> {
        if self.lane.is_some() {
            self.reports.metrics.lane.handed_over.inc();
        }
        let Passed { wire, bytes, context } = passed;
        let Some(proxy) = self.general.get().await else {
            let reply = Reply::internal();
            self.reports.unserved(&reply, head::method_and_target(&bytes), clock::wall());
            wire.conclude(&reply.final_http1()).await;
            return None;
        };
        let bytes = head::normal_form(&bytes, head).unwrap_or(bytes);
        let signals = Arc::clone(wire.signals());
        let mut session = ServerSession::new_http1(wire);
        session.set_connection_user_context(Some(Box::new(Entry { signals, context })));
        // The engine finds a complete head and reads nothing before it has parsed that.
        session.set_pipelined_prefix(bytes);
        let (stream, _) = proxy.process_new_http(session, shutdown).await?.consume();
        let wire: Box<Wire> = stream.into_any().downcast().ok()?;
        wire.is_at_boundary().then_some(wire)
    }

    /// `first` is what a connection that is new may begin with; `down` is ready once the proxy shuts down.
    async fn next<D>(&self, wire: &mut Wire, first: Option<Opening>, mut down: Pin<&mut D>) -> Next
    where
        D: Future<Output = ()>,
    {
        let mut seen = 0;
        let opening = first.unwrap_or(Opening::Http1);
        // On a new connection the time for the head starts with the connection, later with its first byte.
        let mut begun = first.is_some() || !wire.held().is_empty();
        let within = if begun { self.limits.head_within } else { self.limits.idle_within };
        let mut until = Instant::now() + within;
        loop {
            wire.skip_empty_lines();
            if let Some(next) = look(wire.held(), seen, opening) {
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
                None if wire.held().is_empty() || opening == Opening::Http2 => return Next::End,
                None => {
                    return Next::Refused(Reply::request_timeout("the head of the request took too long"));
                }
            }
        }
    }
}

impl Opening {
    /// TLS settles the protocol before the first byte: without agreement it is HTTP/1.1, and HTTP/2 by prior knowledge is
    /// for plain text alone (RFC 9113 3.3).
    fn of(wire: &Wire) -> Self {
        match wire.selected_alpn_proto() {
            Some(ALPN::H2) => Self::Http2,
            _ if wire.is_secure() => Self::Http1,
            _ => Self::Either,
        }
    }
}

/// Returns when the proxy shuts down.
pub(crate) async fn ended(mut shutdown: ShutdownWatch) {
    // Whoever could say it being gone says it as well.
    let _down = shutdown.wait_for(|down| *down).await;
}

/// What is held so far, of which `seen` bytes were looked at before; `None` when more is needed.
fn look(held: &[u8], seen: usize, opening: Opening) -> Option<Next> {
    if opening != Opening::Http1 {
        if held.starts_with(HTTP2_PREFACE) {
            return Some(Next::Http2);
        }
        if HTTP2_PREFACE.starts_with(held) {
            return None;
        }
        if opening == Opening::Http2 {
            // Nothing that could be said would be understood.
            return Some(Next::End);
        }
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
