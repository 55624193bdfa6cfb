//! A registry, a control and any number of proxies as real processes that know each other. What a test may ask of each
//! is a method here; what must come out of it is the test's business.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::caller::{Answer, Request, delete, get, post};
use crate::eventually::eventually;
use crate::metrics::Scrape;
use crate::process::{Launch, Process};

/// The longest lease: a test need not renew.
const TTL_SECS: u32 = 600;

/// How long a write may wait until every proxy serves it.
const APPLIED_TIMEOUT: &str = "15s";

/// A running registry, which can be ended and started again at the same address.
#[derive(Debug)]
pub struct Registry {
    /// The process; `None` while it is down.
    pub process: Option<Process>,
    launch: Launch,
    address: SocketAddr,
    data_dir: PathBuf,
}

/// A running control, which can be ended and started again at the same address.
#[derive(Debug)]
pub struct Control {
    /// The process; `None` while it is down.
    pub process: Option<Process>,
    launch: Launch,
    address: SocketAddr,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// The process.
    pub process: Process,
    /// The outbound listener.
    pub http: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    data_dir: PathBuf,
}

/// One fabric. Everything ends on drop, proxies first.
#[derive(Debug)]
pub struct Cluster {
    /// Its control.
    pub control: Control,
    /// Its registry.
    pub registry: Registry,
    dir: TempDir,
    proxies: AtomicUsize,
}

fn role(role: &str, data_dir: &Path) -> Launch {
    Launch::a8([role]).flag("data_dir", data_dir)
}

fn restart(launch: &Launch, name: &str, address: SocketAddr) -> Process {
    // A later flag of the same name would be a usage error, so the port is an environment variable both times.
    launch.clone().env("A8_API_PORT", address.port().to_string()).start(name)
}

impl Registry {
    /// Starts a registry with these further flags.
    pub fn start(data_dir: &Path, flags: &[(&str, &str)]) -> Self {
        let launch = flags
            .iter()
            .fold(role("registry", data_dir).flag("api_host", "127.0.0.1"), |launch, (name, value)| {
                launch.flag(name, *value)
            });
        let process = launch.clone().env("A8_API_PORT", "0").start("registry");
        let address = process.address("api");
        Self { process: Some(process), launch, address, data_dir: data_dir.to_owned() }
    }

