//! All namespaces of one registry. Nothing here ever looks into two of them at once: a namespace is found
//! by its name, and what happens inside is [`Tenant`]'s.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use registry_api::Namespace;

use crate::admitted::Admitted;
use crate::catalog::{Catalog, Leased};
use crate::metrics::Metrics;
use crate::preservation::Threshold;
use crate::tenant::Tenant;
use crate::timestamp::Timestamp;

/// How many namespaces are held. They are opened by the first registration or watch and never removed;
/// beyond this number new ones are refused, and those that exist go on.
pub const NAMESPACES_MAX: usize = 10_000;

/// No further namespace can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registry holds as many namespaces as it can")]
pub struct TooMany;

/// All namespaces; clones share them.
#[derive(Debug, Clone)]
pub struct Tenants {
    epoch: Arc<str>,
    capacity: Option<usize>,
    preserving: Option<Threshold>,
    metrics: Metrics,
    changes: Arc<AtomicU64>,
    open: Arc<RwLock<BTreeMap<Namespace, Arc<Tenant>>>>,
}

impl Tenants {
    /// None yet. `epoch` names this life of the registry; `capacity` holds for each namespace.
    pub fn new(epoch: &str, capacity: Option<usize>, metrics: Metrics) -> Self {
        let (changes, open) = (Arc::default(), Arc::default());
        Self { epoch: epoch.into(), capacity, preserving: None, metrics, changes, open }
    }

    /// The same, but in a namespace where too many instances are silent at once they are held.
    #[must_use]
    pub fn preserving(self, threshold: Option<Threshold>) -> Self {
        Self { preserving: threshold, ..self }
    }

    /// How many namespaces hold silent instances, and how many these are.
    pub fn held(&self) -> (usize, usize) {
        let held = self.all().into_iter().map(|(_, tenant)| tenant.read().held());
        held.filter(|held| *held > 0).fold((0, 0), |(namespaces, sum), held| (namespaces + 1, sum + held))
    }

    /// A namespace that somebody has used already.
    pub fn find(&self, namespace: &Namespace) -> Option<Arc<Tenant>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned()
    }

    /// A namespace, opened if need be.
    pub fn open(&self, namespace: &Namespace) -> Result<Arc<Tenant>, TooMany> {
        if let Some(tenant) = self.find(namespace) {
            return Ok(tenant);
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = open.get(namespace) {
            return Ok(Arc::clone(tenant));
        }
        if open.len() >= NAMESPACES_MAX {
            return Err(TooMany);
        }
        let meters = self.metrics.tenant(namespace, open.len());
        let catalog = Catalog::new(self.capacity).preserving(self.preserving);
        let (epoch, changes) = (Arc::clone(&self.epoch), Arc::clone(&self.changes));
        let tenant = Arc::new(Tenant::new(epoch, catalog, meters, self.metrics.clone(), changes));
        open.insert(namespace.clone(), Arc::clone(&tenant));
        self.metrics.namespaces.set(open.len() as i64);
        Ok(tenant)
    }

    /// Removes what nobody renewed, in every namespace.
    pub fn expire(&self, now: Timestamp) {
        for (namespace, tenant) in self.all() {
            let expired = tenant.expire(now);
            if expired > 0 {
                tracing::info!(module = "STORE", namespace = %namespace, expired, "instances expired");
            }
        }
    }

    /// Counts every lease from `now` at the earliest, because nobody could renew in the time before.
    pub fn hear_from(&self, now: Timestamp) {
        for (_, tenant) in self.all() {
            tenant.hear_from(now);
        }
    }

    /// Grows with every change in any namespace.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Every instance that registered itself, for the snapshot file; see [`Tenant::registered`]. A namespace that somebody
    /// only looked into is not kept: it would count against [`NAMESPACES_MAX`] for ever.
    pub fn contents(&self, mut pause: impl FnMut()) -> Vec<(Namespace, Vec<Leased>)> {
        let contents = |(namespace, tenant): (_, Arc<Tenant>)| (namespace, tenant.registered(&mut pause));
        let all = self.all().into_iter().map(contents);
        all.filter(|(_, instances): &(_, Vec<_>)| !instances.is_empty()).collect()
    }

    /// Opens the namespaces of a snapshot. One beyond the bound is given back.
    pub fn restore(&self, kept: Vec<(Namespace, Vec<Admitted>)>, now: Timestamp) -> Result<(), TooMany> {
        for (namespace, instances) in kept {
            self.open(&namespace)?.restore(instances, now);
        }
        Ok(())
    }

    fn all(&self) -> Vec<(Namespace, Arc<Tenant>)> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(namespace, tenant)| (namespace.clone(), Arc::clone(tenant))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_opens_nothing_and_new_namespaces_are_refused_at_the_bound() {
        let tenants = Tenants::new("e", None, Metrics::new());
        let name = |number: usize| Namespace::new(number.to_string()).unwrap();
        assert!(tenants.find(&name(0)).is_none());
        for number in 0..NAMESPACES_MAX {
            tenants.open(&name(number)).unwrap();
        }
        assert_eq!(tenants.open(&name(NAMESPACES_MAX)).err(), Some(TooMany));
        assert!(tenants.open(&name(7)).is_ok());
    }

    #[test]
    fn what_somebody_only_looked_into_is_not_kept() {
        let tenants = Tenants::new("e", None, Metrics::new());
        tenants.open(&Namespace::new("looked-into").unwrap()).unwrap();
        assert_eq!(tenants.contents(|| {}), []);
    }
}
