//! The routing law: a table compiled from a snapshot, its decisions and their explanation.
//!
//! Pure: no runtime, no clock, no randomness, no engine. Time and chance are arguments; whatever lives
//! (counters, ejections, metric handles) is hung onto the table by the proxy through [`Attach`].

mod address;
mod backend;
mod bigrams;
mod bucket;
mod budget;
mod changes;
mod circumstances;
mod decision;
mod explain;
mod fault;
mod head;
mod health;
mod key;
mod law;
mod length;
mod matching;
mod narrate;
mod notes;
mod outlier;
mod pace;
mod pattern;
mod pick;
mod recorder;
mod redirect;
mod ring;
mod seed;
mod service;
mod sieve;
mod split;
mod table;
mod uri;
mod verdict;

pub use address::Address;
pub use backend::{Attach, Backend, BackendSpec, Endpoint, Endpoints};
pub use bucket::{Bucket, KEYS_MAX, Level, Limiter};
pub use budget::{RETRIES_PER_S_MIN, RetryBudget};
pub use circumstances::{At, Circumstances, LimitedFault};
pub use decision::{
    ActionRuleRef, BackendRef, Decision, Faults, Fired, Outcome, RETRIES_DEFAULT, Refusal, Rewrite,
    RouteRuleRef, ServiceIndex, TIMEOUT_DEFAULT,
};
pub use explain::{ActionNote, AddressedBy, BackendNote, End, Explanation, InstanceNote, RuleNote};
pub use fault::ActionRule;
pub use head::{Headers, RequestHead, separator};
pub use health::Health;
pub use length::DELAY_MAX;
pub use outlier::{Detection, Tally, may_eject, outliers, panics};
pub use pace::Pace;
pub use pick::{Load, pick, pick_in_turn};
pub use ring::RING_POINTS_MAX;
pub use seed::{Half, Purpose, Seed, rule_key};
pub use service::{RouteRule, Service};
pub use table::RouteTable;
pub use verdict::{BACKOFF_BASE, BACKOFF_MAX, Budget, Failure, Verdict, verdict, verdict_of};
