//! Who may see what (spec/registry.md 4, 9.4): signed tokens from outside, and two tenants that use the same names.
//! Every endpoint is asked by the one about the other.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry_api::{Namespace, token};
use support::{Reply, Running};

const SECRET: &str = "correct horse";

#[expect(clippy::disallowed_methods, reason = "the registry under test reads this clock as well")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn bearer(secret: &str, namespace: &str, from: Duration, lifetime_secs: u64) -> String {
    let namespace = Namespace::new(namespace).unwrap();
    let token = token::sign(secret.as_bytes(), &namespace, from, Duration::from_secs(lifetime_secs));
    format!("Authorization: Bearer {token}")
}

/// Section 4.2.
#[tokio::test]
async fn a_signed_token_names_its_namespace_or_is_refused_without_being_repeated() {
    let registry = Running::start(&["--auth_mode=jwt", "--jwt_secret", SECRET]).await;
    let good = bearer(SECRET, "blue", now(), 600);
    let tagged = good.replace("Bearer ", "Bearer jwt.");
    for (header, status) in [
        (good.clone(), 200),
        (tagged, 200),
        (good.replace("Bearer", "bearer"), 200),
        ("X-None: 1".to_owned(), 401),
        ("Authorization: Bearer ".to_owned(), 401),
        (good.replace("Bearer", "BEARER"), 401),
        (bearer("guess", "blue", now(), 600), 401),
        (bearer(SECRET, "blue", now() - Duration::from_secs(60), 59), 401),
        (format!("{good}x"), 401),
        // {"alg":"none"}.{"namespace":"blue"} without a signature.
        ("Authorization: Bearer eyJhbGciOiJub25lIn0.eyJuYW1lc3BhY2UiOiJibHVlIn0.".to_owned(), 401),
        (format!("Authorization: Bearer {}", "a".repeat(20_000)), 401),
        (format!("Authorization: Bearer {0}.{0}.{0}", "a".repeat(10_000)), 401),
        ("Authorization: Bearer \u{1f511}".to_owned(), 401),
        ("Authorization: Bearer blue".to_owned(), 401),
        ("Authorization: Basic Ymx1ZTpibHVl".to_owned(), 401),
    ] {
        let reply = registry.send("GET", "/api/v1/services", &[&header], "").await;
        assert_eq!(reply.status, status, "{header}");
        if status == 401 {
            assert!(reply.is_error());
            assert_eq!(reply.header("www-authenticate"), "Bearer");
            let token = header.rsplit(' ').next().unwrap_or_default();
            assert!(token.is_empty() || token == "1" || !reply.text().contains(token), "{reply:?}");
        }
    }
    // Eureka clients put the token into the path (3.1), and it is judged alike.
    let token = |header: &str| header.rsplit(' ').next().unwrap().to_owned();
    for (token, status) in [
        (token(&good), 200),
        (format!("jwt.{}", token(&good)), 200),
        (token(&bearer("guess", "blue", now(), 600)), 401),
        (String::new(), 401),
    ] {
        let reply = registry.get(&format!("/api/eureka/{token}/v2/apps")).await;
        assert_eq!(reply.status, status, "{token}");
        assert!(status == 200 || token.is_empty() || !reply.text().contains(&token), "{reply:?}");
    }
    registry.stop().await;
}

/// Section 9.4 A6.
#[tokio::test]
async fn an_issuer_that_was_never_reached_is_503_and_the_registry_stays() {
    let missing = tempfile::tempdir().unwrap().path().join("keys.json");
    let arguments = ["--auth_mode=jwt,none", "--jwt_keys", missing.to_str().unwrap()];
    let registry = Running::start(&arguments).await;
    // {"alg":"RS256","kid":"k"}.{"namespace":"b"}
    let unknown = "Authorization: Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.eyJuYW1lc3BhY2UiOiJiIn0.AA";
    let reply = registry.send("GET", "/api/v1/services", &[unknown], "").await;
    assert_eq!((reply.status, reply.is_error()), (503, true));
    let default = ["Authorization: Bearer default"];
    assert_eq!(registry.send("GET", "/api/v1/services", &default, "").await.status, 200);
    registry.stop().await;
}

struct Tenant<'a> {
    registry: &'a Running,
    header: String,
}

