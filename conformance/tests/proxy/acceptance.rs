//! The lines of the acceptance list that are about routing and faults (spec/control-and-proxy.md 6), each as a test that
//! names it, on real processes. The ancestors built configurations for another proxy: what these said is asked here of the
//! proxy that serves, by what it does and by how it explains itself.
//!
//! P08 and P09 are tested with the listeners that they are about, and 5.1 and 5.2 in `routing.rs` and `faults.rs`.

use std::time::Duration;

use conformance::eventually::never;
use conformance::{Cluster, Origin, Proxy, eventually, get, post};
use serde_json::{Value, json};

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
}

/// A proxy with this identity, and instances: service, tags, address.
fn scene(identity: &str, instances: &[(&str, &[&str], String)]) -> Scene {
    let cluster = Cluster::start();
    for (service, tags, address) in instances {
        cluster.registry.register(service, tags, address);
    }
    let proxy = cluster.proxy_with(identity, super::ENGINE);
    proxy.await_instances(instances.len());
    Scene { proxy, cluster }
}

fn echo(label: &str) -> (Origin, String) {
    let origin = Origin::echo(label);
    let address = origin.address().to_string();
    (origin, address)
}

impl Scene {
    fn explained(&self, query: &str) -> Value {
        self.proxy.admin(&format!("/explain?{query}")).expect(200).json()
    }

    /// The addresses among which a service's backend balances.
    fn hosts(&self, service: &str) -> Vec<String> {
        let explained = self.explained(&format!("path=/{service}/x"));
        let instances = explained["instances"].as_array().unwrap().iter();
        instances.map(|instance| instance["address"].as_str().unwrap().to_owned()).collect()
    }

    /// Backends and their shares, in the order of the rule.
    fn shares(&self, service: &str) -> Vec<(String, f64)> {
        let explained = self.explained(&format!("path=/{service}/x"));
        let backends = explained["backends"].as_array().unwrap().iter();
        backends
            .map(|backend| (backend["dst"].as_str().unwrap().to_owned(), backend["share"].as_f64().unwrap()))
            .collect()
    }
}

fn to(backends: Value) -> Value {
    json!([{"destination": "service1", "route": { "backends": backends }}])
}

#[test]
fn p01_what_is_left_goes_to_the_backend_without_a_weight() {
    let scene = scene("gateway", &[("service1", &["tag1", "tag2"], "127.0.0.1:1".to_owned())]);
    scene.cluster.control.write(to(json!([{"tags": ["tag1"], "weight": 0.25}, {"tags": ["tag2", "tag1"]}])));
    let expected = [("service1:tag1".to_owned(), 0.25), ("service1:tag1,tag2".to_owned(), 0.75)];
    assert_eq!(scene.shares("service1"), expected, "names filled in, tags sorted");
}

#[test]
fn p02_one_backend_without_a_weight_gets_everything() {
    let scene = scene("gateway", &[("service1", &["tag1"], "127.0.0.1:1".to_owned())]);
    scene.cluster.control.write(to(json!([{"tags": ["tag1"]}])));
    assert_eq!(scene.shares("service1"), [("service1:tag1".to_owned(), 1.0)]);
}

#[test]
fn p03_a_service_and_its_tags_are_one_text_in_one_order() {
    let (_origin, address) = echo("o");
    let (service, tags) = ("service_X", ["B=2", "C=3", "A=1"]);
    let scene = scene("own_name:z_1,y=2", &[(service, &tags, address)]);
    scene.cluster.control.write(json!([
        {"destination": service, "match": {"source": {"name": "own_name", "tags": ["y=2", "z_1"]}},
         "route": {"backends": [{"tags": tags}]}}]));
    let answer = get("/service_X/x").header("X-Request-Id", "key").call(scene.proxy.http);
    assert_eq!(answer.by(), "o", "the proxy's own text is read back");
    let line = scene.proxy.logged("key");
    assert_eq!(line["dst"], "service_X:A=1,B=2,C=3");
    assert!(line["src"].as_str().unwrap().starts_with("own_name:"), "{line}");
}

#[test]
fn p04_every_service_and_choice_of_tags_is_a_backend_with_its_own_settings() {
    let at = |host: u8| format!("127.0.0.{host}:1");
    let scene = scene("gateway", &[("service1", &["tag1", "tag2"], at(1)), ("service2", &[], at(2))]);
    scene.cluster.control.write(json!([
        {"id": "b", "destination": "service1", "route": {"backends": [{"tags": ["tag1"]}]}},
        {"id": "a", "destination": "service1", "match": {"headers": {"X-Both": "yes"}},
         "route": {"backends": [{"tags": ["tag1", "tag2"], "lb_type": "random"}]}},
    ]));
    for (query, dst, lb) in [
        ("path=/service1/x", "service1:tag1", "round_robin"),
        ("path=/service1/x&header=X-Both:yes", "service1:tag1,tag2", "random"),
        ("path=/service2/x", "service2", "round_robin"),
    ] {
        let explained = scene.explained(query);
        assert_eq!(explained["outcome"]["dst"], dst, "{explained}");
        assert_eq!(explained["lb_type"], lb, "{explained}");
    }
}

