//! The laws of the catalog (spec/registry.md 1.6, 1.7 and 9.6), with time as a number.

use std::time::Duration;

use registry_api::follow::set_hash;
use registry_api::{Endpoint, EndpointType, Status};

use super::*;

const fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn admitted(service: &str, id: &str, status: &str, ttl_secs: u64) -> Admitted {
    let instance = Instance {
        id: InstanceId::new(id).unwrap(),
        service_name: ServiceName::new(service).unwrap(),
        endpoint: Endpoint { kind: EndpointType::Http, value: format!("{id}:80") },
        ttl: ttl_secs as u32,
        status: Status::new(status),
        tags: vec![],
        metadata: None,
        last_heartbeat: None,
    };
    Admitted::new(instance, Duration::from_secs(ttl_secs))
}

fn register(catalog: &mut Catalog, service: &str, id: &str, now: Timestamp) -> Result<Vec<Change>, Refused> {
    catalog.apply(Command::Register(admitted(service, id, "UP", 30)), now)
}

fn ids(catalog: &Catalog) -> Vec<String> {
    catalog.instances().map(|leased| leased.instance.id.to_string()).collect()
}

fn expired(service: &str, id: &str) -> Change {
    Change::Delete { id: name(id), service_name: ServiceName::new(service).unwrap(), reason: Reason::Expired }
}

fn name(id: &str) -> InstanceId {
    InstanceId::new(id).unwrap()
}

/// Section 9.6 M23, M27, M39 to M41; section 1.6.
#[test]
fn an_instance_goes_strictly_after_its_ttl() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "s", "a", at(0)).unwrap();
    assert_eq!(catalog.expire(at(30_000)), []);
    assert_eq!(catalog.expire(at(30_001)), [expired("s", "a")]);
    assert!(catalog.is_empty());
    assert_eq!(catalog.services().count(), 0);
    assert_eq!(catalog.renew(&name("a"), at(30_002)), Err(Refused::Unknown));
    assert_eq!(catalog.apply(Command::Deregister(name("a")), at(30_002)), Err(Refused::Unknown));
}

/// Section 9.6 M24, M46; section 1.3.
#[test]
fn a_renewal_restarts_the_lease_and_is_no_change() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "s", "a", at(0)).unwrap();
    for now in (15_000..150_000).step_by(15_000) {
        assert_eq!(catalog.expire(at(now)), []);
        catalog.renew(&name("a"), at(now)).unwrap();
    }
    assert_eq!(catalog.index(), 2);
    assert_eq!(catalog.expire(at(165_000)), []);
    assert_eq!(catalog.expire(at(165_001)).len(), 1);
}

/// Section 9.6 M11.
#[test]
fn an_identical_registration_is_no_change_but_restarts_the_lease() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "s", "a", at(0)).unwrap();
    let (index, hash) = (catalog.index(), catalog.hash());
    assert_eq!(register(&mut catalog, "s", "a", at(20_000)), Ok(vec![]));
    assert_eq!((catalog.index(), catalog.hash()), (index, hash));
    assert_eq!(catalog.expire(at(50_000)), []);
    assert_eq!(catalog.expire(at(50_001)).len(), 1);
}

#[test]
fn a_shorter_lease_replaces_a_longer_one_at_once() {
    let mut catalog = Catalog::new(None);
    for (ttl, now) in [(600, 0), (10, 1_000), (600, 2_000), (10, 3_000)] {
        catalog.apply(Command::Register(admitted("s", "a", "UP", ttl)), at(now)).unwrap();
    }
    assert_eq!(catalog.leases(), 1);
    assert_eq!(catalog.expire(at(13_000)), []);
    assert_eq!(catalog.expire(at(13_001)).len(), 1);
}

/// Section 9.6 M17; section 1.6.
#[test]
fn out_of_service_never_expires_until_its_status_changes() {
    let mut catalog = Catalog::new(None);
    catalog.apply(Command::Register(admitted("s", "out", "OUT_OF_SERVICE", 30)), at(0)).unwrap();
    catalog.apply(Command::Register(admitted("s", "starting", "STARTING", 30)), at(0)).unwrap();
    assert_eq!(catalog.leases(), 1);
    assert_eq!(catalog.expire(at(10_000_000)), [expired("s", "starting")]);
    assert_eq!(ids(&catalog), ["out"]);
    register(&mut catalog, "s", "out", at(10_000_000)).unwrap();
    assert_eq!(catalog.expire(at(10_030_001)), [expired("s", "out")]);
}

