//! The instances of one namespace, kept by service, so that a copy costs what its services cost and not what its
//! instances cost: the proxy copies a hundred thousand of them for every change it hears of.

use std::collections::BTreeMap;
use std::sync::Arc;

use registry_api::{Instance, InstanceId, InstanceKey, ServiceName};

/// Instances by service, then id. A clone shares those of every service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Instances {
    services: BTreeMap<ServiceName, Arc<Members>>,
    len: usize,
}

/// The instances of one service; never empty within [`Instances`].
type Members = BTreeMap<InstanceId, Arc<Instance>>;

impl Instances {
    /// How many there are, over all services.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The instance of this key.
    pub fn get(&self, (service, id): &InstanceKey) -> Option<&Arc<Instance>> {
        self.services.get(service)?.get(id)
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &InstanceKey) -> bool {
        self.get(key).is_some()
    }

    /// All, by service, then id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.services.values().flat_map(|members| members.values())
    }

    /// Those of one service, by id.
    pub fn of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Instance>> {
        self.services.get(service).into_iter().flat_map(|members| members.values())
    }

    /// Adds or replaces one; what it replaces.
    pub fn put(&mut self, instance: Arc<Instance>) -> Option<Arc<Instance>> {
        let (service, id) = instance.key();
        let old = Arc::make_mut(self.services.entry(service).or_default()).insert(id, instance);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes one out; `None` when it is not there.
    pub fn take(&mut self, key: &InstanceKey) -> Option<Arc<Instance>> {
        if !self.contains(key) {
            return None;
        }
        let members = Arc::make_mut(self.services.get_mut(&key.0)?);
        let old = members.remove(&key.1);
        if members.is_empty() {
            self.services.remove(&key.0);
        }
        self.len -= usize::from(old.is_some());
        old
    }

    /// Shows every key whose instance is not the same in both, by service, then id, with what it has before and after.
    /// Services that both share are passed over as a whole.
    pub fn differences<'a>(&'a self, newer: &'a Self, mut show: impl FnMut(Entry<'a>, Entry<'a>)) {
        const NONE: &Members = &BTreeMap::new();
        differences(&self.services, &newer.services, |before, after| {
            let members = |service: Option<&'a Arc<Members>>| service.map_or(NONE, |members| members);
            differences(members(before), members(after), &mut show);
        });
    }
}

/// An instance, where there is one.
pub type Entry<'a> = Option<&'a Arc<Instance>>;

/// Shows every key whose value is not equal in both, with the values it has. Entries that are the same allocation are
/// equal without a look inside, so that finding one change among many costs a walk.
pub fn differences<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, Arc<V>>,
    new: &'a BTreeMap<K, Arc<V>>,
    mut show: impl FnMut(Option<&'a Arc<V>>, Option<&'a Arc<V>>),
) {
    let (mut left, mut right) = (old.iter(), new.iter());
    let (mut before, mut after) = (left.next(), right.next());
    loop {
        match (before, after) {
            (None, None) => return,
            // The same allocation is under the same key; no need to compare those.
            (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) => {
                (before, after) = (left.next(), right.next())
            }
            (Some((k, a)), Some((l, b))) if k == l => {
                if a != b {
                    show(Some(a), Some(b));
                }
                (before, after) = (left.next(), right.next());
            }
            (Some((k, a)), next) if next.is_none_or(|(l, _)| k < l) => {
                show(Some(a), None);
                before = left.next();
            }
            (_, Some((_, b))) => {
                show(None, Some(b));
                after = right.next();
            }
            (Some(_), None) => unreachable!("the arm before takes every left entry without a right one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use registry_api::{Endpoint, EndpointType, Status};

    use super::*;

    fn instance(service: u8, id: u8, port: u8) -> Arc<Instance> {
        Arc::new(Instance {
            id: InstanceId::new(format!("i{id}")).unwrap(),
            service_name: ServiceName::new(format!("s{service}")).unwrap(),
            endpoint: Endpoint { kind: EndpointType::Http, value: format!("h:{port}") },
            ttl: 30,
            status: Status::new(Status::UP),
            tags: vec![],
            metadata: None,
            last_heartbeat: None,
        })
    }

    /// What is put and taken, in turn.
    fn steps() -> impl Strategy<Value = Vec<(bool, Arc<Instance>)>> {
        let instance =
            (0..4_u8, 0..4_u8, 0..3_u8).prop_map(|(service, id, port)| instance(service, id, port));
        prop::collection::vec((prop::bool::weighted(0.7), instance), 0..40)
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds(steps in steps()) {
            let (mut instances, mut plain) = (Instances::default(), BTreeMap::new());
            for (put, instance) in steps {
                let before = instances.clone();
                let old = plain.clone();
                let key = instance.key();
                if put {
                    prop_assert_eq!(instances.put(Arc::clone(&instance)), plain.insert(key, instance));
                } else {
                    prop_assert_eq!(instances.take(&key), plain.remove(&key));
                }
                prop_assert_eq!(instances.len(), plain.len());
                prop_assert_eq!(instances.is_empty(), plain.is_empty());
                prop_assert!(instances.iter().eq(plain.values()));
                prop_assert!(before.iter().eq(old.values()), "a copy does not follow");
                for service in 0..4 {
                    let name = ServiceName::new(format!("s{service}")).unwrap();
                    let of = plain.values().filter(|instance| instance.service_name == name);
                    prop_assert!(instances.of(&name).eq(of));
                }
                let mut shown = Vec::new();
                before.differences(&instances, |before, after| shown.push((before.cloned(), after.cloned())));
                let mut differing = Vec::new();
                differences(&old, &plain, |before, after| differing.push((before.cloned(), after.cloned())));
                prop_assert_eq!(shown, differing);
            }
        }
    }

    #[test]
    fn a_copy_shares_every_service_that_did_not_change() {
        let mut instances = Instances::default();
        for service in 0..3 {
            instances.put(instance(service, 0, 1));
        }
        let before = instances.clone();
        instances.put(instance(1, 0, 2));
        let shared = |at: usize| {
            let (old, new) = (before.services.values().nth(at), instances.services.values().nth(at));
            Arc::ptr_eq(old.unwrap(), new.unwrap())
        };
        assert_eq!([shared(0), shared(1), shared(2)], [true, false, true]);
    }
}
