//! The general engine: Pingora's phases, each a few lines that ask [`Context`] and the pure modules what to do. It
//! knows Pingora and nothing of rules.

mod session;

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT};
use http::{HeaderValue, Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use tokio::time::sleep;

use self::session::{
    admit, carried, edit_answer, edit_request, fit, has_answered, head_of, is_bridged, left, limit,
    protocol_of, replay, scheme, split_target,
};
pub(crate) use self::session::{authority_of, is_grpc};
use crate::access_log::Flag;
use crate::bridge::Bridges;
use crate::clock;
use crate::context::{Cause, Context, Course};
use crate::counts::Counts;
use crate::forward::{
    self, AnswerFraming, FORWARDED_FOR, FORWARDED_PROTO, REQUEST_ID, TRACEPARENT, TRACESTATE,
};
use crate::grpc;
use crate::held::Held;
use crate::live::Drain;
use crate::mirror::Mirrors;
use crate::reports::{CLIENT_LEFT, Received, Reports};
use crate::respond::Reply;
use crate::signals::Signals;
use crate::strait::{self, Cut, StraitConnect};
use crate::tables::Tables;
use crate::throttle::Flow;
use crate::upstream::{self, Protocol, Secure};
use crate::wire::{Complaint, complaint};

/// The error of a request that ends without an answer on purpose.
const CLOSED_BY_FAULT: ErrorType = ErrorType::Custom("closed by an action rule");

/// The general engine.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) tables: Arc<Tables>,
    pub(crate) reports: Arc<Reports>,
    /// Requests that delays hold, over all threads.
    pub(crate) delayed: Arc<AtomicUsize>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) mirrors: Arc<Mirrors>,
    pub(crate) drain: Arc<Drain>,
    /// For instances that speak TLS and whose answers are held back.
    pub(crate) secure: Arc<Secure>,
    /// For gRPC calls in HTTP/1.1, where they are to go on in HTTP/2.
    pub(crate) bridges: Option<Arc<Bridges>>,
}

/// What the connection tells the request that begins.
pub(crate) struct Entry {
    /// Where its deadline is looked at.
    pub(crate) signals: Arc<Signals>,
    /// The request as far as the lane has brought it.
    pub(crate) context: Option<Box<Context>>,
}

/// The same for a stream of HTTP/2, beside its head.
#[derive(Clone)]
pub(crate) struct Fate(Arc<Mutex<Option<Box<Context>>>>);

impl Fate {
    pub(crate) fn of(context: Option<Box<Context>>) -> Self {
        Self(Arc::new(Mutex::new(context)))
    }

    fn take(&self) -> Option<Box<Context>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    /// Pins the one table that this request will ever see.
    fn new_ctx(&self) -> Context {
        Context::new(self.tables.pin(), clock::now(), clock::wall())
    }

    /// A request may come with its fate: then it is not decided again, by another table or by other draws.
    fn on_connection_reuse(&self, _: &mut Session, ctx: &mut Context, given: Box<dyn Any + Send + Sync>) {
        if let Ok(entry) = given.downcast::<Entry>() {
            if let Some(context) = entry.context {
                *ctx = *context;
            }
            ctx.watched_by(entry.signals);
        }
    }

