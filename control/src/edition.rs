//! One published snapshot with the way that led to it, and what a caller who holds something else is to be
//! told (design.md 5). Pure: encoding once and waking waiters is the publisher's.

use std::collections::VecDeque;
use std::sync::Arc;

use control_api::{Delta, Gone, Snapshot, SnapshotAnswer};
use registry_api::ContentHash;

use crate::moment::Moment;
use crate::world::Touched;

/// How many publications a delta may lead over. Who is further behind gets everything.
pub const STEPS_MAX: usize = 256;
/// The steps together may have touched this many entries, or as many as the snapshot holds: a delta over
/// more would be sent as everything anyway.
pub const TOUCHED_MIN: usize = 4096;
/// The names of what the steps touched may take this many bytes; only the last step may take more.
pub const TOUCHED_BYTES_MAX: usize = 8 << 20;
/// A delta of this many entries is always sent as one.
const DELTA_ALWAYS: usize = 8;

/// One publication: where it led, when, and what it touched.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The index it led to.
    pub index: u64,
    /// The rule revision there.
    pub revision: u64,
    /// The hash there.
    pub hash: ContentHash,
    /// When it was published.
    pub at: Moment,
    touched: Touched,
}

/// What a caller says it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// The life of control it came from; empty when unknown.
    pub epoch: String,
    /// The index; 0 for nothing.
    pub index: u64,
    /// The hash, when the caller told it.
    pub hash: Option<ContentHash>,
}

/// What to tell a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything.
    Full,
    /// The way from this index.
    Delta(u64),
    /// That its content is current, at once, so that it adopts the position.
    Adopt,
    /// Nothing until there is something newer.
    Wait,
}

/// What serves traffic at a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Serving {
    /// The index; 0 when it is nothing of this life of control.
    pub index: u64,
    /// The rule revision; 0 when unknown.
    pub revision: u64,
}

/// A published snapshot.
#[derive(Debug, Clone)]
pub struct Edition {
    epoch: Arc<str>,
    snapshot: Arc<Snapshot>,
    /// Never empty; the last one led here.
    steps: VecDeque<Arc<Step>>,
    touched: usize,
    touched_bytes: usize,
}

impl Edition {
    /// The first publication of a life.
    pub fn first(epoch: Arc<str>, snapshot: Arc<Snapshot>, now: Moment) -> Self {
        let this = Self { epoch, snapshot, steps: VecDeque::new(), touched: 0, touched_bytes: 0 };
        this.with_step(1, Touched::default(), now)
    }

    /// The next one. `touched` covers every entry in which `snapshot` differs from this one.
    pub fn next(&self, snapshot: Arc<Snapshot>, touched: Touched, now: Moment) -> Self {
        let index = self.index() + 1;
        Self { snapshot, ..self.clone() }.with_step(index, touched, now)
    }

    fn with_step(mut self, index: u64, touched: Touched, at: Moment) -> Self {
        self.touched += touched.len();
        self.touched_bytes += touched.bytes();
        let (revision, hash) = (self.snapshot.revision(), self.snapshot.hash());
        self.steps.push_back(Arc::new(Step { index, revision, hash, at, touched }));
        let touched_max = self.entries().max(TOUCHED_MIN);
        while self.steps.len() > 1
            && (self.steps.len() > STEPS_MAX
                || self.touched > touched_max
                || self.touched_bytes > TOUCHED_BYTES_MAX)
            && let Some(oldest) = self.steps.pop_front()
        {
            self.touched -= oldest.touched.len();
            self.touched_bytes -= oldest.touched.bytes();
        }
        self
    }

    fn last(&self) -> &Step {
        self.steps.back().expect("a step is pushed before an edition is handed out, and one is always kept")
    }

    fn entries(&self) -> usize {
        self.snapshot.rules().len() + self.snapshot.instances().len()
    }

    /// The life of control it belongs to.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Its number in this life, from 1.
    pub fn index(&self) -> u64 {
        self.last().index
    }

    /// Its hash.
    pub fn hash(&self) -> ContentHash {
        self.last().hash
    }

    /// When it was published.
    pub fn at(&self) -> Moment {
        self.last().at
    }

    /// Its content.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The publications after `index`, oldest first, as far as they are remembered.
    pub fn steps_after(&self, index: u64) -> impl Iterator<Item = &Step> {
        self.steps.iter().map(|step| &**step).filter(move |step| step.index > index)
    }

    fn step(&self, index: u64) -> Option<&Step> {
        let oldest = self.steps.front()?.index;
        self.steps.get(usize::try_from(index.checked_sub(oldest)?).ok()?).map(|step| &**step)
    }

    /// What serves traffic at a caller who holds this.
    pub fn serving(&self, held: &Held) -> Serving {
        if *held.epoch == *self.epoch && held.index <= self.index() {
            let revision = self.step(held.index).map_or(0, |step| step.revision);
            return Serving { index: held.index, revision };
        }
        if held.index > 0 && held.hash == Some(self.hash()) {
            return Serving { index: self.index(), revision: self.snapshot.revision() };
        }
        Serving::default()
    }

    /// What to tell a caller. `rejected` is the index it could not use, when that index was one of this
    /// life: nothing is told until there is something newer.
    pub fn verdict(&self, held: &Held, rejected: Option<u64>) -> Verdict {
        if rejected == Some(self.index()) {
            return Verdict::Wait;
        }
        if held.index == 0 {
            return Verdict::Full;
        }
        let is_current = held.hash == Some(self.hash());
        if *held.epoch != *self.epoch {
            return if is_current { Verdict::Adopt } else { Verdict::Full };
        }
        let Some(step) = self.step(held.index) else {
            return if is_current { Verdict::Adopt } else { Verdict::Full };
        };
        // A hash that was never published under this index: what the caller holds is broken.
        if held.hash.is_some_and(|hash| hash != step.hash) {
            return if is_current { Verdict::Adopt } else { Verdict::Full };
        }
        match (held.index == self.index(), is_current) {
            (true, _) => Verdict::Wait,
            (false, true) => Verdict::Adopt,
            (false, false) if self.is_worth_a_delta(held.index) => Verdict::Delta(held.index),
            (false, false) => Verdict::Full,
        }
    }

    /// Entries stand for bytes here: half of everything or more is better sent as everything.
    fn is_worth_a_delta(&self, from: u64) -> bool {
        let touched: usize = self.steps_after(from).map(|step| step.touched.len()).sum();
        touched <= DELTA_ALWAYS || touched * 2 <= self.entries()
    }

    /// The answer with everything.
    pub fn full(&self) -> SnapshotAnswer {
        SnapshotAnswer::full(&self.epoch, self.index(), &self.snapshot)
    }

    /// The answer that leads here from `from`, which a verdict named.
    pub fn delta(&self, from: u64) -> SnapshotAnswer {
        let mut touched = Touched::default();
        self.steps_after(from).for_each(|step| touched.absorb(&step.touched));
        let mut delta = Delta::default();
        for id in touched.rules {
            match self.snapshot.rules().get(&id) {
                Some(rule) => delta.rules_put.push(Arc::clone(rule)),
                None => delta.rules_delete.push(id),
            }
        }
        for (key, reason) in touched.instances {
            match self.snapshot.instances().get(&key) {
                Some(instance) => delta.instances_put.push(Arc::clone(instance)),
                None => delta.instances_delete.push(Gone { service_name: key.0, id: key.1, reason }),
            }
        }
        SnapshotAnswer::delta(&self.epoch, from, self.index(), &self.snapshot, delta)
    }
}

#[cfg(test)]
mod tests;
