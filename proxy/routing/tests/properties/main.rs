//! Laws over all worlds: what the table decides is what reading the rules aloud gives, a table made from the
//! one before is the one made from nothing, and a pick never repeats itself without need.

#![allow(clippy::unwrap_used, reason = "a test stops where its world is wrong")]

mod naive;
mod picking;
mod worlds;

use std::net::IpAddr;

use control_api::{AbortCode, Identity, Snapshot};
use proptest::prelude::*;
use registry_api::Reason;
use routing::{AddressedBy, Circumstances, Decision, LimitedFault, Outcome, RequestHead, RouteTable, Seed};

use crate::worlds::{Request, World, request, step, world};

/// Noon of a day on which every counted fault at an odd place was met often enough.
struct Noon;

impl Circumstances for Noon {
    fn now_unix_s(&self) -> u64 {
        43_200
    }

    fn client(&self) -> Option<IpAddr> {
        Some(worlds::CLIENT.into())
    }

    fn admits(&self, fault: &LimitedFault<'_>) -> bool {
        fault.place.is_multiple_of(2)
    }
}

/// The decision as text, in the words of the naive reading.
fn retold(table: &RouteTable, decision: &Decision, request: &Request) -> String {
    let fired = |rule: routing::ActionRuleRef| {
        let rule = table.actions(rule);
        let places: Vec<_> =
            (0..rule.actions().len()).filter(|at| decision.faults.fired.contains(*at)).collect();
        let limits = (decision.faults.bytes_per_s.map(u64::from), decision.faults.after_bytes);
        format!("{} {places:?} {limits:?}", rule.id())
    };
    let faults = decision.faults.rule.map_or_else(|| "none".to_owned(), fired);
    let delay = decision.faults.delay.as_micros() as f64 / 1e6;
    match decision.outcome {
        Outcome::Refuse(refusal) => refusal.status_and_id().1.to_owned(),
        Outcome::Forward(at) => {
            let backend = table.backend(at);
            let ids: Vec<_> =
                backend.endpoints.iter().map(|endpoint| endpoint.instance.id.to_string()).collect();
            let path = table.upstream_path(decision, &request.path);
            let (timeout, retries) = (decision.timeout.as_secs_f64(), decision.retries);
            let copy = decision.mirror.map(|at| table.backend(at).dst.clone());
            let limit = decision.route.and_then(|at| table.route(at).rate_limit());
            let limit = limit.map(|limit| (limit.requests_per_s, f64::from(limit.burst), decision.limit_key));
            let policy = decision.route.and_then(|at| table.route(at).retries());
            let policy = policy.map(|policy| (policy.methods.clone(), policy.budget_percent));
            let (dst, lb) = (&backend.dst, backend.lb.as_str());
            format!(
                "forward {path} to {dst} {lb} {ids:?} after {delay} within {timeout} retries {retries} {policy:?} limit {limit:?} copy {copy:?} faults {faults}"
            )
        }
        Outcome::Answer(at) => {
            let status = table.route(at).answer().unwrap().status();
            let (headers, query) = (request.headers(), request.query_text());
            let location = table.location(decision, &head(request, &query, &headers)).unwrap_or_default();
            format!("answer {status} {location} after {delay} faults {faults}")
        }
        Outcome::Abort(code) => {
            let code = match code {
                AbortCode::Status(status) => status.to_string(),
                AbortCode::Close(code) => code.to_string(),
                AbortCode::Reset => "reset".to_owned(),
                AbortCode::Grpc(status) => format!("grpc {status}"),
            };
            let dst = decision.backend.map_or("nobody", |at| &table.backend(at).dst);
            format!("abort {code} for {dst} after {delay} faults {faults}")
        }
    }
}

fn head<'a>(request: &'a Request, query: &'a str, headers: &'a http::HeaderMap) -> RequestHead<'a> {
    RequestHead { method: request.method, path: &request.path, query, authority: request.authority, headers }
}

/// What can be seen of a table through these requests.
#[derive(Debug, PartialEq)]
struct Seen {
    names: Vec<String>,
    skipped: usize,
    revision: u64,
    answers: Vec<String>,
}

fn seen(table: &RouteTable, requests: &[Request]) -> Seen {
    let answer = |request: &Request| {
        let seed = Seed::of(request.id.as_bytes());
        table.explain(&head(request, &request.query_text(), &request.headers()), seed, &Noon).to_string()
    };
    Seen {
        names: table.services().map(|service| service.name.to_string()).collect(),
        skipped: table.skipped(),
        revision: table.revision(),
        answers: requests.iter().map(answer).collect(),
    }
}

