//! The description and what it describes: every route is in it, and every documented answer of every operation is
//! provoked and looks as it says.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{Reply, Running};

/// The routes of the native API, of health and of the description. Eureka's are not described in OpenAPI.
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

struct Checker {
    document: Value,
    seen: BTreeSet<(String, String, u16)>,
}

impl Checker {
    fn answers(&self) -> BTreeSet<(String, String, u16)> {
        let mut answers = BTreeSet::new();
        for (path, methods) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    answers.insert((method.clone(), path.clone(), status.parse().unwrap()));
                }
            }
        }
        answers
    }

    fn take(&mut self, method: &str, route: &str, reply: &Reply) {
        let answers = &self.document["paths"][route][method]["responses"];
        let status = reply.status.to_string();
        assert!(answers.get(&status).is_some(), "{method} {route}: {status} is not documented: {reply:?}");
        match answers[&status]["content"].as_object().and_then(|content| content.iter().next()) {
            None => assert!(reply.body.is_empty(), "{method} {route} {status}: {reply:?}"),
            Some((media_type, content)) => {
                assert!(
                    reply.header("content-type").starts_with(media_type.as_str()),
                    "{method} {route} {status}"
                );
                if media_type == "application/json" {
                    let checked = check(&self.document, &content["schema"], &reply.value(), "answer");
                    assert_eq!(checked, Ok(()), "{method} {route} {status}: {}", reply.text());
                }
            }
        }
        self.seen.insert((method.to_owned(), route.to_owned(), reply.status));
    }
}

fn path(route: &str, id: &str) -> String {
    let filled = route.replace("{id}", id).replace("{name}", "s");
    if filled.ends_with("/watch") { format!("{filled}?wait=0") } else { filled }
}

#[tokio::test]
async fn every_route_is_documented_and_every_documented_answer_is_given_as_it_says() {
    let registry = Running::start(&["--namespace_capacity=2", "--self_preservation"]).await;
    let document = registry.get("/openapi.json").await.value();
    assert_eq!(document["openapi"], "3.1.0");
    let mut checker = Checker { document, seen: BTreeSet::new() };
    let documented: BTreeSet<_> =
        checker.answers().into_iter().map(|(method, path, _)| (method, path)).collect();
    let routes = ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(documented, routes);

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
    let api = || ROUTES.iter().filter(|(_, route)| route.starts_with("/api/"));
    for (method, route) in api() {
        let (method_sent, asked) = (method.to_uppercase(), path(route, "x"));
        let reply = registry.send(&method_sent, &asked, &["Content-Type: text/plain"], "x").await;
        checker.take(method, route, &reply);
    }
    registry.stop().await;
    // {"alg":"RS256"}.{}: the key is nowhere to be had.
    let unknown = ["Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.AA"];
    for (flags, headers, status) in [
        (&["--require_https"][..], &[][..], 301),
        (&["--auth_mode=trusted"], &[], 401),
        (&["--auth_mode=jwt", "--jwt_keys=/nowhere/keys.json"], &unknown[..], 503),
    ] {
        let registry = Running::start(flags).await;
        for (method, route) in api() {
            let reply = registry.send(&method.to_uppercase(), &path(route, "x"), headers, "").await;
            assert_eq!(reply.status, status, "{method} {route}");
            checker.take(method, route, &reply);
        }
        registry.stop().await;
    }
    assert_eq!(checker.seen, checker.answers(), "every documented answer was given");
}
