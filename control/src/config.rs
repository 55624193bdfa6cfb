//! Control's settings: as given (`Settings`, flags and environment) and as checked (`Config`). The layering
//! of flag, environment and file is the program's; nothing is opened or bound here.

use std::path::PathBuf;

use registry_api::client::RegistryClient;
use registry_api::connect::Trust;
use registry_api::issuer::{BadIssuer, Issuer};
use registry_api::setting::BadSetting;
pub use registry_api::setting::Secret;

/// Keys of the settings file, as paths, and the flags they stand for. Every flag's name is a key as well.
pub const FILE_KEYS: &[(&str, &str)] = &[
    ("database.type", "database_type"),
    ("registry.url", "registry_url"),
    ("registry.token", "registry_token"),
    ("registry.auth", "registry_auth"),
    ("registry.ca_cert_file", "registry_ca_cert_file"),
];

const ENCRYPTION_KEY_CHARS: usize = 16;

/// The settings as given; each may be a flag or a variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Address to listen on.
    #[arg(long = "api_host", env = "A8_API_HOST", default_value = "0.0.0.0", value_name = "HOST")]
    pub api_host: String,
    /// Port of the API; 0 takes a free one.
    #[arg(long = "api_port", env = "A8_API_PORT", default_value_t = 8081, value_name = "PORT")]
    pub api_port: u16,
    /// Where rules are kept: redb (a file in the data directory) or memory.
    #[arg(long = "database_type", env = "A8_DATABASE_TYPE", default_value = "redb", value_name = "TYPE")]
    pub database_type: String,
    /// Key of 16 characters for stores that encrypt; redb and memory do not.
    #[arg(
        long = "encryption_key",
        env = "A8_ENCRYPTION_KEY",
        default_value = "abcdefghijklmnop",
        hide_env_values = true,
        hide_default_value = true,
        value_name = "KEY"
    )]
    pub encryption_key: Secret,
    /// How callers prove their namespace, in the order tried: none, trusted, jwt.
    #[arg(long = "auth_mode", env = "A8_AUTH_MODE", value_delimiter = ',', value_name = "MODE")]
    pub auth_mode: Vec<String>,
    /// Secret of tokens signed with HS256, for auth_mode jwt.
    #[arg(
        long = "jwt_secret",
        env = "A8_JWT_SECRET",
        default_value = "",
        hide_env_values = true,
        hide_default_value = true,
        value_name = "SECRET"
    )]
    pub jwt_secret: Secret,
    /// Keys of tokens signed with RS256, ES256 or EdDSA, for auth_mode jwt: a JWKS file or its URL.
    #[arg(long = "jwt_keys", env = "A8_JWT_KEYS", default_value = "", value_name = "FILE|URL")]
    pub jwt_keys: String,
    /// Redirect callers that do not come over HTTPS.
    #[arg(long = "require_https", env = "A8_REQUIRE_HTTPS", num_args = 0..=1, default_missing_value = "true",
        default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub require_https: bool,
    /// Base URLs of the registry, http or https.
    #[arg(
        long = "registry_url",
        env = "A8_REGISTRY_URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub registry_url: Vec<String>,
    /// Token for the registry; giving one implies `--registry_auth token`.
    #[arg(
        long = "registry_token",
        env = "A8_REGISTRY_TOKEN",
        default_value = "",
        hide_env_values = true,
        hide_default_value = true,
        value_name = "TOKEN"
    )]
    pub registry_token: Secret,
    /// How to prove a namespace to the registry: none, token, trusted, jwt. Default: as callers do here.
    #[arg(long = "registry_auth", env = "A8_REGISTRY_AUTH", value_name = "MODE")]
    pub registry_auth: Option<String>,
    /// Secret of the tokens for the registry, for registry_auth jwt. Default: jwt_secret.
    #[arg(
        long = "registry_jwt_secret",
        env = "A8_REGISTRY_JWT_SECRET",
        default_value = "",
        hide_env_values = true,
        hide_default_value = true,
        value_name = "SECRET"
    )]
    pub registry_jwt_secret: Secret,
    /// Certificates (PEM) by which an https registry is believed, and no others. Default: the roots of the machine.
    #[arg(long = "registry_ca_cert_file", env = "A8_REGISTRY_CA_CERT_FILE", value_name = "FILE")]
    pub registry_ca_cert_file: Option<PathBuf>,
    /// Directory for rules; created, and used by one process at a time.
    #[arg(long = "data_dir", env = "A8_DATA_DIR", default_value = "a8-data/control", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// How callers prove their namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// No token, or the token `default`: namespace `default`.
    None,
    /// The token is the namespace.
    Trusted,
    /// A signed token names the namespace.
    Jwt,
}

/// What tokens are checked with: a secret, a place of published keys, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    /// Empty when there is none.
    pub secret: Secret,
    /// A file or a URL; empty when there is none.
    pub published: String,
}

impl Keys {
    /// What checks the tokens.
    pub fn issuer(&self) -> Result<Issuer, BadSetting> {
        Issuer::new(self.secret.reveal(), Some(&self.published)).map_err(|problem| match problem {
            BadIssuer::NoKeys => BadSetting::new("jwt_secret", "auth_mode jwt needs jwt_secret or jwt_keys"),
            BadIssuer::BadSource(_) => BadSetting::new("jwt_keys", problem.to_string()),
        })
    }
}

