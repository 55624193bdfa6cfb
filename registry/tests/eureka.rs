//! The Eureka API over real connections, every test named after the section of spec/registry.md it holds. The bodies in
//! `fixtures` have the shapes that the clients' documentation gives; what single readers accept is tested beside them.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use serde_json::{Value, json};
use support::{Reply, Running};

const JAVA_JSON: &str = include_str!("fixtures/java_register.json");
const JAVA_XML: &str = include_str!("fixtures/java_register.xml");
const JS: &str = include_str!("fixtures/js_register.json");
const AMAZON: &str = include_str!("fixtures/amazon_register.json");

const SESSIONS: &str = include_str!("fixtures/sessions.txt");

/// The mount of the ancestor, with an empty token.
const A8: &str = "/api/eureka//v2";
const JSON: &str = "Content-Type: application/json";
const XML: &str = "Content-Type: application/xml";
const WANT_JSON: &str = "Accept: application/json";
const WANT_XML: &str = "Accept: application/xml";
const PEER: &str = "x-netflix-discovery-replication: true";

fn instance(app: &str, id: &str, more: Value) -> String {
    let mut instance = json!({"app": app, "instanceId": id, "hostName": format!("{id}.example"), "ipAddr": "10.0.0.1",
        "vipAddress": app, "port": {"$": 80, "@enabled": "true"}});
    instance.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "instance": instance }).to_string()
}

async fn register(running: &Running, app: &str, id: &str, more: Value) -> Reply {
    running.json("POST", &format!("/eureka/apps/{app}"), &instance(app, id, more)).await
}

async fn ask(running: &Running, path: &str) -> Value {
    let reply = running.send("GET", path, &[WANT_JSON], "").await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    assert!(reply.header("content-type").starts_with("application/json"), "{reply:?}");
    reply.value()
}

async fn status_of(running: &Running, method: &str, path: &str) -> u16 {
    running.send(method, path, &[], "").await.status
}

async fn one(running: &Running, app: &str, id: &str) -> Value {
    ask(running, &format!("/eureka/apps/{app}/{id}")).await["instance"].clone()
}

