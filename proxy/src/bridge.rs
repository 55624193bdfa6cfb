//! Connections over which an HTTP/1.1 client's gRPC call goes to an instance in HTTP/2: the engine speaks HTTP/1.1 over them, and
//! finds one whole answer whose header says what the trailers said. What the call is worth to the law, and what becomes of its
//! status, is decided elsewhere; how one protocol is said in the other is [`words`].

mod words;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::buf::Chain;
use bytes::{Buf as _, Bytes, BytesMut};
use pingora::connectors::http::v2::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::protocols::http::v2::write_body;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::runtime::Handle;

use self::words::{Call, Rest};
use crate::context::{Cause, Target};
use crate::head;
use crate::shortage::NoRoots;
use crate::tls;
use crate::upstream::{self, Protocol};

/// The body of an answer is held up to this size. A longer one is no answer to a call that is not a stream.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A request goes on in pieces of this size: whoever is called can do nothing before all of it is there, and does not put up with
/// many small frames on a connection that carries the calls of others as well.
const FRAME_BYTES_USUAL: usize = 8 * 1024;
/// Of a request, on its way from the engine to the call.
const PIPE_BYTES: usize = 16 * 1024;

/// The connections of one thread to instances that are called so. Made for the first call: most proxies have none, and the
/// certificates of all authorities take memory.
#[derive(Default)]
pub(crate) struct Bridges(OnceLock<Connector>);

/// One call, as a connection of HTTP/1.1.
pub(crate) struct Bridge {
    /// Takes the request, and brings what comes before the answer.
    near: DuplexStream,
    call: Stage,
}

enum Stage {
    /// Nobody ever locks it: it is what makes this `Sync`.
    Open(Mutex<Pin<Box<Exchange>>>),
    Answered(Answer),
    Failed(Failure),
}

/// What happens at the other end.
type Exchange = dyn Future<Output = std::result::Result<Answer, Failure>> + Send;

/// A whole answer of HTTP/1.1: its head, and its body.
type Answer = Chain<Bytes, Bytes>;

/// The call did not bring an answer that can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call over HTTP/2 failed: {0:?}")]
pub(crate) struct Failure(Cause);

/// The stream of one call, given back however the call ends.
struct Lent {
    session: Option<Http2Session>,
    peer: Box<HttpPeer>,
    bridges: Arc<Bridges>,
}

/// What a call failed of, where an error is of one.
pub(crate) fn cause(error: &Error) -> Option<Cause> {
    let inner = error.root_cause().downcast_ref::<io::Error>()?.get_ref()?;
    inner.downcast_ref::<Failure>().map(|failure| failure.0)
}

impl Bridges {
    /// A stream for one call, on a connection that is there already if one has room.
    pub(crate) async fn connect(self: &Arc<Self>, target: &Target) -> Result<Bridge> {
        let peer = upstream::peer(target, Protocol::Http2);
        let peer = peer.ok_or_else(|| Error::new_up(ErrorType::ConnectError))?;
        let connector = self.connector()?;
        // One that cannot take a stream any more is as good as none.
        let session = match connector.reused_http_session(&*peer).await.ok().flatten() {
            Some(session) => session,
            None => match connector.new_http_session::<_, ()>(&*peer).await? {
                HttpSession::H2(session) => session,
                _ => return Err(Error::explain(ErrorType::ConnectError, "HTTP/2 is not spoken there")),
            },
        };
        let scheme = if target.tls_name.is_some() { "https" } else { "http" };
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let lent = Lent { session: Some(session), peer, bridges: Arc::clone(self) };
        Ok(Bridge { near, call: Stage::Open(Mutex::new(Box::pin(exchange(far, lent, scheme)))) })
    }

    fn connector(&self) -> Result<&Connector> {
        if self.0.get().is_none() {
            // They could be read at the start, and may have gone since.
            tls::check_roots()
                .map_err(NoRoots)
                .or_err(ErrorType::InternalError, "before connecting to an instance")?;
        }
        Ok(self.0.get_or_init(|| Connector::new(None)))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Giving back begins a task, which waits for the connection to be idle for too long.
        if let (Some(session), Ok(connector), Ok(_)) =
            (self.session.take(), self.bridges.connector(), Handle::try_current())
        {
            connector.release_http_session(session, &*self.peer, self.peer.options.idle_timeout);
        }
    }
}

impl Failure {
    /// What the client of HTTP/2 says, as a cause.
    fn by(mut error: Box<Error>) -> Self {
        error.as_up();
        Self(upstream::cause(&error).unwrap_or(Cause::Unanswered))
    }

