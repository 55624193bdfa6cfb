//! What is counted about the instances of one namespace beside how many there are (spec/registry.md 8): who carries
//! metadata and tags, how long these are, and how long instances lived. Pure; under which names it is shown is not known
//! here.

use std::time::Duration;

use registry_api::Instance;

/// How many observations wait to be taken; further ones are lost, which a mean over thousands does not notice.
pub const SEEN_MAX: usize = 4_096;

/// One observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A registration with metadata of so many bytes.
    Metadata {
        /// As they were sent.
        bytes: usize,
    },
    /// A registration with so many tags, at least one.
    Tags {
        /// Repeated ones count again.
        count: usize,
    },
    /// An instance is gone that was last registered so long ago.
    Lived(Duration),
}

/// Counts of what is there, and observations of what happened since somebody took them.
#[derive(Debug, Default)]
pub struct Census {
    with_metadata: usize,
    with_tags: usize,
    seen: Vec<Seen>,
}

impl Census {
    /// An instance is there.
    pub fn came(&mut self, instance: &Instance) {
        self.with_metadata += usize::from(instance.metadata.is_some());
        self.with_tags += usize::from(!instance.tags.is_empty());
    }

    /// It is there no more.
    pub fn went(&mut self, instance: &Instance) {
        self.with_metadata -= usize::from(instance.metadata.is_some());
        self.with_tags -= usize::from(!instance.tags.is_empty());
    }

    /// Somebody registered it, for the first time or again.
    pub fn registered(&mut self, instance: &Instance) {
        if let Some(metadata) = &instance.metadata {
            self.saw(Seen::Metadata { bytes: metadata.as_json().len() });
        }
        if !instance.tags.is_empty() {
            self.saw(Seen::Tags { count: instance.tags.len() });
        }
    }

    /// An instance that was registered here is gone, so long after its last registration.
    pub fn ended(&mut self, lived: Duration) {
        self.saw(Seen::Lived(lived));
    }

    /// How many instances carry metadata.
    pub fn with_metadata(&self) -> usize {
        self.with_metadata
    }

    /// How many instances carry tags.
    pub fn with_tags(&self) -> usize {
        self.with_tags
    }

    /// What was observed since the last call.
    pub fn take(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    fn saw(&mut self, seen: Seen) {
        if self.seen.len() < SEEN_MAX {
            self.seen.push(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_that_nobody_takes_do_not_pile_up() {
        let mut census = Census::default();
        for _ in 0..SEEN_MAX + 7 {
            census.ended(Duration::from_secs(1));
        }
        assert_eq!(census.take().len(), SEEN_MAX);
        assert_eq!(census.take(), []);
    }
}
