//! The proxy's settings and their checked form (spec/control-and-proxy.md 3.1, design.md 6). Where a value
//! came from is not known here: the program layers file, environment and flags.

mod tcp;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use control_api::Identity;
use control_api::client::{ControlClient, Node};
use registry_api::setting::BadSetting;

pub(crate) use self::tcp::SETTING as TCP_SETTING;
pub use self::tcp::{TCP_PROXIES_MAX, TcpProxy};
use crate::board::SERIES_MAX_DEFAULT;
use crate::tracer::sampler::{BadSampler, Sampler};

/// How the keys of the YAML file map to flags. Every flag's own name is a key as well.
pub const FILE_KEYS: &[(&str, &str)] = &[
    ("service.name", "service"),
    ("service.tags", "service_tags"),
    ("proxy_config.http_listener_host", "http_listener_host"),
    ("proxy_config.http_listener_port", "http_listener_port"),
    ("proxy_config.admin_host", "admin_host"),
    ("proxy_config.admin_port", "admin_port"),
    ("proxy_config.tls", "proxy_tls"),
    ("proxy_config.cert_chain_file", "proxy_cert_chain_file"),
    ("proxy_config.private_key_file", "proxy_private_key_file"),
    ("proxy_config.ca_cert_file", "proxy_ca_cert_file"),
    ("proxy_config.tcp_proxies", "tcp_proxies"),
    ("proxy_config.grpc_http1_bridge", "grpc_http1_bridge"),
    ("proxy_config.logging_dir", "logging_dir"),
    ("proxy_config.access_log", "access_log"),
    ("proxy_config.metrics_series_max", "metrics_series_max"),
    ("controller.url", "controller_url"),
    ("controller.token", "controller_token"),
    ("controller.poll", "controller_poll"),
];

/// Keys of the YAML file whose values are lists of mappings, and the fields of those. Each is one value of the flag that the
/// key maps to: the values of its fields in this order, with `=` between them.
pub const FILE_LISTS: &[(&str, &[&str])] = &[
    ("proxy_config.tcp_proxies", &["service", "listener_port"]),
    ("tcp_proxies", &["service", "listener_port"]),
];

/// The name of the access log inside `logging_dir`.
pub const ACCESS_LOG_FILE: &str = "a8_access.log";
/// The most worker threads that are accepted.
pub const THREADS_MAX: usize = 1024;

/// The name of spans of a proxy that stands for nobody.
const NAMELESS: &str = "a8-proxy";
const POLL_MIN: Duration = Duration::from_secs(1);
const POLL_MAX: Duration = Duration::from_secs(3600);
/// Nobody waits longer for clients that go on.
const UPGRADE_DRAIN_MAX: Duration = Duration::from_secs(3600);

