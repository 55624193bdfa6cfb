//! The registry of service instances: who is there, where, and for how long.
//!
//! The chain is `Command -> Change -> Catalog`, pure and with time as an argument; around it sit thin
//! adapters for HTTP, the snapshot file and the clock. The crate knows neither rules nor proxies.

pub mod admitted;
pub mod bell;
pub mod catalog;
pub mod catalog_source;
pub mod census;
pub mod checks;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod encodings;
pub mod file_catalog;
pub mod gzip;
pub mod history;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod news;
pub mod preservation;
pub mod pulse;
pub mod query;
pub mod recent;
pub mod registration;
pub mod server;
pub mod snapshot;
pub mod snapshot_writer;
pub mod tenant;
pub mod tenants;
pub mod timestamp;
pub mod wheel;

pub use config::{Config, FILE_KEYS, Settings};
pub use server::serve;
