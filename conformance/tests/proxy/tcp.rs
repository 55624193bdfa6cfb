//! Plain TCP through real processes: listeners from the settings, instances from the registry, and whatever happens to
//! either while connections go on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use conformance::origin::REFUSING;
use conformance::{Cluster, Process, Proxy, eventually, never};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that says its name, sends back every line, and says how many there were once its client has said all. It lives
/// as long as the test process.
fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || drop(stream.and_then(|stream| converse(name, stream))));
        }
    });
    address
}

fn converse(name: &str, mut stream: TcpStream) -> io::Result<()> {
    writeln!(stream, "{name}")?;
    let (mut lines, mut line) = (BufReader::new(stream.try_clone()?), String::new());
    let mut count = 0;
    while lines.read_line(&mut line)? > 0 {
        stream.write_all(line.as_bytes())?;
        line.clear();
        count += 1;
    }
    writeln!(stream, "{count} lines")
}

/// A client that was greeted.
struct Client {
    lines: BufReader<TcpStream>,
    greeted_by: String,
}

impl Client {
    /// Connects; an error when nobody is there behind the listener.
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { lines: BufReader::new(stream), greeted_by: String::new() };
        client.greeted_by = client.line()?;
        Ok(client)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn says(&mut self, word: &str) -> io::Result<String> {
        writeln!(self.lines.get_mut(), "{word}")?;
        self.line()
    }

    /// Everything that comes once the client has said all.
    fn ends(mut self) -> io::Result<String> {
        self.lines.get_mut().shutdown(Shutdown::Write)?;
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest)?;
        Ok(rest)
    }
}

fn greeting(address: SocketAddr) -> io::Result<String> {
    Client::open(address).map(|client| client.greeted_by)
}

fn proxy(cluster: &Cluster, listeners: &str) -> Proxy {
    cluster.proxy_with("gateway", &[super::ENGINE[0], ("tcp_proxies", listeners)])
}

fn tcp(process: &Process, number: usize) -> SocketAddr {
    process.address(&format!("tcp{number}"))
}

#[test]
fn p08_two_entries_are_one_http_listener_and_two_of_plain_tcp() {
    let cluster = Cluster::start();
    let file = cluster.dir().join("proxy.yaml");
    let entries = "[{service: service1, listener_port: 0}, {service: service2, listener_port: 0}]";
    std::fs::write(&file, format!("proxy_config: {{tcp_proxies: {entries}}}\n")).unwrap();
    let config = file.to_str().unwrap();
    let proxy = cluster.proxy_with("gateway", &[super::ENGINE[0], ("config", config)]);
    let line = proxy.process.stdout();
    let listeners: Vec<_> =
        line.split_whitespace().skip(2).map(|word| word.split('=').next().unwrap()).collect();
    assert_eq!(listeners, ["http", "admin", "tcp1", "tcp2"], "{line}");
    cluster.registry.register_tcp("service1", &[], echo("one"));
    cluster.registry.register_tcp("service2", &[], echo("two"));
    proxy.await_instances(2);
    let (one, two) = (tcp(&proxy.process, 1), tcp(&proxy.process, 2));
    assert_eq!((greeting(one).unwrap(), greeting(two).unwrap()), ("one".to_owned(), "two".to_owned()));
    // The HTTP listener is what it was.
    assert_eq!(proxy.get("/nobody").status, 404);
    assert_eq!(
        proxy.admin("/state").expect(200).json()["tcp_proxies"],
        json!([{"service": "service1", "tags": [], "address": one.to_string()},
            {"service": "service2", "tags": [], "address": two.to_string()}])
    );
}

