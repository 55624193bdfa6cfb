//! One namespace at one moment: its rules and its instances, which travel and are applied together.
//! Deltas are only an encoding of the way between two snapshots, proven by the content hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use registry_api::{ContentHash, Instance, InstanceId, InstanceKey, Namespace, Reason, ServiceName};
use serde::{Deserialize, Serialize};

use crate::instances::{Instances, differences};
use crate::rule::{Rule, RuleId};

/// Rules and instances of one namespace. A clone costs per rule and per service; hashes are kept up to date.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    namespace: Namespace,
    revision: u64,
    rules: BTreeMap<RuleId, Arc<Rule>>,
    instances: Instances,
    faults_disabled: bool,
    rules_hash: ContentHash,
    instances_hash: ContentHash,
}

/// An instance that is no longer there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Gone {
    pub id: InstanceId,
    pub service_name: ServiceName,
    pub reason: Reason,
}

/// What leads from one snapshot to a later one. Empty sets when only the revision moved.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Delta {
    pub rules_put: Vec<Arc<Rule>>,
    pub rules_delete: Vec<RuleId>,
    pub instances_put: Vec<Arc<Instance>>,
    pub instances_delete: Vec<Gone>,
    /// Whether no fault happens after it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub faults_disabled: bool,
}

impl Delta {
    /// How many entries it carries.
    pub fn len(&self) -> usize {
        self.rules_put.len()
            + self.rules_delete.len()
            + self.instances_put.len()
            + self.instances_delete.len()
    }

    /// Whether no entry is put or deleted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Snapshot {
    /// Builds a snapshot; a later entry with the same key replaces an earlier one.
    pub fn new(
        revision: u64,
        rules: impl IntoIterator<Item = Arc<Rule>>,
        instances: impl IntoIterator<Item = Arc<Instance>>,
    ) -> Self {
        let mut this = Self { revision, ..Self::default() };
        rules.into_iter().for_each(|rule| this.put_rule(rule));
        instances.into_iter().for_each(|instance| this.put_instance(instance));
        this
    }

    /// Whose it is; that of those who give none until [`Snapshot::set_namespace`] says otherwise.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Says whose it is. It is not part of the hash: the followers of a namespace see no other.
    pub fn set_namespace(&mut self, namespace: Namespace) {
        self.namespace = namespace;
    }

    /// The count of accepted rule writes of this namespace.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// By id.
    pub fn rules(&self) -> &BTreeMap<RuleId, Arc<Rule>> {
        &self.rules
    }

    /// By service, then id.
    pub fn instances(&self) -> &Instances {
        &self.instances
    }

    /// Whether no fault of any rule happens; traces still do.
    pub fn faults_disabled(&self) -> bool {
        self.faults_disabled
    }

    /// Covers rules, instances, revision and the switch of the faults: a write that changed nothing can still
    /// be acknowledged.
    pub fn hash(&self) -> ContentHash {
        let switch = ContentHash::of(b"faults disabled");
        let rules = if self.faults_disabled { self.rules_hash.with(switch) } else { self.rules_hash };
        ContentHash::combine(&[rules, self.instances_hash], self.revision)
    }

    /// Disables all faults, or lets them happen again.
    pub fn set_faults_disabled(&mut self, disabled: bool) {
        self.faults_disabled = disabled;
    }

    /// Moves to another revision.
    pub fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Adds or replaces a rule.
    pub fn put_rule(&mut self, rule: Arc<Rule>) {
        self.rules_hash = self.rules_hash.with(rule.content_hash());
        if let Some(old) = self.rules.insert(rule.id.clone(), rule) {
            self.rules_hash = self.rules_hash.without(old.content_hash());
        }
    }

    /// Takes a rule out, if it is there.
    pub fn delete_rule(&mut self, id: &RuleId) {
        if let Some(old) = self.rules.remove(id) {
            self.rules_hash = self.rules_hash.without(old.content_hash());
        }
    }

    /// Adds or replaces an instance. `last_heartbeat` is dropped: a renewal is not a change.
    pub fn put_instance(&mut self, instance: Arc<Instance>) {
        let instance = match instance.last_heartbeat {
            Some(_) => Arc::new(Instance { last_heartbeat: None, ..(*instance).clone() }),
            None => instance,
        };
        self.instances_hash = self.instances_hash.with(instance.content_hash());
        if let Some(old) = self.instances.put(instance) {
            self.instances_hash = self.instances_hash.without(old.content_hash());
        }
    }

