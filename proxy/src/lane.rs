//! The lane: one lean loop for ordinary requests in HTTP/1.1, beside the general engine and under the same law. It performs
//! what [`Context`] says; what is unusual about a request it never sees.

mod download;
mod exchange;
mod pool;
mod upload;

use std::future::Future;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::HeaderValue;
use routing::RequestHead;
use tokio::time::sleep;

use self::exchange::{Exchange, Failure, Relayed};
use self::upload::{Broken, Upload};
use crate::buffers;
use crate::clock;
use crate::context::{CLIENT_WITHIN, Cause, Context, Course, DRAIN_WITHIN, REPLAY_BYTES_MAX};
use crate::counts::Counts;
use crate::forward::{self, FORWARDED_FOR, REQUEST_ID};
use crate::head::{Fields, Head};
use crate::held::Held;
use crate::lines::Onward;
use crate::live::Drain;
use crate::mirror::{self, Mirrors};
use crate::reports::{CLIENT_LEFT, Received, Reports};
use crate::respond::Reply;
use crate::tables::Tables;
use crate::trace::Carried;
use crate::upstream::Secure;
use crate::wire::Wire;

/// Enough for usual heads without growing.
const HEAD_BYTES: usize = 1024;

/// The engine of one thread.
pub(crate) struct Lane {
    pub(crate) tables: Arc<Tables>,
    pub(crate) reports: Arc<Reports>,
    /// Requests that delays hold, over all threads.
    pub(crate) delayed: Arc<AtomicUsize>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) counts: Arc<Counts>,
    /// For instances that speak TLS.
    pub(crate) secure: Arc<Secure>,
    pub(crate) mirrors: Arc<Mirrors>,
}

/// A request on its way to the general engine: nothing of its body was read.
pub(crate) struct Passed {
    pub(crate) wire: Box<Wire>,
    /// Its head, as it came.
    pub(crate) bytes: BytesMut,
    /// What was decided about it; `None` where that is yet to be done.
    pub(crate) context: Option<Box<Context>>,
}

impl Passed {
    /// A request that nobody has looked at beside its head, the first that `wire` holds.
    pub(crate) fn unseen(mut wire: Box<Wire>, head: &Head) -> Self {
        wire.admit(head);
        let bytes = wire.take(head.len);
        Self { wire, bytes, context: None }
    }
}

/// A request as it was read.
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    path: &'a str,
    /// With its question mark, or empty.
    query: &'a str,
    authority: &'a str,
    fields: Fields<'a>,
    keep_alive: bool,
}

/// What came of a request.
struct Ended {
    /// What was sent; 0 or 499 when nothing was.
    status: u16,
    /// The connection may carry another.
    keep: bool,
}

impl Lane {
    /// Takes care of this thread's unused connections; for as long as the thread serves.
    pub(crate) async fn look_after(self: Arc<Self>, kept_max: usize) {
        let pool = pool::open(kept_max);
        self.reports.metrics.lane.count_thread(pool.gauge(), buffers::in_use());
        loop {
            sleep(pool::SWEEP_EVERY).await;
            pool::sweep(clock::now());
        }
    }

    /// One request, whose head is the first that `wire` holds; the connection, if another may follow. A request whose
    /// rule asks for more than the lane can do is given back as it came, with what was decided about it.
    pub(crate) async fn request(&self, wire: Box<Wire>, head: &Head) -> Result<Option<Box<Wire>>, Passed> {
        let Passed { mut wire, bytes, .. } = Passed::unseen(wire, head);
        let request = Request::of(&bytes, head);
        let mut law = Context::new(self.tables.pin(), clock::now(), clock::wall());
        let given = request.fields.first(REQUEST_ID.as_str()).filter(|id| forward::is_request_id(id));
        let given = given.and_then(|id| HeaderValue::from_bytes(id).ok());
        law.identify(given.unwrap_or_else(|| forward::new_request_id(fastrand::u128(..))));
        law.join(request.trace(), self.reports.tracer.as_deref());
        let delay = law.decide(&request.head(), wire.caller(), &self.counts);
        if law.limits().is_some() {
            return Err(Passed { wire, bytes, context: Some(Box::new(law)) });
        }
        let ended = self.perform(&mut wire, &request, &mut law, delay).await;
        let scheme = forward::scheme(wire.is_secure());
        self.reports.finished(&law, request.received(wire.protocol(), scheme), ended.status, clock::now());
        drop(law);
        if !ended.keep {
            return Ok(None);
        }
        // What is left of the body is read after the answer, if there is not too much of it.
        if !wire.has_no_more() && !drained(&mut wire).await {
            return Ok(None);
        }
        Ok(wire.is_at_boundary().then_some(wire))
    }

