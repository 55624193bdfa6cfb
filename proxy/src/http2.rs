//! HTTP/2 towards clients. Pingora speaks it and gives each stream here: what the lane can do goes to the lane, as a
//! connection of HTTP/1.1 with one request, and everything else to the general engine. It decides nothing about requests.

mod stream;
mod waiting;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST};
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, HttpSession, default_h2_options};
use pingora::server::ShutdownWatch;

use self::stream::Http2Stream;
use crate::clock;
use crate::gateway::{Fate, authority_of, is_grpc};
use crate::general::General;
use crate::head::{self, Head};
use crate::lane::{Lane, Passed};
use crate::reports::Reports;
use crate::respond::{ERROR_HEADER, Reply, Says};
use crate::service::Limits;
use crate::wire::Wire;

/// Streams of one connection.
const STREAMS_MAX: u32 = 128;
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Bytes in flight of one stream, and of one connection.
const WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of one stream that wait for the connection to take them.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// Enough for usual heads without growing.
const HEAD_BYTES: usize = 512;

/// What Pingora gives the streams of HTTP/2 connections to.
pub(crate) struct Http2 {
    general: Arc<General>,
    lane: Option<Arc<Lane>>,
    reports: Arc<Reports>,
    options: HttpServerOptions,
}

impl Http2 {
    /// Streams for these engines; without a lane all of them are the general one's.
    pub(crate) fn new(
        general: Arc<General>,
        lane: Option<Arc<Lane>>,
        reports: Arc<Reports>,
        limits: Limits,
    ) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(limits.http2_idle_within);
        Self { general, lane, reports, options }
    }

    /// One request through the lane; the stream as it came, with what was decided about it, where it is not for the lane.
    async fn in_lane(&self, lane: &Lane, session: HttpSession) -> Option<HttpSession> {
        let Some((bytes, head)) = read(&session) else { return Some(session) };
        let stream = Http2Stream::new(session, head.body);
        let wire = Box::new(Wire::of_stream(Box::new(stream), bytes));
        let Err(Passed { wire, context, .. }) = lane.request(wire, &head).await else { return None };
        let stream = wire.into_inner()?.into_any().downcast::<Http2Stream>().ok()?;
        let mut session = stream.into_session();
        accompany(session.req_header_mut(), Fate::of(context));
        Some(session)
    }
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let mut session = match (session, &self.lane) {
            (ServerSession::H2(session), Some(lane)) => {
                let passed = self.in_lane(lane, session).await?;
                self.reports.metrics.lane.handed_over.inc();
                ServerSession::new_http2(passed)
            }
            (session, _) => session,
        };
        let Some(proxy) = self.general.get().await else {
            let request = session.req_header();
            let received =
                (request.method.as_str(), std::str::from_utf8(request.raw_path()).unwrap_or_default());
            self.reports.unserved(&Reply::internal(), Some(received), clock::wall());
            let _heard = say_internal(&mut session).await;
            return None;
        };
        proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        // Always from these: options made from nothing have no bounds (CVE-2026-105297).
        let mut options = default_h2_options();
        options.max_concurrent_streams(STREAMS_MAX);
        options.max_header_list_size(HEADER_LIST_BYTES_MAX);
        options.initial_window_size(WINDOW_BYTES);
        options.initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        options.max_send_buffer_size(WAITING_BYTES_MAX);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Answers a stream that no engine can serve; whoever has gone by now hears nothing.
async fn say_internal(session: &mut ServerSession) -> pingora::Result<()> {
    let reply = Reply::internal();
    let mut header = ResponseHeader::build_no_case(reply.status, None)?;
    header.insert_header(CONTENT_TYPE, "application/json")?;
    if let Says::Error { id, .. } = &reply.says {
        header.insert_header(ERROR_HEADER, *id)?;
    }
    session.write_response_header(Box::new(header)).await?;
    session.write_response_body(reply.body(), true).await
}

/// Has the general engine find what was decided beside the head: its streams of HTTP/2 carry nothing else.
fn accompany(request: &mut RequestHeader, fate: Fate) {
    let mut parts: http::request::Parts = request.clone().into();
    parts.extensions.insert(fate);
    *request = parts.into();
}

/// The head of a request as HTTP/1.1 writes it; `None` for what is not for the lane, which refuses nothing here: the general
/// engine says what is wrong.
fn read(session: &HttpSession) -> Option<(BytesMut, Head)> {
    let request = session.req_header();
    if request.method == Method::CONNECT || is_grpc(request) {
        return None;
    }
    let bytes = written(request, !session.is_body_empty());
    let mut head = head::read(&bytes).ok().filter(|head| head.ordinary)?;
    // The stream ends with its request.
    head.keep_alive = false;
    Some((bytes, head))
}

/// Writes a head; where nothing else says how long the body is that comes with it, it is announced in chunks.
fn written(request: &RequestHeader, bodied: bool) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEAD_BYTES);
    for part in [request.method.as_str().as_bytes(), b" ", request.raw_path(), b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    line(&mut out, b"host", authority_of(request).as_bytes());
    let mut crumbs = false;
    for (name, value) in &request.headers {
        if *name == COOKIE && std::mem::replace(&mut crumbs, *name == COOKIE) {
            // Values of one name come one after the other; HTTP/1.1 has one cookie field (RFC 9113 8.2.3).
            out.truncate(out.len() - b"\r\n".len());
            for part in [b"; ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        } else if *name != HOST {
            // Also what is for this hop alone: rules see it, and the lane passes none of it on.
            line(&mut out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if bodied && !request.headers.contains_key(CONTENT_LENGTH) {
        line(&mut out, b"transfer-encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}