/// Section 9.6 M5, M12, M18.
#[test]
fn the_same_id_is_replaced_and_an_expired_one_comes_back() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "s", "a", at(0)).unwrap();
    let changes = catalog.apply(Command::Register(admitted("s", "a", "STARTING", 30)), at(1)).unwrap();
    assert!(matches!(&changes[..], [Change::Put(instance)] if instance.status.as_str() == "STARTING"));
    assert_eq!(catalog.len(), 1);
    catalog.expire(at(100_000));
    register(&mut catalog, "s", "a", at(100_000)).unwrap();
    assert_eq!(ids(&catalog), ["a"]);
}

#[test]
fn an_id_that_moves_to_another_service_leaves_the_first_visibly() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "s", "a", at(0)).unwrap();
    let changes = register(&mut catalog, "t", "a", at(1)).unwrap();
    assert!(matches!(&changes[..], [Change::Delete { .. }, Change::Put(_)]));
    assert_eq!(catalog.services().map(ServiceName::as_str).collect::<Vec<_>>(), ["t"]);
    assert_eq!(catalog.index(), 4);
}

/// Section 9.6 M29, M30; section 1.7.
#[test]
fn capacity_counts_all_services_spares_the_known_and_is_freed_at_once() {
    let mut catalog = Catalog::new(Some(2));
    register(&mut catalog, "s", "a", at(0)).unwrap();
    register(&mut catalog, "t", "b", at(10_000)).unwrap();
    assert_eq!(register(&mut catalog, "u", "c", at(0)), Err(Refused::Full));
    assert_eq!(register(&mut catalog, "u", "c", at(0)), Err(Refused::Full));
    assert!(register(&mut catalog, "s", "a", at(0)).is_ok());
    catalog.apply(Command::Deregister(name("b")), at(0)).unwrap();
    assert!(register(&mut catalog, "u", "c", at(20_000)).is_ok());
    catalog.expire(at(30_001));
    assert!(register(&mut catalog, "u", "d", at(30_001)).is_ok());
    assert_eq!(register(&mut Catalog::new(Some(0)), "s", "a", at(0)), Err(Refused::Full));
}

#[test]
fn hashes_are_those_that_a_watcher_computes() {
    let mut catalog = Catalog::new(None);
    for (service, id) in [("s", "a"), ("s", "b"), ("t", "c")] {
        register(&mut catalog, service, id, at(0)).unwrap();
    }
    let set: Vec<_> = catalog.instances().map(|leased| leased.instance).collect();
    assert_eq!(catalog.hash(), set_hash(&set));
    assert_eq!(catalog.service_hash(&ServiceName::new("s").unwrap()), set_hash(&set[..2]));
    for id in ["a", "b", "c"] {
        catalog.apply(Command::Deregister(name(id)), at(1)).unwrap();
    }
    assert_eq!((catalog.hash(), catalog.bytes(), catalog.leases()), (ContentHash::default(), 0, 0));
}

#[test]
fn what_was_kept_gets_a_whole_lease_and_is_no_change() {
    let mut catalog = Catalog::new(Some(1));
    let kept = vec![admitted("s", "a", "UP", 30), admitted("s", "b", "OUT_OF_SERVICE", 30)];
    catalog.restore(kept, at(1_000_000));
    assert_eq!(catalog.index(), 1);
    assert_eq!(catalog.expire(at(1_030_000)), []);
    assert_eq!(catalog.expire(at(1_030_001)), [expired("s", "a")]);
    assert_eq!(ids(&catalog), ["b"]);
}

#[test]
fn after_a_standstill_every_lease_has_one_whole_time_to_live_more() {
    let mut catalog = Catalog::new(None);
    register(&mut catalog, "s", "a", at(0)).unwrap();
    register(&mut catalog, "s", "b", at(20_000)).unwrap();
    // Nobody could renew from here to there; the last sign of life is told as it was.
    catalog.hear_from(at(300_000));
    assert_eq!(catalog.expire(at(300_000)), []);
    assert!(catalog.instances().all(|leased| leased.renewed_at <= at(20_000)));
    catalog.renew(&name("a"), at(310_000)).unwrap();
    assert_eq!(catalog.expire(at(330_000)), []);
    assert_eq!(catalog.expire(at(330_001)), [expired("s", "b")]);
    assert_eq!(catalog.expire(at(340_000)), []);
    assert_eq!(catalog.expire(at(340_001)), [expired("s", "a")]);
}

