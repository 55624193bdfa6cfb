//! An instance that answers well, badly, in part or not at all, by chance. It repeats each request's `X-Id`, so that an
//! answer to another request is seen.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::field;

/// A running instance; it ends with the test.
pub(crate) struct Instance {
    pub(crate) at: SocketAddr,
    behaves: Arc<AtomicBool>,
    complaints: Complaints,
}

/// What came and is no request.
type Complaints = Arc<Mutex<Vec<String>>>;

impl Instance {
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let behaves = Arc::new(AtomicBool::new(false));
        let complaints = Complaints::default();
        let (shared, complained) = (Arc::clone(&behaves), Arc::clone(&complaints));
        tokio::spawn(async move {
            let mut rng = Rng::with_seed(seed);
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection {
                    stream,
                    held: Vec::new(),
                    rng: rng.fork(),
                    complaints: Arc::clone(&complained),
                };
                tokio::spawn(connection.serve(Arc::clone(&shared)));
            }
        });
        Self { at, behaves, complaints }
    }

    /// From now on every answer is a good one.
    pub(crate) fn behave(&self) {
        self.behaves.store(true, Ordering::Relaxed);
    }

    /// Everything that came and is no request.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap().clone()
    }
}

struct Connection {
    stream: TcpStream,
    held: Vec<u8>,
    rng: Rng,
    complaints: Complaints,
}

impl Connection {
    async fn serve(mut self, behaves: Arc<AtomicBool>) {
        let _set = self.stream.set_nodelay(true);
        while let Some(head) = self.head().await {
            let badly = !behaves.load(Ordering::Relaxed) && self.rng.u8(..) < 40;
            if badly && self.rng.bool() {
                // With the request's body unread, or parts of it.
                return self.end();
            }
            if self.rng.u8(..) < 8 {
                let answer = format!("HTTP/1.1 413 No\r\nX-Id: {}\r\nContent-Length: 0\r\n\r\n", id(&head));
                if self.stream.write_all(answer.as_bytes()).await.is_err() || self.body(&head).await.is_none()
                {
                    return;
                }
                continue;
            }
            if self.body(&head).await.is_none() {
                return;
            }
            let (answer, goes_on) = self.answer(&head);
            let whole = if badly { self.rng.usize(..answer.len()) } else { answer.len() };
            // Not so small that an answer takes longer than a client waits.
            let piece = self.rng.usize(1..200_000).max(answer.len() / 500);
            for part in answer[..whole].chunks(piece) {
                if self.stream.write_all(part).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            if badly {
                return self.end();
            }
            if !goes_on {
                return;
            }
        }
    }

    /// Closes, or resets.
    fn end(mut self) {
        if self.rng.bool() {
            #[expect(deprecated, reason = "nothing is waited for: a time of zero resets the connection")]
            let _set = self.stream.set_linger(Some(std::time::Duration::ZERO));
        }
    }

    fn answer(&mut self, head: &str) -> (Vec<u8>, bool) {
        let id = id(head);
        let len = if head.contains("/large ") {
            self.rng.usize(200_000..2_000_000)
        } else {
            self.rng.usize(0..3_000)
        };
        let letter = b'a' + u8::try_from(id.len() % 26).unwrap();
        let body = vec![letter; len];
        let (status, fields, goes_on) = match self.rng.u8(0..10) {
            0 => (500, format!("Content-Length: {len}\r\n"), true),
            1 => (404, format!("Content-Length: {len}\r\n"), true),
            2 => (200, format!("Content-Length: {len}\r\nConnection: close\r\n"), false),
            3 => (200, String::new(), false),
            4..6 => (200, "Transfer-Encoding: chunked\r\n".to_owned(), true),
            _ => (200, format!("Content-Length: {len}\r\n"), true),
        };
        let mut answer = Vec::new();
        if self.rng.u8(..) < 10 {
            answer.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\n\r\n");
        }
        answer.extend_from_slice(format!("HTTP/1.1 {status} X\r\nX-Id: {id}\r\n{fields}\r\n").as_bytes());
        if fields.starts_with('T') {
            for chunk in body.chunks(70_000) {
                answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                answer.extend_from_slice(chunk);
                answer.extend_from_slice(b"\r\n");
            }
            answer.extend_from_slice(b"0\r\n\r\n");
        } else {
            answer.extend_from_slice(&body);
        }
        (answer, goes_on)
    }

    async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.held.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.held.drain(..end + 4).collect();
                let head = String::from_utf8_lossy(&head).into_owned();
                let line = head.lines().next().unwrap_or_default();
                if line.split(' ').count() != 3
                    || !line.ends_with(" HTTP/1.1")
                    || field(&head, "x-id").is_none()
                {
                    return self.complain(&head);
                }
                return Some(head);
            }
            if self.held.len() > 100_000 {
                return self.complain("a head without end");
            }
            self.more().await?;
        }
    }

    /// Reads the body and throws it away.
    async fn body(&mut self, head: &str) -> Option<()> {
        if field(head, "transfer-encoding").is_none() {
            return self
                .skip(field(head, "content-length").map_or(0, |length| length.parse().unwrap()))
                .await;
        }
        loop {
            let end = loop {
                match self.held.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None => self.more().await?,
                }
            };
            let line = String::from_utf8_lossy(&self.held[..end]).into_owned();
            let Ok(size) = usize::from_str_radix(&line, 16) else { return self.complain(&line) };
            self.skip(end + 2 + size + 2).await?;
            if size == 0 {
                return Some(());
            }
        }
    }

    fn complain<T>(&self, what: &str) -> Option<T> {
        self.complaints.lock().unwrap().push(what.to_owned());
        None
    }

    async fn skip(&mut self, len: usize) -> Option<()> {
        let mut left = len;
        loop {
            let step = left.min(self.held.len());
            self.held.drain(..step);
            left -= step;
            if left == 0 {
                return Some(());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        let mut space = vec![0; 32 * 1024];
        let read = self.stream.read(&mut space).await.unwrap_or(0);
        self.held.extend_from_slice(&space[..read]);
        (read > 0).then_some(())
    }
}

fn id(head: &str) -> &str {
    field(head, "x-id").unwrap_or("none")
}
