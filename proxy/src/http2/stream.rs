//! One stream of an HTTP/2 connection as a connection of HTTP/1.1 that carries one request: what is read of it is the body
//! of the request, and what is written to it is an answer. Heads are understood, not copied. It decides nothing.

use std::fmt;
use std::future::Future;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use h2::SendStream;
use http::{HeaderName, HeaderValue};
use pingora::http::ResponseHeader;
use pingora::protocols::http::v2::server::HttpSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::waiting::Waiting;
use crate::answer::{self, Framing};
use crate::chunks::{BadChunks, Chunks};
use crate::forward::is_of_one_hop;
use crate::head::{Body, end_of_head};

/// The end of a body that comes in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Room for the fields that instances usually send.
const FIELDS_USUAL: usize = 16;

/// One stream.
pub(super) struct Http2Stream {
    session: HttpSession,
    /// The body of the request is read in chunks.
    chunked: bool,
    /// All of the request has come.
    has_ended: bool,
    /// Came and was not read.
    unread: Bytes,
    answer: Answer,
    /// What of the answer the connection has not taken.
    waiting: Waiting,
}

/// How far the answer has got.
enum Answer {
    /// Its head has not come.
    Head,
    Body(SendStream<Bytes>, Left),
    Ended,
}

/// What is to come of its body.
#[derive(Debug, Clone, Copy)]
enum Left {
    Length(u64),
    Chunked(Chunks),
}

/// What was taken of a body.
struct Taken {
    /// Its bytes, without framing.
    content: Vec<u8>,
    /// How much of what was written that was.
    used: usize,
    /// What comes then; `None`: nothing.
    left: Option<Left>,
}

impl Http2Stream {
    /// A stream whose request has come, but for what `body` says.
    pub(super) fn new(session: HttpSession, body: Body) -> Self {
        Self {
            session,
            chunked: body == Body::Chunked,
            has_ended: body == Body::None,
            unread: Bytes::new(),
            answer: Answer::Head,
            waiting: Waiting::default(),
        }
    }

    /// The stream as Pingora gave it, of which nothing was read.
    pub(super) fn into_session(self) -> HttpSession {
        self.session
    }

    /// Ready when the client has reset the stream, or left.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.answer {
            Answer::Head => Pin::new(&mut self.session.idle()).poll(cx).map(|_| ()),
            Answer::Body(writer, _) => writer.poll_reset(cx).map(|_| ()),
            Answer::Ended => Poll::Pending,
        }
    }

    /// Frames what came.
    fn frame(&self, data: Bytes) -> Bytes {
        if !self.chunked {
            return data;
        }
        let mut framed = Vec::with_capacity(data.len() + 16);
        write!(framed, "{:x}\r\n", data.len()).expect("memory takes everything");
        framed.extend_from_slice(&data);
        framed.extend_from_slice(b"\r\n");
        framed.into()
    }

    /// Takes some of these bytes, which begin with a head where none was sent.
    fn poll_take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut used = 0;
        while let (Answer::Head, rest @ [_, ..]) = (&self.answer, &bytes[used..]) {
            // The lane gives every head as a whole.
            let len = end_of_head(rest, 0).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            self.begin(&rest[..len])?;
            used += len;
        }
        while used < bytes.len() {
            match self.poll_send(cx, &bytes[used..]) {
                Poll::Ready(sent) => used += sent?,
                Poll::Pending if used > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(used))
    }

    /// Sends the head of the answer. One before the answer is left out: Pingora's streams know no such.
    fn begin(&mut self, bytes: &[u8]) -> io::Result<()> {
        let broken = |_| io::Error::from(io::ErrorKind::InvalidData);
        let method = self.session.req_header().method.as_str();
        let answer = answer::read(bytes, method).map_err(broken)?;
        if answer.is_interim() {
            return Ok(());
        }
        let left = match answer.framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(length) => Some(Left::Length(length)),
            // The lane ends every body by itself.
            Framing::Chunked | Framing::UntilClose => Some(Left::Chunked(Chunks::new())),
        };
        let fields = answer.fields(bytes);
        let mut header = ResponseHeader::build_no_case(answer.status, Some(FIELDS_USUAL)).map_err(gone)?;
        for (name, value) in fields.iter() {
            // RFC 9113 8.2.2.
            if is_of_one_hop(name) || name.eq_ignore_ascii_case(b"transfer-encoding") {
                continue;
            }
            let unfit = |_| io::Error::from(io::ErrorKind::InvalidData);
            let name = HeaderName::from_bytes(name).map_err(unfit)?;
            let value =
                HeaderValue::from_bytes(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            header.append_header(name, value).map_err(gone)?;
        }
        self.session.write_response_header(Box::new(header), left.is_none()).map_err(gone)?;
        let writer = self.session.take_response_body_writer();
        self.answer = match (left, writer) {
            (Some(left), Some(writer)) => Answer::Body(writer, left),
            _ => Answer::Ended,
        };
        Ok(())
    }

    /// Sends some of the body, as the client has room for it.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Answer::Body(writer, left) = &mut self.answer else {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        };
        let mut room = 0;
        if left.has_content(bytes)? {
            ready!(self.waiting.poll_room(cx));
            room = ready!(poll_room(writer, cx, bytes.len()))?;
        }
        let Taken { content, used, left: next } = left.take(bytes, room)?;
        if !content.is_empty() || next.is_none() {
            writer.send_data(self.waiting.piece(content), next.is_none()).map_err(|_| broken_pipe())?;
        }
        match next {
            Some(next) => *left = next,
            None => self.answer = Answer::Ended,
        }
        Poll::Ready(Ok(used))
    }
}

