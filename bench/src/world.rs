//! The same work for every proxy. `plain`: everything to one origin. `feature`: 100 services on the first path segment, two
//! versions with four instances each on 400 ports, a header rule, a 90/10 split and a fault that never fires. In both every
//! proxy takes the service off the path and adds a request id, X-Forwarded-For and X-Forwarded-Proto.

mod envoy;
mod haproxy;
mod nginx;

use std::net::SocketAddr;
use std::sync::Arc;

use control_api::{Rule, Snapshot};
use registry_api::Instance;
use serde_json::json;

/// Services of `feature`.
pub(crate) const SERVICES: usize = 100;
const INSTANCES_PER_VERSION: usize = 4;
/// Part of the requests that go to v2, in per cent.
const V2_PERCENT: usize = 10;
const COOKIE: &str = "^(.*?;)?(user=jason)(;.*)?$";
/// So rare that it never fires in any run, and yet every request draws for it.
const FAULT_PROBABILITY: f64 = 1e-12;

/// What the proxies are configured for.
#[derive(Debug, Clone)]
pub(crate) struct World {
    feature: bool,
    logged: bool,
    origins: Vec<SocketAddr>,
}

impl World {
    /// How many origins a world of this kind uses.
    pub(crate) fn origins_needed(feature: bool) -> usize {
        if feature { SERVICES * INSTANCES_PER_VERSION } else { 1 }
    }

    /// A world over these origins. `logged`: the peers write a line per request.
    pub(crate) fn new(feature: bool, logged: bool, origins: Vec<SocketAddr>) -> Self {
        Self { feature, logged, origins }
    }

    /// Every origin.
    pub(crate) fn origins(&self) -> &[SocketAddr] {
        &self.origins
    }

    /// The targets of the requests for bodies of this size, to be sent in turn.
    pub(crate) fn targets(&self, body_bytes: usize) -> Vec<String> {
        (0..self.services()).map(|service| format!("/s{service}/{body_bytes}")).collect()
    }

    fn services(&self) -> usize {
        if self.feature { SERVICES } else { 1 }
    }

    /// The instances of one service; both versions share the origins' ports.
    fn instances(&self, service: usize) -> &[SocketAddr] {
        let each = if self.feature { INSTANCES_PER_VERSION } else { 1 };
        &self.origins[service * each..(service + 1) * each]
    }

    fn versions(&self) -> &'static [&'static str] {
        if self.feature { &["v1", "v2"] } else { &["v1"] }
    }

    /// What control would publish.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut instances = Vec::new();
        for service in 0..self.services() {
            for version in self.versions() {
                for (at, address) in self.instances(service).iter().enumerate() {
                    instances.push(instance(service, version, at, &address.to_string()));
                }
            }
        }
        let rules = (0..self.services()).filter(|_| self.feature).flat_map(rules);
        Snapshot::new(1, rules.map(Arc::new), instances.into_iter().map(Arc::new))
    }
}

/// One instance; ids are free here, which lets two versions share a port.
pub(crate) fn instance(service: usize, version: &str, at: usize, address: &str) -> Instance {
    let json = json!({"id": format!("s{service}-{version}-{at}"), "service_name": format!("s{service}"), "status": "UP",
        "ttl": 30, "tags": [format!("version={version}")], "endpoint": {"type": "http", "value": address}});
    serde_json::from_value(json).expect("an instance with all its fields decodes")
}

/// The three rules of one service.
fn rules(service: usize) -> [Rule; 3] {
    let destination = format!("s{service}");
    let tagged = |version: &str| json!([format!("version={version}")]);
    let share = V2_PERCENT as f64 / 100.0;
    [
        json!({"id": format!("{destination}-header"), "priority": 2, "destination": destination,
            "match": {"headers": {"Cookie": COOKIE}}, "route": {"backends": [{"tags": tagged("v2")}]}}),
        json!({"id": format!("{destination}-split"), "priority": 1, "destination": destination,
            "route": {"backends": [{"tags": tagged("v2"), "weight": share}, {"tags": tagged("v1")}]}}),
        json!({"id": format!("{destination}-fault"), "destination": destination,
            "actions": [{"action": "abort", "return_code": 503, "probability": FAULT_PROBABILITY}]}),
    ]
    .map(|rule| serde_json::from_value(rule).expect("the rules of the bench are valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(feature: bool) -> World {
        let origins =
            (0..World::origins_needed(feature)).map(|at| ([127, 0, 0, 1], 10_000 + at as u16).into());
        World::new(feature, false, origins.collect())
    }

    #[test]
    fn feature_has_a_hundred_services_with_two_versions_of_four_instances_and_three_rules() {
        let snapshot = world(true).snapshot();
        assert_eq!((snapshot.instances().len(), snapshot.rules().len()), (800, 300));
        assert_eq!(world(true).targets(7).len(), 100);
    }

    #[test]
    fn plain_has_one_instance_and_no_rule() {
        let snapshot = world(false).snapshot();
        assert_eq!((snapshot.instances().len(), snapshot.rules().len()), (1, 0));
    }
}
