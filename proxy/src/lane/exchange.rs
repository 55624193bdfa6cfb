//! One attempt: the request goes to an instance and its answer comes back, both at the same time where they have to. What
//! follows from a failure is the law's to say.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::download::{Download, Left};
use super::pool::Upstream;
use super::upload::{Broken, Stuck, Upload, poll_some};
use crate::answer::{self, ANSWER_HEAD_BYTES_MAX, Answer};
use crate::context::{self, CLIENT_WITHIN, Cause};
use crate::wire::Wire;
use crate::{clock, head, lines};

/// One attempt under way.
pub(super) struct Exchange<'r> {
    pub(super) wire: &'r mut Wire,
    pub(super) upload: &'r mut Upload,
    pub(super) law: &'r mut context::Context,
    upstream: Upstream,
    method: &'r str,
    /// The head for the instance, until it is sent.
    head: Vec<u8>,
    sending: Sending,
    download: Download,
    /// How much of what came was searched for the end of a head.
    seen: usize,
    /// Until when whoever is waited for now may take.
    until: Option<Instant>,
}

/// How far the request has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// So many bytes of its head are sent.
    Head(usize),
    Body,
    Done,
    /// The instance takes no more of it.
    Broken,
}

/// How an attempt ended before the client saw anything of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The instance is to blame.
    Instance(Cause),
    /// The client has gone, or broke its request.
    Client(Broken),
}

/// How an answer that may be seen ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relayed {
    Whole,
    /// The instance is to blame.
    BrokeOff(Cause),
    ClientGone,
}

/// What a relay waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    /// The client, to read.
    Client,
    /// The instance, to send.
    Instance,
    /// The rest of the request; its answer has gone out.
    Request,
}

impl<'r> Exchange<'r> {
    /// A request with this head, and what is in `upload`, to `upstream`.
    pub(super) fn new(
        wire: &'r mut Wire,
        upload: &'r mut Upload,
        law: &'r mut context::Context,
        upstream: Upstream,
        method: &'r str,
        head: Vec<u8>,
    ) -> Self {
        let (sending, download) = (Sending::Head(0), Download::new());
        Self { wire, upload, law, upstream, method, head, sending, download, seen: 0, until: None }
    }

