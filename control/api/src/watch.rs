//! The wire form of `GET /v1/watch` (design.md 5), and its checked form. Headers and 304 are the client's.

use std::sync::Arc;

use registry_api::{ContentHash, Instance, Namespace, Position};
use serde::{Deserialize, Serialize};

use crate::rule::{Rule, RuleId};
use crate::snapshot::{Delta, Gone, Snapshot};

/// The body of a 200.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotAnswer {
    /// Control's life.
    pub epoch: String,
    /// Control's count of published snapshots of this namespace, at least 1.
    pub index: u64,
    /// Whose snapshot it is; absent for that of those who give none, and in a delta, which changes nothing about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub namespace: Namespace,
    /// The index a delta starts from; absent in a full answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The count of accepted rule writes.
    pub revision: u64,
    /// The hash of the snapshot after this answer.
    pub hash: ContentHash,
    /// Whether `rules` and `instances` (full) or the four sets of a delta are there.
    pub full: bool,
    /// Whether no fault happens after this answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub faults_disabled: bool,
    /// Everything, when full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Arc<Rule>>>,
    /// Everything, when full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Vec<Arc<Instance>>>,
    // Not a flattened Delta: metadata is kept as raw text, which serde cannot buffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rules_put: Option<Vec<Arc<Rule>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rules_delete: Option<Vec<RuleId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instances_put: Option<Vec<Arc<Instance>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instances_delete: Option<Vec<Gone>>,
}

/// A checked [`SnapshotAnswer`]: the whole snapshot it leads to is [`SnapshotUpdate::lead`]'s.
#[derive(Debug, Clone, PartialEq)]
pub enum SnapshotUpdate {
    /// Forget what you hold.
    Full(Snapshot),
    /// Apply to what you held at `from`.
    Delta {
        /// The index the delta starts from.
        from: u64,
        /// The revision it leads to.
        revision: u64,
        /// The way.
        delta: Delta,
    },
}

impl SnapshotAnswer {
    /// The full answer for a snapshot.
    pub fn full(epoch: &str, index: u64, snapshot: &Snapshot) -> Self {
        Self {
            epoch: epoch.to_owned(),
            index,
            namespace: snapshot.namespace().clone(),
            from: None,
            revision: snapshot.revision(),
            hash: snapshot.hash(),
            full: true,
            faults_disabled: snapshot.faults_disabled(),
            rules: Some(snapshot.rules().values().cloned().collect()),
            instances: Some(snapshot.instances().iter().cloned().collect()),
            rules_put: None,
            rules_delete: None,
            instances_put: None,
            instances_delete: None,
        }
    }

    /// The delta that leads from index `from` to `snapshot` at `index`.
    pub fn delta(epoch: &str, from: u64, index: u64, snapshot: &Snapshot, delta: Delta) -> Self {
        Self {
            namespace: Namespace::default(),
            from: Some(from),
            full: false,
            faults_disabled: snapshot.faults_disabled(),
            rules: None,
            instances: None,
            rules_put: Some(delta.rules_put),
            rules_delete: Some(delta.rules_delete),
            instances_put: Some(delta.instances_put),
            instances_delete: Some(delta.instances_delete),
            epoch: epoch.to_owned(),
            index,
            revision: snapshot.revision(),
            hash: snapshot.hash(),
        }
    }

    /// Splits the answer into where it leads and what it says.
    pub fn into_update(self) -> Result<(Position, SnapshotUpdate), &'static str> {
        let position = Position { epoch: self.epoch, index: self.index, hash: self.hash };
        let delta = Delta {
            rules_put: self.rules_put.unwrap_or_default(),
            rules_delete: self.rules_delete.unwrap_or_default(),
            instances_put: self.instances_put.unwrap_or_default(),
            instances_delete: self.instances_delete.unwrap_or_default(),
            faults_disabled: self.faults_disabled,
        };
        let update = match (self.full, self.rules, self.instances, self.from) {
            (true, Some(rules), Some(instances), _) => {
                let mut snapshot = Snapshot::new(self.revision, rules, instances);
                snapshot.set_namespace(self.namespace);
                snapshot.set_faults_disabled(self.faults_disabled);
                SnapshotUpdate::Full(snapshot)
            }
            (false, _, _, Some(from)) => SnapshotUpdate::Delta { from, revision: self.revision, delta },
            _ => return Err("a full answer carries rules and instances, a delta carries from"),
        };
        Ok((position, update))
    }
}

/// The answer does not lead from what is held to the hash it names. Ask again with index 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer does not fit what is held")]
pub struct Mismatch;

