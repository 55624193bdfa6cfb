//! A line per rule change while `a8 up` runs: what changed, and where and how fast it became live.

use std::collections::BTreeMap;
use std::time::Duration;

use control_api::client::{ControlClient, Node, Polled};
use control_api::{Delta, Snapshot};
use registry_api::client::Backoff;
use registry_api::{Position, Reason};
use tokio::time::Instant;

use super::fabric::Fabric;
use crate::output;

const WAIT: Duration = Duration::from_secs(50);
/// How long a line waits for proxies that lag.
const LIVE_LIMIT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Follows control for ever. Losing control is no end: its death is reported by whoever watches children.
pub(super) async fn follow(fabric: &Fabric) -> Result<(), String> {
    let control = fabric.control_client()?;
    // Nameless: it serves nothing, so it acknowledges nothing and is not listed among the proxies.
    let nobody = Node::default();
    let (mut at, mut held) = (Position::default(), Snapshot::default());
    let mut backoff = Backoff::default();
    loop {
        match control.watch(&nobody, &at, WAIT, None).await {
            Ok(Polled::Unchanged(position)) => at = position,
            Ok(Polled::News(to, update)) => {
                backoff.reset();
                let Ok(next) = update.lead(&held, &at, &to) else {
                    at = Position::default();
                    continue;
                };
                let first = at.index == 0;
                let before = std::mem::replace(&mut held, next);
                at = to;
                if !first && before.revision() != held.revision() {
                    let delta = before.delta_to(&held, |_| Reason::Deregistered);
                    tell(&control, &delta, held.revision()).await?;
                }
            }
            // In full: nobody else waits with us.
            Ok(Polled::Unreadable(..)) | Err(_) => tokio::time::sleep(backoff.after_failure(1.0)).await,
        }
    }
}

async fn tell(control: &ControlClient, delta: &Delta, revision: u64) -> Result<(), String> {
    let (serving, proxies, took) = live_on(control, revision).await;
    let live = format!("live on {serving}/{proxies} proxies in {} ms", took.as_millis());
    for change in changes(delta) {
        output::line(&format!("{change} (revision {revision}): {live}")).map_err(|failure| failure.line)?;
    }
    Ok(())
}

/// What changed, one phrase per rule; many of one kind are counted.
fn changes(delta: &Delta) -> Vec<String> {
    const NAMED_MAX: usize = 8;
    let put: Vec<String> = delta.rules_put.iter().map(|rule| rule.id.to_string()).collect();
    let deleted: Vec<String> = delta.rules_delete.iter().map(ToString::to_string).collect();
    let kinds = BTreeMap::from([("deleted", deleted), ("put", put)]);
    let phrases: Vec<String> = kinds
        .into_iter()
        .flat_map(|(kind, ids)| {
            if ids.len() > NAMED_MAX {
                vec![format!("{} rules {kind}", ids.len())]
            } else {
                ids.into_iter().map(|id| format!("rule {id} {kind}")).collect()
            }
        })
        .collect();
    if phrases.is_empty() { vec!["no rule changed".to_owned()] } else { phrases }
}

/// Waits until every connected proxy serves the revision, or for as long as a line may take.
async fn live_on(control: &ControlClient, revision: u64) -> (usize, usize, Duration) {
    let begun = Instant::now();
    loop {
        let proxies = control.proxies().await.unwrap_or_default();
        let connected: Vec<_> = proxies.iter().filter(|proxy| proxy.connected).collect();
        let serving = connected.iter().filter(|proxy| proxy.revision >= revision).count();
        let took = begun.elapsed();
        if (serving == connected.len() && serving > 0) || took >= LIVE_LIMIT {
            return (serving, connected.len(), took);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::RuleId;

    #[test]
    fn few_changes_are_named_and_many_are_counted() {
        let deleted = |count: usize| Delta {
            rules_delete: (0..count).filter_map(|at| RuleId::new(format!("r{at}"))).collect(),
            ..Delta::default()
        };
        assert_eq!(changes(&deleted(2)), ["rule r0 deleted", "rule r1 deleted"]);
        assert_eq!(changes(&deleted(9)), ["9 rules deleted"]);
        assert_eq!(changes(&deleted(0)), ["no rule changed"]);
    }
}
