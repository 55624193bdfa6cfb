//! A connection that sends bytes and takes answers one by one, for HTTP/1.1 with lengths and for redis. It checks how an
//! answer is framed and what its status is, not what it says.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A server that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 << 10;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Of HTTP; redis has 200 and 500.
    pub(crate) status: u16,
    /// Without its head.
    pub(crate) body: Vec<u8>,
}

/// Reads one answer from the front of the bytes, and says how long it is; `None` while it is not whole.
pub(crate) type Protocol = fn(&[u8]) -> Option<(Reply, usize)>;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    taken: usize,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, read: Vec::new(), taken: 0 })
    }

    /// Sends one or more requests.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for the next answer.
    pub(crate) fn reply(&mut self, protocol: Protocol) -> io::Result<Reply> {
        loop {
            if let Some((reply, length)) = protocol(&self.read[self.taken..]) {
                self.taken += length;
                if self.taken == self.read.len() {
                    self.read.clear();
                    self.taken = 0;
                }
                return Ok(reply);
            }
            let filled = self.read.len();
            self.read.resize(filled + READ_BYTES, 0);
            let count = self.stream.read(&mut self.read[filled..])?;
            self.read.truncate(filled + count);
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// HTTP/1.1 with a length, or without a body.
pub(crate) fn http(bytes: &[u8]) -> Option<(Reply, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().unwrap_or(0);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let body = bytes.get(end..end + length)?;
    Some((Reply { status, body: body.to_vec() }, end + length))
}

/// A line of redis; what begins with a minus is an error.
pub(crate) fn redis(bytes: &[u8]) -> Option<(Reply, usize)> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    let status = if bytes[0] == b'-' { 500 } else { 200 };
    Some((Reply { status, body: bytes[..end].to_vec() }, end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_one_by_one_and_only_whole() {
        let two =
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n";
        let (first, length) = http(two).unwrap();
        assert_eq!(first, Reply { status: 200, body: b"ok".to_vec() });
        assert_eq!(http(&two[length..]), Some((Reply { status: 410, body: vec![] }, two.len() - length)));
        assert_eq!(http(&two[..length - 1]), None);
        assert_eq!(redis(b":1\r\n:2"), Some((Reply { status: 200, body: b":1".to_vec() }, 4)));
        assert_eq!(redis(b"-ERR\r\n").unwrap().0.status, 500);
        assert_eq!(redis(b":1"), None);
    }
}