#[test]
fn bytes_go_both_ways_and_a_client_that_has_said_all_still_hears_the_rest() {
    let cluster = Cluster::start();
    cluster.registry.register_tcp("s", &["zone=a"], echo("a"));
    cluster.registry.register_tcp("s", &["zone=b", "fast"], echo("b"));
    let proxy = proxy(&cluster, "s:zone=a=0;s:fast,zone=b=0;s:zone=c=0");
    proxy.await_instances(2);
    for (number, name) in [(1, "a"), (2, "b"), (1, "a"), (2, "b")] {
        let mut client = Client::open(tcp(&proxy.process, number)).unwrap();
        assert_eq!(client.greeted_by, name);
        assert_eq!(client.says("hello").unwrap(), "hello");
        assert_eq!(client.says(&"x".repeat(1 << 20)).unwrap().len(), 1 << 20);
        assert_eq!(client.ends().unwrap(), "2 lines\n");
    }
    greeting(tcp(&proxy.process, 3)).unwrap_err();
    eventually("the counts", || {
        let series = proxy.metrics().series;
        let ended = |backend: &str, outcome: &str| {
            let labels = format!(r#"backend="{backend}",outcome="{outcome}",service="s""#);
            series.get(&format!("a8_proxy_tcp_connections_total{{{labels}}}")).copied()
        };
        let counts =
            [ended("zone=a", "ended"), ended("fast,zone=b", "ended"), ended("zone=c", "no_instances")];
        if counts == [Some(2.0), Some(2.0), Some(1.0)] { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}

#[test]
fn instances_take_turns_and_one_that_is_down_is_passed_over() {
    let cluster = Cluster::start();
    for name in ["1", "2"] {
        cluster.registry.register_tcp("s", &[], echo(name));
    }
    let proxy = proxy(&cluster, "s=0");
    proxy.await_instances(2);
    let at = tcp(&proxy.process, 1);
    let greetings = |count| (0..count).map(|_| greeting(at).unwrap()).collect::<String>();
    let turns = greetings(6);
    assert!(turns == "121212" || turns == "212121", "{turns}");
    cluster.registry.register_tcp("s", &[], REFUSING);
    proxy.await_instances(3);
    let turns = greetings(12);
    // The turns of the one that is down fall to both others.
    assert!(turns.matches('1').count() >= 4 && turns.matches('2').count() >= 4, "{turns}");
}

#[test]
fn who_is_registered_later_is_found_and_who_is_gone_keeps_what_was_begun() {
    let cluster = Cluster::start();
    let proxy = proxy(&cluster, "s=0");
    let at = tcp(&proxy.process, 1);
    greeting(at).unwrap_err();
    let id = cluster.registry.register_tcp("s", &[], echo("s"));
    proxy.await_instances(1);
    let mut client = Client::open(at).unwrap();
    cluster.registry.deregister(&id);
    proxy.await_instances(0);
    greeting(at).unwrap_err();
    assert_eq!(client.says("still there?").unwrap(), "still there?");
    assert_eq!(client.ends().unwrap(), "1 lines\n");
}

#[test]
fn a_proxy_that_is_told_to_end_waits_for_connections_for_a_while_and_cuts_them_off_then() {
    for leaves in [true, false] {
        let cluster = Cluster::start();
        cluster.registry.register_tcp("s", &[], echo("s"));
        let mut proxy = proxy(&cluster, "s=0");
        proxy.await_instances(1);
        let at = tcp(&proxy.process, 1);
        let mut client = Client::open(at).unwrap();
        proxy.process.signal("TERM");
        eventually("the listener closes", || match TcpStream::connect(at) {
            Ok(_) => Err("it is open"),
            Err(_) => Ok(()),
        });
        assert_eq!(client.says("on").unwrap(), "on");
        if leaves {
            assert_eq!(client.ends().unwrap(), "1 lines\n");
        } else {
            client.line().unwrap_err();
        }
        let ended = proxy.process.wait(PATIENCE).expect("it ends");
        assert!(ended.success(), "{ended:?}\n{}", proxy.process.stderr());
        let cut_off = proxy.process.stderr().contains("cut off");
        assert_eq!(cut_off, !leaves, "{}", proxy.process.stderr());
    }
}

#[test]
fn a_successor_takes_the_listeners_over_and_old_connections_go_on_meanwhile() {
    let cluster = Cluster::start();
    cluster.registry.register_tcp("s", &[], echo("s"));
    let sock = cluster.dir().join("sock");
    let flags =
        [super::ENGINE[0], ("tcp_proxies", "s=0;other=0;s=0"), ("upgrade_sock", sock.to_str().unwrap())];
    let mut old = cluster.proxy_with("gateway", &flags);
    old.await_instances(1);
    let addresses: Vec<_> = (1..4).map(|number| tcp(&old.process, number)).collect();
    let mut client = Client::open(addresses[0]).unwrap();
    let launch = Proxy::launch(old.data_dir(), "gateway", "node-0", cluster.control.address(), &flags);
    let new = Proxy::started(&launch.flag("upgrade", "true"), old.data_dir(), "node-0");
    assert_eq!((1..4).map(|number| tcp(&new.process, number)).collect::<Vec<_>>(), addresses);
    eventually("the old one leaves", || match old.process.stderr() {
        said if said.contains("draining") => Ok(()),
        said => Err(said),
    });
    for _ in 0..8 {
        assert_eq!(greeting(addresses[0]).unwrap(), "s");
        assert_eq!(greeting(addresses[2]).unwrap(), "s");
    }
    assert_eq!(client.says("still there?").unwrap(), "still there?");
    never(Duration::from_millis(200), "the old one waits for it", || {
        if old.process.is_running() { Ok(()) } else { Err("it has ended") }
    });
    assert_eq!(client.ends().unwrap(), "1 lines\n");
    let ended = old.process.wait(PATIENCE).expect("without clients it ends");
    assert!(ended.success(), "{ended:?}\n{}", old.process.stderr());
}
