//! Connections over which nothing more is sent once the instance has refused the request and takes no more of it
//! (RFC 9110 7.5): Pingora does not look at an answer while it waits to send, and would wait until the request's time is
//! over. They pass everything on as it is.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Taken from the instance at once while nothing can be sent to it.
const READ_BYTES: usize = 4096;
/// An answer whose status is not known by then is not waited for.
const BEFORE_STATUS_BYTES_MAX: usize = 64 * 1024;
/// `HTTP/1.1 404`.
const STATUS_BYTES: usize = 12;

/// One connection, for one request.
#[derive(Debug)]
pub(crate) struct Attentive<S> {
    stream: S,
    /// Read ahead, and not yet asked for.
    held: BytesMut,
    answer: Answer,
}

/// What is known of the answer.
#[derive(Debug)]
enum Answer {
    /// So much of it came, after those that only announce it.
    Begins(BytesMut),
    /// It wants the request.
    Wants,
    /// Whatever is still sent is for nobody.
    Refuses,
}

impl Answer {
    /// Takes note of what came.
    fn learn(&mut self, came: &[u8]) {
        let Self::Begins(text) = self else { return };
        text.extend_from_slice(came);
        while let Some(line) = text.get(..STATUS_BYTES) {
            let status = std::str::from_utf8(&line[9..]).ok().and_then(|status| status.parse::<u16>().ok());
            match status.filter(|_| line.starts_with(b"HTTP/1.")) {
                Some(100 | 102..=199) => match text.windows(4).position(|end| end == b"\r\n\r\n") {
                    Some(end) => text.advance(end + 4),
                    None if text.len() < BEFORE_STATUS_BYTES_MAX => return,
                    None => return *self = Self::Wants,
                },
                Some(300..) => return *self = Self::Refuses,
                _ => return *self = Self::Wants,
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Attentive<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, held: BytesMut::new(), answer: Answer::Begins(BytesMut::new()) }
    }

    /// Looks at what the instance says while it takes nothing.
    fn is_refused(&mut self, cx: &mut Context<'_>) -> bool {
        while let Answer::Begins(_) = self.answer {
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut buf = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.answer.learn(buf.filled());
                    self.held.extend_from_slice(buf.filled());
                }
                // Whoever reads, or writes on, learns it.
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        matches!(self.answer, Answer::Refuses)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attentive<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            let len = buf.remaining().min(self.held.len());
            buf.put_slice(&self.held[..len]);
            self.held.advance(len);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.answer.learn(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Attentive<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_pending() && self.is_refused(cx) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    const LONG: [u8; 256] = [b'x'; 256];

    /// Whether something longer than an instance takes is sent, refused, or waited for, when this has come.
    async fn sent(answer: &[u8]) -> Option<bool> {
        let (near, mut far) = tokio::io::duplex(128);
        let mut near = Attentive::new(near);
        far.write_all(answer).await.unwrap();
        let written = timeout(Duration::from_secs(1), near.write_all(&LONG)).await;
        let mut came = vec![0; answer.len()];
        near.read_exact(&mut came).await.unwrap();
        assert_eq!(came, answer, "nothing is lost");
        written.ok().map(|written| written.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_not_sent_on_and_the_refusal_is_there_to_read() {
        for refusal in [
            "HTTP/1.1 413 Too Large\r\n\r\n",
            "HTTP/1.0 500",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nA: b\r\n\r\nHTTP/1.1 401 Who\r\n",
        ] {
            assert_eq!(sent(refusal.as_bytes()).await, Some(false), "{refusal}");
        }
        for other in [
            "",
            "HTTP/1.1 41",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 101 \r\n\r\nHTTP/1.1 500",
            "nonsense 500",
        ] {
            assert_eq!(sent(other.as_bytes()).await, None, "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_noticed_while_it_waits_and_after_it_was_read() {
        let (near, mut far) = tokio::io::duplex(128);
        let mut near = Attentive::new(near);
        let late = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            far.write_all(b"HTTP/1.1 503 No\r\n\r\n").await.unwrap();
        };
        let (written, ()) = tokio::join!(near.write_all(&LONG), late);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        near.read_exact(&mut [0; 19]).await.unwrap();
        assert!(near.write_all(&LONG).await.is_err());
    }

    #[tokio::test]
    async fn an_instance_that_takes_the_rest_gets_it() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut near = Attentive::new(near);
        far.write_all(b"HTTP/1.1 413 Too Large\r\n\r\n").await.unwrap();
        near.write_all(&LONG).await.unwrap();
        far.read_exact(&mut [0; 256]).await.unwrap();
    }
}