/// The settings of `a8 proxy`, unchecked.
#[derive(clap::Args, Clone)]
pub struct Settings {
    /// Whom this proxy stands for, as `name` or `name:tag1,tag2`
    #[arg(long = "service", env = "A8_SERVICE", default_value = "")]
    pub service: String,
    /// The tags of `service`, when it names none itself
    #[arg(long = "service_tags", env = "A8_SERVICE_TAGS", value_delimiter = ',')]
    pub service_tags: Vec<String>,
    /// Register the service with the registry (not available yet)
    #[arg(long = "register", env = "A8_REGISTER", num_args = 0..=1, default_missing_value = "true",
          default_value_t = false, action = ArgAction::Set)]
    pub register: bool,
    /// Serve as a proxy
    #[arg(long = "proxy", env = "A8_PROXY", num_args = 0..=1, default_missing_value = "true",
          default_value_t = true, action = ArgAction::Set)]
    pub proxy: bool,
    /// The proxy's kind: `a8`, or its alias `envoy`
    #[arg(long = "proxy_adapter", env = "A8_PROXY_ADAPTER", default_value = "a8")]
    pub proxy_adapter: String,
    /// Address the HTTP listener binds to
    #[arg(long = "http_listener_host", env = "A8_HTTP_LISTENER_HOST", default_value = "0.0.0.0")]
    pub http_listener_host: String,
    /// Port of the HTTP listener; 0 takes a free one
    #[arg(long = "http_listener_port", env = "A8_HTTP_LISTENER_PORT", default_value_t = 6379)]
    pub http_listener_port: u16,
    /// Serve HTTPS on the HTTP listener
    #[arg(long = "proxy_tls", env = "A8_PROXY_TLS", num_args = 0..=1, default_missing_value = "true",
          default_value_t = false, action = ArgAction::Set)]
    pub proxy_tls: bool,
    /// The certificate of the HTTP listener and those it was signed with, PEM; read again when it changes
    #[arg(long = "proxy_cert_chain_file", env = "A8_PROXY_CERT_CHAIN_FILE")]
    pub proxy_cert_chain_file: Option<PathBuf>,
    /// The private key of that certificate, PEM; read again when it changes
    #[arg(long = "proxy_private_key_file", env = "A8_PROXY_PRIVATE_KEY_FILE")]
    pub proxy_private_key_file: Option<PathBuf>,
    /// Whom clients' certificates must be signed by, PEM; without it, clients need none
    #[arg(long = "proxy_ca_cert_file", env = "A8_PROXY_CA_CERT_FILE")]
    pub proxy_ca_cert_file: Option<PathBuf>,
    /// A listener of plain TCP for the instances of a service, as `name:tag1,tag2=port`; may be repeated, in one text with
    /// `;` between two. 0 takes a free port
    #[arg(long = "tcp_proxies", env = "A8_TCP_PROXIES", value_delimiter = tcp::SEPARATOR)]
    pub tcp_proxies: Vec<String>,
    /// Pass gRPC calls of HTTP/1.1 clients on in HTTP/2; each answer is held until it is whole
    #[arg(long = "grpc_http1_bridge", env = "A8_GRPC_HTTP1_BRIDGE", num_args = 0..=1,
          default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub grpc_http1_bridge: bool,
    /// Address the admin listener binds to
    #[arg(long = "admin_host", env = "A8_ADMIN_HOST", default_value = "127.0.0.1")]
    pub admin_host: String,
    /// Port of the admin listener; 0 takes a free one
    #[arg(long = "admin_port", env = "A8_ADMIN_PORT", default_value_t = 6380)]
    pub admin_port: u16,
    /// Where control is; several are tried in turn
    #[arg(
        long = "controller_url",
        env = "A8_CONTROLLER_URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8081"
    )]
    pub controller_url: Vec<String>,
    /// Bearer token for control; its namespace is this proxy's
    #[arg(
        long = "controller_token",
        env = "A8_CONTROLLER_TOKEN",
        default_value = "",
        hide_env_values = true
    )]
    pub controller_token: String,
    /// Accepted for old configurations, 1s to 1h; changes are watched and arrive at once
    #[arg(long = "controller_poll", env = "A8_CONTROLLER_POLL", default_value = "15s")]
    pub controller_poll: String,
    /// Stable id of this proxy for control; by default host name and listener port
    #[arg(long = "node", env = "A8_NODE", default_value = "")]
    pub node: String,
    /// Worker threads; by default as many as the CPU quota allows
    #[arg(long = "threads", env = "A8_THREADS")]
    pub threads: Option<usize>,
    /// Unix socket over which this proxy hands its ports to a successor; none without it
    #[arg(long = "upgrade_sock", env = "A8_UPGRADE_SOCK")]
    pub upgrade_sock: Option<PathBuf>,
    /// Take over the ports of the proxy that serves at `upgrade_sock`, if one does
    #[arg(long = "upgrade", env = "A8_UPGRADE", num_args = 0..=1, default_missing_value = "true",
          default_value_t = false, action = ArgAction::Set)]
    pub upgrade: bool,
    /// How long a proxy that was taken over from waits for its clients, 0s to 1h
    #[arg(long = "upgrade_drain", env = "A8_UPGRADE_DRAIN", default_value = "60s")]
    pub upgrade_drain: String,
    /// Folder of the access log, `-` for standard output; by default `data_dir`
    #[arg(long = "logging_dir", env = "A8_LOGGING_DIR")]
    pub logging_dir: Option<PathBuf>,
    /// Whether requests are logged: `on` or `off`; they are counted either way
    #[arg(long = "access_log", env = "A8_ACCESS_LOG", default_value = "on")]
    pub access_log: String,
    /// How many services, versions of them and rules have series of their own in the metrics; those beyond share
    /// `__overflow__`
    #[arg(long = "metrics_series_max", env = "A8_METRICS_SERIES_MAX", default_value_t = SERIES_MAX_DEFAULT)]
    pub metrics_series_max: usize,
    /// The collector that gets spans (OTLP over HTTP, in JSON), as `http://host:4318`; without it none are recorded
    #[arg(long = "otel_exporter_otlp_endpoint", env = "OTEL_EXPORTER_OTLP_ENDPOINT", default_value = "")]
    pub otel_exporter_otlp_endpoint: String,
    /// The name that spans carry; by default that of `service`, or `a8-proxy`
    #[arg(long = "otel_service_name", env = "OTEL_SERVICE_NAME", default_value = "")]
    pub otel_service_name: String,
    /// Which traces are recorded: `always_on`, `always_off`, `traceidratio`, or one of these behind `parentbased_`
    #[arg(
        long = "otel_traces_sampler",
        env = "OTEL_TRACES_SAMPLER",
        default_value = "parentbased_always_on"
    )]
    pub otel_traces_sampler: String,
    /// The share of traces that `traceidratio` records, 0 to 1; all of them without it
    #[arg(long = "otel_traces_sampler_arg", env = "OTEL_TRACES_SAMPLER_ARG", default_value = "")]
    pub otel_traces_sampler_arg: String,
    /// Folder of the last good snapshot; created, used by one process at a time
    #[arg(long = "data_dir", env = "A8_DATA_DIR", default_value = "a8-data/proxy")]
    pub data_dir: PathBuf,
    /// The request engine: `lane`, which leaves what is unusual to the general one, or `general`
    #[arg(long = "engine", env = "A8_ENGINE", default_value = "lane")]
    pub engine: String,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("service", &self.service)
            .field("service_tags", &self.service_tags)
            .field("register", &self.register)
            .field("proxy", &self.proxy)
            .field("proxy_adapter", &self.proxy_adapter)
            .field("http_listener_host", &self.http_listener_host)
            .field("http_listener_port", &self.http_listener_port)
            .field("proxy_tls", &self.proxy_tls)
            .field("proxy_cert_chain_file", &self.proxy_cert_chain_file)
            .field("proxy_private_key_file", &self.proxy_private_key_file)
            .field("proxy_ca_cert_file", &self.proxy_ca_cert_file)
            .field("tcp_proxies", &self.tcp_proxies)
            .field("grpc_http1_bridge", &self.grpc_http1_bridge)
            .field("admin_host", &self.admin_host)
            .field("admin_port", &self.admin_port)
            .field("controller_url", &self.controller_url)
            .field("controller_token", &Hidden(&self.controller_token))
            .field("controller_poll", &self.controller_poll)
            .field("node", &self.node)
            .field("threads", &self.threads)
            .field("upgrade_sock", &self.upgrade_sock)
            .field("upgrade", &self.upgrade)
            .field("upgrade_drain", &self.upgrade_drain)
            .field("logging_dir", &self.logging_dir)
            .field("access_log", &self.access_log)
            .field("metrics_series_max", &self.metrics_series_max)
            .field("otel_exporter_otlp_endpoint", &self.otel_exporter_otlp_endpoint)
            .field("otel_service_name", &self.otel_service_name)
            .field("otel_traces_sampler", &self.otel_traces_sampler)
            .field("otel_traces_sampler_arg", &self.otel_traces_sampler_arg)
            .field("data_dir", &self.data_dir)
            .field("engine", &self.engine)
            .finish()
    }
}

