//! A client that is polite, hasty, slow or gone, by chance, and holds every answer it gets to be well formed and its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, field, status_of};

/// What was met.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    pub(crate) answers: u64,
    pub(crate) cut: u64,
    pub(crate) left: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.answers += other.answers;
        self.cut += other.cut;
        self.left += other.left;
        self.bytes += other.bytes;
    }

    /// Everything was met, and often.
    pub(crate) fn covers(&self, seconds: u64) {
        for (what, count) in
            [("answers", self.answers / 10), ("cut answers", self.cut), ("clients that left", self.left)]
        {
            assert!(count >= seconds, "hardly any {what}: {self:?}");
        }
    }
}

/// One connection after the other until it is told to end.
pub(crate) async fn run(proxy: SocketAddr, seed: u64, done: Arc<AtomicBool>) -> Tally {
    let mut rng = Rng::with_seed(seed);
    let mut tally = Tally::default();
    while !done.load(Ordering::Relaxed) {
        tally.connections += 1;
        connection(proxy, &mut rng, seed, &mut tally).await;
    }
    tally
}

async fn connection(proxy: SocketAddr, rng: &mut Rng, seed: u64, tally: &mut Tally) {
    let mut stream = timeout(PATIENCE, TcpStream::connect(proxy)).await.unwrap().unwrap();
    stream.set_nodelay(true).unwrap();
    let pipelined = rng.u8(..) < 60;
    let mut conn = Reader { held: Vec::new(), slow: rng.u8(..) < 25 };
    for round in 0..rng.usize(1..6) {
        let count = if pipelined { rng.usize(2..8) } else { 1 };
        let mut bytes = Vec::new();
        let mut ids = Vec::new();
        for number in 0..count {
            let id = format!("{seed}-{}-{round}-{number}", tally.connections);
            bytes.extend_from_slice(&request(rng, &id));
            ids.push(id);
        }
        tally.requests += count as u64;
        let leaves = rng.u8(..) < 40;
        let sent = if leaves { rng.usize(..bytes.len()) } else { bytes.len() };
        tally.left += u64::from(leaves);
        let resets = rng.bool();
        let waits: Vec<bool> = ids.iter().map(|_| !leaves || rng.bool()).collect();
        let piece = rng.usize(1..100_000).max(bytes.len() / 50);
        let (mut input, mut output) = stream.split();
        let writing = async {
            for part in bytes[..sent].chunks(piece) {
                if output.write_all(part).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        // A proxy that refuses early may end the connection while the rest is on its way.
        let reading = async {
            for (id, waits) in ids.iter().zip(waits) {
                if !waits || !conn.answer(&mut input, id, tally).await {
                    return false;
                }
            }
            true
        };
        if leaves {
            // What was begun is begun; then the client is gone, whatever is still to come.
            let _gone = timeout(Duration::from_millis(20), async { tokio::join!(writing, reading) }).await;
            if resets {
                #[expect(deprecated, reason = "nothing is waited for: a time of zero resets the connection")]
                stream.set_linger(Some(Duration::ZERO)).unwrap();
            }
            return;
        }
        let both = async {
            let reading = async {
                let goes_on = reading.await;
                goes_on.then_some(()).ok_or(())
            };
            let writing = async {
                writing.await;
                Ok(())
            };
            tokio::try_join!(writing, reading).is_ok()
        };
        if !timeout(4 * PATIENCE, both).await.unwrap_or_else(|_| panic!("no end of {ids:?}")) {
            return;
        }
    }
}

fn request(rng: &mut Rng, id: &str) -> Vec<u8> {
    let path = if rng.u8(..) < 30 { "large" } else { "small" };
    let fields = match rng.u8(0..40) {
        0 | 1 => "X-Fault: delay\r\n",
        2 => "X-Fault: abort\r\n",
        3 => "TE: trailers\r\n",
        4 => "Connection: X-Nothing\r\n",
        5 => "Expect: 100-continue\r\n",
        _ => "",
    };
    let service = if rng.u8(..) < 8 { "nobody" } else { "s" };
    let head = |method: &str, framing: &str| {
        format!("{method} /{service}/{path} HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\n{fields}{framing}\r\n")
            .into_bytes()
    };
    let len = match rng.u8(0..20) {
        0 => rng.usize(300_000..2_000_000),
        1..4 => rng.usize(10_000..100_000),
        _ => rng.usize(0..2_000),
    };
    match rng.u8(0..10) {
        0..6 if !fields.starts_with("Expect") => head("GET", ""),
        0..8 => {
            let mut bytes = head("POST", &format!("Content-Length: {len}\r\n"));
            bytes.resize(bytes.len() + len, b'x');
            bytes
        }
        _ => {
            let mut bytes = head("PUT", "Transfer-Encoding: chunked\r\n");
            for chunk in vec![b'x'; len].chunks(50_000) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            bytes
        }
    }
}

struct Reader {
    held: Vec<u8>,
    slow: bool,
}

impl Reader {
    /// The next final answer, which must be to this request; whether another may follow.
    async fn answer(&mut self, input: &mut (impl AsyncReadExt + Unpin), id: &str, tally: &mut Tally) -> bool {
        let head = loop {
            let Some(head) = self.head(input).await else {
                tally.cut += 1;
                return false;
            };
            if status_of(&head) >= 200 {
                break head;
            }
        };
        if field(&head, "x-a8-error").is_none() {
            assert_eq!(field(&head, "x-id"), Some(id), "an answer to another request: {head}");
        }
        let Some(body) = self.body(input, &head).await else {
            tally.cut += 1;
            return false;
        };
        if field(&head, "x-a8-error").is_none() {
            let letter = b'a' + u8::try_from(id.len() % 26).unwrap();
            assert!(body.iter().all(|byte| *byte == letter), "the body of another answer: {head}");
        }
        tally.answers += 1;
        tally.bytes += body.len() as u64;
        field(&head, "connection") != Some("close")
    }

    async fn head(&mut self, input: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
        loop {
            if let Some(end) = self.held.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.held.drain(..end + 4).collect();
                let head = String::from_utf8(head).expect("heads are text");
                assert!(head.starts_with("HTTP/1.1 "), "out of step: {head:?}");
                return Some(head);
            }
            let begin = &self.held[..self.held.len().min(9)];
            assert!(b"HTTP/1.1 ".starts_with(begin), "out of step: {:?}", String::from_utf8_lossy(begin));
            self.more(input).await?;
        }
    }

    async fn body(&mut self, input: &mut (impl AsyncReadExt + Unpin), head: &str) -> Option<Vec<u8>> {
        if field(head, "transfer-encoding").is_none() {
            let length = field(head, "content-length").map(|length| length.parse().unwrap());
            return self.exactly(input, length.expect("an answer says where it ends")).await;
        }
        let mut body = Vec::new();
        loop {
            let end = loop {
                match self.held.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None => self.more(input).await?,
                }
            };
            let line: Vec<u8> = self.held.drain(..end + 2).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            let size =
                usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("no size of a chunk: {line:?}"));
            body.extend(self.exactly(input, size).await?);
            assert_eq!(self.exactly(input, 2).await?, b"\r\n");
            if size == 0 {
                return Some(body);
            }
        }
    }

    async fn exactly(&mut self, input: &mut (impl AsyncReadExt + Unpin), len: usize) -> Option<Vec<u8>> {
        while self.held.len() < len {
            self.more(input).await?;
        }
        Some(self.held.drain(..len).collect())
    }

    async fn more(&mut self, input: &mut (impl AsyncReadExt + Unpin)) -> Option<()> {
        let mut space = [0; 16 * 1024];
        let part = if self.slow { 2_000 } else { space.len() };
        if self.slow {
            // A reader's own pace.
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let read = input.read(&mut space[..part]).await.unwrap_or(0);
        self.held.extend_from_slice(&space[..read]);
        (read > 0).then_some(())
    }
}
