//! Whether silent instances are held, as `/uptime` says it (spec/registry.md 3.16). When they are is
//! [`crate::preservation`]'s.

use crate::checks::Health;
use crate::tenants::Tenants;

/// The name of the component.
pub const COMPONENT: &str = "EUREKA";

/// Healthy also while it holds: that is what it is for. Which namespaces these are is nobody's business here.
pub fn health(tenants: &Tenants, is_asked_for: bool) -> Health {
    let (namespaces, instances) = tenants.held();
    let health = Health::well().with("self_preservation", namespaces > 0);
    if !is_asked_for {
        return health;
    }
    let health = health.with("namespaces", namespaces).with("held", instances);
    if namespaces == 0 {
        return health;
    }
    health.with("message", "too many instances are silent at once; they are held for a while")
}
