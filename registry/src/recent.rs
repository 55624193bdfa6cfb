//! What happened to instances in the last minutes, for protocols that tell changes by time and not by index.
//! Pure: an instance is in it once, with the latest that happened to it, and who asks is not known here.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use registry_api::InstanceId;

use crate::catalog::Leased;
use crate::timestamp::Timestamp;

/// How long a change is told (spec/registry.md 3.15).
pub const KEPT_FOR: Duration = Duration::from_secs(180);
/// How often old changes are taken out.
pub const SWEEP_PERIOD: Duration = Duration::from_secs(30);
/// How many instances are remembered; the oldest give way, and who compares counts then asks for everything.
pub const INSTANCES_MAX: usize = 8_192;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Registered, or registered again.
    Added,
    /// Something else about it changed.
    Modified,
    /// Gone; what is remembered is how it was last.
    Deleted,
}

/// The latest that happened to one instance.
#[derive(Debug, Clone)]
pub struct Happened {
    /// What.
    pub action: Action,
    /// How the instance is since, or was last.
    pub leased: Leased,
    at: Timestamp,
}

/// The latest of every instance to which something happened, oldest first.
#[derive(Debug, Default)]
pub struct Recent {
    version: u64,
    next: u64,
    by_age: BTreeMap<u64, Happened>,
    ages: HashMap<InstanceId, u64>,
    swept_at: Timestamp,
}

impl Recent {
    /// Differs whenever what is told differs, also from that of an earlier life of the registry: it counts
    /// on from the time.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Happened> {
        self.by_age.values()
    }

    /// Adds what happened now.
    pub fn record(&mut self, action: Action, leased: Leased, now: Timestamp) {
        let (age, id) = (self.next, leased.instance.id.clone());
        self.next += 1;
        if let Some(before) = self.ages.insert(id, age) {
            self.by_age.remove(&before);
        }
        self.by_age.insert(age, Happened { action, leased, at: now });
        if self.by_age.len() > INSTANCES_MAX {
            self.forget_oldest();
        }
        self.tick(now);
    }

    /// Takes old changes out, now and then.
    pub fn sweep(&mut self, now: Timestamp) {
        if now < self.swept_at.plus(SWEEP_PERIOD) {
            return;
        }
        self.swept_at = now;
        while self.by_age.values().next().is_some_and(|oldest| now > oldest.at.plus(KEPT_FOR)) {
            self.forget_oldest();
            self.tick(now);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.by_age.pop_first() {
            self.ages.remove(&oldest.leased.instance.id);
        }
    }

    fn tick(&mut self, now: Timestamp) {
        self.version = (self.version + 1).max(now.as_millis());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use registry_api::{Endpoint, EndpointType, Instance, ServiceName, Status};

    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn leased(id: usize) -> Leased {
        let instance = Instance {
            id: InstanceId::new(id.to_string()).unwrap(),
            service_name: ServiceName::new("s").unwrap(),
            endpoint: Endpoint { kind: EndpointType::Tcp, value: "h:1".to_owned() },
            ttl: 30,
            status: Status::new(Status::UP),
            tags: vec![],
            metadata: None,
            last_heartbeat: None,
        };
        Leased {
            instance: Arc::new(instance),
            renewed_at: at(0),
            ttl: Duration::from_secs(30),
            registered_at: at(0),
            extension: None,
        }
    }

    fn told(recent: &Recent) -> Vec<(String, Action)> {
        recent.iter().map(|told| (told.leased.instance.id.to_string(), told.action)).collect()
    }

    #[test]
    fn an_instance_is_told_once_with_the_latest_that_happened_to_it() {
        let mut recent = Recent::default();
        recent.record(Action::Added, leased(1), at(10));
        recent.record(Action::Added, leased(2), at(10));
        recent.record(Action::Deleted, leased(1), at(20));
        assert_eq!(told(&recent), [("2".to_owned(), Action::Added), ("1".to_owned(), Action::Deleted)]);
    }

    #[test]
    fn a_change_is_told_for_three_minutes_and_until_the_next_sweep() {
        let mut recent = Recent::default();
        recent.sweep(at(100_000));
        recent.record(Action::Added, leased(1), at(100_001));
        for (now, left) in [(280_001, 1), (300_000, 1), (310_001, 0)] {
            recent.sweep(at(now));
            assert_eq!(recent.iter().count(), left, "{now}");
        }
    }

    #[test]
    fn the_version_differs_whenever_what_is_told_differs() {
        let mut recent = Recent::default();
        let mut seen = vec![recent.version()];
        recent.record(Action::Added, leased(1), at(5_000));
        seen.push(recent.version());
        recent.record(Action::Added, leased(1), at(5_000));
        seen.push(recent.version());
        recent.sweep(at(500_000));
        seen.push(recent.version());
        assert_eq!(seen, [0, 5_000, 5_001, 500_000]);
        recent.sweep(at(600_000));
        assert_eq!(recent.version(), 500_000, "nothing was taken out");
    }

    #[test]
    fn the_oldest_give_way_at_the_bound() {
        let mut recent = Recent::default();
        for id in 0..INSTANCES_MAX + 3 {
            recent.record(Action::Added, leased(id), at(1));
        }
        assert_eq!((recent.iter().count(), recent.ages.len()), (INSTANCES_MAX, INSTANCES_MAX));
        assert_eq!(told(&recent)[0].0, "3");
    }
}
