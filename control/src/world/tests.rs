use super::*;
use control_api::RawRule;
use proptest::prelude::*;
use registry_api::follow::set_hash;
use registry_api::{Change, Position, Update};
use serde_json::json;

use crate::rulebook::Edit;

fn instance(id: u8, port: u8, ttl: u32) -> Arc<Instance> {
    let text = json!({"id": format!("i{id}"), "service_name": "s", "ttl": ttl, "status": "UP",
        "endpoint": {"type": "http", "value": format!("h:{port}")}});
    Arc::new(serde_json::from_value(text).unwrap())
}

fn position(epoch: &str, index: u64, set: &[Arc<Instance>]) -> Position {
    Position { epoch: epoch.to_owned(), index, hash: set_hash(set) }
}

/// A registry of one life and what follows it.
#[derive(Default)]
struct Registry {
    followed: Followed,
    index: u64,
}

impl Registry {
    fn tells(&mut self, world: &mut World, epoch: &str, set: &[Arc<Instance>], now: u64) {
        self.index += 1;
        let at = position(epoch, self.index, set);
        self.followed.apply(at, Update::Full(set.to_vec())).unwrap();
        world.follow(&self.followed, &Heard::Everything, Moment::millis(now), Moment::millis(now));
    }

    fn is_quiet(&self, world: &mut World, now: u64) {
        world.follow(&self.followed, &Heard::Nothing, Moment::millis(now), Moment::millis(now));
    }
}

fn held(world: &World) -> Vec<&str> {
    world.snapshot().instances().iter().map(|instance| instance.id.as_str()).collect()
}

#[test]
fn within_one_life_what_the_registry_lacks_is_gone_at_once() {
    let (mut world, mut registry) = (World::default(), Registry::default());
    assert!(!world.is_loaded());
    registry.tells(&mut world, "e1", &[instance(1, 1, 30), instance(2, 1, 30)], 0);
    assert!(world.is_loaded());
    registry.tells(&mut world, "e1", &[instance(2, 1, 30)], 1);
    assert_eq!(held(&world), ["i2"]);
    assert_eq!(world.stale().len(), 0);
}

#[test]
fn in_a_new_life_missing_instances_stay_for_their_own_time_to_live() {
    let (mut world, mut registry) = (World::default(), Registry::default());
    registry.tells(&mut world, "e1", &[instance(1, 1, 10), instance(2, 1, 30), instance(3, 1, 0)], 0);
    registry.tells(&mut world, "e2", &[], 100_000);
    assert_eq!(held(&world), ["i1", "i2"], "an instance without a lease cannot be waited for");
    assert_eq!(world.stale().len(), 2);
    assert_eq!(world.stale_until(), Some(Moment::millis(110_000)));
    registry.is_quiet(&mut world, 109_999);
    assert_eq!(held(&world), ["i1", "i2"]);
    registry.is_quiet(&mut world, 110_000);
    assert_eq!(held(&world), ["i2"]);
    registry.tells(&mut world, "e2", &[instance(2, 1, 30)], 111_000);
    assert_eq!((held(&world), world.stale().len()), (vec!["i2"], 0));
    registry.is_quiet(&mut world, 900_000);
    assert_eq!(held(&world), ["i2"], "who registered again is fresh");
}

#[test]
fn while_the_registry_is_not_heard_nothing_goes() {
    let (mut world, mut registry) = (World::default(), Registry::default());
    registry.tells(&mut world, "e1", &[instance(1, 1, 10)], 0);
    registry.tells(&mut world, "e2", &[], 1_000);
    // Hours without an answer, then a third life: the time to live counts from that change.
    registry.tells(&mut world, "e3", &[], 9_000_000);
    assert_eq!(held(&world), ["i1"]);
    registry.is_quiet(&mut world, 9_010_000);
    assert!(held(&world).is_empty());
}

#[test]
fn an_answer_that_lay_unread_takes_nothing_out_that_may_have_registered_since() {
    let (mut world, mut registry) = (World::default(), Registry::default());
    registry.tells(&mut world, "e1", &[instance(1, 1, 10)], 0);
    registry.tells(&mut world, "e2", &[], 1_000);
    // Asked at 5 s, answered at once, read after a stop of the process.
    world.follow(&registry.followed, &Heard::Nothing, Moment::millis(5_000), Moment::millis(40_000));
    assert_eq!(held(&world), ["i1"]);
    world.follow(&registry.followed, &Heard::Nothing, Moment::millis(40_001), Moment::millis(40_002));
    assert!(held(&world).is_empty());
}

