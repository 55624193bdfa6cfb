//! Where rules are kept: a write is durable before it is acknowledged. Stores block; whoever calls them
//! stays off the request threads. They check nothing and know no snapshots.

use std::sync::Arc;

use control_api::Rule;
use registry_api::Namespace;

use crate::rulebook::{Accepted, RuleBook};

mod redb;

pub use self::redb::RedbStore;

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// What is kept cannot be read. Nothing was changed.
    #[error("{0}")]
    Damaged(String),
    /// The machine failed: no space, no permission, a broken disk.
    #[error("{0}")]
    Failed(String),
}

/// Keeps the rules of every namespace.
pub trait RuleStore: Send + Sync + 'static {
    /// Everything that is kept. Called once, before the first write.
    fn load(&self) -> Result<Vec<(Namespace, RuleBook)>, StoreError>;

    /// Keeps an accepted edit as a whole, durably when it returns. Edits of one namespace come one after
    /// the other. Whether an edit that failed was kept nobody knows; the next one settles it.
    fn commit(&self, namespace: &Namespace, accepted: &Accepted) -> Result<(), StoreError>;

    /// Whether edits can be kept, as far as is known without one. What can be mended is mended.
    fn check(&self) -> Result<(), StoreError>;
}

/// Keeps nothing: rules live as long as the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryStore;

impl RuleStore for MemoryStore {
    fn load(&self) -> Result<Vec<(Namespace, RuleBook)>, StoreError> {
        Ok(Vec::new())
    }

    fn commit(&self, _: &Namespace, _: &Accepted) -> Result<(), StoreError> {
        Ok(())
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn encode(rule: &Arc<Rule>) -> Vec<u8> {
    serde_json::to_vec(rule).expect("a rule is plain data and always encodes")
}
