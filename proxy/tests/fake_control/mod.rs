//! A control that says what a test wants, poll by poll, over a real socket. It keeps no rules and checks
//! nothing; each poll is held until the test gives its answer.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use control_api::{Snapshot, SnapshotAnswer};
use registry_api::{Position, Reason};

/// How long a test waits for what must happen.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// The epoch of every answer.
pub(crate) const EPOCH: &str = "e";

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Poll {
    target: String,
    head: Vec<String>,
}

impl Poll {
    /// The value of a query parameter, its encoding undone.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    /// All values of a query parameter.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).collect()
    }

    /// The value of a header field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.iter().filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// `index`, and what is refused.
    pub(crate) fn says(&self) -> (u64, Option<u64>) {
        let number = |name| self.get(name).map(|text| text.parse().unwrap());
        (number("index").unwrap(), number("rejected"))
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next().unwrap()).to_digit(16).unwrap();
        bytes.push(if byte == b'%' { u8::try_from(digit() * 16 + digit()).unwrap() } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}

/// The fake.
pub(crate) struct FakeControl {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    polls: Vec<Poll>,
    answers: VecDeque<Vec<u8>>,
    gone: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl FakeControl {
    /// Listens on a free port.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.lock().gone {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || serve(&stream.unwrap(), &shared));
            }
        });
        Self { address, shared }
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The poll of this number, the first being 0, once it came.
    pub(crate) fn poll(&self, number: usize) -> Poll {
        let deadline = proxy::clock::now() + LONG;
        let mut state = self.shared.lock();
        while state.polls.len() <= number {
            let left = deadline.saturating_duration_since(proxy::clock::now());
            assert!(!left.is_zero(), "poll {number} never came: {:?}", state.polls);
            state = self.shared.news.wait_timeout(state, left).unwrap().0;
        }
        state.polls[number].clone()
    }

    /// Answers one poll with these bytes.
    pub(crate) fn answer_raw(&self, status: &str, position: Option<&Position>, body: &str) {
        let mut head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n");
        if let Some(at) = position {
            head += &format!("a8-epoch: {}\r\na8-index: {}\r\na8-hash: {}\r\n", at.epoch, at.index, at.hash);
        }
        if !status.starts_with("304") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        self.shared.lock().answers.push_back(format!("{head}\r\n{body}").into_bytes());
        self.shared.news.notify_all();
    }

    /// Answers one poll with a whole snapshot.
    pub(crate) fn full(&self, index: u64, snapshot: &Snapshot) {
        self.answer(&SnapshotAnswer::full(EPOCH, index, snapshot));
    }

    /// Answers one poll with the way from one snapshot to another.
    pub(crate) fn delta(&self, from: u64, old: &Snapshot, index: u64, new: &Snapshot) {
        let delta = old.delta_to(new, |_| Reason::Deregistered);
        self.answer(&SnapshotAnswer::delta(EPOCH, from, index, new, delta));
    }

    /// Answers one poll with 304.
    pub(crate) fn unchanged(&self, at: &Position) {
        self.answer_raw("304 Not Modified", Some(at), "");
    }

    fn answer(&self, answer: &SnapshotAnswer) {
        let at = Position { epoch: EPOCH.to_owned(), index: answer.index, hash: answer.hash };
        self.answer_raw("200 OK", Some(&at), &serde_json::to_string(answer).unwrap());
    }

    /// Dies: every connection is cut, and the port refuses.
    pub(crate) fn die(&self) {
        self.shared.lock().gone = true;
        self.shared.news.notify_all();
        // Wakes the listener, which then goes.
        drop(TcpStream::connect(self.address));
    }
}

impl Drop for FakeControl {
    fn drop(&mut self) {
        self.die();
    }
}

/// One connection: a request, its answer once there is one, the next request.
fn serve(stream: &TcpStream, shared: &Shared) {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let head: Vec<_> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let Some(target) = head.first().and_then(|line| line.split(' ').nth(1)) else { return };
        let mut state = shared.lock();
        state.polls.push(Poll { target: target.to_owned(), head: head.clone() });
        shared.news.notify_all();
        let mut state =
            shared.news.wait_while(state, |state| state.answers.is_empty() && !state.gone).unwrap();
        if state.gone {
            return;
        }
        let answer = state.answers.pop_front().unwrap();
        drop(state);
        if { stream }.write_all(&answer).is_err() {
            return;
        }
    }
}
