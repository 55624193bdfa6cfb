//! The same bytes through both engines, valid, odd and hostile: what clients get and instances see must be the same, but
//! for what `allowed` lists. It judges no engine by itself, except that each forwards only what it has decided.
//!
//! `DIFFERENTIAL_SEEDS` says how many seeds to run, `DIFFERENTIAL_FROM` where to begin, `DIFFERENTIAL_SEED` runs one
//! and shows all of it.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

#[path = "differential/allowed.rs"]
mod allowed;
#[path = "differential/client.rs"]
mod client;
#[path = "differential/generator.rs"]
mod generator;
#[path = "differential/hostile.rs"]
mod hostile;
#[path = "differential/instance.rs"]
mod instance;
#[path = "differential/strict.rs"]
mod strict;
#[path = "engine/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the suite of one engine needs more of it")]
mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use proxy::server::Limits;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::client::{Answer, End, Heard};
use self::generator::Case;
use self::instance::{Record, Scripted};
use self::strict::Request;
use self::support::Proxy;

mod chosen {
    /// For what of `support` asks; every proxy in here is started by the name of its engine.
    pub(crate) const ENGINE: &str = "general";
}

/// Run unless the environment says otherwise.
const SEEDS: u64 = 5_000;
/// Seeds that share one table.
const BATCH: u64 = 250;
/// Seeds under way at once.
const AT_ONCE: usize = 48;
/// How long nothing must come from a proxy that is taken to wait for more; and when a seed runs alone.
const QUIET: Duration = Duration::from_millis(800);
const QUIET_ALONE: Duration = Duration::from_secs(2);
/// One seed in so many may differ once and not again when it runs alone: a machine under load looks like a client that
/// fell silent.
const ONCE_IN: u64 = 250;

/// What came of one case behind one engine.
#[derive(Debug)]
struct Seen {
    heard: Heard,
    record: Record,
}

/// One case and what both engines made of it.
struct Pair<'a> {
    case: &'a Case,
    general: &'a Seen,
    lane: &'a Seen,
}

/// Where the answers of both engines part.
struct Parting<'a> {
    /// What the instance was told to do with the request; nothing when it is not known any more.
    script: &'a str,
    general: Option<&'a Answer>,
    lane: Option<&'a Answer>,
    /// The same of the request before.
    script_before: &'a str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_say_the_same_to_the_same_bytes() {
    let engines = Arc::new([start("general"), start("lane")]);
    if let Some(seed) = number("DIFFERENTIAL_SEED") {
        let (report, differs) = alone(&engines, seed).await;
        println!("{report}");
        assert!(!differs, "seed {seed} differs");
        return;
    }
    let from = number("DIFFERENTIAL_FROM").unwrap_or(0);
    let seeds = number("DIFFERENTIAL_SEEDS").unwrap_or(SEEDS);
    let (mut once, mut failures) = (Vec::new(), Vec::new());
    let mut tally = Tally::default();
    for start in (from..from + seeds).step_by(usize::try_from(BATCH).unwrap()) {
        let batch: Vec<u64> = (start..(start + BATCH).min(from + seeds)).collect();
        let suspects = run(&engines, &batch, &mut tally).await;
        for seed in suspects {
            let mut again = None;
            for _ in 0..2 {
                let (report, differs) = alone(&engines, seed).await;
                if differs {
                    again = Some(report);
                    break;
                }
            }
            match again {
                Some(report) => failures.push(report),
                None => once.push(seed),
            }
        }
        assert!(failures.len() < 5, "{}", failures.join("\n"));
    }
    println!("{seeds} seeds: {tally:?}; differed once: {once:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(once.len() as u64 <= seeds / ONCE_IN, "too many differ now and then: {once:?}");
    tally.covers(seeds);
}

/// What was met along the way, so that a generator that makes nothing of interest is noticed.
#[derive(Debug, Default)]
struct Tally {
    answers: u64,
    own: u64,
    refused: u64,
    forwarded: u64,
    broken: u64,
    waiting: u64,
    allowed: HashMap<&'static str, u64>,
}

