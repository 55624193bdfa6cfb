//! The general engine from outside: raw sockets before and behind it, and what arrives where. Nothing in here looks
//! inside; tables are put in place directly, since how they come is another test's matter.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

mod bodies;
mod faults;
mod forwarding;
mod frames;
mod heads;
mod http2;
mod life;
mod retries;
mod support;
mod upgrade;
