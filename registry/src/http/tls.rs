//! The certificate of the listener: read from two files, checked, and exchanged without a restart when they change. It
//! accepts no connections and asks clients for no certificates.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use registry_api::setting::BadSetting;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

/// How long a client may take for the handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files are looked at.
pub const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// The longest file that is read.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Where the certificate chain and its key are, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain, the server's own certificate first.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A certificate that is served, and the files it follows.
#[derive(Debug)]
pub struct Certificate {
    files: Files,
    served: Arc<Served>,
    looked_at: Looked,
}

/// What the files looked like when they were last read.
#[derive(Debug, Default, PartialEq)]
struct Looked {
    // Per file: inode, time of change in nanoseconds, length. Cheap to ask for, so asked often.
    stamps: Option<[(u64, i128, u64); 2]>,
    contents: [u8; 32],
}

#[derive(Debug)]
struct Served {
    provider: Arc<CryptoProvider>,
    key: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What happened at a look.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// The files are as they were.
    Same,
    /// There is a new certificate, and it is served from now on.
    Exchanged,
    /// The files cannot be used; the certificate from before is served on.
    Kept(String),
}

impl Certificate {
    /// Reads the files for the first time.
    pub fn load(files: Files) -> Result<Self, BadSetting> {
        let provider = Arc::new(ring::default_provider());
        let stamps = files.stamps().ok();
        let (chain, key) = files.read().map_err(|(setting, problem)| BadSetting::new(setting, problem))?;
        let contents = digest(&chain, &key);
        let certified = certified(&chain, &key, &provider)
            .map_err(|(setting, problem)| BadSetting::new(setting, problem))?;
        let served = Arc::new(Served { provider, key: RwLock::new(Arc::new(certified)) });
        Ok(Self { files, served, looked_at: Looked { stamps, contents } })
    }

    /// Accepts TLS connections with whatever certificate is served at the time.
    pub fn acceptor(&self) -> TlsAcceptor {
        let config = ServerConfig::builder_with_provider(Arc::clone(&self.served.provider))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3");
        let mut config = config
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.served) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// Looks whether the files changed. Blocks on the disk.
    pub fn look(&mut self) -> Look {
        let stamps = self.files.stamps().ok();
        if stamps == self.looked_at.stamps {
            return Look::Same;
        }
        // Taken before the files are read: what changes meanwhile is read again.
        self.looked_at.stamps = stamps;
        let read = self.files.read().and_then(|(chain, key)| {
            let contents = digest(&chain, &key);
            if contents == self.looked_at.contents {
                return Ok(None);
            }
            self.looked_at.contents = contents;
            certified(&chain, &key, &self.served.provider).map(Some)
        });
        match read {
            Ok(None) => Look::Same,
            Ok(Some(certified)) => {
                *self.served.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
                Look::Exchanged
            }
            Err((setting, problem)) => Look::Kept(format!("{setting}: {problem}")),
        }
    }

    /// Looks again and again, and says what happened.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let looked = tokio::task::spawn_blocking(move || {
                let look = self.look();
                (self, look)
            });
            // Only a runtime that is shutting down refuses.
            let Ok((certificate, look)) = looked.await else { return };
            self = certificate;
            match look {
                Look::Same => {}
                Look::Exchanged => tracing::info!(module = "API", "a new certificate is served"),
                Look::Kept(problem) => {
                    tracing::error!(module = "API", %problem, "the new certificate cannot be used; the old one stays");
                }
            }
        }
    }
}

type Problem = (&'static str, String);

const CHAIN: &str = "tls_cert_file";
const KEY: &str = "tls_key_file";

impl Files {
    fn stamps(&self) -> std::io::Result<[(u64, i128, u64); 2]> {
        let stamp = |path: &Path| {
            let found = fs::metadata(path)?;
            let changed = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
            std::io::Result::Ok((found.ino(), changed, found.len()))
        };
        Ok([stamp(&self.chain)?, stamp(&self.key)?])
    }

    fn read(&self) -> Result<(Vec<u8>, Vec<u8>), Problem> {
        Ok((read(&self.chain, CHAIN)?, read(&self.key, KEY)?))
    }
}

fn read(path: &Path, setting: &'static str) -> Result<Vec<u8>, Problem> {
    let failed = |problem: String| (setting, format!("cannot read {}: {problem}", path.display()));
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed(error.to_string()))?;
    if bytes.len() > FILE_BYTES_MAX { Err(failed("it is too long".to_owned())) } else { Ok(bytes) }
}

/// Two files may not be told apart by their lengths alone, so the first one's goes in as well.
fn digest(chain: &[u8], key: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update((chain.len() as u64).to_be_bytes());
    digest.update(chain);
    digest.update(key);
    digest.finalize().into()
}

fn certified(chain: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<CertifiedKey, Problem> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| (CHAIN, format!("it is no PEM: {error}")))?;
    if chain.is_empty() {
        return Err((CHAIN, "it holds no certificate".to_owned()));
    }
    // The error is not told: it could repeat a part of the key.
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| (KEY, "it holds no private key in PEM".to_owned()))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| (KEY, format!("it does not fit the certificate: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey as Made, KeyPair};

    fn made() -> (Vec<u8>, Vec<u8>) {
        let Made { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (pem("CERTIFICATE", cert.der()), pem("PRIVATE KEY", &KeyPair::serialize_der(&signing_key)))
    }

    fn pem(label: &str, der: &[u8]) -> Vec<u8> {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into_bytes()
    }

    #[test]
    fn a_good_pair_is_exchanged_and_a_bad_one_leaves_the_old_in_place() {
        let home = tempfile::tempdir().unwrap();
        let files = Files { chain: home.path().join("c.pem"), key: home.path().join("k.pem") };
        assert_eq!(Certificate::load(files.clone()).unwrap_err().setting, CHAIN);
        let (chain, key) = made();
        // Written aside and renamed, as those do who exchange certificates in earnest.
        let put = |path: &Path, bytes: &[u8]| {
            let aside = path.with_extension("new");
            fs::write(&aside, bytes).unwrap();
            fs::rename(aside, path).unwrap();
        };
        put(&files.chain, &chain);
        assert_eq!(Certificate::load(files.clone()).unwrap_err().setting, KEY);
        put(&files.key, &key);
        let mut certificate = Certificate::load(files.clone()).unwrap();
        let served = |certificate: &Certificate| certificate.served.key.read().unwrap().cert[0].to_vec();
        let first = served(&certificate);
        assert_eq!(certificate.look(), Look::Same);

        put(&files.chain, &chain);
        assert_eq!(certificate.look(), Look::Same, "the same contents in a new file");

        let (next_chain, next_key) = made();
        for bad in [b"".as_slice(), b"rubbish", b"-----BEGIN CERTIFICATE-----\nAA\n", &next_chain] {
            put(&files.chain, bad);
            assert!(matches!(certificate.look(), Look::Kept(_)));
            assert_eq!(certificate.look(), Look::Same, "it is reported once");
            assert_eq!(served(&certificate), first);
        }
        put(&files.key, &next_key);
        assert_eq!(certificate.look(), Look::Exchanged);
        assert_ne!(served(&certificate), first);

        fs::remove_file(&files.key).unwrap();
        assert!(matches!(certificate.look(), Look::Kept(_)));
        put(&files.key, &next_key);
        assert_eq!(certificate.look(), Look::Same);
        let kept = certified(
            &next_chain,
            b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
            &ring::default_provider(),
        );
        assert!(!kept.unwrap_err().1.contains("c2VjcmV0"));
    }
}
