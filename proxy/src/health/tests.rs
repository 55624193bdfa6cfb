//! Who is checked when, and what follows; nobody is asked.

use control_api::{Identity, Snapshot};
use serde_json::{Value, json};

use super::*;
use crate::metrics::Metrics;
use crate::resolve::Resolver;
use crate::shortage::Shortage;

struct World {
    metrics: Arc<Metrics>,
    board: Board,
    wards: Wards,
    start: Instant,
}

fn world() -> World {
    let (metrics, start) = (Arc::new(Metrics::new()), clock::now());
    let board = Board::new(Arc::clone(&metrics), Arc::new(Resolver::default()), start);
    World { metrics, board, wards: Wards::default(), start }
}

fn checked(fields: Value) -> Value {
    let mut check =
        json!({"type": "tcp", "interval_s": 10, "unhealthy_threshold": 2, "healthy_threshold": 1});
    fields.as_object().unwrap().iter().for_each(|(key, value)| check[key] = value.clone());
    json!({"id": "h", "destination": "s", "health_check": check})
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

impl World {
    fn at(&self, after: Duration) -> Instant {
        self.start + after
    }

    /// Follows a table of so many instances and these rules; the first checks are in the middle of their time.
    fn follow(&mut self, rules: &[Value], count: usize, after: Duration) {
        let rules = rules.iter().map(|rule| Arc::new(serde_json::from_value(rule.clone()).unwrap()));
        let instances = (1..=count).map(|at| {
            let value = format!("127.0.0.1:{at}");
            Arc::new(
                serde_json::from_value(json!({"id": format!("{at}"), "service_name": "s", "status": "UP",
                    "endpoint": {"type": "http", "value": value}}))
                .unwrap(),
            )
        });
        let table = Table::compile(&Snapshot::new(1, rules, instances), &Identity::default(), &self.board);
        let now = self.at(after);
        self.wards.follow(&Arc::new(table), now, || 0.5);
    }

    /// Those whose turn it is; none of them is heard of again yet.
    fn due(&mut self, after: Duration) -> Vec<Arc<Endpoint<Board>>> {
        let now = self.at(after);
        std::iter::from_fn(|| Some(self.wards.next_due(now)?.0)).collect()
    }

    fn heard(&mut self, endpoint: &Endpoint<Board>, well: bool, after: Duration) {
        self.found(endpoint, if well { Finding::Well } else { Finding::Unwell }, after);
    }

    fn found(&mut self, endpoint: &Endpoint<Board>, finding: Finding, after: Duration) {
        let now = self.at(after);
        self.wards.heard(endpoint, finding, now, 0.5);
    }

    fn metric(&self, series: &str) -> Option<f64> {
        let page = String::from_utf8(self.metrics.encode()).unwrap();
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }
}

const UNHEALTHY: &str = r#"a8_proxy_unhealthy_instances{service="s"}"#;

#[test]
fn each_instance_is_checked_in_its_own_time_and_never_twice_at_once() {
    let mut world = world();
    world.follow(&[checked(json!({}))], 3, secs(0));
    assert!(world.due(Duration::from_millis(499)).is_empty());
    let all = world.due(Duration::from_millis(500));
    assert_eq!(all.len(), 3);
    assert!(world.due(secs(100)).is_empty(), "all are being checked");
    world.heard(&all[1], true, secs(1));
    assert!(world.due(Duration::from_millis(10_999)).is_empty());
    assert_eq!(world.due(secs(11)).len(), 1);
    for (luck, after) in [(0.0, secs(9)), (1.0, secs(11))] {
        world.wards.heard(&all[2], Finding::Well, world.start + secs(100), luck);
        assert!(world.due(secs(100) + after - Duration::from_millis(1)).is_empty(), "{luck}");
        assert_eq!(world.due(secs(100) + after).len(), 1, "{luck}");
    }
    assert_eq!(world.metric(r#"a8_proxy_health_checks_total{result="success",service="s"}"#), Some(3.0));
}

#[test]
fn what_checks_found_outlives_tables_and_ends_with_the_rule() {
    let mut world = world();
    let rule = checked(json!({}));
    world.follow(std::slice::from_ref(&rule), 2, secs(0));
    let all = world.due(secs(1));
    let now = world.at(secs(5));
    world.heard(&all[0], false, secs(1));
    assert!(all[0].live.usable(now), "once is not enough");
    world.follow(std::slice::from_ref(&rule), 2, secs(2));
    assert!(world.due(secs(2)).is_empty(), "a swap begins nothing anew");
    world.heard(&all[0], false, secs(3));
    assert_eq!((all[0].live.usable(now), all[0].live.state(now)), (false, Some("unhealthy")));
    assert_eq!(world.metric(UNHEALTHY), Some(1.0));
    world.follow(&[checked(json!({"interval_s": 1}))], 2, secs(4));
    assert!(!all[0].live.usable(now), "another check has to find it well first");
    assert_eq!(world.due(secs(5)).len(), 1, "and begins soon; the other instance is still being checked");
    world.heard(&all[0], true, secs(5));
    assert!(all[0].live.usable(now));
    assert_eq!((all[0].live.age(world.at(secs(8))), world.metric(UNHEALTHY)), (Some(secs(3)), Some(0.0)));
    world.heard(&all[1], false, secs(6));
    world.heard(&all[1], false, secs(7));
    assert_eq!(world.metric(UNHEALTHY), Some(1.0));
    world.follow(&[], 2, secs(8));
    assert!(all[1].live.usable(now));
    assert_eq!(world.metric(UNHEALTHY), Some(0.0));
    world.heard(&all[1], false, secs(9));
    assert!(world.wards.turns.is_empty(), "who is not checked any more is not heard of");
}

#[test]
fn a_check_is_for_whom_its_source_says_and_the_first_rule_counts() {
    let mut world = world();
    let mut other = checked(json!({"interval_s": 1}));
    other["match"] = json!({"source": {"name": "somebody-else"}});
    world.follow(std::slice::from_ref(&other), 1, secs(0));
    assert!(world.due(secs(100)).is_empty());
    let (mut first, second) = (checked(json!({"interval_s": 100})), checked(json!({"interval_s": 1})));
    first["id"] = json!("first");
    first["priority"] = json!(1);
    world.follow(&[second, other, first], 1, secs(100));
    let one = world.due(secs(101)).remove(0);
    world.heard(&one, true, secs(101));
    assert!(world.due(secs(200)).is_empty());
    assert_eq!(world.due(secs(201)).len(), 1);
}

#[test]
fn a_proxy_that_cannot_ask_holds_it_against_nobody() {
    let mut world = world();
    world.follow(&[checked(json!({}))], 2, secs(0));
    let all = world.due(secs(1));
    let now = world.at(secs(100));
    world.heard(&all[1], false, secs(1));
    world.heard(&all[1], false, secs(2));
    for (count, shortage) in (1..).zip([Shortage::Roots, Shortage::Roots, Shortage::Ports, Shortage::Room]) {
        world.found(&all[0], Finding::Unasked(shortage), secs(10 * count));
        world.found(&all[1], Finding::Unasked(shortage), secs(10 * count));
        assert_eq!(world.wards.unasked.len(), 2);
    }
    assert!(all[0].live.usable(now) && !all[1].live.usable(now), "both are as they were");
    assert_eq!(world.metric(r#"a8_proxy_shortages_total{reason="roots",service="s"}"#), Some(4.0));
    assert_eq!(world.metric(r#"a8_proxy_health_checks_total{result="failure",service="s"}"#), Some(2.0));
    assert_eq!(world.due(secs(60)).len(), 2, "it goes on trying");
    world.heard(&all[0], false, secs(61));
    assert!(all[0].live.usable(now), "what it could not ask counts for no failure in a row");
    assert_eq!(world.wards.unasked.len(), 1, "the other is still not asked, which was said");
}