/// Shows whether a secret is set, and no more.
struct Hidden<'a>(&'a str);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "(hidden)" })
    }
}

/// A token that never reaches a log.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Token(String);

impl Token {
    /// Any text; empty means no token.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The token for the wire, or `None`.
    pub fn reveal(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hidden(&self.0).fmt(f)
    }
}

/// What serves requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The lane for ordinary requests, the general engine for everything else.
    Lane,
    /// Pingora's own, for everything.
    General,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Where spans go, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The collector's base URL.
    pub endpoint: String,
    /// The name they carry.
    pub service_name: String,
    /// Which requests become spans.
    pub sampler: Sampler,
}

/// How ports go from one process to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The Unix socket that both meet at.
    pub sock: PathBuf,
    /// Whether to take over from the proxy that serves there; otherwise there must be none.
    pub take_over: bool,
    /// How long to wait for clients once a successor serves.
    pub drain: Duration,
}

/// The files of TLS on the HTTP listener; all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The listener's certificate, and those it was signed with.
    pub cert_chain: PathBuf,
    /// The key of the first of them.
    pub private_key: PathBuf,
    /// Whom clients' certificates must be signed by; `None` when they need none.
    pub ca_cert: Option<PathBuf>,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whom this proxy stands for.
    pub identity: Identity,
    /// Where requests come in; port 0 is any free one.
    pub http: SocketAddr,
    /// TLS where requests come in; `None` for plain text.
    pub tls: Option<TlsFiles>,
    /// Where plain TCP comes in, and for whom; at most [`TCP_PROXIES_MAX`], and no two at one port.
    pub tcp: Vec<TcpProxy>,
    /// Whether gRPC calls of HTTP/1.1 clients go on in HTTP/2.
    pub grpc_http1_bridge: bool,
    /// Where operators come in; port 0 is any free one.
    pub admin: SocketAddr,
    /// At least one.
    pub controller_url: Vec<String>,
    /// For control.
    pub controller_token: Token,
    /// Worker threads of the request path, at least 1.
    pub threads: usize,
    /// What serves requests.
    pub engine: Engine,
    /// How ports go from one process to the next; `None`: they do not.
    pub upgrade: Option<Upgrade>,
    /// Where the access log goes; `None` when there is to be none.
    pub access_log: Option<LogTarget>,
    /// How many parts of a table have series of their own.
    pub metrics_series_max: usize,
    /// Where spans go; `None` when nothing is recorded.
    pub tracing: Option<Tracing>,
    /// Folder of the last good snapshot.
    pub data_dir: PathBuf,
    node: String,
}

