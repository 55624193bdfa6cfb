//! Pairs the rules of one namespace with its instances as the registry tells them: the snapshot that is to
//! be published next. It publishes nothing and reads no clock; it only knows what was touched since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use control_api::{RuleId, Snapshot};
use registry_api::{Followed, Instance, InstanceKey, Namespace, Reason};

use crate::moment::Moment;
use crate::rulebook::{Changes, RuleBook};

/// What a published step may differ in from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// Rules that were put or deleted.
    pub rules: BTreeSet<RuleId>,
    /// Instances that were put or deleted; the reason counts for those that are gone.
    pub instances: BTreeMap<InstanceKey, Reason>,
}

impl Touched {
    /// How many entries.
    pub fn len(&self) -> usize {
        self.rules.len() + self.instances.len()
    }

    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes their names take.
    pub fn bytes(&self) -> usize {
        let rules = self.rules.iter().map(|id| id.as_str().len());
        let instances = self.instances.keys().map(|(name, id)| name.as_str().len() + id.as_str().len());
        rules.chain(instances).sum()
    }

    /// Adds what a later step touched.
    pub fn absorb(&mut self, later: &Self) {
        self.rules.extend(later.rules.iter().cloned());
        self.instances.extend(later.instances.iter().map(|(key, reason)| (key.clone(), *reason)));
    }
}

/// What an answer of the registry may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It said that nothing changed.
    Nothing,
    /// It sent the whole set.
    Everything,
    /// It sent changes of these; the reason counts for those that are gone.
    Some(Vec<(InstanceKey, Reason)>),
}

/// Rules and instances of one namespace.
#[derive(Debug, Clone, Default)]
pub struct World {
    snapshot: Arc<Snapshot>,
    loaded: bool,
    epoch: String,
    stale: BTreeMap<InstanceKey, Moment>,
    touched: Touched,
}

impl World {
    /// A world of rules whose instances are still unknown.
    pub fn new(namespace: &Namespace, book: &RuleBook) -> Self {
        let mut snapshot = Snapshot::new(book.revision(), book.rules().values().cloned(), []);
        snapshot.set_namespace(namespace.clone());
        snapshot.set_faults_disabled(book.faults_disabled());
        let snapshot = Arc::new(snapshot);
        Self { snapshot, ..Self::default() }
    }

    /// Whether the instances were told at least once. Before that there is nothing worth publishing.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// The content as it is now.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The content, and what was touched since this was last asked.
    pub fn take(&mut self) -> (Arc<Snapshot>, Touched) {
        (Arc::clone(&self.snapshot), std::mem::take(&mut self.touched))
    }

    /// Instances that are kept although the registry, in a new life, does not know them.
    pub fn stale(&self) -> impl ExactSizeIterator<Item = &InstanceKey> {
        self.stale.keys()
    }

    /// When the next stale instance may go, if the registry is heard again then.
    pub fn stale_until(&self) -> Option<Moment> {
        self.stale.values().min().copied()
    }

    /// Repeats an accepted edit.
    pub fn edit(&mut self, changes: &Changes) {
        let snapshot = Arc::make_mut(&mut self.snapshot);
        snapshot.set_revision(changes.revision);
        if let Some(disabled) = changes.faults_disabled {
            snapshot.set_faults_disabled(disabled);
        }
        for rule in &changes.put {
            self.touched.rules.insert(rule.id.clone());
            snapshot.put_rule(Arc::clone(rule));
        }
        for id in &changes.delete {
            self.touched.rules.insert(id.clone());
            snapshot.delete_rule(id);
        }
    }

    /// Follows an answer of the registry that `followed` has applied already. Only an answer may be given
    /// here: a failed read is not an empty list, and while the registry is away nothing goes stale or gone.
    ///
    /// When the registry has begun a new life (design.md 5, settled point 9), instances that it lacks stay
    /// until their own time to live has passed since, or until they register again. An answer speaks for
    /// the time `asked`, not for later: it may have lain unread while control stood still.
    pub fn follow(&mut self, followed: &Followed, heard: &Heard, asked: Moment, now: Moment) {
        let epoch = &followed.position().epoch;
        if self.loaded && *epoch != self.epoch {
            for instance in self.snapshot.instances().iter() {
                let key = instance.key();
                if !followed.instances().contains_key(&key) {
                    self.stale.insert(key, now + Duration::from_secs(instance.ttl.into()));
                }
            }
        }
        epoch.clone_into(&mut self.epoch);
        self.loaded = true;
        match heard {
            Heard::Nothing => {}
            Heard::Everything => self.replace_all(followed),
            Heard::Some(keys) => {
                for (key, reason) in keys {
                    match followed.instances().get(key) {
                        Some(instance) => self.put(instance),
                        None => self.delete(key, *reason),
                    }
                }
            }
        }
        let over: Vec<_> =
            self.stale.iter().filter(|(_, until)| **until <= asked).map(|(key, _)| key.clone()).collect();
        for key in over {
            self.delete(&key, Reason::Expired);
        }
    }

    fn replace_all(&mut self, followed: &Followed) {
        let gone: Vec<_> = (self.snapshot.instances().iter().map(|instance| instance.key()))
            .filter(|key| !followed.instances().contains_key(key) && !self.stale.contains_key(key))
            .collect();
        for key in gone {
            self.delete(&key, Reason::Expired);
        }
        for instance in followed.instances().values() {
            self.put(instance);
        }
    }

    fn put(&mut self, instance: &Arc<Instance>) {
        let key = instance.key();
        self.stale.remove(&key);
        if self.snapshot.instances().get(&key).is_some_and(|held| is_same(held, instance)) {
            return;
        }
        Arc::make_mut(&mut self.snapshot).put_instance(Arc::clone(instance));
        self.touched.instances.insert(key, Reason::Deregistered);
    }

    fn delete(&mut self, key: &InstanceKey, reason: Reason) {
        self.stale.remove(key);
        if self.snapshot.instances().contains(key) {
            Arc::make_mut(&mut self.snapshot).delete_instance(key);
            self.touched.instances.insert(key.clone(), reason);
        }
    }
}

fn is_same(held: &Arc<Instance>, told: &Arc<Instance>) -> bool {
    Arc::ptr_eq(held, told)
        || held == told
        // A renewal is not a change, and snapshots do not keep its time.
        || (told.last_heartbeat.is_some() && held.content_hash() == told.content_hash())
}

#[cfg(test)]
mod tests;
