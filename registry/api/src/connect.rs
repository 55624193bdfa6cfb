//! How a client gets to a server: TCP for `http`, and TLS on top of it for `https`, with the server's name always
//! verified. Whom to believe is the caller's choice; what is spoken on the connection is not known here.

use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower_service::Service;

/// How long a TCP connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the handshake on it may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom a client of HTTPS believes. Made once and shared: reading roots takes a while.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

/// Why nobody could be believed.
#[derive(Debug, thiserror::Error)]
pub enum BadTrust {
    /// The roots of the machine cannot be read, or there are none.
    #[error("the machine trusts nobody: {0}")]
    System(String),
    /// The file cannot be used.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Trust {
    /// The roots of the machine, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Blocks on the disk.
    pub fn system() -> Result<Self, BadTrust> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.map_err(|error| BadTrust::System(error.to_string()))?);
        if roots.is_empty() {
            return Err(BadTrust::System("it has no roots".to_owned()));
        }
        Ok(Self::of(roots))
    }

    /// The certificates of a PEM file, and nobody else. Every one of them must be of use. Blocks on the disk.
    pub fn file(path: &Path) -> Result<Self, BadTrust> {
        let bad = |problem: String| BadTrust::File { path: path.to_owned(), problem };
        let text = fs::read(path).map_err(|error| bad(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|error| bad(format!("it is no PEM: {error}")))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if roots.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(Self::of(roots)) }
    }

    /// Nobody: with it only `http` servers can be called.
    pub fn nobody() -> Self {
        Self::of(RootCertStore::empty())
    }

    /// These roots.
    pub fn of(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3");
        Self(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }

    /// Shakes hands on a connection to `host`, a name or an address without brackets.
    pub(crate) async fn greet(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connecting = TlsConnector::from(Arc::clone(&self.0)).connect(name, stream);
        let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
        connected.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no end of the handshake")))
    }
}

/// Connects to servers.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    trust: Trust,
}

impl Connector {
    pub(crate) fn new(trust: Trust) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.enforce_http(false);
        Self { tcp, trust }
    }
}

type Connecting =
    Pin<Box<dyn Future<Output = Result<Stream, Box<dyn std::error::Error + Send + Sync>>> + Send>>;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Connecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Connecting {
        let (trust, connecting) = (self.trust.clone(), self.tcp.call(to.clone()));
        Box::pin(async move {
            let plain = connecting.await?;
            if to.scheme_str() != Some("https") {
                return Ok(Stream::Plain(plain));
            }
            let host = to.host().unwrap_or_default().trim_matches(['[', ']']);
            let secure = trust.greet(host, plain.into_inner()).await?;
            Ok(Stream::Secure(Box::new(TokioIo::new(secure))))
        })
    }
}

/// A connection.
pub(crate) enum Stream {
    Plain(TokioIo<TcpStream>),
    // Boxed, so that plain connections do not hold the room for it.
    Secure(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_read(cx, into),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, from),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, from),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_believed_when_every_certificate_in_it_is_of_use() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("roots.pem");
        let written = |text: &str| {
            fs::write(&path, text).unwrap();
            Trust::file(&path).map(drop).map_err(|error| error.to_string())
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
        assert_eq!(written(&made), Ok(()));
        assert_eq!(written(&format!("{made}{made}")), Ok(()));
        let useless = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "rubbish", useless, &format!("{made}{useless}")] {
            let problem = written(text).unwrap_err();
            assert!(problem.starts_with(&format!("{}: ", path.display())), "{problem}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(Trust::file(&path), Err(BadTrust::File { .. })));
    }
}
