//! Control's contract: rules that are right by construction, snapshots, and the watch that carries them.
//!
//! A [`Rule`] that does not compile cannot be constructed: the same constructors refuse an operator's write
//! and protect the proxy. Routing itself is not here; it reads these types.

pub mod action;
#[cfg(feature = "client")]
pub mod client;
pub mod matching;
pub mod proxies;
pub mod route;
pub mod rule;
pub mod share;
pub mod snapshot;
pub mod watch;
mod wire;

pub use action::{AbortCode, Action};
pub use matching::{Clause, HeaderMatch, HeaderPattern, Match, Source};
pub use proxies::{Applied, Identity, ProxyReport, Rejected};
pub use route::{Backend, LbType, PathMatch, Resilience, Route, UriMatch};
pub use rule::{BadRule, Body, Rule, RuleId};
pub use share::{Draw, Share};
pub use snapshot::{Delta, Gone, Snapshot};
pub use watch::{SnapshotAnswer, SnapshotUpdate};
pub use wire::RawRule;
