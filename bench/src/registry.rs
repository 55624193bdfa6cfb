//! What the registry does on one processor: heartbeats one by one and in batches, registrations, a long list, and watchers
//! that wait and are woken; what a lease costs in the core; and redis doing the nearest to a renewal. It loads from one
//! other processor and corrects nothing: where the load generator is the limit, the processor time per operation says more.

mod core;
mod watch;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use conformance::Process;
use conformance::process::Launch;
use serde_json::{Value, json};

use crate::args::Args;
use crate::clock;
use crate::cpu;
use crate::histogram::Histogram;
use crate::report::{Table, cell, micros, number, say};
use wire::{Client, Reply};

/// Instances that are registered while heartbeats are measured.
const INSTANCES: usize = 10_000;
/// Ids in one batch.
const BATCH: usize = 1_000;
/// Connections, and requests in flight on each.
const CONNECTIONS: usize = 16;
const IN_FLIGHT: usize = 16;
/// Watchers, where the limit on files allows as many.
const WATCHERS: usize = 10_000;
/// Changes of which each watcher is told.
const CHANGES: usize = 5;
/// Of our files, left for everything but watchers.
const FILES_OTHER: usize = 1_000;
/// How long redis may take to listen.
const PEER_PATIENCE: Duration = Duration::from_secs(10);

/// One line of the table.
struct Figure {
    what: &'static str,
    value: f64,
    decimals: usize,
    goal: Option<Goal>,
}

#[derive(Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// How often something happened, and what it cost the process that did it.
struct Rate {
    per_second: f64,
    micros_each: f64,
}

/// Runs it; `Err` when a gate is broken.
pub(crate) fn run(args: &Args, dir: &Path) -> io::Result<Result<Value, String>> {
    let process = start(args, dir);
    let (address, id) = (process.address("api"), process.id());
    let mut figures = Vec::new();

    let ids = register(address, INSTANCES)?;
    let beats: Vec<_> = ids.iter().map(|id| put(&format!("/api/v1/instances/{id}/heartbeat"), "")).collect();
    let single = rate(args, id, address, &beats, 1, wire::http)?;
    let batches: Vec<_> = ids.chunks(BATCH).map(|some| put("/api/v1/heartbeats", &ids_json(some))).collect();
    let batched = rate(args, id, address, &batches, BATCH, wire::http)?;
    let list = b"GET /api/v1/watch?wait=0 HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n".to_vec();
    let lists = rate(args, id, address, &[list], 1, wire::http)?;
    let files = usize::try_from(cpu::raise_open_files()).unwrap_or(usize::MAX).saturating_sub(FILES_OTHER);
    let watchers = if args.smoke { args.idle } else { WATCHERS.min(files) };
    let rounds = if args.smoke { 2 } else { CHANGES };
    let watched = watch::measure(watch::Plan { address, id, watchers, rounds, beat: &beats[0] })?;
    drop(process);

    // A registry of its own, so that nothing but registrations is in the figure.
    let second = dir.join("second");
    let process = start(args, &second);
    let fresh: Vec<_> = (0..registrations(args)).map(registration).collect();
    let registered = rate(args, process.id(), process.address("api"), &fresh, 1, wire::http)?;
    drop(process);
    let core = core::measure(if args.smoke { 20_000 } else { 1_000_000 });

    let mut add = |what, value, decimals, goal| figures.push(Figure { what, value, decimals, goal });
    use Goal::{AtLeast, AtMost};
    add("heartbeats/s, one per request", single.per_second, 0, None);
    add("  per second of a processor", 1e6 / single.micros_each, 0, Some(AtLeast(40_000.0)));
    add("heartbeats/s, a thousand per request", batched.per_second, 0, None);
    add("  per second of a processor", 1e6 / batched.micros_each, 0, Some(AtLeast(500_000.0)));
    add("registrations/s", registered.per_second, 0, None);
    add("  per second of a processor", 1e6 / registered.micros_each, 0, Some(AtLeast(20_000.0)));
    add("full list of 10,000, gzip, /s", lists.per_second, 0, Some(AtLeast(2_000.0)));
    let millis = |histogram: &Histogram, part| micros(histogram.quantile(part)) / 1e3;
    add("idle watcher, KiB", watched.kib, 1, Some(AtMost(24.0)));
    add("watchers woken by one change, p50 ms", millis(&watched.woken, 0.5), 0, None);
    add("watchers woken by one change, p99 ms", millis(&watched.woken, 0.99), 0, Some(AtMost(750.0)));
    add("  processor time for each, us", watched.micros_each, 1, None);
    add("heartbeats while nobody is woken, p99 ms", millis(&watched.quiet_beats, 0.99), 2, None);
    add("heartbeats while all are woken, p50 ms", millis(&watched.beats, 0.5), 2, None);
    add("heartbeats while all are woken, p99 ms", millis(&watched.beats, 0.99), 2, Some(AtMost(5.0)));
    add("renewal in the core, ns", core.renewal_ns, 0, Some(AtMost(100.0)));
    add("renewal in the core, many in one go, ns", core.batched_ns, 0, Some(AtMost(100.0)));
    add("  a read from memory that waits for the one before, ns", core.read_ns, 0, None);
    add("sweep, all renewed in time, ms", core.sweep_ms.0, 2, Some(AtMost(1.0)));
    add("  the longest, ms", core.sweep_ms.1, 2, None);
    add("memory of an instance beyond its text, bytes", core.bytes_each, 0, Some(AtMost(1_024.0)));
    let redis = redis(args, dir, &ids)?;
    if let Some(redis) = &redis {
        add("redis: PEXPIRE/s, one per command, pipelined", redis.per_second, 0, None);
        add("  per second of a processor", 1e6 / redis.micros_each, 0, None);
    }
    Ok(Ok(report(args, watchers, core.leases, &figures, redis.is_some())))
}

