//! The proxy: edge gateway and sidecar on Pingora.
//!
//! One immutable table decides every request; what lives longer than a table is kept beside it.

pub mod access_log;
pub mod admin;
mod alarm;
mod answer;
mod attentive;
pub mod background;
pub mod board;
mod bridge;
mod buffers;
mod chunks;
pub mod clock;
pub mod config;
mod connections;
mod context;
mod counts;
mod courtesy;
pub mod data_dir;
mod detection;
pub mod feed;
mod fields;
mod forward;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
#[cfg(feature = "gates")]
pub mod gates;
mod gateway;
mod general;
mod grpc;
mod head;
mod health;
mod held;
mod http2;
mod lane;
mod lines;
pub mod live;
pub mod metrics;
mod mirror;
mod reports;
pub mod resolve;
mod respond;
pub mod server;
mod service;
mod shard;
mod shortage;
mod signals;
mod strait;
pub mod tables;
mod tcp;
mod throttle;
pub mod tls;
mod trace;
pub mod tracer;
mod tunnel;
mod upgrade;
mod upstream;
mod wire;