#[test]
fn an_equal_set_or_a_renewal_touches_nothing() {
    let (mut world, mut registry) = (World::default(), Registry::default());
    registry.tells(&mut world, "e1", &[instance(1, 1, 30)], 0);
    let (before, _) = world.take();
    registry.tells(&mut world, "e1", &[instance(1, 1, 30)], 1);
    let beaten = Instance { last_heartbeat: Some("t".to_owned()), ..(*instance(1, 1, 30)).clone() };
    registry.tells(&mut world, "e1", &[Arc::new(beaten)], 2);
    let (after, touched) = world.take();
    assert!(touched.is_empty());
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn a_deleted_instance_keeps_the_reason_it_was_told() {
    let (mut world, mut registry) = (World::default(), Registry::default());
    let one = instance(1, 1, 30);
    registry.tells(&mut world, "e1", std::slice::from_ref(&one), 0);
    world.take();
    let change = Change::Delete {
        id: one.id.clone(),
        service_name: one.service_name.clone(),
        reason: Reason::Deregistered,
    };
    let update = Update::Delta { from: 1, changes: vec![change] };
    registry.followed.apply(position("e1", 2, &[]), update).unwrap();
    let heard = Heard::Some(vec![(one.key(), Reason::Deregistered)]);
    world.follow(&registry.followed, &heard, Moment::millis(5), Moment::millis(5));
    let (_, touched) = world.take();
    assert_eq!(touched.instances[&one.key()], Reason::Deregistered);
}

#[derive(Debug, Clone)]
enum Step {
    Rules(Vec<u8>),
    Drop(u8),
    Instances { epoch: u8, set: BTreeMap<u8, u8>, wait_ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        prop::collection::vec(0..4_u8, 1..3).prop_map(Step::Rules),
        (0..4_u8).prop_map(Step::Drop),
        (0..3_u8, prop::collection::btree_map(0..5_u8, 0..3_u8, 0..5), 0..20_000_u64)
            .prop_map(|(epoch, set, wait_ms)| Step::Instances { epoch, set, wait_ms }),
    ];
    prop::collection::vec(step, 0..25)
}

proptest! {
    #[test]
    fn the_world_holds_the_rules_and_at_least_what_the_registry_told(steps in steps()) {
        let mut book = RuleBook::default();
        let mut world = World::new(&Namespace::default(), &book);
        let mut registry = Registry::default();
        let mut now = 0;
        let mut before = Snapshot::default();
        for step in steps {
            match step {
                Step::Rules(ids) => {
                    let raw = ids.iter().map(|id| -> RawRule {
                        serde_json::from_value(json!({"id": format!("r{id}"), "destination": format!("d{now}"),
                            "actions": [{"action": "trace"}]})).unwrap()
                    });
                    let accepted = book.edit(Edit::Upsert(raw.collect()), String::new).unwrap();
                    world.edit(&accepted.changes);
                    book = accepted.book;
                }
                Step::Drop(id) => {
                    let ids = [format!("r{id}")].into();
                    let filter = crate::rulebook::Filter { ids, ..Default::default() };
                    let accepted = book.edit(Edit::Delete(filter), String::new).unwrap();
                    world.edit(&accepted.changes);
                    book = accepted.book;
                }
                Step::Instances { epoch, set, wait_ms } => {
                    now += wait_ms;
                    let set: Vec<_> = set.into_iter().map(|(id, port)| instance(id, port, 10)).collect();
                    registry.tells(&mut world, &format!("e{epoch}"), &set, now);
                    for one in &set {
                        prop_assert_eq!(world.snapshot().instances().get(&one.key()), Some(one));
                    }
                    // Whatever else is held is stale, and for no longer than its time to live.
                    prop_assert_eq!(world.snapshot().instances().len(), set.len() + world.stale().len());
                    prop_assert!(world.stale_until().is_none_or(|until| until > Moment::millis(now)));
                }
            }
            prop_assert_eq!(world.snapshot().rules(), book.rules());
            prop_assert_eq!(world.snapshot().revision(), book.revision());
            // What was touched covers every difference.
            let (after, touched) = world.take();
            let delta = before.delta_to(&after, |_| Reason::Expired);
            prop_assert!(delta.rules_put.iter().all(|rule| touched.rules.contains(&rule.id)));
            prop_assert!(delta.rules_delete.iter().all(|id| touched.rules.contains(id)));
            prop_assert!(delta.instances_put.iter().all(|one| touched.instances.contains_key(&one.key())));
            prop_assert!(delta.instances_delete.iter().all(|gone| {
                touched.instances.contains_key(&(gone.service_name.clone(), gone.id.clone()))
            }), "an instance that is gone was not touched");
            before = (*after).clone();
        }
    }
}
