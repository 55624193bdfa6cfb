//! What a request may carry, judged before anything else (spec/registry.md 0.4).

use crate::registration;
use crate::support::Running;

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
