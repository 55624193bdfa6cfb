//! TLS on either side of a proxy as a real process: whom it believes, whose connections it uses again, and what it shows
//! itself (spec/control-and-proxy.md 3.6, 3.7). What is spoken inside is another suite's matter.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use conformance::h2c::Callee;
use conformance::{Answer, Cluster, Connection, Origin, Proxy, Request, clock, eventually, get};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

const ENGINES: [&str; 2] = ["lane", "general"];
/// More than any buffer on the way holds.
const LARGE_BYTES: usize = 1 << 20;
/// A client beyond it has stopped, not slowed down.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(30);

/// Whom a proxy is told to believe.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names and its key, both PEM.
    fn leaf(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// What a server of these names shows.
    fn server(&self, names: &[&str]) -> TlsAcceptor {
        self.server_of(names, &[])
    }

    /// The same for one that agrees on these protocols alone.
    fn server_of(&self, names: &[&str], protocols: &[&str]) -> TlsAcceptor {
        let (certificate, key) = self.leaf(names);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// The answer to a GET by a client that believes this authority alone.
    fn ask(&self, at: SocketAddr, target: &str) -> io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(at.ip().to_string()).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = std::net::TcpStream::connect_timeout(&at, HANDSHAKE_WITHIN)?;
        socket.set_read_timeout(Some(HANDSHAKE_WITHIN))?;
        let mut stream = StreamOwned::new(connection, socket);
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// TLS in front of an origin; gone on drop.
struct Front {
    at: SocketAddr,
    /// Connections whose handshake went well.
    opened: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Front {
    fn of(origin: &Origin, acceptor: TlsAcceptor) -> Self {
        Self::before(origin.address(), acceptor)
    }

    fn before(behind: SocketAddr, acceptor: TlsAcceptor) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let at = listener.local_addr().unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream));
                    let Ok(Ok(mut client)) = handshake.await else { return };
                    count.fetch_add(1, Ordering::SeqCst);
                    let Ok(mut server) = TcpStream::connect(behind).await else { return };
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { at, opened, _runtime: runtime }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

/// A fabric, and the authority that its proxies believe.
struct Scene {
    cluster: Cluster,
    authority: Authority,
    roots: PathBuf,
}

impl Scene {
    fn start() -> Self {
        let (cluster, authority) = (Cluster::start(), Authority::new());
        let roots = cluster.dir().join("roots.pem");
        std::fs::write(&roots, &authority.pem).unwrap();
        Self { cluster, authority, roots }
    }

    /// One thread: connections are kept by each for itself.
    fn proxy(&self, engine: &str, instances: usize) -> Proxy {
        let flags = [("engine", engine), ("threads", "1"), ("grpc_http1_bridge", "true")];
        let proxy = self.cluster.proxy_in("gateway", &flags, &[("SSL_CERT_FILE", &self.roots)]);
        proxy.await_instances(instances);
        proxy
    }
}

/// So many requests on one connection.
fn ask(proxy: &Proxy, request: &Request, count: usize) -> Vec<Answer> {
    let mut connection = Connection::open(proxy.http).unwrap();
    (0..count)
        .map(|_| {
            connection.send(request).unwrap();
            connection.answer("GET").unwrap()
        })
        .collect()
}

#[test]
fn an_instance_that_proves_its_name_is_called_and_its_connection_used_again() {
    let scene = Scene::start();
    let origin = Origin::echo("secure");
    let front = Front::of(&origin, scene.authority.server(&["127.0.0.1"]));
    scene.cluster.registry.register_https("s", front.at);
    for engine in ENGINES {
        let before = front.opened();
        let proxy = scene.proxy(engine, 1);
        for answer in ask(&proxy, &get("/s/x"), 20) {
            assert_eq!(answer.by(), "secure", "{engine}");
        }
        let large = Request::new("POST", "/s/large").body("x".repeat(LARGE_BYTES));
        for answer in ask(&proxy, &large, 2) {
            let echo = answer.expect(200).json();
            assert_eq!(echo["body"].as_str().map(str::len), Some(LARGE_BYTES), "{engine}");
        }
        assert_eq!(front.opened() - before, 1, "{engine}");
    }
}

/// P09, over TLS.
#[test]
fn a_call_that_came_in_http1_goes_to_a_proven_instance_in_http2_or_not_at_all() {
    let scene = Scene::start();
    let callee = Callee::start();
    let front = Front::before(callee.at, scene.authority.server_of(&["127.0.0.1"], &["h2"]));
    let origin = Origin::echo("secure");
    let other = Front::of(&origin, scene.authority.server_of(&["127.0.0.1"], &["http/1.1"]));
    scene.cluster.registry.register_https("s", front.at);
    scene.cluster.registry.register_https("old", other.at);
    for engine in ENGINES {
        let before = front.opened();
        let proxy = scene.proxy(engine, 2);
        let call = |service: &str| {
            let call = Request::new("POST", format!("/{service}/pkg.S/Echo")).body("abcde");
            call.header("Content-Type", "application/grpc")
        };
        for answer in ask(&proxy, &call("s"), 3) {
            assert_eq!((answer.text(), answer.header("grpc-status")), ("abcde".to_owned(), "0"), "{engine}");
        }
        assert_eq!(front.opened() - before, 1, "{engine}");
        ask(&proxy, &call("old"), 1)[0].expect_refusal(503, "upstream_connect");
    }
}

#[test]
fn what_a_proven_instance_answers_is_slowed_down_and_cut_off_like_any_other() {
    let scene = Scene::start();
    let origin = Origin::echo("secure");
    let front = Front::of(&origin, scene.authority.server(&["127.0.0.1"]));
    scene.cluster.registry.register_https("s", front.at);
    for engine in ENGINES {
        let proxy = scene.proxy(engine, 1);
        scene.cluster.control.replace(json!([{"id": "slow", "destination": "s",
            "actions": [{"action": "bandwidth", "bytes_per_s": 2000}]}]));
        let began = clock::now();
        let large = Request::new("POST", "/s/large").body("x".repeat(1000));
        let answer = ask(&proxy, &large, 1).remove(0).expect(200).json();
        assert_eq!(answer["body"].as_str().map(str::len), Some(1000), "{engine}");
        assert!(began.elapsed() >= Duration::from_millis(450), "{engine}: {:?}", began.elapsed());
        scene.cluster.control.replace(json!([{"id": "cut", "destination": "s",
            "actions": [{"action": "truncate", "after_bytes": 10}]}]));
        let mut connection = Connection::open(proxy.http).unwrap();
        connection.send(&get("/s/x")).unwrap();
        assert!(connection.head().unwrap().start.starts_with("HTTP/1.1 200 "), "{engine}");
        assert_eq!(connection.exactly(10).unwrap().len(), 10, "{engine}");
        assert!(connection.closes_within(HANDSHAKE_WITHIN), "{engine}");
    }
}

#[test]
fn connections_to_one_address_are_not_shared_between_names() {
    let scene = Scene::start();
    let origin = Origin::echo("secure");
    let front = Front::of(&origin, scene.authority.server(&["127.0.0.1", "localhost"]));
    scene.cluster.registry.register_https("number", front.at);
    scene.cluster.registry.register_https("name", format!("localhost:{}", front.at.port()));
    for engine in ENGINES {
        let before = front.opened();
        let proxy = scene.proxy(engine, 2);
        eventually("the name is resolved", || match proxy.get("/name") {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("{answer:?}")),
        });
        for service in ["number", "name", "number", "name"] {
            for answer in ask(&proxy, &get(format!("/{service}")), 2) {
                assert_eq!(answer.by(), "secure", "{engine}");
            }
        }
        assert_eq!(front.opened() - before, 2, "{engine}: one for each name");
    }
}

#[test]
fn an_instance_with_another_name_or_from_nobody_known_is_not_believed() {
    let scene = Scene::start();
    let origin = Origin::echo("secure");
    let strangers = Authority::new();
    let fronts = [
        ("misnamed", Front::of(&origin, scene.authority.server(&["other.example", "127.0.0.2"]))),
        ("unknown", Front::of(&origin, strangers.server(&["127.0.0.1"]))),
    ];
    for (service, front) in &fronts {
        scene.cluster.registry.register_https(service, front.at);
    }
    scene.cluster.registry.register_https("plain", origin.address());
    for engine in ENGINES {
        let proxy = scene.proxy(engine, 3);
        for service in ["misnamed", "unknown", "plain"] {
            for _ in 0..2 {
                proxy.get(&format!("/{service}")).expect_refusal(503, "upstream_connect");
            }
        }
    }
    assert_eq!(origin.count(), 0, "nothing of a request was shown to anybody");
}

#[test]
fn the_listener_shows_its_certificate_and_takes_up_another_by_itself() {
    let (authority, successor) = (Authority::new(), Authority::new());
    let cluster = Cluster::start();
    let origin = Origin::echo("behind");
    cluster.registry.register("s", &[], origin.address());
    let (chain, key) = (cluster.dir().join("chain.pem"), cluster.dir().join("key.pem"));
    let write = |authority: &Authority| {
        let leaf = authority.leaf(&["127.0.0.1"]);
        std::fs::write(&chain, leaf.0).unwrap();
        std::fs::write(&key, leaf.1).unwrap();
    };
    write(&authority);
    let envs = [
        ("A8_PROXY_TLS", Path::new("true")),
        ("A8_PROXY_CERT_CHAIN_FILE", &chain),
        ("A8_PROXY_PRIVATE_KEY_FILE", &key),
    ];
    let proxy = cluster.proxy_in("gateway", &[], &envs);
    proxy.await_instances(1);
    let answer = authority.ask(proxy.http, "/s").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("behind"), "{answer}");
    assert!(answer.contains("https"), "{answer}");
    assert!(successor.ask(proxy.http, "/s").is_err());
    write(&successor);
    let answer = eventually("the new certificate is shown", || successor.ask(proxy.http, "/s"));
    assert!(answer.contains("behind"), "{answer}");
    assert!(authority.ask(proxy.http, "/s").is_err());
    // What cannot be used changes nothing, and is said.
    std::fs::write(&key, "no key").unwrap();
    eventually("it is said", || match proxy.process.stderr() {
        said if said.contains("changed certificates ignored") => Ok(()),
        said => Err(said),
    });
    assert!(successor.ask(proxy.http, "/s").unwrap().contains("behind"));
}

#[test]
fn a_proxy_that_could_verify_no_instance_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let launch = Proxy::launch(dir.path(), "gateway", "n", nowhere, &[]).env("SSL_CERT_FILE", "/no/such.pem");
    let finished = launch.finish();
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.starts_with("a8 proxy: SSL_CERT_FILE: "), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}
