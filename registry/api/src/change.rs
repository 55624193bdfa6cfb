//! What a watch says: changes, where the caller stands, and the answer's two forms (design.md 5). The wire
//! form is [`WatchAnswer`]; [`Update`] is the same after checking that it is one form or the other.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::instance::Instance;
use crate::names::{InstanceId, ServiceName};

/// Why an instance is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Somebody asked for it.
    Deregistered,
    /// Its lease ran out.
    Expired,
}

/// What happened to one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WireChange", into = "WireChange")]
pub enum Change {
    /// Registered, or replaced.
    Put(Arc<Instance>),
    /// Gone.
    Delete {
        /// Whose id.
        id: InstanceId,
        /// Of which service.
        service_name: ServiceName,
        /// Why.
        reason: Reason,
    },
}

// A struct and not a tagged enum: metadata is kept as raw text, which serde cannot buffer for a tag.
#[derive(Serialize, Deserialize)]
struct WireChange {
    op: Op,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<Arc<Instance>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<InstanceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_name: Option<ServiceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Delete,
}

impl From<Change> for WireChange {
    fn from(change: Change) -> Self {
        match change {
            Change::Put(instance) => {
                Self { op: Op::Put, instance: Some(instance), id: None, service_name: None, reason: None }
            }
            Change::Delete { id, service_name, reason } => Self {
                op: Op::Delete,
                instance: None,
                id: Some(id),
                service_name: Some(service_name),
                reason: Some(reason),
            },
        }
    }
}

impl TryFrom<WireChange> for Change {
    type Error = &'static str;
    fn try_from(wire: WireChange) -> Result<Self, Self::Error> {
        match wire {
            WireChange { op: Op::Put, instance: Some(instance), .. } => Ok(Self::Put(instance)),
            WireChange { op: Op::Delete, id: Some(id), service_name: Some(service_name), reason, .. } => {
                Ok(Self::Delete { id, service_name, reason: reason.unwrap_or(Reason::Deregistered) })
            }
            _ => Err("a put carries an instance, a delete carries id and service_name"),
        }
    }
}

/// Where a watcher stands. Compared for equality only: a restarted publisher may count from one again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The publisher's life; empty before the first answer.
    pub epoch: String,
    /// The publisher's count of changes in this namespace; 0 means "I hold nothing".
    pub index: u64,
    /// What the watcher holds.
    pub hash: ContentHash,
}

/// The body of a 200 from `GET /api/v1/watch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchAnswer {
    /// See [`Position`].
    pub epoch: String,
    /// See [`Position`].
    pub index: u64,
    /// The index a delta starts from; absent in a full answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The hash of the (filtered) set after this answer.
    pub hash: ContentHash,
    /// Whether `instances` (full) or `changes` (delta) is there.
    pub full: bool,
    /// Everything, when full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Vec<Arc<Instance>>>,
    /// What happened since `from`, when not full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
}

/// A checked [`WatchAnswer`].
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// Forget what you hold; this is all.
    Full(Vec<Arc<Instance>>),
    /// Apply in order to what you held at `from`.
    Delta {
        /// The index these changes start from.
        from: u64,
        /// In the order they happened.
        changes: Vec<Change>,
    },
}

impl WatchAnswer {
    /// Splits the answer into where it leads and what it says.
    pub fn into_update(self) -> Result<(Position, Update), &'static str> {
        let position = Position { epoch: self.epoch, index: self.index, hash: self.hash };
        match (self.full, self.instances, self.from, self.changes) {
            (true, Some(instances), _, _) => Ok((position, Update::Full(instances))),
            (false, _, Some(from), Some(changes)) => Ok((position, Update::Delta { from, changes })),
            _ => Err("a full answer carries instances, a delta carries from and changes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_have_the_wire_form_of_the_design() {
        let text = r#"[{"op":"put","instance":{"id":"i","service_name":"s","endpoint":{"type":"http","value":"h:1"},"metadata":[1, 2]}},{"op":"delete","id":"i","service_name":"s","reason":"expired"}]"#;
        let changes: Vec<Change> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&changes).unwrap(), text);
    }

    #[test]
    fn an_answer_that_is_neither_full_nor_delta_is_refused() {
        let zero = ContentHash::default();
        let text = format!(r#"{{"epoch":"e","index":1,"hash":"{zero}","full":false}}"#);
        let answer: WatchAnswer = serde_json::from_str(&text).unwrap();
        assert!(answer.into_update().is_err());
    }
}
