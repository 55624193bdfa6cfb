//! The proxy from outside of its process, with whichever engine the binary has chosen. What is in here must hold for
//! each of them.

mod acceptance;
mod calls;
mod chaos;
mod faults;
mod grpc;
mod http;
mod language;
mod page;
mod policies;
mod resilience;
mod series;
mod shortage;
mod tcp;
mod traces;
mod traps;
mod upgrade;

/// The flag of every proxy in here.
const ENGINE: &[(&str, &str)] = &[("engine", crate::ENGINE)];
