//! The proxies of one namespace: who polls, what serves traffic there, who is behind, and why. It reads no
//! clock and holds no connection; every poll is told to it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use control_api::{Applied, Identity, ProxyReport, Rejected};

use crate::edition::{Edition, Serving};
use crate::moment::Moment;

/// How many proxies of a namespace are known by name. At the bound a new one takes the place of the one
/// that was away longest, or is served without being known.
pub const NODES_MAX: usize = 16_384;
/// A proxy between two polls counts as connected for this long.
pub const CONNECTED_FOR: Duration = Duration::from_secs(5);
/// A proxy that was not seen for this long is forgotten.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// Looking through all proxies for forgotten ones costs; polls share one look in this time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Who polls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    /// Stable id.
    pub node: String,
    /// Whom it stands for.
    pub identity: Identity,
    /// Where the poll came from.
    pub address: String,
    /// The program's version.
    pub version: String,
}

/// A snapshot that a proxy could not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its index.
    pub index: u64,
    /// The proxy's reason.
    pub reason: String,
}

#[derive(Debug, Clone)]
struct Node {
    caller: Caller,
    serving: Serving,
    polls: usize,
    last_seen: Moment,
    offered: u64,
    rejected: Option<(Rejection, Moment)>,
}

impl Node {
    fn is_connected(&self, now: Moment) -> bool {
        self.polls > 0 || now.since(self.last_seen) < CONNECTED_FOR
    }

    fn is_remembered(&self, now: Moment) -> bool {
        self.polls > 0 || now.since(self.last_seen) < REMEMBERED_FOR
    }
}

/// What the proxies of a namespace look like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Connected proxies.
    pub connected: usize,
    /// The longest time one of them has been behind.
    pub lag: Duration,
}

/// The proxies of one namespace.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    nodes: BTreeMap<String, Node>,
    swept_at: Moment,
}

impl Roster {
    /// A poll begins. `false` when there is no room to know the caller.
    pub fn begin(&mut self, caller: Caller, now: Moment) -> bool {
        if now.since(self.swept_at) >= SWEEP_INTERVAL {
            self.nodes.retain(|_, node| node.is_remembered(now));
            self.swept_at = now;
        }
        if let Some(node) = self.nodes.get_mut(&caller.node) {
            node.caller = caller;
            node.polls += 1;
            node.last_seen = now;
            return true;
        }
        if self.nodes.len() >= NODES_MAX {
            let away = self.nodes.iter().filter(|(_, node)| !node.is_connected(now));
            let Some(longest) = away.min_by_key(|(_, node)| node.last_seen).map(|(name, _)| name.clone())
            else {
                return false;
            };
            self.nodes.remove(&longest);
        }
        let name = caller.node.clone();
        let node = Node {
            caller,
            serving: Serving::default(),
            polls: 1,
            last_seen: now,
            offered: 0,
            rejected: None,
        };
        self.nodes.insert(name, node);
        true
    }

    /// A poll that [`Self::begin`] took has ended.
    pub fn end(&mut self, name: &str, now: Moment) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.polls = node.polls.saturating_sub(1);
            node.last_seen = now;
        }
    }

    /// The poll says what serves traffic there. Gives the index that served before, when the proxy moved
    /// on from one of this life: that is a change whose way took a measurable time.
    pub fn acknowledge(&mut self, name: &str, serving: Serving) -> Option<u64> {
        let node = self.nodes.get_mut(name)?;
        let before = std::mem::replace(&mut node.serving, serving);
        if serving.revision == 0 && serving.index == before.index {
            // The history has forgotten the index since; what was known stays known.
            node.serving.revision = before.revision;
        }
        if node.rejected.as_ref().is_some_and(|(rejection, _)| serving.index >= rejection.index) {
            node.rejected = None;
        }
        (before.index > 0 && serving.index > before.index).then_some(before.index)
    }

    /// The poll says that a snapshot could not be used. `true` when that is new.
    pub fn reject(&mut self, name: &str, rejection: Rejection, now: Moment) -> bool {
        let Some(node) = self.nodes.get_mut(name) else { return false };
        if node.rejected.as_ref().is_some_and(|(known, _)| known.index == rejection.index) {
            return false;
        }
        node.rejected = Some((rejection, now));
        true
    }

    /// An answer leads the proxy to this index.
    pub fn offer(&mut self, name: &str, index: u64) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.offered = index;
        }
    }

    /// The index this life last led the proxy to; 0 for none.
    pub fn offered(&self, name: &str) -> u64 {
        self.nodes.get(name).map_or(0, |node| node.offered)
    }

    /// Whether every connected proxy serves a rule revision.
    pub fn applied(&self, revision: u64, now: Moment) -> Applied {
        let connected: Vec<_> = self.nodes.values().filter(|node| node.is_connected(now)).collect();
        let behind = connected.iter().filter(|node| node.serving.revision < revision);
        let laggards: Vec<_> = behind.map(|node| node.caller.node.clone()).collect();
        Applied { proxies: connected.len(), serving: connected.len() - laggards.len(), laggards }
    }

    /// When a proxy that has no poll in flight stops to count as connected: the next such moment.
    pub fn next_lapse(&self, now: Moment) -> Option<Moment> {
        let idle = self.nodes.values().filter(|node| node.polls == 0 && node.is_connected(now));
        idle.map(|node| node.last_seen + CONNECTED_FOR).min()
    }

    /// Counts for the metrics.
    pub fn tally(&self, edition: Option<&Edition>, now: Moment) -> Tally {
        let connected = || self.nodes.values().filter(|node| node.is_connected(now));
        let lag = connected().map(|node| lag(node, edition, now)).max().unwrap_or_default();
        Tally { connected: connected().count(), lag }
    }

    /// Every known proxy, by name. `time_of_day` is the time of `now`.
    pub fn report(
        &self,
        edition: Option<&Edition>,
        now: Moment,
        time_of_day: SystemTime,
    ) -> Vec<ProxyReport> {
        let nodes = self.nodes.values().filter(|node| node.is_remembered(now));
        let report = |node: &Node| ProxyReport {
            node: node.caller.node.clone(),
            service: node.caller.identity.service.as_ref().map(ToString::to_string).unwrap_or_default(),
            tags: node.caller.identity.tags.clone(),
            index: node.serving.index,
            revision: node.serving.revision,
            lag_ms: millis(lag(node, edition, now)),
            connected: node.is_connected(now),
            last_seen_ms: if node.polls > 0 { 0 } else { millis(now.since(node.last_seen)) },
            address: node.caller.address.clone(),
            version: node.caller.version.clone(),
            rejected: node.rejected.as_ref().map(|(rejection, at)| Rejected {
                index: rejection.index,
                reason: rejection.reason.clone(),
                at: rfc3339(time_of_day, now.since(*at)),
            }),
        };
        nodes.map(report).collect()
    }
}

/// How long there has been something newer than what serves there.
fn lag(node: &Node, edition: Option<&Edition>, now: Moment) -> Duration {
    let next = edition.and_then(|edition| edition.steps_after(node.serving.index).next());
    next.map_or(Duration::ZERO, |step| now.since(step.at))
}

fn rfc3339(time_of_day: SystemTime, ago: Duration) -> String {
    let at = time_of_day.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(at).to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
