//! Keeps one instance registered for as long as its server runs. It knows nothing of the server.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use registry_api::client::{Backoff, CallError, RegistryClient};
use registry_api::{InstanceId, Registration};
use tracing::{info, warn};

/// The longest wait between tries: a demonstration is watched by somebody.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long deregistering may take at the end; the lease runs out anyway.
const GOODBYE: Duration = Duration::from_secs(1);

/// Registers, renews, registers again when the registry has forgotten, and deregisters when `end` comes.
pub(super) async fn hold(
    registry: &RegistryClient,
    registration: &Registration,
    end: impl Future<Output = ()>,
) {
    let mut end = pin!(end);
    let mut backoff = Backoff::default();
    let mut lease = None;
    loop {
        let pause = match step(registry, registration, &mut lease).await {
            Ok(pause) => {
                backoff.reset();
                pause
            }
            Err(error) => {
                warn!(service = registration.service_name, %error, "cannot register or renew");
                // Waits in full: this is one instance, there is no herd to spread.
                backoff.after_failure(1.0).min(RETRY_MAX)
            }
        };
        tokio::select! {
            biased;
            () = &mut end => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Some(Lease { id, .. }) = lease {
        // A registry that is gone as well cannot be told.
        let _ = tokio::time::timeout(GOODBYE, registry.deregister(&id)).await;
    }
}

struct Lease {
    id: InstanceId,
    renew_every: Duration,
}

/// Registers or renews, and says when the next step is due.
async fn step(
    registry: &RegistryClient,
    registration: &Registration,
    lease: &mut Option<Lease>,
) -> Result<Duration, CallError> {
    if let Some(Lease { id, renew_every }) = lease {
        if registry.heartbeat(id).await? {
            return Ok(*renew_every);
        }
        warn!(%id, "the registry has forgotten the instance");
        *lease = None;
    }
    let registered = registry.register(registration).await?;
    info!(service = registration.service_name, id = %registered.id, "instance registered");
    let renew_every = Duration::from_secs(registered.ttl.into()) / 3;
    *lease = Some(Lease { id: registered.id, renew_every });
    Ok(renew_every)
}
