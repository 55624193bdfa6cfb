//! Watchers who wait, are all told of one change, and ask again, with heartbeats of others in between: what an idle one
//! holds, how long the last one waits for the news, and how long a heartbeat waits for the watchers. One event loop plays
//! them all, so its own work is in the times.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;

use super::wire::{self, Client, Reply};
use crate::clock;
use crate::cpu;
use crate::histogram::Histogram;

/// Connections for heartbeats, and the time from one to the next.
const BEATERS: usize = 32;
const BEAT_PERIOD: Duration = Duration::from_millis(1);
/// How long heartbeats are measured while nobody is woken.
const QUIET: Duration = Duration::from_secs(1);
/// So few events are dealt with before the heartbeats that are due are sent.
const EVENTS_MAX: usize = 16;
/// How long all watchers together may take.
const PATIENCE: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 16 << 10;

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// What an idle watcher holds in the server, in KiB.
    pub(crate) kib: f64,
    /// From a change to the news of it, for every watcher and round.
    pub(crate) woken: Histogram,
    /// Heartbeats while nobody was woken, from the moment they were due.
    pub(crate) quiet_beats: Histogram,
    /// Heartbeats from a change until the last watcher had the news.
    pub(crate) beats: Histogram,
    /// What a watcher cost the server in processor time per round: waking it, telling it, and its next poll.
    pub(crate) micros_each: f64,
}

/// Whom, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) address: SocketAddr,
    /// The server's process.
    pub(crate) id: u32,
    pub(crate) watchers: usize,
    pub(crate) rounds: usize,
    /// A request for a heartbeat.
    pub(crate) beat: &'a [u8],
}

