//! One poll of a proxy, from its beginning to its end: what it says reaches the roster and the metrics. What
//! to answer is the edition's.

use std::sync::Arc;

use tracing::warn;

use super::{Space, locked};
use crate::edition::{Edition, Held};
use crate::roster::{Caller, Rejection};

/// One poll of a proxy, known to the roster by its node if it told one.
pub(crate) struct Poll {
    space: Arc<Space>,
    node: Option<String>,
}

impl Poll {
    pub(super) fn begin(space: Arc<Space>, caller: Caller) -> Self {
        let node = caller.node.clone();
        let known = !node.is_empty() && locked(&space.roster).begin(caller, space.clock.now());
        Self { space, node: known.then_some(node) }
    }

    /// The poll is the acknowledgement: what it holds serves traffic there.
    pub(crate) fn acknowledge(&self, edition: &Edition, held: &Held) {
        let Some(node) = &self.node else { return };
        let serving = edition.serving(held);
        let before = locked(&self.space.roster).acknowledge(node, serving);
        let now = self.space.clock.now();
        if let Some(before) = before {
            for step in edition.steps_after(before).take_while(|step| step.index <= serving.index) {
                self.space.shared.metrics.propagation.observe(now.since(step.at).as_secs_f64());
            }
        }
        self.space.acknowledged.send_replace(());
    }

    /// The poll says that a snapshot could not be used.
    pub(crate) fn reject(&self, rejection: Rejection) {
        let Some(node) = &self.node else { return };
        let index = rejection.index;
        if locked(&self.space.roster).reject(node, rejection, self.space.clock.now()) {
            self.space.shared.metrics.rejections.inc();
            warn!(namespace = %self.space.label, node, index, "snapshot rejected by a proxy");
        }
    }

    /// The answer leads to this index.
    pub(crate) fn offer(&self, index: u64) {
        if let Some(node) = &self.node {
            locked(&self.space.roster).offer(node, index);
        }
    }

    /// Whether this life of control led the caller to that index. Who is not known is believed.
    pub(crate) fn was_offered(&self, index: u64) -> bool {
        self.node.as_ref().is_none_or(|node| locked(&self.space.roster).offered(node) == index)
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            locked(&self.space.roster).end(node, self.space.clock.now());
        }
    }
}
