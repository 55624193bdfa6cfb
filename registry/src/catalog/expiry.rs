//! Who goes because nobody renewed, and who is held although nobody did (spec/registry.md 1.6 and 3.16). When somebody looks
//! is the server's business.

use registry_api::{Change, Instance, Reason, Status};

use super::Catalog;
use crate::admitted::Extension;
use crate::preservation;
use crate::timestamp::Timestamp;

impl Catalog {
    /// Removes every instance whose lease ran out strictly before `now` and that is not held, in the order of
    /// their ids. Only what came by another protocol is ever held (spec/registry.md 3.16).
    pub fn expire(&mut self, now: Timestamp) -> Vec<Change> {
        self.recent.sweep(now);
        let guests = self.guests;
        let (mut overdue, mut go) = (Vec::new(), Vec::new());
        for at in self.leases.due(now) {
            let deadline = self.entries.lease_at(at).deadline(self.heard_since);
            if now <= deadline {
                self.leases.file(at, deadline);
            }
            // A hold ends with the silence; without one, nothing but the lease is looked at.
            if now > deadline || self.preservation.held() > 0 {
                let Some(held) = self.entries.at(at) else { continue };
                let id = &held.entry.instance.id;
                match (now > deadline, is_guest(held.entry.extension.as_ref())) {
                    (true, true) => overdue.push(id.clone()),
                    (true, false) => go.push(id.clone()),
                    (false, _) => self.preservation.forget(id),
                }
            }
        }
        overdue.sort_unstable();
        let judged = self.preservation.judge(overdue, guests, now);
        go.extend(judged.go);
        go.sort_unstable();
        for id in judged.stay {
            if let Some(at) = self.entries.find(id.as_str()) {
                self.leases.file(at, now.plus(preservation::LOOK_PERIOD));
            }
        }
        let mut changes = Vec::new();
        for id in &go {
            changes.extend(self.remove(id, Reason::Expired, now));
            changes.extend(self.unshadow(id, now));
        }
        changes
    }

    /// Counts every lease from `now` at the earliest, because nobody could renew in the time before.
    pub fn hear_from(&mut self, now: Timestamp) {
        self.heard_since = now;
    }

    /// How many silent instances are held because too many are silent at once.
    pub fn held(&self) -> usize {
        self.preservation.held()
    }

    /// How many instances can expire.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }
}

/// Whether an instance came by another protocol: what only that one can say is kept with it.
pub(super) fn is_guest(extension: Option<&Extension>) -> bool {
    extension.is_some()
}

/// An operator took it out to look at it; it stays until somebody deletes it (spec/registry.md 1.6).
pub(super) fn expires(instance: &Instance) -> bool {
    instance.status.as_str() != Status::OUT_OF_SERVICE
}
