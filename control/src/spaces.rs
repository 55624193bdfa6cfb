//! The namespaces in use and the tasks that serve them. A namespace appears when it is first used and stays;
//! their number is bounded. What a namespace does is `space`'s.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use registry_api::Namespace;
use registry_api::client::needs_trust;
use registry_api::connect::Trust;
use registry_api::setting::BadSetting;
use tokio::task::JoinSet;

use crate::config::{Config, RegistryAuth};
use crate::follow::follow;
use crate::metrics::Levels;
use crate::persist::StoreError;
use crate::publish::publish;
use crate::rulebook::RuleBook;
use crate::space::{Shared, Space, locked};

/// How many namespaces may be in use. One more is refused until control is restarted.
pub(crate) const NAMESPACES_MAX: usize = 10_000;

/// There is no room for another namespace.
#[derive(Debug)]
pub(crate) struct TooMany;

/// Where and how namespaces are followed.
#[derive(Debug, Clone)]
pub(crate) struct RegistryAccess {
    pub(crate) urls: Vec<String>,
    pub(crate) auth: RegistryAuth,
    pub(crate) trust: Trust,
}

impl RegistryAccess {
    /// Reads whom to believe, once for all namespaces. Blocks on the disk.
    pub(crate) fn of(config: &Config) -> Result<Self, BadSetting> {
        let bad = |setting, problem: &dyn std::fmt::Display| BadSetting::new(setting, problem.to_string());
        let secure = needs_trust(&config.registry_urls).map_err(|problem| bad("registry_url", &problem))?;
        let trust = match &config.registry_ca_cert_file {
            Some(path) => Trust::file(path).map_err(|problem| bad("registry_ca_cert_file", &problem))?,
            None if secure => Trust::system().map_err(|problem| bad("registry_url", &problem))?,
            None => Trust::nobody(),
        };
        Ok(Self { urls: config.registry_urls.clone(), auth: config.registry_auth.clone(), trust })
    }
}

pub(crate) struct Spaces {
    shared: Shared,
    registry: RegistryAccess,
    table: RwLock<BTreeMap<Namespace, Arc<Space>>>,
    /// Of the table's spaces; they end with this.
    tasks: Mutex<JoinSet<()>>,
    /// The namespaces that readiness waits for.
    first: Vec<Arc<Space>>,
}

impl Spaces {
    /// Opens the namespaces that a store kept, and those in `always`.
    pub(crate) fn restore(
        shared: Shared,
        registry: RegistryAccess,
        kept: Vec<(Namespace, RuleBook)>,
        always: &[Namespace],
    ) -> Self {
        let table = RwLock::default();
        let mut this = Self { shared, registry, table, tasks: Mutex::default(), first: Vec::new() };
        for (namespace, book) in kept {
            let space = this.insert(&mut this.table_mut(), namespace, book);
            this.first.push(space);
        }
        for namespace in always {
            if this.get(namespace).is_none() {
                let space = this.insert(&mut this.table_mut(), namespace.clone(), RuleBook::default());
                this.first.push(space);
            }
        }
        this
    }

    /// The namespace, if it was used before.
    pub(crate) fn get(&self, namespace: &Namespace) -> Option<Arc<Space>> {
        self.table.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(namespace).cloned()
    }

    /// The namespace, used from now on.
    pub(crate) fn open(&self, namespace: &Namespace) -> Result<Arc<Space>, TooMany> {
        if let Some(space) = self.get(namespace) {
            return Ok(space);
        }
        let mut table = self.table_mut();
        if let Some(space) = table.get(namespace) {
            return Ok(Arc::clone(space));
        }
        if table.len() >= NAMESPACES_MAX {
            return Err(TooMany);
        }
        Ok(self.insert(&mut table, namespace.clone(), RuleBook::default()))
    }

    fn table_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Namespace, Arc<Space>>> {
        self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn insert(
        &self,
        table: &mut BTreeMap<Namespace, Arc<Space>>,
        namespace: Namespace,
        book: RuleBook,
    ) -> Arc<Space> {
        let space = Arc::new(Space::new(namespace.clone(), book, self.shared.clone()));
        let mut tasks = locked(&self.tasks);
        tasks.spawn(publish(Arc::clone(&space)));
        tasks.spawn(follow(Arc::clone(&space), self.registry.clone(), Arc::clone(&self.shared.metrics)));
        table.insert(namespace, Arc::clone(&space));
        space
    }

    /// How many of the namespaces known at the start have not heard of their instances yet.
    pub(crate) fn waiting(&self) -> usize {
        self.first.iter().filter(|space| !space.is_loaded()).count()
    }

    /// Whether rules can be kept.
    pub(crate) async fn check_store(&self) -> Result<(), StoreError> {
        let store = Arc::clone(&self.shared.store);
        let check = tokio::task::spawn_blocking(move || store.check());
        check.await.unwrap_or_else(|_| Err(StoreError::Failed("the store fell over".to_owned())))
    }

    /// The sums over all namespaces.
    pub(crate) fn levels(&self) -> Levels {
        let spaces: Vec<_> = {
            let table = self.table.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            table.values().cloned().collect()
        };
        let mut levels = Levels::default();
        spaces.iter().for_each(|space| space.add_to(&mut levels));
        levels
    }

    /// Ends every task and waits for their ends.
    pub(crate) async fn end(&self) {
        let mut tasks = std::mem::take(&mut *locked(&self.tasks));
        tasks.shutdown().await;
    }
}
