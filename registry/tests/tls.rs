//! HTTPS from outside: what is served over it, and that the certificate is exchanged under the feet of clients.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use support::{PATIENCE, Reply, Running, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// Writes a new certificate and its key, and returns the certificate.
fn issue(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), pem("PRIVATE KEY", &made.signing_key.serialize_der())).unwrap();
    std::fs::write(folder.join("cert.pem"), pem("CERTIFICATE", made.cert.der())).unwrap();
    made.cert.der().clone()
}

async fn get(registry: &Running, trusted: &CertificateDer<'static>, path: &str) -> std::io::Result<Reply> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(registry.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(Reply::parse(&answer))
}

/// Section 4.5.
#[tokio::test]
async fn https_is_served_and_its_certificate_exchanged_without_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let first = issue(home.path());
    let (chain, key) = (home.path().join("cert.pem"), home.path().join("key.pem"));
    let arguments = [
        "--require_https",
        "--tls_cert_file",
        chain.to_str().unwrap(),
        "--tls_key_file",
        key.to_str().unwrap(),
    ];
    let registry = Running::start(&arguments).await;
    // A request over TLS is secure without any header.
    assert_eq!(get(&registry, &first, "/api/v1/services").await.unwrap().status, 200);
    // Who speaks plain HTTP gets no HTTP back.
    let mut plain = TcpStream::connect(registry.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said).await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");

    std::fs::write(&chain, "rubbish").unwrap();
    let second = issue(home.path());
    let exchanged = async {
        while get(&registry, &second, "/").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, exchanged).await.expect("the new certificate in time");
    assert!(get(&registry, &first, "/").await.is_err(), "the old one is gone");
    registry.stop().await;
}

/// Section 5.
#[tokio::test]
async fn a_start_without_a_usable_certificate_names_the_setting() {
    let home = tempfile::tempdir().unwrap();
    issue(home.path());
    std::fs::write(home.path().join("bad.pem"), "rubbish").unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    for (chain, key, setting) in [
        ("missing.pem", "key.pem", "tls_cert_file"),
        ("bad.pem", "key.pem", "tls_cert_file"),
        ("cert.pem", "bad.pem", "tls_key_file"),
        ("cert.pem", "cert.pem", "tls_key_file"),
    ] {
        let data = home.path().join("data");
        let arguments = ["--tls_cert_file", &path(chain), "--tls_key_file", &path(key)];
        let config = settings(&data, &arguments).check().unwrap();
        let refused = registry::serve(config, |_| panic!("it listens"), async {}).await.unwrap_err();
        assert_eq!(refused.setting, setting, "{chain} {key}: {refused}");
    }
}
