//! TLS towards clients: checks the files of the listener, shakes hands, and takes changed files up while it serves. What
//! is spoken over a connection is not known here, nor how long a client may take.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as Socket;
use pingora::tls::{
    CertificateDer, PrivateKeyDer, RootCertStore, RusTlsError, ServerConfig, WebPkiClientVerifier,
    install_default_crypto_provider, load_platform_certs_incl_env_into_store, version,
};
use registry_api::setting::BadSetting;
use rustls_pki_types::pem::{self, PemObject as _};

use crate::config::TlsFiles;

/// How often the files are looked at.
pub(crate) const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

const CERT_CHAIN: &str = "proxy_cert_chain_file";
const PRIVATE_KEY: &str = "proxy_private_key_file";
const CA_CERT: &str = "proxy_ca_cert_file";

/// What the listener shows and demands, as of the last files that could be used.
pub struct Tls {
    files: TlsFiles,
    acceptor: ArcSwap<Acceptor>,
    /// What was found last, usable or not, so that nothing is said twice.
    found: Mutex<Found>,
}

/// What came of a look at the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// They are as they were.
    Unchanged,
    /// New connections get what they say now.
    Replaced,
    /// They cannot be used, and what was there before stays.
    Kept(BadSetting),
}

/// The contents of the files, or why there are none.
type Found = Result<Contents, BadSetting>;

#[derive(PartialEq, Eq)]
struct Contents {
    cert_chain: Vec<u8>,
    private_key: Vec<u8>,
    ca_cert: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads and checks the files.
    pub(crate) fn open(files: TlsFiles) -> Result<Self, BadSetting> {
        let contents = Contents::read(&files)?;
        let acceptor = ArcSwap::from_pointee(contents.acceptor()?);
        Ok(Self { files, acceptor, found: Mutex::new(Ok(contents)) })
    }

    /// Looks at the files again. Reads them at every call: a time of modification may stay the same, and often is that of
    /// a link.
    pub fn refresh(&self) -> Refreshed {
        let found = Contents::read(&self.files);
        let mut before = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if *before == found {
            return Refreshed::Unchanged;
        }
        let acceptor = match &found {
            Ok(contents) => contents.acceptor(),
            Err(bad) => Err(bad.clone()),
        };
        *before = found;
        match acceptor {
            Ok(acceptor) => {
                self.acceptor.store(Arc::new(acceptor));
                tracing::info!("certificates replaced");
                Refreshed::Replaced
            }
            Err(bad) => {
                tracing::warn!(problem = %bad, "changed certificates ignored");
                Refreshed::Kept(bad)
            }
        }
    }

    /// Shakes hands on a connection that was just accepted; `None` when it fails, which the client was told.
    ///
    /// Pingora's listener could do this as well, but would do it before anybody counts the connection, and would report
    /// every scanner as an error.
    pub(crate) async fn accept(&self, stream: Stream) -> Option<Stream> {
        let socket = stream.into_any().downcast::<Socket>().ok()?;
        let acceptor = self.acceptor.load_full();
        match acceptor.tls_handshake(*socket).await {
            Ok(stream) => Some(Box::new(stream)),
            Err(error) => {
                tracing::debug!(%error, "no TLS with a client");
                None
            }
        }
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> Found {
        Ok(Self {
            cert_chain: read(CERT_CHAIN, &files.cert_chain)?,
            private_key: read(PRIVATE_KEY, &files.private_key)?,
            ca_cert: files.ca_cert.as_deref().map(|path| read(CA_CERT, path)).transpose()?,
        })
    }

    /// Checks everything that Pingora would panic at.
    fn acceptor(&self) -> Result<Acceptor, BadSetting> {
        install_default_crypto_provider();
        let cert_chain = certificates(CERT_CHAIN, &self.cert_chain)?;
        let private_key = PrivateKeyDer::from_pem_slice(&self.private_key).map_err(|error| match error {
            pem::Error::NoItemsFound => BadSetting::new(PRIVATE_KEY, "holds no private key"),
            error => BadSetting::new(PRIVATE_KEY, format!("is no PEM: {error}")),
        })?;
        let builder = ServerConfig::builder_with_protocol_versions(&[&version::TLS12, &version::TLS13]);
        let builder = match &self.ca_cert {
            None => builder.with_no_client_auth(),
            Some(ca_cert) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder(Arc::new(roots(ca_cert)?))
                    .build()
                    .map_err(|error| BadSetting::new(CA_CERT, error.to_string()))?,
            ),
        };
        let mut config = builder.with_single_cert(cert_chain, private_key).map_err(|error| match error {
            RusTlsError::InvalidCertificate(_) => {
                BadSetting::new(CERT_CHAIN, format!("the first certificate cannot be used: {error}"))
            }
            RusTlsError::InconsistentKeys(_) => {
                BadSetting::new(PRIVATE_KEY, format!("does not fit the certificate of {CERT_CHAIN}"))
            }
            error => BadSetting::new(PRIVATE_KEY, format!("cannot be used: {error}")),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Acceptor::from_server_config(Arc::new(config)))
    }
}

/// Whether the certificates that instances are verified against can be read. Pingora's connectors would panic if not.
pub(crate) fn check_roots() -> Result<(), BadSetting> {
    let mut roots = RootCertStore::empty();
    load_platform_certs_incl_env_into_store(&mut roots)
        .map_err(|error| BadSetting::new("SSL_CERT_FILE", error.root_cause().to_string()))
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, BadSetting> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| BadSetting::new(setting, format!("cannot read {}: {error}", path.display())))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let problem = format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display());
        return Err(BadSetting::new(setting, problem));
    }
    Ok(bytes)
}

fn certificates(setting: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadSetting> {
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| BadSetting::new(setting, format!("is no PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(BadSetting::new(setting, "holds no certificate"));
    }
    Ok(certificates)
}

fn roots(text: &[u8]) -> Result<RootCertStore, BadSetting> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA_CERT, text)? {
        roots
            .add(certificate)
            .map_err(|error| BadSetting::new(CA_CERT, format!("a certificate cannot be used: {error}")))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
