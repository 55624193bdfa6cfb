//! The native API from outside, as tables (spec/registry.md 0.4, 1, 4, 9.1, 9.2, 9.4, 9.5).

mod support;

use support::Running;

fn registration(service: &str, kind: &str, value: &str, more: &str) -> String {
    format!(r#"{{"service_name":"{service}","endpoint":{{"type":"{kind}","value":"{value}"}}{more}}}"#)
}

/// Section 9.1 S2; 9.2 N1 to N14, N38, N39, N62; section 0.4.
#[tokio::test]
async fn methods_that_a_path_lacks_are_405_and_paths_that_are_not_there_404() {
    let registry = Running::start(&[]).await;
    for (path, allow, refused) in [
        ("/api/v1/instances", "GET, POST", "CONNECT DELETE HEAD OPTIONS PATCH PUT TRACE"),
        ("/api/v1/instances/fakeid", "DELETE", "CONNECT GET HEAD OPTIONS PATCH PUT POST TRACE"),
        ("/api/v1/instances/fakeid/heartbeat", "PUT", "CONNECT GET HEAD OPTIONS PATCH POST DELETE TRACE"),
        ("/api/v1/instances//heartbeat", "PUT", "GET HEAD DELETE"),
        ("/api/v1/heartbeats", "PUT", "CONNECT GET HEAD OPTIONS PATCH POST DELETE TRACE"),
        ("/api/v1/services/fakeservice", "GET", "CONNECT HEAD OPTIONS PATCH POST PUT TRACE"),
        ("/api/v1/services", "GET", "CONNECT HEAD OPTIONS PATCH POST PUT TRACE"),
        ("/api/v1/watch", "GET", "CONNECT HEAD OPTIONS PATCH POST PUT TRACE"),
        ("/", "GET", "HEAD POST OPTIONS"),
        ("/uptime", "GET", "HEAD POST OPTIONS"),
        ("/metrics", "GET", "HEAD POST OPTIONS"),
    ] {
        for method in refused.split(' ') {
            let reply = registry.send(method, path, &[], "").await;
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(reply.header("allow"), allow, "{method} {path}");
            assert!(
                if method == "HEAD" { reply.body.is_empty() } else { reply.is_error() },
                "{method} {path}"
            );
        }
    }
    for path in [
        "/hello",
        "/api/v1",
        "/api/v1/",
        "/api/v1/instances/",
        "/api/v1/services/",
        "/api/v1//services",
        "/api/v1/instances/a/heartbeat/",
        "/api/v1/instances/a/b",
        "/api/v2/services",
        "//",
    ] {
        for method in ["GET", "PUT"] {
            let reply = registry.send(method, path, &[], "").await;
            assert_eq!(reply.status, 404, "{method} {path}");
            assert!(reply.is_error());
        }
    }
    registry.stop().await;
}

/// Section 9.2 N15 to N31; 9.8 X3; section 1.2.
#[tokio::test]
async fn a_registration_is_stored_or_refused_as_the_spec_says() {
    let registry = Running::start(&[]).await;
    let ok = |more: &str| registration("http", "tcp", "192.168.1.1:8087", more);
    let nul = ok(r#","metadata":{"a":"b"}"#).replace("\"b\"", "\"b\0\"");
    for (body, status) in [
        (registration("", "tcp", "h:1", ""), 400),
        (registration("http", "tcp", "", ""), 400),
        (registration("http", "", "h:1", ""), 400),
        (registration("http", "icmp", "h:1", r#","ttl":30"#), 400),
        (nul, 400),
        (ok(r#","metadata":1"#), 201),
        (ok(r#","metadata":true"#), 201),
        (ok(r#","metadata":"text""#), 201),
        (ok(r#","metadata":{"a":[1,2]}"#), 201),
        (ok(r#","metadata":null"#), 201),
        (ok(r#","ttl":30"#), 201),
        (ok(r#","ttl":0"#), 201),
        (ok(r#","ttl":4294967295"#), 201),
        (ok(r#","ttl":4294967296"#), 400),
        (ok(r#","ttl":-1"#), 400),
        (ok(r#","ttl":1.5"#), 400),
        (ok(r#","ttl":"30""#), 400),
        (ok(r#","status":"STARTING""#), 201),
        (ok(r#","status":"OUT_OF_SERVICE""#), 201),
        (ok(r#","status":"blah""#), 400),
        (ok(r#","tags":["a","b"]"#), 201),
        (ok(r#","tags":[]"#), 201),
        (ok(r#","tags":[1]"#), 400),
        (ok(r#","tags":"a""#), 400),
        (ok(r#","unknown":{"x":1}"#), 201),
        (r#"{"service_name":"http","host":"h","port":1}"#.to_owned(), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
        ("\"x\"".to_owned(), 400),
        (ok("") + "x", 400),
        (registration(&"s".repeat(65), "tcp", "h:1", ""), 400),
        (registration("http", "tcp", &"v".repeat(129), ""), 400),
        (ok(&format!(r#","metadata":"{}""#, "m".repeat(1_023))), 400),
        (ok(&format!(r#","metadata":"{}""#, "m".repeat(1_022))), 201),
    ] {
        let reply = registry.json("POST", "/api/v1/instances", &body).await;
        assert_eq!(reply.status, status, "{body}");
        if status != 201 {
            assert!(reply.is_error(), "{body}");
            continue;
        }
        let value = reply.value();
        assert_eq!(value.as_object().unwrap().len(), 3, "only id, ttl and links");
        assert!(value["ttl"].as_u64().unwrap() > 0);
        assert_eq!(value["id"], "4cd7e786e63fb7e8");
        let this = "http://h:8080/api/v1/instances/4cd7e786e63fb7e8";
        assert_eq!(value["links"]["self"], this);
        assert_eq!(value["links"]["heartbeat"], format!("{this}/heartbeat"));
        assert_eq!(reply.header("location"), this);
    }
    let reply = registry.json("POST", "/api/v1/instances", "").await;
    assert_eq!(reply.status, 400, "no body at all");
    assert_eq!(
        registry.get("/api/v1/instances?status=all").await.value()["instances"].as_array().unwrap().len(),
        1
    );
    registry.stop().await;
}

/// Section 9.2 N29; 9.6 M11 to M14; section 1.2.
#[tokio::test]
async fn ids_are_a_function_of_service_type_and_value() {
    let registry = Running::start(&[]).await;
    let mut ids = Vec::new();
    for (service, kind, value) in
        [("s", "tcp", "h:1"), ("s", "udp", "h:1"), ("s", "tcp", "h:2"), ("t", "tcp", "h:1")]
    {
        let body = registration(service, kind, value, "");
        ids.push(registry.json("POST", "/api/v1/instances", &body).await.value()["id"].to_string());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    // The same again, with other data, replaces.
    registry
        .register("s", "h:1", r#","status":"starting","metadata":[1],"ttl":60,"tags":["b","a","b"]"#)
        .await;
    let list = registry.get("/api/v1/services/s").await.value();
    let replaced: Vec<_> =
        list["instances"].as_array().unwrap().iter().filter(|one| one["ttl"] == 60).collect();
    assert_eq!(replaced.len(), 1);
    assert_eq!(replaced[0]["status"], "STARTING");
    assert_eq!(replaced[0]["tags"], serde_json::json!(["b", "a", "b"]));
    assert_eq!(list["instances"].as_array().unwrap().len(), 3);
    registry.stop().await;
}

/// Section 9.2 N32 to N37; 9.6 M19 to M26; sections 0.4 and 1.3.
#[tokio::test]
async fn heartbeats_and_deletes_know_only_the_living() {
    let registry = Running::start(&[]).await;
    let ids = [registry.register("http", "h:1", "").await, registry.register("http", "h:2", "").await];
    let beat = |id: &str| format!("/api/v1/instances/{id}/heartbeat");
    let own = |id: &str| format!("/api/v1/instances/{id}");
    // Encoded once is decoded once.
    let encoded = ids[0].bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    for (method, path, status) in [
        ("PUT", beat(&ids[0]), 200),
        ("PUT", beat(&encoded), 200),
        ("PUT", beat(&encoded.replace('%', "%25")), 410),
        ("PUT", beat("unknown"), 410),
        ("PUT", beat("a%2Fb"), 410),
        ("PUT", beat(""), 400),
        ("PUT", beat("%FF"), 400),
        ("DELETE", own("unknown"), 410),
        ("DELETE", own("%C3%28"), 400),
        ("DELETE", own(&ids[0]), 200),
        ("DELETE", own(&ids[1]), 200),
        ("DELETE", own(&ids[1]), 410),
        ("PUT", beat(&ids[0]), 410),
        ("GET", "/api/v1/services/http".to_owned(), 404),
    ] {
        let reply = registry.send(method, &path, &[], "").await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.header("content-type"), "application/json; charset=utf-8", "{method} {path}");
        assert!(if status == 200 { reply.body.is_empty() } else { reply.is_error() }, "{method} {path}");
    }
    assert_eq!(registry.get("/api/v1/services").await.text(), r#"{"services":[]}"#);
    registry.stop().await;
}

#[tokio::test]
async fn many_heartbeats_in_one_request_are_answered_one_by_one() {
    let registry = Running::start(&[]).await;
    let (first, second) = (registry.register("s", "h:1", "").await, registry.register("s", "h:2", "").await);
    let before = registry.get("/api/v1/services/s").await.value();
    let ids = format!(r#"{{"ids":["{first}","unknown","","{second}","{first}"],"more":1}}"#);
    let reply = registry.json("PUT", "/api/v1/heartbeats", &ids).await;
    assert_eq!(reply.status, 200);
    let results = reply.value()["results"].as_array().unwrap().clone();
    let results: Vec<_> =
        results.iter().map(|r| (r["id"].as_str().unwrap(), r["status"].as_u64().unwrap())).collect();
    assert_eq!(
        results,
        [(first.as_str(), 200), ("unknown", 410), ("", 400), (second.as_str(), 200), (first.as_str(), 200)]
    );
    let beaten = |reply: &support::Reply| {
        reply.value()["instances"][0]["last_heartbeat"] != before["instances"][0]["last_heartbeat"]
    };
    registry.json("PUT", "/api/v1/heartbeats", &ids).await;
    assert!(beaten(&registry.get("/api/v1/services/s").await));

    let many = |count: usize| format!(r#"{{"ids":[{}]}}"#, vec![r#""x""#; count].join(","));
    for (body, status) in [
        (r#"{"ids":[]}"#.to_owned(), 200),
        (many(10_000), 200),
        (many(10_001), 400),
        (r#"{"ids":[7]}"#.to_owned(), 400),
        (r#"{"ids":"x"}"#.to_owned(), 400),
        ("{}".to_owned(), 400),
        ("[]".to_owned(), 400),
        ("{".to_owned(), 400),
    ] {
        let reply = registry.json("PUT", "/api/v1/heartbeats", &body).await;
        assert_eq!(reply.status, status, "{}", &body[..body.len().min(40)]);
        assert!(status == 200 || reply.is_error());
    }
    assert_eq!(registry.send("PUT", "/api/v1/heartbeats", &[], "").await.status, 400);
    assert_eq!(
        registry.send("PUT", "/api/v1/heartbeats", &["Content-Type: text/plain"], &ids).await.status,
        415
    );
    registry.stop().await;
}

/// Sections 0.5 and 3.16.
#[tokio::test]
async fn instances_that_fall_silent_together_are_held_and_said_to_be() {
    let arguments = ["--self_preservation", "--min_ttl=200ms", "--default_ttl=3s", "--max_ttl=10m"];
    let registry = Running::start(&arguments).await;
    let mut ids = Vec::new();
    for number in 0..12 {
        ids.push(registry.register("s", &format!("h:{number}"), "").await);
    }
    // Renewed at one moment, so that they are overdue at one.
    let renewed =
        registry.json("PUT", "/api/v1/heartbeats", &serde_json::json!({ "ids": ids }).to_string()).await;
    assert_eq!(renewed.status, 200, "{renewed:?}");
    let uptime = registry
        .eventually("/uptime", |reply| reply.value()["SELF_PRESERVATION"]["properties"]["held"] == 12);
    let component = uptime.await.value()["SELF_PRESERVATION"].clone();
    assert_eq!(
        (component["healthy"].as_bool(), component["properties"]["active"].as_bool()),
        (Some(true), Some(true))
    );
    assert!(component["properties"]["message"].is_string());
    assert_eq!(registry.get("/api/v1/services/s").await.value()["instances"].as_array().unwrap().len(), 12);
    let metrics = registry.get("/metrics").await;
    assert!(metrics.text().contains("a8_registry_held_instances{namespace=\"default\"} 12"));
    registry.stop().await;
    let plain = Running::start(&[]).await;
    assert!(plain.get("/uptime").await.value().get("SELF_PRESERVATION").is_none());
    plain.stop().await;
}

/// Section 9.2 N40 to N64; 9.6 M3, M4, M16; sections 1.4 and 1.5.
#[tokio::test]
async fn lists_filter_project_and_omit() {
    let registry = Running::start(&[]).await;
    assert_eq!(registry.get("/api/v1/instances").await.text(), r#"{"instances":[]}"#);
    let starting = registry.register("http-1", "h:3", r#","tags":["DB"],"status":"STARTING""#).await;
    for (value, more) in [
        ("h:1", r#","tags":["DB","NoSQL"],"metadata":{ "k" :  1 },"ttl":30"#),
        ("h:2", r#","tags":["DB"]"#),
        ("h:4", r#","tags":["DB","NoSQL"],"status":"OUT_OF_SERVICE""#),
    ] {
        registry.register("http-1", value, more).await;
    }
    registry.register("http-2", "h:5", "").await;
    registry.register("a b", "h:6", "").await;
    for (query, status, count) in [
        ("", 200, 4),
        ("?service_name=http-1", 200, 4),
        ("?service_name=http-1&tags=DB,NoSQL", 200, 2),
        ("?service_name=http-1&tags=DB%2CNoSQL", 200, 2),
        ("?service_name=http-1&tags=DB,MySQL", 200, 0),
        ("?service_name=http-1&status=UP", 200, 2),
        ("?service_name=http-1&status=up", 200, 2),
        ("?service_name=http-1&status=DOWN", 200, 0),
        ("?service_name=http-1&status=ALL", 200, 4),
        ("?service_name=http-1&status=STARTING&tags=DB", 200, 1),
        ("?status=all", 200, 6),
        ("?service_name=a+b", 200, 1),
        ("?service_name=a%20b", 200, 1),
        ("?service_name=nobody", 200, 0),
        ("?ttl=5", 400, 0),
        ("?BLABLA=5", 400, 0),
        ("?fields=nope", 400, 0),
    ] {
        let reply = registry.get(&format!("/api/v1/instances{query}")).await;
        assert_eq!(reply.status, status, "{query}");
        if status == 200 {
            assert_eq!(reply.value()["instances"].as_array().unwrap().len(), count, "{query}");
        } else {
            assert!(reply.is_error());
        }
    }
    let by_id = registry.get(&format!("/api/v1/instances?id={starting}")).await.value();
    assert_eq!(by_id["instances"][0]["endpoint"]["value"], "h:3");

    let one = registry.get("/api/v1/services/http-1?whatever=x").await;
    let text = one.text();
    assert!(text.starts_with(r#"{"service_name":"http-1","instances":["#), "{text}");
    assert!(text.contains(r#""metadata":{ "k" :  1 }"#), "byte for byte: {text}");
    assert!(!text.contains("links"));
    for instance in one.value()["instances"].as_array().unwrap() {
        assert_eq!(instance["service_name"], "http-1");
        let heartbeat = instance["last_heartbeat"].as_str().unwrap();
        assert!(
            heartbeat.len() == 24 && heartbeat.ends_with('Z') && heartbeat.starts_with("20"),
            "{heartbeat}"
        );
    }
    let projected = registry.get("/api/v1/instances?fields=&id=".to_owned().as_str()).await;
    assert_eq!(projected.text(), r#"{"instances":[]}"#);
    let projected = registry.get(&format!("/api/v1/instances?fields=status,ttl,status&id={starting}")).await;
    let expected = format!(
        r#"{{"instances":[{{"id":"{starting}","endpoint":{{"type":"tcp","value":"h:3"}},"ttl":30,"status":"STARTING"}}]}}"#
    );
    assert_eq!(projected.text(), expected);
    let services = registry.get("/api/v1/services").await.value();
    assert_eq!(services, serde_json::json!({"services": ["a b", "http-1", "http-2"]}));
    assert_eq!(registry.get("/api/v1/services/a%20b").await.status, 200);
    assert_eq!(registry.get("/api/v1/services/HTTP-1").await.status, 404);
    registry.stop().await;
}

/// Section 0.4.
#[tokio::test]
async fn a_body_is_json_of_a_megabyte_at_most_before_anything_else_is_looked_at() {
    let registry = Running::start(&["--auth_mode=trusted"]).await;
    let body = registration("s", "tcp", "h:1", "");
    for (method, path, label, status) in [
        ("POST", "/api/v1/instances", "Content-Type: text/plain", 415),
        ("POST", "/api/v1/instances", "X-None: 1", 415),
        ("POST", "/api/v1/instances", "Content-Type: application/json; charset=latin1", 415),
        ("POST", "/nowhere", "Content-Type: text/plain", 415),
        ("GET", "/api/v1/services", "Content-Type: text/plain", 415),
        ("PUT", "/api/v1/instances/x/heartbeat", "Content-Type: text/plain", 415),
        ("POST", "/nowhere", "Content-Type: application/json", 404),
        // Labelled right: now the token is missed.
        ("POST", "/api/v1/instances", "Content-Type: application/JSON; charset=\"UTF-8\"", 401),
    ] {
        let reply = registry.send(method, path, &[label], &body).await;
        assert_eq!(reply.status, status, "{method} {path} {label}");
        assert!(reply.is_error());
        let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{label}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let chunked = registry.raw(format!("{head}{chunk}").as_bytes()).await;
        assert_eq!(chunked.status, status, "chunked: {method} {path} {label}");
        let empty = registry.raw(format!("{head}0\r\n\r\n").as_bytes()).await;
        assert_ne!(empty.status, 415, "an empty chunked body: {method} {path} {label}");
    }
    let long = "x".repeat((1 << 20) + 1);
    let labels = ["Content-Type: application/json", "Authorization: Bearer t"];
    let reply = registry.send("POST", "/api/v1/instances", &labels, &long).await;
    assert_eq!((reply.status, reply.is_error()), (413, true));
    let chunked = format!(
        "POST /api/v1/instances HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    let reply = registry.raw(chunked.as_bytes()).await;
    assert_eq!((reply.status, reply.is_error()), (413, true));
    let whole = "x".repeat(1 << 20);
    assert_eq!(registry.send("POST", "/api/v1/instances", &labels, &whole).await.status, 400);
    registry.stop().await;
}

/// Section 0.4.
#[tokio::test]
async fn a_compressed_body_is_taken_within_the_same_limit() {
    let registry = Running::start(&[]).await;
    let post = async |body: Vec<u8>, coding: &str| {
        let head = format!(
            "POST /api/v1/instances HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        registry.raw(&[head.into_bytes(), body].concat()).await.status
    };
    let compress = registry::gzip::compress;
    let body = registration("s", "tcp", "h:1", "");
    assert_eq!(post(compress(body.as_bytes()), "gzip").await, 201);
    assert_eq!(post(body.clone().into_bytes(), "gzip").await, 400);
    assert_eq!(post(body.clone().into_bytes(), "br").await, 415);
    assert_eq!(post(compress(&vec![b' '; 8 << 20]), "gzip").await, 413);
    registry.stop().await;
}

/// Section 0.4.
#[tokio::test]
async fn every_answer_has_its_headers_and_gzip_only_where_it_is_wanted_and_there_is_something() {
    let registry = Running::start(&[]).await;
    let id = registry.register("s", "h:1", "").await;
    let beat = format!("/api/v1/instances/{id}/heartbeat");
    let mut ids = Vec::new();
    for (method, path, accept, compressed) in [
        ("GET", "/api/v1/services", "gzip", true),
        ("GET", "/api/v1/services", "deflate, gzip;q=0.3", true),
        ("GET", "/api/v1/services", "gzip;q=0", false),
        ("GET", "/api/v1/services", "identity", false),
        ("GET", "/api/v1/watch", "gzip", true),
        ("GET", "/api/v1/watch", "identity", false),
        ("GET", "/nowhere", "gzip", true),
        ("GET", "/", "gzip", false),
        ("PUT", &beat, "gzip", false),
        ("HEAD", "/api/v1/services", "gzip", false),
    ] {
        let reply = registry.send(method, path, &[&format!("Accept-Encoding: {accept}")], "").await;
        assert_eq!(reply.header("vary"), "Accept-Encoding", "{method} {path}");
        assert_eq!(reply.header("content-type"), "application/json; charset=utf-8", "{method} {path}");
        assert_eq!(reply.header("content-encoding") == "gzip", compressed, "{method} {path} {accept}");
        if compressed {
            assert_eq!(reply.header("content-length"), reply.body.len().to_string());
            let plain = registry::gzip::decompress(&reply.body, 10_000).unwrap();
            assert!(plain.starts_with(b"{"), "{method} {path}");
        }
        ids.push(reply.header("request_id").to_owned());
    }
    let mut letters = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        let parts: Vec<_> = id.split('_').collect();
        let [own, nanos, count] = parts[..] else { panic!("{id}") };
        assert!(own.len() == 10 && own.chars().all(|letter| letter.is_ascii_alphabetic()), "{id}");
        assert!(nanos.parse::<u64>().unwrap() > 1_600_000_000_000_000_000, "{id}");
        // The registration was the first.
        assert_eq!(count, (number + 2).to_string());
        letters.push(own);
    }
    letters.dedup();
    assert_eq!(letters.len(), 1);
    registry.stop().await;
}

/// Section 9.4 A1, A3, A5, A12; sections 4.1 and 4.2.
#[tokio::test]
async fn without_a_mode_only_the_default_namespace_is_there() {
    let registry = Running::start(&[]).await;
    for (header, status) in [
        ("X-None: 1", 200),
        ("Authorization:", 200),
        ("Authorization: Bearer default", 200),
        ("Authorization: bearer default", 200),
        ("Authorization: Bearer invalid-token", 401),
        ("Authorization: Basic ZGVmYXVsdA==", 401),
        ("Authorization: Bearer", 401),
        ("Authorization: BEARER default", 401),
    ] {
        for path in ["/api/v1/services", "/api/v1/instances", "/api/v1/watch"] {
            let reply = registry.send("GET", path, &[header], "").await;
            assert_eq!(reply.status, status, "{header}");
            assert!(status == 200 || reply.is_error());
        }
        for path in ["/", "/uptime", "/metrics"] {
            assert_eq!(registry.send("GET", path, &[header], "").await.status, 200, "{path} asks nobody");
        }
    }
    registry.stop().await;
}

/// Section 9.4 A2, A13; 9.7 G1 to G3; section 4.4.
#[tokio::test]
async fn trusted_namespaces_never_see_each_other() {
    let registry = Running::start(&["--auth_mode", "trusted", "--namespace_capacity", "1"]).await;
    let body = registration("s", "tcp", "h:1", "");
    let mut ids = Vec::new();
    for namespace in ["a", "A"] {
        let headers = ["Content-Type: application/json", &format!("Authorization: Bearer {namespace}")];
        let reply = registry.send("POST", "/api/v1/instances", &headers, &body).await;
        assert_eq!(reply.status, 201, "{namespace} has a capacity of its own");
        ids.push(reply.value()["id"].as_str().unwrap().to_owned());
        let other = registration("s", "tcp", "h:2", "");
        let full = registry.send("POST", "/api/v1/instances", &headers, &other).await;
        assert_eq!((full.status, full.is_error()), (403, true));
        assert_eq!(registry.send("POST", "/api/v1/instances", &headers, &body).await.status, 201, "known");
    }
    assert_eq!(ids[0], ids[1], "equal content has equal ids");
    let as_a = ["Authorization: Bearer a"];
    let as_b = ["Authorization: Bearer b"];
    let own = format!("/api/v1/instances/{}", ids[0]);
    let beat = format!("{own}/heartbeat");
    for (headers, method, path, status) in [
        (&as_b, "PUT", &beat, 410),
        (&as_b, "DELETE", &own, 410),
        (&as_a, "DELETE", &own, 200),
        (&as_a, "PUT", &beat, 410),
        (&["Authorization: Bearer A"], "PUT", &beat, 200),
        (&["X-None: 1"], "PUT", &beat, 401),
    ] {
        assert_eq!(registry.send(method, path, headers, "").await.status, status, "{headers:?} {method}");
    }
    let empty = registry.send("GET", "/api/v1/services", &as_b, "").await;
    assert_eq!(empty.text(), r#"{"services":[]}"#);
    registry.stop().await;
}

/// Section 9.1 S6 to S8; 9.5 H3 to H7; section 4.5.
#[tokio::test]
async fn https_is_required_before_the_token_and_never_for_health() {
    let registry = Running::start(&["--require_https", "--auth_mode=trusted"]).await;
    for path in ["/api/v1/services", "/api/v1/instances?status=up&x=%20", "/api/v1/watch?index=1"] {
        let reply = registry.get(path).await;
        assert_eq!(reply.status, 301);
        assert_eq!(reply.header("location"), format!("https://h:8080{path}"));
        assert!(reply.body.is_empty());
    }
    assert_eq!(registry.send("DELETE", "/api/v1/instances/x", &[], "").await.status, 301);
    for (header, status) in [
        ("X-Forwarded-Proto: https", 401),
        ("$WSSC: https", 401),
        ("X-Forwarded-Proto: HTTPS", 301),
        ("X-Forwarded-Proto: http", 301),
    ] {
        assert_eq!(registry.send("GET", "/api/v1/services", &[header], "").await.status, status, "{header}");
    }
    for path in ["/", "/uptime", "/metrics"] {
        assert_eq!(registry.get(path).await.status, 200, "{path}");
    }
    let headers = ["Content-Type: application/json", "Authorization: Bearer t", "X-Forwarded-Proto: https"];
    let body = registration("s", "tcp", "h:1", "");
    let reply = registry.send("POST", "/api/v1/instances", &headers, &body).await;
    assert!(reply.header("location").starts_with("https://h:8080/api/v1/instances/"), "{reply:?}");
    registry.stop().await;
}

/// Section 9.6 M17, M31, M37; section 1.6.
#[tokio::test]
async fn a_lease_ends_in_time_and_an_instance_out_of_service_stays() {
    let registry = Running::start(&["--min_ttl=200ms", "--default_ttl=300ms", "--max_ttl=10m"]).await;
    let began = std::time::Duration::from_millis(300);
    registry.register("kept", "h:1", r#","status":"OUT_OF_SERVICE""#).await;
    registry.register("long", "h:1", r#","ttl":600"#).await;
    let clock = tokio::time::Instant::now();
    let id = registry.register("gone", "h:1", r#","status":"STARTING""#).await;
    registry.eventually("/api/v1/services/gone", |reply| reply.status == 404).await;
    assert!(clock.elapsed() >= began, "never before its time");
    assert_eq!(registry.send("PUT", &format!("/api/v1/instances/{id}/heartbeat"), &[], "").await.status, 410);
    let services = registry.get("/api/v1/services").await.value();
    assert_eq!(services, serde_json::json!({"services": ["kept", "long"]}));
    let metrics = registry.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "a8_registry_instances{namespace=\"default\"} 2",
        "a8_registry_leases{namespace=\"default\"} 1",
        "a8_registry_expirations_total{namespace=\"default\"} 1",
        "a8_registry_requests_total{code=\"410\",operation=\"Renew\",result=\"failure\"} 1",
        "a8_registry_requests_total{code=\"201\",operation=\"Register\",result=\"success\"} 3",
        "a8_registry_request_duration_seconds_count{operation=\"Register\"} 3",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in {}", metrics.text());
    }
    registry.stop().await;
}

/// Section 9.6 M28, M31.
#[tokio::test]
async fn the_count_of_instances_follows_whatever_comes_and_goes() {
    let registry = Running::start(&["--min_ttl=200ms", "--default_ttl=300ms", "--max_ttl=10m"]).await;
    let counted = async |count: usize| {
        let line = format!("a8_registry_instances{{namespace=\"default\"}} {count}\n");
        registry.eventually("/metrics", |reply| reply.text().contains(&line)).await;
    };
    assert!(
        !registry.get("/metrics").await.text().contains("a8_registry_instances{"),
        "nobody was ever there"
    );
    let long = r#","ttl":600,"tags":["t"],"metadata":{"k":1}"#;
    let first = registry.register("s", "h:1", long).await;
    counted(1).await;
    let second = registry.register("t", "h:1", long).await;
    registry.register("t", "h:2", r#","ttl":600"#).await;
    counted(3).await;
    assert_eq!(registry.send("DELETE", &format!("/api/v1/instances/{second}"), &[], "").await.status, 200);
    counted(2).await;
    // The same again is not another one; with the default it is soon over.
    registry.register("t", "h:2", "").await;
    counted(1).await;
    let found = registry.get(&format!("/api/v1/instances?id={first}")).await.value();
    let instance = &found["instances"][0];
    assert_eq!(instance["endpoint"], serde_json::json!({"type": "tcp", "value": "h:1"}));
    assert_eq!((&instance["service_name"], &instance["ttl"]), (&"s".into(), &600.into()));
    assert_eq!((&instance["tags"][0], &instance["metadata"]["k"]), (&"t".into(), &1.into()));
    registry.stop().await;
}

/// Section 9.1 S3, S4; 9.11 U5, U6; section 0.5.
#[tokio::test]
async fn health_routes_answer_as_the_spec_says() {
    let registry = Running::start(&[]).await;
    let alive = registry.get("/").await;
    assert_eq!((alive.status, alive.body.len()), (200, 0));
    let uptime = registry.get("/uptime").await;
    assert_eq!(uptime.status, 200);
    let value = uptime.value();
    assert_eq!(value["UPTIME"]["healthy"], true);
    let properties = &value["UPTIME"]["properties"];
    assert!(properties["uptime"].as_str().unwrap().ends_with('s'));
    for load in ["load_1m", "load_5m", "load_15m"] {
        assert!(properties[load].is_number());
    }
    for name in ["build_version", "build_revision", "build_date", "build_goversion"] {
        assert!(!properties[name].as_str().unwrap().is_empty());
    }
    registry.stop().await;
}

/// Section 9.6 M42 to M45.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_registrations_are_all_there_and_go_again() {
    let registry = std::sync::Arc::new(Running::start(&[]).await);
    let url = format!("http://{}", registry.address);
    let client = std::sync::Arc::new(registry_api::client::RegistryClient::new(&[url], None).unwrap());
    let mut crowd = tokio::task::JoinSet::new();
    for worker in 0..50 {
        let client = std::sync::Arc::clone(&client);
        crowd.spawn(async move {
            let mut ids = Vec::new();
            for number in 0..200 {
                let service = format!("s{}", number % 50);
                let address = format!("10.0.{worker}.{number}:80");
                let registration = registry_api::Registration::http(&service, &[], address);
                ids.push(client.register(&registration).await.unwrap().id);
            }
            for id in &ids {
                assert!(client.heartbeat(id).await.unwrap());
            }
            ids
        });
    }
    let ids = crowd.join_all().await;
    let services = registry.get("/api/v1/services").await.value();
    assert_eq!(services["services"].as_array().unwrap().len(), 50);
    let all = client.instances().await.unwrap();
    assert_eq!(all.len(), 10_000);
    assert_eq!(all.iter().filter(|instance| instance.service_name.as_str() == "s7").count(), 200);
    let mut crowd = tokio::task::JoinSet::new();
    for ids in ids {
        let client = std::sync::Arc::clone(&client);
        crowd.spawn(async move {
            for id in ids {
                assert!(client.deregister(&id).await.unwrap());
            }
        });
    }
    crowd.join_all().await;
    assert_eq!(registry.get("/api/v1/services").await.text(), r#"{"services":[]}"#);
    let Ok(registry) = std::sync::Arc::try_unwrap(registry) else { panic!("nobody else holds it") };
    registry.stop().await;
}

#[tokio::test]
async fn http_2_is_spoken_too_and_links_name_its_authority() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let registry = Running::start(&[]).await;
    let stream = tokio::net::TcpStream::connect(registry.address).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driven = tokio::spawn(connection);
    let request = http::Request::post("http://fabric:7/api/v1/instances")
        .header("content-type", "application/json")
        .body(Full::<bytes::Bytes>::from(registration("s", "tcp", "h:1", "")))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 201);
    assert!(
        response.headers()["location"].to_str().unwrap().starts_with("http://fabric:7/api/v1/instances/")
    );
    let unlabelled =
        http::Request::post("http://fabric:7/nowhere").body(Full::<bytes::Bytes>::from("text")).unwrap();
    let refused = sender.send_request(unlabelled).await.unwrap();
    assert_eq!(refused.status(), 415);
    assert!(refused.into_body().collect().await.unwrap().to_bytes().starts_with(b"{\"Error\":"));
    drop(sender);
    driven.await.unwrap().unwrap();
    registry.stop().await;
}
