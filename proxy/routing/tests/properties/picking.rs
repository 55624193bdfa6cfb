//! Laws of the pick, over loads of all kinds. The endpoints' live state here is their number.

use std::sync::Arc;
use std::time::Duration;

use control_api::{Draw, Identity, LbType, Rule, RuleId, Snapshot};
use proptest::prelude::*;
use registry_api::{Instance, ServiceName};
use routing::{
    Address, At, Attach, Backend, BackendSpec, Load, RequestHead, RouteTable, Seed, pick, pick_in_turn,
};
use serde_json::json;

/// Numbers endpoints by their instance's id.
struct Numbers;

impl Attach for Numbers {
    type Service = String;
    type Rule = String;
    type Backend = String;
    type Endpoint = usize;
    fn service(&self, name: &ServiceName) -> String {
        name.to_string()
    }
    fn rule(&self, destination: &ServiceName, rule: &Rule) -> String {
        format!("{destination} {}", rule.id)
    }
    fn backend(&self, destination: &ServiceName, rule: Option<&RuleId>, backend: &BackendSpec<'_>) -> String {
        let limit = backend.resilience.max_requests;
        let rule = rule.map_or("-", RuleId::as_str);
        format!("{destination} {rule} {} {:?} {} {limit:?}", backend.service, backend.tags, backend.label)
    }
    fn endpoint(&self, _: &ServiceName, instance: &Arc<Instance>, _: &Address) -> usize {
        instance.id.as_str().parse().unwrap()
    }
}

/// The slow start of every backend here.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Loads(Vec<(u32, bool)>);

/// All are idle and usable; they only differ in latency and age.
#[derive(Debug)]
struct Seasoned(Vec<(Duration, Option<Duration>)>);

impl Load<usize> for Seasoned {
    fn active(&self, _: &usize) -> u32 {
        0
    }
    fn usable(&self, _: &usize) -> bool {
        true
    }
    fn latency(&self, endpoint: &usize) -> Duration {
        self.0[*endpoint].0
    }
    fn age(&self, endpoint: &usize) -> Option<Duration> {
        self.0[*endpoint].1
    }
}

/// How often each of the endpoints is picked over many requests.
fn turns(lb: LbType, loads: &impl Load<usize>, count: usize) -> Vec<u32> {
    let mut turns = vec![0; count];
    with_backend(count, lb, |backend| {
        for id in 0..12_000_u32 {
            let draw = Seed::of(&id.to_le_bytes()).draw(routing::Purpose::Pick(0), 0);
            turns[pick(backend, loads, &[], id.into(), draw).unwrap()] += 1;
        }
    });
    turns
}

impl Load<usize> for Loads {
    fn active(&self, endpoint: &usize) -> u32 {
        self.0[*endpoint].0
    }
    fn usable(&self, endpoint: &usize) -> bool {
        self.0[*endpoint].1
    }
}

fn table(count: usize, lb: LbType) -> RouteTable<Numbers> {
    table_with(count, lb, json!({"max_requests": 7}))
}

fn table_with(count: usize, lb: LbType, resilience: serde_json::Value) -> RouteTable<Numbers> {
    let mut backend = json!({"tags": ["y", "x"], "lb_type": lb.as_str(), "resilience": resilience});
    match lb {
        LbType::RingHash => backend["hash_on"] = json!({"header": "x-user"}),
        _ => backend["slow_start"] = json!(WINDOW.as_secs()),
    }
    let rule = json!({"id": "r", "destination": "s", "route": {"backends": [backend]}});
    let instances = (0..count).map(|number| {
        json!({"id": format!("{number:04}"), "service_name": "s", "status": "UP", "tags": ["x", "y"],
            "endpoint": {"type": "http", "value": "10.0.0.1:80"}})
    });
    let snapshot = Snapshot::new(
        1,
        [Arc::new(serde_json::from_value(rule).unwrap())],
        instances.map(|instance| Arc::new(serde_json::from_value(instance).unwrap())),
    );
    RouteTable::compile(&snapshot, &Identity::default(), &Numbers)
}

fn with_backend<T>(count: usize, lb: LbType, ask: impl FnOnce(&Backend<Numbers>) -> T) -> T {
    let table = table(count, lb);
    let service = table.service(table.find("s").unwrap());
    ask(&service.backends()[0])
}