impl SnapshotUpdate {
    /// The snapshot this update leads to from `held`, at `at`; refused when the hash says otherwise.
    pub fn lead(self, held: &Snapshot, at: &Position, to: &Position) -> Result<Snapshot, Mismatch> {
        let snapshot = match self {
            Self::Full(snapshot) => snapshot,
            Self::Delta { from, revision, delta } if from == at.index && to.epoch == at.epoch => {
                let mut next = held.clone();
                next.apply(revision, delta);
                next
            }
            Self::Delta { .. } => return Err(Mismatch),
        };
        if snapshot.hash() == to.hash { Ok(snapshot) } else { Err(Mismatch) }
    }
}

fn is_default(namespace: &Namespace) -> bool {
    *namespace == Namespace::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_survives_both_forms_byte_for_byte() {
        let text = r#"{"id":"i","service_name":"s","endpoint":{"type":"http","value":"h:1"},"metadata":{ "b" : [1] }}"#;
        let instance: Arc<Instance> = serde_json::from_str(text).unwrap();
        let snapshot = Snapshot::new(7, [], [instance]);
        let delta = Snapshot::default().delta_to(&snapshot, |_| registry_api::Reason::Expired);
        for answer in
            [SnapshotAnswer::full("e", 2, &snapshot), SnapshotAnswer::delta("e", 1, 2, &snapshot, delta)]
        {
            let wire = serde_json::to_string(&answer).unwrap();
            assert!(wire.contains(r#""metadata":{ "b" : [1] }"#), "{wire}");
            let back: SnapshotAnswer = serde_json::from_str(&wire).unwrap();
            let (to, update) = back.into_update().unwrap();
            let at = Position { epoch: "e".to_owned(), index: 1, ..Position::default() };
            assert_eq!(update.lead(&Snapshot::default(), &at, &to), Ok(snapshot.clone()));
        }
    }

    #[test]
    fn the_switch_of_the_faults_survives_both_forms() {
        let mut snapshot = Snapshot::new(7, [], []);
        snapshot.set_faults_disabled(true);
        let delta = Snapshot::default().delta_to(&snapshot, |_| registry_api::Reason::Expired);
        for answer in
            [SnapshotAnswer::full("e", 2, &snapshot), SnapshotAnswer::delta("e", 1, 2, &snapshot, delta)]
        {
            let wire = serde_json::to_string(&answer).unwrap();
            assert!(wire.contains(r#""faults_disabled":true"#), "{wire}");
            let back: SnapshotAnswer = serde_json::from_str(&wire).unwrap();
            let (to, update) = back.into_update().unwrap();
            let at = Position { epoch: "e".to_owned(), index: 1, ..Position::default() };
            assert_eq!(update.lead(&Snapshot::default(), &at, &to), Ok(snapshot.clone()));
        }
    }

    #[test]
    fn a_full_answer_says_whose_it_is_and_a_delta_leaves_that_alone() {
        let mut snapshot = Snapshot::new(7, [], []);
        snapshot.set_namespace(Namespace::new("blue").unwrap());
        let full = SnapshotAnswer::full("e", 2, &snapshot);
        let wire = serde_json::to_string(&full).unwrap();
        assert!(wire.contains(r#""namespace":"blue""#), "{wire}");
        let (to, update) = serde_json::from_str::<SnapshotAnswer>(&wire).unwrap().into_update().unwrap();
        let held = update.lead(&Snapshot::default(), &Position::default(), &to).unwrap();
        assert_eq!(held, snapshot);
        let mut next = snapshot.clone();
        next.set_revision(8);
        let delta = SnapshotAnswer::delta(
            "e",
            2,
            3,
            &next,
            snapshot.delta_to(&next, |_| registry_api::Reason::Expired),
        );
        let wire = serde_json::to_string(&delta).unwrap();
        assert!(!wire.contains("namespace"), "{wire}");
        let (at, (to, update)) = (to, delta.into_update().unwrap());
        assert_eq!(update.lead(&held, &at, &to), Ok(next));
        // Those who give none are not told, so that nothing changes for readers of before.
        let wire = serde_json::to_string(&SnapshotAnswer::full("e", 2, &Snapshot::default())).unwrap();
        assert!(!wire.contains("namespace"), "{wire}");
    }

    #[test]
    fn an_answer_that_leads_elsewhere_than_it_says_is_refused() {
        let snapshot = Snapshot::new(7, [], []);
        let (mut to, update) = SnapshotAnswer::full("e", 2, &snapshot).into_update().unwrap();
        to.hash = ContentHash::of(b"other");
        assert_eq!(update.lead(&Snapshot::default(), &Position::default(), &to), Err(Mismatch));
    }
}