    /// Sends the request, as far as it has to be, and waits for the head of the answer.
    pub(super) async fn answer(&mut self) -> Result<Answer, Failure> {
        std::future::poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// Passes the answer on, as far as that can be done.
    pub(super) async fn relay(&mut self, answer: &Answer, close: bool) -> Relayed {
        self.upload.settle();
        // The memory of the request's head, once that is sent, serves the answer's.
        let mut head =
            if self.sending == Sending::Done { std::mem::take(&mut self.head) } else { Vec::new() };
        head.clear();
        if let Some(buffer) = self.download.buffer() {
            lines::write_answer(answer, &buffer.filled()[..answer.len], close, &mut head);
        }
        if let Some(edits) = self.law.answer_edits() {
            lines::edit(edits, 0, &mut head);
        }
        self.download.consume(answer.len);
        self.download.begin(head, answer.framing);
        std::future::poll_fn(|cx| self.poll_relay(cx)).await
    }

    /// Whether the client saw anything of the answer.
    pub(super) fn has_begun(&self) -> bool {
        self.download.passed() > 0
    }

    /// The connection to the instance, if nothing of this request is left on it.
    pub(super) fn into_reusable(self) -> Option<Upstream> {
        (self.sending == Sending::Done && self.download.has_no_surplus()).then_some(self.upstream)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        if let Poll::Ready(broken) = self.poll_request(cx) {
            return Poll::Ready(Err(Failure::Client(broken)));
        }
        if let Poll::Ready(answer) = self.poll_head(cx) {
            return Poll::Ready(answer.map_err(Failure::Instance));
        }
        // Interim answers do not wait for the answer.
        let is_cut = self.wire.unsent() > 0 && matches!(self.wire.poll_sent(cx), Poll::Ready(Err(_)));
        if is_cut || self.wire.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failure::Client(Broken::Gone)));
        }
        let mut until = self.law.answer_until();
        if !self.upload.has_ended() && !self.has_unsent() {
            until = until.min(self.upload.came() + CLIENT_WITHIN);
        }
        self.wire.poll_alarm(until, cx).map(|()| Err(Failure::Instance(self.lateness(clock::now()))))
    }

    fn lateness(&self, now: Instant) -> Cause {
        self.law.lateness(self.has_unsent(), now)
    }

    /// Whether something of the request is here that the instance does not take.
    fn has_unsent(&self) -> bool {
        match self.sending {
            Sending::Head(_) | Sending::Broken => true,
            Sending::Body => self.upload.has_unsent(),
            Sending::Done => false,
        }
    }

    /// Sends what can be sent; ready only when the client has broken its request.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        loop {
            let sent = match self.sending {
                Sending::Done | Sending::Broken => return Poll::Pending,
                Sending::Head(sent) => match self.poll_send_head(sent, cx) {
                    Poll::Ready(sent) => sent.map(|()| Sending::Body),
                    Poll::Pending => return Poll::Pending,
                },
                Sending::Body => match self.upload.poll_send(&mut self.upstream, self.wire, self.law, cx) {
                    Poll::Ready(sent) => sent.map(|()| Sending::Done),
                    Poll::Pending => return Poll::Pending,
                },
            };
            match sent {
                Ok(next) => self.sending = next,
                // It may have said why before it stopped reading.
                Err(Stuck::Upstream) => self.sending = Sending::Broken,
                Err(Stuck::Client(broken)) => return Poll::Ready(broken),
            }
        }
    }

    fn poll_send_head(&mut self, mut sent: usize, cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        if sent == 0 {
            self.upload.join(&mut self.head, self.wire, self.law, cx)?;
        }
        while sent < self.head.len() {
            match poll_some(&mut self.upstream, cx, &self.head[sent..]) {
                Poll::Ready(written) => sent += written?,
                Poll::Pending => {
                    self.sending = Sending::Head(sent);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Cause>> {
        loop {
            while let Some(buffer) = self.download.buffer() {
                let there = buffer.filled();
                let Some(end) = head::end_of_head(there, self.seen) else {
                    self.seen = there.len();
                    if there.len() > ANSWER_HEAD_BYTES_MAX {
                        return Poll::Ready(Err(Cause::Unintelligible));
                    }
                    if buffer.is_full() {
                        buffer.grow(2 * ANSWER_HEAD_BYTES_MAX);
                    }
                    break;
                };
                self.seen = 0;
                let answer = match answer::read(&there[..end], self.method) {
                    // Nothing was asked that it could switch to.
                    Ok(answer) if answer.status != 101 => answer,
                    _ => return Poll::Ready(Err(Cause::Unintelligible)),
                };
                if !answer.is_interim() {
                    return Poll::Ready(Ok(answer));
                }
                // Whoever sends nothing else would never let anything else be looked at.
                let now = clock::now();
                if now >= self.law.answer_until() {
                    return Poll::Ready(Err(self.lateness(now)));
                }
                self.pass_interim(&answer);
            }
            match self.download.poll_more(&mut self.upstream, cx) {
                Poll::Ready(Some(1..)) => {}
                Poll::Ready(Some(0) | None) => return Poll::Ready(Err(Cause::Unanswered)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// An answer before the answer, such as 103, is for the client; more of them than it takes are for nobody.
    fn pass_interim(&mut self, answer: &Answer) {
        let Some(buffer) = self.download.buffer() else { return };
        if self.wire.unsent() <= ANSWER_HEAD_BYTES_MAX {
            let mut head = Vec::new();
            lines::write_answer(answer, &buffer.filled()[..answer.len], false, &mut head);
            self.wire.gather(&head);
        }
        self.download.consume(answer.len);
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Relayed> {
        let before = (self.download.passed(), self.sending, self.upload.came());
        let awaits = match self.pass_on(cx) {
            Ok(awaits) => awaits,
            Err(relayed) => return Poll::Ready(relayed),
        };
        match self.poll_request(cx) {
            // Its answer is whole all the same.
            Poll::Ready(_) if awaits == Awaits::Request => return Poll::Ready(Relayed::Whole),
            Poll::Ready(_) => return Poll::Ready(Relayed::ClientGone),
            Poll::Pending => {}
        }
        if awaits == Awaits::Request && matches!(self.sending, Sending::Done | Sending::Broken) {
            return Poll::Ready(Relayed::Whole);
        }
        if self.wire.poll_gone(cx).is_ready() {
            return Poll::Ready(Relayed::ClientGone);
        }
        let moved = before != (self.download.passed(), self.sending, self.upload.came());
        let until = match self.until {
            Some(until) if !moved => until,
            _ => clock::now() + self.patience(awaits),
        };
        self.until = Some(until);
        self.wire.poll_alarm(until, cx).map(|()| match awaits {
            Awaits::Client => Relayed::ClientGone,
            Awaits::Instance => Relayed::BrokeOff(Cause::Late),
            Awaits::Request => Relayed::Whole,
        })
    }

    /// Passes on what there is of the answer, until somebody has to be waited for.
    fn pass_on(&mut self, cx: &mut Context<'_>) -> Result<Awaits, Relayed> {
        loop {
            match self.download.poll_pass(self.wire, cx) {
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(_)) => return Err(Relayed::ClientGone),
                Poll::Pending => return Ok(Awaits::Client),
            }
            let awaits = match self.download.left() {
                Left::Broken(cause) => return Err(Relayed::BrokeOff(cause)),
                Left::Nothing => Awaits::Request,
                _ => match self.download.poll_more(&mut self.upstream, cx) {
                    Poll::Ready(Some(1..)) => continue,
                    Poll::Ready(Some(0)) if self.download.end() => continue,
                    Poll::Ready(_) => return Err(Relayed::BrokeOff(Cause::Unanswered)),
                    Poll::Pending => Awaits::Instance,
                },
            };
            // What there is goes out before anything else is waited for.
            return match self.wire.poll_sent(cx) {
                Poll::Ready(Ok(())) => Ok(awaits),
                Poll::Ready(Err(_)) => Err(Relayed::ClientGone),
                Poll::Pending => Ok(Awaits::Client),
            };
        }
    }

    fn patience(&self, awaits: Awaits) -> Duration {
        match awaits {
            Awaits::Client | Awaits::Request => CLIENT_WITHIN,
            Awaits::Instance => self.law.timeout(),
        }
    }
}
