//! Which services a new snapshot touches. What both snapshots share is passed over, so that finding one change among a
//! hundred thousand instances costs a walk over their services and no look inside.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use ahash::AHasher;
use control_api::{Rule, RuleId, Snapshot, differences};
use registry_api::{Instance, ServiceName};

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
        old.instances().differences(new.instances(), |before, after| {
            if let (Some(before), Some(after)) = (before, after)
                && is_same(before, after)
            {
                return;
            }
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
        differences(old.rules(), new.rules(), |before, after| {
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

/// Whether two instances are one to a request: leases are the registry's matter (spec/control-and-proxy.md 3.6).
fn is_same(before: &Instance, after: &Instance) -> bool {
    let Instance { id, service_name, endpoint, status, tags, metadata, ttl: _, last_heartbeat: _ } = before;
    (id, service_name, endpoint, status) == (&after.id, &after.service_name, &after.endpoint, &after.status)
        && (tags, metadata) == (&after.tags, &after.metadata)
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