    async fn perform(
        &self,
        wire: &mut Wire,
        request: &Request<'_>,
        law: &mut Context,
        delay: Duration,
    ) -> Ended {
        let mut now = law.started;
        let mut upload = Upload::new(wire.has_no_more(), now);
        law.body_came(false, upload.has_ended(), || now);
        if !delay.is_zero() && !self.drain.has_begun() {
            if let Some(_held) = Held::enter(&self.delayed) {
                law.delayed();
                if let Err(broken) = unless_gone(sleep(delay), wire, &mut upload, law).await {
                    return self.broken(wire, request, &broken).await;
                }
            } else {
                tracing::debug!("too many requests are held; this one goes on at once");
            }
            now = clock::now();
        }
        let course = law.course(&request.head(), &self.counts, now);
        match course {
            Course::Forward => {
                law.begin_copy(&self.mirrors, now);
                self.forward(wire, request, law, upload, now).await
            }
            Course::Answer(reply) => self.answer(wire, request, &reply).await,
            Course::Close => Ended { status: 0, keep: false },
            Course::Reset => {
                wire.signals().reset();
                Ended { status: 0, keep: false }
            }
        }
    }

    /// There is an instance for the request: gives its copy the head, and what has come of the body.
    fn copy(wire: &Wire, request: &Request<'_>, law: &mut Context, upload: &Upload) {
        law.copy_head(|law, host| {
            let mut head = Vec::with_capacity(HEAD_BYTES);
            request.onward(law, wire, &law.upstream_path(request.path), host).write(&mut head);
            mirror::Head::read(&head)
        });
        law.copy_body(upload.so_far(), upload.has_ended());
    }

    /// Attempt after attempt, until an answer is passed on or none is left to make.
    async fn forward(
        &self,
        wire: &mut Wire,
        request: &Request<'_>,
        law: &mut Context,
        mut upload: Upload,
        mut now: Instant,
    ) -> Ended {
        loop {
            let cause = match self.attempt(wire, request, law, &mut upload, now).await {
                Attempted::Ended(ended) => return ended,
                // The law was asked when the status was seen.
                Attempted::Again => None,
                Attempted::Broken(broken) => return self.broken(wire, request, &broken).await,
                Attempted::Failed(cause) => Some(cause),
            };
            now = clock::now();
            if let Some(cause) = cause {
                // Whatever an attempt failed of, the end of the request's time is what its client is told.
                let late = law.is_late(now) && !cause.blames_nobody();
                let cause = if late { Cause::Late } else { cause };
                if !law.failed(cause, upload.replay(request.method, request.is_idempotent()), now) {
                    let reply = law.reply();
                    return self.answer(wire, request, &reply).await;
                }
            }
            upload.rewind();
            let wait = law.take_wait();
            if !wait.is_zero() {
                if let Err(broken) = unless_gone(sleep(wait), wire, &mut upload, law).await {
                    return self.broken(wire, request, &broken).await;
                }
                now = clock::now();
            }
        }
    }