impl Settings {
    /// Checks every setting; the first that cannot be used is named.
    pub fn check(self) -> Result<Config, BadSetting> {
        if self.register {
            return Err(BadSetting::new("register", "registration by the proxy is not available yet"));
        }
        if !self.proxy {
            return Err(BadSetting::new(
                "proxy",
                "a proxy that neither proxies nor registers serves no purpose",
            ));
        }
        one_of("proxy_adapter", &self.proxy_adapter, &["a8", "envoy"])?;
        one_of("engine", &self.engine, &["lane", "general"])?;
        let poll = registry_api::duration::parse(&self.controller_poll)
            .map_err(|error| BadSetting::new("controller_poll", error.to_string()))?;
        if !(POLL_MIN..=POLL_MAX).contains(&poll) {
            return Err(BadSetting::new("controller_poll", "is outside 1s to 1h"));
        }
        let controller_url: Vec<_> = self.controller_url.into_iter().filter(|url| !url.is_empty()).collect();
        if controller_url.is_empty() {
            return Err(BadSetting::new("controller_url", "is empty"));
        }
        let data_dir = self.data_dir;
        if data_dir.as_os_str().is_empty() {
            return Err(BadSetting::new("data_dir", "is empty"));
        }
        one_of("access_log", &self.access_log, &["on", "off"])?;
        let log_target = match self.logging_dir {
            Some(dir) if dir.as_os_str() == "-" => LogTarget::Stdout,
            Some(dir) if !dir.as_os_str().is_empty() => LogTarget::File(dir.join(ACCESS_LOG_FILE)),
            _ => LogTarget::File(data_dir.join(ACCESS_LOG_FILE)),
        };
        let identity = identity(&self.service, self.service_tags)?;
        let sampler = Sampler::new(&self.otel_traces_sampler, &self.otel_traces_sampler_arg);
        let sampler = sampler.map_err(|error| {
            let name = matches!(error, BadSampler::Name(_));
            let setting = if name { "otel_traces_sampler" } else { "otel_traces_sampler_arg" };
            BadSetting::new(setting, error.to_string())
        })?;
        let named = Some(self.otel_service_name).filter(|name| !name.is_empty());
        let own = || identity.service.as_ref().map_or_else(|| NAMELESS.to_owned(), ToString::to_string);
        let endpoint = Some(self.otel_exporter_otlp_endpoint).filter(|endpoint| !endpoint.is_empty());
        let service_name = named.unwrap_or_else(own);
        let http = address("http_listener_host", &self.http_listener_host, self.http_listener_port)?;
        let admin = address("admin_host", &self.admin_host, self.admin_port)?;
        let config = Config {
            tracing: endpoint.map(|endpoint| Tracing { endpoint, service_name, sampler }),
            identity,
            http,
            tls: tls(
                self.proxy_tls,
                self.proxy_cert_chain_file,
                self.proxy_private_key_file,
                self.proxy_ca_cert_file,
            )?,
            tcp: tcp::read(&self.tcp_proxies, http, admin)?,
            admin,
            grpc_http1_bridge: self.grpc_http1_bridge,
            controller_url,
            controller_token: Token::new(self.controller_token),
            threads: threads(self.threads)?,
            upgrade: upgrade(self.upgrade_sock, self.upgrade, &self.upgrade_drain)?,
            engine: if self.engine == "general" { Engine::General } else { Engine::Lane },
            access_log: (self.access_log == "on").then_some(log_target),
            metrics_series_max: self.metrics_series_max,
            data_dir,
            node: self.node,
        };
        config.client().map(|_| config)
    }
}

