//! The proxy: edge gateway and sidecar on Pingora.
//!
//! One immutable table decides every request; what lives longer than a table is kept beside it.

pub mod clock;
pub mod config;
