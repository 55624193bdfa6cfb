//! The load generator: one thread, one event loop, raw sockets. Closed loop for throughput, open loop at a constant rate
//! for latency, counted from the moment a request was due (coordinated omission). Every answer is checked.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::clock;
use crate::histogram::Histogram;
use crate::origins::Origins;

/// Tokens of client connections are below this, those of origins at or above it.
const ORIGINS_FROM: usize = 1 << 16;
const EVENTS_MAX: usize = 1_024;
const READ_BYTES: usize = 64 << 10;
/// A request whose answer is not there by then has failed.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How many failures are described; all are counted.
const DESCRIBED_MAX: usize = 5;

/// How the requests come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends its next request when it has its answer.
    Closed,
    /// So many a second in total, whether or not answers come.
    Open(f64),
}

/// What is sent, and where.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The server.
    pub(crate) to: SocketAddr,
    /// Request targets, sent in turn.
    pub(crate) targets: Vec<String>,
    /// Connections.
    pub(crate) connections: usize,
    /// See [`Pace`].
    pub(crate) pace: Pace,
    /// For how long.
    pub(crate) time: Duration,
    /// The length that every body must have.
    pub(crate) body_bytes: usize,
}

/// What came of a plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Answers with status 200 and the right length.
    pub(crate) good: u64,
    /// Everything else.
    pub(crate) failed: u64,
    /// Descriptions of the first failures.
    pub(crate) failures: Vec<String>,
    /// Latency of the good ones.
    pub(crate) latency: Histogram,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Outcome {
    /// Good answers per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.good as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn fail(&mut self, what: impl Into<String>) {
        self.failed += 1;
        if self.failures.len() < DESCRIBED_MAX {
            self.failures.push(what.into());
        }
    }
}

/// The event loop with its origins.
pub(crate) struct Rig {
    poll: Poll,
    events: Events,
    origins: Origins,
    buffer: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    /// When the request under way was due; `None` while idle.
    due: Option<Instant>,
    answer: Vec<u8>,
    /// Bytes of the whole answer, known once its head is complete.
    whole: Option<usize>,
}

impl Rig {
    /// Opens this many origin ports that answer with bodies of this size.
    pub(crate) fn new(origins: usize, body_bytes: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let origins = Origins::open(poll.registry(), origins, ORIGINS_FROM, body_bytes)?;
        Ok(Self { poll, events: Events::with_capacity(EVENTS_MAX), origins, buffer: vec![0; READ_BYTES] })
    }

