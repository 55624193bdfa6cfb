//! Whose namespace it is, and over HTTPS or not (spec/registry.md 4, 9.1, 9.4, 9.5, 9.7).

use crate::registration;
use crate::support::Running;

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

#[tokio::test]
async fn a_request_says_once_for_which_host_it_is() {
    let registry = Running::start(&[]).await;
    for (version, hosts, status) in [
        ("1.1", "Host: a\r\n", 200),
        ("1.1", "Host: [::1]:8080\r\n", 200),
        ("1.1", "", 400),
        ("1.1", "Host: a\r\nHost: a\r\n", 400),
        ("1.1", "Host: a\r\nX: y\r\nhost: b\r\n", 400),
        ("1.1", "Host: a/b\r\n", 400),
        ("1.0", "", 200),
        ("1.0", "Host: a\r\nHost: b\r\n", 400),
    ] {
        let request = format!("GET / HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n");
        let reply = registry.raw(request.as_bytes()).await;
        assert_eq!(reply.status, status, "{request:?}");
        if status == 400 {
            assert_eq!(reply.value()["Error"], "the Host field is missing, repeated or malformed");
            assert!(!reply.header("request_id").is_empty());
        }
    }
    registry.stop().await;
}
