//! The native API from outside, as tables; every test says which lines of spec/registry.md it holds.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod ancestors;
mod bodies;
mod counts;
mod leases;
mod lists;
mod registrations;
mod routes;

fn registration(service: &str, kind: &str, value: &str, more: &str) -> String {
    format!(r#"{{"service_name":"{service}","endpoint":{{"type":"{kind}","value":"{value}"}}{more}}}"#)
}
