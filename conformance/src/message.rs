//! HTTP/1.1 messages read from a socket: heads, and bodies by length, chunks or close. Used by the caller and by origins;
//! it reads what is there and repairs nothing.

use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;

/// The largest head that is read.
const HEAD_LIMIT_BYTES: usize = 1 << 20;

/// Start line and fields in order, names as received.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The request line or the status line.
    pub start: String,
    /// Fields in order.
    pub fields: Vec<(String, String)>,
    /// The head's bytes as they came.
    pub raw: Vec<u8>,
}

impl Head {
    /// The first value of a field, compared without regard to case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every value of a field, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Reads one head; `None` when the peer closed before its first byte. Lines end with CRLF, and the first one names HTTP/1:
    /// a handshake of TLS is no head, wherever its random bytes look like an empty line.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut raw = Vec::new();
        loop {
            let before = raw.len();
            if from.read_until(b'\n', &mut raw)? == 0 {
                return if raw.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            if raw.len() > HEAD_LIMIT_BYTES {
                return Err(io::Error::other("the head is too large"));
            }
            if &raw[before..] == b"\r\n" {
                break;
            }
        }
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.lines();
        let start = lines.next().unwrap_or_default().to_owned();
        if !start.contains("HTTP/1.") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no head of HTTP/1"));
        }
        let fields = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Some(Self { start, fields, raw }))
    }

    /// How the body that follows is delimited.
    pub fn framing(&self, otherwise: Framing) -> Framing {
        if self.all("transfer-encoding").any(|value| value.to_ascii_lowercase().contains("chunked")) {
            return Framing::Chunked;
        }
        match self.field("content-length").map(str::parse) {
            Some(Ok(length)) => Framing::Length(length),
            _ => otherwise,
        }
    }
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(usize),
    /// After the last chunk.
    Chunked,
    /// When the connection closes.
    Close,
}

/// Reads a whole body. Trailers are read and dropped.
pub fn read_body(from: &mut impl BufRead, framing: Framing) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match framing {
        Framing::Length(length) => {
            from.take(length as u64).read_to_end(&mut body)?;
            if body.len() < length {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body is cut short"));
            }
        }
        Framing::Chunked => while read_chunk(from, &mut body)? {},
        Framing::Close => {
            from.read_to_end(&mut body)?;
        }
    }
    Ok(body)
}

/// Reads one chunk into `body`; `false` for the last one.
pub fn read_chunk(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<bool> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(digits, 16)
        .map_err(|_| io::Error::other(format!("{line:?} is no chunk size")))?;
    if size == 0 {
        loop {
            line.clear();
            if from.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
                return Ok(false);
            }
        }
    }
    let before = body.len();
    from.take(size).read_to_end(body)?;
    if ((body.len() - before) as u64) < size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a chunk is cut short"));
    }
    line.clear();
    from.read_line(&mut line)?;
    Ok(true)
}

/// A socket that is read through a buffer and written directly.
pub type Wire = BufReader<TcpStream>;
