//! Follows the registry's watch for one namespace and tells the space what was heard. A failed read is
//! never an empty list: it changes nothing, and is tried again after a while.

use std::sync::Arc;
use std::time::Duration;

use registry_api::client::{Backoff, CallError, Polled, RegistryClient};
use registry_api::{Change, Followed, InstanceKey, Position, Reason, Update, token};
use tracing::{debug, error, info, warn};

use crate::config::RegistryAuth;
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::space::Space;
use crate::spaces::RegistryAccess;
use crate::window::WINDOW_MIN;
use crate::world::Heard;

/// How long the registry may hold a poll: below the usual idle limit of 60 s of what stands between.
const WAIT: Duration = Duration::from_secs(50);
/// The shortest poll, when a stale instance is about to go.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// The shortest time from one poll to the next, so that a registry that always has something to say, right
/// or wrong, does not keep control busy. What is heard within it is published together anyway.
const PACE: Duration = WINDOW_MIN;

enum Failure {
    Call(CallError),
    /// The answer does not lead where it says; everything is asked for next.
    Mismatch,
    /// The registry does not hold polls, or says that nothing is unchanged.
    Restless,
}

/// How long a token for the registry is believed.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// How long one is used: what is left is longer than any poll that was begun with it, and than clocks differ.
const TOKEN_USE: Duration = Duration::from_secs(300);

/// Follows for ever; ends with its task.
pub(crate) async fn follow(space: Arc<Space>, registry: RegistryAccess, metrics: Arc<Metrics>) {
    let Some((mut client, mut signed_at)) = client(&space, &registry) else { return };
    let mut followed = Followed::default();
    let mut backoff = Backoff::default();
    let mut failing = false;
    loop {
        let begun = space.clock.now();
        if matches!(registry.auth, RegistryAuth::Jwt(_)) && begun.since(signed_at) > TOKEN_USE {
            let Some(renewed) = self::client(&space, &registry) else { return };
            (client, signed_at) = renewed;
        }
        match poll(&space, &client, &mut followed, begun).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    info!(namespace = %space.label, "registry is heard again");
                }
                backoff.reset();
                space.clock.sleep_until(begun + PACE).await;
            }
            Err(failure) => {
                metrics.follow_failures.inc();
                let pause = backoff.after_failure(fastrand::f64());
                let reason = match &failure {
                    Failure::Call(error) => error.to_string(),
                    Failure::Mismatch => "an answer does not fit what is held".to_owned(),
                    Failure::Restless => "it answers without news".to_owned(),
                };
                if matches!(failure, Failure::Mismatch) {
                    metrics.follow_mismatches.inc();
                }
                if std::mem::replace(&mut failing, true) {
                    debug!(namespace = %space.label, reason, "registry still not heard");
                } else {
                    warn!(namespace = %space.label, reason, "registry not heard, going on with what is known");
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// A client that proves the namespace to the registry, and when its token was made.
fn client(space: &Space, registry: &RegistryAccess) -> Option<(RegistryClient, Moment)> {
    let made;
    let token = match &registry.auth {
        RegistryAuth::None => None,
        RegistryAuth::Trusted => Some(space.namespace.as_str()),
        RegistryAuth::Token(token) => Some(token.reveal()),
        RegistryAuth::Jwt(secret) => {
            let (secret, now) = (secret.reveal().as_bytes(), space.clock.since_epoch());
            made = token::sign(secret, &space.namespace, now, TOKEN_LIFETIME);
            Some(made.as_str())
        }
    };
    match RegistryClient::trusting(&registry.urls, token, registry.trust.clone()) {
        Ok(client) => Some((client, space.clock.now())),
        Err(_) => {
            error!(namespace = %space.label, "namespace cannot be a token, so its instances cannot be followed");
            None
        }
    }
}

async fn poll(
    space: &Space,
    client: &RegistryClient,
    followed: &mut Followed,
    begun: Moment,
) -> Result<(), Failure> {
    let wait = wait(space.stale_until(), begun);
    match client.watch(followed.position(), wait).await.map_err(Failure::Call)? {
        Polled::Unchanged(position) => {
            let held = followed.position();
            if held.index == 0 {
                return Err(Failure::Restless);
            }
            let at_once = space.clock.now().since(begun) < wait / 2 && position == *held;
            let kept = Position { hash: held.hash, ..position };
            followed.adopt(kept);
            space.hear(followed, &Heard::Nothing, begun);
            if at_once { Err(Failure::Restless) } else { Ok(()) }
        }
        Polled::News(position, update) => {
            let heard = heard(&update);
            followed.apply(position, update).map_err(|_| Failure::Mismatch)?;
            space.hear(followed, &heard, begun);
            Ok(())
        }
    }
}

/// A stale instance may only go when the registry is heard after its time, so ask again right then.
fn wait(stale_until: Option<Moment>, now: Moment) -> Duration {
    stale_until.map_or(WAIT, |until| until.since(now).clamp(WAIT_MIN, WAIT))
}

fn heard(update: &Update) -> Heard {
    let key = |change: &Change| -> (InstanceKey, Reason) {
        match change {
            Change::Put(instance) => (instance.key(), Reason::Deregistered),
            Change::Delete { id, service_name, reason } => ((service_name.clone(), id.clone()), *reason),
        }
    };
    match update {
        Update::Full(_) => Heard::Everything,
        Update::Delta { changes, .. } => Heard::Some(changes.iter().map(key).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_ends_when_the_next_stale_instance_may_go() {
        let at = Moment::millis;
        for (until, expected_ms) in [
            (None, 50_000),
            (Some(at(130_000)), 30_000),
            (Some(at(900_000)), 50_000),
            (Some(at(100_000)), 50),
            (Some(at(1)), 50),
        ] {
            assert_eq!(wait(until, at(100_000)), Duration::from_millis(expected_ms), "{until:?}");
        }
    }
}