fn registrations(args: &Args) -> usize {
    if args.smoke { 5_000 } else { 200_000 }
}

fn report(args: &Args, watchers: usize, leases: usize, figures: &[Figure], peer: bool) -> Value {
    let mut table = Table::new(&["registry", "measured", "goal", "ratio"]);
    let mut json = serde_json::Map::new();
    let mut above = "";
    for Figure { what, value, decimals, goal } in figures {
        let (goal, ratio) = match *goal {
            None => (String::new(), String::new()),
            Some(Goal::AtLeast(goal)) => (format!(">= {goal}"), cell(value / goal, 2)),
            Some(Goal::AtMost(goal)) => (format!("<= {goal}"), cell(goal / value, 2)),
        };
        table.row(vec![(*what).to_owned(), cell(*value, *decimals), goal, ratio]);
        let name =
            if what.starts_with(' ') { format!("{above}, {}", what.trim()) } else { (*what).to_owned() };
        json.insert(name, number(*value));
        if !what.starts_with(' ') {
            above = what;
        }
    }
    say(&table.text());
    say(&format!(
        "{INSTANCES} instances registered; {watchers} watchers; {leases} leases in the core; {:?} per rate; a ratio above 1 reaches the goal",
        args.time
    ));
    if peer {
        say(
            "redis: the same keys, loader and processor; it moves a deadline and knows no instance, index or watcher",
        );
    } else {
        say("no redis-server found, so nothing is compared");
    }
    Value::Object(json)
}

fn start(args: &Args, dir: &Path) -> Process {
    let launch = Launch::a8(["registry", "--api_host", "127.0.0.1", "--api_port", "0"])
        .flag("data_dir", dir.join("data").as_os_str())
        .flag("log_level", "error")
        .flag("max_ttl", "1h");
    match args.proxy_core {
        Some(core) => launch.pinned(core).start("registry"),
        None => launch.start("registry"),
    }
}

