//! The general engine: Pingora's phases, each a few lines that ask [`Context`] and the pure modules what to do. It
//! knows Pingora and nothing of rules.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use routing::RequestHead;
use tokio::time::sleep;

use crate::clock;
use crate::context::{Cause, Context, Course, Replay};
use crate::forward::{self, AnswerFraming, FORWARDED_FOR, FORWARDED_PROTO, REQUEST_ID};
use crate::head::is_host;
use crate::patience::Patience;
use crate::reports::{CLIENT_LEFT, Received, Reports};
use crate::respond::{ERROR_HEADER, Reply, grpc_status};
use crate::service::IDLE_WITHIN;
use crate::tables::Tables;
use crate::upstream::{self, Protocol, TUNNEL_IDLE_WITHIN};
use crate::wire::{Complaint, complaint};

/// Between two reads of a request body, and for every write to the client.
const CLIENT_WITHIN: Duration = Duration::from_secs(60);
/// For the rest of a request body that nobody wants, so that the connection can be used again.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// How many requests may be held by delays at once; those beyond it go on at once.
pub(crate) const DELAYED_MAX: usize = 1000;
/// Pingora keeps this much of a request body to send it again.
const REPLAY_BYTES_MAX: u64 = 64 * 1024;

/// The error of a request that ends without an answer on purpose.
const CLOSED_BY_FAULT: ErrorType = ErrorType::Custom("closed by an action rule");