fn lb() -> impl Strategy<Value = LbType> {
    prop::sample::select(
        &[LbType::RoundRobin, LbType::Random, LbType::LeastRequest, LbType::P2cEwma, LbType::RingHash][..],
    )
}

proptest! {
    #[test]
    fn nobody_is_tried_twice_or_ejected_while_a_better_one_remains(
        loads in prop::collection::vec((0..5_u32, any::<bool>()), 0..7),
        tried in prop::collection::vec(0..7_usize, 0..5),
        lb in lb(), ticket: u64, bits: u64,
    ) {
        let loads = Loads(loads);
        let count = loads.0.len();
        let picked = with_backend(count, lb, |backend| pick(backend, &loads, &tried, ticket, Draw::from_bits(bits)));
        prop_assert_eq!(picked.is_some(), count > 0);
        let Some(picked) = picked else { return Ok(()) };
        let untried = |index: &usize| !tried.contains(index);
        let good = |index: &usize| untried(index) && loads.0[*index].1;
        prop_assert!(untried(&picked) || !(0..count).any(|index| untried(&index)));
        prop_assert!(good(&picked) || !(0..count).any(|index| good(&index)));
        prop_assert!(loads.0[picked].1 || untried(&picked) || !(0..count).any(|index| loads.0[index].1));
    }

    #[test]
    fn turns_are_exactly_fair_among_those_that_are_usable(usable in prop::collection::vec(any::<bool>(), 1..7), start in 0..1000_u64) {
        let count = usable.len();
        let left = usable.iter().filter(|usable| **usable).count();
        prop_assume!(left > 0);
        let loads = Loads(usable.iter().map(|usable| (0, *usable)).collect());
        // Whole rounds of everybody's turns, as many as those left can share evenly.
        let tickets = (count * left) as u64;
        let mut turns = vec![0; count];
        with_backend(count, LbType::RoundRobin, |backend| {
            for ticket in start * tickets..(start + 1) * tickets {
                turns[pick(backend, &loads, &[], ticket, Draw::from_bits(0)).unwrap()] += 1;
            }
        });
        let expected: Vec<_> = usable.iter().map(|usable| if *usable { count } else { 0 }).collect();
        prop_assert_eq!(turns, expected);
    }

    #[test]
    fn whoever_asks_no_rule_takes_turns_as_if_one_said_round_robin(
        loads in prop::collection::vec((0..5_u32, any::<bool>()), 0..7),
        tried in prop::collection::vec(0..7_usize, 0..5),
        ticket: u64,
    ) {
        let loads = Loads(loads);
        with_backend(loads.0.len(), LbType::RoundRobin, |backend| {
            let ruled = pick(backend, &loads, &tried, ticket, Draw::from_bits(0));
            prop_assert_eq!(pick_in_turn(&backend.endpoints, &loads, &tried, ticket), ruled);
            Ok(())
        })?;
    }

    #[test]
    fn whoever_is_ejected_is_used_exactly_when_too_few_are_left(
        usable in prop::collection::vec(any::<bool>(), 1..9), threshold in 1..101_usize, lb in lb(), bits: u64,
    ) {
        let count = usable.len();
        let table = table_with(count, lb, json!({"panic_threshold_percent": threshold}));
        let backend = &table.service(table.find("s").unwrap()).backends()[0];
        let loads = Loads(usable.iter().map(|usable| (0, *usable)).collect());
        let left = usable.iter().filter(|usable| **usable).count();
        let few = left * 100 < count * threshold;
        let pick = |ticket| pick(backend, &loads, &[], ticket, Draw::from_bits(bits)).unwrap();
        if few {
            let turns: Vec<_> = (0..count as u64).map(pick).collect();
            let all: Vec<_> = (0..count).collect();
            prop_assert!(lb != LbType::RoundRobin || turns == all, "{turns:?}");
            let calm = with_backend(count, lb, |calm| {
                routing::pick(calm, &Loads(vec![(0, true); count]), &[], 3, Draw::from_bits(bits)).unwrap()
            });
            prop_assert_eq!(pick(3), calm, "as if nobody were ejected");
        } else {
            prop_assert!(usable[pick(3)]);
        }
    }

    #[test]
    fn of_two_the_less_busy_one_is_taken(busy in 0..5_u32, idle in 0..5_u32, bits: u64) {
        prop_assume!(idle < busy);
        let loads = Loads(vec![(busy, true), (idle, true)]);
        for lb in [LbType::LeastRequest, LbType::P2cEwma] {
            let picked = with_backend(2, lb, |backend| pick(backend, &loads, &[], 0, Draw::from_bits(bits)));
            prop_assert_eq!(picked, Some(1));
        }
    }

    #[test]
    fn of_two_that_are_idle_the_faster_one_is_taken(slow in 1..500_u64, fast in 0..500_u64, bits: u64) {
        prop_assume!(fast < slow);
        let loads = Seasoned([slow, fast].map(|millis| (Duration::from_millis(millis), None)).into());
        let picked = with_backend(2, LbType::P2cEwma, |backend| pick(backend, &loads, &[], 0, Draw::from_bits(bits)));
        prop_assert_eq!(picked, Some(1));
    }

    #[test]
    fn a_key_keeps_its_endpoint_and_moves_to_one_other_while_that_is_gone(count in 2..9_usize, bits: u64, ticket: u64) {
        let all = Loads(vec![(0, true); count]);
        let at = |loads: &Loads, tried: &[usize], ticket| {
            with_backend(count, LbType::RingHash, |backend| pick(backend, loads, tried, ticket, Draw::from_bits(bits)).unwrap())
        };
        let home = at(&all, &[], ticket);
        prop_assert_eq!(at(&all, &[], ticket.wrapping_add(1)), home);
        let mut without = Loads(vec![(0, true); count]);
        without.0[home].1 = false;
        let refuge = at(&without, &[], ticket);
        prop_assert_ne!(refuge, home);
        prop_assert_eq!(at(&all, &[home], ticket), refuge, "a retry goes where everybody goes");
    }
}

