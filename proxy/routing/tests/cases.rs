//! Runs the routing cases in `tests/cases`: rules, instances and a request as text, the explanation expected
//! of them. Adding a case needs no Rust; how one is written is told in `tests/cases/README`.
//!
//! `UPDATE_CASES=1 cargo test -p routing --test cases` writes what is answered now into the files: read the
//! difference before committing it.

#![allow(clippy::unwrap_used, reason = "a test stops where its world is wrong")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

use control_api::{Identity, Rule, Snapshot};
use http::{HeaderMap, HeaderName, HeaderValue};
use registry_api::Instance;
use routing::{Circumstances, LimitedFault, RequestHead, RouteTable, Seed};
use serde_json::json;

/// The id of a request that does not say its own.
const REQUEST_ID: &str = "1";
/// The time of a request that does not say its own.
const NOW: &str = "2026-01-31T12:00:00Z";

#[derive(Clone, Default)]
struct World {
    identity: Identity,
    rules: Vec<Arc<Rule>>,
    instances: Vec<Arc<Instance>>,
    faults_disabled: bool,
}

#[derive(Default)]
struct Case {
    world: World,
    title: String,
    /// Everything up to and with the line `expect`, as written.
    written: String,
    path: String,
    query: String,
    authority: String,
    method: String,
    headers: HeaderMap,
    request_id: String,
    now: String,
    client: String,
    /// How many requests have met each fault that is counted.
    met: u64,
    expected: String,
}

impl Circumstances for Case {
    fn now_unix_s(&self) -> u64 {
        let now = if self.now.is_empty() { NOW } else { &self.now };
        control_api::Moment::parse(now).unwrap().unix_s()
    }

    fn client(&self) -> Option<IpAddr> {
        self.client.parse().ok()
    }

    fn admits(&self, fault: &LimitedFault<'_>) -> bool {
        let room = |limit: Option<u64>| limit.is_none_or(|limit| self.met < limit);
        room(fault.limits.first.map(u64::from))
            && room(fault.limits.max_concurrent.map(|count| count.get().into()))
    }
}

#[test]
fn every_case_is_explained_as_written() {
    let update = env::var_os("UPDATE_CASES").is_some();
    let (mut count, mut report) = (0, String::new());
    let mut titles = std::collections::BTreeSet::new();
    for file in case_files() {
        let (preamble, cases) = read(&file);
        assert!(!cases.is_empty(), "{} holds no case", file.display());
        let mut updated = preamble;
        for case in &cases {
            let answer = case.answer();
            if answer != case.expected {
                let _ = write!(
                    report,
                    "\n{}: {}\n{}",
                    file.display(),
                    case.title,
                    difference(&case.expected, &answer)
                );
            }
            assert!(titles.insert(case.title.clone()), "two cases are called `{}`", case.title);
            let _ = write!(updated, "\n{}{answer}", case.written);
            count += 1;
        }
        if update {
            fs::write(&file, updated).unwrap();
        }
    }
    assert!(update || report.is_empty(), "{report}");
    assert!(count >= 70, "only {count} cases were found");
}

impl Case {
    fn answer(&self) -> String {
        let World { identity, rules, instances, faults_disabled } = self.world.clone();
        let mut snapshot = Snapshot::new(1, rules, instances);
        snapshot.set_faults_disabled(faults_disabled);
        let table: RouteTable = RouteTable::compile(&snapshot, &identity, &());
        let Self { method, path, query, authority, headers, .. } = self;
        let head = RequestHead { method, path, query, authority, headers };
        let seed = Seed::of(self.request_id.as_bytes());
        let explanation = table.explain(&head, seed, self);
        assert_eq!(explanation.decision, table.decide(&head, seed, self), "{}", self.title);
        let mut text = explanation.to_string();
        if table.skipped() > 0 {
            let _ = writeln!(text, "skipped {}", table.skipped());
        }
        text
    }
}

fn case_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

/// The text before the first case, which describes the world of all, and the cases.
fn read(file: &Path) -> (String, Vec<Case>) {
    let text = fs::read_to_string(file).unwrap();
    let mut parts = text.split("\ncase ");
    let preamble = parts.next().unwrap().trim_end().to_owned() + "\n";
    let mut shared = Case::default();
    preamble.lines().for_each(|line| shared.take(line, file));
    let cases = parts.map(|part| {
        let (title, rest) = part.split_once('\n').unwrap();
        let (given, expected) = rest.split_once("expect\n").unwrap_or((rest, ""));
        let mut case = Case {
            world: shared.world.clone(),
            title: title.to_owned(),
            written: format!("case {title}\n{}\nexpect\n", given.trim_end()),
            authority: "gateway".to_owned(),
            request_id: REQUEST_ID.to_owned(),
            expected: expected.trim_end().to_owned() + "\n",
            ..Case::default()
        };
        given.lines().for_each(|line| case.take(line, file));
        assert!(!case.path.is_empty(), "{}: `{title}` makes no request", file.display());
        case
    });
    let cases = cases.collect();
    (preamble, cases)
}

impl Case {
    fn take(&mut self, line: &str, file: &Path) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let wrong = || -> ! { panic!("{}: `{line}` cannot be read", file.display()) };
        match word {
            "" | "#" => {}
            "identity" => self.world.identity = Identity::parse(rest),
            "rule" => {
                let rule: Rule = serde_json::from_str(rest).unwrap_or_else(|e| panic!("{line}: {e}"));
                self.world.rules.push(Arc::new(rule));
            }
            "instance" => self.world.instances.push(Arc::new(instance(rest).unwrap_or_else(|| wrong()))),
            "request" => {
                let (method, path) = rest.split_once(' ').unwrap_or_else(|| wrong());
                let (path, query) = path.split_once('?').unwrap_or((path, ""));
                (self.method, self.path, self.query) = (method.to_owned(), path.to_owned(), query.to_owned());
            }
            "header" => {
                let (name, value) = rest.split_once(':').unwrap_or_else(|| wrong());
                self.headers.append(
                    name.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_str(value.trim_start()).unwrap(),
                );
            }
            "authority" => self.authority = rest.to_owned(),
            "disabled" => self.world.faults_disabled = true,
            "now" => self.now = rest.to_owned(),
            "client" => self.client = rest.to_owned(),
            "met" => self.met = rest.parse().unwrap_or_else(|_| wrong()),
            "id" => self.request_id = rest.to_owned(),
            _ => wrong(),
        }
    }
}

/// `service id type value status tag,tag`; service and tags may hold `%20` for a blank.
fn instance(text: &str) -> Option<Instance> {
    let mut words = text.split(' ').map(|word| word.replace("%20", " "));
    let (service, id, kind, value) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let status = words.next()?;
    let tags: Vec<_> = words.next().iter().flat_map(|tags| tags.split(',')).map(str::to_owned).collect();
    serde_json::from_value(json!({"id": id, "service_name": service, "status": status, "tags": tags,
        "endpoint": {"type": kind, "value": value}}))
    .ok()
}

fn difference(expected: &str, answer: &str) -> String {
    let mut text = String::new();
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), answer.lines().collect());
    for line in old.iter().filter(|line| !new.contains(line)) {
        let _ = writeln!(text, "  - {line}");
    }
    for line in &new {
        let _ = writeln!(text, "  {} {line}", if old.contains(line) { " " } else { "+" });
    }
    text
}
