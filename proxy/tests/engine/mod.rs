//! An engine from outside: raw sockets before and behind it, and what arrives where. Nothing in here looks inside or
//! knows which engine it is; tables are put in place directly, since how they come is another test's matter.

mod answers;
mod bodies;
mod body_faults;
mod bridge;
mod certificates;
mod connections;
mod differences;
mod faults;
mod forwarding;
mod frames;
mod hand_over;
mod heads;
mod http2;
mod http2_streams;
mod life;
mod mirror;
mod multiplexed;
mod policies;
mod resilience;
mod retries;
mod streams;
mod stubborn;
pub(crate) mod support;
mod tcp;
mod timeouts;
mod tls;
mod traces;
mod upgrade;
