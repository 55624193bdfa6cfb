//! The laws of the catalog for protocols that say more than the native one: amendments, extensions, counts by status,
//! names without case. What those protocols are is not known here.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use registry::admitted::{Admitted, Extension};
use registry::catalog::{Catalog, Command, Lived, Refused, folded};
use registry::recent::Action;
use registry::timestamp::Timestamp;
use registry_api::{Endpoint, EndpointType, Instance, InstanceId, ServiceName, Status};

const fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn admitted(service: &str, id: &str, status: &str, extension: &str) -> Admitted {
    let instance = Instance {
        id: InstanceId::new(id).unwrap(),
        service_name: ServiceName::new(service).unwrap(),
        endpoint: Endpoint { kind: EndpointType::Http, value: format!("{id}:80") },
        ttl: 30,
        status: Status::new(status),
        tags: vec![],
        metadata: None,
        last_heartbeat: None,
    };
    Admitted::new(instance, Duration::from_secs(30)).extended(Some(Extension::new(extension)))
}

fn register(catalog: &mut Catalog, extension: &str, now: Timestamp) -> usize {
    let command = Command::Register(admitted("s", "a", "UP", extension));
    catalog.apply(command, now).unwrap().len()
}

fn amend(catalog: &mut Catalog, status: &str, extension: &str, lived: Lived, now: Timestamp) -> usize {
    let command = Command::Amend(admitted("s", "a", status, extension), lived);
    catalog.apply(command, now).unwrap().len()
}

/// Section 9.6 M15; section 2.
#[test]
fn an_extension_that_changes_alone_is_kept_but_no_change_for_watchers() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "1", at(1));
    let (index, hash, edits) = (catalog.index(), catalog.hash(), catalog.edits());
    assert_eq!(register(&mut catalog, "2", at(2)), 0);
    assert_eq!((catalog.index(), catalog.hash()), (index, hash));
    assert!(catalog.edits() > edits, "the snapshot file must hear of it");
    assert_eq!(catalog.get("a").unwrap().extension.unwrap().as_str(), "2");
    let edits = catalog.edits();
    assert_eq!(register(&mut catalog, "2", at(3)), 0);
    assert_eq!(catalog.edits(), edits, "nothing new to write");
    assert_eq!(catalog.get("a").unwrap().registered_at, at(3));
}

#[test]
fn an_amendment_renews_only_if_it_says_so_and_never_registers() {
    for (lived, deadline) in [(Lived::Renewed, 40_000), (Lived::On, 30_000)] {
        let mut catalog = Catalog::new(None);
        let command = Command::Amend(admitted("s", "a", "UP", ""), lived);
        assert_eq!(catalog.apply(command, at(0)), Err(Refused::Unknown));
        register(&mut catalog, "", at(0));
        assert_eq!(amend(&mut catalog, "DOWN", "", lived, at(10_000)), 1);
        assert_eq!(catalog.get("a").unwrap().registered_at, at(0));
        assert_eq!(catalog.expire(at(deadline)), []);
        assert_eq!(catalog.expire(at(deadline + 1)).len(), 1, "{lived:?}");
    }
}

#[test]
fn an_amendment_that_says_nothing_new_is_no_event() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "", at(0));
    let (version, edits) = (catalog.recent().version(), catalog.edits());
    assert_eq!(amend(&mut catalog, "UP", "", Lived::Renewed, at(10_000)), 0);
    assert_eq!((catalog.recent().version(), catalog.edits()), (version, edits));
    assert_eq!(catalog.get("a").unwrap().renewed_at, at(10_000));
}

#[test]
fn section_1_6_what_is_out_of_service_never_expires_until_its_status_changes() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "", at(0));
    amend(&mut catalog, Status::OUT_OF_SERVICE, "", Lived::Renewed, at(1_000));
    assert_eq!(catalog.expire(at(10_000_000)), []);
    amend(&mut catalog, "UP", "", Lived::Renewed, at(10_000_000));
    assert_eq!(catalog.expire(at(10_030_000)), []);
    assert_eq!(catalog.expire(at(10_030_001)).len(), 1);
}

#[test]
fn what_expires_is_remembered_with_its_last_known_data() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "kept", at(0));
    catalog.expire(at(30_001));
    let gone = catalog.recent().iter().next().unwrap();
    assert_eq!((gone.action, gone.leased.extension.as_ref().unwrap().as_str()), (Action::Deleted, "kept"));
}

#[derive(Debug, Clone)]
enum Step {
    Register(u8, usize, usize),
    Amend(u8, usize, usize),
    Deregister(u8),
    Pass(u64),
}

const SERVICES: [&str; 5] = ["shop", "SHOP", "Shop", "straße", "STRASSE"];
const STATUSES: [&str; 4] = ["UP", "DOWN", "", "OUT_OF_SERVICE"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..8, 0..SERVICES.len(), 0..STATUSES.len()).prop_map(|(id, s, t)| Step::Register(id, s, t)),
        2 => (0u8..8, 0..SERVICES.len(), 0..STATUSES.len()).prop_map(|(id, s, t)| Step::Amend(id, s, t)),
        2 => (0u8..8).prop_map(Step::Deregister),
        1 => (1u64..40_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn counts_and_names_are_those_of_the_instances(steps in steps()) {
        let (mut catalog, mut now) = (Catalog::new(None), 0);
        for step in steps {
            let made = |id: u8, service: usize, status: usize| {
                admitted(SERVICES[service], &id.to_string(), STATUSES[status], &service.to_string())
            };
            // A refusal changes nothing; that is what is checked.
            match step {
                Step::Register(id, s, t) => drop(catalog.apply(Command::Register(made(id, s, t)), at(now))),
                Step::Amend(id, s, t) => {
                    drop(catalog.apply(Command::Amend(made(id, s, t), Lived::Renewed), at(now)));
                }
                Step::Deregister(id) => {
                    let id = InstanceId::new(id.to_string()).unwrap();
                    drop(catalog.apply(Command::Deregister(id), at(now)));
                }
                Step::Pass(millis) => {
                    now += millis;
                    catalog.expire(at(now));
                }
            }
            let mut counts = BTreeMap::<String, usize>::new();
            for leased in catalog.instances() {
                *counts.entry(leased.instance.status.to_string()).or_default() += 1;
            }
            let kept: BTreeMap<_, _> =
                catalog.statuses().map(|(status, count)| (status.to_owned(), count)).collect();
            prop_assert_eq!(kept, counts);
            for name in SERVICES {
                let like: Vec<_> = catalog.services_like(&folded(name)).cloned().collect();
                let expected: Vec<_> =
                    catalog.services().filter(|s| folded(s.as_str()) == folded(name)).cloned().collect();
                prop_assert_eq!(like, expected);
            }
        }
    }
}
