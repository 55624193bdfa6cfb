//! Connections that bring an answer only as a rule lets it come: slowed down, up to a point, or not later than an attempt may
//! take. What is held back is left to the instance, whose own sending then stops. What may come is [`Throttle`]'s to say.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::attentive::Attentive;
use crate::bridge::Bridges;
use crate::clock;
use crate::context::Target;
use crate::signals::{OutOfTime, Signals};
use crate::throttle::{Limits, Next, Throttle};
use crate::tunnel;
use crate::upstream::{Protocol, Secure};

/// Taken from the instance at once, and held at most beside a head.
const READ_BYTES: usize = 8 * 1024;

/// Connects to the instance of one attempt, for one answer.
pub(crate) struct StraitConnect {
    pub(crate) target: Target,
    pub(crate) protocol: Protocol,
    /// The method of the request and what is done to its answer, which is then one of HTTP/1.1.
    pub(crate) limits: Option<(String, Limits)>,
    /// Until when the answer may begin, where no stream of a client tells, or may not be looked at.
    pub(crate) signals: Option<Arc<Signals>>,
    pub(crate) secure: Arc<Secure>,
    /// Where the instance is called in HTTP/2, and the engine speaks HTTP/1.1.
    pub(crate) bridges: Option<Arc<Bridges>>,
}

/// A rule ended the answer here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is cut off by an action rule")]
pub(crate) struct Cut;

/// Whether an error of an attempt is what a rule wanted, and nobody's failure.
pub(crate) fn is_cut(error: &Error) -> bool {
    let root = error.root_cause();
    let inner = root.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    root.is::<Cut>() || inner.is_some_and(|inner| inner.is::<Cut>())
}

impl fmt::Debug for StraitConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StraitConnect").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[async_trait]
impl L4Connect for StraitConnect {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let throttle = self.limits.clone().map(|(method, limits)| Throttle::new(method, limits));
        let signals = self.signals.clone();
        let socket: Box<dyn VirtualSocket> = if let Some(bridges) = &self.bridges {
            let call = bridges.connect(&self.target).await?;
            Box::new(Strait::new(Attentive::new(call), throttle, signals))
        } else if self.target.tls_name.is_some() {
            let stream = self.secure.connect(&self.target, self.protocol).await?;
            Box::new(Strait::new(Attentive::new(stream), throttle, signals))
        } else {
            let stream = tunnel::dial(address).await?;
            // Whatever cannot be set costs a little time at most.
            let _set = stream.set_nodelay(true);
            Box::new(Strait::new(Attentive::new(stream), throttle, signals))
        };
        Ok(VirtualSocketStream::new(socket).into())
    }
}

/// One connection.
#[derive(Debug)]
struct Strait<S> {
    stream: S,
    /// Came and did not go on.
    held: BytesMut,
    throttle: Option<Throttle>,
    signals: Option<Arc<Signals>>,
    origin: Instant,
    /// For what is held back.
    pause: Alarm,
    /// For an answer that does not begin.
    deadline: Alarm,
    /// The instance sends nothing more.
    ended: bool,
    /// Whoever reads was given the time to pass on what came before the end.
    gave_way: bool,
}

