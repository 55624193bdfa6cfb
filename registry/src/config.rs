//! The registry's settings, as the command line and the environment give them, and as the registry uses
//! them. Files, their precedence, and the log's settings are the program's business.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry_api::duration;
use registry_api::issuer::{BadIssuer, Issuer};
use registry_api::setting::{BadSetting, Secret};

use crate::http::auth::{Mode, Modes};
use crate::http::eureka::compat::{Compat, EurekaSettings};
use crate::http::tls::Files;
use crate::preservation::Threshold;
use crate::registration::{BadTtlLimits, TtlLimits};

/// Settings of `a8 registry` (spec/registry.md 5). Numbers and durations are text here, so that a bad one is
/// named together with where it came from.
#[derive(clap::Args, Debug, Clone)]
pub struct Settings {
    /// Address the API listens on.
    #[arg(long = "api_host", env = "A8_API_HOST", default_value = "0.0.0.0")]
    pub api_host: String,
    /// Port of the API; 0 takes a free one.
    #[arg(long = "api_port", env = "A8_API_PORT", default_value = "8080", allow_hyphen_values = true)]
    pub api_port: String,
    /// How tokens become namespaces, in the order in which they are tried: none, trusted, jwt.
    #[arg(long = "auth_mode", env = "A8_AUTH_MODE", value_delimiter = ',')]
    pub auth_mode: Vec<String>,
    /// Secret of tokens signed with HS256, for auth_mode jwt.
    #[arg(
        long = "jwt_secret",
        env = "A8_JWT_SECRET",
        default_value = "",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub jwt_secret: Secret,
    /// Keys of tokens signed with RS256, ES256 or EdDSA, for auth_mode jwt: a JWKS file or its URL.
    #[arg(long = "jwt_keys", env = "A8_JWT_KEYS", default_value = "", value_name = "FILE|URL")]
    pub jwt_keys: String,
    /// Serve HTTPS with this certificate chain in PEM; it is exchanged when the file changes.
    #[arg(long = "tls_cert_file", env = "A8_TLS_CERT_FILE", default_value = "", value_name = "FILE")]
    pub tls_cert_file: String,
    /// The private key of the certificate, in PEM.
    #[arg(long = "tls_key_file", env = "A8_TLS_KEY_FILE", default_value = "", value_name = "FILE")]
    pub tls_key_file: String,
    /// Redirect API requests that did not come over HTTPS.
    #[arg(
        long = "require_https",
        env = "A8_REQUIRE_HTTPS",
        num_args = 0..=1,
        default_missing_value = "true",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub require_https: bool,
    /// Lease of an instance that asks for none.
    #[arg(long = "default_ttl", env = "A8_DEFAULT_TTL", default_value = "30s", allow_hyphen_values = true)]
    pub default_ttl: String,
    /// Shortest lease.
    #[arg(long = "min_ttl", env = "A8_MIN_TTL", default_value = "10s", allow_hyphen_values = true)]
    pub min_ttl: String,
    /// Longest lease.
    #[arg(long = "max_ttl", env = "A8_MAX_TTL", default_value = "10m", allow_hyphen_values = true)]
    pub max_ttl: String,
    /// Instances per namespace; -1 is unlimited.
    #[arg(
        long = "namespace_capacity",
        env = "A8_NAMESPACE_CAPACITY",
        default_value = "-1",
        allow_hyphen_values = true
    )]
    pub namespace_capacity: String,
    /// Hold silent instances of Eureka clients while too many of a namespace are silent at once: for 15 minutes at
    /// most, then they go little by little.
    #[arg(
        long = "eureka_self_preservation",
        env = "A8_EUREKA_SELF_PRESERVATION",
        num_args = 0..=1,
        default_missing_value = "true",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub eureka_self_preservation: bool,
    /// The share of their leases that must go on being renewed for silence to count as death.
    #[arg(
        long = "eureka_renewal_threshold",
        env = "A8_EUREKA_RENEWAL_THRESHOLD",
        default_value = "0.85",
        allow_hyphen_values = true
    )]
    pub eureka_renewal_threshold: String,
    /// Directory of files with further instances, one `<namespace>.json` per namespace.
    #[arg(long = "fs_catalog", env = "A8_FS_CATALOG", default_value = "", value_name = "DIR")]
    pub fs_catalog: OsString,
    /// Show the endpoints of this Kubernetes API server as well; not available yet.
    #[arg(long = "k8s_url", env = "A8_K8S_URL", default_value = "", value_name = "URL")]
    pub k8s_url: String,
    /// Token for the Kubernetes API server.
    #[arg(
        long = "k8s_token",
        env = "A8_K8S_TOKEN",
        default_value = "",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub k8s_token: Secret,
    /// Show the instances of these Eureka servers as well; not available yet.
    #[arg(long = "eureka_url", env = "A8_EUREKA_URL", value_delimiter = ',', value_name = "URL")]
    pub eureka_url: Vec<String>,
    /// Share what is registered with other registries; not available yet.
    #[arg(
        long = "replication",
        env = "A8_REPLICATION",
        num_args = 0..=1,
        default_missing_value = "true",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub replication: bool,
    /// Port for other registries.
    #[arg(
        long = "replication_port",
        env = "A8_REPLICATION_PORT",
        default_value = "6100",
        allow_hyphen_values = true
    )]
    pub replication_port: String,
    /// How long a start waits for what other registries hold.
    #[arg(long = "sync_timeout", env = "A8_SYNC_TIMEOUT", default_value = "30s", allow_hyphen_values = true)]
    pub sync_timeout: String,
    /// Directory in which registries find each other.
    #[arg(long = "cluster_dir", env = "A8_CLUSTER_DIR", default_value = "", value_name = "DIR")]
    pub cluster_dir: OsString,
    /// How many registries there should be at least.
    #[arg(long = "cluster_size", env = "A8_CLUSTER_SIZE", default_value = "0", allow_hyphen_values = true)]
    pub cluster_size: String,
    /// Where instances are kept: inmem.
    #[arg(long = "store", env = "A8_STORE", default_value = "inmem")]
    pub store: String,
    /// Address of a store outside the process.
    #[arg(long = "store_address", env = "A8_STORE_ADDRESS", default_value = "", value_name = "HOST:PORT")]
    pub store_address: String,
    /// Password of a store outside the process.
    #[arg(
        long = "store_password",
        env = "A8_STORE_PASSWORD",
        default_value = "",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub store_password: Secret,
    /// Directory of the snapshot file.
    #[arg(long = "data_dir", env = "A8_DATA_DIR", default_value = "a8-data/registry")]
    pub data_dir: OsString,
    /// The Eureka API.
    #[command(flatten)]
    pub eureka: EurekaSettings,
}