    /// Takes an instance out, if it is there.
    pub fn delete_instance(&mut self, key: &InstanceKey) {
        if let Some(old) = self.instances.take(key) {
            self.instances_hash = self.instances_hash.without(old.content_hash());
        }
    }

    /// The way from here to `newer`. `reason` says why an instance that is missing there went away.
    pub fn delta_to(&self, newer: &Self, reason: impl Fn(&InstanceKey) -> Reason) -> Delta {
        let mut delta = Delta { faults_disabled: newer.faults_disabled, ..Delta::default() };
        differences(&self.rules, &newer.rules, |before, after| match (before, after) {
            (_, Some(rule)) => delta.rules_put.push(Arc::clone(rule)),
            (Some(gone), None) => delta.rules_delete.push(gone.id.clone()),
            (None, None) => {}
        });
        self.instances.differences(&newer.instances, |before, after| match (before, after) {
            (_, Some(instance)) => delta.instances_put.push(Arc::clone(instance)),
            (Some(gone), None) => {
                let (service_name, id) = gone.key();
                let reason = reason(&(service_name.clone(), id.clone()));
                delta.instances_delete.push(Gone { reason, service_name, id });
            }
            (None, None) => {}
        });
        delta
    }

    /// Goes the way of a delta.
    pub fn apply(&mut self, revision: u64, delta: Delta) {
        self.revision = revision;
        self.faults_disabled = delta.faults_disabled;
        delta.rules_delete.iter().for_each(|id| self.delete_rule(id));
        delta.rules_put.into_iter().for_each(|rule| self.put_rule(rule));
        delta
            .instances_delete
            .into_iter()
            .for_each(|gone| self.delete_instance(&(gone.service_name, gone.id)));
        delta.instances_put.into_iter().for_each(|instance| self.put_instance(instance));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use registry_api::{Endpoint, EndpointType, Status};

    fn rule(id: u8, priority: i64) -> Arc<Rule> {
        let text = format!(
            r#"{{"id":"r{id}","priority":{priority},"destination":"d","route":{{"backends":[{{"tags":["v"]}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn instance(id: u8, port: u8) -> Arc<Instance> {
        Arc::new(Instance {
            id: InstanceId::new(format!("i{id}")).unwrap(),
            service_name: ServiceName::new("s").unwrap(),
            endpoint: Endpoint { kind: EndpointType::Http, value: format!("h:{port}") },
            ttl: 30,
            status: Status::new(Status::UP),
            tags: vec![],
            metadata: None,
            last_heartbeat: Some("2026-01-01T00:00:00Z".to_owned()),
        })
    }

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let rules = prop::collection::btree_map(0..6_u8, 0..3_i64, 0..6);
        let instances = prop::collection::btree_map(0..6_u8, 0..3_u8, 0..6);
        (0..9_u64, rules, instances, any::<bool>()).prop_map(|(revision, rules, instances, disabled)| {
            let mut snapshot = Snapshot::new(
                revision,
                rules.into_iter().map(|(id, priority)| rule(id, priority)),
                instances.into_iter().map(|(id, port)| instance(id, port)),
            );
            snapshot.set_faults_disabled(disabled);
            snapshot
        })
    }

    proptest! {
        #[test]
        fn a_delta_applied_to_the_old_gives_the_new(old in snapshot(), new in snapshot()) {
            let delta = old.delta_to(&new, |_| Reason::Expired);
            let wire: Delta = serde_json::from_str(&serde_json::to_string(&delta).unwrap()).unwrap();
            let mut walked = old;
            walked.apply(new.revision(), wire);
            prop_assert_eq!(walked.hash(), new.hash());
            prop_assert_eq!(walked, new);
        }

        #[test]
        fn equal_content_has_an_equal_hash_and_other_content_another(a in snapshot(), b in snapshot()) {
            prop_assert_eq!(a.hash() == b.hash(), a == b);
        }
    }

    #[test]
    fn a_delta_to_itself_is_empty() {
        let one = Snapshot::new(3, [rule(1, 1)], [instance(1, 1)]);
        assert!(one.delta_to(&one.clone(), |_| Reason::Expired).is_empty());
    }
}
