//! What a watcher should hear, given what it holds (design.md 5, settled points 1 to 3). Pure; who waits
//! for how long, and how the answer is encoded, is decided elsewhere.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use registry_api::{Change, ContentHash, Instance, ServiceName};

use crate::catalog::Catalog;
use crate::history::Recorded;

/// Which services a watcher cares about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every service of the namespace.
    All,
    /// These, whether they exist or not.
    Only(BTreeSet<ServiceName>),
}

/// What a watcher says it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// The publisher's life it heard last.
    pub epoch: Option<String>,
    /// The index it heard last; 0 means "nothing".
    pub index: u64,
    /// The hash of what it holds, if it keeps one.
    pub hash: Option<ContentHash>,
}

/// What to tell a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing yet: what it holds is current.
    Nothing,
    /// At once that what it holds is current, under another position.
    Moved,
    /// Everything.
    Full,
    /// What happened since its index.
    Delta,
}

impl Scope {
    /// Whether a service is in it.
    pub fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Only(services) => services.contains(service),
        }
    }
}

impl Catalog {
    /// Decides what a watcher of `scope` should hear. `epoch` is that of this life of the registry.
    pub fn news(&self, epoch: &str, held: &Held, scope: &Scope) -> News {
        if held.index == 0 {
            return News::Full;
        }
        let current = self.scope_hash(scope);
        if held.epoch.as_deref() != Some(epoch) {
            return if held.hash == Some(current) { News::Moved } else { News::Full };
        }
        // The future is not ours: an index beyond the newest was never given out.
        if held.index > self.index() {
            return News::Full;
        }
        if held.hash == Some(current) {
            return News::Nothing;
        }
        let Some(missed) = self.history().since(held.index) else { return News::Full };
        let missed = missed.filter(|recorded| scope.covers(recorded.service()));
        let then = self.hash_before(current, missed.clone());
        if held.hash.is_some_and(|hash| hash != then) {
            // It holds something else than it should, such as the answer to another filter.
            return News::Full;
        }
        if then == current {
            return News::Nothing;
        }
        let delta_bytes: usize = missed.map(|recorded| recorded.bytes).sum();
        if delta_bytes * 2 > self.scope_bytes(scope) { News::Full } else { News::Delta }
    }

    /// The content hash of a scope.
    pub fn scope_hash(&self, scope: &Scope) -> ContentHash {
        match scope {
            Scope::All => self.hash(),
            Scope::Only(services) => services
                .iter()
                .fold(ContentHash::default(), |hash, service| hash.with(self.service_hash(service))),
        }
    }

    /// The instances of a scope, by service and id.
    pub fn scope_instances(&self, scope: &Scope) -> Vec<Arc<Instance>> {
        match scope {
            Scope::All => self.instances().map(|leased| leased.instance).collect(),
            Scope::Only(services) => services
                .iter()
                .flat_map(|service| self.instances_of(service.as_str()))
                .map(|leased| leased.instance)
                .collect(),
        }
    }

    /// What happened in a scope after `index`, oldest first. Ask [`Self::news`] first: an index that fell
    /// off the history has no changes here.
    pub fn scope_changes(&self, index: u64, scope: &Scope) -> Vec<Change> {
        self.missed(index, scope).map(|recorded| recorded.change.clone()).collect()
    }

    /// About how long [`Self::scope_changes`] are on the wire.
    pub fn scope_changes_bytes(&self, index: u64, scope: &Scope) -> usize {
        self.missed(index, scope).map(|recorded| recorded.bytes).sum()
    }

    /// About how long the instances of a scope are on the wire.
    pub fn scope_bytes(&self, scope: &Scope) -> usize {
        match scope {
            Scope::All => self.bytes(),
            Scope::Only(services) => services.iter().map(|service| self.service_bytes(service)).sum(),
        }
    }

    fn missed<'a>(&'a self, index: u64, scope: &'a Scope) -> impl Iterator<Item = &'a Recorded> {
        let missed = self.history().since(index).into_iter().flatten();
        missed.filter(|recorded| scope.covers(recorded.service()))
    }