/// Nested keys of a settings file that stand for a flag. The registry's keys are flat: every flag's own name.
pub const FILE_KEYS: &[(&str, &str)] = &[];

/// Checked settings.
#[derive(Clone)]
pub struct Config {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) modes: Modes,
    pub(crate) tls: Option<Files>,
    pub(crate) require_https: bool,
    pub(crate) ttl: TtlLimits,
    pub(crate) capacity: Option<usize>,
    pub(crate) preserving: Option<Threshold>,
    pub(crate) fs_catalog: Option<PathBuf>,
    pub(crate) data_dir: PathBuf,
    pub(crate) eureka: Compat,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &format_args!("{}:{}", self.host, self.port))
            .field("modes", &self.modes)
            .field("tls", &self.tls)
            .field("require_https", &self.require_https)
            .field("ttl", &self.ttl)
            .field("capacity", &self.capacity)
            .field("preserving", &self.preserving)
            .field("fs_catalog", &self.fs_catalog)
            .field("data_dir", &self.data_dir)
            .field("eureka", &self.eureka)
            .finish()
    }
}

impl Settings {
    /// Checks every setting and names the first that cannot be used.
    pub fn check(self) -> Result<Config, BadSetting> {
        if self.api_host.is_empty() {
            return Err(BadSetting::new("api_host", "is empty"));
        }
        if self.data_dir.is_empty() {
            return Err(BadSetting::new("data_dir", "is empty"));
        }
        match self.store.as_str() {
            "inmem" => {}
            "redis" => return Err(BadSetting::new("store", "redis is not available yet")),
            other => return Err(BadSetting::new("store", format!("`{other}` is not inmem"))),
        }
        self.check_what_is_missing()?;
        Ok(Config {
            port: port("api_port", &self.api_port)?,
            modes: self.modes()?,
            tls: self.tls()?,
            ttl: self.ttl_limits()?,
            capacity: capacity(&self.namespace_capacity)?,
            preserving: threshold(&self.eureka_renewal_threshold)?.filter(|_| self.eureka_self_preservation),
            fs_catalog: Some(self.fs_catalog).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            host: self.api_host,
            require_https: self.require_https,
            data_dir: self.data_dir.into(),
            eureka: self.eureka.check()?,
        })
    }