impl<S: AsyncRead + Unpin> Strait<S> {
    fn new(stream: S, throttle: Option<Throttle>, signals: Option<Arc<Signals>>) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
            throttle,
            signals,
            origin: Instant::from_std(clock::now()),
            pause: Alarm::default(),
            deadline: Alarm::default(),
            ended: false,
            gave_way: false,
        }
    }

    /// Reads more into what is held, or learns that nothing more comes.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        self.held.extend_from_slice(buf.filled());
        self.ended = buf.filled().is_empty();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Strait<S> {
    /// As much as may come now.
    fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while buf.remaining() > 0 {
            let now = Instant::from_std(clock::now()).saturating_duration_since(self.origin);
            let Some(throttle) = &mut self.throttle else {
                return Pin::new(&mut self.stream).poll_read(cx, buf);
            };
            match throttle.next(&self.held, buf.remaining(), now) {
                Next::Pass(len) => {
                    buf.put_slice(&self.held[..len]);
                    self.held.advance(len);
                    break;
                }
                Next::Wait(until) => ready!(self.pause.poll(self.origin + until, cx)),
                Next::More if !self.ended => ready!(self.poll_fill(cx))?,
                Next::More if throttle.is_in_head() && !self.held.is_empty() => throttle.give_up(),
                Next::More => break,
                Next::Cut if !std::mem::replace(&mut self.gave_way, true) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Next::Cut => return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, Cut))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_out_of_time(&mut self, cx: &mut Context<'_>) -> bool {
        let until = self.signals.as_ref().and_then(|signals| signals.until());
        until.is_some_and(|(until, _)| self.deadline.poll(Instant::from_std(until), cx).is_ready())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strait<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_some(cx, buf);
        if read.is_pending() && self.is_out_of_time(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, OutOfTime)));
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strait<S> {
    /// Pingora does not look at the time of a request while it waits to send.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Some(signals) = &self.signals {
            signals.sending(written.is_pending());
        }
        if written.is_pending() && self.is_out_of_time(cx) {
            // What could not be sent still waits.
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, OutOfTime)));
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

impl<S> VirtualSocket for Strait<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + fmt::Debug,
{
    /// Set where it was connected.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use pingora::ErrorType;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::signals::Watch;
    use crate::wire::{Complaint, complaint};

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";

    #[tokio::test]
    async fn what_is_held_back_is_left_to_the_instance() {
        let (near, mut far) = tokio::io::duplex(1024);
        let limits = Limits { bytes_per_s: NonZeroU64::new(1), after_bytes: None };
        let mut near = Strait::new(near, Some(Throttle::new("GET".to_owned(), limits)), None);
        let sending = async {
            far.write_all(HEAD.as_bytes()).await.unwrap();
            let mut sent = 0;
            while let Ok(written) =
                tokio::time::timeout(Duration::from_millis(50), far.write(&[b'x'; 1024])).await
            {
                sent += written.unwrap();
            }
            sent
        };
        let reading = async {
            let mut body = vec![0; HEAD.len() + 2];
            near.read_exact(&mut body).await.unwrap();
            near.read_u8().await.unwrap();
        };
        let (sent, ()) = tokio::join!(sending, reading);
        assert!(sent <= READ_BYTES + 2 * 1024, "{sent}");
    }

    #[tokio::test]
    async fn whoever_reads_may_pass_on_what_came_before_the_cut() {
        let (near, mut far) = tokio::io::duplex(1024);
        let limits = Limits { bytes_per_s: None, after_bytes: Some(3) };
        let mut near = Strait::new(near, Some(Throttle::new("GET".to_owned(), limits)), None);
        far.write_all(format!("{HEAD}01234").as_bytes()).await.unwrap();
        let mut passed = vec![0; HEAD.len() + 3];
        near.read_exact(&mut passed).await.unwrap();
        assert!(passed.ends_with(b"\r\n\r\n012"));
        let mut space = [0; 5];
        tokio::select! {
            biased;
            _ = near.read(&mut space) => panic!("the other side is ready too, and comes first"),
            () = std::future::ready(()) => {}
        }
        let error = near.read(&mut space).await.unwrap_err();
        let wrapped = Error::because(ErrorType::ReadError, "while reading body", error);
        assert!(is_cut(&wrapped) && !is_cut(&Error::new_up(ErrorType::ReadError)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_begins_in_its_time_or_not_at_all() {
        let (near, mut far) = tokio::io::duplex(1024);
        let signals = Arc::new(Signals::new(clock::now()));
        let mut near = Strait::new(near, None, Some(Arc::clone(&signals)));
        signals.arm(clock::now() + Duration::from_secs(9), Watch::Glance);
        far.write_all(b"head").await.unwrap();
        near.read_exact(&mut [0; 4]).await.unwrap();
        let error = near.read_u8().await.unwrap_err();
        assert_eq!(complaint(&error), Some(Complaint::OutOfTime));
        signals.disarm();
        let waiting = tokio::time::timeout(Duration::from_secs(60), near.read_u8());
        assert!(waiting.await.is_err(), "one that has begun may take its time");
    }
}