fn compile(world: &World) -> RouteTable {
    RouteTable::compile(&world.snapshot(), &world.identity, &())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_decides_what_reading_the_rules_aloud_gives(world in world(), requests in prop::collection::vec(request(), 1..8)) {
        let table = compile(&world);
        for request in &requests {
            let headers = request.headers();
            let decision = table.decide(&head(request, &request.query_text(), &headers), Seed::of(request.id.as_bytes()), &Noon);
            let told = retold(&table, &decision, request);
            prop_assert_eq!(told, naive::read_aloud(&world, request), "{:#?}", table.explain(&head(request, &request.query_text(), &headers), Seed::of(request.id.as_bytes()), &Noon));
        }
    }

    #[test]
    fn an_explanation_ends_as_the_decision_does(world in world(), request in request()) {
        let table = compile(&world);
        let (headers, seed) = (request.headers(), Seed::of(request.id.as_bytes()));
        let explanation = table.explain(&head(&request, &request.query_text(), &headers), seed, &Noon);
        prop_assert_eq!(explanation.decision, table.decide(&head(&request, &request.query_text(), &headers), seed, &Noon));
        // An edge may name the service before another rule decides.
        let may_match = 1 + usize::from(explanation.addressed_by == Some(AddressedBy::Edge));
        prop_assert!(explanation.rules.iter().filter(|rule| rule.matched).count() <= may_match);
        prop_assert!(explanation.backends.iter().filter(|backend| backend.chosen).count() <= 1);
        prop_assert!(serde_json::to_value(&explanation).is_ok());
    }

    #[test]
    fn a_table_made_from_the_one_before_is_the_one_made_from_nothing(
        old in world(), steps in prop::collection::vec(step(), 1..4), requests in prop::collection::vec(request(), 1..6),
    ) {
        let (mut snapshot, mut world) = (old.snapshot(), old.clone());
        let mut table = compile(&old);
        for step in steps {
            world = step.from(world);
            let identity = world.identity.clone();
            // As a feed does it: the entries that stay are the same allocations.
            let mut next = snapshot.clone();
            next.apply(world.snapshot().revision(), snapshot.delta_to(&world.snapshot(), |_| Reason::Expired));
            table = table.recompile(&snapshot, &next, &identity, &());
            let fresh: RouteTable = RouteTable::compile(&next, &identity, &());
            prop_assert_eq!(seen(&table, &requests), seen(&fresh, &requests));
            snapshot = next;
        }
    }

    #[test]
    fn a_wrong_idea_of_the_old_snapshot_does_no_harm(old in world(), new in world(), wrong in world(), requests in prop::collection::vec(request(), 1..6)) {
        let table = compile(&old).recompile(&wrong.snapshot(), &new.snapshot(), &new.identity, &());
        prop_assert_eq!(seen(&table, &requests), seen(&compile(&new), &requests));
    }

    #[test]
    fn services_that_a_change_does_not_touch_are_shared(old in world(), step in step()) {
        let (before, after) = (old.snapshot(), step.from(old.clone()).snapshot());
        let table = compile(&old);
        let next = table.recompile(&before, &after, &old.identity, &());
        for service in table.services() {
            let made_of = |snapshot: &Snapshot| naive::made_of(snapshot, service.name.as_str());
            let shared = next.find(service.name.as_str()).is_some_and(|at| std::ptr::eq(next.service(at), service));
            prop_assert!(shared || made_of(&before) != made_of(&after), "{}", service.name);
        }
    }
}

#[test]
fn splits_and_faults_and_rules_draw_independently() {
    let world = World {
        identity: Identity::default(),
        faults_disabled: false,
        instances: worlds::instances_of("a", &["t1", "t2"]),
        rules: vec![
            serde_json::json!({"id": "r", "destination": "a", "route": {"backends": [{"tags": ["t1"]}, {"tags": ["t2"]}]}}),
            serde_json::json!({"id": "f", "destination": "a", "actions": [
                {"action": "delay", "duration": 1, "probability": 0.5}, {"action": "abort", "return_code": 500, "probability": 0.5}]}),
        ],
    };
    let table = compile(&world);
    let headers = http::HeaderMap::new();
    let head = RequestHead { method: "GET", path: "/a/", query: "", authority: "", headers: &headers };
    let mut cells = std::collections::BTreeMap::<_, u32>::new();
    for id in 0..16_000_u32 {
        let decision = table.decide(&head, Seed::of(id.to_string().as_bytes()), &Noon);
        let dst = table.backend(decision.backend.unwrap()).dst.clone();
        *cells
            .entry((dst, decision.faults.fired.contains(0), decision.faults.fired.contains(1)))
            .or_default() += 1;
    }
    // Eight cells of 2,000; the ids are fixed, so this is no game of chance. Five standard deviations are 210.
    assert_eq!(cells.len(), 8);
    assert!(cells.values().all(|count| count.abs_diff(2_000) < 210), "{cells:?}");
}
