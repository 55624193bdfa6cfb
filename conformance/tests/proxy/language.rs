//! What rules may ask of a request and do to it beyond the ancestors' language: each clause, each way to name a service,
//! answers of a rule's own and header edits. Which rule wins is tested elsewhere.

use conformance::{Cluster, Origin, Proxy, Request, get, post};
use serde_json::{Value, json};

struct Scene {
    proxy: Proxy,
    cluster: Cluster,
    _origins: Vec<Origin>,
}

/// `shop` in three versions, which echo theirs.
fn scene() -> Scene {
    let cluster = Cluster::start();
    let origins = ["1.3.9", "1.4.2", "2.0.0"].map(|version| {
        let origin = Origin::echo(version);
        cluster.registry.register("shop", &[&format!("version={version}")], origin.address());
        origin
    });
    let proxy = cluster.proxy_with("gateway:version=1.0", super::ENGINE);
    proxy.await_instances(3);
    Scene { proxy, cluster, _origins: origins.into() }
}

/// A rule that sends what matches to 2.0.0; everything else goes to 1.3.9.
fn asks(matching: Value) -> Value {
    json!([
        {"id": "asks", "priority": 1, "destination": "shop", "match": matching,
         "route": {"backends": [{"tags": ["version=2.0.0"]}]}},
        {"id": "otherwise", "destination": "shop", "route": {"backends": [{"tags": ["version=1.3.9"]}]}},
    ])
}

#[test]
fn a_rule_may_ask_for_method_path_query_and_authority() {
    let scene = scene();
    let hosted = |host: &str| get("/shop/x").header("Host", host);
    let cases: [(Value, Vec<(Request, bool)>); 6] = [
        (
            json!({"method": ["POST", "PUT"]}),
            vec![(post("/shop/x", &json!({})), true), (get("/shop/x"), false)],
        ),
        (
            json!({"path": {"exact": "/shop/x"}}),
            vec![(get("/shop/x?a=b"), true), (get("/shop/x/"), false), (get("/shop/X"), false)],
        ),
        (json!({"path": {"prefix": "/shop/ad"}}), vec![(get("/shop/admin"), true), (get("/shop/a"), false)]),
        (
            json!({"path": {"regex": "/shop/[0-9]+"}}),
            vec![(get("/shop/17"), true), (get("/shop/17/x"), false), (get("/shop/%31"), false)],
        ),
        (
            json!({"query": {"debug": "1|true|"}}),
            vec![
                (get("/shop/x?a=b&debug=1"), true),
                (get("/shop/x?debug"), true),
                (get("/shop/x?debug=no&debug=true"), true),
                (get("/shop/x?debug=11"), false),
                (get("/shop/x"), false),
            ],
        ),
        (
            json!({"authority": "(?i)shop[.]example(:[0-9]+)?"}),
            vec![(hosted("Shop.Example:81"), true), (hosted("shop.example.org"), false)],
        ),
    ];
    for (matching, requests) in cases {
        scene.cluster.control.replace(asks(matching.clone()));
        for (request, holds) in requests {
            let expected = if holds { "2.0.0" } else { "1.3.9" };
            assert_eq!(request.call(scene.proxy.http).by(), expected, "{matching}: {request:?}");
        }
    }
}

