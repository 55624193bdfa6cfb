//! The registry of service instances: who is there, where, and for how long.
//!
//! The chain is `Command -> Change -> Catalog`, pure and with time as an argument; around it sit thin
//! adapters for HTTP, the snapshot file and the clock. The crate knows neither rules nor proxies.

pub mod catalog;
pub mod clock;
pub mod history;
pub mod lease;
pub mod news;
pub mod query;
pub mod registration;
pub mod timestamp;
pub mod wheel;
