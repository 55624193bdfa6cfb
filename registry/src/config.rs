//! The registry's settings, as the command line and the environment give them, and as the registry uses
//! them. Files, their precedence, and the log's settings are the program's business.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use registry_api::duration;
use registry_api::setting::BadSetting;

use crate::http::auth::{Mode, Modes};
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
    /// How tokens become namespaces, in the order in which they are tried: none, trusted.
    #[arg(long = "auth_mode", env = "A8_AUTH_MODE", value_delimiter = ',')]
    pub auth_mode: Vec<String>,
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
    /// Where instances are kept: inmem.
    #[arg(long = "store", env = "A8_STORE", default_value = "inmem")]
    pub store: String,
    /// Directory of the snapshot file.
    #[arg(long = "data_dir", env = "A8_DATA_DIR", default_value = "a8-data/registry")]
    pub data_dir: OsString,
}

/// Nested keys of a settings file that stand for a flag. The registry's keys are flat: every flag's own name.
pub const FILE_KEYS: &[(&str, &str)] = &[];

/// Checked settings.
#[derive(Clone)]
pub struct Config {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) modes: Modes,
    pub(crate) require_https: bool,
    pub(crate) ttl: TtlLimits,
    pub(crate) capacity: Option<usize>,
    pub(crate) data_dir: PathBuf,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &format_args!("{}:{}", self.host, self.port))
            .field("modes", &self.modes)
            .field("require_https", &self.require_https)
            .field("ttl", &self.ttl)
            .field("capacity", &self.capacity)
            .field("data_dir", &self.data_dir)
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
        Ok(Config {
            port: port("api_port", &self.api_port)?,
            modes: modes(&self.auth_mode)?,
            ttl: self.ttl_limits()?,
            capacity: capacity(&self.namespace_capacity)?,
            host: self.api_host,
            require_https: self.require_https,
            data_dir: self.data_dir.into(),
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

fn modes(names: &[String]) -> Result<Modes, BadSetting> {
    let bad = |problem: String| BadSetting::new("auth_mode", problem);
    // An empty variable is a list of one empty text, and says nothing.
    if names.iter().all(String::is_empty) && names.len() <= 1 {
        return Ok(Modes::default());
    }
    let modes = names.iter().map(|name| match name.as_str() {
        "none" => Ok(Mode::None),
        "trusted" => Ok(Mode::Trusted),
        "jwt" => Err(bad("jwt is not available yet".to_owned())),
        "" => Err(bad("an element of the list is empty".to_owned())),
        other => Err(bad(format!("`{other}` is none of none, trusted"))),
    });
    Ok(Modes::new(modes.collect::<Result<_, _>>()?))
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

    #[test]
    fn bad_settings_are_named() {
        for (arguments, setting) in [
            (&["--api_port", "65536"][..], "api_port"),
            (&["--api_port", "-1"], "api_port"),
            (&["--api_port", "http"], "api_port"),
            (&["--api_host="], "api_host"),
            (&["--auth_mode", "magic"], "auth_mode"),
            (&["--auth_mode", "trusted,"], "auth_mode"),
            (&["--auth_mode", "jwt"], "auth_mode"),
            (&["--min_ttl", "11m"], "min_ttl"),
            (&["--default_ttl", "5s"], "default_ttl"),
            (&["--default_ttl", "11m"], "default_ttl"),
            (&["--default_ttl", "0", "--min_ttl", "0"], "default_ttl"),
            (&["--max_ttl", "soon"], "max_ttl"),
            (&["--max_ttl", "-5s"], "max_ttl"),
            (&["--namespace_capacity", "-2"], "namespace_capacity"),
            (&["--namespace_capacity", "many"], "namespace_capacity"),
            (&["--store", "redis"], "store"),
            (&["--store", "paper"], "store"),
            (&["--data_dir="], "data_dir"),
        ] {
            assert_eq!(check(arguments).map(|_| ()).unwrap_err().setting, setting, "{arguments:?}");
        }
    }

    #[test]
    fn good_settings_are_taken() {
        for arguments in [
            &["--api_port", "0"][..],
            &["--auth_mode", "trusted"],
            &["--auth_mode", "none,trusted"],
            &["--auth_mode", "none", "--auth_mode", "trusted"],
            &["--auth_mode="],
            &["--namespace_capacity", "0"],
            &["--namespace_capacity=-1"],
            &["--min_ttl", "500ms", "--default_ttl", "1s", "--max_ttl", "1s"],
            &["--require_https"],
            &["--require_https=false"],
            &["--require_https", "true"],
        ] {
            assert!(check(arguments).is_ok(), "{arguments:?}");
        }
    }
}