    /// Where the origins listen. They answer only while [`Rig::run`] or [`Rig::serve`] runs.
    pub(crate) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.origins.addresses()
    }

    /// Serves the origins until `done` says so; asked at least every 10 ms.
    pub(crate) fn serve(&mut self, mut done: impl FnMut() -> bool) -> io::Result<()> {
        while !done() {
            self.turn(Duration::from_millis(10), &mut [], &mut |_, _| {})?;
        }
        Ok(())
    }

    /// Carries out a plan.
    pub(crate) fn run(&mut self, plan: &Plan) -> io::Result<Outcome> {
        let requests: Vec<Vec<u8>> = plan
            .targets
            .iter()
            .map(|target| {
                format!("GET {target} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n").into_bytes()
            })
            .collect();
        let mut clients = Vec::with_capacity(plan.connections);
        for at in 0..plan.connections {
            clients.push(self.connect(plan.to, at)?);
        }
        let mut run = Run { plan, requests, sent: 0, outcome: Outcome::default(), waiting: VecDeque::new() };
        let started = clock::now();
        match plan.pace {
            Pace::Closed => self.closed(&mut run, &mut clients, started)?,
            Pace::Open(rate) => self.open(&mut run, &mut clients, started, rate)?,
        }
        run.outcome.took = started.elapsed().min(plan.time.max(Duration::from_millis(1)));
        self.drain(&mut run, &mut clients, started)?;
        Ok(run.outcome)
    }

    fn closed(&mut self, run: &mut Run<'_>, clients: &mut [Client], started: Instant) -> io::Result<()> {
        (0..clients.len()).for_each(|at| run.send(&mut clients[at], clock::now()));
        while started.elapsed() < run.plan.time {
            self.turn(Duration::from_millis(10), clients, &mut |client, buffer| {
                if run.receive(client, buffer) {
                    run.send(client, clock::now());
                }
            })?;
            self.reconnect(run, clients)?;
            for client in clients.iter_mut().filter(|client| client.due.is_none()) {
                run.send(client, clock::now());
            }
        }
        Ok(())
    }

    fn open(
        &mut self,
        run: &mut Run<'_>,
        clients: &mut [Client],
        started: Instant,
        rate: f64,
    ) -> io::Result<()> {
        let mut planned = 0_u64;
        loop {
            let elapsed = started.elapsed();
            if elapsed >= run.plan.time {
                return Ok(());
            }
            while planned as f64 / rate <= elapsed.as_secs_f64() {
                run.waiting.push_back(started + Duration::from_secs_f64(planned as f64 / rate));
                planned += 1;
            }
            for client in clients.iter_mut().filter(|client| client.due.is_none()) {
                let Some(due) = run.waiting.pop_front() else { break };
                run.send(client, due);
            }
            // Never asleep: a timer would wake too late for a request that is due within a millisecond.
            self.turn(Duration::ZERO, clients, &mut |client, buffer| {
                run.receive(client, buffer);
            })?;
            self.reconnect(run, clients)?;
        }
    }

    /// Sends what was due and waits for every answer: whoever is late is slow, and counts as slow.
    fn drain(&mut self, run: &mut Run<'_>, clients: &mut [Client], started: Instant) -> io::Result<()> {
        let deadline = started + run.plan.time + ANSWER_PATIENCE;
        let closed = matches!(run.plan.pace, Pace::Closed);
        while !run.waiting.is_empty() || clients.iter().any(|client| client.due.is_some()) {
            if clock::now() > deadline {
                let late = clients.iter().filter(|client| client.due.is_some()).count() + run.waiting.len();
                (0..late).for_each(|_| run.outcome.fail(format!("no answer within {ANSWER_PATIENCE:?}")));
                return Ok(());
            }
            for client in clients.iter_mut().filter(|client| client.due.is_none()) {
                let Some(due) = run.waiting.pop_front() else { break };
                run.send(client, due);
            }
            self.turn(Duration::from_millis(1), clients, &mut |client, buffer| {
                let before = run.outcome.good;
                run.receive(client, buffer);
                // Beyond the time: answered, but not part of the throughput.
                if closed && run.outcome.good > before {
                    run.outcome.good -= 1;
                }
            })?;
            self.reconnect(run, clients)?;
        }
        Ok(())
    }

    fn connect(&self, to: SocketAddr, at: usize) -> io::Result<Client> {
        // Connected before it is made non-blocking: a refused connection is an error of the bench, not of a request.
        let stream = std::net::TcpStream::connect_timeout(&to, ANSWER_PATIENCE)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        stream.set_nodelay(true)?;
        self.poll.registry().register(&mut stream, Token(at), Interest::READABLE)?;
        Ok(Client { stream, due: None, answer: Vec::with_capacity(2 * READ_BYTES), whole: None })
    }

    fn reconnect(&self, run: &mut Run<'_>, clients: &mut [Client]) -> io::Result<()> {
        for (at, client) in clients.iter_mut().enumerate() {
            if client.stream.take_error().ok().flatten().is_some() || client.whole == Some(usize::MAX) {
                if client.due.take().is_some() {
                    run.outcome.fail("the connection was closed without an answer");
                }
                *client = self.connect(run.plan.to, at)?;
            }
        }
        Ok(())
    }

    fn turn(
        &mut self,
        wait: Duration,
        clients: &mut [Client],
        on_readable: &mut dyn FnMut(&mut Client, &mut [u8]),
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            let token = event.token().0;
            if token >= ORIGINS_FROM {
                self.origins.on_event(self.poll.registry(), token, ORIGINS_FROM);
            } else if let Some(client) = clients.get_mut(token) {
                on_readable(client, &mut self.buffer);
            }
        }
        Ok(())
    }
}

struct Run<'a> {
    plan: &'a Plan,
    requests: Vec<Vec<u8>>,
    sent: usize,
    outcome: Outcome,
    /// When requests were due that found no free connection.
    waiting: VecDeque<Instant>,
}