/// Where rules are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// In a file of this directory.
    Redb(PathBuf),
    /// Nowhere beyond the process.
    Memory,
}

/// How to prove a namespace to the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryAuth {
    /// Not at all.
    None,
    /// The namespace is the token.
    Trusted,
    /// With one token for every namespace.
    Token(Secret),
    /// With a token that names the namespace, signed with this secret and soon over.
    Jwt(Secret),
}

/// Settings that can be worked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address to listen on.
    pub api_host: String,
    /// Port to listen on.
    pub api_port: u16,
    /// Where rules are kept.
    pub store: StoreKind,
    /// At least one, in the order tried.
    pub auth: Vec<AuthMode>,
    /// What signed tokens are checked with; of use with [`AuthMode::Jwt`] alone.
    pub keys: Keys,
    /// Whether plain HTTP is redirected.
    pub require_https: bool,
    /// At least one base URL.
    pub registry_urls: Vec<String>,
    /// How to prove a namespace there.
    pub registry_auth: RegistryAuth,
    /// Whom to believe there when it is https; `None` is whom the machine believes.
    pub registry_ca_cert_file: Option<PathBuf>,
}

impl Settings {
    /// Checks every setting; names the first that cannot be used.
    pub fn check(self) -> Result<Config, BadSetting> {
        if self.encryption_key.reveal().chars().count() != ENCRYPTION_KEY_CHARS {
            return Err(BadSetting::new("encryption_key", "must have exactly 16 characters"));
        }
        if self.api_host.is_empty() {
            return Err(BadSetting::new("api_host", "is empty"));
        }
        let store = match self.database_type.as_str() {
            "redb" if self.data_dir.as_os_str().is_empty() => {
                return Err(BadSetting::new("data_dir", "is empty"));
            }
            "redb" => StoreKind::Redb(self.data_dir),
            "memory" => StoreKind::Memory,
            kind @ ("redis" | "kubernetes") => {
                let problem = format!("`{kind}` is not available yet; use redb or memory");
                return Err(BadSetting::new("database_type", problem));
            }
            other => {
                let problem = format!("`{other}` is unknown; use redb or memory");
                return Err(BadSetting::new("database_type", problem));
            }
        };
        let auth = auth_modes(&self.auth_mode)?;
        let keys = Keys { secret: self.jwt_secret, published: self.jwt_keys };
        if auth.contains(&AuthMode::Jwt) {
            keys.issuer()?;
        }
        let own = auth[0];
        let secret = if self.registry_jwt_secret.reveal().is_empty() {
            &keys.secret
        } else {
            &self.registry_jwt_secret
        };
        let token = self.registry_token.clone();
        let registry_auth = registry_auth(self.registry_auth.as_deref(), token, secret.clone(), own)?;
        // Nothing is called yet, so nobody has to be believed.
        RegistryClient::trusting(&self.registry_url, None, Trust::nobody())
            .map_err(|error| BadSetting::new("registry_url", error.to_string()))?;
        let token = Some(self.registry_token.reveal());
        if RegistryClient::trusting(&self.registry_url, token, Trust::nobody()).is_err() {
            return Err(BadSetting::new("registry_token", "holds characters that no header can carry"));
        }
        Ok(Config {
            api_host: self.api_host,
            api_port: self.api_port,
            store,
            auth,
            keys,
            require_https: self.require_https,
            registry_urls: self.registry_url,
            registry_auth,
            registry_ca_cert_file: self.registry_ca_cert_file,
        })
    }
}

fn auth_modes(given: &[String]) -> Result<Vec<AuthMode>, BadSetting> {
    let mode = |word: &String| match word.as_str() {
        "none" => Ok(AuthMode::None),
        "trusted" => Ok(AuthMode::Trusted),
        "jwt" => Ok(AuthMode::Jwt),
        other => Err(BadSetting::new("auth_mode", format!("`{other}` is unknown; use none, trusted or jwt"))),
    };
    // An empty variable means the default, too.
    let given: Vec<_> = given.iter().filter(|word| !word.is_empty()).collect();
    if given.is_empty() {
        return Ok(vec![AuthMode::None]);
    }
    given.into_iter().map(mode).collect()
}

fn registry_auth(
    given: Option<&str>,
    token: Secret,
    secret: Secret,
    own: AuthMode,
) -> Result<RegistryAuth, BadSetting> {
    match (given.unwrap_or_default(), own) {
        ("", _) if !token.reveal().is_empty() => Ok(RegistryAuth::Token(token)),
        ("none", _) | ("", AuthMode::None) => Ok(RegistryAuth::None),
        ("trusted", _) | ("", AuthMode::Trusted) => Ok(RegistryAuth::Trusted),
        ("token", _) if token.reveal().is_empty() => {
            Err(BadSetting::new("registry_token", "is needed with --registry_auth token"))
        }
        ("token", _) => Ok(RegistryAuth::Token(token)),
        ("jwt", _) | ("", AuthMode::Jwt) if secret.reveal().is_empty() => {
            Err(BadSetting::new("registry_jwt_secret", "is needed to sign tokens for the registry"))
        }
        ("jwt", _) | ("", AuthMode::Jwt) => Ok(RegistryAuth::Jwt(secret)),
        (other, _) => {
            let problem = format!("`{other}` is unknown; use none, token, trusted or jwt");
            Err(BadSetting::new("registry_auth", problem))
        }
    }
}

#[cfg(test)]
mod tests;
