//! The feed against a control that misbehaves on purpose: what is served, what is acknowledged, what is
//! refused, and what happens without control.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

mod fake_control;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use control_api::Snapshot;
use fake_control::{EPOCH, FakeControl, LONG};
use http::HeaderMap;
use proxy::background::Background;
use proxy::config::{Config, Settings};
use proxy::feed::{Seen, Source};
use proxy::live::Live;
use registry_api::{ContentHash, Position};
use routing::{At, Outcome, Refusal, RequestHead, Seed};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

/// A proxy's feed without its listeners.
struct Proxy {
    live: Live,
    background: Option<Background>,
}

fn config(dir: &Path, urls: &[String]) -> Config {
    let mut line = vec!["a8".to_owned(), format!("--data_dir={}", dir.display())];
    line.extend(["--service=gateway:v1,edge", "--node=n-1", "--controller_token=t0k"].map(str::to_owned));
    line.extend(urls.iter().map(|url| format!("--controller_url={url}")));
    Line::try_parse_from(line).unwrap().settings.check().unwrap()
}

impl Proxy {
    fn start(dir: &Path, urls: &[String]) -> Self {
        let config = config(dir, urls);
        let live = Live::open(&config, proxy::clock::now()).unwrap();
        let node = config.node("127.0.0.1:6379".parse().unwrap());
        let background = Some(Background::start(&config, node, &live).unwrap());
        Self { live, background }
    }

    /// What becomes of a request for `/reviews/x`.
    fn outcome(&self) -> Outcome {
        self.outcome_of("h", "/reviews/x")
    }

    fn outcome_of(&self, authority: &str, path: &str) -> Outcome {
        let headers = HeaderMap::new();
        let head = RequestHead { method: "GET", path, query: "", authority, headers: &headers };
        self.live.tables.pin().decide(&head, Seed::of(b"id"), &At(0)).outcome
    }

    fn serves(&self) -> bool {
        matches!(self.outcome(), Outcome::Forward(_))
    }

    fn seen(&self) -> Seen {
        self.live.status.seen()
    }

    /// Waits until the feed says so.
    fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let deadline = proxy::clock::now() + LONG;
        while !holds(&self.seen()) {
            assert!(proxy::clock::now() < deadline, "never came true: {what}: {:?}", self.seen());
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn metric(&self, name: &str) -> String {
        let page = String::from_utf8(self.live.metrics.encode()).unwrap();
        let line = page.lines().find(|line| line.split_once(' ').is_some_and(|(series, _)| series == name));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).rsplit_once(' ').unwrap().1.to_owned()
    }
}