impl Tenant<'_> {
    async fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        self.registry.send(method, path, &[&self.header, "Content-Type: application/json"], body).await
    }
}

/// Section 9.7 G2; section 4.4.
#[tokio::test]
async fn tenants_with_equal_names_never_see_each_other_at_any_endpoint() {
    let registry = Running::start(&["--auth_mode=jwt", "--jwt_secret", SECRET]).await;
    let tenant = |name| Tenant { registry: &registry, header: bearer(SECRET, name, now(), 600) };
    let (blue, green) = (tenant("blue"), tenant("green"));
    let registration = |host: &str, more: &str| {
        format!(
            r#"{{"service_name":"shop","endpoint":{{"type":"http","value":"{host}:80"}},"tags":["{host}"],"metadata":"{host}"{more}}}"#
        )
    };
    // An instance of the same endpoint has the same id with both, and is another one all the same.
    let mut ids = Vec::new();
    for (tenant, host) in [(&blue, "only-blue"), (&green, "only-green")] {
        assert_eq!(tenant.ask("POST", "/api/v1/instances", &registration(host, "")).await.status, 201);
        let shared = registration(
            "both",
            &format!(r#","status":"{}""#, if host == "only-blue" { "STARTING" } else { "UP" }),
        );
        assert_eq!(tenant.ask("POST", "/api/v1/instances", &shared).await.status, 201);
        let listed = tenant.ask("GET", &format!("/api/v1/instances?tags={host}"), "").await.value();
        ids.push(listed["instances"][0]["id"].as_str().unwrap().to_owned());
    }
    // The same application and id by Eureka as well.
    for (tenant, host, more) in [
        (&blue, "only-blue", r#","metadata":{"k":"only-blue"},"statusPageUrl":"http://only-blue/""#),
        (&green, "only-green", ""),
    ] {
        let instance = format!(
            r#"{{"instance":{{"app":"EUREKA","instanceId":"i","hostName":"{host}","ipAddr":"1","vipAddress":"{host}"{more}}}}}"#
        );
        assert_eq!(tenant.ask("POST", "/eureka/apps/EUREKA", &instance).await.status, 204);
    }
    let lost = "/eureka/apps/EUREKA/i/status?value=OUT_OF_SERVICE";
    assert_eq!(blue.ask("PUT", lost, "").await.status, 200);
    let hash = blue.ask("GET", "/api/v1/watch?wait=0", "").await;
    let (epoch, index, hash) = (hash.header("a8-epoch"), hash.header("a8-index"), hash.header("a8-hash"));
    let blues = &ids[0];
    for (method, path, body, status) in [
        ("GET", "/api/v1/services".to_owned(), "", 200),
        ("GET", "/api/v1/services/shop".to_owned(), "", 200),
        ("GET", "/api/v1/instances".to_owned(), "", 200),
        ("GET", "/api/v1/instances?status=ALL".to_owned(), "", 200),
        ("GET", "/api/v1/instances?tags=only-blue".to_owned(), "", 200),
        ("GET", format!("/api/v1/instances?id={blues}"), "", 200),
        ("GET", "/api/v1/watch?wait=0".to_owned(), "", 200),
        ("GET", "/api/v1/watch?wait=0&service=shop".to_owned(), "", 200),
        // What the other holds is nothing that this one could hold.
        ("GET", format!("/api/v1/watch?wait=0&epoch={epoch}&index={index}&hash={hash}"), "", 200),
        ("PUT", format!("/api/v1/instances/{blues}/heartbeat"), "", 410),
        ("DELETE", format!("/api/v1/instances/{blues}"), "", 410),
        ("PUT", "/api/v1/instances//heartbeat".to_owned(), "", 400),
        ("PUT", "/api/v1/heartbeats".to_owned(), "{\"ids\":[7]}", 400),
        ("POST", "/api/v1/instances".to_owned(), "{}", 400),
        ("GET", "/api/v1/instances?only=x".to_owned(), "", 400),
        ("GET", "/eureka/apps".to_owned(), "", 200),
        ("GET", "/eureka/apps/delta".to_owned(), "", 200),
        ("GET", "/eureka/apps/SHOP".to_owned(), "", 200),
        ("GET", "/eureka/vips/shop".to_owned(), "", 200),
        ("GET", "/eureka/svips/shop".to_owned(), "", 404),
        ("GET", "/eureka/apps/EUREKA".to_owned(), "", 200),
        ("GET", "/eureka/apps/EUREKA/i".to_owned(), "", 200),
        ("GET", "/eureka/instances/i".to_owned(), "", 200),
        ("GET", "/eureka/vips/only-blu".to_owned(), "", 404),
        ("PUT", "/eureka/apps/EUREKA/i".to_owned(), "", 200),
        ("PUT", "/eureka/apps/EUREKA/i/metadata?k=v".to_owned(), "", 200),
        ("POST", "/eureka/apps/EUREKA".to_owned(), "{\"instance\":{\"app\":\"other\"}}", 400),
        ("GET", format!("/eureka/instances/{blues}"), "", 404),
        ("GET", format!("/eureka/apps/SHOP/{blues}"), "", 404),
        ("PUT", format!("/eureka/apps/SHOP/{blues}"), "", 404),
        ("DELETE", format!("/eureka/apps/SHOP/{blues}"), "", 404),
        ("PUT", format!("/eureka/apps/SHOP/{blues}/status?value=DOWN"), "", 404),
        ("DELETE", format!("/eureka/apps/SHOP/{blues}/status"), "", 404),
        ("PUT", format!("/eureka/apps/SHOP/{blues}/metadata?k=v"), "", 404),
        ("POST", "/eureka/peerreplication/batch".to_owned(), "{}", 200),
        ("GET", "/hello".to_owned(), "", 404),
        ("GET", "/uptime".to_owned(), "", 200),
    ] {
        let reply = green.ask(method, &path, body).await;
        assert_eq!(reply.status, status, "{method} {path}");
        let text = reply.text();
        assert!(!text.contains("only-blue") && !text.contains(blues), "{method} {path}: {text}");
        assert!(!text.contains("STARTING") && !text.contains("OUT_OF_SERVICE"), "{method} {path}: {text}");
    }
    assert_eq!(
        green.ask("GET", "/api/v1/services/shop", "").await.value()["instances"].as_array().unwrap().len(),
        2
    );
    let both =
        green.ask("GET", "/api/v1/instances?tags=both", "").await.value()["instances"][0]["id"].clone();
    let path = format!("/api/v1/instances/{}", both.as_str().unwrap());
    assert_eq!(green.ask("DELETE", &path, "").await.status, 200);
    assert_eq!(blue.ask("PUT", &format!("{path}/heartbeat"), "").await.status, 200, "the other's is there");
    // A poll that waits hears of its own alone, whatever the other does meanwhile.
    let held = green.ask("GET", "/api/v1/watch?wait=0", "").await;
    let place = |reply: &Reply| {
        let header = |name| reply.header(name).to_owned();
        format!("epoch={}&index={}&hash={}", header("a8-epoch"), header("a8-index"), header("a8-hash"))
    };
    let path = format!("/api/v1/watch?wait=20s&{}", place(&held));
    let changes = async {
        let waiting = r#"a8_registry_watchers{namespace="green"} 1"#;
        registry.eventually("/metrics", |reply| reply.text().contains(waiting)).await;
        for port in 0..20 {
            let more = registration(&format!("only-blue{port}"), "");
            assert_eq!(blue.ask("POST", "/api/v1/instances", &more).await.status, 201);
        }
        let metrics = registry.get("/metrics").await;
        assert!(metrics.text().contains(waiting), "it still waits: {}", metrics.text());
        assert_eq!(green.ask("POST", "/api/v1/instances", &registration("end", "")).await.status, 201);
    };
    let (news, ()) = tokio::join!(green.ask("GET", &path, ""), changes);
    assert!(news.text().contains("end:80") && !news.text().contains("only-blue"), "{news:?}");
    let metrics = registry.get("/metrics").await;
    for line in [
        r#"a8_registry_instances{namespace="blue"} 23"#,
        r#"a8_registry_instances{namespace="green"} 3"#,
        r#"a8_registry_metadata_instances{namespace="green"} 3"#,
        r#"a8_registry_tags_instances{namespace="green"} 2"#,
        // What is out of service has no lease; that is blue's alone.
        r#"a8_registry_leases{namespace="blue"} 22"#,
        r#"a8_registry_leases{namespace="green"} 3"#,
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in {}", metrics.text());
    }
    assert!(!metrics.text().contains("only-"));
    registry.stop().await;
}