#[test]
fn an_explanation_names_every_rule_that_was_tried_and_the_clause_that_failed() {
    let scene = scene();
    let to = |id: &str, priority: u32, matching: Value| {
        json!({"id": id, "priority": priority, "destination": "shop", "match": matching,
            "route": {"backends": [{"tags": ["version=2.0.0"]}]}})
    };
    scene.cluster.control.write(json!([
        to("a", 9, json!({"method": "PUT"})),
        to("b", 8, json!({"path": {"prefix": "/shop/admin"}})),
        to("c", 7, json!({"query": {"debug": "1"}})),
        to("d", 6, json!({"authority": "shop[.]example"})),
        to("e", 5, json!({"headers": {"X-User": "jason"}})),
        to("f", 4, json!({"source": {"name": "other"}})),
        to("g", 3, json!({"none": [{"method": "GET"}]})),
        {"id": "h", "priority": 2, "destination": "shop", "route": {"backends": [{"tags": ["version=1.3.9"]}]}},
        to("i", 1, json!({"method": "GET"})),
        {"id": "faults", "destination": "shop", "match": {"headers": {"X-Fail": "1"}},
         "actions": [{"action": "abort", "return_code": 500}]},
    ]));
    let explained = scene.proxy.admin("/explain?path=/shop/x&header=X-User:secret-joe").expect(200);
    let notes = explained.json()["rules"].as_array().unwrap().clone();
    let ids: Vec<_> = notes.iter().map(|note| note["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["a", "b", "c", "d", "e", "f", "g", "h"], "in order, up to the one that matched");
    let clauses = ["method", "path", "parameter debug", "authority", "header X-User", "source other", "none"];
    for (note, clause) in notes.iter().zip(clauses) {
        assert!(note["matched"] == false && note["why"].as_str().unwrap().contains(clause), "{note}");
    }
    assert_eq!((&notes[7]["matched"], notes[7].get("why")), (&json!(true), None));
    let action = explained.json()["action_rules"][0].clone();
    assert!(action["id"] == "faults" && action["why"].as_str().unwrap().contains("X-Fail"), "{action}");
    assert!(!explained.text().contains("secret-joe"), "values hold credentials");
    assert_eq!(scene.proxy.get("/shop/x").by(), "1.3.9");
}

#[test]
fn a_tag_may_be_a_range_of_versions() {
    let scene = scene();
    for (tag, meets) in [
        ("version=^1.4", &["1.4.2"][..]),
        ("version=~1.3", &["1.3.9"]),
        ("version=>=1.4 <3", &["1.4.2", "2.0.0"]),
        ("version=2.0.0", &["2.0.0"]),
        ("version=^3", &[]),
    ] {
        let rule = json!({"destination": "shop", "route": {"backends": [{"tags": [tag]}]}});
        scene.cluster.control.replace(json!([rule]));
        for number in 0..6 {
            match meets.get(number % meets.len().max(1)) {
                // Round robin begins anywhere.
                Some(_) => assert!(meets.contains(&&*scene.proxy.get("/shop/x").by()), "{tag}"),
                None => scene.proxy.get("/shop/x").expect_refusal(503, "no_instances"),
            }
        }
    }
    scene.cluster.control.replace(asks(json!({"source": {"name": "gateway", "tags": ["version=^1"]}})));
    assert_eq!(scene.proxy.get("/shop/x").by(), "2.0.0", "the proxy's own version is in the range");
}

#[test]
fn a_service_is_named_by_path_by_host_and_by_edge_rules() {
    let scene = scene();
    let at = |host: &str, target: &str| get(target).header("Host", host).call(scene.proxy.http);
    for (host, target, arrives) in [
        ("anything", "/shop/a/b?c", "/a/b?c"),
        ("shop.a8", "/a/b?c", "/a/b?c"),
        ("shop.default.A8:6379", "/a", "/a"),
    ] {
        assert_eq!(at(host, target).expect(200).json()["target"], arrives, "{host} {target}");
    }
    at("shop.elsewhere.a8", "/a").expect_refusal(404, "unknown_service");
    scene.cluster.control.write(json!([
        {"id": "front", "destination": "shop", "route": {"edge": {"host": "www.example"}}},
        {"id": "api", "priority": 1, "destination": "shop", "route": {
            "edge": {"host": "*.example", "path_prefix": "/api/v1", "prefix_rewrite": "/"},
            "backends": [{"tags": ["version=2.0.0"]}]}},
        {"id": "otherwise", "destination": "shop", "route": {"backends": [{"tags": ["version=1.3.9"]}]}},
    ]));
    let front = at("www.example:80", "/a?b").expect(200).json();
    assert_eq!((&front["target"], &front["by"]), (&json!("/a?b"), &json!("1.3.9")));
    let api = at("x.example", "/api/v1/a?b").expect(200).json();
    assert_eq!((&api["target"], &api["by"]), (&json!("/a?b"), &json!("2.0.0")));
    at("x.example", "/api/v10/a").expect_refusal(404, "unknown_service");
}

#[test]
fn a_rule_may_answer_by_itself_and_redirect() {
    let scene = scene();
    scene.cluster.control.write(json!([
        {"id": "closed", "destination": "closed", "route": {"response": {
            "status": 503, "body": "back at noon", "headers": {"Retry-After": "3600"}}}},
        {"id": "moved", "destination": "old", "route": {"redirect": {
            "status": 308, "scheme": "https", "host": "new.example", "prefix_rewrite": "/v2"}}},
        {"id": "slow-closed", "destination": "closed", "match": {"method": "DELETE"},
         "actions": [{"action": "abort", "return_code": 418}]},
    ]));
    let answer = scene.proxy.get("/closed/x").expect(503);
    assert_eq!((answer.text().as_str(), answer.header("Retry-After")), ("back at noon", "3600"));
    let answer = scene.proxy.get("/old/a?b=c").expect(308);
    assert_eq!(answer.header("Location"), "https://new.example/v2/a?b=c");
    let aborted = conformance::delete("/closed/x").call(scene.proxy.http);
    aborted.expect_refusal(418, "fault_abort");
    let answers =
        scene.proxy.metrics().sum("a8_proxy_requests_total", &[r#"rule="closed""#, r#"code="503""#]);
    assert!((answers - 1.0).abs() < 0.1, "{answers}");
}

#[test]
fn a_route_edits_what_passes_in_both_directions() {
    let cluster = Cluster::start();
    let origin = Origin::with(|exchange| {
        let seen: Vec<_> = ["x-debug", "x-variant", "x-kept"]
            .iter()
            .map(|name| exchange.head.all(name).collect::<Vec<_>>().join("+"))
            .collect();
        exchange.answer(200, &["X-Secret: 1", "X-By: origin"], seen.join("|"))
    });
    cluster.registry.register("s", &["t"], origin.address());
    let proxy = cluster.proxy_with("gateway", super::ENGINE);
    proxy.await_instances(1);
    cluster.control.write(json!([{"destination": "s", "route": {"backends": [{"tags": ["t"]}], "headers": {
        "request": {"set": {"X-Variant": "b"}, "add": {"X-Kept": "2"}, "remove": ["X-Debug"]},
        "response": {"remove": ["X-Secret"], "add": {"X-By": "proxy"}}}}}]));
    let request = get("/s/x").header("X-Debug", "1").header("X-Variant", "a").header("X-Kept", "1");
    let answer = request.call(proxy.http).expect(200);
    assert_eq!(answer.text(), "|b|1+2");
    assert_eq!(answer.head.all("x-by").collect::<Vec<_>>(), ["origin", "proxy"]);
    assert_eq!(answer.head.field("x-secret"), None);
}