    async fn attempt(
        &self,
        wire: &mut Wire,
        request: &Request<'_>,
        law: &mut Context,
        upload: &mut Upload,
        now: Instant,
    ) -> Attempted {
        let target = match law.begin_attempt(now) {
            Ok(target) => target,
            Err(cause) => return Attempted::Failed(cause),
        };
        let key = pool::Key::of(&target);
        let (upstream, used) = match pool::take(&key, target.requests_per_connection) {
            Some(kept) => kept,
            None => match unless_gone(pool::connect(&target, &self.secure), wire, upload, law).await {
                Ok(Ok(upstream)) => {
                    law.connected();
                    (upstream, 0)
                }
                Ok(Err(cause)) => return Attempted::Failed(cause),
                Err(broken) => return Attempted::Broken(broken),
            },
        };
        if law.copy_lacks_head() {
            Self::copy(wire, request, law, upload);
        }
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let host = law.host();
        let path = law.upstream_path(request.path);
        request.onward(law, wire, &path, host.as_deref()).write(&mut head);
        let mut exchange = Exchange::new(wire, upload, law, upstream, request.method, head);
        let answer = match exchange.answer().await {
            Ok(answer) => answer,
            Err(Failure::Instance(cause)) => return Attempted::Failed(cause),
            Err(Failure::Client(broken)) => return Attempted::Broken(broken),
        };
        let now = clock::now();
        let replay = exchange.upload.replay(request.method, request.is_idempotent());
        if exchange.law.answered(answer.status, replay, now) {
            return Attempted::Again;
        }
        let status = answer.status;
        let keep = self.may_go_on(exchange.wire, request);
        let relayed = exchange.relay(&answer, !keep).await;
        let begun = exchange.has_begun();
        match relayed {
            Relayed::Whole => {
                let (endpoint, used) = (exchange.law.endpoint(), used.saturating_add(1));
                let again = answer.keep_alive && used < target.requests_per_connection;
                if let Some(upstream) = exchange.into_reusable().filter(|_| again) {
                    pool::put(key, upstream, used, endpoint, now);
                }
                Attempted::Ended(Ended { status, keep })
            }
            Relayed::BrokeOff(cause) => {
                if status < 500 {
                    exchange.law.broke_off(cause, clock::now());
                }
                Attempted::Ended(Ended { status, keep: false })
            }
            Relayed::ClientGone => {
                Attempted::Ended(Ended { status: if begun { status } else { CLIENT_LEFT }, keep: false })
            }
        }
    }

    /// Whether another request may follow this one, whose answer is about to be sent. What is left of its body then has to
    /// be read, and there must not be too much of that.
    fn may_go_on(&self, wire: &Wire, request: &Request<'_>) -> bool {
        request.keep_alive && is_drainable(wire) && !self.drain.has_begun()
    }

    /// The end of a request that its client did not finish.
    async fn broken(&self, wire: &mut Wire, request: &Request<'_>, broken: &Broken) -> Ended {
        match broken {
            Broken::Malformed => {
                self.answer(wire, request, &Reply::bad_request("the body of the request is malformed")).await
            }
            Broken::Gone => Ended { status: CLIENT_LEFT, keep: false },
        }
    }

    /// An answer of the proxy's own.
    async fn answer(&self, wire: &mut Wire, request: &Request<'_>, reply: &Reply) -> Ended {
        // What only announces an answer cannot be one, and whoever is late with a request is waited for no longer.
        let keep = self.may_go_on(wire, request) && reply.status >= 200 && reply.status != 408;
        let mut out = Vec::with_capacity(HEAD_BYTES);
        reply.write_http1(request.method == "HEAD", !keep, &mut out);
        let until = clock::now() + CLIENT_WITHIN;
        let mut sent = 0;
        let written = std::future::poll_fn(|cx| {
            while sent < out.len() {
                match wire.poll_send(cx, &[IoSlice::new(&out[sent..])]) {
                    Poll::Ready(Ok(written @ 1..)) => sent += written,
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending => return wire.poll_alarm(until, cx).map(|()| false),
                }
            }
            match wire.poll_sent(cx) {
                Poll::Ready(sent) => Poll::Ready(sent.is_ok()),
                Poll::Pending => wire.poll_alarm(until, cx).map(|()| false),
            }
        })
        .await;
        let heard = sent > 0 && (reply.status >= 200 || wire.takes_interim());
        Ended { status: if heard { reply.status } else { CLIENT_LEFT }, keep: keep && written }
    }
}

