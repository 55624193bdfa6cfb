//! Control and a registry that serves HTTPS alone (spec/registry.md 4.2, 4.5), as real processes: whom control believes, and that it proves its
//! namespaces over the connection. What a watch says is another suite's matter.

#![allow(clippy::unwrap_used, reason = "a panic is the verdict of a test")]

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conformance::{Control, Launch, Registry, eventually, get, post};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use registry_api::client::RegistryClient;
use registry_api::connect::Trust;
use registry_api::{Namespace, Registration, token};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "of-registry-and-control";
const LIFETIME: Duration = Duration::from_secs(600);

/// A registry that speaks HTTPS and believes signed tokens.
struct Scene {
    dir: TempDir,
    registry: Registry,
    roots: PathBuf,
    strangers: PathBuf,
}

/// A certificate authority in PEM, and what it signed for 127.0.0.1 with its key.
fn authority() -> (String, String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = params.self_signed(&key).unwrap().pem();
    let (issuer, key) = (Issuer::new(params, key), KeyPair::generate().unwrap());
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (pem, params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

#[expect(clippy::disallowed_methods, reason = "the registry under test reads this clock as well")]
fn signed(namespace: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    token::sign(SECRET.as_bytes(), &Namespace::new(namespace).unwrap(), now, LIFETIME)
}

impl Scene {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let (pem, chain, key) = authority();
        let (roots, strangers) = (put("roots.pem", &pem), put("strangers.pem", &authority().0));
        let (chain, key) = (put("chain.pem", &chain), put("key.pem", &key));
        let flags = [
            ("tls_cert_file", chain.to_str().unwrap()),
            ("tls_key_file", key.to_str().unwrap()),
            ("require_https", "true"),
            ("auth_mode", "jwt"),
            ("jwt_secret", SECRET),
        ];
        let registry = Registry::start(&dir.path().join("registry"), &flags);
        Self { registry, roots, strangers, dir }
    }

    fn url(&self) -> String {
        format!("https://{}", self.registry.address())
    }

    fn register(&self, namespace: &str, value: &str) {
        let trust = Trust::file(&self.roots).unwrap();
        let client = RegistryClient::trusting(&[self.url()], Some(&signed(namespace)), trust).unwrap();
        let registration = Registration { ttl: Some(600), ..Registration::http("s", &[], value) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client.register(&registration)).unwrap();
    }

    /// How a control is started that follows it; what it is asked needs signed tokens as well.
    fn control(&self, name: &str, flags: &[(&str, &str)]) -> Launch {
        let own = [("auth_mode", "jwt"), ("jwt_secret", SECRET)];
        let flags: Vec<_> = own.into_iter().chain(flags.iter().copied()).collect();
        Control::launch(&self.dir.path().join(name), &self.url(), &flags)
    }
}

/// The endpoints that control shows of a namespace.
fn shown(control: &Control, namespace: &str) -> Result<Vec<String>, String> {
    let asked = get("/v1/watch?wait=0&node=n").token(&signed(namespace)).call(control.address());
    if asked.status != 200 {
        return Err(format!("{asked:?}"));
    }
    let answer = asked.json();
    let instances = answer["instances"].as_array().ok_or("no instances")?;
    let value = |instance: &Value| instance["endpoint"]["value"].as_str().map(str::to_owned);
    instances.iter().map(|instance| value(instance).ok_or_else(|| format!("{instance}"))).collect()
}

#[test]
fn control_follows_each_namespace_over_https_with_signed_tokens() {
    for believed in ["a file", "the machine"] {
        let scene = Scene::start();
        scene.register("blue", "h:1");
        let control = Control::started(match believed {
            "a file" => scene.control("control", &[("registry_ca_cert_file", scene.roots.to_str().unwrap())]),
            _ => scene.control("control", &[]).env("SSL_CERT_FILE", &scene.roots),
        });
        let shows = |namespace: &str, wanted: &[&str]| {
            eventually(&format!("the instances of {namespace} by {believed}"), || {
                let values = shown(&control, namespace)?;
                if values == wanted { Ok(()) } else { Err(format!("{values:?}")) }
            });
        };
        shows("blue", &["h:1"]);
        shows("green", &[]);
        // What comes later comes over the poll that is open.
        scene.register("green", "h:2");
        shows("green", &["h:2"]);
        shows("blue", &["h:1"]);
    }
}

#[test]
fn control_believes_no_registry_that_nobody_it_knows_vouches_for() {
    let scene = Scene::start();
    scene.register("blue", "h:1");
    let flags = [("registry_ca_cert_file", scene.strangers.to_str().unwrap())];
    let control = Control::started(scene.control("deceived", &flags));
    // The first use of a namespace is what begins to follow it; rules need no registry.
    let rules =
        json!({"rules": [{"id": "r", "destination": "s", "route": {"backends": [{"tags": ["v1"]}]}}]});
    assert_eq!(post("/v1/rules", &rules).token(&signed("blue")).call(control.address()).status, 201);
    eventually("control says why", || {
        let said = control.process.as_ref().unwrap().stderr();
        if said.contains("registry not heard") && said.contains("certificate") { Ok(()) } else { Err(said) }
    });
}

#[test]
fn a_control_that_can_believe_nobody_does_not_start() {
    let scene = Scene::start();
    let nowhere = scene.dir.path().join("nowhere.pem");
    let key = scene.dir.path().join("key.pem");
    for (name, file) in [("absent", &nowhere), ("no-certificate", &key)] {
        let flags = [("registry_ca_cert_file", file.to_str().unwrap())];
        let finished = scene.control(name, &flags).env("A8_API_PORT", "0").finish();
        assert_eq!(finished.code, Some(1));
        assert!(finished.stderr.starts_with("a8 control: registry_ca_cert_file"), "{}", finished.stderr);
    }
    let finished =
        scene.control("machine", &[]).env("SSL_CERT_FILE", &nowhere).env("A8_API_PORT", "0").finish();
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.starts_with("a8 control: registry_url"), "{}", finished.stderr);
}