/// Section 9.6 M47, M48.
#[test]
fn ten_thousand_that_renew_stay_and_exactly_the_silent_go() {
    let mut catalog = Catalog::new(None);
    let all: Vec<_> = (0..10_000).map(|number| format!("i{number}")).collect();
    for id in &all {
        catalog.apply(Command::Register(admitted("s", id, "UP", 3)), at(0)).unwrap();
    }
    let mut gone = 0;
    for now in (100..=30_000).step_by(100) {
        gone += catalog.expire(at(now)).len();
        for (number, id) in all.iter().enumerate() {
            // Each has its own rhythm between a quarter and a half of the TTL; every tenth falls silent.
            let rhythm = 800 + (number as u64 % 7) * 100;
            let silent = number % 10 == 0 && now > 10_000;
            if now % rhythm == 0 && !silent {
                catalog.renew(&name(id), at(now)).unwrap();
            }
        }
    }
    assert_eq!((gone, catalog.len()), (1_000, 9_000));
    assert!(
        (0..10_000).all(|number| catalog.entries.find(all[number].as_str()).is_some() == (number % 10 != 0))
    );
}

/// Section 3.16.
#[test]
fn silence_of_many_guests_is_held_for_a_while_and_a_renewal_or_a_delete_ends_it() {
    let mut catalog = Catalog::new(None).preserving(Some(Threshold::new(0.85).unwrap()));
    for number in 0..20 {
        let guest = admitted("s", &format!("{number:02}"), "UP", 30).extended(Some(Extension::new("{}")));
        catalog.apply(Command::Register(guest), at(0)).unwrap();
    }
    // What registered natively neither counts nor is held.
    for number in 0..5 {
        register(&mut catalog, "native", &format!("n{number}"), at(0)).unwrap();
    }
    for number in 0..10 {
        catalog.renew(&name(&format!("{number:02}")), at(20_000)).unwrap();
    }
    let gone: Vec<_> = (0..5).map(|number| expired("native", &format!("n{number}"))).collect();
    assert_eq!(catalog.expire(at(30_001)), gone);
    assert_eq!((catalog.len(), catalog.held(), catalog.leases()), (20, 10, 20));
    for number in 0..10 {
        catalog.renew(&name(&format!("{number:02}")), at(31_000)).unwrap();
    }
    // Seven come back and one is deleted: the two that are left are no longer many.
    for number in 10..17 {
        catalog.renew(&name(&format!("{number:02}")), at(32_000)).unwrap();
    }
    catalog.apply(Command::Deregister(name("17")), at(32_000)).unwrap();
    assert_eq!(catalog.expire(at(40_002)), [expired("s", "18"), expired("s", "19")]);
    assert_eq!((catalog.len(), catalog.held()), (17, 0));
}

fn carrying(id: &str, metadata_bytes: usize, tags: usize) -> Admitted {
    let metadata = (metadata_bytes > 0).then(|| format!("\"{}\"", "x".repeat(metadata_bytes - 2)));
    let plain = admitted("s", id, "UP", 30);
    let instance = Instance {
        metadata: metadata.map(|text| registry_api::Metadata::from_json(text).unwrap()),
        tags: (0..tags).map(|number| number.to_string()).collect(),
        ..Instance::clone(plain.instance())
    };
    Admitted::new(instance, plain.ttl())
}

/// The means of what was observed since the last call: of metadata, of tags, of lifetimes in seconds.
fn means(catalog: &mut Catalog) -> [Option<f64>; 3] {
    let mut sums = [(0.0, 0); 3];
    for seen in catalog.take_seen() {
        let (of, value) = match seen {
            Seen::Metadata { bytes } => (0, bytes as f64),
            Seen::Tags { count } => (1, count as f64),
            Seen::Lived(lived) => (2, lived.as_secs_f64()),
        };
        sums[of] = (sums[of].0 + value, sums[of].1 + 1);
    }
    sums.map(|(sum, count)| (count > 0).then(|| sum / f64::from(count)))
}

