//! The proxy: edge gateway and sidecar on Pingora.
//!
//! One immutable table decides every request; what lives longer than a table is kept beside it.

pub mod access_log;
pub mod admin;
pub mod background;
pub mod board;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod feed;
pub mod live;
pub mod metrics;
pub mod resolve;
pub mod tables;
