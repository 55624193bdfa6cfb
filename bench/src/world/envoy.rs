//! The world as Envoy is told it. It counts and times per cluster; routes are tried one after the other, and one fault
//! filter serves all of them.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{COOKIE, V2_PERCENT, World};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

impl World {
    /// The configuration of Envoy.
    pub(crate) fn envoy(&self, listen: SocketAddr, log: &Path) -> Value {
        let (mut routes, mut clusters) = (Vec::new(), Vec::new());
        for service in 0..self.services() {
            routes.extend(self.envoy_routes(service));
            for version in self.versions() {
                clusters.push(cluster(&cluster_name(service, version), self.instances(service)));
            }
        }
        // Its own header fields are left out: no other proxy adds such.
        let router = json!({"name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router"), "suppress_envoy_headers": true}});
        let fault = json!({"name": "envoy.filters.http.fault", "typed_config": {
            "@type": format!("{FILTERS}.http.fault.v3.HTTPFault"),
            "abort": {"http_status": 503, "percentage": {"numerator": 0, "denominator": "HUNDRED"}}}});
        let filters = if self.feature { json!([fault, router]) } else { json!([router]) };
        // With the remote address comes X-Forwarded-For; X-Forwarded-Proto is always set.
        let mut manager = json!({
            "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in", "http_filters": filters, "generate_request_id": true, "use_remote_address": true,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}});
        if self.logged {
            manager["access_log"] = json!([{"name": "envoy.access_loggers.file", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": log}}]);
        }
        json!({"static_resources": {"clusters": clusters, "listeners": [{
            "name": "in", "address": address(listen),
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}]}})
    }

    fn envoy_routes(&self, service: usize) -> Vec<Value> {
        let prefix = json!({"prefix": format!("/s{service}/")});
        let name = |version| cluster_name(service, version);
        if !self.feature {
            return vec![json!({"match": prefix, "route": {"cluster": name("v1"), "prefix_rewrite": "/"}})];
        }
        let mut by_header = prefix.clone();
        by_header["headers"] = json!([{"name": "cookie", "string_match": {"safe_regex": {"regex": COOKIE}}}]);
        let weighted = json!({"clusters": [
            {"name": name("v1"), "weight": 100 - V2_PERCENT}, {"name": name("v2"), "weight": V2_PERCENT}]});
        vec![
            json!({"match": by_header, "route": {"cluster": name("v2"), "prefix_rewrite": "/"}}),
            json!({"match": prefix, "route": {"weighted_clusters": weighted, "prefix_rewrite": "/"}}),
        ]
    }
}

fn cluster_name(service: usize, version: &str) -> String {
    format!("s{service}_{version}")
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn cluster(name: &str, instances: &[SocketAddr]) -> Value {
    let endpoints: Vec<_> =
        instances.iter().map(|instance| json!({"endpoint": {"address": address(*instance)}})).collect();
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}})
}