#[test]
fn random_is_exactly_even_over_evenly_spaced_draws() {
    let loads = Loads(vec![(0, true); 4]);
    let mut turns = [0; 4];
    with_backend(4, LbType::Random, |backend| {
        for draw in Draw::evenly_spaced(1_000) {
            turns[pick(backend, &loads, &[], 0, draw).unwrap()] += 1;
        }
    });
    assert_eq!(turns, [250; 4]);
}

#[test]
fn the_share_of_an_ejected_one_is_spread_over_the_rest() {
    let loads = Loads(vec![(0, true), (0, false), (0, true), (0, true)]);
    for lb in [LbType::Random, LbType::LeastRequest] {
        let mut turns = [0_u32; 4];
        with_backend(4, lb, |backend| {
            for id in 0..12_000_u32 {
                let draw = Seed::of(&id.to_le_bytes()).draw(routing::Purpose::Pick(0), 0);
                turns[pick(backend, &loads, &[], 0, draw).unwrap()] += 1;
            }
        });
        // Fixed ids; five standard deviations of 4,000 of 12,000 are 260.
        assert!(
            turns.iter().enumerate().all(|(at, turns)| turns.abs_diff(if at == 1 { 0 } else { 4_000 }) < 260),
            "{lb:?} {turns:?}"
        );
    }
}

#[test]
fn the_least_busy_of_many_is_preferred_and_the_busiest_never_taken() {
    let loads = Loads((0..8).map(|number| (number, true)).collect());
    let mut turns = [0_u32; 8];
    with_backend(8, LbType::LeastRequest, |backend| {
        for id in 0..8_000_u32 {
            let draw = Seed::of(&id.to_le_bytes()).draw(routing::Purpose::Pick(0), 0);
            turns[pick(backend, &loads, &[], 0, draw).unwrap()] += 1;
        }
    });
    assert!(turns.windows(2).all(|pair| pair[0] > pair[1]), "{turns:?}");
    assert_eq!(turns[7], 0);
}

#[test]
fn a_slow_start_gives_a_growing_part_and_takes_from_nobody_when_it_is_over() {
    for lb in [LbType::RoundRobin, LbType::Random, LbType::LeastRequest] {
        let part_at = |age: Duration| {
            let mut loads = vec![(Duration::ZERO, None); 4];
            loads[3].1 = Some(age);
            let turns = turns(lb, &Seasoned(loads), 4);
            // The rest is spread evenly: five standard deviations of a third are about 260.
            assert!(
                turns[..3].iter().all(|one| one.abs_diff(turns[..3].iter().sum::<u32>() / 3) < 260),
                "{turns:?}"
            );
            turns[3]
        };
        let parts = [0, 20, 40, 60].map(|seconds| part_at(Duration::from_secs(seconds)));
        assert!(parts.windows(2).all(|pair| pair[0] < pair[1]), "{lb:?} {parts:?}");
        assert!(parts[0] > 0 && parts[0] < 1_200, "{lb:?} {parts:?}");
        assert!(parts[3].abs_diff(3_000) < 260, "{lb:?} {parts:?}");
    }
}

