//! One side of a connection: heads, bodies and raw bytes, as they come.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Answer, field, soon, status_of};

/// Whoever takes nothing for so long has stopped reading.
const STUCK_AFTER: Duration = Duration::from_millis(300);

/// One side of a connection.
pub(crate) struct Conn<S = TcpStream> {
    pub(crate) stream: S,
    held: Vec<u8>,
}

/// Everything is on its way then: TLS may hold the last of it back.
async fn written(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

impl Conn {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// One side of a connection over anything.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, held: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        soon("a write", written(&mut self.stream, text.as_ref())).await.unwrap();
    }

    /// Writes, and does not mind when the other side has gone.
    pub(crate) async fn try_send(&mut self, text: impl AsRef<[u8]>) -> bool {
        soon("a write", written(&mut self.stream, text.as_ref())).await.is_ok()
    }

    /// Reads more; `false` at the end or when the connection was reset.
    async fn more(&mut self) -> bool {
        let mut space = [0; 16 * 1024];
        let read = soon("a read", self.stream.read(&mut space)).await.unwrap_or(0);
        self.held.extend_from_slice(&space[..read]);
        read > 0
    }

    /// Whether the other side has closed, with nothing before it.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.held.is_empty() && !self.more().await
    }

    /// Whether the other side has reset the connection, with nothing before it.
    pub(crate) async fn is_reset(&mut self) -> bool {
        let read = soon("the end", self.stream.read(&mut [0; 1])).await;
        self.held.is_empty() && read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    }

    /// The next head; `None` at the end of the connection.
    pub(crate) async fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.held.windows(4).position(|window| window == b"\r\n\r\n") {
                return Some(self.take(end + 4));
            }
            // An instance waits for its next request as long as it takes; the test ends before it.
            let mut space = [0; 16 * 1024];
            let read = self.stream.read(&mut space).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.held.extend_from_slice(&space[..read]);
        }
    }

    pub(crate) async fn head(&mut self) -> String {
        soon("a head", self.try_head()).await.unwrap_or_else(|| panic!("closed; held: {:?}", self.held()))
    }

    /// So many bytes.
    pub(crate) async fn exactly(&mut self, len: usize) -> String {
        while self.held.len() < len {
            assert!(self.more().await, "closed; held: {:?}", self.held());
        }
        self.take(len)
    }

    /// Everything up to the end.
    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await {}
        self.take(self.held.len())
    }

    /// Everything up to and including `mark`.
    pub(crate) async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.held.windows(mark.len()).position(|window| window == mark.as_bytes()) {
                return self.take(at + mark.len());
            }
            assert!(self.more().await, "closed; held: {:?}", self.held());
        }
    }

    /// The body that belongs to a head with a length, or to one in chunks (decoded).
    pub(crate) async fn body_of(&mut self, head: &str) -> String {
        if field(head, "transfer-encoding").is_some() {
            let mut body = String::new();
            loop {
                let line = self.until("\r\n").await;
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                body.push_str(&self.exactly(size).await);
                assert_eq!(self.exactly(2).await, "\r\n");
                if size == 0 {
                    return body;
                }
            }
        }
        let length = field(head, "content-length").map_or(0, |length| length.parse().unwrap());
        self.exactly(length).await
    }

    /// The next final answer: with its body, which ends by length, chunks, or connection.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut head = self.head().await;
        while status_of(&head) < 200 && status_of(&head) != 101 {
            head = self.head().await;
        }
        let status = status_of(&head);
        let framed = field(&head, "content-length").is_some() || field(&head, "transfer-encoding").is_some();
        let body = match status {
            101 | 204 | 304 => String::new(),
            _ if framed => self.body_of(&head).await,
            _ => self.rest().await,
        };
        Answer { status, head, body }
    }

    fn take(&mut self, len: usize) -> String {
        String::from_utf8(self.held.drain(..len).collect()).expect("tests send text")
    }

    fn held(&self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// So many raw bytes; `None` when the connection ends before.
    pub(crate) async fn try_bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.held.len() < len {
            if !self.more().await {
                return None;
            }
        }
        Some(self.held.drain(..len).collect())
    }

    /// So many raw bytes.
    pub(crate) async fn exactly_bytes(&mut self, len: usize) -> Vec<u8> {
        while self.held.len() < len {
            assert!(self.more().await, "closed");
        }
        self.held.drain(..len).collect()
    }

    /// What comes until nothing came for a while.
    pub(crate) async fn rest_for(&mut self, quiet: Duration) -> Vec<u8> {
        while timeout(quiet, self.more()).await.unwrap_or(false) {}
        std::mem::take(&mut self.held)
    }

    /// Sends back so many bytes as they come.
    pub(crate) async fn echo(&mut self, len: usize) {
        let mut left = len;
        loop {
            let piece = std::mem::take(&mut self.held);
            self.send(&piece).await;
            left -= piece.len();
            if left == 0 {
                return;
            }
            assert!(self.more().await, "closed; {left} bytes are missing");
        }
    }

    /// Writes, and reads as many bytes as it writes at the same time.
    pub(crate) async fn send_and_read(&mut self, bytes: &[u8]) -> Vec<u8> {
        assert!(self.held.is_empty(), "unread: {:?}", self.held());
        let mut read = vec![0; bytes.len()];
        let (mut input, mut output) = tokio::io::split(&mut self.stream);
        let both = async { tokio::try_join!(written(&mut output, bytes), input.read_exact(&mut read)) };
        soon("both ways", both).await.unwrap();
        read
    }

    /// Writes, and at the same time reads and throws away so many bytes.
    pub(crate) async fn send_and_count(&mut self, bytes: &[u8], len: usize) -> usize {
        let mut count = std::mem::take(&mut self.held).len();
        let (mut input, mut output) = tokio::io::split(&mut self.stream);
        let reading = async {
            let mut space = vec![0; 64 * 1024];
            while count < len {
                match input.read(&mut space).await? {
                    0 => break,
                    read => count += read,
                }
            }
            Ok(count)
        };
        let both = async { tokio::try_join!(written(&mut output, bytes), reading) };
        soon("both ways", both).await.unwrap().1
    }

    /// Reads and throws away so many bytes.
    pub(crate) async fn count(&mut self, len: usize) -> usize {
        let mut read = 0;
        loop {
            read += std::mem::take(&mut self.held).len();
            if read >= len || !self.more().await {
                return read;
            }
        }
    }

    /// Writes in pieces of `piece` bytes until the other side takes nothing more for a while; how much it took, about `max`
    /// at most.
    pub(crate) async fn send_until_stuck(&mut self, max: usize, piece: usize) -> usize {
        let piece = vec![b'x'; piece];
        let mut sent = 0;
        while sent < max {
            let len = piece.len().min(max - sent);
            match timeout(STUCK_AFTER, self.stream.write(&piece[..len])).await {
                Ok(written) => sent += written.unwrap(),
                Err(_) => break,
            }
        }
        sent
    }

    /// Writes all of it, unless the other side takes nothing more for a while.
    pub(crate) async fn try_send_soon(&mut self, text: impl AsRef<[u8]>) -> bool {
        timeout(STUCK_AFTER, self.stream.write_all(text.as_ref())).await.is_ok_and(|written| written.is_ok())
    }
}
