//! A new proxy takes the ports over from the one that serves, and nobody who sends requests notices.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use conformance::caller::Connection;
use conformance::origin::{REFUSING, echo};
use conformance::process::Launch;
use conformance::{Answer, Cluster, Origin, Proxy, eventually, get};

const CLIENTS: usize = 8;
const SUCCESSORS: usize = 3;
/// The longest that a proxy without clients takes to end.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// A proxy that can be taken over from, in front of one echoing instance.
fn scene() -> (Cluster, Origin, Proxy) {
    let cluster = Cluster::start();
    let origin = Origin::with(echo("origin"));
    cluster.registry.register("s", &["t"], origin.address());
    let sock = sock(&cluster);
    let proxy = cluster.proxy_with("gateway", &[super::ENGINE[0], ("upgrade_sock", &sock)]);
    proxy.await_instances(1);
    (cluster, origin, proxy)
}

fn sock(cluster: &Cluster) -> String {
    cluster.dir().join("sock").to_str().unwrap().to_owned()
}

/// One more of the same settings as that of [`scene`], with this folder.
fn another(cluster: &Cluster, data_dir: &Path, control: SocketAddr) -> Launch {
    let sock = sock(cluster);
    Proxy::launch(data_dir, "gateway", "node-0", control, &[super::ENGINE[0], ("upgrade_sock", &sock)])
}

/// Sends requests from many clients while `act` runs: half of them keep their connections for as long as they may, the
/// others connect each time. How many requests, and every failure.
fn under_load<R>(address: SocketAddr, act: impl FnOnce() -> R) -> (R, usize, Vec<String>) {
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = |keeps: bool| {
        let (mut kept, mut failures) = (None, Vec::new());
        while !stop.load(Ordering::SeqCst) && failures.len() < 5 {
            match exchange(address, &mut kept, keeps) {
                Ok(answer) if answer.status == 200 && answer.json()["by"] == "origin" => {}
                other => failures.push(format!("{other:?}")),
            }
            sent.fetch_add(1, Ordering::SeqCst);
        }
        failures
    };
    let client = &client;
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(number % 2 == 0))).collect();
        eventually("requests are on their way", || match sent.load(Ordering::SeqCst) {
            0..CLIENTS => Err("not yet"),
            _ => Ok(()),
        });
        let result = act();
        stop.store(true, Ordering::SeqCst);
        let failures = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (result, sent.load(Ordering::SeqCst), failures)
    })
}

fn exchange(address: SocketAddr, kept: &mut Option<Connection>, keeps: bool) -> std::io::Result<Answer> {
    let mut connection = kept.take().map_or_else(|| Connection::open(address), Ok)?;
    connection.send(&get("/s/x"))?;
    let answer = connection.answer("GET")?;
    *kept = (keeps && !answer.header("Connection").eq_ignore_ascii_case("close")).then_some(connection);
    Ok(answer)
}

#[test]
fn one_successor_after_the_other_takes_over_and_no_request_fails() {
    let (cluster, _origin, first) = scene();
    let mut serving = first;
    let address = serving.http;
    let (serving, sent, failures) = under_load(address, || {
        for _ in 0..SUCCESSORS {
            let mut idle = Connection::open(address).unwrap();
            idle.send(&get("/s/x")).unwrap();
            assert_eq!(idle.answer("GET").unwrap().by(), "origin");
            let data_dir = serving.data_dir().to_owned();
            let launch = another(&cluster, &data_dir, cluster.control.address()).flag("upgrade", "true");
            let next = Proxy::started(&launch, &data_dir, "node-0");
            assert_eq!((next.http, next.admin), (serving.http, serving.admin));
            eventually("the old one leaves", || match serving.process.stderr() {
                said if said.contains("draining") => Ok(()),
                said => Err(said),
            });
            // Who only waited is served once more, and told to come back.
            idle.send(&get("/s/x")).unwrap();
            let answer = idle.answer("GET").unwrap();
            assert_eq!((answer.by().as_str(), answer.header("Connection")), ("origin", "close"));
            let ended = serving.process.wait(ENDS_WITHIN).expect("without clients it ends");
            assert!(ended.success(), "{ended:?}\n{}", serving.process.stderr());
            serving = next;
        }
        serving
    });
    assert_eq!(failures, [""; 0], "of {sent}");
    assert!(sent > CLIENTS * SUCCESSORS, "{sent} requests are no load");
    assert_eq!(serving.admin("/readyz").status, 200);
    assert_eq!(serving.get("/s/x").by(), "origin");
}

#[test]
fn a_successor_that_gets_no_table_leaves_the_old_one_alone() {
    let (cluster, _origin, old) = scene();
    let elsewhere = cluster.dir().join("elsewhere");
    let nobody: SocketAddr = REFUSING.parse().unwrap();
    let ended = another(&cluster, &elsewhere, nobody).flag("upgrade", "true").finish();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("the old proxy serves on"), "{}", ended.stderr);
    assert_eq!(old.get("/s/x").by(), "origin");
    assert_eq!(old.admin("/readyz").status, 200);
}

#[test]
fn nobody_is_replaced_by_accident() {
    let (cluster, _origin, old) = scene();
    let ended = another(&cluster, &cluster.dir().join("elsewhere"), cluster.control.address()).finish();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("upgrade_sock"), "{}", ended.stderr);
    assert_eq!(old.get("/s/x").by(), "origin");
}
