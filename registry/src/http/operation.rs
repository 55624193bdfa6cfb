//! What the routes are called in logs and metrics, and which methods they have. A table, so that labels stay
//! bounded; the routes themselves are in [`super::router`].

use http::Method;

/// The name of a request that met no route, or a route but no method of it.
pub(super) const UNROUTED: &str = "Unrouted";

const OPERATIONS: &[(&str, Method, &str)] = &[
    ("/", Method::GET, "GetHealth"),
    ("/uptime", Method::GET, "GetInfo"),
    ("/metrics", Method::GET, "GetMetrics"),
    ("/openapi.json", Method::GET, "GetOpenApi"),
    ("/api/v1/instances", Method::POST, "Register"),
    ("/api/v1/instances", Method::GET, "ListInstances"),
    ("/api/v1/instances/{id}", Method::DELETE, "Deregister"),
    ("/api/v1/instances/{id}/heartbeat", Method::PUT, "Renew"),
    ("/api/v1/instances//heartbeat", Method::PUT, "Renew"),
    ("/api/v1/heartbeats", Method::PUT, "RenewMany"),
    ("/api/v1/services", Method::GET, "ListServices"),
    ("/api/v1/services/{name}", Method::GET, "ListServiceInstances"),
    ("/api/v1/watch", Method::GET, "Watch"),
];

/// The operation of a method on a matched path.
pub(super) fn name(path: Option<&str>, method: &Method) -> &'static str {
    let found = OPERATIONS.iter().find(|(route, verb, _)| path == Some(route) && verb == method);
    found.map_or(UNROUTED, |(_, _, name)| name)
}

/// The value of `Allow` for a matched path.
pub(super) fn allowed(path: &str) -> &'static str {
    match path {
        "/api/v1/instances" => "GET, POST",
        "/api/v1/instances/{id}" => "DELETE",
        "/api/v1/heartbeats" | "/api/v1/instances/{id}/heartbeat" | "/api/v1/instances//heartbeat" => "PUT",
        _ => "GET",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::openapi::described;

    #[test]
    fn what_has_a_name_is_what_is_described() {
        // An empty inner segment is the same route, with nothing in it.
        let routes = OPERATIONS.iter().filter(|(path, _, _)| *path != "/api/v1/instances//heartbeat");
        let named: BTreeSet<_> =
            routes.map(|(path, method, _)| (method.to_string(), (*path).to_owned())).collect();
        let mut described = described();
        described.retain(|(_, path)| !path.starts_with("/eureka/"));
        assert_eq!(named, described);
    }

    #[test]
    fn every_operation_is_among_the_allowed_methods_of_its_path() {
        for (path, method, operation) in OPERATIONS {
            assert!(allowed(path).contains(method.as_str()), "{path} {method}");
            assert_eq!(name(Some(path), method), *operation);
        }
        assert_eq!(name(Some("/"), &Method::POST), UNROUTED);
        assert_eq!(name(None, &Method::GET), UNROUTED);
    }
}
