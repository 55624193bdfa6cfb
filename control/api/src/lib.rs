//! Control's contract: rules that are right by construction, snapshots, and the watch that carries them.
//!
//! A [`Rule`] that does not compile cannot be constructed: the same constructors refuse an operator's write
//! and protect the proxy. Routing itself is not here; it reads these types.

pub mod action;
pub mod answer;
#[cfg(feature = "client")]
pub mod client;
pub mod edge;
pub mod header;
pub mod health;
pub mod instances;
pub mod matching;
pub mod moment;
pub mod policy;
pub mod proxies;
pub mod route;
pub mod rule;
pub mod share;
pub mod snapshot;
pub mod tag;
pub mod watch;
mod wire;

pub use action::{AbortCode, Action, Chance, Length, Limits};
pub use answer::{Answer, NewPath, Redirect, Response};
pub use edge::{Edge, Host, without_port};
pub use header::{Edits, HeaderEdits};
pub use health::{HealthCheck, Probe};
pub use instances::{Instances, differences};
pub use matching::{Clause, HeaderMatch, HeaderPattern, Match, PathTest, QueryMatch, Source};
pub use moment::{Moment, unix_s};
pub use policy::{Key, Mirror, RateLimit, Retries, RetryOn};
pub use proxies::{Applied, Identity, ProxyReport, Rejected};
pub use route::{Backend, LbType, PathMatch, Resilience, Route, SuccessRate, UriMatch};
pub use rule::{BadRule, Body, Rule, RuleId};
pub use share::{Draw, Share};
pub use snapshot::{Delta, Gone, Snapshot};
pub use tag::TagTest;
pub use watch::{SnapshotAnswer, SnapshotUpdate};
pub use wire::{OneOrMany, RawRule};