/// What came of one attempt.
enum Attempted {
    Ended(Ended),
    /// The instance answered, and another is tried.
    Again,
    /// The client did not finish its request.
    Broken(Broken),
    Failed(Cause),
}

impl<'a> Request<'a> {
    /// `bytes` are those of `head`.
    fn of(bytes: &'a [u8], head: &'a Head) -> Self {
        // Checked to be visible ASCII when it was read.
        let text =
            |range: &std::ops::Range<usize>| std::str::from_utf8(&bytes[range.clone()]).unwrap_or_default();
        let target = text(&head.target);
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let fields = head.fields(bytes);
        let host = fields.first("host").and_then(|host| std::str::from_utf8(host).ok());
        Self {
            method: text(&head.method),
            target,
            path,
            query,
            authority: host.unwrap_or_default(),
            fields,
            keep_alive: head.keep_alive,
        }
    }

    fn head(&self) -> RequestHead<'_> {
        RequestHead {
            method: self.method,
            path: self.path,
            query: self.query.strip_prefix('?').unwrap_or_default(),
            authority: self.authority,
            headers: &self.fields,
        }
    }

    /// The head for an instance; `host` takes the place of what the client named.
    fn onward<'o>(
        &'o self,
        law: &'o Context,
        wire: &Wire,
        path: &'o str,
        host: Option<&'o str>,
    ) -> Onward<'o> {
        Onward {
            method: self.method,
            path,
            query: self.query.as_bytes(),
            fields: self.fields,
            host,
            request_id: law.request_id.as_bytes(),
            caller: wire.caller(),
            scheme: forward::scheme(wire.is_secure()),
            trace: law.trace(),
            edits: law.request_edits(),
        }
    }

    /// RFC 9110 9.2.2.
    fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
    }

    fn trace(&self) -> Carried {
        Carried::of(self.fields.iter())
    }

    fn received(&self, protocol: &'static str, scheme: &'static str) -> Received<'_> {
        Received {
            method: self.method,
            scheme,
            path: self.target,
            protocol,
            authority: self.authority.as_bytes(),
            x_forwarded: self.fields.first(FORWARDED_FOR.as_str()).unwrap_or_default(),
            user_agent: self.fields.first("user-agent").unwrap_or_default(),
        }
    }
}

/// Waits for `future`; ends early when the client leaves. A short body is read meanwhile: the only way to see past it.
async fn unless_gone<T>(
    future: impl Future<Output = T>,
    wire: &mut Wire,
    upload: &mut Upload,
    law: &mut Context,
) -> Result<T, Broken> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if let Poll::Ready(broken) = upload.poll_ahead(wire, law, cx) {
            return Poll::Ready(Err(broken));
        }
        wire.poll_gone(cx).map(|()| Err(Broken::Gone))
    })
    .await
}

/// Whether little enough of the request's body is left.
fn is_drainable(wire: &Wire) -> bool {
    wire.left_of_body().is_some_and(|left| left <= REPLAY_BYTES_MAX)
}

/// Reads the rest of a body that nobody wants; whether the connection is at a boundary then.
async fn drained(wire: &mut Wire) -> bool {
    if !is_drainable(wire) {
        return false;
    }
    let until = clock::now() + DRAIN_WITHIN;
    std::future::poll_fn(|cx| {
        let mut buffer = buffers::Buffer::take();
        while !wire.has_no_more() {
            match buffer.poll_fill(|space| wire.poll_body(cx, space)) {
                Poll::Ready(Ok(read @ 1..)) => buffer.consume(read),
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return wire.poll_alarm(until, cx).map(|()| false),
            }
        }
        Poll::Ready(true)
    })
    .await
}