    fn as_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// The other end: takes the request from the engine, calls, and waits for all of the answer.
async fn exchange(
    far: DuplexStream,
    mut lent: Lent,
    scheme: &'static str,
) -> std::result::Result<Answer, Failure> {
    let session = lent.session.as_mut().ok_or(Failure(Cause::Unanswered))?;
    let (mut coming, mut going) = tokio::io::split(far);
    let mut held = BytesMut::new();
    let head = head(&mut coming, &mut held).await?;
    let Call { header, mut rest, expects } =
        words::call(&head, scheme).ok_or(Failure(Cause::Unintelligible))?;
    if expects {
        let said = going.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        said.map_err(|_| Failure(Cause::Unanswered))?;
    }
    // Nobody has seen a request whose stream could not be opened.
    let opened = session.write_request_header(Box::new(header), rest == Rest::None);
    opened.map_err(|_| Failure(Cause::RefusedStream))?;
    let writer = session.take_request_body_writer().filter(|_| rest != Rest::None);
    let sending = async {
        let Some(mut writer) = writer else { return Ok(()) };
        let mut data = BytesMut::new();
        loop {
            let end = words::sift(&mut rest, &mut held, &mut data).ok_or(Failure(Cause::Unanswered))?;
            if end || data.len() >= FRAME_BYTES_USUAL {
                let sent = write_body(&mut writer, data.split().freeze(), end, None).await;
                if end || sent.is_err() {
                    // Whatever was wrong, the answer tells.
                    return Ok(());
                }
            }
            more(&mut coming, &mut held).await?;
        }
    };
    let mut answering = pin!(answer(session));
    tokio::select! {
        // An answer may be there before the request is; nobody wants the rest then.
        biased;
        answer = &mut answering => answer,
        sent = sending => match sent {
            Ok(()) => answering.await,
            Err(failure) => Err(failure),
        },
    }
}

/// Waits for all of the answer: its head as HTTP/1.1, and its body.
async fn answer(session: &mut Http2Session) -> std::result::Result<Answer, Failure> {
    session.read_response_header().await.map_err(Failure::by)?;
    let (mut body, mut trailers) = (BytesMut::new(), None);
    let says_all = session.response_header().is_some_and(words::has_status);
    while !(says_all && session.response_finished()) {
        match session.read_response_body().await {
            Ok(Some(piece)) if body.len() + piece.len() > ANSWER_BYTES_MAX => {
                return Err(Failure(Cause::Oversized));
            }
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => {
                trailers = session.read_trailers().await.map_err(Failure::by)?;
                break;
            }
            // It said all before the connection broke.
            Err(_) if says_all && body.is_empty() => break,
            Err(error) => return Err(Failure::by(error)),
        }
    }
    let head = session.response_header().and_then(|head| words::answer(head, trailers.as_ref(), body.len()));
    Ok(Bytes::from(head.ok_or(Failure(Cause::Untold))?).chain(body.freeze()))
}

/// The head of the request; what came behind it stays in `held`.
async fn head(
    coming: &mut (impl AsyncRead + Unpin),
    held: &mut BytesMut,
) -> std::result::Result<Bytes, Failure> {
    let mut seen = 0;
    loop {
        if let Some(end) = head::end_of_head(held, seen) {
            return Ok(held.split_to(end).freeze());
        }
        seen = held.len();
        if seen > words::HEAD_BYTES_MAX {
            return Err(Failure(Cause::Unintelligible));
        }
        more(coming, held).await?;
    }
}

/// More of the request. It does not end early: whoever gives it up drops the connection.
async fn more(
    coming: &mut (impl AsyncRead + Unpin),
    held: &mut BytesMut,
) -> std::result::Result<(), Failure> {
    held.reserve(PIPE_BYTES);
    match coming.read_buf(held).await {
        Ok(1..) => Ok(()),
        _ => Err(Failure(Cause::Unanswered)),
    }
}

impl Bridge {
    /// Lets the other end go on.
    fn advance(&mut self, cx: &mut Context<'_>) {
        let Stage::Open(call) = &mut self.call else { return };
        let call = call.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.call = match call.as_mut().poll(cx) {
            Poll::Ready(Ok(answer)) => Stage::Answered(answer),
            Poll::Ready(Err(failure)) => Stage::Failed(failure),
            Poll::Pending => return,
        };
    }
}

impl AsyncRead for Bridge {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.advance(cx);
        let Self { near, call } = &mut *self;
        let answer = match call {
            Stage::Open(_) => return Pin::new(near).poll_read(cx, buf),
            Stage::Failed(failure) => return Poll::Ready(Err(failure.as_io())),
            Stage::Answered(answer) => answer,
        };
        let before = buf.filled().len();
        ready!(Pin::new(near).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            let len = answer.chunk().len().min(buf.remaining());
            buf.put_slice(&answer.chunk()[..len]);
            answer.advance(len);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bridge {
    /// Fails once there is an answer: the rest of the request is for nobody.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.advance(cx);
        if let Stage::Failed(failure) = &self.call {
            return Poll::Ready(Err(failure.as_io()));
        }
        let written = Pin::new(&mut self.near).poll_write(cx, buf);
        if written.is_ready() {
            self.advance(cx);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").finish_non_exhaustive()
    }
}
