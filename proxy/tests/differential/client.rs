//! Plays a case's bytes to a proxy and reads whatever comes back, as answers. It forms no opinion of them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::generator::Case;
use crate::support::soon;

/// What a client got.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) answers: Vec<Answer>,
    pub(crate) end: End,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The proxy ended the connection.
    Closed,
    /// The proxy waited for more until the client ended its side.
    Waiting,
}

/// One answer, interim ones too.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case, in order of name.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its end.
    pub(crate) complete: bool,
    /// Bytes that are no answer at all.
    pub(crate) noise: bool,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// What must be the same of it.
    pub(crate) fn head(&self) -> (u16, bool, Vec<&(String, String)>) {
        self.without(&[])
    }

    /// The same without some fields.
    pub(crate) fn without(&self, names: &[&str]) -> (u16, bool, Vec<&(String, String)>) {
        let free = |name: &str, value: &str| {
            name == "date" || name == "connection" && value.eq_ignore_ascii_case("keep-alive")
        };
        let fields =
            self.fields.iter().filter(|(name, value)| !free(name, value) && !names.contains(&&**name));
        (self.status, self.noise, fields.collect())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
        let end = if self.complete { "" } else { ", and broke off" };
        write!(f, "{} {:?} {} bytes {body:?}{end}", self.status, self.fields, self.body.len())
    }
}

/// Sends everything, piece by piece, and reads to the end; a proxy that says nothing for so long is told that
/// nothing more comes.
pub(crate) async fn play(proxy: SocketAddr, case: &Case, quiet: Duration) -> Heard {
    let stream = soon("the proxy", TcpStream::connect(proxy)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut input, mut output) = stream.into_split();
    let pieces: Vec<Vec<u8>> = case.pieces().map(<[u8]>::to_vec).collect();
    let writer = tokio::spawn(async move {
        for piece in pieces {
            // A proxy that has closed needs no more.
            if output.write_all(&piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        output
    });
    let mut bytes = Vec::new();
    let mut end = End::Closed;
    let mut space = vec![0; 16 * 1024];
    let mut writer = Some(writer);
    let mut done = None;
    loop {
        match timeout(quiet, input.read(&mut space)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(read)) => bytes.extend_from_slice(&space[..read]),
            Err(_) => {
                if end == End::Waiting {
                    // It was told so already; whatever it still does, it does slowly.
                    assert!(done.take().is_some(), "seed {}: neither side ends", case.seed);
                    done = None;
                    continue;
                }
                end = End::Waiting;
                if let Some(writer) = writer.take() {
                    let mut output = soon("the last write", writer).await.unwrap();
                    let _gone = output.shutdown().await;
                    done = Some(output);
                }
            }
        }
    }
    if let Some(writer) = writer {
        let _output = soon("the last write", writer).await.unwrap();
    }
    Heard { answers: read(&bytes), end }
}

/// The answers in what came.
pub(crate) fn read(bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            answers.push(noise(rest));
            break;
        };
        let text = String::from_utf8_lossy(&rest[..end]).into_owned();
        let mut lines = text.split("\r\n");
        let status =
            lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse::<u16>().ok());
        let Some(status) = status else {
            answers.push(noise(rest));
            break;
        };
        let mut fields: Vec<_> = lines
            .map(|line| line.split_once(':').unwrap_or((line, "")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        fields.sort_by(|one, two| one.0.cmp(&two.0));
        let mut answer = Answer { status, fields, body: Vec::new(), complete: true, noise: false };
        rest = &rest[end + 4..];
        let used = answer.take_body(rest);
        rest = &rest[used..];
        answers.push(answer);
    }
    answers
}

fn noise(bytes: &[u8]) -> Answer {
    Answer { status: 0, fields: Vec::new(), body: bytes.to_vec(), complete: false, noise: true }
}

impl Answer {
    /// Takes the body from the front; how many bytes it was.
    fn take_body(&mut self, rest: &[u8]) -> usize {
        // The instance says what it was asked. The proxy's own answers begin with a brace, or are to a HEAD.
        let to_head = self.field("x-method") == Some("HEAD")
            || self.field("x-a8-error").is_some() && rest.first() != Some(&b'{');
        if self.status == 101 {
            self.body = rest.to_vec();
            return rest.len();
        }
        if self.status < 200 || matches!(self.status, 204 | 304) || to_head {
            return 0;
        }
        if self.field("transfer-encoding").is_some() {
            return self.take_chunks(rest);
        }
        let Some(length) = self.field("content-length") else {
            self.body = rest.to_vec();
            return rest.len();
        };
        let length: usize = length.parse().unwrap_or(usize::MAX);
        let used = length.min(rest.len());
        self.body = rest[..used].to_vec();
        self.complete = used == length;
        used
    }

    fn take_chunks(&mut self, rest: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let line = rest[at..].windows(2).position(|window| window == b"\r\n");
            let size = line.and_then(|end| {
                let text = std::str::from_utf8(&rest[at..at + end]).ok()?;
                Some((end, usize::from_str_radix(text, 16).ok()?))
            });
            let Some((end, size)) = size else {
                self.complete = false;
                return rest.len();
            };
            let data = at + end + 2;
            let whole = rest.len() >= data + size + 2;
            self.body.extend_from_slice(&rest[data..rest.len().min(data + size)]);
            if !whole || rest[data + size..data + size + 2] != *b"\r\n" {
                self.complete = false;
                return rest.len();
            }
            at = data + size + 2;
            if size == 0 {
                return at;
            }
        }
    }
}

#[test]
fn answers_are_told_apart() {
    let bytes = b"HTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n0\r\n\r\n\
        HTTP/1.1 200 OK\r\nX-Method: HEAD\r\nContent-Length: 9\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ncut";
    let answers = read(bytes);
    let shown: Vec<_> =
        answers.iter().map(|answer| (answer.status, &*answer.body, answer.complete)).collect();
    let expected: [(u16, &[u8], bool); 5] =
        [(103, b"", true), (200, b"ab", true), (200, b"cd", true), (200, b"", true), (200, b"cut", false)];
    assert_eq!(shown, expected);
    assert!(read(b"nonsense")[0].noise);
}
