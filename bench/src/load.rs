//! The load generator: one thread, one event loop, raw sockets. Closed loop for throughput, open loop at a constant rate
//! for latency, counted from the moment a request was due (coordinated omission). Every answer is checked.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::client::Client;
use crate::clock;
use crate::histogram::Histogram;
use crate::multiplex::{self, Connection};
use crate::origins::{Origins, Seen};

/// Tokens of client connections are below this, those of origins at or above it.
const ORIGINS_FROM: usize = 1 << 16;
const EVENTS_MAX: usize = 1_024;
const READ_BYTES: usize = 64 << 10;
/// A request whose answer is not there by then has failed.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How many failures are described; all are counted.
const DESCRIBED_MAX: usize = 5;
/// How many clients of a crowd are on their way in at a time: fewer than any server's backlog.
const CROWD_STEP: usize = 64;

/// How the requests come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends its next request when it has its answer.
    Closed,
    /// So many a second in total, whether or not answers come.
    Open(f64),
    /// As `Closed`, over HTTP/2 without TLS, with so many requests under way on each connection.
    Multiplexed(usize),
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

impl Plan {
    fn requests(&self) -> Vec<Vec<u8>> {
        let request = |target| {
            format!("GET {target} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n").into_bytes()
        };
        self.targets.iter().map(request).collect()
    }
}

/// What came of a plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Answers with status 200, the right length and the right content.
    pub(crate) good: u64,
    /// Those of them that were there before the time was over.
    pub(crate) in_time: u64,
    /// Everything else.
    pub(crate) failed: u64,
    /// Descriptions of the first failures.
    pub(crate) failures: Vec<String>,
    /// Latency of the good ones.
    pub(crate) latency: Histogram,
    /// How long it took, without the wait for the last answers.
    pub(crate) took: Duration,
}

impl Outcome {
    /// Good answers per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.in_time as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn judge(&mut self, verdict: Result<Instant, String>) {
        match verdict {
            Ok(due) => {
                self.good += 1;
                self.latency.add(due.elapsed());
            }
            Err(what) => self.fail(what),
        }
    }

    fn fail(&mut self, what: impl Into<String>) {
        self.failed += 1;
        if self.failures.len() < DESCRIBED_MAX {
            self.failures.push(what.into());
        }
    }
}

/// Clients that each had an answer and keep their connections; all leave on drop.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    clients: Vec<Client>,
    /// What came of their one request.
    pub(crate) outcome: Outcome,
}

impl Crowd {
    /// How many are connected.
    pub(crate) fn len(&self) -> usize {
        self.clients.iter().filter(|client| client.is_free()).count()
    }
}

/// The event loop with its origins.
pub(crate) struct Rig {
    poll: Poll,
    events: Events,
    origins: Origins,
    buffer: Vec<u8>,
}

impl Rig {
    /// Opens this many origin ports that answer with bodies of these sizes.
    pub(crate) fn new(origins: usize, sizes: &[usize]) -> io::Result<Self> {
        let poll = Poll::new()?;
        let origins = Origins::open(poll.registry(), origins, ORIGINS_FROM, sizes)?;
        Ok(Self { poll, events: Events::with_capacity(EVENTS_MAX), origins, buffer: vec![0; READ_BYTES] })
    }

