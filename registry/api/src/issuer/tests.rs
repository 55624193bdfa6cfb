use super::*;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use ::ring::rand::SystemRandom;
use ::ring::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const NOW: Duration = Duration::from_secs(1_000);

struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    fn set(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x}]}).to_string()
    }

    fn token(&self, namespace: &str) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.id}).to_string();
        let claims = json!({"namespace": namespace}).to_string();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

fn name(text: &str) -> Namespace {
    Namespace::new(text).unwrap()
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str, body: &str) {
    let mut asked = [0; 4_096];
    let _ = stream.read(&mut asked).await;
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    let _ = stream.flush().await;
    let _ = stream.shutdown().await;
}

/// Publishes a set over HTTP and counts how often it is asked.
struct Publisher {
    url: String,
    asked: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
    set: Arc<RwLock<String>>,
}

impl Publisher {
    async fn start(set: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let publisher =
            Self { url, asked: Arc::default(), down: Arc::default(), set: Arc::new(RwLock::new(set)) };
        let (asked, down, set) =
            (Arc::clone(&publisher.asked), Arc::clone(&publisher.down), Arc::clone(&publisher.set));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::Relaxed);
                let body = set.read().unwrap().clone();
                let status = if down.load(Ordering::Relaxed) { "503 Away" } else { "200 OK" };
                answer(stream, status, &body).await;
            }
        });
        publisher
    }
}

#[tokio::test]
async fn a_key_that_was_published_since_is_fetched_and_old_ones_outlive_a_failure() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let publisher = Publisher::start(old.set()).await;
    let issuer = Issuer::new("", Some(&publisher.url)).unwrap().refetching_after(Duration::ZERO);
    assert_eq!(issuer.namespace(&old.token("a"), NOW).await, Ok(name("a")));
    assert_eq!(issuer.namespace(&old.token("b"), NOW).await, Ok(name("b")));
    assert_eq!(publisher.asked.load(Ordering::Relaxed), 1, "the keys are kept");

    assert_eq!(issuer.namespace(&new.token("a"), NOW).await, Err(NotBelieved::Invalid));
    *publisher.set.write().unwrap() = new.set();
    assert_eq!(issuer.namespace(&new.token("a"), NOW).await, Ok(name("a")));
    assert_eq!(issuer.namespace(&old.token("a"), NOW).await, Err(NotBelieved::Invalid));

    publisher.down.store(true, Ordering::Relaxed);
    issuer.refetch().await;
    assert_eq!(issuer.namespace(&new.token("a"), NOW).await, Ok(name("a")));
    publisher.down.store(false, Ordering::Relaxed);
    *publisher.set.write().unwrap() = "rubbish".to_owned();
    issuer.refetch().await;
    assert_eq!(issuer.namespace(&new.token("a"), NOW).await, Ok(name("a")));
}

#[tokio::test]
async fn tokens_of_unknown_keys_cause_few_fetches_and_an_issuer_that_was_never_reached_is_told_apart() {
    let (known, unknown) = (Signer::new("known"), Signer::new("unknown"));
    let publisher = Publisher::start(known.set()).await;
    publisher.down.store(true, Ordering::Relaxed);
    let issuer = Arc::new(Issuer::new("secret", Some(&publisher.url)).unwrap());
    let token = unknown.token("a");
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let (issuer, token) = (Arc::clone(&issuer), token.clone());
            tokio::spawn(async move { issuer.namespace(&token, NOW).await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Err(NotBelieved::Unreachable));
    }
    assert_eq!(publisher.asked.load(Ordering::Relaxed), 1);
    // The secret needs nobody else.
    let signed = token::sign(b"secret", &name("c"), NOW, Duration::from_secs(9));
    assert_eq!(issuer.namespace(&signed, NOW).await, Ok(name("c")));
    assert_eq!(issuer.namespace("c", NOW).await, Err(NotBelieved::Foreign));
}

#[tokio::test]
async fn a_file_is_read_again_like_a_url() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("keys.json");
    std::fs::write(&path, old.set()).unwrap();
    let issuer = Issuer::new("", path.to_str()).unwrap().refetching_after(Duration::ZERO);
    assert_eq!(issuer.namespace(&old.token("a"), NOW).await, Ok(name("a")));
    std::fs::write(&path, new.set()).unwrap();
    assert_eq!(issuer.namespace(&new.token("a"), NOW).await, Ok(name("a")));
    std::fs::write(&path, " ".repeat(KEY_SET_BYTES_MAX + 1)).unwrap();
    issuer.refetch().await;
    assert_eq!(issuer.namespace(&new.token("a"), NOW).await, Ok(name("a")));
    std::fs::remove_file(&path).unwrap();
    issuer.refetch().await;
    assert_eq!(issuer.namespace(&new.token("a"), NOW).await, Ok(name("a")));
}

#[tokio::test]
async fn over_https_only_a_trusted_server_is_believed() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Uri =
        format!("https://localhost:{}/keys", listener.local_addr().unwrap().port()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, "200 OK", "the set").await;
            }
        }
    });
    let trusting = || {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        Ok(Trust::of(roots))
    };
    assert_eq!(get(&url, trusting).await.unwrap(), "the set");
    assert!(get(&url, || Ok(Trust::nobody())).await.is_err());
}

#[test]
fn settings_that_name_no_keys_are_refused() {
    assert_eq!(Issuer::new("", None).err(), Some(BadIssuer::NoKeys));
    assert_eq!(Issuer::new("", Some("")).err(), Some(BadIssuer::NoKeys));
    for bad in ["ftp://h/keys", "http://", "https:///keys", "http://user:word@h/keys", "http://h h/"] {
        assert_eq!(Issuer::new("s", Some(bad)).err(), Some(BadIssuer::BadSource(bad.to_owned())), "{bad}");
    }
    for good in ["keys.json", "/etc/keys.json", "http://h/keys", "https://[::1]:8443/keys?x=y"] {
        assert!(Issuer::new("", Some(good)).is_ok(), "{good}");
    }
}
