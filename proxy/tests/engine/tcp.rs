//! Plain TCP: whom a connection is given to, how bytes and ends are passed on, and what is told of it.

use std::time::Duration;

use proxy::server::Limits;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{Conn, Instance, PATIENCE, Proxy, actions, get, nobody, ok, soon};

/// A proxy with these listeners.
fn listening(listeners: &str, limits: Limits, instances: &[(&str, &str, String)]) -> Proxy {
    let flags = [format!("--engine={}", crate::chosen::ENGINE), format!("--tcp_proxies={listeners}")];
    Proxy::told(&flags, limits, &[], instances)
}

/// An instance that says who it is to every connection, and ends it.
async fn greeter(name: &'static str) -> String {
    let mut instance = Instance::start().await;
    let at = instance.at;
    tokio::spawn(async move {
        loop {
            instance.accept().await.send(name).await;
        }
    });
    at.to_string()
}

/// Who greets on a new connection; nobody when it is reset.
async fn greeting(proxy: &Proxy, number: usize) -> String {
    proxy.connect_tcp(number).await.rest().await
}

/// Whether a new connection is reset, which a client may see as early as while it connects.
async fn is_refused(proxy: &Proxy, number: usize) -> bool {
    match soon("the proxy", TcpStream::connect(proxy.tcp[number])).await {
        Ok(stream) => Conn::over(stream).is_reset().await,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn count(outcome: &str, backend: &str) -> String {
    format!(r#"a8_proxy_tcp_connections_total{{backend="{backend}",outcome="{outcome}",service="s"}}"#)
}

#[tokio::test]
async fn bytes_go_both_ways_and_the_end_of_one_is_not_that_of_the_other() {
    let mut instance = Instance::start().await;
    let proxy = listening("s:v1=0", Limits::default(), &[("s", "v1", instance.at.to_string())]);
    let mut client = proxy.connect_tcp(0).await;
    let mut upstream = instance.accept().await;
    // Whoever speaks first may be either.
    upstream.send("220 hello\r\n").await;
    assert_eq!(client.exactly(11).await, "220 hello\r\n");
    assert_eq!(proxy.metric("a8_proxy_active_connections"), Some(1.0));
    let active = r#"a8_proxy_tcp_active_connections{backend="v1",service="s"}"#;
    assert_eq!(proxy.metric(active), Some(1.0));
    let bulk = vec![b'x'; 3 << 20];
    let (echoed, ()) = tokio::join!(client.send_and_read(&bulk), upstream.echo(bulk.len()));
    assert!(echoed == bulk);
    client.send("the last").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(upstream.rest().await, "the last");
    upstream.send("answer to the last").await;
    drop(upstream);
    assert_eq!(client.rest().await, "answer to the last");
    let line = &proxy.log(1).await[0];
    let (received, sent) = (bulk.len() + 8, bulk.len() + 11 + 18);
    for (field, value) in [
        ("status", json!("0")),
        ("protocol", json!("TCP")),
        ("src", json!("caller:v9")),
        ("dst", json!("s:v1")),
        ("response_flags", json!("-")),
        ("auth", json!(proxy.tcp[0].to_string())),
        ("upstream_host", json!(instance.at.to_string())),
        ("bytes_received", json!(received)),
        ("bytes_sent", json!(sent)),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!(proxy.metric(&count("ended", "v1")), Some(1.0));
    assert_eq!(proxy.metric(active), Some(0.0));
    let bytes = |direction| {
        let series = r#"a8_proxy_tcp_bytes_total{backend="v1",direction=""#;
        proxy.metric(&format!(r#"{series}{direction}",service="s"}}"#))
    };
    assert_eq!((bytes("received"), bytes("sent")), (Some(received as f64), Some(sent as f64)));
}

#[tokio::test]
async fn tags_choose_among_the_instances_and_nobody_there_is_a_reset() {
    let instances = [("s", "v1", greeter("1").await), ("s", "v2", greeter("2").await)];
    let proxy = listening("s:v1=0;s:v2=0;s:v3=0;s:v1,v2=0;nobody=0", Limits::default(), &instances);
    for _ in 0..3 {
        assert_eq!(greeting(&proxy, 0).await, "1");
        assert_eq!(greeting(&proxy, 1).await, "2");
    }
    for listener in 2..5 {
        assert!(is_refused(&proxy, listener).await, "{listener}");
    }
    proxy.metric_becomes(&count("no_instances", "v3"), 1.0).await;
    proxy.metric_becomes(&count("no_instances", "v1,v2"), 1.0).await;
    let unknown = r#"a8_proxy_tcp_connections_total{backend="",outcome="unknown_service",service="nobody"}"#;
    proxy.metric_becomes(unknown, 1.0).await;
    let mut flags: Vec<_> =
        proxy.log(9).await.iter().map(|line| line["response_flags"].as_str().unwrap().to_owned()).collect();
    flags.sort_unstable();
    assert_eq!(flags, ["-", "-", "-", "-", "-", "-", "NR", "UH", "UH"]);
    // Who comes later is found, without a restart.
    proxy.apply(&[], &[("nobody", "", greeter("somebody").await)]);
    assert_eq!(greeting(&proxy, 4).await, "somebody");
}

#[tokio::test]
async fn connections_take_turns_whichever_thread_accepts_them() {
    let instances =
        [("s", "", greeter("1").await), ("s", "", greeter("2").await), ("s", "", greeter("3").await)];
    let proxy = listening("s=0;s=0", Limits::default(), &instances);
    let mut greetings = Vec::new();
    for _ in 0..12 {
        greetings.push(greeting(&proxy, 0).await);
        // The other listener's are counted by themselves.
        greeting(&proxy, 1).await;
    }
    assert_eq!(greetings.concat(), "123".repeat(4));
}

#[tokio::test]
async fn the_next_one_is_tried_while_one_is_there_and_whoever_never_is_is_left_alone() {
    let instances = [("s", "", nobody().await.to_string()), ("s", "", greeter("alive").await)];
    let proxy = listening("s=0", Limits::default(), &instances);
    for _ in 0..20 {
        assert_eq!(greeting(&proxy, 0).await, "alive");
    }
    let ejections = r#"a8_proxy_ejections_total{kind="consecutive_errors",service="s"}"#;
    assert_eq!(proxy.metric(ejections), Some(1.0));
    // One board for all: requests do not go there either.
    let table = proxy.stage.tables.pin();
    let service = table.service(table.find("s").unwrap());
    let usable = |at: usize| service.endpoints()[at].live.usable(proxy::clock::now());
    assert!(!usable(0) && usable(1));
    // Nobody is not somebody who was ejected: whoever is left is tried.
    proxy.apply(&[], &instances[..1]);
    assert!(is_refused(&proxy, 0).await);
    proxy.metric_becomes(&count("connect_failed", ""), 1.0).await;
    assert_eq!(proxy.log(21).await[20]["response_flags"], "UF");
}

#[tokio::test]
async fn an_instance_that_registered_a_name_is_found_by_it() {
    let mut instance = Instance::start().await;
    let endpoint = format!("localhost:{}", instance.at.port());
    let proxy = listening("s=0", Limits::default(), &[("s", "", endpoint)]);
    let resolver = std::sync::Arc::clone(&proxy.stage.resolver);
    tokio::spawn(async move { resolver.run().await });
    // `localhost` may have an IPv6 address first, where nobody listens; the next attempt finds the other.
    let (mut client, mut upstream) = soon("the lookup", async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let Ok(stream) = TcpStream::connect(proxy.tcp[0]).await else { continue };
            let mut client = Conn::over(stream);
            tokio::select! {
                upstream = instance.accept() => return (client, upstream),
                _reset = client.is_closed() => {}
            }
        }
    })
    .await;
    client.send("x").await;
    assert_eq!(upstream.exactly(1).await, "x");
}

#[tokio::test]
async fn no_rule_about_requests_is_asked_and_tls_is_carried_as_it_is() {
    let mut instance = Instance::start().await;
    let endpoint = format!("https://{}", instance.at);
    let proxy = listening("s=0", Limits::default(), &[("s", "v1", endpoint.clone())]);
    let rules = [
        actions(json!([{"action": "abort", "return_code": 418}])),
        json!({"id": "r", "destination": "s", "route": {"backends": [{"tags": ["v2"]}]}}),
    ];
    proxy.apply(&rules, &[("s", "v1", endpoint)]);
    let mut client = proxy.connect_tcp(0).await;
    client.send(get("/s")).await;
    let (mut upstream, head) = instance.request().await;
    assert_eq!(head, get("/s"), "neither encrypted nor looked at");
    upstream.send(ok("x")).await;
    assert_eq!(client.answer().await.body, "x");
}

#[tokio::test]
async fn a_connection_outlives_the_table_that_chose_its_instance() {
    let mut old = Instance::start().await;
    let proxy = listening("s=0", Limits::default(), &[("s", "", old.at.to_string())]);
    let mut client = proxy.connect_tcp(0).await;
    let mut upstream = old.accept().await;
    let before = proxy.stage.tables.pin();
    proxy.apply(&[], &[("s", "", greeter("new").await)]);
    assert_eq!(greeting(&proxy, 0).await, "new");
    client.send("still there?").await;
    assert_eq!(upstream.exactly(12).await, "still there?");
    upstream.send("yes").await;
    assert_eq!(client.exactly(3).await, "yes");
    // Nothing but this test holds the old table, which may be large.
    soon("the old table to be let go", async {
        while std::sync::Arc::strong_count(&before) > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn reset(conn: Conn) {
    #[allow(deprecated, reason = "a linger of zero does not block")]
    conn.stream.set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn a_break_of_one_side_is_a_break_for_the_other() {
    let mut instance = Instance::start().await;
    let proxy = listening("s=0", Limits::default(), &[("s", "", instance.at.to_string())]);
    let mut client = proxy.connect_tcp(0).await;
    let mut upstream = instance.accept().await;
    upstream.send("half an ans").await;
    assert_eq!(client.exactly(11).await, "half an ans");
    reset(upstream);
    assert!(client.is_reset().await, "not an end");
    proxy.metric_becomes(&count("instance_reset", ""), 1.0).await;
    assert_eq!(proxy.log(1).await[0]["response_flags"], "UR");

    let mut client = proxy.connect_tcp(0).await;
    let mut upstream = instance.accept().await;
    client.send("half a quest").await;
    assert_eq!(upstream.exactly(12).await, "half a quest");
    reset(client);
    assert!(upstream.is_reset().await, "not an end");
    proxy.metric_becomes(&count("client_reset", ""), 1.0).await;
}

#[tokio::test]
async fn what_an_instance_has_said_to_its_end_arrives_though_it_hears_no_more() {
    let mut instance = Instance::start().await;
    let proxy = listening("s=0", Limits::default(), &[("s", "", instance.at.to_string())]);
    let mut client = proxy.connect_tcp(0).await;
    let mut upstream = instance.accept().await;
    upstream.send("enough, goodbye").await;
    drop(upstream);
    proxy.metric_becomes(r#"a8_proxy_tcp_bytes_total{backend="",direction="sent",service="s"}"#, 15.0).await;
    // The first of it has the instance reset its connection; a later one finds that out.
    soon("the break", async {
        while client.try_send("more").await && proxy.metric(&count("instance_reset", "")) != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(client.exactly(15).await, "enough, goodbye");
}

#[tokio::test]
async fn a_connection_that_carries_nothing_ends_some_time() {
    let mut instance = Instance::start().await;
    let limits = Limits { tcp_idle_within: Duration::from_millis(300), ..Limits::default() };
    let proxy = listening("s=0", limits, &[("s", "", instance.at.to_string())]);
    let mut client = proxy.connect_tcp(0).await;
    let mut upstream = instance.accept().await;
    assert!(client.is_closed().await && upstream.is_closed().await);
    proxy.metric_becomes(&count("idle", ""), 1.0).await;
}

#[tokio::test]
async fn a_proxy_that_ends_accepts_nobody_and_lets_connections_end() {
    let mut instance = Instance::start().await;
    let limits = Limits { drain_within: PATIENCE, ..Limits::default() };
    let mut proxy = listening("s=0", limits, &[("s", "", instance.at.to_string())]);
    let mut client = proxy.connect_tcp(0).await;
    let mut upstream = instance.accept().await;
    let at = proxy.tcp[0];
    proxy.stop();
    soon("the listener to close", async {
        while TcpStream::connect(at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    client.send("ping").await;
    assert_eq!(upstream.exactly(4).await, "ping");
    upstream.send("pong").await;
    drop(upstream);
    assert_eq!(client.exactly(4).await, "pong");
    // What was accepted while the listener closed is still with the instance.
    drop((client, instance));
    // Long before the time is over: nothing is left.
    soon("the end", proxy.ended()).await;
}

#[tokio::test]
async fn connections_that_do_not_end_are_cut_off_in_time_and_told_of() {
    let mut instance = Instance::start().await;
    let limits = Limits { drain_within: Duration::from_millis(300), ..Limits::default() };
    let proxy = listening("s=0", limits, &[("s", "", instance.at.to_string())]);
    let metrics = std::sync::Arc::clone(&proxy.stage.metrics);
    let mut client = proxy.connect_tcp(0).await;
    let mut upstream = instance.accept().await;
    proxy.ended().await;
    assert!(client.is_closed().await && upstream.is_closed().await);
    let page = String::from_utf8(metrics.encode()).unwrap();
    assert!(page.contains(&format!("{} 1\n", count("cut_off", ""))), "{page}");
}