fn ids(applications: &Value) -> Vec<(String, String)> {
    let of = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let apps = applications["applications"]["application"].as_array().unwrap();
    let instances = apps.iter().flat_map(|app| app["instance"].as_array().unwrap());
    instances.map(|instance| (of(instance, "instanceId"), of(instance, "actionType"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(id, action)| ((*id).to_owned(), (*action).to_owned())).collect()
}

#[tokio::test]
async fn section_9_3_e1_to_e5_what_may_register() {
    let running = Running::start(&[]).await;
    let good = json!({"hostName": "localhost", "ipAddr": "127.0.0.1", "vipAddress": "v",
        "port": {"$": "8080", "@enabled": "true"}, "leaseInfo": {"durationInSecs": 30}, "metadata": {"key": "value"}});
    let with = |changes: Value| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({ "instance": body }).to_string()
    };
    let long = |length: usize| "x".repeat(length);
    for (case, body, status) in [
        ("E1", with(json!({"hostName": ""})), 400),
        ("E2", with(json!({"ipAddr": ""})), 400),
        ("E3", with(json!({"vipAddress": ""})), 400),
        ("E4", with(json!({})).replace("\"key\"", "\"key"), 400),
        ("E5", with(json!({})), 204),
        ("no instance", "{}".to_owned(), 400),
        ("no body", String::new(), 400),
        ("another application", with(json!({"app": "https"})), 400),
        ("C8", with(json!({"app": "HTTP"})), 204),
        ("metadata absent", with(json!({"metadata": null})), 204),
        ("metadata a list", with(json!({"metadata": []})), 400),
        ("metadata of 1024 bytes", with(json!({"metadata": {"k": long(1_016)}})), 204),
        ("metadata of 1025 bytes", with(json!({"metadata": {"k": long(1_017)}})), 400),
        ("host and port of 129 bytes", with(json!({"hostName": long(124)})), 400),
        ("status of 33 bytes", with(json!({"status": long(33)})), 400),
        ("id of 257 bytes", with(json!({"instanceId": long(257)})), 400),
        ("too much of the rest", with(json!({"homePageUrl": long(9_000)})), 400),
        ("unknown data center without an id", with(json!({"dataCenterInfo": {"name": "Moon"}})), 400),
        (
            "unknown data center with an id",
            with(json!({"dataCenterInfo": {"name": "Moon"}, "instanceId": "i"})),
            204,
        ),
        ("an enabled port that is none", with(json!({"port": {"$": -1, "@enabled": "true"}})), 400),
        ("a disabled port that is none", with(json!({"securePort": {"$": -1, "@enabled": "false"}})), 204),
    ] {
        let reply = running.json("POST", &format!("{A8}/apps/http"), &body).await;
        assert_eq!(reply.status, status, "{case}: {reply:?}");
        assert_eq!(reply.body.is_empty(), status == 204, "{case}");
        assert!(status == 204 || reply.is_error(), "{case}");
    }
    let long = long(65);
    assert_eq!(register(&running, &long, "i", json!({})).await.status, 400, "name of 65 bytes");
    running.stop().await;
}

#[tokio::test]
async fn section_9_3_e6_to_e16_the_life_of_the_ancestors_clients() {
    for (profile, unknown) in [("amalgam8", 410), ("netflix", 404)] {
        let running = Running::start(&["--eureka_compat", profile]).await;
        let app = format!("{A8}/apps/http");
        for id in ["http-1", "http-2"] {
            let body = instance("http", id, json!({"status": "STARTING", "metadata": {"k": 1}}));
            assert_eq!(running.json("POST", &app, &body).await.status, 204);
        }
        // E15.
        let reply = running.send("GET", &app, &[JSON], "").await;
        let application = reply.value()["application"].clone();
        assert_eq!(application["name"], if profile == "netflix" { "HTTP" } else { "http" }, "C5");
        let instances = application["instance"].as_array().unwrap();
        assert_eq!(instances.len(), 2);
        for instance in instances {
            assert_eq!((&instance["status"], &instance["metadata"]), (&json!("STARTING"), &json!({"k": 1})));
        }
        // E10 to E14.
        for (method, path, status) in [
            ("PUT", "http-1", 200),
            ("PUT", "http-2", 200),
            ("PUT", "http-3", unknown),
            ("PUT", "http-1/status?value=UP", 200),
            ("PUT", "http-2/status?value=DOWN", 200),
            ("PUT", "http-3/status?value=UNKNOWN", 404),
        ] {
            assert_eq!(
                status_of(&running, method, &format!("{app}/{path}")).await,
                status,
                "{method} {path}"
            );
        }
        for (id, status) in [("http-1", "UP"), ("http-2", "DOWN")] {
            let reply = running.send("GET", &format!("{app}/{id}"), &[JSON], "").await;
            assert_eq!(reply.value()["instance"]["status"], status);
        }
        // E6 to E8.
        for (id, status) in [("http-1", 200), ("http-2", 200), ("http-2", unknown), ("http-3", unknown)] {
            assert_eq!(status_of(&running, "DELETE", &format!("{app}/{id}")).await, status, "{id}");
        }
        // E9, E16: C3. And C4, C7.
        for (path, name) in [("http", "http"), ("https", "https")] {
            let reply = running.send("GET", &format!("{A8}/apps/{path}"), &[JSON], "").await;
            if profile == "netflix" {
                assert_eq!(reply.status, 404);
            } else {
                assert_eq!((reply.status, reply.value()), (200, json!({"application": {"name": name}})));
            }
        }
        let vip = running.send("GET", &format!("{A8}/vips/none"), &[JSON], "").await;
        let delta = running.send("GET", &format!("{A8}/apps/delta"), &[JSON], "").await.value();
        if profile == "netflix" {
            assert_eq!(vip.status, 404);
            assert_eq!(ids(&delta), pairs(&[("http-1", "DELETED"), ("http-2", "DELETED")]));
        } else {
            assert_eq!((vip.status, vip.value()), (200, json!({"applications": {}})));
            assert_eq!(delta, json!({"application": {"name": "delta"}}));
            let lower = running.json("POST", &app, &instance("HTTP", "i", json!({}))).await;
            assert_eq!(lower.status, 400, "C8");
            assert!(running.send("GET", &format!("{A8}/apps"), &[], "").await.text().starts_with('{'), "C6");
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn section_3_1_every_mount_serves_the_same_and_tokens_are_judged() {
    let running = Running::start(&["--auth_mode", "trusted"]).await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    // dTphIGI= is `u:a b`.
    let basic = "Authorization: Basic dTphIGI=";
    let register = |path: String, headers: Vec<String>, id: &'static str| {
        let running = &running;
        async move {
            let headers: Vec<&str> = headers.iter().map(String::as_str).chain([JSON]).collect();
            running.send("POST", &path, &headers, &instance("A", id, json!({}))).await.status
        }
    };
    for (mount, header, status) in [
        ("/api/eureka/a%20b/v2", "", 204),
        ("/api/eureka/other/v2", &*bearer("a b"), 204),
        ("/api/eureka/v2", &*bearer("a b"), 204),
        ("/eureka/v2", basic, 204),
        ("/eureka", basic, 204),
        ("/eureka", "", 401),
        ("/eureka", "Authorization: Basic !", 401),
        ("/api/eureka//v2", "", 401),
        ("/api/eureka//v2", basic, 401),
        ("/api/eureka/%ff/v2", "", 401),
    ] {
        let headers = if header.is_empty() { vec![] } else { vec![header.to_owned()] };
        assert_eq!(register(format!("{mount}/apps/A"), headers, "i").await, status, "{mount} {header}");
    }
    assert_eq!(register("/eureka/apps/A".to_owned(), vec![bearer("b")], "j").await, 204);
    // Section 4.4: no tenant sees another's instances, counts or overrides.
    for (token, id) in [("a%20b", "i"), ("b", "j")] {
        for path in ["apps", "apps/delta", "vips/A"] {
            let seen = ask(&running, &format!("/api/eureka/{token}/v2/{path}")).await;
            assert_eq!(ids(&seen), pairs(&[(id, "ADDED")]), "{token} {path}");
            assert_eq!(seen["applications"]["apps__hashcode"], "UP_1_");
        }
    }
    let nobody = ask(&running, "/api/eureka/nobody/v2/apps").await;
    assert_eq!(
        nobody,
        json!({"applications": {"versions__delta": "1", "apps__hashcode": "", "application": []}})
    );
    assert_eq!(status_of(&running, "PUT", "/api/eureka/b/v2/apps/A/i").await, 404);
    running.stop().await;
}

#[tokio::test]
async fn section_0_4_unknown_places_and_methods() {
    let running = Running::start(&[]).await;
    for (method, path, status) in [
        ("GET", "/eureka/nothing", 404),
        ("GET", "/eureka/", 404),
        ("GET", "/api/eureka/v3/apps", 404),
        ("GET", "/eureka/apps//i", 400),
        ("GET", "/eureka/apps/%ff", 400),
        ("POST", "/eureka/apps", 405),
        ("DELETE", "/eureka/apps/A", 405),
        ("PATCH", "/eureka/apps/A/i", 405),
        ("HEAD", "/eureka/apps", 405),
        ("GET", "/eureka/peerreplication/batch", 405),
        ("PUT", "/eureka/asg/a/status?value=ENABLED", 400),
        ("GET", "/eureka/vips/none", 404),
        ("GET", "/eureka/svips/none", 404),
        ("GET", "/eureka/instances/none", 404),
        ("PUT", "/eureka/apps/A/i/status", 400),
        ("PUT", "/eureka/apps/A/i/status?value=", 400),
        ("PUT", "/eureka/apps/A/i/status?value=SLEEPING", 400),
        ("PUT", "/eureka/apps/A/i/metadata?k=v", 404),
        ("DELETE", "/eureka/apps/A/i/status", 404),
    ] {
        let reply = running.send(method, path, &[WANT_JSON], "").await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert!(method == "HEAD" || reply.is_error(), "{method} {path}: {reply:?}");
    }
    let reply = running.send("PATCH", "/eureka/apps/A/i", &[], "").await;
    assert_eq!(reply.header("allow"), "DELETE, GET, PUT");
    let reply = running.send("POST", "/eureka/apps/A", &["Content-Type: text/plain"], "x").await;
    assert_eq!(reply.status, 415);
    let reply = running.send("POST", "/api/v1/instances", &[XML], "<a/>").await;
    assert_eq!(reply.status, 415, "XML is for Eureka clients");
    running.stop().await;
}

#[tokio::test]
async fn section_3_8_what_java_clients_send_in_xml_and_json_is_the_same() {
    let running = Running::start(&[]).await;
    let mut seen = Vec::new();
    for (label, body) in
        [(JSON, JAVA_JSON), (XML, JAVA_XML), ("Content-Type: text/xml;charset=UTF-8", JAVA_XML)]
    {
        let headers = [label, "Accept-Encoding: gzip", "DiscoveryIdentity-Name: DefaultClient"];
        let reply = running.send("POST", "/eureka/apps/ORDERS", &headers, body).await;
        assert_eq!((reply.status, reply.header("content-encoding")), (204, ""), "{reply:?}");
        let mut instance = one(&running, "ORDERS", "app-host:orders:8080").await;
        for moving in ["registrationTimestamp", "lastRenewalTimestamp", "serviceUpTimestamp"] {
            assert!(instance["leaseInfo"][moving].take().as_u64().unwrap() > 1_700_000_000_000);
        }
        assert!(instance["lastUpdatedTimestamp"].take().as_str().unwrap().parse::<u64>().is_ok());
        seen.push(instance);
        assert_eq!(status_of(&running, "DELETE", "/eureka/apps/orders/app-host%3Aorders%3A8080").await, 200);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
    let expected = json!({
        "instanceId": "app-host:orders:8080", "hostName": "app-host", "app": "ORDERS", "appGroupName": "UNKNOWN",
        "ipAddr": "10.1.2.3", "status": "UP", "overriddenstatus": "UNKNOWN",
        "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"}, "countryId": 1,
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
        "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90, "registrationTimestamp": null,
            "lastRenewalTimestamp": null, "evictionTimestamp": 0, "serviceUpTimestamp": null},
        "metadata": {"management.port": "8080", "zone": "z1"}, "homePageUrl": "http://app-host:8080/",
        "statusPageUrl": "http://app-host:8080/actuator/info", "healthCheckUrl": "http://app-host:8080/actuator/health",
        "vipAddress": "orders", "secureVipAddress": "orders", "isCoordinatingDiscoveryServer": "false",
        "lastUpdatedTimestamp": null, "lastDirtyTimestamp": "1700000000500", "actionType": "ADDED", "sid": "na"});
    assert_eq!(seen[0], expected);
    running.stop().await;
}

#[tokio::test]
async fn section_3_18_the_sessions_of_known_clients_go_as_they_need_it() {
    let running = Running::start(&[]).await;
    let bodies = [
        ("java_register.json", JAVA_JSON),
        ("java_register.xml", JAVA_XML),
        ("js_register.json", JS),
        ("amazon_register.json", AMAZON),
    ];
    let lines = SESSIONS.lines().filter(|line| !line.starts_with('#'));
    let (mut request, mut asked) = (Vec::new(), 0);
    for line in lines.filter(|line| !line.is_empty()) {
        let Some(expected) = line.strip_prefix("< ") else {
            request.push(line);
            continue;
        };
        let body = request.iter().find_map(|line| line.strip_prefix('@'));
        let body = body.map_or("", |name| bodies.iter().find(|(file, _)| *file == name).unwrap().1);
        let (method, rest) = request[0].split_once(' ').unwrap();
        let target = rest.strip_suffix(" HTTP/1.1").unwrap();
        // The helper adds these itself.
        let own = ["Connection:", "Content-Length:", "@"];
        let headers = request[1..].iter().filter(|line| !own.iter().any(|own| line.starts_with(own)));
        let headers: Vec<&str> = headers.copied().collect();
        let reply = running.send(method, target, &headers, body).await;
        assert_eq!(reply.status.to_string(), expected, "{request:?}: {reply:?}");
        let bodiless = [200, 204].contains(&reply.status) && method != "GET";
        assert_eq!(reply.body.is_empty(), bodiless, "{request:?}");
        request.clear();
        asked += 1;
    }
    assert!(asked > 25, "{asked}");
    running.stop().await;
}

#[tokio::test]
async fn section_3_5_registrations_appear_natively() {
    let running = Running::start(&[]).await;
    for (app, body) in [("web", JS), ("SHOP", AMAZON)] {
        assert_eq!(running.json("POST", &format!("/eureka/apps/{app}"), body).await.status, 204);
    }
    let tags = json!({"metadata": {"amalgam8.tags": " v1; v2 ,,v1"}, "port": {"$": 80, "@enabled": "false"}});
    assert_eq!(register(&running, "t", "i", tags).await.status, 204);
    let native = running.get("/api/v1/instances?status=ALL").await.value();
    let find = |id: &str| {
        let found = native["instances"].as_array().unwrap().iter().find(|instance| instance["id"] == id);
        found.unwrap_or_else(|| panic!("{id} is not in {native}")).clone()
    };
    let web = find("web:web-1");
    assert_eq!((&web["status"], &web["ttl"], web.get("metadata")), (&json!("UP"), &json!(90), None));
    assert_eq!(web["endpoint"], json!({"type": "tcp", "value": "localhost:3000"}));
    let shop = find("SHOP:i-0abc");
    assert_eq!((&shop["status"], &shop["ttl"]), (&json!("STARTING"), &json!(45)));
    assert_eq!(shop["endpoint"], json!({"type": "https", "value": "ec2-1.example:8443"}));
    let tagged = find("t:i");
    assert_eq!(tagged["tags"], json!(["v1", "v2", "v1"]));
    assert_eq!(tagged["endpoint"], json!({"type": "tcp", "value": "i.example"}));
    let shop = one(&running, "shop", "i-0abc").await;
    assert_eq!(shop["dataCenterInfo"]["metadata"]["availability-zone"], "us-east-1c");
    // The native API's own verbs know the id.
    for (method, path) in [("PUT", "/api/v1/instances/t:i/heartbeat"), ("DELETE", "/api/v1/instances/t%3Ai")]
    {
        assert_eq!(status_of(&running, method, path).await, 200, "{path}");
    }
    assert_eq!(status_of(&running, "GET", "/eureka/apps/t/i").await, 404);
    running.stop().await;
}

#[tokio::test]
async fn section_3_6_native_instances_appear_to_eureka_clients() {
    let running = Running::start(&[]).await;
    let id = running.register("reviews", "10.0.0.1:9080", r#","metadata":[1],"status":"STARTING""#).await;
    let shown = one(&running, "REVIEWS", &id).await;
    for (field, expected) in [
        ("app", json!("REVIEWS")),
        ("vipAddress", json!("reviews")),
        ("appGroupName", json!("UNKNOWN")),
        ("instanceId", json!(id)),
        ("hostName", json!("10.0.0.1")),
        ("ipAddr", json!("10.0.0.1")),
        ("status", json!("STARTING")),
        ("port", json!({"$": 9080, "@enabled": "true"})),
        ("securePort", json!({"$": 443, "@enabled": "false"})),
        ("metadata", json!({})),
        ("countryId", json!(1)),
    ] {
        assert_eq!(shown[field], expected, "{field}");
    }
    let body = r#"{"service_name":"reviews","endpoint":{"type":"https","value":"https://[::1]:8443/x"}}"#;
    let id = running.json("POST", "/api/v1/instances", body).await.value()["id"].as_str().unwrap().to_owned();
    let shown = ask(&running, &format!("/eureka/instances/{id}")).await["instance"].clone();
    assert_eq!((&shown["hostName"], &shown["port"]["$"]), (&json!("::1"), &json!(80)));
    assert_eq!(shown["securePort"], json!({"$": 8443, "@enabled": "true"}));
    assert_eq!(ids(&ask(&running, "/eureka/vips/reviews").await).len(), 2);
    // They live by Eureka's verbs too.
    let path = format!("/eureka/apps/reviews/{id}");
    for (method, path) in
        [("PUT", path.clone()), ("PUT", format!("{path}/status?value=DOWN")), ("DELETE", path)]
    {
        assert_eq!(status_of(&running, method, &path).await, 200, "{method} {path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn section_3_8_every_document_can_be_read_by_an_xml_parser_that_wants_numbers() {
    let running = Running::start(&[]).await;
    let odd = json!({"metadata": {"1": "no name", "a:b": "no namespace", "ok": "<&>\"' \u{1}\u{8}", "deep": {"x": 1}},
        "homePageUrl": "http://h/?a=1&b=<2>", "vipAddress": "v&w"});
    assert_eq!(register(&running, "odd", "a<b>&c", odd).await.status, 204);
    running.register("bare", "h", "").await;
    for path in ["apps", "apps/", "apps/delta", "apps/ODD", "apps/odd/a%3Cb%3E%26c", "vips/v%26w"] {
        let reply = running.send("GET", &format!("/eureka/{path}"), &[], "").await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, "application/xml; charset=utf-8"),
            "{path}"
        );
        let read = registry::http::eureka::xml::to_json(&reply.body).unwrap();
        let text = String::from_utf8(read).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        numbers(&value);
        assert!(!text.contains("no name"), "{text}");
    }
    running.stop().await;
}

/// What clients call `int()` on.
fn numbers(value: &Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let number = key.ends_with("Timestamp") || key.ends_with("InSecs") || key == "countryId";
                let text = if key == "port" || key == "securePort" { &value["$"] } else { value };
                if number || text != value {
                    assert!(text.as_str().unwrap().parse::<u64>().is_ok(), "{key}: {value}");
                }
                numbers(value);
            }
        }
        Value::Array(items) => items.iter().for_each(numbers),
        _ => {}
    }
}

