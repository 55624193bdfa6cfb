//! Copies of requests, seen by who gets them and by who must not notice.

use std::time::Duration;

use control_api::RuleId;
use routing::{Purpose, Seed, rule_key};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{Instance, Proxy, actions, field, fields, get, nobody, ok, post, route, soon};

const LOST: &str = r#"a8_proxy_mirror_lost_total{reason="#;

/// A mirror that tells of every request, and answers it as it is told to.
async fn mirror(answer: &'static str) -> (String, mpsc::UnboundedReceiver<(String, String)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let at = Instance::answering(move |head, body| {
        let _gone = tell.send((head.to_owned(), body.to_owned()));
        answer.to_owned()
    });
    (at.await.to_string(), told)
}

fn copies(percent: f64) -> Value {
    route(json!({"mirror": {"tags": ["v2"], "percent": percent}}))
}

fn lost(proxy: &Proxy, reason: &str) -> Option<f64> {
    proxy.metric(&format!(r#"{LOST}"{reason}",service="s"}}"#))
}

async fn is_lost(proxy: &Proxy, reason: &str, count: f64) {
    proxy.metric_becomes(&format!(r#"{LOST}"{reason}",service="s"}}"#), count).await;
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ncopy";
const BROKEN: &str = "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn a_mirror_gets_what_the_instance_gets_and_the_client_never_hears_of_it() {
    let (at, mut told) = mirror(BROKEN).await;
    let (real, mut sent) = mirror("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal").await;
    let mut rule = copies(100.0);
    rule["route"]["headers"] = json!({"request": {"set": {"X-Set": "by rule"}}});
    let proxy = Proxy::with(&[rule], &[("s", "v1", real), ("s", "v2", at)]);
    let mut conn = proxy.connect().await;
    for (request, body) in [
        ("GET /s/a?b=1 HTTP/1.1\r\nHost: shop\r\nX-Request-Id: id-1\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n", ""),
        ("POST /s/a HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        (
            "PUT /s/a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
            "hello",
        ),
        ("DELETE /s/ HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n", ""),
        ("HEAD /s HTTP/1.1\r\nHost: shop\r\n\r\n", ""),
    ] {
        conn.send(request).await;
        if request.starts_with("HEAD") {
            assert!(conn.head().await.starts_with("HTTP/1.1 200 "));
        } else {
            assert_eq!(conn.answer().await.body, "real");
        }
        let (head, _) = soon("the request", sent.recv()).await.unwrap();
        let (copy, copied) = soon("its copy", told.recv()).await.unwrap();
        assert_eq!(copied, body, "{request}");
        assert_eq!(copy.lines().next(), head.lines().next());
        for name in
            ["host", "x-request-id", "x-two", "x-set", "x-forwarded-for", "x-forwarded-proto", "traceparent"]
        {
            assert_eq!(fields(&copy, name), fields(&head, name), "{name} of {copy}");
        }
        assert_eq!(fields(&copy, "x-a8-mirror"), ["r"]);
        assert_eq!(field(&head, "x-a8-mirror"), None);
        assert_eq!(field(&copy, "transfer-encoding"), None);
        assert_eq!(
            field(&copy, "content-length").is_some(),
            !matches!(&request[..3], "GET" | "HEA"),
            "{copy}"
        );
    }
    proxy.metric_becomes(r#"a8_proxy_mirrored_total{service="s"}"#, 5.0).await;
    let requests = r#"a8_proxy_requests_total{backend="v2",code="500",rule="r",service="s"}"#;
    assert_eq!(proxy.metric(requests), None, "a copy is nobody's request");
}

#[tokio::test]
async fn a_part_of_the_requests_is_copied_by_a_draw_of_its_own() {
    let (at, mut told) = mirror(FINE).await;
    let real = Instance::named("real").await.to_string();
    let proxy = Proxy::with(&[copies(25.0)], &[("s", "v1", real), ("s", "v2", at)]);
    let mut conn = proxy.connect().await;
    let (mut expected, rule) = (Vec::new(), rule_key(&RuleId::new("r").unwrap()));
    for id in 0..200 {
        let id = format!("id-{id}");
        conn.send(format!("GET /s HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n")).await;
        assert_eq!(conn.answer().await.body, "real");
        if Seed::of(id.as_bytes()).draw(Purpose::Mirror, rule).get() < 0.25 {
            expected.push(id);
        }
    }
    assert!((30..70).contains(&expected.len()), "{}", expected.len());
    let mut copied = Vec::new();
    for _ in &expected {
        let (head, _) = soon("a copy", told.recv()).await.unwrap();
        copied.push(field(&head, "x-request-id").unwrap().to_owned());
    }
    expected.sort_unstable();
    copied.sort_unstable();
    assert_eq!(copied, expected);
    proxy.metric_becomes(r#"a8_proxy_mirrored_total{service="s"}"#, expected.len() as f64).await;
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_mirror_that_is_away_or_silent_is_not_felt() {
    let real = Instance::named("real").await.to_string();
    let silent = Instance::start().await;
    for (at, is_away) in [(nobody().await, true), (silent.at, false)] {
        let proxy = Proxy::with(&[copies(100.0)], &[("s", "v1", real.clone()), ("s", "v2", at.to_string())]);
        let mut conn = proxy.connect().await;
        // A copy may take five seconds; fifty in a row would take minutes.
        let unfelt = timeout(Duration::from_secs(5), async {
            for request in 0..50 {
                conn.send(if request % 2 == 0 { get("/s") } else { post("/s", "body") }).await;
                assert_eq!(conn.answer().await.body, "real");
            }
        });
        unfelt.await.expect("no request waits for its copy");
        if is_away {
            is_lost(&proxy, "failed", 50.0).await;
        }
        assert_eq!(proxy.metric(r#"a8_proxy_retries_total{service="s"}"#), None);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_or_breaks_off_is_not_copied() {
    let (at, mut told) = mirror(FINE).await;
    let real = Instance::answering(|_, body| ok(&body.len().to_string())).await.to_string();
    let proxy = Proxy::with(&[copies(100.0)], &[("s", "v1", real), ("s", "v2", at)]);
    let mut conn = proxy.connect().await;
    for len in [64 * 1024, 64 * 1024 + 1] {
        conn.send(post("/s", &"x".repeat(len))).await;
        assert_eq!(conn.answer().await.body, len.to_string());
    }
    assert_eq!(soon("the copy", told.recv()).await.unwrap().1.len(), 64 * 1024);
    is_lost(&proxy, "body_too_large", 1.0).await;
    conn.send("POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe").await;
    drop(conn);
    is_lost(&proxy, "incomplete", 1.0).await;
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_request_that_is_tried_again_is_copied_once() {
    let (at, mut told) = mirror(FINE).await;
    let broken = Instance::answering(|_, _| BROKEN.to_owned()).await.to_string();
    let mut rule = copies(100.0);
    rule["route"]["http_req_retries"] = json!(3);
    let proxy = Proxy::with(&[rule], &[("s", "v1", broken.clone()), ("s", "v1", broken), ("s", "v2", at)]);
    for request in [post("/s", "hello"), get("/s")] {
        assert_eq!(proxy.ask(&request).await.status, 500);
    }
    let mut bodies =
        [soon("a copy", told.recv()).await.unwrap().1, soon("a copy", told.recv()).await.unwrap().1];
    bodies.sort_unstable();
    assert_eq!(bodies, ["", "hello"]);
    proxy.metric_becomes(r#"a8_proxy_mirrored_total{service="s"}"#, 2.0).await;
    assert!(proxy.metric(r#"a8_proxy_retries_total{service="s"}"#).unwrap() > 1.0);
    assert_eq!((told.try_recv().is_err(), lost(&proxy, "incomplete")), (true, None));
}

#[tokio::test]
async fn a_short_body_that_came_during_a_delay_is_copied_whole() {
    let (at, mut told) = mirror(FINE).await;
    let real = Instance::named("real").await.to_string();
    let delay = actions(json!([{"action": "delay", "duration": 0.05, "probability": 1}]));
    let proxy = Proxy::with(&[copies(100.0), delay], &[("s", "v1", real), ("s", "v2", at)]);
    let mut conn = proxy.connect().await;
    conn.send(post("/s", "hello")).await;
    assert_eq!(conn.answer().await.body, "real");
    assert_eq!(soon("the copy", told.recv()).await.unwrap().1, "hello");
}

#[tokio::test]
async fn what_is_not_sent_is_not_copied() {
    let (at, mut told) = mirror(FINE).await;
    let abort = actions(json!([{"action": "abort", "return_code": 418, "probability": 1}]));
    let real = Instance::named("real").await.to_string();
    let instances = [("s", "v1", real), ("s", "v2", at)];
    let proxy = Proxy::with(&[copies(100.0), abort], &instances);
    assert_eq!(proxy.ask(&get("/s")).await.status, 418);
    proxy.apply(&[copies(100.0)], &instances);
    assert_eq!(proxy.ask(&get("/s/second")).await.body, "real");
    let (head, _) = soon("the copy", told.recv()).await.unwrap();
    assert!(head.starts_with("GET /second "), "{head}");
    let mirror = instances[1].clone();
    proxy.apply(&[copies(100.0)], &[("s", "v1", nobody().await.to_string()), mirror]);
    for request in [get("/s"), post("/s", "body")] {
        assert_eq!(proxy.ask(&request).await.status, 503);
    }
    is_lost(&proxy, "incomplete", 2.0).await;
    assert!(told.try_recv().is_err());
}