/// The general engine.
pub(crate) struct Gateway {
    pub(crate) tables: Arc<Tables>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) delayed: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    /// Pins the one table that this request will ever see.
    fn new_ctx(&self) -> Context {
        Context::new(self.tables.pin(), clock::now(), clock::wall())
    }

    /// The connection tells every request where its deadline is looked at.
    fn on_connection_reuse(&self, _: &mut Session, ctx: &mut Context, given: Box<dyn Any + Send + Sync>) {
        if let Ok(patience) = given.downcast::<Arc<Patience>>() {
            ctx.watched_by(*patience);
        }
    }

    /// None: each costs every request something, and nothing here needs one.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let admitted = admit(session, ctx);
        limit(session, ctx);
        if let Err(reply) = admitted {
            return self.answer(session, &reply, ctx).await;
        }
        let delay = ctx.decide(&head_of(session.req_header()));
        if !delay.is_zero() && !session.is_process_shutting_down() {
            self.hold(session, ctx, delay).await?;
        }
        match ctx.course(path_of(session.req_header()), clock::now()) {
            Course::Forward => Ok(false),
            Course::Answer(reply) => self.answer(session, &reply, ctx).await,
            Course::Close => {
                ctx.close = true;
                Err(Error::new_in(CLOSED_BY_FAULT))
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let wait = ctx.take_wait();
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let protocol = match session.req_header() {
            _ if ctx.upgrade => Protocol::Tunnel,
            request if is_grpc(request) => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let peer = ctx
            .begin_attempt(clock::now())
            .and_then(|target| upstream::peer(&target, protocol).ok_or(Cause::Unreachable));
        peer.map_err(|cause| {
            let mut error = Error::new_up(ErrorType::ConnectError);
            error.set_retry(ctx.failed(cause, replay(session), clock::now()));
            error
        })
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        judged(session, ctx, error, Cause::Unreachable)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let received = session.req_header();
        let target = received.raw_path();
        let (path, query) = split_target(target);
        let upstream_path = ctx.upstream_path(path);
        if upstream_path.as_ref() != path {
            let target = [upstream_path.as_bytes(), query].concat();
            let authority =
                request.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
            request.set_raw_path(&target)?;
            // Setting the path forgets the authority of HTTP/2.
            if let (Some(Ok(authority)), false) = (authority, request.headers.contains_key(HOST)) {
                request.insert_header(HOST, authority)?;
            }
        }
        if let Some(host) = ctx.host() {
            request.insert_header(HOST, host)?;
        }
        request.insert_header(REQUEST_ID, ctx.request_id.clone())?;
        if let Some(caller) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header(FORWARDED_FOR, forward::forwarded_for(&received.headers, caller.ip()))?;
        }
        if !received.headers.contains_key(FORWARDED_PROTO) {
            request.insert_header(FORWARDED_PROTO, HeaderValue::from_static("http"))?;
        }
        if received.version == Version::HTTP_2 {
            if let Some(cookies) = forward::joined_cookies(&received.headers) {
                request.insert_header(COOKIE, cookies)?;
            }
        } else if received.headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
            request.insert_header(TE, HeaderValue::from_static("trailers"))?;
            request.insert_header(CONNECTION, HeaderValue::from_static("te"))?;
        }
        // Pingora forwards only WebSocket by itself; the others are asked for in the same words.
        if let Some(protocol) = received.headers.get(UPGRADE).filter(|_| ctx.upgrade) {
            request.insert_header(UPGRADE, protocol.clone())?;
            request.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.body_came(body.as_ref().is_some_and(|piece| !piece.is_empty()), end_of_stream, clock::now);
        end_once(body, end_of_stream);
        Ok(())
    }

    /// Everything about an answer's head is done here: it is the last word before the client sees it.
    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let status = answer.status.as_u16();
        let now = clock::now();
        if status == 101 && !ctx.upgrade {
            return Err(unintelligible("the instance switched protocols unasked"));
        }
        if ctx.is_late(now) {
            return Err(Error::explain(ErrorType::ReadTimedout, "the answer came too late").into_up());
        }
        if answer.status.is_informational() && status != 101 {
            return Ok(());
        }
        match forward::check_answer(&answer.headers) {
            AnswerFraming::Clear => {}
            AnswerFraming::Once(length) => answer.insert_header(CONTENT_LENGTH, length)?,
            AnswerFraming::Ambiguous => return Err(unintelligible("the framing of the answer is ambiguous")),
        }
        if ctx.answered(status, replay(session), now) {
            let mut error =
                Error::explain(ErrorType::HTTPStatus(status), "another instance is tried").into_up();
            error.set_retry(true);
            return Err(error);
        }
        ctx.unwatch();
        if status != 101 {
            for name in forward::dropped_from_answer(&answer.headers) {
                answer.remove_header(&name);
            }
            fit(session, answer, ctx);
        }
        Ok(())
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        _client_reused: bool,
    ) -> Box<Error> {
        // Decided when the status was seen.
        if matches!(error.etype(), ErrorType::HTTPStatus(_)) {
            return error;
        }
        judged(session, ctx, error, Cause::Unanswered)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        ctx.unwatch();
        let silent = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if ctx.close || has_answered(session) {
            return silent;
        }
        let reply = match error.esource() {
            ErrorSource::Downstream if complaint(error.root_cause()) == Some(Complaint::OutOfTime) => {
                ctx.reply()
            }
            ErrorSource::Downstream => match blame(error) {
                Some(reply) => reply,
                None => return silent,
            },
            ErrorSource::Upstream => ctx.reply(),
            ErrorSource::Internal | ErrorSource::Unset => Reply::internal(),
        };
        // The state of the connection is not known here; it ends with the answer.
        session.set_keepalive(None);
        let error_code = reply.status;
        // A client that is gone by now is noticed when the session ends.
        let _written = self.answer(session, &reply, ctx).await;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let sent = session.response_written().map(|answer| answer.status.as_u16());
        let sent = sent.filter(|status| !(100..200).contains(status) || *status == 101);
        let status = sent.unwrap_or(if ctx.close { 0 } else { CLIENT_LEFT });
        if let (Some(200..500), Some(cause)) = (sent, error.and_then(upstream::cause)) {
            ctx.broke_off(cause, clock::now());
        }
        let request = session.req_header();
        let received = Received {
            method: request.method.as_str(),
            path: std::str::from_utf8(request.raw_path()).unwrap_or("-"),
            protocol: protocol_of(request.version),
            authority: authority_of(request).as_bytes(),
            headers: &request.headers,
        };
        self.reports.finished(ctx, received, status, clock::now());
    }

    /// Said once, in the access log.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Context,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

impl Gateway {
    /// Holds a request; ends early when its client leaves.
    async fn hold(&self, session: &mut Session, ctx: &mut Context, delay: Duration) -> Result<()> {
        let Some(_held) = Held::enter(&self.delayed) else {
            tracing::debug!("too many requests are held; this one goes on at once");
            return Ok(());
        };
        ctx.delayed();
        tokio::select! {
            biased;
            () = sleep(delay) => Ok(()),
            error = left(session) => Err(error),
        }
    }