    /// Where the origins listen. They answer only while [`Rig::run`], [`Rig::crowd`] or [`Rig::keep`] runs.
    pub(crate) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.origins.addresses()
    }

    /// Serves the origins until `done` says so, asked at least every 10 ms. The server may send some of the crowd away.
    pub(crate) fn keep(&mut self, crowd: &mut Crowd, mut done: impl FnMut() -> bool) -> io::Result<()> {
        while !done() {
            self.turn(Duration::from_millis(10), &mut crowd.clients, &mut |client, buffer| {
                // Nothing is under way: whatever comes is an end, or ends the client.
                client.receive(buffer, 0);
            })?;
        }
        Ok(())
    }

    /// Carries out a plan and tells what the origins saw of it.
    pub(crate) fn inspect(&mut self, plan: &Plan) -> io::Result<(Outcome, Seen)> {
        self.origins.inspect();
        let outcome = self.run(plan);
        let seen = self.origins.seen();
        Ok((outcome?, seen))
    }

    /// Carries out a plan.
    pub(crate) fn run(&mut self, plan: &Plan) -> io::Result<Outcome> {
        if let Pace::Multiplexed(streams) = plan.pace {
            return self.multiplexed(plan, streams);
        }
        let mut clients = Vec::with_capacity(plan.connections);
        for at in 0..plan.connections {
            clients.push(self.connect(plan.to, at)?);
        }
        let mut run = Run::new(plan);
        let started = clock::now();
        match plan.pace {
            Pace::Multiplexed(_) => {}
            Pace::Closed => self.closed(&mut run, &mut clients, started)?,
            Pace::Open(rate) => self.open(&mut run, &mut clients, started, rate)?,
        }
        run.outcome.took = started.elapsed();
        run.outcome.in_time = run.outcome.good;
        self.drain(&mut run, &mut clients, started + plan.time + ANSWER_PATIENCE)?;
        Ok(run.outcome)
    }

    /// Lets this many clients come, or as many as get in, each with one request.
    pub(crate) fn crowd(&mut self, plan: &Plan, wanted: usize) -> io::Result<Crowd> {
        let mut run = Run::new(plan);
        let mut clients: Vec<Client> = Vec::with_capacity(wanted);
        while clients.len() < wanted {
            let before = clients.len();
            for at in before..wanted.min(before + CROWD_STEP) {
                // A limit on files, on either side, ends the crowd; who is in counts.
                let Ok(mut client) = self.connect(plan.to, at) else { break };
                run.send(&mut client, clock::now());
                clients.push(client);
            }
            if clients.len() == before {
                break;
            }
            let deadline = clock::now() + ANSWER_PATIENCE;
            while clients[before..].iter().any(|client| client.is_busy() && !client.is_broken())
                && clock::now() < deadline
            {
                self.turn(Duration::from_millis(1), &mut clients, &mut |client, buffer| {
                    run.receive(client, buffer);
                })?;
            }
        }
        let unanswered = clients.iter().filter(|client| client.is_busy()).count();
        (0..unanswered).for_each(|_| run.outcome.fail("a client of the crowd had no answer"));
        Ok(Crowd { clients, outcome: run.outcome })
    }

    fn closed(&mut self, run: &mut Run<'_>, clients: &mut [Client], started: Instant) -> io::Result<()> {
        while started.elapsed() < run.plan.time {
            // Those that have not begun, and those that had to connect anew.
            for client in clients.iter_mut().filter(|client| client.is_free()) {
                run.send(client, clock::now());
            }
            self.turn(Duration::from_millis(10), clients, &mut |client, buffer| {
                if run.receive(client, buffer) && client.is_free() {
                    run.send(client, clock::now());
                }
            })?;
            self.reconnect(run, clients)?;
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
            run.send_waiting(clients);
            // Never asleep: a timer would wake too late for a request that is due within a millisecond.
            self.turn(Duration::ZERO, clients, &mut |client, buffer| {
                run.receive(client, buffer);
            })?;
            self.reconnect(run, clients)?;
        }
    }

    fn multiplexed(&mut self, plan: &Plan, streams: usize) -> io::Result<Outcome> {
        let requests: Vec<Vec<u8>> = plan.targets.iter().map(|target| multiplex::request(target)).collect();
        let mut requests = requests.iter().cycle();
        let open = |rig: &Self, at| Connection::open(rig.poll.registry(), plan.to, at, ANSWER_PATIENCE);
        let mut connections =
            (0..plan.connections).map(|at| open(self, at)).collect::<io::Result<Vec<_>>>()?;
        let (mut outcome, mut verdicts) = (Outcome::default(), Vec::new());
        let started = clock::now();
        let (end, deadline) = (started + plan.time, started + plan.time + ANSWER_PATIENCE);
        loop {
            let now = clock::now();
            if now >= end && outcome.took.is_zero() {
                (outcome.took, outcome.in_time) = (now - started, outcome.good);
            }
            if now >= deadline || now >= end && connections.iter().all(|connection| connection.busy() == 0) {
                break;
            }
            for (at, connection) in connections.iter_mut().enumerate() {
                if connection.is_broken() {
                    (0..connection.busy()).for_each(|_| outcome.fail("the connection broke"));
                    *connection = open(self, at)?;
                }
                while now < end && connection.busy() < streams {
                    connection.send(requests.next().map_or(&[], Vec::as_slice), now);
                }
                connection.flush();
            }
            self.turn(Duration::from_millis(10), &mut connections, &mut |connection, buffer| {
                connection.receive(buffer, plan.body_bytes, &mut verdicts);
            })?;
            verdicts.drain(..).for_each(|verdict| outcome.judge(verdict));
        }
        let late = connections.iter().map(Connection::busy).sum();
        (0..late).for_each(|_| outcome.fail(format!("no answer within {ANSWER_PATIENCE:?}")));
        Ok(outcome)
    }

    /// Sends what was due and waits for every answer: whoever is late is slow, and counts as slow.
    fn drain(&mut self, run: &mut Run<'_>, clients: &mut [Client], deadline: Instant) -> io::Result<()> {
        while !run.waiting.is_empty() || clients.iter().any(Client::is_busy) {
            if clock::now() > deadline {
                let late = clients.iter().filter(|client| client.is_busy()).count() + run.waiting.len();
                (0..late).for_each(|_| run.outcome.fail(format!("no answer within {ANSWER_PATIENCE:?}")));
                return Ok(());
            }
            run.send_waiting(clients);
            self.turn(Duration::from_millis(1), clients, &mut |client, buffer| {
                run.receive(client, buffer);
            })?;
            self.reconnect(run, clients)?;
        }
        Ok(())
    }

    fn connect(&self, to: SocketAddr, at: usize) -> io::Result<Client> {
        Client::connect(self.poll.registry(), to, at, ANSWER_PATIENCE)
    }

    fn reconnect(&self, run: &mut Run<'_>, clients: &mut [Client]) -> io::Result<()> {
        for (at, client) in clients.iter_mut().enumerate().filter(|(_, client)| client.is_broken()) {
            if client.is_busy() {
                run.outcome.fail("the connection was closed without an answer");
            }
            *client = self.connect(run.plan.to, at)?;
        }
        Ok(())
    }

    fn turn<T>(
        &mut self,
        wait: Duration,
        clients: &mut [T],
        on_readable: &mut dyn FnMut(&mut T, &mut [u8]),
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

impl<'a> Run<'a> {
    fn new(plan: &'a Plan) -> Self {
        let (outcome, waiting) = (Outcome::default(), VecDeque::new());
        Self { plan, requests: plan.requests(), sent: 0, outcome, waiting }
    }

    fn send(&mut self, client: &mut Client, due: Instant) {
        client.send(&self.requests[self.sent % self.requests.len()], due);
        self.sent += 1;
    }

    fn send_waiting(&mut self, clients: &mut [Client]) {
        for client in clients.iter_mut().filter(|client| client.is_free()) {
            let Some(due) = self.waiting.pop_front() else { return };
            self.send(client, due);
        }
    }

    /// Reads what is there; `true` when the answer is complete, good or not.
    fn receive(&mut self, client: &mut Client, buffer: &mut [u8]) -> bool {
        let verdict = client.receive(buffer, self.plan.body_bytes);
        let is_over = verdict.is_some();
        verdict.into_iter().for_each(|verdict| self.outcome.judge(verdict));
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rig: &Rig, pace: Pace, body_bytes: usize) -> Plan {
        let targets = vec!["/a/1024".to_owned(), "/b/1024".to_owned()];
        let to = *rig.addresses().unwrap().last().unwrap();
        Plan { to, targets, connections: 8, pace, time: Duration::from_millis(200), body_bytes }
    }

    fn direct(pace: Pace) -> Outcome {
        let mut rig = Rig::new(2, &[1_024]).unwrap();
        let plan = plan(&rig, pace, 1_024);
        rig.run(&plan).unwrap()
    }

    #[test]
    fn a_closed_loop_counts_only_good_answers_and_all_of_them() {
        let outcome = direct(Pace::Closed);
        assert_eq!(outcome.failed, 0, "{:?}", outcome.failures);
        assert!(outcome.in_time > 100 && outcome.good >= outcome.in_time, "{outcome:?}");
    }

    #[test]
    fn an_open_loop_sends_what_is_due_and_no_more() {
        let outcome = direct(Pace::Open(500.0));
        assert_eq!(outcome.failed, 0, "{:?}", outcome.failures);
        assert!((95..=101).contains(&outcome.good), "{}", outcome.good);
        assert!(outcome.latency.quantile(0.5) > Duration::ZERO);
    }

    #[test]
    fn a_long_body_is_taken_in_pieces() {
        let mut rig = Rig::new(1, &[1_024, 1 << 20]).unwrap();
        let mut plan = plan(&rig, Pace::Closed, 1 << 20);
        plan.targets = vec!["/a/1048576".to_owned()];
        let outcome = rig.run(&plan).unwrap();
        assert!(outcome.good > 0 && outcome.failed == 0, "{outcome:?}");
    }

    #[test]
    fn a_body_of_another_length_is_a_failure() {
        let mut rig = Rig::new(1, &[1_024]).unwrap();
        let plan = plan(&rig, Pace::Open(100.0), 1_025);
        let outcome = rig.run(&plan).unwrap();
        assert!(outcome.good == 0 && outcome.failed > 0, "{outcome:?}");
        assert!(outcome.failures[0].contains("of 1024 bytes"), "{outcome:?}");
    }

    #[test]
    fn a_crowd_is_served_once_and_stays() {
        let mut rig = Rig::new(1, &[1_024]).unwrap();
        let plan = plan(&rig, Pace::Closed, 1_024);
        let crowd = rig.crowd(&plan, 150).unwrap();
        assert_eq!((crowd.len(), crowd.outcome.good, crowd.outcome.failed), (150, 150, 0));
    }

    #[test]
    fn who_is_sent_away_from_a_crowd_does_not_count() {
        use std::io::{Read as _, Write as _};

        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let (leave, left) = std::sync::mpsc::channel::<()>();
        let ending = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let _ = stream.read(&mut [0; 1_024]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            left.recv().unwrap();
        });
        let mut rig = Rig::new(1, &[1_024]).unwrap();
        let plan = Plan { to, body_bytes: 0, ..plan(&rig, Pace::Closed, 0) };
        let mut crowd = rig.crowd(&plan, 1).unwrap();
        assert_eq!(crowd.len(), 1);
        leave.send(()).unwrap();
        ending.join().unwrap();
        let mut turns = 0;
        rig.keep(&mut crowd, || {
            turns += 1;
            turns > 100
        })
        .unwrap();
        assert_eq!(crowd.len(), 0);
    }

    #[test]
    fn inspection_counts_what_origins_were_told() {
        let mut rig = Rig::new(1, &[1_024]).unwrap();
        let plan = plan(&rig, Pace::Closed, 1_024);
        let (outcome, seen) = rig.inspect(&plan).unwrap();
        assert!(seen.requests >= outcome.good && seen.missing > 0, "{seen:?}");
    }
}
