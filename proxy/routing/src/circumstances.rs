//! What a decision depends on beside table, request and chance: the time, and how often limited faults happened.
//! Both are told to it; it reads no clock and counts nothing.

use std::net::IpAddr;

use control_api::{Limits, RuleId};

/// What is so at the moment of a decision.
pub trait Circumstances {
    /// Seconds since 1970. Only asked where a fault that ends is about to happen.
    fn now_unix_s(&self) -> u64;

    /// The address of the client, as far as it is known: who is told apart by it meets the same choices.
    fn client(&self) -> Option<IpAddr>;

    /// Whether one more request may meet a fault that only the first so many, or so many at a time, may meet.
    /// Asked once for each request that its chance has chosen; whoever says yes counts it.
    fn admits(&self, fault: &LimitedFault<'_>) -> bool;
}

/// A fault with a limit that has to be counted.
#[derive(Debug, Clone, Copy)]
pub struct LimitedFault<'t> {
    /// The action rule.
    pub rule: &'t RuleId,
    /// The place of the action in it.
    pub place: usize,
    /// How many may meet it.
    pub limits: &'t Limits,
}

/// Only the time, in seconds since 1970: counts nothing, so that faults which must be counted never happen, and
/// knows no client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(pub u64);

impl Circumstances for At {
    fn now_unix_s(&self) -> u64 {
        self.0
    }

    fn client(&self) -> Option<IpAddr> {
        None
    }

    fn admits(&self, _: &LimitedFault<'_>) -> bool {
        false
    }
}
