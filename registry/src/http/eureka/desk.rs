//! The steps of [`super::life`] carried out in one namespace of the running registry: which lock, whose clock, which
//! problem. Single requests and batches of peers come here alike.

use std::sync::Arc;

use registry_api::Namespace;

use super::admit::{self, Mistake};
use super::compat::Compat;
use super::life::{self, Beat, Heard, Name};
use super::problem::Problem;
use super::sent::Sent;
use super::words::Origin;
use crate::catalog::{Command, Leased};
use crate::http::App;
use crate::tenant::Tenant;

/// Whom we serve.
pub(super) struct Desk<'a> {
    /// The registry.
    pub(super) app: &'a App,
    /// Whose instances.
    pub(super) namespace: &'a Namespace,
    /// Whose codes the answers have.
    pub(super) compat: Compat,
    /// Who speaks.
    pub(super) origin: Origin,
}

impl Desk<'_> {
    /// Registers for the application of a path.
    pub(super) fn register(&self, app: &str, sent: Sent) -> Result<(), Problem> {
        let incoming = admit::admit(app, sent, self.compat, self.app.ttl)?;
        let (tenant, now) = (self.app.tenants.open(self.namespace)?, self.app.clock.now());
        let registered =
            tenant.write(|catalog| life::register(catalog, self.compat, incoming, self.origin, now));
        Ok(registered?)
    }

    /// Renews.
    pub(super) fn renew(&self, name: Name<'_>, heard: Heard<'_>) -> Result<Beat, Problem> {
        let (tenant, now) = (self.tenant()?, self.app.clock.now());
        // Nearly always the lease is all that moves, and heartbeats do not wait for each other.
        let beat = {
            let catalog = tenant.read();
            let leased = life::find_own(&catalog, self.compat, name).ok_or_else(|| self.unknown())?;
            life::renew(&catalog, &leased, heard, self.origin, now)
        };
        if let Ok(beat) = beat {
            return Ok(beat);
        }
        tenant.write(|catalog| {
            for _ in 0..2 {
                let leased = life::find_own(catalog, self.compat, name).ok_or_else(|| self.unknown())?;
                match life::renew(catalog, &leased, heard, self.origin, now) {
                    Ok(beat) => return Ok(beat),
                    Err(command) => drop(catalog.apply(command, now)?),
                }
            }
            Ok(Beat::Renewed)
        })
    }

    /// Cancels.
    pub(super) fn cancel(&self, name: Name<'_>) -> Result<(), Problem> {
        self.alter(name, self.unknown(), |leased| Ok(Command::Deregister(leased.instance.id.clone())))
    }

    /// Sets a status over whatever the client says.
    pub(super) fn set_status(
        &self,
        name: Name<'_>,
        status: &'static str,
        dirty_at: Option<i64>,
    ) -> Result<(), Problem> {
        let now = self.app.clock.now();
        self.alter(name, Problem::NotFound, |leased| Ok(life::override_status(leased, status, dirty_at, now)))
    }

    /// Drops what was set so.
    pub(super) fn drop_status(
        &self,
        name: Name<'_>,
        status: &'static str,
        dirty_at: Option<i64>,
    ) -> Result<(), Problem> {
        let now = self.app.clock.now();
        self.alter(name, Problem::NotFound, |leased| Ok(life::drop_override(leased, status, dirty_at, now)))
    }

    /// Puts pairs into the metadata.
    pub(super) fn merge_metadata(&self, name: Name<'_>, pairs: Vec<(String, String)>) -> Result<(), Problem> {
        let now = self.app.clock.now();
        self.alter(name, Problem::NotFound, |leased| life::merge_metadata(leased, pairs, now))
    }

    /// The instance that a path names.
    pub(super) fn instance(&self, name: Name<'_>) -> Result<Leased, Problem> {
        let tenant = self.tenant().map_err(|_| Problem::NotFound)?;
        let found = life::find(&tenant.read(), self.compat, name);
        found.ok_or(Problem::NotFound)
    }

    /// The instance with an id.
    pub(super) fn any_instance(&self, id: &str) -> Result<Leased, Problem> {
        let tenant = self.tenant().map_err(|_| Problem::NotFound)?;
        let found = life::find_anywhere(&tenant.read(), id);
        found.ok_or(Problem::NotFound)
    }

    fn alter(
        &self,
        name: Name<'_>,
        unknown: Problem,
        step: impl FnOnce(&Leased) -> Result<Command, Mistake>,
    ) -> Result<(), Problem> {
        let Some(tenant) = self.app.tenants.find(self.namespace) else { return Err(unknown) };
        let now = self.app.clock.now();
        tenant.write(|catalog| {
            let leased = life::find_own(catalog, self.compat, name).ok_or(unknown)?;
            catalog.apply(step(&leased)?, now)?;
            Ok(())
        })
    }

    fn tenant(&self) -> Result<Arc<Tenant>, Problem> {
        self.app.tenants.find(self.namespace).ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> Problem {
        Problem::NotRegistered(self.compat)
    }
}
