//! States by key that outlive the tables which use them, for a while. It does not know what is kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// States by key. Each is kept until two sweeps in a row found that nobody else holds it: an instance that
/// flaps keeps its ejections, and a last count is seen by whoever scrapes.
pub(super) struct Kept<K, V> {
    /// Hashed fast: a table asks for every one of its instances, and their keys are three texts each.
    states: HashMap<K, (Arc<V>, bool), ahash::RandomState>,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self { states: HashMap::default() }
    }
}

impl<K: Hash + Eq, V> Kept<K, V> {
    /// Whether anybody else holds the state.
    pub(super) fn is_used(&self, key: &K) -> bool {
        self.states.get(key).is_some_and(|(state, _)| Arc::strong_count(state) > 1)
    }

    pub(super) fn get(&mut self, key: K, new: impl FnOnce() -> V) -> Arc<V> {
        let (state, idle) = self.states.entry(key).or_insert_with(|| (Arc::new(new()), false));
        *idle = false;
        Arc::clone(state)
    }

    /// The state of a key, if there is one; looking at it is no use of it.
    pub(super) fn peek(&self, key: &K) -> Option<&V> {
        self.states.get(key).map(|(state, _)| &**state)
    }

    /// Those that somebody else holds, in no order.
    pub(super) fn in_use(&self) -> impl Iterator<Item = (&K, &V)> {
        let used = self.states.iter().filter(|(_, (state, _))| Arc::strong_count(state) > 1);
        used.map(|(key, (state, _))| (key, &**state))
    }

    pub(super) fn sweep(&mut self, mut gone: impl FnMut(&V)) {
        self.states.retain(|_, (state, idle)| {
            let used = Arc::strong_count(state) > 1;
            let keep = used || !*idle;
            *idle = !used;
            if !keep {
                gone(state);
            }
            keep
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }
}