    /// Where its API is, or was.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends it as an operator would.
    pub fn terminate(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate();
        }
    }

    /// Starts it again at the same address.
    pub fn restart(&mut self) {
        self.process = Some(restart(&self.launch, "registry", self.address));
    }

    /// Registers an instance for longer than any test lasts; returns its id.
    #[track_caller]
    pub fn register(&self, service: &str, tags: &[&str], address: impl ToString) -> String {
        self.register_as(None, service, tags, address)
    }

    /// The same as a tenant.
    #[track_caller]
    pub fn register_as(
        &self,
        token: Option<&str>,
        service: &str,
        tags: &[&str],
        address: impl ToString,
    ) -> String {
        self.register_endpoint(token, service, tags, "http", address)
    }

    /// Registers an instance that speaks TLS.
    #[track_caller]
    pub fn register_https(&self, service: &str, address: impl ToString) -> String {
        self.register_endpoint(None, service, &[], "https", address)
    }

    /// Registers an instance of plain TCP.
    #[track_caller]
    pub fn register_tcp(&self, service: &str, tags: &[&str], address: impl ToString) -> String {
        self.register_endpoint(None, service, tags, "tcp", address)
    }

    #[track_caller]
    fn register_endpoint(
        &self,
        token: Option<&str>,
        service: &str,
        tags: &[&str],
        kind: &str,
        address: impl ToString,
    ) -> String {
        let request = post(
            "/api/v1/instances",
            &json!({
                "service_name": service, "tags": tags, "ttl": TTL_SECS,
                "endpoint": {"type": kind, "value": address.to_string()},
            }),
        );
        let answer = with_token(request, token).call(self.address).expect(201);
        answer.json()["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Takes an instance out.
    #[track_caller]
    pub fn deregister(&self, id: &str) {
        let _ = delete(format!("/api/v1/instances/{id}")).call(self.address).expect(200);
    }
}

impl Control {
    /// Starts a control that follows this registry, with these further flags.
    pub fn start(data_dir: &Path, registry: SocketAddr, flags: &[(&str, &str)]) -> Self {
        Self::started(Self::launch(data_dir, &format!("http://{registry}"), flags))
    }

    /// How one is started that follows the registry with this URL.
    pub fn launch(data_dir: &Path, registry: &str, flags: &[(&str, &str)]) -> Launch {
        let launch = role("control", data_dir).flag("api_host", "127.0.0.1").flag("registry_url", registry);
        flags.iter().fold(launch, |launch, (name, value)| launch.flag(name, *value))
    }

    /// Starts one.
    pub fn started(launch: Launch) -> Self {
        let process = launch.clone().env("A8_API_PORT", "0").start("control");
        let address = process.address("api");
        Self { process: Some(process), launch, address }
    }

    /// Where its API is, or was.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again at the same address.
    pub fn restart(&mut self) {
        self.process = Some(restart(&self.launch, "control", self.address));
        eventually("control accepts calls", || match get("/health").send(self.address) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Writes rules and waits until every connected proxy serves them; returns the revision.
    #[track_caller]
    pub fn write(&self, rules: Value) -> u64 {
        self.write_as(None, rules)
    }

    /// The same as a tenant.
    #[track_caller]
    pub fn write_as(&self, token: Option<&str>, rules: Value) -> u64 {
        let target = format!("/v1/rules?wait=applied&timeout={APPLIED_TIMEOUT}");
        applied(with_token(post(target, &json!({ "rules": rules })), token).call(self.address).expect(201))
    }

    /// Deletes what this query selects (`""`: everything) and waits as [`Control::write`] does.
    #[track_caller]
    pub fn delete(&self, query: &str) -> u64 {
        let and = if query.is_empty() { "" } else { "&" };
        let target = format!("/v1/rules?{query}{and}wait=applied&timeout={APPLIED_TIMEOUT}");
        applied(delete(target).call(self.address).expect(200))
    }

    /// Replaces every rule of the namespace.
    #[track_caller]
    pub fn replace(&self, rules: Value) -> u64 {
        self.delete("");
        self.write(rules)
    }

    /// What `GET /v1/proxies` shows.
    #[track_caller]
    pub fn proxies(&self) -> Vec<Value> {
        let list = get("/v1/proxies").call(self.address).expect(200).json();
        list["proxies"].as_array().cloned().unwrap_or_default()
    }
}

#[track_caller]
fn applied(answer: Answer) -> u64 {
    let body = answer.json();
    assert_eq!(body["applied"]["serving"], body["applied"]["proxies"], "not everywhere: {answer:?}");
    answer.header("A8-Revision").parse().unwrap_or_else(|_| panic!("no revision: {answer:?}"))
}

fn with_token(request: Request, token: Option<&str>) -> Request {
    match token {
        Some(token) => request.token(token),
        None => request,
    }
}

impl Proxy {
    /// Starts a proxy with this identity (`name:tag,tag`) and these further flags.
    pub fn start(
        data_dir: &Path,
        identity: &str,
        node: &str,
        control: SocketAddr,
        flags: &[(&str, &str)],
    ) -> Self {
        Self::started(&Self::launch(data_dir, identity, node, control, flags), data_dir, node)
    }

    /// Starts what [`Proxy::launch`] made for this directory.
    pub fn started(launch: &Launch, data_dir: &Path, node: &str) -> Self {
        let process = launch.start(node);
        let (http, admin) = (process.address("http"), process.address("admin"));
        Self { process, http, admin, data_dir: data_dir.to_owned() }
    }

    /// What [`Proxy::start`] starts.
    pub fn launch(
        data_dir: &Path,
        identity: &str,
        node: &str,
        control: SocketAddr,
        flags: &[(&str, &str)],
    ) -> Launch {
        let own = role("proxy", data_dir)
            .flag("service", identity)
            .flag("node", node)
            .flag("controller_url", format!("http://{control}"))
            .flag("http_listener_host", "127.0.0.1")
            .flag("http_listener_port", "0")
            .flag("admin_port", "0");
        flags.iter().fold(own, |launch, (name, value)| launch.flag(name, *value))
    }

    /// A GET through the proxy.
    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        get(target).call(self.http)
    }

    /// A GET at its admin listener.
    #[track_caller]
    pub fn admin(&self, target: &str) -> Answer {
        get(target).call(self.admin)
    }

    /// Its metrics, which must be well formed.
    #[track_caller]
    pub fn metrics(&self) -> Scrape {
        let page = self.admin("/metrics").expect(200);
        Scrape::read(&page.text()).unwrap_or_else(|error| panic!("metrics: {error}\n{}", page.text()))
    }

    /// Its data directory, where the access log is too.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The line of the access log for a request id. Lines are written aside, so it is waited for.
    #[track_caller]
    pub fn logged(&self, request_id: &str) -> Value {
        let path = self.data_dir.join("a8_access.log");
        eventually("the access log has the line", || {
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines
                .find(|line| line["request_id"] == request_id)
                .ok_or_else(|| format!("no {request_id} in\n{text}"))
        })
    }

    /// How many instances and rules its table holds, and of which revision.
    pub fn state(&self) -> Result<State, String> {
        let answer = get("/state").send(self.admin).map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("{answer:?}"));
        }
        let state = answer.json();
        let count = |key: &str| state[key].as_array().map(Vec::len).unwrap_or_default();
        Ok(State {
            revision: state["revision"].as_u64().unwrap_or_default(),
            rules: count("rules"),
            instances: count("instances"),
        })
    }

    /// Waits until its table holds this many instances.
    #[track_caller]
    pub fn await_instances(&self, count: usize) {
        eventually("the proxy knows the instances", || match self.state()? {
            state if state.instances == count => Ok(()),
            state => Err(format!("{state:?} instead of {count} instances")),
        });
    }
}