    /// Settings of the ancestor that nothing here stands behind yet. Whoever relies on one must hear it at the start.
    fn check_what_is_missing(&self) -> Result<(), BadSetting> {
        let asked = [
            ("k8s_url", !self.k8s_url.is_empty()),
            ("eureka_url", self.eureka_url.iter().any(|url| !url.is_empty())),
            ("replication", self.replication),
        ];
        if let Some((setting, _)) = asked.into_iter().find(|(_, asked)| *asked) {
            return Err(BadSetting::new(setting, "is not available yet"));
        }
        port("replication_port", &self.replication_port)?;
        ttl("sync_timeout", &self.sync_timeout)?;
        let size = self.cluster_size.parse::<u32>();
        size.map_err(|_| BadSetting::new("cluster_size", format!("`{}` is no number", self.cluster_size)))?;
        Ok(())
    }

    fn tls(&self) -> Result<Option<Files>, BadSetting> {
        match (self.tls_cert_file.as_str(), self.tls_key_file.as_str()) {
            ("", "") => Ok(None),
            ("", _) => Err(BadSetting::new("tls_cert_file", "is needed with tls_key_file")),
            (_, "") => Err(BadSetting::new("tls_key_file", "is needed with tls_cert_file")),
            (chain, key) => Ok(Some(Files { chain: chain.into(), key: key.into() })),
        }
    }

    fn modes(&self) -> Result<Modes, BadSetting> {
        let bad = |problem: String| BadSetting::new("auth_mode", problem);
        let names = &self.auth_mode;
        // An empty variable is a list of one empty text, and says nothing.
        if names.iter().all(String::is_empty) && names.len() <= 1 {
            return Ok(Modes::default());
        }
        let modes = names.iter().map(|name| match name.as_str() {
            "none" => Ok(Mode::None),
            "trusted" => Ok(Mode::Trusted),
            "jwt" => self.issuer().map(|issuer| Mode::Jwt(Arc::new(issuer))),
            "" => Err(bad("an element of the list is empty".to_owned())),
            other => Err(bad(format!("`{other}` is none of none, trusted, jwt"))),
        });
        Ok(Modes::new(modes.collect::<Result<_, _>>()?))
    }

    fn issuer(&self) -> Result<Issuer, BadSetting> {
        Issuer::new(self.jwt_secret.reveal(), Some(&self.jwt_keys)).map_err(|problem| match problem {
            BadIssuer::NoKeys => BadSetting::new("jwt_secret", "auth_mode jwt needs jwt_secret or jwt_keys"),
            BadIssuer::BadSource(_) => BadSetting::new("jwt_keys", problem.to_string()),
        })
    }

    fn ttl_limits(&self) -> Result<TtlLimits, BadSetting> {
        let min = ttl("min_ttl", &self.min_ttl)?;
        let default = ttl("default_ttl", &self.default_ttl)?;
        let max = ttl("max_ttl", &self.max_ttl)?;
        TtlLimits::new(min, default, max).map_err(|problem| {
            let setting = match problem {
                BadTtlLimits::MinAboveMax => "min_ttl",
                BadTtlLimits::DefaultIsZero
                | BadTtlLimits::DefaultBelowMin
                | BadTtlLimits::DefaultAboveMax => "default_ttl",
            };
            BadSetting::new(setting, problem.to_string())
        })
    }
}

fn ttl(setting: &'static str, text: &str) -> Result<Duration, BadSetting> {
    duration::parse(text).map_err(|problem| BadSetting::new(setting, problem.to_string()))
}

fn port(setting: &'static str, text: &str) -> Result<u16, BadSetting> {
    text.parse().map_err(|_| {
        BadSetting::new(setting, format!("`{text}` is no port; a port is a number from 0 to 65535"))
    })
}

fn capacity(text: &str) -> Result<Option<usize>, BadSetting> {
    let bad = || BadSetting::new("namespace_capacity", format!("`{text}` is no number from -1"));
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(count) => usize::try_from(count).map(Some).map_err(|_| bad()),
        Err(_) => Err(bad()),
    }
}