/// Instances of `reviews` with these endpoints.
fn snapshot(revision: u64, endpoints: &[&str]) -> Snapshot {
    let instance = |value: &&str| {
        let text = format!(
            r#"{{"id":"i-{value}","service_name":"reviews","endpoint":{{"type":"http","value":"{value}"}},"status":"UP"}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    };
    Snapshot::new(revision, [], endpoints.iter().map(instance))
}

fn at(index: u64, snapshot: &Snapshot) -> Position {
    Position { epoch: EPOCH.to_owned(), index, hash: snapshot.hash() }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A port that nobody listens on, held for as long as this process lives.
fn nobody() -> String {
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let url = format!("http://{}", held.local_addr().unwrap());
    std::mem::forget(held);
    url
}

#[test]
fn full_and_delta_are_served_and_only_what_serves_is_acknowledged() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    let first = control.poll(0);
    assert_eq!(first.says(), (0, None));
    assert_eq!(first.get("node").as_deref(), Some("n-1"));
    assert_eq!(first.get("service").as_deref(), Some("gateway"));
    assert_eq!(first.all("tag"), ["v1", "edge"]);
    assert!(first.get("version").is_some_and(|version| !version.is_empty()));
    assert_eq!(first.header("authorization"), Some("Bearer t0k"));
    assert_eq!(proxy.outcome(), Outcome::Refuse(Refusal::UnknownService));
    assert!(!proxy.seen().is_ready());

    let (one, two) = (snapshot(1, &["127.0.0.1:1"]), snapshot(1, &["127.0.0.1:1", "127.0.0.1:2"]));
    control.full(7, &one);
    let second = control.poll(1);
    // The poll that acknowledges comes after the swap, never before.
    assert!(proxy.serves() && proxy.seen().is_ready());
    assert_eq!(second.says(), (7, None));
    assert_eq!(second.get("epoch").as_deref(), Some(EPOCH));
    assert_eq!(second.get("hash"), Some(one.hash().to_string()));
    assert_eq!(second.get("wait").as_deref(), Some("50000ms"));

    control.delta(7, &one, 8, &two);
    assert_eq!(control.poll(2).says(), (8, None));
    assert_eq!(proxy.metric(r#"a8_proxy_instances{service="reviews"}"#), "2");

    control.delta(8, &two, 9, &snapshot(2, &[]));
    assert_eq!(control.poll(3).says(), (9, None));
    assert_eq!(proxy.outcome(), Outcome::Refuse(Refusal::UnknownService), "an empty answer empties at once");
    assert_eq!(proxy.metric(r#"a8_proxy_instances{service="reviews"}"#), "0");
    for (name, value) in [
        ("a8_proxy_table_swaps_total", "3"),
        ("a8_proxy_snapshot_index", "9"),
        ("a8_proxy_snapshot_revision", "2"),
        ("a8_proxy_snapshot_rejected_total", "0"),
    ] {
        assert_eq!(proxy.metric(name), value, "{name}");
    }
    let heard: f64 =
        proxy.metric(r#"a8_control_last_success_timestamp_seconds{source="rules"}"#).parse().unwrap();
    assert!(heard > 1.6e9);
}

#[test]
fn hosts_name_services_of_the_namespace_that_control_says_also_without_control() {
    let (dir, control) = (dir(), FakeControl::start());
    let mut blue = snapshot(1, &["127.0.0.1:1"]);
    blue.set_namespace(registry_api::Namespace::new("blue").unwrap());
    let check = |proxy: &Proxy| {
        for (host, known) in [("reviews.a8", true), ("reviews.blue.a8", true), ("reviews.default.a8", false)]
        {
            let outcome = proxy.outcome_of(host, "/x");
            assert_eq!(matches!(outcome, Outcome::Forward(_)), known, "{host}: {outcome:?}");
        }
    };
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    control.full(7, &blue);
    control.poll(1);
    check(&proxy);
    let mut next = blue.clone();
    next.set_revision(2);
    control.delta(7, &blue, 8, &next);
    control.poll(2);
    check(&proxy);
    drop(proxy);
    check(&Proxy::start(dir.path(), &[nobody()]));
}

#[test]
fn a_file_that_does_not_say_whose_it_is_serves_until_control_says_everything() {
    let (dir, control) = (dir(), FakeControl::start());
    let mut blue = snapshot(1, &["127.0.0.1:1"]);
    blue.set_namespace(registry_api::Namespace::new("blue").unwrap());
    // As it was written before files said it.
    let unnamed = control_api::SnapshotAnswer::full(EPOCH, 7, &snapshot(1, &["127.0.0.1:1"]));
    let body = serde_json::to_string(&unnamed).unwrap();
    let header = serde_json::json!({"a8_last_good": 1, "checksum": ContentHash::of(body.as_bytes())});
    std::fs::write(dir.path().join(proxy::feed::last_good::FILE), format!("{header}\n{body}")).unwrap();
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    assert!(proxy.serves());
    assert_eq!(proxy.outcome_of("reviews.blue.a8", "/x"), Outcome::Refuse(Refusal::UnknownService));
    assert_eq!(control.poll(0).says(), (0, None), "nothing is acknowledged, so that everything is said");
    control.full(7, &blue);
    assert_eq!(control.poll(1).says(), (7, None));
    assert!(matches!(proxy.outcome_of("reviews.blue.a8", "/x"), Outcome::Forward(_)));
    drop(proxy);
    let again = Proxy::start(dir.path(), &[nobody()]);
    assert!(matches!(again.outcome_of("reviews.blue.a8", "/x"), Outcome::Forward(_)));
}

#[test]
fn unchanged_is_no_swap_and_a_new_name_for_the_same_content_is_adopted() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    let one = snapshot(1, &["127.0.0.1:1"]);
    control.full(7, &one);
    let table = {
        control.poll(1);
        proxy.live.tables.pin()
    };
    control.unchanged(&at(7, &one));
    control.poll(2);
    control.unchanged(&Position { epoch: "reborn".to_owned(), index: 3, hash: one.hash() });
    let poll = control.poll(3);
    assert_eq!((poll.says(), poll.get("epoch").as_deref()), ((3, None), Some("reborn")));
    assert!(Arc::ptr_eq(&table, &proxy.live.tables.pin()));
    assert_eq!(proxy.metric("a8_proxy_snapshot_index"), "3");
}

#[test]
fn a_delta_that_does_not_fit_is_followed_by_a_question_for_everything() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    let (one, two) = (snapshot(1, &["127.0.0.1:1"]), snapshot(2, &["127.0.0.1:2"]));
    control.full(7, &one);
    control.poll(1);
    control.delta(6, &one, 8, &two);
    assert_eq!(control.poll(2).says(), (0, None), "no refusal: control would wait for something newer");
    assert!(proxy.serves());
    control.full(8, &two);
    assert_eq!(control.poll(3).says(), (8, None));
    assert_eq!(proxy.metric("a8_proxy_snapshot_rejected_total"), "0");
}

#[test]
fn a_snapshot_that_is_not_what_it_says_is_refused_with_a_reason_and_the_old_table_stays() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    let (one, two) = (snapshot(1, &["127.0.0.1:1"]), snapshot(2, &[]));
    control.full(7, &one);
    control.poll(1);
    let table = proxy.live.tables.pin();
    let lie = Position { epoch: EPOCH.to_owned(), index: 8, hash: ContentHash::of(b"other") };
    let body = serde_json::to_string(&control_api::SnapshotAnswer::full(EPOCH, 8, &two)).unwrap();
    control.answer_raw("200 OK", Some(&lie), &body.replace(&two.hash().to_string(), &lie.hash.to_string()));
    let nack = control.poll(2);
    assert_eq!(nack.says(), (7, Some(8)));
    assert!(nack.get("reason").is_some_and(|reason| !reason.is_empty()));
    assert!(Arc::ptr_eq(&table, &proxy.live.tables.pin()) && proxy.serves());
    let seen = proxy.seen();
    assert_eq!((seen.rejected.unwrap().position.index, seen.position.index, seen.connected), (8, 7, true));
    assert_eq!(proxy.metric("a8_proxy_snapshot_rejected_total"), "1");

    control.unchanged(&at(7, &one));
    assert_eq!(control.poll(3).says(), (7, Some(8)), "the refusal stands until there is something newer");
    control.full(9, &two);
    assert_eq!(control.poll(4).says(), (9, None));
    assert_eq!(proxy.seen().rejected, None);
}

#[test]
fn a_rule_that_does_not_compile_is_refused_even_as_the_first_snapshot() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    let bad = format!(
        r#"{{"epoch":"e","index":4,"revision":1,"hash":"{}","full":true,"instances":[],"rules":[{{"id":"r",
        "destination":"reviews","match":{{"headers":{{"Cookie":"(unclosed"}}}},"route":{{"backends":[{{"tags":["v1"]}}]}}}}]}}"#,
        ContentHash::of(b"bad")
    );
    let bad_at = Position { epoch: EPOCH.to_owned(), index: 4, hash: ContentHash::of(b"bad") };
    control.answer_raw("200 OK", Some(&bad_at), &bad);
    let nack = control.poll(1);
    assert_eq!(nack.says(), (0, Some(4)));
    assert!(nack.get("reason").unwrap().contains("unclosed"), "{nack:?}");
    assert!(!proxy.seen().is_ready());
    control.answer_raw("200 OK", Some(&bad_at), &bad);
    assert_eq!(control.poll(2).says(), (0, Some(4)));
    assert_eq!(proxy.metric("a8_proxy_snapshot_rejected_total"), "1", "the same one counts once");
    control.full(5, &snapshot(2, &["127.0.0.1:1"]));
    assert_eq!(control.poll(3).says(), (5, None));
    assert!(proxy.serves());
}

