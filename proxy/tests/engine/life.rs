//! Starting, swapping tables, ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use proxy::config::Settings;
use proxy::server::{Limits, Server};

use crate::support::{Instance, PATIENCE, Proxy, get, ok, soon};

#[tokio::test]
async fn requests_in_progress_end_well_and_idle_connections_at_once() {
    let mut instance = Instance::start().await;
    let limits = Limits { drain_within: PATIENCE, ..Limits::default() };
    let mut proxy = Proxy::patient(limits, &[], &[("s", "v1", instance.at.to_string())]);
    let mut idle = proxy.connect().await;
    idle.send(get("/s/idle")).await;
    let (mut upstream, _) = instance.request().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    idle.answer().await;
    let mut busy = proxy.connect().await;
    busy.send(get("/s/busy")).await;
    let (mut upstream, _) = instance.request().await;
    let at = proxy.http;
    proxy.stop();
    assert!(idle.is_closed().await);
    soon("the listener to close", async {
        while tokio::net::TcpStream::connect(at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    upstream.send(ok("finished")).await;
    let answer = busy.answer().await;
    assert_eq!((&*answer.body, answer.field("connection")), ("finished", Some("close")));
    assert!(busy.is_closed().await);
    proxy.ended().await;
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_in_time() {
    let mut instance = Instance::start().await;
    let limits = Limits { drain_within: Duration::from_millis(300), ..Limits::default() };
    let proxy = Proxy::patient(limits, &[], &[("s", "v1", instance.at.to_string())]);
    let mut stuck = proxy.connect().await;
    stuck.send(get("/s")).await;
    let (_upstream, _) = instance.request().await;
    proxy.ended().await;
    assert!(stuck.is_closed().await);
}

#[tokio::test]
async fn swapping_tables_under_load_fails_nobody() {
    let one = Instance::named("1").await;
    let two = Instance::named("2").await;
    let proxy = Arc::new(Proxy::of(&[one]));
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (proxy, done) = (Arc::clone(&proxy), Arc::clone(&done));
            tokio::spawn(async move {
                let mut conn = proxy.connect().await;
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    conn.send(get("/s")).await;
                    let answer = conn.answer().await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..100 {
        let at = if round % 2 == 0 { two } else { one };
        proxy.apply(&[], &[("s", "v1", at.to_string())]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(soon("a client", client).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_thousand_clients_are_served_at_once() {
    let mut instance = Instance::start().await;
    let proxy = Proxy::of(&[instance.at]);
    let mut conns = Vec::new();
    for _ in 0..1000 {
        let mut conn = proxy.connect().await;
        conn.send(get("/s")).await;
        conns.push(conn);
    }
    // Every request is at the instance before the first is answered.
    let mut upstreams = Vec::new();
    for _ in 0..1000 {
        upstreams.push(instance.request().await.0);
    }
    assert_eq!(proxy.metric("a8_proxy_active_connections"), Some(1000.0));
    for upstream in &mut upstreams {
        upstream.send(ok("x")).await;
    }
    for conn in &mut conns {
        assert_eq!(conn.answer().await.status, 200);
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (flag, other) in [("http_listener_port", "admin_port"), ("admin_port", "http_listener_port")] {
        let port = taken.local_addr().unwrap().port();
        let flags = [
            "a8".to_owned(),
            "--http_listener_host=127.0.0.1".to_owned(),
            format!("--{flag}={port}"),
            format!("--{other}=0"),
            format!("--data_dir={}", dir.path().display()),
        ];
        let config = Line::try_parse_from(flags).unwrap().settings.check().unwrap();
        let Err(refused) = Server::bind(&config) else { panic!("the port is taken") };
        assert_eq!(refused.setting, flag);
        assert_eq!(refused.problem, format!("cannot listen on 127.0.0.1:{port}: address in use"));
    }
}