fn threshold(text: &str) -> Result<Option<Threshold>, BadSetting> {
    let bad = |problem: &dyn fmt::Display| {
        BadSetting::new("eureka_renewal_threshold", format!("`{text}`: {problem}"))
    };
    let share = text.parse().map_err(|error: std::num::ParseFloatError| bad(&error))?;
    Threshold::new(share).map(Some).map_err(|error| bad(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: Settings,
    }

    fn check(arguments: &[&str]) -> Result<Config, BadSetting> {
        let words = ["registry"].into_iter().chain(arguments.iter().copied());
        Program::try_parse_from(words).unwrap().settings.check()
    }

    /// Section 9.6 M1; section 5.
    #[test]
    fn the_defaults_are_those_of_the_spec() {
        let config = check(&[]).unwrap();
        assert_eq!((config.host.as_str(), config.port), ("0.0.0.0", 8080));
        assert_eq!(config.capacity, None);
        assert_eq!(config.ttl.grant(None), Duration::from_secs(30));
        assert_eq!(config.ttl.grant(Some(1)), Duration::from_secs(10));
        assert_eq!(config.ttl.grant(Some(9_999)), Duration::from_secs(600));
        assert_eq!(config.data_dir, PathBuf::from("a8-data/registry"));
        assert!(!config.require_https);
    }

    /// Section 9.4 A7; 9.6 M49; section 5.
    #[test]
    fn bad_settings_are_named() {
        for (arguments, setting) in [
            (&["--api_port", "65536"][..], "api_port"),
            (&["--api_port", "-1"], "api_port"),
            (&["--api_port", "http"], "api_port"),
            (&["--api_host="], "api_host"),
            (&["--auth_mode", "magic"], "auth_mode"),
            (&["--auth_mode", "trusted,"], "auth_mode"),
            (&["--auth_mode", "jwt"], "jwt_secret"),
            (&["--auth_mode", "jwt", "--jwt_keys", "ftp://h/keys"], "jwt_keys"),
            (&["--auth_mode", "jwt", "--jwt_secret", "s", "--jwt_keys", "http://u:p@h/"], "jwt_keys"),
            (&["--tls_cert_file", "c"], "tls_key_file"),
            (&["--tls_key_file", "k"], "tls_cert_file"),
            (&["--min_ttl", "11m"], "min_ttl"),
            (&["--default_ttl", "5s"], "default_ttl"),
            (&["--default_ttl", "11m"], "default_ttl"),
            (&["--default_ttl", "0", "--min_ttl", "0"], "default_ttl"),
            (&["--max_ttl", "soon"], "max_ttl"),
            (&["--max_ttl", "-5s"], "max_ttl"),
            (&["--namespace_capacity", "-2"], "namespace_capacity"),
            (&["--namespace_capacity", "many"], "namespace_capacity"),
            (&["--eureka_renewal_threshold", "0"], "eureka_renewal_threshold"),
            (&["--eureka_renewal_threshold", "-1"], "eureka_renewal_threshold"),
            (&["--eureka_renewal_threshold", "NaN"], "eureka_renewal_threshold"),
            (&["--eureka_renewal_threshold", "most"], "eureka_renewal_threshold"),
            (&["--store", "redis"], "store"),
            (&["--k8s_url", "http://k"], "k8s_url"),
            (&["--eureka_url", "http://e"], "eureka_url"),
            (&["--replication"], "replication"),
            (&["--replication_port", "70000"], "replication_port"),
            (&["--sync_timeout", "soon"], "sync_timeout"),
            (&["--cluster_size", "-1"], "cluster_size"),
            (&["--store", "paper"], "store"),
            (&["--data_dir="], "data_dir"),
            (&["--eureka_compat", "consul"], "eureka_compat"),
        ] {
            assert_eq!(check(arguments).map(|_| ()).unwrap_err().setting, setting, "{arguments:?}");
        }
    }

    /// Section 9.6 M2, M49; section 5.
    #[test]
    fn good_settings_are_taken() {
        for arguments in [
            &["--api_port", "0"][..],
            &["--auth_mode", "trusted"],
            &["--auth_mode", "none,trusted"],
            &["--auth_mode", "none", "--auth_mode", "trusted"],
            &["--auth_mode", "jwt,trusted", "--jwt_secret", "s"],
            &["--auth_mode", "jwt", "--jwt_keys", "https://issuer/keys"],
            &["--auth_mode="],
            &["--namespace_capacity", "0"],
            &["--namespace_capacity=-1"],
            &["--min_ttl", "500ms", "--default_ttl", "1s", "--max_ttl", "1s"],
            &["--eureka_compat", "amalgam8"],
            &["--require_https"],
            &["--require_https=false"],
            &["--require_https", "true"],
        ] {
            assert!(check(arguments).is_ok(), "{arguments:?}");
        }
    }
}