#[test]
fn p05_an_instance_belongs_to_a_backend_if_it_has_all_of_its_tags() {
    let at = |host: u8| format!("127.0.0.{host}:1");
    let cart = "shoppingCart";
    let scene = scene(
        "gateway",
        &[
            (cart, &[], at(1)),
            (cart, &["first", "third"], at(2)),
            (cart, &["first", "second"], at(3)),
            (cart, &["second"], at(4)),
        ],
    );
    assert_eq!(scene.hosts(cart).len(), 4, "without a rule: all of them");
    for (tags, count) in [(json!(["first"]), 2), (json!(["first", "second"]), 1), (json!(["fourth"]), 0)] {
        let rule = json!({"destination": cart, "route": {"backends": [{ "tags": tags }]}});
        scene.cluster.control.replace(json!([rule]));
        assert_eq!(scene.hosts(cart).len(), count, "{tags}");
        let status = scene.proxy.get("/shoppingCart/x");
        if count == 0 {
            status.expect_refusal(503, "no_instances");
        }
    }
}

#[test]
fn p06_only_actions_for_the_proxys_own_identity_are_its_faults() {
    let (_origin, address) = echo("o");
    let scene = scene("reviews:v1", &[("ratings", &["v1"], address)]);
    let from =
        |tag: &str, headers: Value| json!({"source": {"name": "reviews", "tags": [tag]}, "headers": headers});
    let act = |id: &str, matching: Value, action: Value| json!({"id": id, "priority": 1, "destination": "ratings", "match": matching, "actions": [action]});
    let delay = || json!({"action": "delay", "duration": 7});
    let cookie = json!({"Cookie": "^(.*?;)?(user=jason)(;.*)?$"});
    let abort = json!({"action": "abort", "return_code": 418, "probability": 0.8});
    scene.cluster.control.write(json!([
        act("not-mine", json!({"source": {"name": "reviews", "tags": ["v2"]}}), delay()),
        act("slow", from("v1", cookie), delay()),
        act("broken", from("v1", json!({"test": "myval"})), abort),
        {"id": "way", "destination": "ratings", "route": {"backends": [{"tags": ["v1"]}]}},
    ]));
    // Neither fault is for a request without the headers, and the first is for another proxy.
    assert_eq!(scene.proxy.get("/ratings/x").by(), "o");
    let explained = scene.explained("path=/ratings/x");
    assert!(explained["action_rules"].as_array().unwrap().iter().all(|rule| rule["matched"] == false));
    let jason = scene.explained("path=/ratings/x&header=Cookie:user%3Djason");
    assert_eq!((&jason["outcome"]["delay"], &jason["outcome"]["kind"]), (&json!(7.0), &json!("forward")));
    let tried = scene.explained("path=/ratings/x&header=test:myval");
    assert_eq!(tried["actions"][0]["probability"], 0.8, "{tried}");
    let aborted = (0..100)
        .filter(|number| {
            let request =
                get("/ratings/x").header("test", "myval").header("X-Request-Id", number.to_string());
            request.call(scene.proxy.http).status == 418
        })
        .count();
    // Five standard deviations.
    assert!((60..=98).contains(&aborted), "{aborted} of 100");
}

