//! The description and what it describes: every route is in it, and every documented answer of every operation is
//! provoked and looks as it says.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{Reply, Running};

/// The routes of the native API, of health and of the description.
const ROUTES: &[(&str, &str)] = &[
    ("get", "/"),
    ("get", "/uptime"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("post", "/api/v1/instances"),
    ("get", "/api/v1/instances"),
    ("delete", "/api/v1/instances/{id}"),
    ("put", "/api/v1/instances/{id}/heartbeat"),
    ("put", "/api/v1/heartbeats"),
    ("get", "/api/v1/services"),
    ("get", "/api/v1/services/{name}"),
    ("get", "/api/v1/watch"),
];

/// The routes of Eureka's API, at one of its mounts (spec/registry.md 3.2).
const EUREKA: &[(&str, &str)] = &[
    ("get", "/eureka/v2/apps"),
    ("get", "/eureka/v2/apps/delta"),
    ("get", "/eureka/v2/apps/{app}"),
    ("post", "/eureka/v2/apps/{app}"),
    ("get", "/eureka/v2/apps/{app}/{id}"),
    ("put", "/eureka/v2/apps/{app}/{id}"),
    ("delete", "/eureka/v2/apps/{app}/{id}"),
    ("put", "/eureka/v2/apps/{app}/{id}/status"),
    ("delete", "/eureka/v2/apps/{app}/{id}/status"),
    ("put", "/eureka/v2/apps/{app}/{id}/metadata"),
    ("get", "/eureka/v2/instances/{id}"),
    ("get", "/eureka/v2/vips/{vip}"),
    ("get", "/eureka/v2/svips/{vip}"),
    ("post", "/eureka/v2/peerreplication/batch"),
    ("put", "/eureka/v2/asg/{name}/status"),
];

/// Whether a value is as its schema says; what no schema mentions is a mistake as well.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).ok_or(format!("no {reference}"))?;
        return check(document, target, value, place);
    }
    if let Some(kinds) = schema.get("oneOf").or(schema.get("anyOf")) {
        let mut problems = kinds.as_array().unwrap().iter().map(|kind| check(document, kind, value, place));
        return if problems.any(|problem| problem.is_ok()) {
            Ok(())
        } else {
            Err(format!("{place}: fits none"))
        };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = match &schema["type"] {
        Value::Null => return Ok(()),
        Value::String(one) => one == kind,
        several => several.as_array().unwrap().iter().any(|one| one == kind),
    };
    if !allowed {
        return Err(format!("{place} is {kind}, not {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return Err(format!("{place} is none of {}", schema["enum"]));
    }
    let long = value.as_str().map(|text| text.len() as u64);
    let bound = |name: &str| schema[name].as_u64();
    if long.zip(bound("minLength")).is_some_and(|(long, min)| long < min)
        || long.zip(bound("maxLength")).is_some_and(|(long, max)| long > max)
    {
        return Err(format!("{place} is {long:?} long"));
    }
    for item in value.as_array().into_iter().flatten() {
        check(document, &schema["items"], item, &format!("{place}[]"))?;
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    for required in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(required.as_str().unwrap()) {
            return Err(format!("{place} lacks {required}"));
        }
    }
    for (name, field) in fields {
        let known = schema["properties"].get(name).or(schema.get("additionalProperties"));
        let known = known.ok_or(format!("{place}.{name} is not documented"))?;
        check(document, known, field, &format!("{place}.{name}"))?;
    }
    Ok(())
}

/// Method, route, status, and the media type of the body, empty where there is none.
type Answer = (String, String, u16, String);

struct Checker {
    document: Value,
    routes: &'static [(&'static str, &'static str)],
    seen: BTreeSet<Answer>,
}

impl Checker {
    async fn of(registry: &Running, routes: &'static [(&'static str, &'static str)]) -> Self {
        let document = registry.get("/openapi.json").await.value();
        assert_eq!(document["openapi"], "3.1.0");
        Self { document, routes, seen: BTreeSet::new() }
    }

    /// What is documented of its routes.
    fn answers(&self) -> BTreeSet<Answer> {
        let mut answers = BTreeSet::new();
        for (method, route) in self.routes {
            let operation = &self.document["paths"][route][method];
            for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
                let mut types: Vec<_> = answer["content"].as_object().into_iter().flatten().collect();
                let none = (String::new(), Value::Null);
                if types.is_empty() {
                    types.push((&none.0, &none.1));
                }
                for (media_type, _) in types {
                    let status = status.parse().unwrap();
                    answers.insert(((*method).to_owned(), (*route).to_owned(), status, media_type.clone()));
                }
            }
        }
        answers
    }

    fn take(&mut self, method: &str, route: &str, reply: &Reply) {
        let answers = &self.document["paths"][route][method]["responses"];
        let status = reply.status.to_string();
        assert!(answers.get(&status).is_some(), "{method} {route}: {status} is not documented: {reply:?}");
        let label = reply.header("content-type").split(';').next().unwrap();
        let media_type = match answers[&status]["content"].as_object().filter(|content| !content.is_empty()) {
            None => {
                assert!(reply.body.is_empty(), "{method} {route} {status}: {reply:?}");
                ""
            }
            Some(content) => {
                let content =
                    content.get(label).unwrap_or_else(|| panic!("{method} {route} {status}: {label}"));
                if label == "application/json" {
                    let checked = check(&self.document, &content["schema"], &reply.value(), "answer");
                    assert_eq!(checked, Ok(()), "{method} {route} {status}: {}", reply.text());
                } else if label == "application/xml" {
                    assert!(reply.text().starts_with('<'), "{}", reply.text());
                }
                label
            }
        };
        self.seen.insert((method.to_owned(), route.to_owned(), reply.status, media_type.to_owned()));
    }

    /// The answers that every operation of the API has in common: to a body of a wrong type, without HTTPS or a token
    /// where one is needed, and while the issuer of tokens is out of reach.
    async fn take_common(&mut self, routes: &[(&str, &str)]) {
        // {"alg":"RS256"}.{}: the key is nowhere to be had.
        let unknown = ["Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.AA"];
        for (flags, headers, body, status) in [
            (&[][..], &["Content-Type: text/plain"][..], "x", 415),
            (&["--require_https"], &[], "", 301),
            (&["--auth_mode=trusted"], &[], "", 401),
            (&["--auth_mode=jwt", "--jwt_keys=/nowhere/keys.json"], &unknown, "", 503),
        ] {
            let registry = Running::start(flags).await;
            for (method, route) in routes {
                let reply = registry.send(&method.to_uppercase(), &path(route, "x"), headers, body).await;
                assert_eq!(reply.status, status, "{method} {route}");
                self.take(method, route, &reply);
            }
            registry.stop().await;
        }
    }
}

fn path(route: &str, id: &str) -> String {
    let filled = route.replace("{id}", id).replace("{name}", "s").replace("{app}", "a").replace("{vip}", "v");
    if filled.ends_with("/watch") { format!("{filled}?wait=0") } else { filled }
}

/// Sections 0.4, 0.5, 1 and 11.
#[tokio::test]
async fn every_route_is_documented_and_every_documented_answer_is_given_as_it_says() {
    let home = tempfile::tempdir().unwrap();
    let flags = ["--namespace_capacity=2", "--eureka_self_preservation"];
    let registry = Running::start_in(home.path(), &flags).await;
    let mut checker = Checker::of(&registry, ROUTES).await;
    let paths = checker.document["paths"].as_object().unwrap();
    let documented: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (method.as_str(), path.as_str()))
        })
        .collect();
    assert_eq!(documented, ROUTES.iter().chain(EUREKA).copied().collect());

    let more = r#","tags":["t"],"metadata":{"a":[1,null]},"status":"starting""#;
    let id = registry.register("s", "h:1", more).await;
    registry.register("s", "h:2", "").await;
    let watched = registry.get("/api/v1/watch?wait=0").await;
    let held = format!(
        "/api/v1/watch?wait=0&epoch={}&index={}",
        watched.header("a8-epoch"),
        watched.header("a8-index")
    );
    let one =
        |value: &str| format!(r#"{{"service_name":"s","endpoint":{{"type":"tcp","value":"{value}"}}}}"#);
    let (beat, own) = ("/api/v1/instances/{id}/heartbeat", "/api/v1/instances/{id}");
    for (method, route, asked, body) in [
        ("get", "/", "/".to_owned(), ""),
        ("get", "/uptime", "/uptime".to_owned(), ""),
        ("get", "/metrics", "/metrics".to_owned(), ""),
        ("get", "/openapi.json", "/openapi.json".to_owned(), ""),
        ("get", "/api/v1/instances", "/api/v1/instances?status=ALL".to_owned(), ""),
        ("get", "/api/v1/instances", "/api/v1/instances?fields=".to_owned(), ""),
        ("get", "/api/v1/instances", "/api/v1/instances?x=y".to_owned(), ""),
        ("get", "/api/v1/services", "/api/v1/services".to_owned(), ""),
        ("get", "/api/v1/services/{name}", "/api/v1/services/s".to_owned(), ""),
        ("get", "/api/v1/services/{name}", "/api/v1/services/unknown".to_owned(), ""),
        ("get", "/api/v1/watch", "/api/v1/watch?wait=0".to_owned(), ""),
        ("get", "/api/v1/watch", "/api/v1/watch?wait=soon".to_owned(), ""),
        ("get", "/api/v1/watch", held.clone(), ""),
        ("post", "/api/v1/instances", "/api/v1/instances".to_owned(), &one("h:1")),
        ("post", "/api/v1/instances", "/api/v1/instances".to_owned(), &one("h:3")),
        ("post", "/api/v1/instances", "/api/v1/instances".to_owned(), "{}"),
        ("put", "/api/v1/heartbeats", "/api/v1/heartbeats".to_owned(), r#"{"ids":["unknown"]}"#),
        ("put", "/api/v1/heartbeats", "/api/v1/heartbeats".to_owned(), "[]"),
        ("put", beat, path(beat, &id), ""),
        ("put", beat, path(beat, ""), ""),
        ("put", beat, path(beat, "unknown"), ""),
        ("delete", own, path(own, &id), ""),
        ("delete", own, path(own, &id), ""),
        // A delta: the delete.
        ("get", "/api/v1/watch", held, ""),
    ] {
        let reply = registry.json(&method.to_uppercase(), &asked, body).await;
        checker.take(method, route, &reply);
    }
    // A part of the registry that is not well: nothing can be written where a folder is in the way.
    std::fs::create_dir(home.path().join("registry.snapshot.new")).unwrap();
    registry.register("s", "h:3", "").await;
    let unwell = registry.eventually("/uptime", |reply| reply.status == 503).await;
    checker.take("get", "/uptime", &unwell);
    registry.stop().await;
    let api: Vec<_> = ROUTES.iter().copied().filter(|(_, route)| route.starts_with("/api/")).collect();
    checker.take_common(&api).await;
    assert_eq!(checker.seen, checker.answers(), "every documented answer was given");
}

/// A registration of Eureka's, with everything that answers show.
fn instance(id: &str) -> String {
    let page = "http://h/";
    json!({"instance": {
        "instanceId": id, "hostName": "h", "app": "a", "ipAddr": "10.0.0.1", "vipAddress": "v", "secureVipAddress": "v",
        "status": "UP", "port": {"$": 80, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
        "homePageUrl": page, "statusPageUrl": page, "healthCheckUrl": page, "secureHealthCheckUrl": page,
        "dataCenterInfo": {"@class": "com.netflix.appinfo.AmazonInfo", "name": "Amazon", "metadata": {"instance-id": id}},
        "leaseInfo": {"durationInSecs": 90}, "metadata": {"k": "v"}, "asgName": "g", "sid": "s",
        "lastDirtyTimestamp": "1000",
    }})
    .to_string()
}

/// Section 3.
#[tokio::test]
async fn every_documented_answer_of_eureka_is_given_as_it_says() {
    let registry = Running::start(&["--namespace_capacity=2"]).await;
    let mut checker = Checker::of(&registry, EUREKA).await;
    let (json, xml) = ("Accept: application/json", "Accept: application/xml");
    let peer = "x-netflix-discovery-replication: true";
    let long = "x".repeat(2_000);
    let entry = instance("i");
    let info = entry.strip_prefix(r#"{"instance":"#).unwrap().strip_suffix('}').unwrap();
    let items = [
        format!(r#"{{"appName":"a","id":"i","action":"Register","instanceInfo":{info}}}"#),
        r#"{"appName":"a","id":"i","action":"Heartbeat","lastDirtyTimestamp":1}"#.to_owned(),
        r#"{"appName":"a","id":"unknown","action":"Cancel"}"#.to_owned(),
    ];
    let batch = format!(r#"{{"replicationList":[{}]}}"#, items.join(","));
    let own = "/apps/{app}/{id}";
    let (status, metadata, replicated) =
        ("/apps/{app}/{id}/status", "/apps/{app}/{id}/metadata", "/peerreplication/batch");
    for (method, route, asked, headers, body) in [
        ("post", "/apps/{app}", "/apps/a", &[json][..], instance("i")),
        ("post", "/apps/{app}", "/apps/A", &[json], instance("j")),
        ("post", "/apps/{app}", "/apps/a", &[json], instance("k")),
        ("post", "/apps/{app}", "/apps/a", &[json], "{}".to_owned()),
        ("put", metadata, "/apps/a/i/metadata?l=w", &[json], String::new()),
        ("put", metadata, &format!("/apps/a/i/metadata?l={long}"), &[json], String::new()),
        ("put", metadata, "/apps/a/unknown/metadata?l=w", &[json], String::new()),
        ("put", own, "/apps/a/i", &[json], String::new()),
        ("put", own, "/apps/a/i?lastDirtyTimestamp=soon", &[json], String::new()),
        ("put", own, "/apps/a/unknown", &[json], String::new()),
        ("put", own, "/apps/a/i?lastDirtyTimestamp=1", &[json, peer], String::new()),
        ("put", own, "/apps/a/i?lastDirtyTimestamp=1", &[xml, peer], String::new()),
        ("put", status, "/apps/a/i/status?value=DOWN", &[json], String::new()),
        ("put", status, "/apps/a/i/status?value=", &[json], String::new()),
        ("put", status, "/apps/a/unknown/status?value=DOWN", &[json], String::new()),
        ("delete", status, "/apps/a/i/status", &[json], String::new()),
        ("delete", status, "/apps/a/i/status?value=MAGIC", &[json], String::new()),
        ("delete", status, "/apps/a/unknown/status", &[json], String::new()),
        ("post", replicated, "/peerreplication/batch/", &[json], batch),
        ("post", replicated, replicated, &[json], "[".to_owned()),
        ("put", "/asg/{name}/status", "/asg/g/status?value=ENABLED", &[json], String::new()),
        ("delete", own, "/apps/a/j", &[json], String::new()),
        ("delete", own, "/apps/a/j", &[json], String::new()),
        ("delete", own, "/apps/a/%ff", &[json], String::new()),
    ] {
        let headers: Vec<_> = headers.iter().copied().chain(["Content-Type: application/json"]).collect();
        let reply =
            registry.send(&method.to_uppercase(), &format!("/eureka/v2{asked}"), &headers, &body).await;
        checker.take(method, &format!("/eureka/v2{route}"), &reply);
    }
    for (route, asked) in [
        ("/apps", &["/apps", "/apps/"][..]),
        ("/apps/delta", &["/apps/delta?regions=r"]),
        ("/apps/{app}", &["/apps/a", "/apps/unknown", "/apps/%ff"]),
        (own, &["/apps/a/i", "/apps/a/unknown", "/apps/a/%ff"]),
        ("/instances/{id}", &["/instances/i", "/instances/unknown", "/instances/%ff"]),
        ("/vips/{vip}", &["/vips/v", "/vips/unknown", "/vips/%ff"]),
        ("/svips/{vip}", &["/svips/v", "/svips/unknown", "/svips/%ff"]),
    ] {
        for asked in asked {
            for format in [json, xml] {
                let reply = registry.send("GET", &format!("/eureka/v2{asked}"), &[format], "").await;
                checker.take("get", &format!("/eureka/v2{route}"), &reply);
            }
        }
    }
    registry.stop().await;
    checker.take_common(EUREKA).await;
    assert_eq!(checker.seen, checker.answers(), "every documented answer was given");
}