    /// Writes an answer of the proxy's own; always `Ok(true)`.
    async fn answer(&self, session: &mut Session, reply: &Reply, ctx: &Context) -> Result<bool> {
        let grpc = is_grpc(session.req_header());
        let body = if grpc { Bytes::new() } else { reply.body() };
        let status = if grpc { 200 } else { reply.status };
        let mut header = ResponseHeader::build(status, Some(8))?;
        header.insert_header(ERROR_HEADER, reply.id)?;
        if grpc {
            header.insert_header(CONTENT_TYPE, "application/grpc")?;
            header.insert_header("grpc-status", grpc_status(reply.status).to_string())?;
            header.insert_header("grpc-message", reply.description.as_ref())?;
        } else if !matches!(reply.status, 100..=199 | 204 | 304) {
            header.insert_header(CONTENT_LENGTH, body.len())?;
            if !body.is_empty() {
                header.insert_header(CONTENT_TYPE, "application/json")?;
            }
        }
        // What only announces an answer cannot be one: the connection ends behind it.
        if header.status.is_informational() || ctx.upgrade || session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        if is_short(session.req_header()) {
            // The rest of a short body is read instead of ending the connection.
            session.set_close_on_response_before_downstream_finish(false);
        }
        let bodiless = body.is_empty() || session.req_header().method == Method::HEAD;
        session.write_response_header(Box::new(header), bodiless).await.map_err(Error::into_down)?;
        let body = if bodiless { Bytes::new() } else { body };
        session.write_response_body(Some(body), true).await.map_err(Error::into_down)?;
        Ok(true)
    }
}

/// A request that is being held; counted until it is dropped.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let held = Self(count);
        (before < DELAYED_MAX).then_some(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sets every limit of the session anew: Pingora resets some of them with each request it parses.
fn limit(session: &mut Session, ctx: &mut Context) {
    // `Some(0)` would be for ever.
    ctx.keepalive = session.get_keepalive().map(|_| IDLE_WITHIN.as_secs());
    session.set_keepalive(ctx.keepalive);
    let within = if ctx.upgrade { TUNNEL_IDLE_WITHIN } else { CLIENT_WITHIN };
    session.set_read_timeout(Some(within));
    session.set_write_timeout(Some(within));
    session.set_total_drain_timeout(Some(DRAIN_WITHIN));
    if session.req_header().version < Version::HTTP_11 {
        // They know no 1xx (RFC 9110 15.2).
        session.set_ignore_info_resp(true);
    }
}

/// Checks what both protocols share, and gives the request its id.
fn admit(session: &mut Session, ctx: &mut Context) -> std::result::Result<(), Reply> {
    let request = session.req_header();
    let given = forward::given_request_id(&request.headers).cloned();
    ctx.identify(given.unwrap_or_else(|| forward::new_request_id(fastrand::u128(..))));
    if request.version == Version::HTTP_2 {
        let authority = authority_of(request);
        if !is_host(authority.as_bytes()) {
            return Err(Reply::bad_request("the authority is missing or malformed"));
        }
    }
    if !request.raw_path().is_ascii() {
        return Err(Reply::bad_request("the request target is malformed"));
    }
    ctx.upgrade = request.version == Version::HTTP_11 && forward::wants_upgrade(&request.headers);
    if !ctx.upgrade && request.headers.contains_key(UPGRADE) {
        // Otherwise Pingora would take it for one.
        session.req_header_mut().remove_header(&UPGRADE);
    }
    Ok(())
}

/// Judges a failed attempt; the error's mark says whether another follows.
fn judged(session: &Session, ctx: &mut Context, mut error: Box<Error>, otherwise: Cause) -> Box<Error> {
    let now = clock::now();
    let cause = match upstream::cause(&error) {
        None if complaint(error.root_cause()) == Some(Complaint::OutOfTime) => Some(Cause::Late),
        None if otherwise == Cause::Unreachable => {
            error.as_up();
            Some(otherwise)
        }
        cause => cause,
    };
    let again = match cause {
        None => false,
        Some(_) if has_answered(session) => false,
        // Whatever an attempt failed of, the end of the request's time is what its client is told.
        Some(_) if ctx.is_late(now) => ctx.failed(Cause::Late, replay(session), now),
        Some(_) if otherwise == Cause::Unreachable => ctx.failed(otherwise, replay(session), now),
        Some(cause) => ctx.failed(cause, replay(session), now),
    };
    error.set_retry(again);
    error
}

/// Whether the head of an answer was sent.
fn has_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|answer| !answer.status.is_informational() || answer.status == 101)
}

fn replay(session: &Session) -> Replay {
    Replay {
        body: !session.as_ref().retry_buffer_truncated(),
        idempotent: session.req_header().method.is_idempotent(),
    }
}