/// Section 8.
#[test]
fn section_9_6_m33_m34_means_are_of_those_that_carry_something() {
    for (case, registered, metadata, tags) in [
        ("M33, M34 nobody", &[][..], None, None),
        ("M33 ten", &[("a", 10, 0)], Some(10.0), None),
        ("M33 ten and 26", &[("a", 10, 0), ("b", 26, 0)], Some(18.0), None),
        ("M33 and one without", &[("a", 10, 0), ("b", 26, 0), ("c", 0, 0)], Some(18.0), None),
        ("M34 two", &[("a", 0, 2)], None, Some(2.0)),
        ("M34 two and four", &[("a", 0, 2), ("b", 0, 4)], None, Some(3.0)),
        ("M34 and one without", &[("a", 0, 2), ("b", 0, 4), ("c", 0, 0)], None, Some(3.0)),
        ("M33, M34 both", &[("a", 10, 2), ("b", 26, 4)], Some(18.0), Some(3.0)),
    ] {
        let mut catalog = Catalog::new(None);
        for (id, bytes, count) in registered {
            catalog.apply(Command::Register(carrying(id, *bytes, *count)), at(0)).unwrap();
        }
        assert_eq!(means(&mut catalog), [metadata, tags, None], "{case}");
    }
}

/// Section 8.
#[test]
fn section_9_6_m35_m36_who_carries_something_is_counted_while_it_is_there() {
    let small = Some(10);
    let (larger, none) = (Some(30), Some(0));
    for kind in ["M35 metadata", "M36 tags"] {
        let mut catalog = Catalog::new(None);
        for (step, (id, carries, expected)) in [
            ("a", small, 1),
            ("a", small, 1),
            ("a", larger, 1),
            ("a", none, 0),
            ("a", small, 1),
            ("b", none, 1),
            ("b", None, 1),
            ("a", None, 0),
        ]
        .into_iter()
        .enumerate()
        {
            let command = match carries {
                Some(length) if kind.ends_with("tags") => Command::Register(carrying(id, 0, length)),
                Some(length) => Command::Register(carrying(id, length, 0)),
                None => Command::Deregister(name(id)),
            };
            catalog.apply(command, at(step as u64)).unwrap();
            let census = catalog.census();
            let counted = if kind.ends_with("tags") { census.with_tags() } else { census.with_metadata() };
            assert_eq!(counted, expected, "{kind}, step {step}");
            assert_eq!(census.with_tags() + census.with_metadata(), expected, "{kind} alone, step {step}");
        }
    }
}

/// Section 8.
#[test]
fn section_9_6_m38_lifetimes_are_those_of_the_instances() {
    let mut catalog = Catalog::new(None);
    for (id, since) in [("deleted", 0), ("again", 0), ("expired", 1_000)] {
        register(&mut catalog, "s", id, at(since)).unwrap();
    }
    catalog.take_seen();
    catalog.apply(Command::Deregister(name("deleted")), at(7_500)).unwrap();
    assert_eq!(means(&mut catalog), [None, None, Some(7.5)], "M38 deleted");
    // A lifetime counts from the last registration, as the ancestor has it.
    register(&mut catalog, "s", "again", at(20_000)).unwrap();
    catalog.renew(&name("again"), at(30_000)).unwrap();
    catalog.expire(at(31_001));
    assert_eq!(means(&mut catalog), [None, None, Some(30.001)], "M38 expired");
    catalog.apply(Command::Deregister(name("again")), at(40_000)).unwrap();
    assert_eq!(means(&mut catalog), [None, None, Some(20.0)], "M38 registered again");
    // What lives elsewhere does not die here.
    catalog.replace_source(Source::File, elsewhere("s", &["f"]), at(0));
    catalog.replace_source(Source::File, vec![], at(50_000));
    assert_eq!(means(&mut catalog), [None; 3]);
}

/// What the snapshot file is made from.
#[test]
fn a_copy_in_pieces_is_everybody_who_registered_and_no_piece_is_larger() {
    let mut catalog = Catalog::new(None);
    for number in 0..10 {
        register(&mut catalog, "s", &format!("i{number}"), at(0)).unwrap();
    }
    catalog.replace_source(Source::File, elsewhere("s", &["f"]), at(0));
    catalog.apply(Command::Deregister(name("i3")), at(0)).unwrap();
    for count in [1, 3, 11, 100] {
        let (mut copied, mut from) = (Vec::new(), Some(0));
        while let Some(place) = from {
            let before = copied.len();
            from = catalog.copy_registered(place, count, &mut copied);
            assert!(copied.len() - before <= count);
        }
        let mut ids: Vec<_> = copied.iter().map(|leased| leased.instance.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["i0", "i1", "i2", "i4", "i5", "i6", "i7", "i8", "i9"], "{count}");
    }
}

