//! Files that are refused, and files that change.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;

use super::*;

/// Files of a listener in a folder of their own.
struct Folder(TempDir);

/// A certificate that signed itself, and its key.
fn pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

impl Folder {
    /// One with files that can be used.
    fn usable() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let (cert_chain, private_key) = pair();
        folder.write("chain", &cert_chain);
        folder.write("key", &private_key);
        folder.write("ca", &cert_chain);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            cert_chain: self.path("chain"),
            private_key: self.path("key"),
            ca_cert: Some(self.path("ca")),
        }
    }

    fn refused(&self) -> BadSetting {
        Tls::open(self.files()).expect_err("these files cannot be used")
    }
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name_in_one_line() {
    let (other_chain, other_key) = pair();
    let not_a_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let not_a_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let cut_off = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    let too_large = "x".repeat(FILE_BYTES_MAX as usize + 1);
    for (file, text, setting, problem) in [
        ("chain", "", CERT_CHAIN, "holds no certificate"),
        ("chain", "nothing of the kind", CERT_CHAIN, "holds no certificate"),
        ("chain", &*other_key, CERT_CHAIN, "holds no certificate"),
        ("chain", cut_off, CERT_CHAIN, "is no PEM: "),
        ("chain", not_a_certificate, CERT_CHAIN, "the first certificate cannot be used: "),
        ("chain", &too_large, CERT_CHAIN, "is larger than 1048576 bytes"),
        ("chain", &other_chain, PRIVATE_KEY, "does not fit the certificate of proxy_cert_chain_file"),
        ("key", &other_key, PRIVATE_KEY, "does not fit the certificate of proxy_cert_chain_file"),
        ("key", "", PRIVATE_KEY, "holds no private key"),
        ("key", &other_chain, PRIVATE_KEY, "holds no private key"),
        ("key", not_a_key, PRIVATE_KEY, "cannot be used: "),
        ("ca", "", CA_CERT, "holds no certificate"),
        ("ca", &other_key, CA_CERT, "holds no certificate"),
        ("ca", not_a_certificate, CA_CERT, "a certificate cannot be used: "),
    ] {
        let folder = Folder::usable();
        folder.write(file, text);
        let bad = folder.refused();
        assert_eq!(bad.setting, setting, "{bad}");
        assert!(bad.problem.contains(problem), "{bad} instead of {problem}");
        assert!(!bad.problem.contains('\n'), "{bad}");
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_by_name() {
    for (file, setting) in [("chain", CERT_CHAIN), ("key", PRIVATE_KEY), ("ca", CA_CERT)] {
        let folder = Folder::usable();
        let path = folder.path(file);
        std::fs::remove_file(&path).unwrap();
        let missing = folder.refused();
        assert_eq!(missing.setting, setting);
        assert!(missing.problem.starts_with(&format!("cannot read {}: ", path.display())), "{missing}");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(folder.refused().setting, setting);
    }
}

#[test]
fn usable_files_are_taken_with_and_without_a_ca() {
    let folder = Folder::usable();
    assert!(Tls::open(folder.files()).is_ok());
    assert!(Tls::open(TlsFiles { ca_cert: None, ..folder.files() }).is_ok());
    // What else the files hold does not matter: some keep key and certificate in one.
    let both: String =
        ["chain", "key"].map(|name| std::fs::read_to_string(folder.path(name)).unwrap()).concat();
    folder.write("chain", &both);
    folder.write("key", &both);
    assert!(Tls::open(folder.files()).is_ok());
}

#[test]
fn changed_files_replace_what_was_there_and_bad_ones_do_not() {
    let folder = Folder::usable();
    let tls = Tls::open(folder.files()).unwrap();
    let serving = || Arc::as_ptr(&tls.acceptor.load_full());
    let first = serving();
    assert_eq!(tls.refresh(), Refreshed::Unchanged);
    let (cert_chain, private_key) = pair();
    // Whoever writes one file after the other is met in between.
    folder.write("chain", &cert_chain);
    assert!(matches!(tls.refresh(), Refreshed::Kept(bad) if bad.setting == PRIVATE_KEY));
    assert_eq!(tls.refresh(), Refreshed::Unchanged, "it is said once");
    assert_eq!(serving(), first);
    folder.write("key", &private_key);
    assert_eq!(tls.refresh(), Refreshed::Replaced);
    let second = serving();
    assert_ne!(second, first);
    std::fs::remove_file(folder.path("chain")).unwrap();
    assert!(matches!(tls.refresh(), Refreshed::Kept(bad) if bad.setting == CERT_CHAIN));
    assert_eq!(tls.refresh(), Refreshed::Unchanged);
    assert_eq!(serving(), second);
    folder.write("chain", &cert_chain);
    assert_eq!(tls.refresh(), Refreshed::Replaced);
}

#[test]
fn the_key_is_never_shown() {
    let folder = Folder::usable();
    let tls = Tls::open(folder.files()).unwrap();
    let key = std::fs::read_to_string(folder.path("key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!format!("{tls:?}").contains(secret));
}