#[test]
fn p07_faults_apply_to_the_destination_of_their_rule_only() {
    let (_origin, address) = echo("o");
    let scene = scene("gateway", &[("ratings", &["v1"], address.clone()), ("details", &["v1"], address)]);
    scene.cluster.control.write(json!([
        {"id": "broken", "destination": "ratings", "match": {"headers": {"X-User": "jason"}},
         "actions": [{"action": "abort", "return_code": 418}]},
        {"id": "seen", "destination": "ratings", "match": {"headers": {"X-User": "joe"}},
         "actions": [{"action": "trace", "log_key": "joe", "log_value": "yes"}]},
    ]));
    for user in ["jason", "joe"] {
        let id = format!("details-{user}");
        let request = get("/details/x").header("X-User", user).header("X-Request-Id", &id);
        assert_eq!(request.call(scene.proxy.http).by(), "o", "{user}");
        let line = scene.proxy.logged(&id);
        assert_eq!((&line["response_flags"], line.get("joe")), (&json!("-"), None), "{line}");
    }
    get("/ratings/x").header("X-User", "jason").call(scene.proxy.http).expect_refusal(418, "fault_abort");
    let metrics = scene.proxy.metrics();
    let faults = |service: &str| metrics.sum("a8_proxy_faults_total", &[&format!(r#"service="{service}""#)]);
    assert!((faults("ratings") - 1.0).abs() < 0.1 && faults("details") < 0.1);
}

/// There is no discovery API inside of the process any more (3.1): what it told Envoy is what the proxy dials.
#[test]
fn p10_the_hosts_of_each_service_are_known_and_a_lost_catalogue_changes_none() {
    let own = |text: &str| text.to_owned();
    let mut scene = scene(
        "gateway",
        &[
            ("shoppingCart", &[], own("localhost:80")),
            ("shoppingCart", &[], own("127.0.0.5:5050")),
            ("shoppingCart", &["first", "second"], own("127.0.0.4:3050")),
            ("Orders", &[], own("132.68.5.6:1010")),
            ("Orders", &[], own("132.68.5.6:1011")),
            ("Orders", &[], own("132.68.5.6:1012")),
            ("Reviews", &[], own("132.68.5.7:1010")),
        ],
    );
    scene.cluster.registry.register_https("httpsService", "127.0.0.6");
    scene.proxy.await_instances(8);
    let known = |scene: &Scene| {
        ["shoppingCart", "Orders", "Reviews", "httpsService"].map(|service| scene.hosts(service))
    };
    let hosts = known(&scene);
    // One more than the ancestor's: host names are resolved (3.6).
    assert_eq!(hosts.each_ref().map(Vec::len), [3, 3, 1, 1], "{hosts:?}");
    assert!(
        hosts[0].contains(&own("localhost:80")) && hosts[0].contains(&own("127.0.0.4:3050")),
        "{hosts:?}"
    );
    assert_eq!(hosts[3], ["https://127.0.0.6:443"]);
    scene.proxy.get("/stranger/x").expect_refusal(404, "unknown_service");
    scene.proxy.get("//x").expect_refusal(404, "unknown_service");
    scene.cluster.registry.kill();
    never(Duration::from_millis(500), "what was known stays", || {
        if known(&scene) == hosts { Ok(()) } else { Err(format!("{:?}", known(&scene))) }
    });
}

#[test]
fn p11_only_what_differs_for_requests_makes_another_table() {
    let scene = scene("gateway", &[]);
    let at = scene.cluster.registry.address();
    let register = |service: &str, ttl: u32| {
        let body = json!({"service_name": service, "tags": ["t"], "ttl": ttl,
            "endpoint": {"type": "http", "value": "127.0.0.1:1"}});
        post("/api/v1/instances", &body).call(at).expect(201).json()["id"].as_str().unwrap().to_owned()
    };
    let services = || {
        let state = scene.proxy.admin("/state").expect(200).json();
        let instances = state["instances"].as_array().unwrap().iter();
        instances.map(|instance| instance["service_name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let swaps = || scene.proxy.metrics().sum("a8_proxy_table_swaps_total", &[]);
    let id = register("shop", 300);
    let other = register("cart", 300);
    scene.proxy.await_instances(2);
    let before = swaps();
    let renew = conformance::put(format!("/api/v1/instances/{id}/heartbeat"), &json!({}));
    let _ = renew.call(at).expect(200);
    never(Duration::from_millis(300), "the table stays", || {
        let now = swaps();
        if now > before + 0.5 { Err(format!("{now} instead of {before}")) } else { Ok(()) }
    });
    // Control has to know of another lease, for as long as the registry is away; no request notices.
    let hosts = scene.hosts("shop");
    assert_eq!(register("shop", 400), id, "the same instance");
    eventually("the lease is told on", || {
        let state = scene.proxy.admin("/state").expect(200).json();
        let leases = state["instances"].as_array().unwrap().iter().map(|instance| instance["ttl"].clone());
        let leases: Vec<_> = leases.collect();
        if leases.contains(&json!(400)) { Ok(()) } else { Err(format!("{leases:?}")) }
    });
    assert_eq!(scene.hosts("shop"), hosts);
    for (change, expected) in [("missing", "shop"), ("renamed", "store")] {
        let before = swaps();
        if change == "missing" {
            scene.cluster.registry.deregister(&other);
        } else {
            scene.cluster.registry.deregister(&id);
            register(expected, 300);
        }
        eventually(change, || match services() {
            found if found == [expected] => Ok(()),
            found => Err(format!("{found:?}")),
        });
        assert!(swaps() > before + 0.5, "{change}");
    }
}
