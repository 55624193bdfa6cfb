//! Which services a new snapshot touches. It compares entries by allocation first, so that finding one change
//! among a hundred thousand instances costs a walk and no look inside.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use ahash::AHasher;
use control_api::{Rule, RuleId, Snapshot};
use registry_api::ServiceName;

/// Without chance: names come from control, not from those who send requests.
pub(crate) type Hashing = BuildHasherDefault<AHasher>;

/// What differs between two snapshots.
#[derive(Default)]
pub(crate) struct Changes {
    /// Services with other instances than before, in order.
    pub(crate) instances: Vec<ServiceName>,
    /// Destinations with other rules than before.
    pub(crate) rules: HashMap<ServiceName, Edits, Hashing>,
}

/// What happened to the rules of one destination.
#[derive(Default)]
pub(crate) struct Edits {
    gone: BTreeSet<RuleId>,
    put: Vec<Arc<Rule>>,
}

impl Changes {
    pub(crate) fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let mut this = Self::default();
        walk(old.instances(), new.instances(), |before, after| {
            // Both have the same key, so the same service; all of one come one after the other.
            if let Some(instance) = before.or(after)
                && this.instances.last() != Some(&instance.service_name)
            {
                this.instances.push(instance.service_name.clone());
            }
        });
        if old.faults_disabled() != new.faults_disabled() {
            // No rule changed, and every fault did.
            let faulty = new.rules().values().filter(|rule| !rule.actions().is_empty());
            for rule in faulty {
                this.edits(&rule.destination);
            }
        }
        walk(old.rules(), new.rules(), |before, after| {
            if let Some(rule) = before {
                this.edits(&rule.destination).gone.insert(rule.id.clone());
            }
            if let Some(rule) = after {
                this.edits(&rule.destination).put.push(Arc::clone(rule));
            }
        });
        this
    }

    fn edits(&mut self, destination: &ServiceName) -> &mut Edits {
        self.rules.entry(destination.clone()).or_default()
    }
}

impl Edits {
    /// The rules after the edit, in order of precedence.
    pub(crate) fn apply(&self, rules: &[Arc<Rule>]) -> Box<[Arc<Rule>]> {
        let kept = rules.iter().filter(|rule| !self.gone.contains(&rule.id));
        let mut rules: Vec<_> = kept.chain(&self.put).cloned().collect();
        rules.sort_by(|a, b| a.precedence(b));
        rules.into()
    }
}

type Entry<'a, V> = Option<&'a Arc<V>>;

/// Shows every key whose value is not the same in both, with the values it has.
fn walk<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
    mut show: impl FnMut(Entry<'_, V>, Entry<'_, V>),
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