#[test]
fn answers_that_make_no_sense_and_refusals_leave_the_table_alone() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    let one = snapshot(1, &["127.0.0.1:1"]);
    control.full(7, &one);
    control.poll(1);
    for (polls, (status, body, told)) in [
        ("200 OK", "not json", "a8-index is no number"),
        ("401 Unauthorized", r#"{"error":"error_auth_not_authorized"}"#, "401"),
        ("503 Service Unavailable", "", "503"),
        ("500 Internal Server Error", "x", "500"),
    ]
    .into_iter()
    .enumerate()
    {
        control.answer_raw(status, None, body);
        assert_eq!(control.poll(2 + polls).says(), (7, None), "{status}");
        proxy.until(status, |seen| {
            seen.error.as_deref().is_some_and(|error| error.to_lowercase().contains(told)) && !seen.connected
        });
        assert!(proxy.serves() && proxy.seen().rejected.is_none());
    }
    control.unchanged(&at(7, &one));
    proxy.until("connected again", |seen| seen.connected && seen.error.is_none());
}

#[test]
fn the_table_stays_when_control_is_gone_and_another_control_is_found() {
    let (dir, one, two) = (dir(), FakeControl::start(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[nobody(), one.url(), two.url()]);
    let serving = snapshot(1, &["127.0.0.1:1"]);
    one.full(7, &serving);
    one.poll(1);
    one.die();
    proxy.until("control is lost", |seen| !seen.connected);
    assert!(proxy.serves());
    assert_eq!(two.poll(0).says(), (7, None), "the other one is told what serves");
    two.full(90, &snapshot(5, &["127.0.0.1:2"]));
    assert_eq!(two.poll(1).says(), (90, None));
    assert!(proxy.seen().connected);
}

#[test]
fn a_proxy_starts_and_serves_without_control_from_the_last_good_snapshot() {
    let (dir, control) = (dir(), FakeControl::start());
    let one = snapshot(3, &["127.0.0.1:1"]);
    let mut proxy = Proxy::start(dir.path(), &[control.url()]);
    control.full(7, &one);
    control.poll(1);
    proxy.background = None;
    drop(proxy);
    control.die();

    let proxy = Proxy::start(dir.path(), &[nobody()]);
    assert!(proxy.serves(), "before anything was heard");
    let seen = proxy.seen();
    assert_eq!((seen.source, seen.is_ready(), seen.position), (Source::LastGood, true, at(7, &one)));
    proxy.until("control is not there", |seen| seen.error.is_some());
    assert!(proxy.serves());
    drop(proxy);

    let control = FakeControl::start();
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    let poll = control.poll(0);
    assert_eq!((poll.says(), poll.get("hash")), ((7, None), Some(one.hash().to_string())));
    assert_eq!(poll.get("wait").as_deref(), Some("1000ms"), "so that control is soon known to be there");
    control.unchanged(&at(7, &one));
    proxy.until("control is there", |seen| seen.connected);
    assert_eq!(proxy.metric("a8_proxy_table_swaps_total"), "1", "there was nothing to swap");
}

#[test]
fn what_control_confirms_of_the_last_good_snapshot_is_controls_and_who_comes_then_has_just_come_up() {
    let (dir, control, reborn) = (dir(), FakeControl::start(), FakeControl::start());
    let one = snapshot(1, &["127.0.0.1:1"]);
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    control.full(7, &one);
    control.poll(1);
    drop(proxy);
    let proxy = Proxy::start(dir.path(), &[reborn.url()]);
    assert_eq!(proxy.seen().source, Source::LastGood);
    reborn.unchanged(&at(7, &one));
    proxy.until("control confirmed it", |seen| seen.source == Source::Control);
    assert_eq!(proxy.metric("a8_proxy_table_swaps_total"), "1", "the one from the disk");

    reborn.delta(7, &one, 8, &snapshot(1, &["127.0.0.1:1", "127.0.0.1:2"]));
    reborn.poll(2);
    let table = proxy.live.tables.pin();
    let service = table.service(table.find("reviews").unwrap());
    let now = proxy::clock::now();
    let new: Vec<_> = service.endpoints().iter().map(|endpoint| endpoint.live.age(now).is_some()).collect();
    assert_eq!(new.iter().filter(|new| **new).count(), 1, "{new:?}");
}

#[test]
fn a_damaged_last_good_snapshot_is_ignored() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    control.full(7, &snapshot(3, &["127.0.0.1:1"]));
    control.poll(1);
    drop(proxy);
    let file = dir.path().join(proxy::feed::last_good::FILE);
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();

    let control = FakeControl::start();
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    assert!(!proxy.serves() && !proxy.seen().is_ready());
    assert_eq!(control.poll(0).says(), (0, None));
    control.full(1, &snapshot(4, &["127.0.0.1:1"]));
    control.poll(1);
    assert!(proxy.serves());
}

