//! Laws over random histories of one registry: what watchers apply is what is there, namespaces never mix,
//! and a lease ends neither early nor late.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use registry::admitted::Admitted;
use registry::catalog::{Catalog, Command, Source};
use registry::metrics::Metrics;
use registry::news::{Held, News, Scope};
use registry::tenants::Tenants;
use registry::timestamp::Timestamp;
use registry_api::{
    Change, Endpoint, EndpointType, Followed, Instance, InstanceId, Namespace, Position, ServiceName, Status,
    Update,
};

const EPOCH: &str = "e";
/// Expiry may be late by a second at most (spec/registry.md 1.6); these sweeps are a tenth apart.
const SWEEP_MS: u64 = 100;

#[derive(Debug, Clone)]
enum Step {
    Register { id: u8, tag: u8, ttl_secs: u64, status: &'static str },
    Deregister(u8),
    Renew(u8),
    Pass { millis: u64 },
    Elsewhere { source: Source, held: Vec<(u8, u8)> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let status =
        prop_oneof![4 => Just(Status::UP), 1 => Just(Status::STARTING), 1 => Just(Status::OUT_OF_SERVICE)];
    let step = prop_oneof![
        4 => (0u8..12, 0u8..3, 1u64..90, status)
            .prop_map(|(id, tag, ttl_secs, status)| Step::Register { id, tag, ttl_secs, status }),
        1 => (0u8..12).prop_map(Step::Deregister),
        3 => (0u8..12).prop_map(Step::Renew),
        3 => (1u64..60_000).prop_map(|millis| Step::Pass { millis }),
    ];
    prop::collection::vec(step, 1..80)
}

/// Histories in which read-only catalogs hold some of the same ids.
fn steps_with_sources() -> impl Strategy<Value = Vec<Step>> {
    let source = prop_oneof![Just(Source::Kubernetes), Just(Source::File)];
    let held = prop::collection::vec((0u8..12, 0u8..3), 0..5);
    let elsewhere = (source, held).prop_map(|(source, held)| Step::Elsewhere { source, held });
    (steps(), prop::collection::vec((any::<prop::sample::Index>(), elsewhere), 0..12)).prop_map(
        |(mut steps, elsewhere)| {
            for (place, step) in elsewhere {
                steps.insert(place.index(steps.len()), step);
            }
            steps
        },
    )
}

fn id(number: u8) -> InstanceId {
    InstanceId::new(format!("i{number}")).unwrap()
}

fn admitted(number: u8, tag: u8, ttl_secs: u64, status: &str) -> Admitted {
    let instance = Instance {
        id: id(number),
        service_name: ServiceName::new(format!("s{}", number % 3)).unwrap(),
        endpoint: Endpoint { kind: EndpointType::Http, value: format!("h:{number}") },
        ttl: ttl_secs as u32,
        status: Status::new(status),
        tags: vec![tag.to_string()],
        metadata: None,
        last_heartbeat: None,
    };
    Admitted::new(instance, Duration::from_secs(ttl_secs))
}

/// Carries one step out; time passes in sweeps, as it does in the server.
fn take(catalog: &mut Catalog, step: &Step, now: &mut u64, mut expired: impl FnMut(&InstanceId, u64)) {
    let at = Timestamp::from_millis(*now);
    match step {
        Step::Register { id, tag, ttl_secs, status } => {
            let command = Command::Register(admitted(*id, *tag, *ttl_secs, status));
            catalog.apply(command, at).unwrap();
        }
        Step::Deregister(number) => drop(catalog.apply(Command::Deregister(id(*number)), at)),
        Step::Renew(number) => drop(catalog.renew(&id(*number), at)),
        Step::Elsewhere { source, held } => {
            let held = held.iter().map(|(id, tag)| admitted(*id, *tag, 0, "")).collect();
            catalog.replace_source(*source, held, at);
        }
        Step::Pass { millis } => {
            let end = *now + millis;
            while *now < end {
                *now = (*now + SWEEP_MS).min(end);
                for change in catalog.expire(Timestamp::from_millis(*now)) {
                    // What comes to light behind an expired instance is no expiry.
                    let Change::Delete { id, .. } = change else { continue };
                    expired(&id, *now);
                }
            }
        }
    }
}

/// What the server answers, as a follower gets it.
fn answer(catalog: &Catalog, held: &Position, scope: &Scope) -> Option<(Position, Update)> {
    let asked = Held { epoch: Some(held.epoch.clone()), index: held.index, hash: Some(held.hash) };
    let position =
        Position { epoch: EPOCH.to_owned(), index: catalog.index(), hash: catalog.scope_hash(scope) };
    match catalog.news(EPOCH, &asked, scope) {
        News::Nothing | News::Moved => None,
        News::Full => Some((position, Update::Full(catalog.scope_instances(scope)))),
        News::Delta => {
            let changes = catalog.scope_changes(held.index, scope);
            Some((position, Update::Delta { from: held.index, changes }))
        }
    }
}

fn there(catalog: &Catalog, scope: &Scope) -> Vec<Arc<Instance>> {
    let all = catalog.instances().map(|leased| leased.instance);
    all.filter(|instance| scope.covers(&instance.service_name)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn followers_that_poll_whenever_they_like_hold_what_is_there(
        steps in steps_with_sources(),
        polls in prop::collection::vec(any::<bool>(), 80),
    ) {
        let mine = [ServiceName::new("s1").unwrap(), ServiceName::new("ghost").unwrap()];
        let mut followers = [
            (Scope::All, Followed::default()),
            (Scope::Only(mine.into()), Followed::default()),
        ];
        let mut catalog = Catalog::new(None);
        let mut now = 1_000_000;
        for (step, poll) in steps.iter().zip(polls.into_iter().chain(std::iter::repeat(true))) {
            take(&mut catalog, step, &mut now, |_, _| {});
            for (scope, followed) in followers.iter_mut().filter(|_| poll) {
                if let Some((position, update)) = answer(&catalog, followed.position(), scope) {
                    prop_assert!(followed.apply(position, update).is_ok(), "{scope:?}");
                }
                let held: Vec<_> = followed.instances().values().cloned().collect();
                prop_assert_eq!(held, there(&catalog, scope));
                prop_assert!(answer(&catalog, followed.position(), scope).is_none());
            }
        }
    }

    #[test]
    fn changes_since_any_index_lead_from_the_view_then_to_the_view_now(steps in steps()) {
        let mut catalog = Catalog::new(None);
        let mut now = 1_000_000;
        let mut views = BTreeMap::new();
        for step in &steps {
            views.insert(catalog.index(), there(&catalog, &Scope::All));
            take(&mut catalog, step, &mut now, |_, _| {});
        }
        for (index, view) in views {
            let mut map: BTreeMap<_, _> = view.into_iter().map(|instance| (instance.key(), instance)).collect();
            for change in catalog.scope_changes(index, &Scope::All) {
                match change {
                    Change::Put(instance) => drop(map.insert(instance.key(), instance)),
                    Change::Delete { id, service_name, .. } => drop(map.remove(&(service_name, id))),
                }
            }
            prop_assert_eq!(map.into_values().collect::<Vec<_>>(), there(&catalog, &Scope::All));
        }
    }

    /// Whatever comes and goes between two pieces: who stays is copied as it is or was, and nobody is copied who was never
    /// there.
    #[test]
    fn a_copy_in_pieces_misses_nobody_who_stays(
        before in steps_with_sources(),
        meanwhile in steps_with_sources(),
        count in 1usize..6,
    ) {
        let mut catalog = Catalog::new(None);
        let mut now = 1_000_000;
        for step in &before {
            take(&mut catalog, step, &mut now, |_, _| {});
        }
        let ours = |catalog: &Catalog| -> BTreeMap<InstanceId, Arc<Instance>> {
            let all = catalog.instances().map(|leased| leased.instance);
            all.filter(|it| !catalog.is_read_only(it.id.as_str())).map(|it| (it.id.clone(), it)).collect()
        };
        let mut stays: Vec<InstanceId> = ours(&catalog).into_keys().collect();
        let mut ever: Vec<Arc<Instance>> = ours(&catalog).into_values().collect();
        let (mut copied, mut from, mut steps) = (Vec::new(), Some(0), meanwhile.iter());
        while let Some(place) = from {
            from = catalog.copy_registered(place, count, &mut copied);
            if let Some(step) = steps.next() {
                take(&mut catalog, step, &mut now, |_, _| {});
                let there = ours(&catalog);
                stays.retain(|id| there.contains_key(id));
                ever.extend(there.into_values());
            }
        }
        for id in &stays {
            prop_assert!(copied.iter().any(|leased| leased.instance.id == *id), "{} is missed", id);
        }
        for leased in &copied {
            prop_assert!(ever.contains(&leased.instance), "{:?} was never there", leased.instance);
        }
    }

    #[test]
/// Section 1.6.
    fn a_lease_ends_after_its_deadline_and_within_a_second(steps in steps()) {
        // The law in its plainest form: per instance, when it must go; none for never.
        let mut deadlines: BTreeMap<InstanceId, (u64, Option<u64>)> = BTreeMap::new();
        let mut catalog = Catalog::new(None);
        let mut now = 1_000_000;
        for step in &steps {
            match step {
                Step::Register { id: number, ttl_secs, status, .. } => {
                    let ttl = ttl_secs * 1_000;
                    let deadline = (*status != Status::OUT_OF_SERVICE).then_some(now + ttl);
                    deadlines.insert(id(*number), (ttl, deadline));
                }
                Step::Deregister(number) => drop(deadlines.remove(&id(*number))),
                Step::Renew(number) => {
                    if let Some((ttl, Some(deadline))) = deadlines.get_mut(&id(*number)) {
                        *deadline = now + *ttl;
                    }
                }
                Step::Pass { .. } | Step::Elsewhere { .. } => {}
            }
            let mut wrong = None;
            take(&mut catalog, step, &mut now, |id, at| match deadlines.remove(id) {
                Some((_, Some(deadline))) if at > deadline && at <= deadline + 1_000 => {}
                other => wrong = Some((id.clone(), at, other)),
            });
            prop_assert_eq!(wrong, None);
            let ids: Vec<_> = deadlines.keys().cloned().collect();
            let mut held: Vec<_> = catalog.instances().map(|leased| leased.instance.id.clone()).collect();
            held.sort_unstable();
            prop_assert_eq!(held, ids);
            let late = deadlines.values().find(|(_, deadline)| deadline.is_some_and(|at| at + SWEEP_MS < now));
            prop_assert_eq!(late, None);
        }
    }

    #[test]
/// Section 4.4.
    fn what_happens_in_one_namespace_leaves_the_others_as_they_were(
        script in prop::collection::vec((0usize..3, 0u8..8, any::<bool>()), 1..60),
    ) {
        let tenants = Tenants::new(EPOCH, None, Metrics::new());
        let names = ["a", "A", "default"].map(|name| Namespace::new(name).unwrap());
        let mut expected = [(); 3].map(|()| BTreeMap::new());
        for (number, (tenant, instance, arrives)) in script.into_iter().enumerate() {
            let here = tenants.open(&names[tenant]).unwrap();
            let others = |except: usize| -> Vec<_> {
                let all = names.iter().enumerate().filter(|(number, _)| *number != except);
                all.map(|(_, name)| tenants.open(name).unwrap()).map(|it| (it.read().index(), it.read().hash())).collect()
            };
            let before = others(tenant);
            let now = Timestamp::from_millis(number as u64);
            if arrives {
                let admitted = admitted(instance, number as u8, 30, Status::UP);
                expected[tenant].insert(admitted.instance().key(), Instance::clone(admitted.instance()));
                here.apply(Command::Register(admitted), now).unwrap();
            } else {
                let known = expected[tenant].keys().find(|(_, found)| *found == id(instance)).cloned();
                let gone = here.apply(Command::Deregister(id(instance)), now);
                prop_assert_eq!(gone.is_ok(), known.is_some());
                known.and_then(|key| expected[tenant].remove(&key));
            }
            prop_assert_eq!(others(tenant), before);
        }
        for (name, expected) in names.iter().zip(expected) {
            let held: Vec<_> = tenants.open(name).unwrap().read().instances().map(|it| (*it.instance).clone()).collect();
            prop_assert_eq!(held, expected.into_values().collect::<Vec<_>>());
        }
    }
}
