//! The same work for every proxy. `plain`: everything to one origin. `feature`: 100 services on the first path segment, two
//! versions with four instances each, a header rule, a 90/10 split and a fault that never fires.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use control_api::{Rule, Snapshot};
use registry_api::Instance;
use serde_json::{Value, json};

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

    /// A world over these origins. `logged`: the peers write a line per request, as ours always does.
    pub(crate) fn new(feature: bool, logged: bool, origins: Vec<SocketAddr>) -> Self {
        Self { feature, logged, origins }
    }

    /// `plain` or `feature`.
    pub(crate) fn name(&self) -> &'static str {
        if self.feature { "feature" } else { "plain" }
    }

    /// Every origin.
    pub(crate) fn origins(&self) -> &[SocketAddr] {
        &self.origins
    }

    /// The targets of the requests, to be sent in turn.
    pub(crate) fn targets(&self) -> Vec<String> {
        (0..self.services()).map(|service| format!("/s{service}/item")).collect()
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

    /// The configuration of nginx.
    pub(crate) fn nginx(&self, listen: SocketAddr, prefix: &Path) -> String {
        let prefix = prefix.display();
        let log = format!("{prefix}/access.log combined buffer=64k flush=1s");
        let log = if self.logged { log.as_str() } else { "off" };
        let (mut upstreams, mut locations) = (String::new(), String::new());
        for service in 0..self.services() {
            for version in self.versions() {
                let _ = writeln!(upstreams, "  upstream s{service}_{version} {{");
                for address in self.instances(service) {
                    let _ = writeln!(upstreams, "    server {address};");
                }
                let _ = writeln!(upstreams, "    keepalive 64;\n  }}");
            }
            let version = if self.feature { "$version" } else { "v1" };
            let fault = if self.feature { "if ($http_x_fault) { return 503; }" } else { "" };
            let _ = writeln!(
                locations,
                "    location /s{service}/ {{ {fault} rewrite ^/s{service}(/.*)$ $1 break; proxy_pass http://s{service}_{version}; }}"
            );
        }
        let choice = if self.feature {
            format!(
                "  split_clients $request_id $split {{ {V2_PERCENT}% v2; * v1; }}\n  \
                 map $http_cookie $version {{ \"~{COOKIE}\" v2; default $split; }}"
            )
        } else {
            String::new()
        };
        format!(
            "daemon off;\nmaster_process off;\nworker_processes 1;\npid {prefix}/nginx.pid;\nerror_log stderr error;\n\
             worker_rlimit_nofile 16384;\nevents {{ worker_connections 8192; }}\nhttp {{\n  access_log {log};\n  \
             client_body_temp_path {prefix}/body;\n  proxy_temp_path {prefix}/proxy;\n  fastcgi_temp_path {prefix}/fastcgi;\n  \
             uwsgi_temp_path {prefix}/uwsgi;\n  scgi_temp_path {prefix}/scgi;\n  keepalive_requests 1000000000;\n  \
             proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n  proxy_set_header Host $host;\n  \
             proxy_set_header X-Request-Id $request_id;\n  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n{choice}\n{upstreams}  \
             server {{\n    listen {listen};\n{locations}  }}\n}}\n"
        )
    }

    /// The configuration of HAProxy.
    pub(crate) fn haproxy(&self, listen: SocketAddr) -> String {
        // It knows no files; its standard output is one.
        let log = if self.logged { "  log stdout format raw local0 info\n  option httplog\n" } else { "" };
        let mut text = format!(
            "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  \
             timeout server 60s\n  http-reuse always\n  option forwardfor\n{log}frontend in\n  bind {listen}\n  \
             unique-id-format %{{+X}}o%ci%cp%fi%fp%Ts%rt%pid\n  unique-id-header X-Request-Id\n"
        );
        if self.feature {
            let _ = write!(
                text,
                "  acl jason req.hdr(cookie) -m reg {COOKIE}\n  http-request return status 503 if {{ req.hdr(x-fault) -m found }}\n  \
                 http-request set-var(txn.service) path,field(2,/)\n  \
                 use_backend %[var(txn.service)]_v2 if jason\n  \
                 use_backend %[var(txn.service)]_v2 if {{ rand(100) lt {V2_PERCENT} }}\n  \
                 use_backend %[var(txn.service)]_v1\n"
            );
        } else {
            text.push_str("  default_backend s0_v1\n");
        }
        for service in 0..self.services() {
            for version in self.versions() {
                let _ = writeln!(text, "backend s{service}_{version}");
                let _ =
                    writeln!(text, "  balance roundrobin\n  http-request replace-path /s{service}(/.*) \\1");
                for (at, address) in self.instances(service).iter().enumerate() {
                    let _ = writeln!(text, "  server i{at} {address}");
                }
            }
        }
        text
    }

    /// The configuration of Envoy.
    pub(crate) fn envoy(&self, listen: SocketAddr, log: &Path) -> Value {
        let (mut routes, mut clusters) = (Vec::new(), Vec::new());
        for service in 0..self.services() {
            let prefix = json!({"prefix": format!("/s{service}/")});
            let name = |version: &str| format!("s{service}_{version}");
            if self.feature {
                let mut by_header = prefix.clone();
                by_header["headers"] =
                    json!([{"name": "cookie", "string_match": {"safe_regex": {"regex": COOKIE}}}]);
                routes.push(
                    json!({"match": by_header, "route": {"cluster": name("v2"), "prefix_rewrite": "/"}}),
                );
                let weighted = json!({"clusters": [
                    {"name": name("v1"), "weight": 100 - V2_PERCENT}, {"name": name("v2"), "weight": V2_PERCENT}]});
                routes.push(
                    json!({"match": prefix, "route": {"weighted_clusters": weighted, "prefix_rewrite": "/"}}),
                );
            } else {
                routes
                    .push(json!({"match": prefix, "route": {"cluster": name("v1"), "prefix_rewrite": "/"}}));
            }
            for version in self.versions() {
                clusters.push(envoy_cluster(&name(version), self.instances(service)));
            }
        }
        let router = json!({"name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
        let fault = json!({"name": "envoy.filters.http.fault", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "abort": {"http_status": 503, "percentage": {"numerator": 0, "denominator": "HUNDRED"}}}});
        let filters = if self.feature { json!([fault, router]) } else { json!([router]) };
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in", "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}});
        if self.logged {
            manager["access_log"] = json!([{"name": "envoy.access_loggers.file", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": log}}]);
        }
        json!({"static_resources": {"clusters": clusters, "listeners": [{
            "name": "in", "address": envoy_address(listen),
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}]}})
    }
}

fn envoy_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn envoy_cluster(name: &str, instances: &[SocketAddr]) -> Value {
    let endpoints: Vec<_> =
        instances.iter().map(|address| json!({"endpoint": {"address": envoy_address(*address)}})).collect();
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}})
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
        assert_eq!(world(true).targets().len(), 100);
    }

    #[test]
    fn plain_has_one_instance_and_no_rule() {
        let snapshot = world(false).snapshot();
        assert_eq!((snapshot.instances().len(), snapshot.rules().len()), (1, 0));
    }
}