    /// The hash that a scope had before `missed` happened, given the one it has now.
    fn hash_before<'a>(&self, now: ContentHash, missed: impl Iterator<Item = &'a Recorded>) -> ContentHash {
        let mut touched = HashSet::new();
        missed.filter(|recorded| touched.insert(recorded.service())).fold(now, |hash, recorded| {
            hash.without(self.service_hash(recorded.service())).with(recorded.service_before)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admitted::Admitted;
    use crate::catalog::Command;
    use crate::history::CHANGES_MAX;
    use crate::timestamp::Timestamp;
    use registry_api::{Endpoint, EndpointType, InstanceId, Status};
    use std::time::Duration;

    const EPOCH: &str = "e";

    fn put(catalog: &mut Catalog, service: &str, id: &str, status: &str) {
        let instance = Instance {
            id: InstanceId::new(id).unwrap(),
            service_name: ServiceName::new(service).unwrap(),
            endpoint: Endpoint { kind: EndpointType::Http, value: "h:1".to_owned() },
            ttl: 30,
            status: Status::new(status),
            tags: vec![],
            metadata: None,
            last_heartbeat: None,
        };
        let admitted = Admitted::new(instance, Duration::from_secs(30));
        catalog.apply(Command::Register(admitted), Timestamp::default()).unwrap();
    }

    fn only(services: &[&str]) -> Scope {
        Scope::Only(services.iter().map(|service| ServiceName::new(service).unwrap()).collect())
    }

    /// Ten instances of `s` and ten of `t`.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::new(None);
        for number in 0..10 {
            put(&mut catalog, "s", &format!("s{number}"), "UP");
            put(&mut catalog, "t", &format!("t{number}"), "UP");
        }
        catalog
    }

    fn holding(catalog: &Catalog, scope: &Scope) -> Held {
        Held { epoch: Some(EPOCH.to_owned()), index: catalog.index(), hash: Some(catalog.scope_hash(scope)) }
    }

    #[test]
    fn the_settled_points_hold_one_by_one() {
        let catalog = catalog();
        let (index, hash) = (catalog.index(), catalog.hash());
        let other = ContentHash::of(b"other");
        for (epoch, index, hash, expected) in [
            // Index 0 holds nothing, whatever else is said.
            (None, 0, None, News::Full),
            (Some(EPOCH), 0, Some(hash), News::Full),
            // A foreign or missing epoch: full, unless the content is equal.
            (None, index, None, News::Full),
            (Some("x"), index, Some(other), News::Full),
            (Some("x"), index, Some(hash), News::Moved),
            (Some("x"), 99_999, Some(hash), News::Moved),
            (None, 3, Some(hash), News::Moved),
            // The future.
            (Some(EPOCH), index + 1, None, News::Full),
            (Some(EPOCH), index + 1, Some(hash), News::Full),
            // Current.
            (Some(EPOCH), index, None, News::Nothing),
            (Some(EPOCH), index, Some(hash), News::Nothing),
            (Some(EPOCH), 1, Some(hash), News::Nothing),
            // Right index, wrong content.
            (Some(EPOCH), index, Some(other), News::Full),
            // Behind, by little and by much.
            (Some(EPOCH), index - 1, None, News::Delta),
            (Some(EPOCH), 1, None, News::Full),
        ] {
            let held = Held { epoch: epoch.map(str::to_owned), index, hash };
            assert_eq!(catalog.news(EPOCH, &held, &Scope::All), expected, "{held:?}");
        }
    }

    #[test]
    fn a_change_elsewhere_is_no_news_for_a_filtered_watcher() {
        let mut catalog = catalog();
        let (s, t) = (only(&["s", "ghost"]), only(&["t"]));
        let (held_s, held_t) = (holding(&catalog, &s), holding(&catalog, &t));
        put(&mut catalog, "t", "t0", "STARTING");
        assert_eq!(catalog.news(EPOCH, &held_s, &s), News::Nothing);
        assert_eq!(catalog.news(EPOCH, &Held { hash: None, ..held_s }, &s), News::Nothing);
        assert_eq!(catalog.news(EPOCH, &held_t, &t), News::Delta);
        assert_eq!(catalog.scope_changes(held_t.index, &t).len(), 1);
    }

    #[test]
    fn a_change_that_was_undone_is_no_news() {
        let mut catalog = catalog();
        let held = holding(&catalog, &Scope::All);
        put(&mut catalog, "s", "s0", "STARTING");
        put(&mut catalog, "s", "s0", "UP");
        assert_eq!(catalog.news(EPOCH, &held, &Scope::All), News::Nothing);
        assert_eq!(catalog.news(EPOCH, &Held { hash: None, ..held }, &Scope::All), News::Nothing);
    }

    #[test]
    fn the_answer_to_another_filter_is_replaced_as_a_whole() {
        let mut catalog = catalog();
        let held = holding(&catalog, &only(&["s"]));
        put(&mut catalog, "t", "t0", "STARTING");
        assert_eq!(catalog.news(EPOCH, &held, &only(&["t"])), News::Full);
        assert_eq!(catalog.news(EPOCH, &held, &Scope::All), News::Full);
    }

    #[test]
    fn whoever_fell_off_the_history_takes_everything() {
        let mut catalog = catalog();
        let held = holding(&catalog, &Scope::All);
        for number in 0..=CHANGES_MAX {
            put(&mut catalog, "s", "s0", if number % 2 == 0 { "STARTING" } else { "UP" });
        }
        assert_eq!(catalog.news(EPOCH, &held, &Scope::All), News::Full);
    }

    #[test]
    fn an_emptied_scope_is_told_in_full() {
        let mut catalog = Catalog::new(None);
        put(&mut catalog, "s", "a", "UP");
        let held = holding(&catalog, &Scope::All);
        let id = InstanceId::new("a").unwrap();
        catalog.apply(Command::Deregister(id), Timestamp::default()).unwrap();
        assert_eq!(catalog.news(EPOCH, &held, &Scope::All), News::Full);
        assert!(catalog.scope_instances(&Scope::All).is_empty());
    }
}