impl Left {
    /// Whether anything among `bytes` needs room.
    fn has_content(mut self, bytes: &[u8]) -> io::Result<bool> {
        match &mut self {
            Self::Length(_) => Ok(!bytes.is_empty()),
            Self::Chunked(chunks) => Ok(!chunks.content(bytes).map_err(malformed)?.is_empty()),
        }
    }

    /// Takes at most `room` bytes of content, all in one piece however they came, and with it the end if that is there.
    fn take(self, bytes: &[u8], room: usize) -> io::Result<Taken> {
        match self {
            Self::Length(left) => {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()).min(room);
                let left = left - len as u64;
                let left = (left > 0).then_some(Self::Length(left));
                Ok(Taken { content: bytes[..len].to_vec(), used: len, left })
            }
            Self::Chunked(mut chunks) => {
                let mut content = Vec::with_capacity(room.min(bytes.len()));
                let mut used = 0;
                while used < bytes.len() && !chunks.is_done() {
                    let mut next = chunks;
                    let mut piece = next.content(&bytes[used..]).map_err(malformed)?;
                    let fits = room - content.len();
                    if piece.len() > fits {
                        if fits == 0 {
                            break;
                        }
                        next = chunks;
                        piece = next.content(&bytes[used..][..piece.start + fits]).map_err(malformed)?;
                    }
                    content.extend_from_slice(&bytes[used..][piece.clone()]);
                    (chunks, used) = (next, used + piece.end);
                }
                Ok(Taken { content, used, left: (!chunks.is_done()).then_some(Self::Chunked(chunks)) })
            }
        }
    }
}

/// How many of `wanted` bytes the client has room for: at least one.
fn poll_room(writer: &mut SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
    writer.reserve_capacity(wanted);
    match writer.capacity() {
        0 => match ready!(writer.poll_capacity(cx)) {
            Some(Ok(room)) => Poll::Ready(Ok(room)),
            Some(Err(_)) | None => Poll::Ready(Err(broken_pipe())),
        },
        room => Poll::Ready(Ok(room)),
    }
}

fn malformed(bad: BadChunks) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, bad)
}

fn gone(_: Box<pingora::Error>) -> io::Error {
    broken_pipe()
}

fn broken_pipe() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() || buf.remaining() == 0 {
            // Also what there is to say to a reader without room.
            if self.has_ended || buf.remaining() == 0 {
                return self.poll_gone(cx).map(Ok);
            }
            match ready!(self.session.poll_read_body_bytes(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => self.unread = self.frame(data),
                Some(Err(_)) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => {
                    self.has_ended = true;
                    if self.chunked {
                        self.unread = Bytes::from_static(LAST_CHUNK);
                    }
                }
            }
        }
        let len = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..len]);
        self.unread.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_take(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
            match self.poll_take(cx, buf) {
                Poll::Ready(taken) => {
                    let taken = taken?;
                    written += taken;
                    if taken < buf.len() {
                        break;
                    }
                }
                Poll::Pending if written > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Whatever was sent is the connection's to write.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The stream ends when it is dropped, and h2 resets one whose answer is not whole.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Http2Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Stream").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Http2Stream {
    async fn shutdown(&mut self) {}
}

impl UniqueID for Http2Stream {
    /// It has no socket of its own.
    fn id(&self) -> UniqueIDType {
        -1
    }
}

impl Ssl for Http2Stream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.session.digest()?.ssl_digest.clone()
    }
}

impl GetTimingDigest for Http2Stream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Http2Stream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Http2Stream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.session.digest()?.socket_digest.clone()
    }
}

impl Peek for Http2Stream {}
