//! A proxy that runs out of what connections take: it says so in its own name, and holds it against no instance.

use conformance::caller::Connection;
use conformance::{Cluster, Launch, Origin, Proxy, eventually, get, program};
use serde_json::json;

/// Little more than a proxy needs to serve at all; it takes at least 64 connections, whatever the limit.
const DESCRIPTORS: &str = "96";

#[test]
fn a_proxy_without_descriptors_blames_no_instance_and_recovers() {
    let cluster = Cluster::start();
    let (one, two) = (Origin::echo("one"), Origin::echo("two"));
    cluster.registry.register("s", &["t"], one.address());
    cluster.registry.register("s", &["t"], two.address());
    let data_dir = cluster.dir().join("short");
    let ulimit = format!(r#"ulimit -n {DESCRIPTORS} && exec "$0" "$@""#);
    let control = format!("http://{}", cluster.control.address());
    let launch = Launch::other("sh").arg("-c").arg(ulimit).arg(program::a8()).arg("proxy");
    let launch = launch
        .flag("data_dir", &data_dir)
        .flag("service", "gateway")
        .flag("node", "short")
        .flag("threads", "1")
        .flag("controller_url", control)
        .flag("http_listener_host", "127.0.0.1")
        .flag("http_listener_port", "0")
        .flag("admin_port", "0");
    let launch = super::ENGINE.iter().fold(launch, |launch, (name, value)| launch.flag(name, *value));
    let proxy = Proxy::started(&launch, &data_dir, "short");
    proxy.await_instances(2);
    // One failure would be enough, and would last longer than the test.
    cluster.control.write(json!([{"destination": "s", "route": {"backends": [
        {"tags": ["t"], "resilience": {"consecutive_errors": 1, "sleep_window": 600}}]}}]));

    let mut clients: Vec<_> = (0..60).map(|_| Connection::open(proxy.http).unwrap()).collect();
    let mut refused = 0;
    // Each keeps its own connection, and half of them one towards an instance.
    for (number, client) in clients.iter_mut().enumerate() {
        let waits =
            get(format!("/s/{number}")).header("Expect", "100-continue").header("Content-Length", "1");
        client.send(&waits).unwrap();
    }
    for client in &mut clients {
        client.write("x").unwrap();
        match client.answer("GET") {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => {
                answer.expect_refusal(503, "proxy_exhausted");
                refused += 1;
            }
            // Not even accepted, and told so by the end of the connection.
            Err(_) => {}
        }
    }
    assert!(refused > 0, "it never ran out");
    drop(clients);
    eventually("it serves again, with both instances", || {
        let answers: Vec<_> = (0..8).map(|_| get("/s/x").send(proxy.http)).collect();
        let by: std::collections::BTreeSet<_> = answers
            .into_iter()
            .filter_map(|answer| Some(answer.ok().filter(|a| a.status == 200)?.by()))
            .collect();
        if by.len() == 2 { Ok(()) } else { Err(format!("{by:?}")) }
    });
    let metrics = proxy.metrics();
    let counted = metrics.sum("a8_proxy_shortages_total", &[r#"service="s""#, r#"reason="room""#]);
    assert!(counted >= f64::from(refused), "{counted} of {refused}");
    assert!(metrics.sum("a8_proxy_ejections_total", &[]) < 0.5);
}
