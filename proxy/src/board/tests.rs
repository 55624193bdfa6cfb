//! What survives a swap, what limits do, and what is swept.

mod histories;

use std::time::Duration;

use control_api::Resilience;
use registry_api::{Endpoint, EndpointType, Status};

use super::*;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

struct World {
    metrics: Arc<Metrics>,
    board: Board,
    start: Instant,
}

fn world() -> World {
    let (metrics, start) = (Arc::new(Metrics::new()), crate::clock::now());
    World { board: Board::new(Arc::clone(&metrics), Arc::new(Resolver::default()), start), metrics, start }
}

impl World {
    fn page(&self) -> String {
        String::from_utf8(self.metrics.encode()).unwrap()
    }

    fn endpoint(&self, id: &str, value: &str) -> Arc<EndpointLive> {
        let endpoint = Endpoint { kind: EndpointType::Http, value: value.to_owned() };
        let address = Address::of(&endpoint).unwrap();
        let instance = Instance {
            id: InstanceId::new(id).unwrap(),
            service_name: name("s"),
            endpoint,
            ttl: 0,
            status: Status::new(Status::UP),
            tags: vec![],
            metadata: None,
            last_heartbeat: None,
        };
        self.board.endpoint(&name("s"), &Arc::new(instance), &address)
    }

    fn backend(&self, rule: &str, resilience: Resilience) -> Arc<BackendLive> {
        let (service, tags) = (name("s"), ["v1".to_owned()]);
        let spec = BackendSpec { service: &service, tags: &tags, label: "v1", resilience };
        self.board.backend(&service, RuleId::new(rule).as_ref(), &spec)
    }
}