/// The answer to a client that broke its own request; `None` for one that is gone.
fn blame(error: &Error) -> Option<Reply> {
    match error.etype() {
        ErrorType::ReadTimedout => Some(Reply::request_timeout("the body of the request took too long")),
        ErrorType::InvalidHTTPHeader => {
            Some(Reply::bad_request("a header field of the request is malformed"))
        }
        _ if complaint(error.root_cause()) == Some(Complaint::Malformed) => {
            Some(Reply::bad_request("the body of the request is malformed"))
        }
        ErrorType::H1Error => Some(Reply::bad_request("the body of the request is malformed")),
        _ => None,
    }
}

/// Waits until the client leaves. A short body is read meanwhile, for that is the only way to see past it.
async fn left(session: &mut Session) -> Box<Error> {
    if session.as_http2().is_some() {
        return match session.as_downstream_mut().watch_h2_stream_close() {
            Some(close) => {
                let _reason = close.await;
                Error::new_down(ErrorType::ConnectionClosed)
            }
            None => std::future::pending().await,
        };
    }
    if !session.is_body_empty() && !is_short(session.req_header()) {
        return std::future::pending().await;
    }
    session.enable_retry_buffering();
    loop {
        let done = session.is_body_done();
        if let Err(error) = session.as_downstream_mut().read_body_or_idle(done).await {
            return error.into_down();
        }
    }
}

/// Fits an answer to its client: version, framing, and whether the connection goes on.
fn fit(session: &mut Session, answer: &mut ResponseHeader, ctx: &Context) {
    if session.req_header().headers.contains_key(EXPECT) {
        // Pingora gives the connection up when it passes on the interim answer.
        session.set_keepalive(ctx.keepalive);
    }
    answer.set_version(Version::HTTP_11);
    if session.req_header().version < Version::HTTP_11 && answer.headers.contains_key(TRANSFER_ENCODING) {
        // The end of the connection is the end of the body.
        answer.remove_header(&TRANSFER_ENCODING);
        session.set_keepalive(None);
    }
    if ctx.upgrade || session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
}

/// Whether the body has a length that Pingora can keep, and comes without being asked for.
fn is_short(request: &RequestHeader) -> bool {
    let length =
        request.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length <= REPLAY_BYTES_MAX) && !request.headers.contains_key(EXPECT)
}

/// The end of a body is told once: an empty last piece beside the end would end it a second time
/// (cloudflare/pingora#935). Before the end a piece is never taken away: that would be taken for the end.
fn end_once(body: &mut Option<Bytes>, end_of_stream: bool) {
    if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
}

fn unintelligible(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, why).into_up()
}

fn head_of(request: &RequestHeader) -> RequestHead<'_> {
    RequestHead {
        method: request.method.as_str(),
        path: path_of(request),
        authority: authority_of(request),
        headers: &request.headers,
    }
}

fn path_of(request: &RequestHeader) -> &str {
    split_target(request.raw_path()).0
}

/// The path, and the query with its question mark. Checked to be ASCII before anything asks.
fn split_target(target: &[u8]) -> (&str, &[u8]) {
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    (std::str::from_utf8(&target[..end]).unwrap_or_default(), &target[end..])
}

fn authority_of(request: &RequestHeader) -> &str {
    let host = || request.headers.get(HOST).and_then(|host| host.to_str().ok());
    request.uri.authority().map(|authority| authority.as_str()).or_else(host).unwrap_or_default()
}

fn is_grpc(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_2
        && request
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn protocol_of(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_11 => "HTTP/1.1",
        _ => "HTTP/1.0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_once_and_never_before_its_end() {
        for (piece, end, left) in [
            (Some("x"), false, Some("x")),
            (Some("x"), true, Some("x")),
            (Some(""), true, None),
            (Some(""), false, Some("")),
            (None, true, None),
        ] {
            let mut body = piece.map(Bytes::from);
            end_once(&mut body, end);
            assert_eq!(body, left.map(Bytes::from), "{piece:?} {end}");
        }
    }

    #[test]
    fn targets_are_split_at_the_first_question_mark() {
        for (target, path, query) in [("/a/b", "/a/b", ""), ("/a?b?c", "/a", "?b?c"), ("?x", "", "?x")] {
            assert_eq!(split_target(target.as_bytes()), (path, query.as_bytes()));
        }
    }
}
