//! What a read-only catalog has to be (spec/registry.md 7.1), and where it hands over what it found. How instances of
//! several catalogs go together is decided in [`crate::catalog`].

use std::pin::Pin;
use std::time::Duration;

use registry_api::{Instance, Namespace};
use tokio::sync::watch;

use crate::admitted::Admitted;
pub use crate::catalog::Source;
use crate::clock::Clock;
use crate::tenants::{Tenants, TooMany};

/// Follows something that holds instances.
pub trait CatalogSource: Send + 'static {
    /// Which one it is.
    fn source(&self) -> Source;

    /// Follows it until dropped. Hands over the whole set of a namespace whenever it changed, and says
    /// [`Sink::loaded`] once it has looked for the first time, whatever it found.
    fn follow(self: Box<Self>, sink: Sink) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Where a source hands over what it found.
#[derive(Debug)]
pub struct Sink {
    source: Source,
    tenants: Tenants,
    clock: Clock,
    loaded: watch::Sender<bool>,
}

impl Sink {
    /// One for a source.
    pub fn new(source: Source, tenants: Tenants, clock: Clock) -> Self {
        Self { source, tenants, clock, loaded: watch::Sender::new(false) }
    }

    /// The source holds exactly these in a namespace. Without any the namespace is not opened.
    pub fn replace(&self, namespace: &Namespace, instances: Vec<Instance>) -> Result<(), TooMany> {
        let tenant = match self.tenants.find(namespace) {
            Some(tenant) => tenant,
            None if instances.is_empty() => return Ok(()),
            None => self.tenants.open(namespace)?,
        };
        let ttl = |instance: &Instance| Duration::from_secs(instance.ttl.into());
        let admitted = instances.into_iter().map(|instance| {
            let ttl = ttl(&instance);
            Admitted::new(instance, ttl)
        });
        tenant.replace_source(self.source, admitted.collect(), self.clock.now());
        Ok(())
    }

    /// The source has looked for the first time.
    pub fn loaded(&self) {
        self.loaded.send_replace(true);
    }

    /// Becomes true with [`Self::loaded`].
    pub fn first_look(&self) -> watch::Receiver<bool> {
        self.loaded.subscribe()
    }
}
