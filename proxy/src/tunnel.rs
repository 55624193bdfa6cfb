//! Connections for requests that switch protocols. Pingora takes an answer of 101 that is there before it has passed on
//! the end of the (empty) request body for the end of the tunnel (cloudflare/pingora#946); these connections let it do
//! that first. They carry bytes and look at none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Connects for a tunnel.
#[derive(Debug)]
pub(crate) struct TunnelConnect;

#[async_trait]
impl L4Connect for TunnelConnect {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let stream = dial(address).await?;
        Ok(VirtualSocketStream::new(Box::new(Hesitant { stream, wrote: false })).into())
    }
}

/// A connection as Pingora's own connector makes it, and its errors.
pub(crate) async fn dial(address: &SocketAddr) -> Result<TcpStream> {
    let address = address.as_inet().ok_or_else(|| Error::new_up(ErrorType::ConnectNoRoute))?;
    TcpStream::connect(address).await.map_err(|error| {
        let etype = match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorType::ConnectNoRoute,
            _ => ErrorType::ConnectError,
        };
        Error::because(etype, "connecting to an instance", error)
    })
}

/// A stream whose first read after a write gives way once, to whoever else is ready.
#[derive(Debug)]
struct Hesitant<S> {
    stream: S,
    wrote: bool,
}

impl VirtualSocket for Hesitant<TcpStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        if let VirtualSockOpt::NoDelay = option { self.stream.set_nodelay(true) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hesitant<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.wrote) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hesitant<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.wrote = true;
        Poll::Ready(written)
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
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_read_after_a_write_gives_way_once_and_loses_nothing() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Hesitant { stream: near, wrote: false };
        far.write_all(b"early").await.unwrap();
        near.write_all(b"x").await.unwrap();
        let mut space = [0; 5];
        tokio::select! {
            biased;
            _ = near.read(&mut space) => panic!("the other side is ready too, and comes first"),
            () = std::future::ready(()) => {}
        }
        near.read_exact(&mut space).await.unwrap();
        assert_eq!(&space, b"early");
    }
}