impl Tally {
    fn add(&mut self, seen: &Seen) {
        self.answers += seen.heard.answers.len() as u64;
        let own = seen.heard.answers.iter().filter(|answer| answer.field("x-a8-error").is_some());
        self.own += own.count() as u64;
        self.refused += seen.heard.answers.iter().filter(|answer| answer.status == 400).count() as u64;
        self.forwarded += seen.record.requests.len() as u64;
        self.broken += seen.heard.answers.iter().filter(|answer| !answer.complete).count() as u64;
        self.waiting += u64::from(seen.heard.end == End::Waiting);
    }

    /// Every kind of outcome is met by a good part of the seeds.
    fn covers(&self, seeds: u64) {
        for (what, count, part) in [
            ("answers", self.answers, 1),
            ("answers of the proxy itself", self.own, 2),
            ("refusals", self.refused, 10),
            ("forwarded requests", self.forwarded, 1),
            ("answers that break off", self.broken, 100),
        ] {
            assert!(count >= seeds / part, "hardly any {what}: {self:?}");
        }
        assert!(self.waiting <= seeds / 5, "most streams should come to an end: {self:?}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn start(engine: &str) -> Proxy {
    let limits = Limits { drain_within: Duration::from_millis(200), ..Limits::default() };
    Proxy::running(engine, limits, &[], &[])
}

/// Runs a batch; the seeds whose outcomes differ and are not allowed to.
async fn run(engines: &Arc<[Proxy; 2]>, seeds: &[u64], tally: &mut Tally) -> Vec<u64> {
    let cases: Vec<_> = seeds.iter().map(|seed| Arc::new(Case::generate(*seed))).collect();
    let mut scripted: [Vec<_>; 2] = Default::default();
    for (proxy, scripted) in engines.iter().zip(&mut scripted) {
        for _ in &cases {
            scripted.push(Scripted::start().await);
        }
        install(proxy, &cases, scripted);
    }
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    let [general, lane] = scripted;
    for ((case, general), lane) in cases.into_iter().zip(general).zip(lane) {
        let (engines, at_once) = (Arc::clone(engines), Arc::clone(&at_once));
        running.spawn(async move {
            let _permit = at_once.acquire().await.unwrap();
            let one = play(&engines[0], &case, general, QUIET);
            let two = play(&engines[1], &case, lane, QUIET);
            let (general, lane) = tokio::join!(one, two);
            (case, general, lane)
        });
    }
    let mut suspects = Vec::new();
    let mut outcomes = Vec::new();
    while let Some(outcome) = running.join_next().await {
        let (case, general, lane) = outcome.unwrap();
        tally.add(&general);
        match verdict(&Pair { case: &case, general: &general, lane: &lane }) {
            Verdict::Same => {}
            Verdict::Allowed(why) => *tally.allowed.entry(why).or_default() += 1,
            Verdict::Differs => suspects.push(case.seed),
        }
        outcomes.push((case, [general, lane]));
    }
    for (at, proxy) in engines.iter().enumerate() {
        let seen: Vec<_> = outcomes.iter().map(|(case, seen)| (&**case, &seen[at])).collect();
        forwards_only_what_it_decided(proxy, &seen).await;
    }
    suspects
}

/// Runs one seed with nothing beside it; everything about it, and whether the outcomes differ.
async fn alone(engines: &[Proxy; 2], seed: u64) -> (String, bool) {
    let case = Arc::new(Case::generate(seed));
    let mut seen = Vec::new();
    for proxy in engines {
        let scripted = Scripted::start().await;
        install(proxy, std::slice::from_ref(&case), std::slice::from_ref(&scripted));
        seen.push(play(proxy, &case, scripted, QUIET_ALONE).await);
    }
    let [general, lane] = &seen[..] else { panic!("there are two engines") };
    let pair = Pair { case: &case, general, lane };
    let verdict = verdict(&pair);
    (report(&pair, &verdict), matches!(verdict, Verdict::Differs))
}

fn install(proxy: &Proxy, cases: &[Arc<Case>], scripted: &[Scripted]) {
    let rules: Vec<Value> = cases.iter().flat_map(|case| rules(case)).collect();
    let instances: Vec<_> = cases
        .iter()
        .zip(scripted)
        .map(|(case, scripted)| (&*case.service, "v1", scripted.at.to_string()))
        .collect();
    proxy.apply(&rules, &instances);
}

/// Faults for requests that ask for them, and a path that is rewritten.
fn rules(case: &Case) -> Vec<Value> {
    let (service, seed) = (&case.service, case.seed);
    let fault = |word: &str, action: Value| {
        json!({"id": format!("{word}-{seed}"), "destination": service, "actions": [action],
            "match": {"headers": {"X-Fault": word}}})
    };
    let route = |id: &str, priority: i64, more: Value| {
        let mut route = json!({"backends": [{"tags": ["v1"]}]});
        for (key, value) in more.as_object().unwrap() {
            route[key] = value.clone();
        }
        json!({"id": format!("{id}-{seed}"), "destination": service, "priority": priority, "route": route})
    };
    vec![
        fault("abort", json!({"action": "abort", "return_code": 418})),
        fault("close", json!({"action": "abort", "return_code": -1})),
        fault("delay", json!({"action": "delay", "duration": 0.02})),
        route("all", 0, json!({})),
        route("old", 1, json!({"uri": {"prefix": "/old/", "prefix_rewrite": "/new/"}})),
    ]
}

async fn play(proxy: &Proxy, case: &Case, scripted: Scripted, quiet: Duration) -> Seen {
    let heard = client::play(proxy.http, case, quiet).await;
    Seen { heard, record: scripted.end().await }
}

/// What instances saw is well formed and no more than what was decided: one log line that names a backend for each
/// request, and one count for each further attempt.
async fn forwards_only_what_it_decided(proxy: &Proxy, all: &[(&Case, &Seen)]) {
    let retries: HashMap<String, u64> = {
        let page = String::from_utf8(proxy.stage.metrics.encode()).unwrap();
        page.lines()
            .filter_map(|line| line.strip_prefix("a8_proxy_retries_total{service=\"")?.split_once("\"} "))
            .map(|(service, count)| (service.to_owned(), count.parse().unwrap()))
            .collect()
    };
    for (case, seen) in all {
        let shown = || format!("seed {}: {}\n{:?}", case.seed, case.shown(), seen.record);
        assert!(seen.record.violations.is_empty(), "malformed for an instance: {}", shown());
    }
    let decided = |log: &[Value]| {
        let mut lines: HashMap<&str, u64> = HashMap::new();
        for line in log.iter().filter(|line| is_forwarded(line)) {
            let service = line["dst"].as_str().unwrap().split(':').next().unwrap();
            *lines.entry(service).or_default() += 1;
        }
        all.iter().find_map(|(case, seen)| {
            let lines = lines.get(&*case.service).copied().unwrap_or_default();
            let retries = retries.get(&case.service).copied().unwrap_or_default();
            let heads = seen.record.heads;
            (heads > lines + retries).then(|| {
                format!(
                    "seed {}: {heads} requests, {lines} lines, {retries} retries\n{}",
                    case.seed,
                    case.shown()
                )
            })
        })
    };
    // Lines are written aside: they may be late, never missing.
    let mut left = 400;
    while let Some(wrong) = decided(&proxy.log(0).await) {
        assert!(left > 0, "forwarded more than was decided: {wrong}");
        left -= 1;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Whether a line tells of a request that a backend was chosen for, and that was not answered by the proxy itself.
fn is_forwarded(line: &Value) -> bool {
    let flags = line["response_flags"].as_str().unwrap();
    line["dst"] != "-" && !flags.split(',').any(|flag| matches!(flag, "FI" | "NR" | "UH" | "UO"))
}

/// What comes of comparing.
enum Verdict {
    Same,
    Allowed(&'static str),
    Differs,
}

/// Behind the first difference that is meant nothing is compared: the engines are in different places then.
fn verdict(pair: &Pair<'_>) -> Verdict {
    let Some(parting) = parting(pair) else {
        let same = pair.general.heard.end == pair.lane.heard.end
            && whole(&pair.general.record).eq(whole(&pair.lane.record));
        return if same { Verdict::Same } else { Verdict::Differs };
    };
    allowed::TABLE
        .iter()
        .find(|allowed| (allowed.applies)(&parting))
        .map_or(Verdict::Differs, |allowed| Verdict::Allowed(allowed.reason))
}

/// The requests that an instance took to their end. Whether the rest of one that was answered before still reaches it is
/// a matter of time.
fn whole(record: &Record) -> impl Iterator<Item = &Request> {
    record
        .requests
        .iter()
        .filter(|request| !request.field("x-script").is_some_and(|script| script.starts_with("early")))
}

/// The first answer that is not the same; `None` when all are.
fn parting<'a>(pair: &Pair<'a>) -> Option<Parting<'a>> {
    let (general, lane) = (compared(&pair.general.heard.answers), compared(&pair.lane.heard.answers));
    let same = general.iter().zip(&lane).take_while(|(one, two)| is_same_answer(one, two)).count();
    if same == general.len() && same == lane.len() {
        return None;
    }
    let number = general[..same].iter().filter(|answer| !answer.is_interim()).count();
    let script =
        |number: Option<usize>| number.and_then(|at| pair.case.scripts.get(at).copied()).unwrap_or_default();
    let (script, script_before) = (script(Some(number)), script(number.checked_sub(1)));
    let (general, lane) = (general.get(same).copied(), lane.get(same).copied());
    Some(Parting { script, script_before, general, lane })
}

/// The answers without those interim ones that may or may not have been passed on when the attempt that they belong to
/// failed, and without permissions to go on, of which the same holds.
fn compared(answers: &[Answer]) -> Vec<&Answer> {
    let failed = |at: usize| {
        let last = answers[at..].iter().find(|answer| !answer.is_interim());
        last.is_none_or(|answer| answer.status >= 500)
    };
    let kept = |at: usize, answer: &Answer| !answer.is_interim() || answer.status != 100 && !failed(at);
    answers.iter().enumerate().filter(|(at, answer)| kept(*at, answer)).map(|(_, answer)| answer).collect()
}

/// How much of a body came before it broke off is a matter of time, but it is the same body.
fn is_same_answer(one: &Answer, two: &Answer) -> bool {
    let bodies = if one.complete {
        one.body == two.body
    } else {
        one.body.starts_with(&two.body) || two.body.starts_with(&one.body)
    };
    bodies && one.complete == two.complete && one.head() == two.head()
}

fn report(pair: &Pair<'_>, verdict: &Verdict) -> String {
    let mut text = format!("seed {}: ", pair.case.seed);
    text.push_str(match verdict {
        Verdict::Same => "the same",
        Verdict::Allowed(why) => why,
        Verdict::Differs => "DIFFERENT",
    });
    write!(text, "\nsent, with the cuts:\n{}\n", pair.case.shown()).unwrap();
    for (engine, seen) in [("general", pair.general), ("lane", pair.lane)] {
        writeln!(text, "{engine}: the client heard, to the end `{:?}`:", seen.heard.end).unwrap();
        for answer in &seen.heard.answers {
            writeln!(text, "    {answer:?}").unwrap();
        }
        writeln!(text, "{engine}: the instance saw {} heads, and whole:", seen.record.heads).unwrap();
        for request in &seen.record.requests {
            writeln!(text, "    {request:?}").unwrap();
        }
    }
    text
}

#[test]
fn what_differs_is_seen() {
    let seen = |answers: &[u8], requests: &[u8]| {
        let mut record = Record::default();
        record.requests.extend(strict::head(requests).unwrap().map(|(request, _)| request));
        Seen { heard: Heard { answers: client::read(answers), end: End::Closed }, record }
    };
    let (answer, request) =
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", b"GET / HTTP/1.1\r\nX: y\r\n\r\n");
    let general = seen(answer, request);
    let case = Case::generate(0);
    for (answers, requests, same) in [
        (&answer[..], &request[..], true),
        (
            b"HTTP/1.1 200 X\r\nDate: x\r\ncontent-length: 2\r\nConnection: keep-alive\r\n\r\nab",
            request,
            true,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", request, true),
        (b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", request, false),
        (b"HTTP/1.1 201 OK\r\nContent-Length: 2\r\n\r\nab", request, false),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nac", request, false),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", request, false),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", request, false),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nab", request, false),
        (b"", request, false),
        (answer, b"GET / HTTP/1.1\r\n\r\n", false),
        (answer, b"GET /x HTTP/1.1\r\nX: y\r\n\r\n", false),
        (answer, b"", false),
    ] {
        let lane = seen(answers, requests);
        let pair = Pair { case: &case, general: &general, lane: &lane };
        let verdict = verdict(&pair);
        assert_eq!(matches!(verdict, Verdict::Same), same, "{}", report(&pair, &verdict));
    }
}