/// Nobody bounds how many are ejected.
fn always() -> Option<()> {
    Some(())
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

#[test]
fn the_same_part_of_a_later_table_gets_the_same_state() {
    let world = world();
    let (first, other) = (world.endpoint("a", "127.0.0.1:1"), world.endpoint("a", "127.0.0.1:2"));
    let flight = first.begin();
    assert_eq!((world.endpoint("a", "127.0.0.1:1").active(), other.active()), (1, 0));
    assert_eq!(flight.endpoint().address(), Some("127.0.0.1:1".parse().unwrap()));
    drop(flight);
    assert_eq!(first.active(), 0);

    let before = world.backend("r", Resilience::default());
    assert_eq!((before.ticket(), before.ticket()), (0, 1));
    let permit = before.admit().unwrap();
    let after = world.backend("r", Resilience { max_requests: Some(1), ..Resilience::default() });
    assert_eq!((after.ticket(), after.in_flight()), (2, 1));
    assert!(after.admit().is_none(), "the new limit counts the requests of the old table");
    drop(permit);
    assert!(after.admit().is_some());
    assert_eq!(after.in_flight(), 0, "a refused and a dropped permit leave nothing behind");
    assert_eq!(world.backend("other", Resilience::default()).ticket(), 0);
}

#[test]
fn failures_in_a_row_eject_for_the_sleep_window_and_one_success_breaks_the_row() {
    let world = world();
    let endpoint = world.endpoint("a", "127.0.0.1:1");
    let limits = Limits::default();
    let at = |after| world.start + after;
    let fail = |times: u32, now| (0..times).filter(|_| endpoint.failed(now, &limits, always)).count();
    assert_eq!(fail(4, at(secs(1))), 0);
    endpoint.succeeded(&limits);
    assert_eq!(fail(4, at(secs(1))), 0);
    assert!(endpoint.usable(at(secs(1))));
    assert!(endpoint.unreachable(at(secs(1)), &limits, always));
    assert!(!endpoint.usable(at(secs(1))));
    assert_eq!(fail(9, at(secs(2))), 0, "late failures do not prolong it");
    assert!(!endpoint.usable(at(Duration::from_millis(30_999))));
    assert!(endpoint.usable(at(secs(31))));
    assert_eq!(fail(5, at(secs(31))), 1, "the row begins anew");
    assert!(
        !endpoint.usable(at(secs(90))) && endpoint.usable(at(secs(91))),
        "the second one is twice as long"
    );
    assert!(!world.endpoint("a", "127.0.0.1:1").usable(at(secs(90))), "a swap does not pardon");
    assert!(world.endpoint("b", "127.0.0.1:1").usable(at(secs(90))));
}

#[test]
fn a_rules_own_limits_eject_sooner() {
    let world = world();
    let endpoint = world.endpoint("a", "127.0.0.1:1");
    let resilience = Resilience {
        consecutive_errors: Some(1),
        sleep_window: Some(Duration::from_millis(500)),
        ..Resilience::default()
    };
    let backend = world.backend("r", resilience);
    assert!(endpoint.failed(world.start, backend.limits(), always));
    assert!(!endpoint.usable(world.start + Duration::from_millis(499)));
    assert!(endpoint.usable(world.start + Duration::from_millis(500)));
}

#[test]
fn failures_from_many_threads_eject_once() {
    let world = world();
    let endpoint = world.endpoint("a", "127.0.0.1:1");
    let ejected: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let fail = |_: &u32| endpoint.failed(world.start, &Limits::default(), always);
                    (0..1000).filter(fail).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(!endpoint.usable(world.start));
    assert!(ejected >= 1);
    assert!(endpoint.usable(world.start + secs(30 * ejected as u64)), "{ejected}");
}

#[test]
fn an_endpoint_whose_name_is_not_resolved_is_not_usable() {
    let world = world();
    let endpoint = world.endpoint("a", "some.host.example:80");
    assert_eq!(endpoint.address(), None);
    assert!(!endpoint.usable(world.start));
}

#[test]
fn least_request_and_ejection_are_seen_through_the_view() {
    let world = world();
    let endpoint = world.endpoint("a", "127.0.0.1:1");
    let _flights = [endpoint.begin(), endpoint.begin()];
    let view = BoardView::at(world.start);
    assert_eq!((view.active(&endpoint), view.usable(&endpoint)), (2, true));
}

#[test]
fn an_instance_comes_up_once_unless_it_was_gone_or_ejected() {
    let world = world();
    let at = |after| world.start + secs(after);
    let known = world.endpoint("known", "127.0.0.1:1");
    world.board.settle();
    world.board.compiling(at(10));
    let fresh = world.endpoint("fresh", "127.0.0.1:2");
    assert_eq!((known.age(at(30)), fresh.age(at(30))), (None, Some(secs(20))));
    world.board.compiling(at(40));
    for endpoint in [world.endpoint("known", "127.0.0.1:1"), world.endpoint("fresh", "127.0.0.1:2")] {
        assert_ne!(endpoint.age(at(50)), Some(secs(10)), "another table makes nobody young");
    }
    drop((known, fresh));
    let back = world.endpoint("known", "127.0.0.1:1");
    assert_eq!(back.age(at(50)), Some(secs(10)), "no table had it");
    let once = Limits { consecutive_errors: 1, ..Limits::default() };
    assert!(back.failed(at(50), &once, always));
    assert_eq!((back.age(at(79)), back.age(at(90))), (Some(secs(0)), Some(secs(10))), "30 s of ejection");
    assert_eq!(BoardView::at(at(90)).age(&back), Some(secs(10)));
}

#[test]
fn what_no_table_uses_is_forgotten_after_two_sweeps_with_its_series() {
    let world = world();
    let (service, backend) = (world.board.service(&name("s")), world.backend("r", Resilience::default()));
    let endpoint = world.endpoint("a", "127.0.0.1:1");
    backend.count(200);
    service.set_instances(2);
    backend.ticket();
    world.board.sweep();
    world.board.sweep();
    assert!(world.page().contains(r#"service="s""#), "in use");
    drop((service, backend, endpoint));
    world.board.sweep();
    assert!(world.page().contains(r#"service="s""#), "a last scrape sees it");
    assert_eq!(world.backend("r", Resilience::default()).ticket(), 1, "one that flaps keeps its state");
    world.board.sweep();
    assert_eq!(world.backend("r", Resilience::default()).ticket(), 2);
    // One more: series go after the backends that use them.
    (0..3).for_each(|_| world.board.sweep());
    assert!(!world.page().contains(r#"service="s""#), "{}", world.page());
    assert_eq!(world.backend("r", Resilience::default()).ticket(), 0);
    assert_eq!(lock(&world.board.state.endpoints).len(), 0);
}

#[test]
fn a_series_goes_with_the_last_backend_that_has_its_labels() {
    let world = world();
    let backend = |service: &str| {
        let spec = BackendSpec {
            service: &name(service),
            tags: &["v1".to_owned()],
            label: "v1",
            resilience: Resilience::default(),
        };
        world.board.backend(&name("s"), RuleId::new("r").as_ref(), &spec)
    };
    let (gone, stays) = (backend("a"), backend("b"));
    gone.count(200);
    drop(gone);
    (0..4).for_each(|_| world.board.sweep());
    stays.count(200);
    let line = r#"a8_proxy_requests_total{backend="v1",code="200",rule="r",service="s"} 2"#;
    assert!(world.page().contains(line), "{}", world.page());
}

#[test]
fn beyond_the_bound_services_versions_and_rules_share_one_series_and_are_counted() {
    let World { metrics, board, start } = world();
    let world = World { metrics, board: board.with_series_max(4), start };
    let rule = |id: &str| {
        let rule = serde_json::json!({"id": id, "destination": "s", "actions": [{"action": "abort", "return_code": 500}]});
        world.board.rule(&name("s"), &serde_json::from_value(rule).unwrap()).unwrap()
    };
    let own = (world.board.service(&name("s")), world.backend("r1", Resilience::default()), rule("a1"));
    let last = world.board.service(&name("t"));
    let folded = (
        [world.board.service(&name("u")), world.board.service(&name("v"))],
        [world.backend("r2", Resilience::default()), world.backend("r3", Resilience::default())],
        [rule("a2"), rule("a3")],
    );
    for service in folded.0.iter().chain([&own.0, &last]) {
        service.series().retried();
        service.set_instances(7);
    }
    for backend in folded.1.iter().chain([&own.1]) {
        backend.count(200);
        backend.ticket();
    }
    for rule in folded.2.iter().chain([&own.2]) {
        rule.series().faulted(crate::metrics::Fault::Abort);
        rule.series().rate_limited();
    }
    let _held: Vec<_> = folded.1.iter().map(|backend| backend.admit().unwrap()).collect();
    let page = world.page();
    for line in [
        r#"a8_proxy_retries_total{service="s"} 1"#,
        r#"a8_proxy_retries_total{service="t"} 1"#,
        r#"a8_proxy_retries_total{service="__overflow__"} 2"#,
        r#"a8_proxy_requests_total{backend="v1",code="200",rule="r1",service="s"} 1"#,
        r#"a8_proxy_requests_total{backend="__overflow__",code="200",rule="__overflow__",service="__overflow__"} 2"#,
        r#"a8_proxy_requests_in_flight{backend="__overflow__",rule="__overflow__",service="__overflow__"} 2"#,
        r#"a8_proxy_faults_total{action="abort",rule="a1",service="s"} 1"#,
        r#"a8_proxy_faults_total{action="abort",rule="__overflow__",service="__overflow__"} 2"#,
        r#"a8_proxy_rate_limited_total{rule="__overflow__",service="__overflow__"} 2"#,
        r#"a8_proxy_instances{service="t"} 7"#,
        "a8_proxy_series_folded 6",
    ] {
        assert!(page.lines().any(|have| have == line), "{line}\nis not in\n{page}");
    }
    for absent in ["\"u\"", "\"v\"", "r2", "a3", r#"a8_proxy_instances{service="__overflow__"}"#] {
        assert!(!page.contains(absent), "{absent} in {page}");
    }
    // The same parts of a later table get the same series, and no more are folded.
    world.board.service(&name("s")).series().retried();
    world.board.service(&name("u")).series().retried();
    assert!(world.page().contains(r#"a8_proxy_retries_total{service="s"} 2"#));
    assert!(world.page().contains(r#"a8_proxy_retries_total{service="__overflow__"} 3"#));
    assert!(world.page().contains("a8_proxy_series_folded 6"));
    // Room that becomes free is given away, and what is shared stays.
    drop((own, last, folded, _held));
    (0..5).for_each(|_| world.board.sweep());
    assert!(world.page().contains("a8_proxy_series_folded 0"), "{}", world.page());
    world.board.service(&name("u")).series().retried();
    let page = world.page();
    assert!(page.contains(r#"a8_proxy_retries_total{service="u"} 1"#), "{page}");
    assert!(page.contains(r#"a8_proxy_retries_total{service="__overflow__"} 3"#), "{page}");
    assert!(!page.contains(r#"service="s""#), "{page}");
}

#[test]
fn requests_in_flight_and_breakers_are_seen_while_they_last() {
    let world = world();
    let backend = world.backend("r", Resilience { max_requests: Some(2), ..Resilience::default() });
    let seen = |series: &str| {
        let line = format!(r#"a8_proxy_{series}{{backend="v1",rule="r",service="s"}} "#);
        world.page().lines().find_map(|have| have.strip_prefix(&line)?.parse::<u32>().ok())
    };
    assert_eq!((seen("requests_in_flight"), seen("breaker_open")), (None, None), "nobody has asked for it");
    let first = backend.admit().unwrap();
    assert_eq!((seen("requests_in_flight"), seen("breaker_open")), (Some(1), Some(0)));
    let second = backend.admit().unwrap();
    assert!(backend.admit().is_none());
    assert_eq!((seen("requests_in_flight"), seen("breaker_open")), (Some(2), Some(1)));
    // What is allowed is the newest table's to say.
    let wider = world.backend("r", Resilience { max_requests: Some(3), ..Resilience::default() });
    assert_eq!((seen("requests_in_flight"), seen("breaker_open")), (Some(2), Some(0)));
    drop((first, second));
    wider.ticket();
    assert_eq!((seen("requests_in_flight"), seen("breaker_open")), (Some(0), Some(0)));
    drop((backend, wider));
    assert_eq!((seen("requests_in_flight"), seen("breaker_open")), (None, None), "no table has it");
}

#[test]
fn ejected_instances_are_seen_for_as_long_as_they_are_out() {
    let world = world();
    let (one, other) = (world.endpoint("a", "127.0.0.1:1"), world.endpoint("b", "127.0.0.1:2"));
    let service = world.board.service(&name("s"));
    let seen = || {
        let line = r#"a8_proxy_ejected_instances{service="s"} "#;
        world.page().lines().find_map(|have| have.strip_prefix(line)?.parse::<u32>().ok())
    };
    assert_eq!(seen(), None);
    let now = crate::clock::now();
    let for_long = Limits { consecutive_errors: 1, sleep_window: secs(3600), ..Limits::default() };
    let over = Limits { sleep_window: Duration::from_nanos(1), ..for_long };
    assert!(one.failed(world.start, &over, always));
    assert_eq!(seen(), Some(0), "it is over");
    assert!(one.failed(now, &for_long, always) && other.failed(now, &for_long, always));
    assert_eq!(seen(), Some(2));
    drop((one, service));
    assert_eq!(seen(), Some(1), "what no table uses is not told of");
}

#[test]
fn latencies_are_means_of_late_and_halve_in_silence() {
    let world = world();
    let (endpoint, now) = (world.endpoint("a", "127.0.0.1:1"), world.start + secs(1));
    let millis = Duration::from_millis;
    assert_eq!(endpoint.latency(now), Duration::ZERO);
    endpoint.took(millis(80), now);
    assert_eq!(endpoint.latency(now), millis(80));
    endpoint.took(Duration::ZERO, now);
    assert!((millis(70)..millis(71)).contains(&endpoint.latency(now)), "{:?}", endpoint.latency(now));
    assert_eq!(BoardView::at(now).latency(&endpoint), endpoint.latency(now));
    let later = endpoint.latency(now + secs(20));
    assert!((millis(17)..millis(18)).contains(&later), "{later:?}");
    assert_eq!(endpoint.latency(now + secs(100_000)), Duration::from_micros(1), "it is still known");
}

#[test]
fn retries_are_a_part_of_the_requests_in_flight_and_a_few_a_second() {
    let world = world();
    let backend = world.backend("r", Resilience::default());
    let retries = |now| (0..60).map_while(|_| backend.retry(20.0, now)).collect::<Vec<_>>();
    let few = retries(world.start);
    assert_eq!(few.len(), 30, "those of ten seconds are saved up");
    assert_eq!(retries(world.start + secs(1)).len(), 3);
    drop(few);
    let busy: Vec<_> = (0..100).map(|_| backend.admit().unwrap()).collect();
    assert_eq!(retries(world.start + secs(1)).len(), 20, "those of a second are used up");
    drop(busy);
}

#[test]
fn never_more_are_ejected_at_once_than_the_rule_lets_whatever_happens() {
    for seed in 0..200 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let world = world();
        let (count, percent) = (dice.usize(1..9), dice.i64(1..101));
        let resilience = Resilience {
            max_ejection_percent: u32::try_from(percent).ok(),
            consecutive_errors: Some(dice.u64(1..4)),
            sleep_window: Some(secs(dice.u64(1..20))),
            ..Resilience::default()
        };
        let backend = world.backend("r", resilience);
        let all: Vec<_> =
            (1..=count).map(|at| world.endpoint(&at.to_string(), &format!("127.0.0.1:{at}"))).collect();
        let most = (count * percent as usize / 100).max(1);
        let mut now = world.start;
        let (mut seen, mut ejections) = (0, 0);
        for _ in 0..300 {
            let endpoint = &all[dice.usize(0..count)];
            let ejected = |now| all.iter().filter(|endpoint| endpoint.ejected(now)).count();
            let before = ejected(now);
            let did = match dice.u8(0..10) {
                0..7 => {
                    endpoint.failed(now, backend.limits(), || backend.turn_to_eject(|| ejected(now), count))
                }
                7 => backend
                    .turn_to_eject(|| ejected(now), count)
                    .is_some_and(|_turn| endpoint.eject(now, backend.limits())),
                8 => {
                    endpoint.succeeded(backend.limits());
                    false
                }
                _ => {
                    now += Duration::from_millis(dice.u64(0..5000));
                    continue;
                }
            };
            assert_eq!(ejected(now), before + usize::from(did), "seed {seed}");
            assert!(ejected(now) <= most, "seed {seed}: {} of {count}, {percent}%", ejected(now));
            seen = seen.max(ejected(now));
            ejections += usize::from(did);
        }
        assert!(
            ejections > 0 && (seen == most || ejections < 20),
            "seed {seed}: {seen} of {most}, {ejections}"
        );
    }
}

#[test]
fn only_backends_that_compare_their_instances_count_what_these_answer() {
    let world = world();
    let endpoint = world.endpoint("a", "127.0.0.1:1");
    let rule: Rule = serde_json::from_value(serde_json::json!({"id": "r", "destination": "s", "route":
        {"backends": [{"tags": ["v1"], "resilience": {"success_rate": {}, "detection_interval": 1}}]}}))
    .unwrap();
    let comparing =
        world.backend("r", rule.route().unwrap().backends[0].resilience.as_deref().copied().unwrap());
    let other = world.backend("other", Resilience::default());
    for backend in [&comparing, &other] {
        endpoint.succeeded(backend.limits());
        assert!(!endpoint.failed(world.start, backend.limits(), always));
    }
    assert_eq!(endpoint.tally(), Tally { requests: 2, failures: 1 });
    let judged = |backend: &BackendLive, at| {
        let mut asked = false;
        backend.outliers(world.start + at, || {
            asked = true;
            Vec::new()
        });
        asked
    };
    assert!(judged(&comparing, secs(0)) && !judged(&comparing, Duration::from_millis(999)));
    assert!(judged(&comparing, secs(1)) && !judged(&other, secs(1)));
}