fn put(path: &str, body: &str) -> Vec<u8> {
    let head = format!("PUT {path} HTTP/1.1\r\nHost: h\r\n");
    let label = if body.is_empty() { String::new() } else { "Content-Type: application/json\r\n".to_owned() };
    format!("{head}{label}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn ids_json(ids: &[String]) -> String {
    json!({ "ids": ids }).to_string()
}

fn registration(number: usize) -> Vec<u8> {
    let (service, host, port) = (number % 500, number / 50_000, 10_000 + number % 50_000);
    let body = format!(
        r#"{{"service_name":"service-{service}","endpoint":{{"type":"http","value":"10.0.{host}.1:{port}"}},"ttl":3600,"tags":["version=v1","zone=a"],"metadata":{{"owner":"bench"}}}}"#
    );
    let head = "POST /api/v1/instances HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Registers instances and returns their ids.
fn register(address: SocketAddr, count: usize) -> io::Result<Vec<String>> {
    let mut client = Client::connect(address)?;
    let mut ids = Vec::with_capacity(count);
    for number in 0..count {
        client.send(&registration(number))?;
        let Reply { status, body } = client.reply(wire::http)?;
        let answer: Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        let id = answer["id"].as_str().filter(|_| status == 201);
        ids.push(id.ok_or_else(|| io::Error::other(format!("not registered: {answer}")))?.to_owned());
    }
    Ok(ids)
}

/// Sends the requests in turn, some in flight on each of some connections, until the time is over or, where each may be
/// sent only once, they are used up.
fn rate(
    args: &Args,
    id: u32,
    address: SocketAddr,
    requests: &[Vec<u8>],
    weight: usize,
    protocol: wire::Protocol,
) -> io::Result<Rate> {
    let mut clients: Vec<_> =
        (0..CONNECTIONS).map(|_| Client::connect(address)).collect::<io::Result<_>>()?;
    // Long answers fill the socket's buffer; then a single request at a time is enough to keep the server busy.
    let in_flight = if requests.len() < IN_FLIGHT { 1 } else { IN_FLIGHT };
    let once = requests.first().is_some_and(|request| request.starts_with(b"POST"));
    let mut next = 0;
    let mut round = |clients: &mut Vec<Client>| -> io::Result<usize> {
        for client in clients.iter_mut() {
            let batch: Vec<u8> = (0..in_flight)
                .flat_map(|at| requests[(next + at) % requests.len()].iter().copied())
                .collect();
            next += in_flight;
            client.send(&batch)?;
        }
        for client in clients.iter_mut() {
            for _ in 0..in_flight {
                let reply = client.reply(protocol)?;
                if !(200..300).contains(&reply.status) {
                    return Err(io::Error::other(format!("an answer with status {}", reply.status)));
                }
            }
        }
        Ok(clients.len() * in_flight * weight)
    };
    if !once {
        round(&mut clients)?;
    }
    let (began, spent) = (clock::now(), cpu::spent(id).unwrap_or_default());
    let (mut count, mut used) = (0, 0);
    while began.elapsed() < args.time && (!once || used + CONNECTIONS * in_flight <= requests.len()) {
        count += round(&mut clients)?;
        used += CONNECTIONS * in_flight;
    }
    let elapsed = began.elapsed();
    let spent = cpu::spent(id).unwrap_or_default().saturating_sub(spent);
    let per_second = count as f64 / elapsed.as_secs_f64();
    Ok(Rate { per_second, micros_each: micros(spent) / count.max(1) as f64 })
}

/// A peer, ended on drop.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same renewals in redis; `None` without it.
fn redis(args: &Args, dir: &Path, ids: &[String]) -> io::Result<Option<Rate>> {
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let settings = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"];
    let mut command = match args.proxy_core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string(), "redis-server"]);
            command
        }
        None => Command::new("redis-server"),
    };
    let there = Command::new("redis-server").arg("--version").output().is_ok_and(|ran| ran.status.success());
    if !there {
        return Ok(None);
    }
    command.args(settings).arg(dir).args(["--port", &free.port().to_string()]);
    let peer = Peer(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let began = clock::now();
    let mut client = loop {
        match Client::connect(free) {
            Ok(client) => break client,
            Err(error) if began.elapsed() > PEER_PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    for id in ids {
        client.send(&command_of(&["SET", id, "instance", "PX", "3600000"]))?;
        client.reply(wire::redis)?;
    }
    let renewals: Vec<_> = ids.iter().map(|id| command_of(&["PEXPIRE", id, "3600000"])).collect();
    rate(args, peer.0.id(), free, &renewals, 1, wire::redis).map(Some)
}

/// A command in redis' protocol.
fn command_of(words: &[&str]) -> Vec<u8> {
    let words_text: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{words_text}", words.len()).into_bytes()
}
