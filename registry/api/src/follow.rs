//! The other end of a watch: the instances a watcher holds, and how an answer changes them. Pure; the
//! caller moves the bytes and decides what to do when an answer does not fit.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::change::{Change, Position, Update};
use crate::hash::ContentHash;
use crate::instance::{Instance, InstanceKey};

/// The instances of one namespace as last heard.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    position: Position,
    instances: BTreeMap<InstanceKey, Arc<Instance>>,
    /// Of `instances`, kept up to date: a change costs what it changes, not what is held.
    hash: ContentHash,
}

/// The answer does not lead from what is held to the hash it names. Ask again with index 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer does not fit what is held")]
pub struct Mismatch;

impl Followed {
    /// Where to continue from.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// What is held, in defined order.
    pub fn instances(&self) -> &BTreeMap<InstanceKey, Arc<Instance>> {
        &self.instances
    }

    /// Adopts a position whose content is what is held already (a 304 with other headers).
    pub fn adopt(&mut self, position: Position) {
        self.position = position;
    }

    /// Applies an answer. On a mismatch nothing is changed and `position().index` is 0, so that the next
    /// poll asks for everything.
    pub fn apply(&mut self, position: Position, update: Update) -> Result<(), Mismatch> {
        match update {
            Update::Full(list) => {
                let next: BTreeMap<_, _> =
                    list.into_iter().map(|instance| (instance.key(), instance)).collect();
                if set_hash(next.values()) != position.hash {
                    return self.mismatch();
                }
                (self.hash, self.instances) = (position.hash, next);
            }
            Update::Delta { from, changes } => {
                if from != self.position.index || position.epoch != self.position.epoch {
                    return self.mismatch();
                }
                let before: Vec<_> = changes.into_iter().map(|change| self.change(change)).collect();
                if self.hash != position.hash {
                    // Backwards, because one instance may have changed more than once.
                    for (key, held) in before.into_iter().rev() {
                        self.set(key, held);
                    }
                    return self.mismatch();
                }
            }
        }
        self.position = position;
        Ok(())
    }

    /// Applies one change and gives what was held before.
    fn change(&mut self, change: Change) -> (InstanceKey, Option<Arc<Instance>>) {
        let (key, next) = match change {
            Change::Put(instance) => (instance.key(), Some(instance)),
            Change::Delete { id, service_name, .. } => ((service_name, id), None),
        };
        let before = self.set(key.clone(), next);
        (key, before)
    }

    fn set(&mut self, key: InstanceKey, next: Option<Arc<Instance>>) -> Option<Arc<Instance>> {
        let before = match next {
            Some(instance) => {
                self.hash = self.hash.with(instance.content_hash());
                self.instances.insert(key, instance)
            }
            None => self.instances.remove(&key),
        };
        if let Some(gone) = &before {
            self.hash = self.hash.without(gone.content_hash());
        }
        before
    }

    fn mismatch(&mut self) -> Result<(), Mismatch> {
        self.position = Position::default();
        Err(Mismatch)
    }
}

/// The hash of a set of instances.
pub fn set_hash<'a>(instances: impl IntoIterator<Item = &'a Arc<Instance>>) -> ContentHash {
    instances.into_iter().fold(ContentHash::default(), |hash, instance| hash.with(instance.content_hash()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Reason;
    use crate::instance::{Endpoint, EndpointType, Status};
    use crate::names::{InstanceId, ServiceName};

    fn instance(id: &str) -> Arc<Instance> {
        Arc::new(Instance {
            id: InstanceId::new(id).unwrap(),
            service_name: ServiceName::new("s").unwrap(),
            endpoint: Endpoint { kind: EndpointType::Http, value: format!("{id}:1") },
            ttl: 30,
            status: Status::new(Status::UP),
            tags: vec![],
            metadata: None,
            last_heartbeat: None,
        })
    }

    fn position(index: u64, set: &[&Arc<Instance>]) -> Position {
        Position { epoch: "e".to_owned(), index, hash: set_hash(set.iter().copied()) }
    }

    #[test]
    fn a_delta_applied_to_the_old_set_gives_the_new_one() {
        let (a, b) = (instance("a"), instance("b"));
        let mut followed = Followed::default();
        followed.apply(position(1, &[&a]), Update::Full(vec![a.clone()])).unwrap();
        let changes = vec![
            Change::Put(b.clone()),
            Change::Delete {
                id: a.id.clone(),
                service_name: a.service_name.clone(),
                reason: Reason::Expired,
            },
        ];
        followed.apply(position(3, &[&b]), Update::Delta { from: 1, changes }).unwrap();
        assert_eq!(followed.instances().values().collect::<Vec<_>>(), [&b]);
    }

    #[test]
    fn a_delta_from_elsewhere_or_with_a_wrong_hash_changes_nothing_and_asks_for_all() {
        let (a, b) = (instance("a"), instance("b"));
        for (from, hash_of) in [(7, &b), (1, &a)] {
            let mut followed = Followed::default();
            followed.apply(position(1, &[&a]), Update::Full(vec![a.clone()])).unwrap();
            let gone = |one: &Instance| Change::Delete {
                id: one.id.clone(),
                service_name: one.service_name.clone(),
                reason: Reason::Expired,
            };
            let changes = vec![Change::Put(b.clone()), gone(&a), gone(&b), Change::Put(b.clone()), gone(&b)];
            let delta = Update::Delta { from, changes };
            assert_eq!(followed.apply(position(2, &[hash_of]), delta), Err(Mismatch));
            assert_eq!(followed.position().index, 0);
            assert_eq!(followed.instances().values().collect::<Vec<_>>(), [&a]);
            followed.apply(position(3, &[&a]), Update::Full(vec![a.clone()])).unwrap();
            let delta = Update::Delta { from: 3, changes: vec![Change::Put(b.clone())] };
            followed.apply(position(4, &[&a, &b]), delta).unwrap();
        }
    }
}