    /// None: each costs every request something, and nothing here needs one.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        if let Some(context) = session.req_header().extensions.get::<Fate>().and_then(Fate::take) {
            *ctx = *context;
        }
        if ctx.decision().is_none() {
            ctx.join(carried(session.req_header()), self.reports.tracer.as_deref());
        }
        ctx.bridged = self.bridges.is_some() && is_bridged(session.req_header());
        let admitted = admit(session, ctx);
        limit(session, ctx);
        if let Err(reply) = admitted {
            return session::answer(session, &reply, ctx, self.is_ending()).await;
        }
        if session.is_body_empty() {
            // Pingora says so only once there is a connection, and from HTTP/2 to HTTP/2 never.
            ctx.body_came(false, true, clock::now);
        }
        let client = session.client_addr().and_then(|address| Some(address.as_inet()?.ip()));
        let delay = ctx.decide(&head_of(session.req_header()), client, &self.counts);
        if !delay.is_zero() && !self.is_ending() {
            self.hold(session, ctx, delay).await?;
        }
        let now = clock::now();
        let course = ctx.course(&head_of(session.req_header()), &self.counts, now);
        match course {
            Course::Forward => {
                ctx.begin_copy(&self.mirrors, now);
                Ok(false)
            }
            Course::Answer(reply) => session::answer(session, &reply, ctx, self.is_ending()).await,
            Course::Close | Course::Reset => {
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
            request if ctx.bridged || is_grpc(request) => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let bridges = self.bridges.as_ref().filter(|_| ctx.bridged);
        let limits = ctx.limits().filter(|_| protocol == Protocol::Http1 || ctx.bridged);
        // The stream of an HTTP/1.1 client is told how long each attempt may take; those of HTTP/2 share one.
        let untold = session.as_http2().is_some() && (limits.is_some() || ctx.try_within().is_some());
        ctx.apart = limits.is_some() || untold || ctx.bridged;
        let peer = ctx.begin_attempt(clock::now()).and_then(|target| {
            // What may be refused before all of it is sent, or not be taken, goes over a connection that notices; but a
            // handshake for every body would cost more than that is worth.
            let long = protocol == Protocol::Http1
                && target.tls_name.is_none()
                && session::is_long(session.req_header());
            let signals = (untold || long || ctx.bridged).then(|| ctx.watched_apart());
            let peer = if ctx.apart || long {
                let limits = limits.map(|limits| (session.req_header().method.as_str().to_owned(), limits));
                let (secure, bridges) = (Arc::clone(&self.secure), bridges.cloned());
                upstream::narrow_peer(StraitConnect { target, protocol, limits, signals, secure, bridges })
            } else {
                upstream::peer(&target, protocol)
            };
            peer.ok_or(Cause::Unreachable)
        });
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

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        if !reused {
            ctx.connected();
        }
        Ok(())
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
        if let Some(left) = ctx.call_left(clock::now()) {
            request.insert_header(grpc::TIMEOUT, grpc::value(left))?;
        }
        if let Some(caller) = session.client_addr().and_then(|address| address.as_inet()) {
            let mut forwarded = Vec::with_capacity(40);
            let before = received.headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
            forward::forwarded_for(before, caller.ip(), &mut forwarded);
            request.insert_header(FORWARDED_FOR, forwarded)?;
        }
        if !received.headers.contains_key(FORWARDED_PROTO) {
            request.insert_header(FORWARDED_PROTO, HeaderValue::from_static(scheme(session)))?;
        }
        let trace = ctx.trace();
        if !trace.keeps_state {
            request.remove_header(&TRACESTATE);
        }
        if let Some(parent) = &trace.parent {
            request.insert_header(TRACEPARENT, &parent[..])?;
        }
        if received.version == Version::HTTP_2 {
            if let Some(cookies) = forward::joined_cookies(&received.headers) {
                request.insert_header(COOKIE, cookies)?;
            }
            // Pingora has made sure that all of them say the same (RFC 9110 8.6).
            let lengths = received.headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
            if let AnswerFraming::Length { length, repeated: true } =
                forward::check_answer(std::iter::empty(), lengths)
            {
                request.insert_header(CONTENT_LENGTH, length)?;
            }
        } else if forward::takes_trailers(&received.headers) {
            request.insert_header(TE, HeaderValue::from_static("trailers"))?;
            request.insert_header(CONNECTION, HeaderValue::from_static("te"))?;
        }
        // Pingora keeps no connection that a request wants closed, and does not count requests.
        let single = ctx.counts_requests_of_connections() || ctx.apart;
        if single && !ctx.upgrade && !is_grpc(received) {
            let te = request.headers.contains_key(CONNECTION);
            let options = if te { "te, close" } else { "close" };
            request.insert_header(CONNECTION, HeaderValue::from_static(options))?;
        }
        // Pingora forwards only WebSocket by itself; the others are asked for in the same words.
        if let Some(protocol) = received.headers.get(UPGRADE).filter(|_| ctx.upgrade) {
            request.insert_header(UPGRADE, protocol.clone())?;
            request.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
        }
        if let Some(edits) = ctx.request_edits() {
            edit_request(request, edits)?;
        }
        let protocol = if ctx.bridged || is_grpc(received) { Protocol::Http2 } else { Protocol::Http1 };
        ctx.copy_head(|_, host| session::copy_of(request, received, host, protocol));
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
        ctx.copy_body(body.as_deref().unwrap_or_default(), end_of_stream);
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
        let values = |name| answer.headers.get_all(name).iter().map(HeaderValue::as_bytes);
        match forward::check_answer(values(TRANSFER_ENCODING), values(CONTENT_LENGTH)) {
            AnswerFraming::Unstated | AnswerFraming::Chunked => {}
            AnswerFraming::Length { repeated: false, .. } => {}
            AnswerFraming::Length { length, repeated: true } => {
                answer.insert_header(CONTENT_LENGTH, length)?;
            }
            AnswerFraming::Ambiguous => return Err(unintelligible("the framing of the answer is ambiguous")),
        }
        if ctx.answered(status, replay(session), now) {
            let mut error =
                Error::explain(ErrorType::HTTPStatus(status), "another instance is tried").into_up();
            error.set_retry(true);
            return Err(error);
        }
        ctx.unwatch();
        let bodied = session.req_header().method != Method::HEAD && !matches!(status, 101 | 204 | 304);
        if let Some(limits) = ctx.limits().filter(|_| bodied) {
            if limits.bytes_per_s.is_some() {
                ctx.slowed_down();
            }
            if ctx.upgrade || is_grpc(session.req_header()) {
                ctx.flow = Some(Flow::new(limits));
            }
        }
        if status == 101 {
            ctx.switch();
        } else {
            for name in forward::dropped_from_answer(&answer.headers) {
                answer.remove_header(&name);
            }
            fit(session, answer, ctx, self.is_ending());
        }
        if ctx.bridged && answer.headers.get(grpc::STATUS).is_some_and(|is| grpc::has_failed(is.as_bytes())) {
            // The law has judged the status that the instance gave: a call that fails by itself is no failure of its instance.
            answer.set_status(grpc::FAILED_STATUS)?;
            answer.set_reason_phrase(None)?;
        }
        if let Some(edits) = ctx.answer_edits() {
            edit_answer(answer, edits)?;
        }
        Ok(())
    }

    /// Holds back what no connection to an instance does: Pingora waits as long as it is told to before it goes on. It writes
    /// several pieces at once, so that a cut may take a little of what came before it along.
    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        let Some(flow) = &mut ctx.flow else { return Ok(None) };
        let len = body.as_ref().map_or(0, Bytes::len) as u64;
        let Some(wait) = flow.piece(len, clock::now().saturating_duration_since(ctx.started)) else {
            // Nobody is told why.
            ctx.close = true;
            return Err(Error::because(ErrorType::ReadError, "the limit of the answer", Cut));
        };
        Ok((!wait.is_zero()).then_some(wait))
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
        let _written = session::answer(session, &reply, ctx, self.is_ending()).await;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let sent = session.response_written().map(|answer| answer.status.as_u16());
        let chosen = ctx.flags.has(Flag::FaultInjected);
        let sent = sent.filter(|status| !(100..200).contains(status) || *status == 101 || chosen);
        let status = sent.unwrap_or(if ctx.close { 0 } else { CLIENT_LEFT });
        if error.is_some_and(strait::is_cut) {
            ctx.cut_off();
        }
        if let (Some(200..500), Some(cause)) = (sent, error.and_then(upstream::cause)) {
            ctx.broke_off(cause, clock::now());
        }
        let request = session.req_header();
        let field = |name| request.headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
        let authority = authority_of(request).as_bytes();
        let received = Received {
            method: request.method.as_str(),
            scheme: scheme(session),
            path: std::str::from_utf8(request.raw_path()).unwrap_or("-"),
            protocol: protocol_of(request.version),
            // One that is no text is not routed by, but logged.
            authority: if authority.is_empty() { field(HOST) } else { authority },
            x_forwarded: field(FORWARDED_FOR),
            user_agent: field(USER_AGENT),
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
    /// Whether connections end with their current request. Pingora's own mark reaches each thread at a time of its own.
    fn is_ending(&self) -> bool {
        self.drain.has_begun()
    }

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
}

/// Judges a failed attempt; the error's mark says whether another follows.
fn judged(session: &Session, ctx: &mut Context, mut error: Box<Error>, otherwise: Cause) -> Box<Error> {
    let now = clock::now();
    let lateness = ctx.lateness(ctx.is_stuck() || *error.etype() == ErrorType::WriteTimedout, now);
    let cause = match upstream::cause(&error) {
        _ if complaint(error.root_cause()) == Some(Complaint::OutOfTime) => Some(lateness),
        Some(Cause::Late) => Some(lateness),
        None if otherwise == Cause::Unreachable => {
            error.as_up();
            Some(otherwise)
        }
        cause => cause,
    };
    let connecting = otherwise == Cause::Unreachable;
    let cause = cause.map(|cause| if connecting { upstream::unconnected(&error) } else { cause });
    let again = match cause {
        None => false,
        Some(_) if has_answered(session) => false,
        // Whatever an attempt failed of, the end of the request's time is what its client is told.
        Some(cause) if ctx.is_late(now) && !cause.blames_nobody() => {
            ctx.failed(Cause::Late, replay(session), now)
        }
        // An HTTP/2 connection does not tell what it ended of.
        Some(_) if ctx.apart && !connecting && now >= ctx.answer_until() => {
            ctx.failed(lateness, replay(session), now)
        }
        Some(cause) => ctx.failed(cause, replay(session), now),
    };
    error.set_retry(again);
    error
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

#[cfg(test)]
mod tests;