/// Runs it.
pub(crate) fn measure(plan: Plan<'_>) -> io::Result<Watched> {
    let mut asking = Client::connect(plan.address)?;
    asking.send(b"GET /api/v1/watch?wait=0&service=quiet HTTP/1.1\r\nHost: h\r\n\r\n")?;
    let told: Value = serde_json::from_slice(&asking.reply(wire::http)?.body).map_err(io::Error::other)?;
    let epoch = told["epoch"].as_str().unwrap_or_default().to_owned();
    let poll = |index: &str| {
        let query = format!("wait=10m&service=quiet&epoch={epoch}&index={index}");
        format!("GET /api/v1/watch?{query} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
    };
    let mut measured = Watched::default();
    let before = cpu::memory_kib(plan.id).unwrap_or_default();
    let mut scene = Scene::open(&plan, &poll(&told["index"].to_string()))?;
    waiting(&mut asking, plan.watchers)?;
    let held = cpu::memory_kib(plan.id).unwrap_or_default().saturating_sub(before);
    measured.kib = held as f64 / plan.watchers.max(1) as f64;

    let began = clock::now();
    scene.run(&plan, &mut measured.quiet_beats, |_, _| Ok(()), |_| began.elapsed() >= QUIET)?;
    let (mut spent, mut answers) = (Duration::ZERO, 0);
    for round in 0..plan.rounds {
        let before = cpu::spent(plan.id).unwrap_or_default();
        let began = clock::now();
        asking.send(&change(round))?;
        let mut told = 0;
        let Watched { woken, beats, .. } = &mut measured;
        let next = |line: &mut Line, head: &str| {
            woken.add(began.elapsed());
            let index = head.lines().find_map(|line| line.strip_prefix("a8-index: "));
            line.send(&poll(index.ok_or_else(|| io::Error::other("an answer without an index"))?))
        };
        scene.run(&plan, beats, next, |count| {
            told = count;
            told >= plan.watchers || began.elapsed() > PATIENCE
        })?;
        if told < plan.watchers {
            return Err(io::Error::other(format!("{told} of {} watchers were told", plan.watchers)));
        }
        let Reply { status, .. } = asking.reply(wire::http)?;
        if status != 201 {
            return Err(io::Error::other(format!("the change was answered with {status}")));
        }
        waiting(&mut asking, plan.watchers)?;
        spent += cpu::spent(plan.id).unwrap_or_default().saturating_sub(before);
        answers += told;
    }
    measured.micros_each = spent.as_secs_f64() * 1e6 / answers.max(1) as f64;
    Ok(measured)
}

/// A registration that differs from that of the round before.
fn change(round: usize) -> Vec<u8> {
    let body = format!(
        r#"{{"service_name":"quiet","endpoint":{{"type":"tcp","value":"h:1"}},"tags":["round={round}"]}}"#
    );
    let head = "POST /api/v1/instances HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Until the registry counts so many.
fn waiting(asking: &mut Client, count: usize) -> io::Result<()> {
    let wanted = format!("a8_registry_watchers{{namespace=\"default\"}} {count}");
    let began = clock::now();
    loop {
        asking.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")?;
        let text = asking.reply(wire::http)?.body;
        if String::from_utf8_lossy(&text).lines().any(|line| line == wanted) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("the watchers are not all waiting"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A connection with the requests on it that are not answered.
struct Line {
    stream: TcpStream,
    read: Vec<u8>,
    due: VecDeque<Instant>,
}

impl Line {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        // Far smaller than an empty socket's buffer.
        let count = self.stream.write(request)?;
        if count == request.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }
}

/// All connections: the watchers', then those for heartbeats.
struct Scene {
    poll: Poll,
    events: Events,
    lines: Vec<Line>,
    buffer: Vec<u8>,
    next_beat: Instant,
    beater: usize,
}

impl Scene {
    fn open(plan: &Plan<'_>, first: &[u8]) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut lines = Vec::with_capacity(plan.watchers + BEATERS);
        for at in 0..plan.watchers + BEATERS {
            let stream = std::net::TcpStream::connect(plan.address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(at), Interest::READABLE)?;
            let mut line = Line { stream, read: Vec::new(), due: VecDeque::new() };
            if at < plan.watchers {
                line.send(first)?;
            }
            lines.push(line);
        }
        let (events, buffer) = (Events::with_capacity(EVENTS_MAX), vec![0; READ_BYTES]);
        Ok(Self { poll, events, lines, buffer, next_beat: clock::now(), beater: 0 })
    }

    /// Sends heartbeats when they are due, and deals with every watcher's answer, until the number of these suffices.
    fn run(
        &mut self,
        plan: &Plan<'_>,
        beats: &mut Histogram,
        mut told: impl FnMut(&mut Line, &str) -> io::Result<()>,
        mut enough: impl FnMut(usize) -> bool,
    ) -> io::Result<()> {
        let mut answers = 0;
        self.next_beat = clock::now();
        while !enough(answers) {
            let wait = self.next_beat.saturating_duration_since(clock::now());
            match self.poll.poll(&mut self.events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &self.events {
                let at = event.token().0;
                let line = &mut self.lines[at];
                read(line, &mut self.buffer)?;
                while let Some((Reply { status, .. }, length)) = wire::http(&line.read) {
                    if status != 200 {
                        return Err(io::Error::other(format!("an answer with status {status}")));
                    }
                    let head = String::from_utf8_lossy(&line.read[..length]).into_owned();
                    line.read.drain(..length);
                    if at < plan.watchers {
                        answers += 1;
                        told(line, &head)?;
                    } else if let Some(due) = line.due.pop_front() {
                        beats.add(due.elapsed());
                    }
                }
            }
            while self.next_beat <= clock::now() {
                let line = &mut self.lines[plan.watchers + self.beater % BEATERS];
                line.send(plan.beat)?;
                line.due.push_back(self.next_beat);
                self.beater += 1;
                self.next_beat += BEAT_PERIOD;
            }
        }
        self.settle(plan, beats)
    }

    /// Waits for the heartbeats on their way.
    fn settle(&mut self, plan: &Plan<'_>, beats: &mut Histogram) -> io::Result<()> {
        for line in &mut self.lines[plan.watchers..] {
            let began = clock::now();
            while !line.due.is_empty() {
                read(line, &mut self.buffer)?;
                while let Some((_, length)) = wire::http(&line.read) {
                    line.read.drain(..length);
                    if let Some(due) = line.due.pop_front() {
                        beats.add(due.elapsed());
                    }
                }
                if began.elapsed() > PATIENCE {
                    return Err(io::Error::other("a heartbeat was not answered"));
                }
            }
        }
        Ok(())
    }
}

/// Reads what is there.
fn read(line: &mut Line, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match line.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => line.read.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
