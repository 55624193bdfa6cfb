//! Certificates that live as long as a test, and clients that trust them. What a proxy does with them is the tests' matter.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::support::{Conn, soon};

/// The name in every certificate of a server.
pub(crate) const NAME: &str = "proxy.example";

/// Whom a side trusts.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// The files of a proxy, in a folder of their own.
pub(crate) struct Files(TempDir);

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server of the name [`NAME`].
    pub(crate) fn server(&self) -> Leaf {
        self.leaf(NAME, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client.
    pub(crate) fn client(&self) -> Leaf {
        self.leaf("client.example", ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn leaf(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }
}

impl Files {
    pub(crate) fn of(leaf: &Leaf, clients: Option<&Authority>) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write(leaf);
        if let Some(clients) = clients {
            std::fs::write(files.path("ca.pem"), clients.pem()).unwrap();
        }
        files
    }

    /// Puts another certificate and key in place.
    pub(crate) fn write(&self, leaf: &Leaf) {
        std::fs::write(self.path("chain.pem"), &leaf.certificate).unwrap();
        std::fs::write(self.path("key.pem"), &leaf.key).unwrap();
    }

    /// The flags of a proxy with these files.
    pub(crate) fn flags(&self) -> Vec<String> {
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut flags = vec![
            "--proxy_tls".to_owned(),
            flag("proxy_cert_chain_file", &self.path("chain.pem")),
            flag("proxy_private_key_file", &self.path("key.pem")),
        ];
        let ca = self.path("ca.pem");
        if ca.exists() {
            flags.push(flag("proxy_ca_cert_file", &ca));
        }
        flags
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A client that trusts `authority`, offers these protocols, and shows this certificate.
pub(crate) struct Client(TlsConnector);

impl Client {
    pub(crate) fn new(authority: &Authority, protocols: &[&str], shown: Option<&Leaf>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// A connection, unless the handshake fails.
    pub(crate) async fn try_connect(&self, at: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).unwrap();
        soon("a handshake", self.0.connect(name, stream)).await
    }

    pub(crate) async fn connect(&self, at: SocketAddr) -> Conn<TlsStream<TcpStream>> {
        Conn::over(self.try_connect(at).await.unwrap())
    }
}