impl Run<'_> {
    fn send(&mut self, client: &mut Client, due: Instant) {
        let request = &self.requests[self.sent % self.requests.len()];
        self.sent += 1;
        client.due = Some(due);
        client.answer.clear();
        client.whole = None;
        // A request is far smaller than an empty socket's buffer; anything else means that the peer is gone.
        if !matches!(client.stream.write(request), Ok(count) if count == request.len()) {
            client.whole = Some(usize::MAX);
        }
    }

    /// Reads what is there; `true` when the answer is complete.
    fn receive(&mut self, client: &mut Client, buffer: &mut [u8]) -> bool {
        loop {
            match client.stream.read(buffer) {
                Ok(0) => {
                    client.whole = Some(usize::MAX);
                    return false;
                }
                Ok(count) => {
                    client.answer.extend_from_slice(&buffer[..count]);
                    if client.whole.is_none() {
                        client.whole = length_of(&client.answer);
                    }
                    if client.whole.is_some_and(|whole| client.answer.len() >= whole) {
                        self.finish(client);
                        return true;
                    }
                    if count < buffer.len() {
                        return false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => {
                    client.whole = Some(usize::MAX);
                    return false;
                }
            }
        }
    }

    fn finish(&mut self, client: &mut Client) {
        let Some(due) = client.due.take() else {
            client.whole = Some(usize::MAX);
            return self.outcome.fail("an answer that nobody asked for");
        };
        let answer = &client.answer;
        let head = end_of_head(answer).unwrap_or(answer.len());
        let good = answer.starts_with(b"HTTP/1.1 200") && answer.len() - head == self.plan.body_bytes;
        if good {
            self.outcome.good += 1;
            self.outcome.latency.add(due.elapsed());
        } else {
            let start = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
            self.outcome.fail(format!("{start:?} with {} bytes of body", answer.len() - head));
        }
    }
}

fn end_of_head(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Head and body together, once the head is complete. An answer without a length is taken as having no body, and then
/// counts as failed: no server of the benches has reason to use another framing.
fn length_of(answer: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let head = end_of_head(answer)?;
    let line = answer[..head]
        .split(|byte| *byte == b'\n')
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME));
    let digits = line.map(|line| String::from_utf8_lossy(&line[NAME.len()..]).trim().to_owned());
    Some(head + digits.and_then(|digits| digits.parse::<usize>().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(pace: Pace) -> Outcome {
        let mut rig = Rig::new(2, 1_024).unwrap();
        let to = rig.addresses().unwrap()[1];
        let plan = Plan {
            to,
            targets: vec!["/a".to_owned(), "/b".to_owned()],
            connections: 8,
            pace,
            time: Duration::from_millis(200),
            body_bytes: 1_024,
        };
        rig.run(&plan).unwrap()
    }

    #[test]
    fn a_closed_loop_counts_only_good_answers() {
        let outcome = direct(Pace::Closed);
        assert_eq!(outcome.failed, 0, "{:?}", outcome.failures);
        assert!(outcome.good > 100, "{}", outcome.good);
    }

    #[test]
    fn an_open_loop_sends_what_is_due_and_no_more() {
        let outcome = direct(Pace::Open(500.0));
        assert_eq!(outcome.failed, 0, "{:?}", outcome.failures);
        assert!((95..=101).contains(&outcome.good), "{}", outcome.good);
        assert!(outcome.latency.quantile(0.5) > Duration::ZERO);
    }

    #[test]
    fn a_body_of_another_length_is_a_failure() {
        let mut rig = Rig::new(1, 10).unwrap();
        let plan = Plan {
            to: rig.addresses().unwrap()[0],
            targets: vec!["/".to_owned()],
            connections: 1,
            pace: Pace::Open(100.0),
            time: Duration::from_millis(50),
            body_bytes: 11,
        };
        let outcome = rig.run(&plan).unwrap();
        assert!(outcome.good == 0 && outcome.failed > 0, "{outcome:?}");
        assert!(outcome.failures[0].contains("10 bytes"), "{outcome:?}");
    }

    #[test]
    fn a_length_is_found_in_any_case_and_only_in_a_complete_head() {
        assert_eq!(length_of(b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  7\r\n\r\n1234"), Some(39 + 7));
        assert_eq!(length_of(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n"), None);
        assert_eq!(length_of(b"HTTP/1.1 204 OK\r\n\r\n"), Some(19));
    }
}