#[test]
fn host_names_are_resolved_before_the_table_that_needs_them_serves() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    control.full(1, &snapshot(1, &["localhost:8080"]));
    control.poll(1);
    let Outcome::Forward(backend) = proxy.outcome() else { panic!("not forwarded") };
    let table = proxy.live.tables.pin();
    let endpoint = &table.backend(backend).endpoints[0];
    let address = endpoint.live.address().expect("localhost is known everywhere");
    assert!(address.ip().is_loopback() && address.port() == 8080);
    assert!(endpoint.live.usable(proxy::clock::now()));
}

#[test]
fn live_state_survives_a_swap() {
    let (dir, control) = (dir(), FakeControl::start());
    let proxy = Proxy::start(dir.path(), &[control.url()]);
    let (one, two) = (snapshot(1, &["127.0.0.1:1"]), snapshot(2, &["127.0.0.1:1", "127.0.0.1:2"]));
    control.full(1, &one);
    control.poll(1);
    let endpoint = || {
        let Outcome::Forward(backend) = proxy.outcome() else { panic!("not forwarded") };
        Arc::clone(&proxy.live.tables.pin().backend(backend).endpoints[0].live)
    };
    let _in_flight = endpoint().begin();
    control.delta(1, &one, 2, &two);
    control.poll(2);
    assert_eq!(endpoint().active(), 1);
}
