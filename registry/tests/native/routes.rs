//! Which paths and methods there are, and what every answer has (spec/registry.md 0.4, 0.5, 9.1, 9.2).

use crate::registration;
use crate::support::Running;

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

/// Section 1.2, over HTTP/2.
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
