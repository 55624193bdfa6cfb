//! Where the API is, to whom, and what is not there (spec/registry.md 0.4, 3.1).

use serde_json::json;

use crate::support::Running;
use crate::{JSON, WANT_JSON, XML, ask, ids, instance, pairs, status_of};

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