#[test]
fn a_slow_start_grows_in_a_line_from_a_tenth_to_the_whole_part() {
    // Ages whose part of 250 draws is a whole number.
    for (age, part) in
        [(0, 25), (6, 25), (12, 50), (30, 125), (36, 150), (48, 200), (59, 246), (60, 250), (600, 250)]
    {
        let mut loads = vec![(Duration::ZERO, None); 4];
        loads[3].1 = Some(Duration::from_secs(age));
        let mut turns = [0; 4];
        with_backend(4, LbType::Random, |backend| {
            for draw in Draw::evenly_spaced(1_000) {
                turns[pick(backend, &Seasoned(loads.clone()), &[], 0, draw).unwrap()] += 1;
            }
        });
        assert_eq!(turns[3], part, "{age} s");
        assert_eq!(turns.iter().sum::<u32>(), 1_000);
    }
    // In turn the draw is free: of each turn's evenly spaced draws it keeps the same part.
    let mut loads = vec![(Duration::ZERO, None); 4];
    loads[3].1 = Some(Duration::from_secs(30));
    with_backend(4, LbType::RoundRobin, |backend| {
        let kept = |ticket| {
            let picked = |draw| pick(backend, &Seasoned(loads.clone()), &[], ticket, draw);
            Draw::evenly_spaced(1_000).filter(|draw| picked(*draw) == Some(3)).count()
        };
        assert_eq!(kept(3), 500);
        assert_eq!([kept(0), kept(1), kept(2)], [0; 3], "nobody gives anything to the young one");
    });
}

#[test]
fn equals_in_age_share_evenly_and_a_single_one_takes_everything() {
    let young = Some(Duration::from_secs(1));
    for lb in [LbType::RoundRobin, LbType::Random, LbType::LeastRequest, LbType::P2cEwma] {
        let turns_of = |count| turns(lb, &Seasoned(vec![(Duration::ZERO, young); count]), count);
        assert_eq!(turns_of(1), [12_000]);
        assert!(turns_of(4).iter().all(|turns| turns.abs_diff(3_000) < 260), "{lb:?} {:?}", turns_of(4));
    }
}

#[test]
fn equal_keys_meet_the_same_instance_and_others_are_spread() {
    let table = table(4, LbType::RingHash);
    let place = |user: &str, id: &str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-user", user.parse().unwrap());
        let head = RequestHead { method: "GET", path: "/s", query: "", authority: "", headers: &headers };
        let seed = Seed::of(id.as_bytes());
        let decision = table.decide(&head, seed, &At(0));
        let backend = table.backend(decision.backend.unwrap());
        let loads = Loads(vec![(0, true); 4]);
        pick(backend, &loads, &[], 0, decision.pick_draw(seed, 0, backend.key)).unwrap()
    };
    let users: Vec<String> = (0..400).map(|number| format!("user-{number}")).collect();
    let mut counts = [0; 4];
    for user in &users {
        assert_eq!(place(user, "1"), place(user, "2"));
        counts[place(user, "1")] += 1;
    }
    assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
}

#[test]
fn live_state_is_asked_for_with_all_that_identifies_it() {
    let table = table(2, LbType::Random);
    let service = table.service(table.find("s").unwrap());
    assert_eq!(service.live, "s");
    assert_eq!(service.backends()[0].live, r#"s r s ["x", "y"] x,y Some(7)"#);
    assert_eq!(service.endpoints().iter().map(|endpoint| endpoint.live).collect::<Vec<_>>(), [0, 1]);
    let headers = http::HeaderMap::new();
    let head = RequestHead { method: "GET", path: "/s", query: "", authority: "", headers: &headers };
    let decision = table.decide(&head, Seed::of(b""), &At(0));
    assert_eq!(table.backend(decision.backend.unwrap()).dst, "s:x,y");
}
