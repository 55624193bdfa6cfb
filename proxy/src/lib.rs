//! The proxy: edge gateway and sidecar on Pingora.
//!
//! One immutable table decides every request; what lives longer than a table is kept beside it.

pub mod access_log;
pub mod admin;
mod alarm;
pub mod background;
pub mod board;
mod chunks;
pub mod clock;
pub mod config;
mod connections;
mod context;
pub mod data_dir;
pub mod feed;
mod forward;
mod gateway;
mod head;
pub mod live;
pub mod metrics;
mod reports;
pub mod resolve;
mod respond;
pub mod server;
mod service;
mod shard;
mod signals;
pub mod tables;
mod tunnel;
mod upstream;
mod wire;
