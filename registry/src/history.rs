//! The recent changes of one namespace, numbered. Bounded: who was away for longer takes everything anew.

use std::collections::VecDeque;

use registry_api::{Change, ContentHash, ServiceName};

/// How many changes are remembered per namespace; the oldest give way.
pub const CHANGES_MAX: usize = 2_048;
/// How long they may be together on the wire; whoever misses that much is told everything anyway.
pub const CHANGES_BYTES_MAX: usize = 8 << 20;

/// One change with what is needed to serve it later.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What happened.
    pub change: Change,
    /// The hash of the change's service before it, so that a watcher's own hash can be checked.
    pub service_before: ContentHash,
    /// About how long the change is on the wire.
    pub bytes: usize,
}

impl Recorded {
    /// The service it happened to.
    pub fn service(&self) -> &ServiceName {
        match &self.change {
            Change::Put(instance) => &instance.service_name,
            Change::Delete { service_name, .. } => service_name,
        }
    }
}

/// Change number n leads from index n - 1 to index n.
#[derive(Debug)]
pub struct History {
    index: u64,
    recent: VecDeque<Recorded>,
    bytes: usize,
}

impl History {
    /// The index of a namespace in which nothing has happened. Not 0, which says "I hold nothing".
    pub const FIRST_INDEX: u64 = 1;

    /// The count of changes so far, plus [`Self::FIRST_INDEX`].
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Adds one change under the next index.
    pub fn record(&mut self, recorded: Recorded) {
        self.bytes += recorded.bytes;
        self.recent.push_back(recorded);
        while self.recent.len() > CHANGES_MAX || self.bytes > CHANGES_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.bytes -= oldest.bytes;
        }
        self.index += 1;
    }

    /// What happened after `index`, oldest first; `None` when that fell off the history or never was.
    pub fn since(&self, index: u64) -> Option<impl Iterator<Item = &Recorded> + Clone> {
        let missed = usize::try_from(self.index.checked_sub(index)?).ok()?;
        let skipped = self.recent.len().checked_sub(missed)?;
        Some(self.recent.range(skipped..))
    }
}

impl Default for History {
    fn default() -> Self {
        Self { index: Self::FIRST_INDEX, recent: VecDeque::new(), bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry_api::{InstanceId, Reason};

    fn recorded(number: usize) -> Recorded {
        let change = Change::Delete {
            id: InstanceId::new(number.to_string()).unwrap(),
            service_name: ServiceName::new("s").unwrap(),
            reason: Reason::Expired,
        };
        Recorded { change, service_before: ContentHash::default(), bytes: 1 }
    }

    #[test]
    fn the_changes_since_an_index_are_those_after_it() {
        let mut history = History::default();
        for number in 0..5 {
            history.record(recorded(number));
        }
        assert_eq!(history.index(), 6);
        assert_eq!(history.since(6).unwrap().count(), 0);
        let tail: Vec<_> = history.since(4).unwrap().map(|recorded| recorded.change.clone()).collect();
        assert_eq!(tail, [recorded(3).change, recorded(4).change]);
        assert!(history.since(7).is_none(), "the future");
        assert!(history.since(0).is_none(), "before the first");
    }

    #[test]
    fn the_oldest_changes_give_way_at_the_bound() {
        let mut history = History::default();
        for number in 0..CHANGES_MAX + 10 {
            history.record(recorded(number));
        }
        assert!(history.since(10).is_none());
        assert_eq!(history.since(11).unwrap().count(), CHANGES_MAX);
    }

    #[test]
    fn long_changes_give_way_earlier() {
        let mut history = History::default();
        for number in 0..9 {
            history.record(Recorded { bytes: CHANGES_BYTES_MAX / 4, ..recorded(number) });
        }
        assert!(history.since(5).is_none());
        assert_eq!(history.since(6).unwrap().count(), 4);
        history.record(Recorded { bytes: CHANGES_BYTES_MAX + 1, ..recorded(9) });
        assert_eq!((history.index(), history.bytes), (11, 0));
        assert!(history.since(10).is_none());
        assert_eq!(history.since(11).unwrap().count(), 0);
    }
}