impl Config {
    /// A client of control.
    pub fn client(&self) -> Result<ControlClient, BadSetting> {
        // The URLs alone first, so that the setting that is named is the one to blame.
        ControlClient::new(&self.controller_url, None)
            .map_err(|error| BadSetting::new("controller_url", error.to_string()))?;
        ControlClient::new(&self.controller_url, self.controller_token.reveal())
            .map_err(|_| BadSetting::new("controller_token", "holds bytes that no header can carry"))
    }

    /// What this proxy says of itself to control, once the listener's port is known.
    pub fn node(&self, listener: SocketAddr) -> Node {
        let node = if self.node.is_empty() {
            format!("{}:{}", host_name(), listener.port())
        } else {
            self.node.clone()
        };
        Node { node, identity: self.identity.clone(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

fn one_of(setting: &'static str, value: &str, words: &[&str]) -> Result<(), BadSetting> {
    if words.contains(&value) {
        return Ok(());
    }
    Err(BadSetting::new(setting, format!("`{value}` is not one of {}", words.join(", "))))
}

fn identity(text: &str, tags: Vec<String>) -> Result<Identity, BadSetting> {
    let mut identity = Identity::parse(text);
    if identity.service.is_none() && text.contains(':') {
        return Err(BadSetting::new("service", format!("`{text}` has tags but no name")));
    }
    if identity.tags.is_empty() {
        identity.tags = tags.into_iter().filter(|tag| !tag.is_empty()).collect();
    }
    if identity.service.is_none() && !identity.tags.is_empty() {
        return Err(BadSetting::new("service_tags", "there are tags but `service` names nobody"));
    }
    Ok(identity)
}

fn address(setting: &'static str, host: &str, port: u16) -> Result<SocketAddr, BadSetting> {
    let ip = if host == "localhost" { "127.0.0.1" } else { host.trim_matches(['[', ']']) };
    ip.parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, port))
        .map_err(|_| BadSetting::new(setting, format!("`{host}` is no IP address")))
}

/// TLS needs its files. Files without TLS would leave whoever gave them with plain text where they want none.
fn tls(
    wanted: bool,
    cert_chain: Option<PathBuf>,
    private_key: Option<PathBuf>,
    ca_cert: Option<PathBuf>,
) -> Result<Option<TlsFiles>, BadSetting> {
    let given = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    let (cert_chain, private_key, ca_cert) = (given(cert_chain), given(private_key), given(ca_cert));
    if !wanted {
        let files = [
            ("proxy_cert_chain_file", cert_chain),
            ("proxy_private_key_file", private_key),
            ("proxy_ca_cert_file", ca_cert),
        ];
        return match files.into_iter().find(|(_, file)| file.is_some()) {
            Some((setting, _)) => Err(BadSetting::new(setting, "is given, but `proxy_tls` is off")),
            None => Ok(None),
        };
    }
    let needed = |setting, path: Option<PathBuf>| {
        path.ok_or_else(|| BadSetting::new(setting, "is needed for `proxy_tls`"))
    };
    Ok(Some(TlsFiles {
        cert_chain: needed("proxy_cert_chain_file", cert_chain)?,
        private_key: needed("proxy_private_key_file", private_key)?,
        ca_cert,
    }))
}

fn upgrade(sock: Option<PathBuf>, take_over: bool, drain: &str) -> Result<Option<Upgrade>, BadSetting> {
    let drain = registry_api::duration::parse(drain)
        .map_err(|error| BadSetting::new("upgrade_drain", error.to_string()))?;
    if drain > UPGRADE_DRAIN_MAX {
        return Err(BadSetting::new("upgrade_drain", "is beyond 1h"));
    }
    match sock.filter(|sock| !sock.as_os_str().is_empty()) {
        None if take_over => Err(BadSetting::new("upgrade_sock", "is needed for `upgrade`")),
        sock => Ok(sock.map(|sock| Upgrade { sock, take_over, drain })),
    }
}

fn threads(asked: Option<usize>) -> Result<usize, BadSetting> {
    match asked {
        Some(count) if (1..=THREADS_MAX).contains(&count) => Ok(count),
        Some(count) => Err(BadSetting::new("threads", format!("{count} is outside 1 to {THREADS_MAX}"))),
        // Counts the CPUs this process may use, bounded by the CPU quota of its cgroups, version 1 and 2: in
        // a container of half a core on a host of 64 this is 1.
        None => Ok(std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX))),
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "proxy".to_owned())
}

#[cfg(test)]
mod tests;