fn elsewhere(service: &str, ids: &[&str]) -> Vec<Admitted> {
    ids.iter().map(|id| admitted(service, id, "", 0)).collect()
}

fn shown(catalog: &Catalog) -> Vec<(String, u32)> {
    catalog.instances().map(|leased| (leased.instance.id.to_string(), leased.instance.ttl)).collect()
}

/// Section 9.7 G5 to G9; section 7.1.
#[test]
fn what_comes_from_elsewhere_is_shown_and_nobody_renews_removes_or_counts_it() {
    // spec/registry.md 7.1, 9.7 G5 to G9.
    let mut catalog = Catalog::new(Some(1));
    assert_eq!(catalog.replace_source(Source::File, elsewhere("s", &[]), at(0)), []);
    assert_eq!(catalog.services().count(), 0);
    catalog.replace_source(Source::File, elsewhere("s", &["a", "b"]), at(0));
    catalog.replace_source(Source::Kubernetes, elsewhere("t", &["k"]), at(0));
    assert_eq!(shown(&catalog), [("a".to_owned(), 0), ("b".to_owned(), 0), ("k".to_owned(), 0)]);
    assert_eq!(catalog.renew(&name("a"), at(1)), Err(Refused::Unknown));
    assert_eq!(catalog.apply(Command::Deregister(name("a")), at(1)), Err(Refused::Unknown));
    register(&mut catalog, "s", "own", at(1)).unwrap();
    assert_eq!(register(&mut catalog, "s", "more", at(1)), Err(Refused::Full));
    assert_eq!(register(&mut catalog, "s", "b", at(1)), Err(Refused::Full), "hiding one takes room too");
    assert_eq!(catalog.services().count(), 2);
    assert_eq!((catalog.leases(), catalog.registered_len()), (1, 1));
    assert_eq!(catalog.expire(at(10_000_000)), [expired("s", "own")]);
    assert_eq!(shown(&catalog).len(), 3, "nothing from elsewhere expires");
    let gone = catalog.replace_source(Source::File, elsewhere("s", &["b"]), at(0));
    assert!(matches!(&gone[..], [Change::Delete { id, .. }] if id.as_str() == "a"), "{gone:?}");
    assert_eq!(catalog.replace_source(Source::File, elsewhere("s", &["b"]), at(0)), []);
}

/// Section 9.7 G9; section 7.1.
#[test]
fn of_an_id_that_several_catalogs_hold_watchers_see_the_first_and_lists_all() {
    let mut catalog = Catalog::new(None);
    catalog.replace_source(Source::File, elsewhere("s", &["a"]), at(0));
    register(&mut catalog, "s", "a", at(0)).unwrap();
    assert_eq!(shown(&catalog), [("a".to_owned(), 30)]);
    let listed =
        |catalog: &Catalog| catalog.all_of("s").map(|leased| leased.instance.ttl).collect::<Vec<_>>();
    assert_eq!(listed(&catalog), [30, 0]);
    assert_eq!(catalog.list(&Query::default()).len(), 2);
    assert_eq!(catalog.renew(&name("a"), at(1)), Ok(()));
    // An earlier source takes its place behind the registered one, before the file.
    assert_eq!(catalog.replace_source(Source::Kubernetes, elsewhere("t", &["a"]), at(1)), []);
    assert_eq!(catalog.shadowed().count(), 2);
    catalog.apply(Command::Deregister(name("a")), at(2)).unwrap();
    let of = |catalog: &Catalog| {
        catalog.instances().map(|l| l.instance.service_name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of(&catalog), ["t"]);
    catalog.replace_source(Source::Kubernetes, vec![], at(3));
    assert_eq!(of(&catalog), ["s"]);
    catalog.replace_source(Source::File, vec![], at(3));
    assert!(catalog.is_empty());
    assert_eq!(catalog.hash(), ContentHash::default());
    // And after an expiry.
    register(&mut catalog, "s", "b", at(10)).unwrap();
    catalog.replace_source(Source::File, elsewhere("s", &["b"]), at(10));
    let changes = catalog.expire(at(40_000));
    assert!(matches!(&changes[..], [Change::Delete { .. }, Change::Put(_)]), "{changes:?}");
    assert_eq!(shown(&catalog), [("b".to_owned(), 0)]);
}