#[tokio::test]
async fn section_3_9_older_data_lose_and_overrides_survive_a_registration() {
    let running = Running::start(&[]).await;
    let dirty = |at: u64, more: Value| {
        let mut body = json!({ "lastDirtyTimestamp": at.to_string() });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    register(&running, "A", "i", dirty(200, json!({"metadata": {"v": "new"}}))).await;
    let before = one(&running, "A", "i").await;
    assert_eq!(register(&running, "a", "i", dirty(100, json!({"metadata": {"v": "old"}}))).await.status, 204);
    let kept = one(&running, "A", "i").await;
    assert_eq!((&kept["metadata"]["v"], &kept["lastDirtyTimestamp"]), (&json!("new"), &json!("200")));
    assert_eq!(
        register(&running, "A", "i", dirty(300, json!({"metadata": {"v": "newer"}}))).await.status,
        204
    );
    let after = one(&running, "A", "i").await;
    assert_eq!((&after["metadata"]["v"], &after["lastDirtyTimestamp"]), (&json!("newer"), &json!("300")));
    let up_since = |instance: &Value| instance["leaseInfo"]["serviceUpTimestamp"].as_u64().unwrap();
    assert_eq!(up_since(&after), up_since(&before));

    assert_eq!(status_of(&running, "PUT", "/eureka/apps/A/i/status?value=OUT_OF_SERVICE").await, 200);
    for status in ["UP", "STARTING", "UP"] {
        register(&running, "A", "i", dirty(400, json!({ "status": status }))).await;
        let shown = one(&running, "A", "i").await;
        let expected = if status == "UP" { "OUT_OF_SERVICE" } else { status };
        assert_eq!(
            (&shown["status"], &shown["overriddenstatus"]),
            (&json!(expected), &json!("OUT_OF_SERVICE"))
        );
    }
    // One that comes in a body counts if there is none.
    register(&running, "A", "j", json!({"overriddenstatus": "DOWN"})).await;
    let shown = one(&running, "A", "j").await;
    assert_eq!((&shown["status"], &shown["overriddenstatus"]), (&json!("DOWN"), &json!("DOWN")));
    // Cancelling drops it.
    assert_eq!(status_of(&running, "DELETE", "/eureka/apps/A/i").await, 200);
    register(&running, "A", "i", json!({})).await;
    assert_eq!(one(&running, "A", "i").await["overriddenstatus"], "UNKNOWN");
    running.stop().await;
}

#[tokio::test]
async fn section_3_9_a_full_namespace_refuses_with_403() {
    let running = Running::start(&["--namespace_capacity", "1"]).await;
    assert_eq!(register(&running, "A", "i", json!({})).await.status, 204);
    assert_eq!(register(&running, "A", "j", json!({})).await.status, 403);
    assert_eq!(register(&running, "a", "i", json!({})).await.status, 204, "the same under another spelling");
    assert_eq!(ids(&ask(&running, "/eureka/apps").await).len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn section_3_10_renewals_are_judged_by_their_dirty_timestamp() {
    let running = Running::start(&[]).await;
    register(&running, "A", "i", json!({"lastDirtyTimestamp": 200})).await;
    let path = "/eureka/apps/A/i";
    for (query, peer, status) in [
        ("", false, 200),
        ("?status=UP&lastDirtyTimestamp=200", false, 200),
        ("?lastDirtyTimestamp=100", false, 200),
        ("?lastDirtyTimestamp=100", true, 409),
        ("?lastDirtyTimestamp=201", false, 404),
        ("?lastDirtyTimestamp=201", true, 404),
        ("?lastDirtyTimestamp=", false, 200),
        ("?lastDirtyTimestamp=0", false, 200),
        ("?lastDirtyTimestamp=soon", false, 400),
    ] {
        let headers = if peer { vec![PEER, WANT_JSON] } else { vec![WANT_JSON] };
        let reply = running.send("PUT", &format!("{path}{query}"), &headers, "").await;
        assert_eq!(reply.status, status, "{query} {peer}");
        match status {
            200 => assert!(reply.body.is_empty()),
            409 => assert_eq!(reply.value()["instance"]["instanceId"], "i"),
            _ => assert!(reply.is_error()),
        }
    }
    // A peer's override counts although the client must register again.
    let query = "?lastDirtyTimestamp=201&overriddenstatus=DOWN";
    assert_eq!(running.send("PUT", &format!("{path}{query}"), &[PEER], "").await.status, 404);
    let shown = one(&running, "A", "i").await;
    assert_eq!((&shown["status"], &shown["overriddenstatus"]), (&json!("DOWN"), &json!("DOWN")));
    running.stop().await;
}

#[tokio::test]
async fn section_3_12_a_status_is_overridden_until_the_override_is_dropped() {
    let running = Running::start(&[]).await;
    register(&running, "A", "i", json!({"lastDirtyTimestamp": 100})).await;
    let path = "/eureka/apps/A/i";
    assert_eq!(
        status_of(&running, "PUT", &format!("{path}/status?value=DOWN&lastDirtyTimestamp=150")).await,
        200
    );
    let shown = one(&running, "A", "i").await;
    assert_eq!((&shown["status"], &shown["overriddenstatus"]), (&json!("DOWN"), &json!("DOWN")));
    assert_eq!(shown["lastDirtyTimestamp"], "150");
    assert_eq!(running.get("/api/v1/instances?id=A:i").await.value()["instances"][0]["status"], "DOWN");
    assert_eq!(status_of(&running, "PUT", path).await, 200);
    assert_eq!(one(&running, "A", "i").await["status"], "DOWN", "a renewal clears nothing");

    assert_eq!(status_of(&running, "DELETE", &format!("{path}/status?value=UP")).await, 200);
    let shown = one(&running, "A", "i").await;
    assert_eq!((&shown["status"], &shown["overriddenstatus"]), (&json!("UP"), &json!("UNKNOWN")));
    assert_eq!(status_of(&running, "DELETE", &format!("{path}/status")).await, 200);
    assert_eq!(one(&running, "A", "i").await["status"], "UNKNOWN");
    assert_eq!(status_of(&running, "PUT", path).await, 404, "3.10: nothing but its being there is known");
    register(&running, "A", "i", json!({})).await;
    assert_eq!(one(&running, "A", "i").await["status"], "UP");
    running.stop().await;
}

#[tokio::test]
async fn section_3_13_metadata_are_merged_within_their_limit() {
    let running = Running::start(&[]).await;
    register(&running, "A", "i", json!({"metadata": {"a": "1"}})).await;
    let path = "/eureka/apps/A/i/metadata";
    assert_eq!(status_of(&running, "PUT", &format!("{path}?a=2&b=x%20y&amalgam8.tags=v2")).await, 200);
    let native = running.get("/api/v1/instances?id=A:i").await.value()["instances"][0].clone();
    assert_eq!(native["metadata"], json!({"a": "2", "b": "x y", "amalgam8.tags": "v2"}));
    assert_eq!(native["tags"], json!(["v2"]));
    assert_eq!(ids(&ask(&running, "/eureka/apps/delta").await), pairs(&[("i", "MODIFIED")]));
    let long = format!("{path}?b={}", "x".repeat(1_024));
    assert_eq!(status_of(&running, "PUT", &long).await, 400);
    running.stop().await;
}

#[tokio::test]
async fn section_3_14_vips_match_each_element_of_a_list() {
    let running = Running::start(&[]).await;
    register(&running, "A", "i", json!({"vipAddress": "one,two", "secureVipAddress": "safe"})).await;
    register(&running, "B", "j", json!({"vipAddress": "two", "status": "DOWN"})).await;
    running.register("two", "h:1", "").await;
    for (path, expected) in [("vips/one", 1), ("vips/two", 3), ("vips/one,two", 1), ("svips/safe", 1)] {
        let seen = ask(&running, &format!("/eureka/{path}?regions=x")).await;
        assert_eq!(ids(&seen).len(), expected, "{path}: {seen}");
    }
    let two = ask(&running, "/eureka/vips/two").await;
    assert_eq!(two["applications"]["apps__hashcode"], "DOWN_1_UP_2_");
    for path in ["vips/o", "vips/ONE", "svips/two", "svips/one"] {
        assert_eq!(status_of(&running, "GET", &format!("/eureka/{path}")).await, 404, "{path}");
    }
    for path in ["instances/i", "apps/a/i", "apps/A/i/"] {
        assert_eq!(ask(&running, &format!("/eureka/{path}")).await["instance"]["instanceId"], "i", "{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn section_3_15_deltas_tell_the_latest_and_the_hash_is_of_everything() {
    let running = Running::start(&[]).await;
    let version =
        |delta: &Value| delta["applications"]["versions__delta"].as_str().unwrap().parse::<u64>().unwrap();
    let empty = ask(&running, "/eureka/apps/delta").await;
    assert_eq!((ids(&empty), version(&empty)), (vec![], 1));
    for id in ["i", "j", "k"] {
        register(&running, "A", id, json!({})).await;
    }
    running.register("native", "h:1", "").await;
    let first = ask(&running, "/eureka/apps/delta").await;
    assert_eq!(ids(&first).len(), 4);
    assert!(ids(&first).iter().all(|(_, action)| action == "ADDED"));
    assert_eq!(status_of(&running, "PUT", "/eureka/apps/A/j").await, 200);
    assert_eq!(ask(&running, "/eureka/apps/delta").await, first, "a renewal is no change");
    status_of(&running, "PUT", "/eureka/apps/A/i/status?value=DOWN").await;
    status_of(&running, "DELETE", "/eureka/apps/A/j").await;
    let second = ask(&running, "/eureka/apps/delta").await;
    assert!(version(&second) > version(&first));
    assert_eq!(second["applications"]["apps__hashcode"], "DOWN_1_UP_2_");
    let told = ids(&second);
    for (id, action) in [("i", "MODIFIED"), ("j", "DELETED"), ("k", "ADDED")] {
        assert!(told.contains(&(id.to_owned(), action.to_owned())), "{told:?}");
    }
    let all = ask(&running, "/eureka/apps").await;
    assert_eq!(ids(&all).len(), 3);
    assert_eq!(all["applications"]["versions__delta"], "1");
    assert_eq!(all["applications"]["apps__hashcode"], second["applications"]["apps__hashcode"]);
    // Registering again is told again, also without a difference.
    register(&running, "A", "k", json!({})).await;
    let third = ask(&running, "/eureka/apps/delta").await;
    assert!(version(&third) > version(&second));
    running.stop().await;
}

#[tokio::test]
async fn section_3_15_what_expires_is_told_as_deleted() {
    let running =
        Running::start(&["--min_ttl", "100ms", "--default_ttl", "200ms", "--max_ttl", "200ms"]).await;
    register(&running, "A", "i", json!({"leaseInfo": {"durationInSecs": 1}})).await;
    running.eventually("/eureka/apps/delta", |reply| reply.text().contains("<actionType>DELETED")).await;
    assert_eq!(ids(&ask(&running, "/eureka/apps").await), vec![]);
    running.stop().await;
}

#[tokio::test]
async fn section_3_17_batches_of_peers_are_answered_item_by_item() {
    let running = Running::start(&["--eureka_compat", "amalgam8"]).await;
    let bare = |id: &str| {
        serde_json::from_str::<Value>(&instance("A", id, json!({"lastDirtyTimestamp": 200}))).unwrap()
    };
    let item = |action: &str, id: &str, more: Value| {
        let mut item =
            json!({"appName": "A", "id": id, "action": action, "status": null, "instanceInfo": null});
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    };
    let steps = [
        (item("Register", "i", json!({"instanceInfo": bare("i")["instance"]})), 200),
        (item("Register", "j", json!({"instanceInfo": bare("j")})), 200),
        (item("Register", "k", json!({"instanceInfo": {"hostName": ""}})), 400),
        (item("Register", "k", json!({})), 400),
        (item("Heartbeat", "i", json!({"lastDirtyTimestamp": "200"})), 200),
        (item("Heartbeat", "i", json!({"lastDirtyTimestamp": 100, "overriddenStatus": "UNKNOWN"})), 409),
        (item("Heartbeat", "i", json!({"lastDirtyTimestamp": 300})), 404),
        (item("Heartbeat", "x", json!({})), 404),
        (item("StatusUpdate", "j", json!({"status": "DOWN"})), 200),
        (item("StatusUpdate", "x", json!({"status": "DOWN"})), 404),
        (item("StatusUpdate", "j", json!({})), 400),
        (item("DeleteStatusOverride", "j", json!({"status": "UP"})), 200),
        (item("Cancel", "j", json!({})), 200),
        (item("Cancel", "j", json!({})), 404),
        (item("Dance", "j", json!({})), 500),
        (json!({"action": 7}), 500),
        (json!("nothing"), 500),
    ];
    let list: Vec<&Value> = steps.iter().map(|(item, _)| item).collect();
    for path in ["/eureka/peerreplication/batch/", "/eureka/v2/peerreplication/batch"] {
        let body = json!({ "replicationList": list }).to_string();
        let reply = running.send("POST", path, &[JSON, PEER], &body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let answers = reply.value()["responseList"].as_array().unwrap().clone();
        assert_eq!(answers.len(), steps.len());
        for ((item, status), answer) in steps.iter().zip(&answers) {
            assert_eq!(answer["statusCode"], *status, "{item}");
            let entity = answer.get("responseEntity").map(|entity| entity["instanceId"].clone());
            assert_eq!(entity, (*status == 409).then(|| json!("i")), "{item}");
        }
        assert_eq!(status_of(&running, "DELETE", "/eureka/apps/A/i").await, 200);
    }
    for (body, status) in [
        (json!({"replicationList": steps[0].0}).to_string(), 200),
        (json!({"replicationList": null}).to_string(), 200),
        ("{}".to_owned(), 200),
        (json!({"replicationList": 7}).to_string(), 400),
        (json!({"replicationList": vec![0; 1_001]}).to_string(), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
    ] {
        let reply = running.send("POST", "/eureka/peerreplication/batch", &[JSON], &body).await;
        assert_eq!(reply.status, status, "{body:.80}");
    }
    running.stop().await;
}

#[tokio::test]
async fn section_0_4_bodies_are_gzipped_both_ways_and_lists_are_shared() {
    let running = Running::start(&[]).await;
    let body = registry::gzip::compress(JAVA_XML.as_bytes());
    let head = format!(
        "POST /eureka/apps/ORDERS HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{XML}\r\nContent-Encoding: gzip\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    assert_eq!(running.raw(&[head.as_bytes(), &body].concat()).await.status, 204);
    for want in [WANT_JSON, WANT_XML] {
        let plain = running.send("GET", "/eureka/apps", &[want], "").await;
        assert_eq!(plain.header("content-encoding"), "");
        let zipped = running.send("GET", "/eureka/apps", &[want, "Accept-Encoding: gzip"], "").await;
        assert_eq!((zipped.header("content-encoding"), zipped.header("vary")), ("gzip", "Accept-Encoding"));
        assert_eq!(registry::gzip::decompress(&zipped.body, 1 << 20).unwrap(), plain.body);
    }
    running.stop().await;
}

#[tokio::test]
async fn section_7_1_instances_of_read_only_catalogs_are_shown_and_nothing_more() {
    let files = tempfile::tempdir().unwrap();
    let instances =
        r#"{"instances":[{"service_name":"files","endpoint":{"type":"http","value":"10.0.0.7:80"}}]}"#;
    std::fs::write(files.path().join("default.json"), instances).unwrap();
    let running = Running::start(&["--fs_catalog", files.path().to_str().unwrap()]).await;
    let all = ask(&running, "/eureka/apps").await;
    assert_eq!(all["applications"]["apps__hashcode"], "UP_1_");
    let (id, _) = ids(&all)[0].clone();
    // Clients that fetch deltas would otherwise find their counts wrong for ever (3.15).
    assert_eq!(ids(&ask(&running, "/eureka/apps/delta").await), pairs(&[(&id, "ADDED")]));
    assert_eq!(ids(&ask(&running, "/eureka/vips/files").await).len(), 1);
    let path = format!("/eureka/apps/FILES/{id}");
    for (method, path) in [
        ("PUT", path.clone()),
        ("DELETE", path.clone()),
        ("PUT", format!("{path}/status?value=DOWN")),
        ("PUT", format!("{path}/metadata?a=b")),
    ] {
        assert_eq!(status_of(&running, method, &path).await, 404, "{method} {path}");
    }
    assert_eq!(status_of(&running, "GET", &path).await, 200);
    running.stop().await;
}

#[tokio::test]
async fn section_3_7_a_long_list_is_whole_for_all_who_ask_at_once() {
    let running = Running::start(&[]).await;
    const COUNT: usize = 250;
    for number in 0..COUNT {
        let app = format!("app{}", number % 7);
        assert_eq!(register(&running, &app, &format!("i{number}"), json!({})).await.status, 204);
    }
    let path = "/eureka/apps";
    let headers = [WANT_JSON, "Accept-Encoding: gzip"];
    let ask = || running.send("GET", path, &headers, "");
    let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
    for reply in [a, b, c, d] {
        let text = registry::gzip::decompress(&reply.body, 8 << 20).unwrap();
        let all: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(ids(&all).len(), COUNT);
        assert_eq!(all["applications"]["application"].as_array().unwrap().len(), 7);
        assert_eq!(all["applications"]["apps__hashcode"], format!("UP_{COUNT}_"));
    }
    assert_eq!(status_of(&running, "DELETE", "/eureka/apps/APP0/i0").await, 200);
    let fresh = running.send("GET", path, &[WANT_JSON], "").await.value();
    assert_eq!(ids(&fresh).len(), COUNT - 1, "what was just written is read");
    running.stop().await;
}

#[tokio::test]
async fn section_3_overrides_and_descriptions_survive_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let running = Running::start_in(home.path(), &[]).await;
    running.json("POST", "/eureka/apps/ORDERS", JAVA_JSON).await;
    status_of(&running, "PUT", "/eureka/apps/ORDERS/app-host%3Aorders%3A8080/status?value=DOWN").await;
    let before = one(&running, "ORDERS", "app-host:orders:8080").await;
    running.stop().await;
    let running = Running::start_in(home.path(), &[]).await;
    let mut after = one(&running, "ORDERS", "app-host:orders:8080").await;
    after["leaseInfo"] = before["leaseInfo"].clone();
    assert_eq!(after, before);
    running.stop().await;
}
