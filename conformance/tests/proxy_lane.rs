//! The lane as a real process, under the promises that both engines keep. It holds no test of its own.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

mod proxy;

/// What every proxy in here runs on.
const ENGINE: &str = "lane";