/// What a proxy's `/state` amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Of the rules.
    pub revision: u64,
    /// How many.
    pub rules: usize,
    /// How many.
    pub instances: usize,
}

impl Cluster {
    /// A fabric without authentication.
    pub fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// A fabric whose registry and control get these further flags.
    pub fn start_with(registry_flags: &[(&str, &str)], control_flags: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("the system has a temporary directory");
        let registry = Registry::start(&dir.path().join("registry"), registry_flags);
        let control = Control::start(&dir.path().join("control"), registry.address(), control_flags);
        Self { control, registry, dir, proxies: AtomicUsize::new(0) }
    }

    /// A directory of this fabric; gone with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// One more proxy, with this identity (`name:tag,tag`).
    pub fn proxy(&self, identity: &str) -> Proxy {
        self.proxy_with(identity, &[])
    }

    /// The same with further flags. It has its first table when this returns.
    pub fn proxy_with(&self, identity: &str, flags: &[(&str, &str)]) -> Proxy {
        self.proxy_in(identity, flags, &[])
    }

    /// The same in an environment.
    pub fn proxy_in(&self, identity: &str, flags: &[(&str, &str)], envs: &[(&str, &Path)]) -> Proxy {
        let node = format!("node-{}", self.proxies.fetch_add(1, Ordering::SeqCst));
        let data_dir = self.dir.path().join(&node);
        let launch = Proxy::launch(&data_dir, identity, &node, self.control.address(), flags);
        let launch = envs.iter().fold(launch, |launch, (name, value)| launch.env(*name, *value));
        let proxy = Proxy::started(&launch, &data_dir, &node);
        eventually("the proxy has a table", || match get("/readyz").send(proxy.admin) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        proxy
    }
}
