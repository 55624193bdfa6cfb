//! Two tenants with equal names in one fabric (`--auth_mode trusted`) never see each other: not in the registry, not in
//! control, not through their proxies.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use conformance::{Cluster, Origin, Proxy, Request, delete, get, post};
use serde_json::{Value, json};

const TRUSTED: &[(&str, &str)] = &[("auth_mode", "trusted")];

struct Tenant {
    token: &'static str,
    id: String,
    _origins: [Origin; 2],
    proxy: Proxy,
}

/// The same services, tags and rule ids for both; only the labels of the origins differ.
fn tenant(cluster: &Cluster, token: &'static str, tag: &str) -> Tenant {
    let origins = ["v1", "v2"].map(|version| Origin::echo(&format!("{token}-{version}")));
    let ids = [0, 1].map(|at| {
        let tag = format!("v{}", at + 1);
        cluster.registry.register_as(Some(token), "shop", &[tag.as_str()], origins[at].address())
    });
    let proxy = cluster.proxy_with("gateway", &[("controller_token", token)]);
    proxy.await_instances(2);
    cluster.control.write_as(Some(token), json!([to(tag)]));
    let [id, _] = ids;
    Tenant { token, id, _origins: origins, proxy }
}

fn to(tag: &str) -> Value {
    json!({"id": "r", "destination": "shop", "route": {"backends": [{"tags": [tag]}]}})
}

fn tenants() -> (Cluster, Tenant, Tenant) {
    let cluster = Cluster::start_with(TRUSTED, TRUSTED);
    let alpha = tenant(&cluster, "alpha", "v1");
    let beta = tenant(&cluster, "beta", "v2");
    (cluster, alpha, beta)
}

#[test]
fn neither_registry_nor_control_shows_one_tenant_to_the_other() {
    let (cluster, alpha, beta) = tenants();
    let (registry, control) = (cluster.registry.address(), cluster.control.address());
    for tenant in [&alpha, &beta] {
        let other = if tenant.token == "alpha" { &beta } else { &alpha };
        let ask = |request: Request, at| request.token(tenant.token).call(at);
        let list = ask(get("/api/v1/instances"), registry).expect(200).json();
        assert_eq!(list["instances"].as_array().unwrap().len(), 2, "{list}");
        assert!(!list.to_string().contains(&other.id), "{list}");
        let watched = ask(get("/api/v1/watch?index=0"), registry).expect(200);
        assert!(!watched.text().contains(&other.id));
        let rules = ask(get("/v1/rules"), control).expect(200).json();
        assert_eq!((rules["rules"].as_array().unwrap().len(), &rules["revision"]), (1, &json!(1)), "{rules}");
        let snapshot = ask(get("/v1/watch?node=curious&index=0"), control).expect(200);
        assert!(!snapshot.text().contains(&other.id));
        let proxies = ask(get("/v1/proxies"), control).expect(200).json();
        let nodes: Vec<_> =
            proxies["proxies"].as_array().unwrap().iter().map(|p| p["node"].clone()).collect();
        let own = if tenant.token == "alpha" { "node-0" } else { "node-1" };
        assert!(nodes.contains(&json!(own)) && nodes.len() == 2, "own and the curious one: {nodes:?}");
        // Another tenant's id is as good as unknown.
        let _ = ask(delete(format!("/api/v1/instances/{}", other.id)), registry).expect(410);
        let _ = ask(Request::new("PUT", format!("/api/v1/instances/{}/heartbeat", other.id)), registry)
            .expect(410);
        assert!(!tenant.proxy.admin("/state").text().contains(&other.id));
    }
}

#[test]
fn traffic_and_rules_of_one_tenant_leave_the_other_alone() {
    let (cluster, alpha, beta) = tenants();
    let serves = |alpha_by: &str, beta_by: &str| {
        for _ in 0..5 {
            assert_eq!(alpha.proxy.get("/shop/x").by(), alpha_by);
            assert_eq!(beta.proxy.get("/shop/x").by(), beta_by);
        }
    };
    serves("alpha-v1", "beta-v2");
    cluster.control.write_as(Some("alpha"), json!([to("v2")]));
    serves("alpha-v2", "beta-v2");
    let at = cluster.control.address();
    let _ = delete("/v1/rules").token("alpha").call(at).expect(200);
    assert_eq!(get("/v1/rules").token("beta").call(at).json()["rules"][0]["id"], "r");
    cluster.control.write_as(
        Some("beta"),
        json!([{"id": "f", "destination": "shop", "actions": [{"action": "abort", "return_code": 418}]}]),
    );
    assert_eq!(beta.proxy.get("/shop/x").status, 418);
    assert_eq!(alpha.proxy.get("/shop/x").status, 200);
}

#[test]
fn tokens_are_required_and_admin_must_name_its_tenant() {
    let (cluster, _alpha, _beta) = tenants();
    let (registry, control) = (cluster.registry.address(), cluster.control.address());
    for target in ["/api/v1/instances", "/api/v1/services", "/api/v1/watch"] {
        let _ = get(target).call(registry).expect(401);
    }
    for target in ["/v1/rules", "/v1/watch?node=x", "/v1/proxies"] {
        assert_eq!(
            get(target).call(control).expect(401).json()["error"],
            "error_auth_header_missing",
            "{target}"
        );
    }
    let admin = || get("/v1/rules").token("admin");
    assert_eq!(admin().call(control).expect(400).json()["error"], "missing_namespace_header");
    let named = admin().header("A8-Namespace", "beta").call(control).expect(200).json();
    assert_eq!(named["rules"][0]["route"]["backends"][0]["tags"], json!(["v2"]));
    // A new tenant begins with nothing and needs no creation.
    let body = json!({"rules": [to("v1")]});
    assert_eq!(post("/v1/rules", &body).token("gamma").call(control).expect(201).header("A8-Revision"), "1");
    let _ = get("/").call(registry).expect(200);
    let _ = get("/health").call(control).expect(200);
}

#[test]
fn a_proxy_without_the_right_token_gets_nothing() {
    let (cluster, _alpha, _beta) = tenants();
    let dir = cluster.dir().join("stranger");
    let stranger = Proxy::start(&dir, "gateway", "stranger", cluster.control.address(), &[]);
    stranger.get("/shop/x").expect_refusal(404, "unknown_service");
    assert_eq!(stranger.admin("/readyz").status, 503);
}
