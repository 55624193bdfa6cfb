//! The children of `a8 up`: who they are, in which order they start and end, and where they are reached.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_api::client::ControlClient;
use http::{Method, StatusCode};
use registry_api::client::Caller;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::child::{Child, Spec};

/// How long the whole may take until every proxy knows every instance.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How often a condition is looked at while waiting for it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// More than there are children: a death is never lost.
const DEATHS_MAX: usize = 64;

/// The servers of the application: service, version, and whether it calls onward through a sidecar.
const APPS: [(&str, &str, Onward); 6] = [
    ("details", "v1", Onward::No),
    ("ratings", "v1", Onward::No),
    ("reviews", "v1", Onward::Sidecar),
    ("reviews", "v2", Onward::Sidecar),
    ("reviews", "v3", Onward::Sidecar),
    ("productpage", "v1", Onward::Sidecar),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Onward {
    No,
    Sidecar,
}

/// Where the well-known listeners are to be; port 0 is any free one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) host: IpAddr,
    pub(super) registry: u16,
    pub(super) control: u16,
    pub(super) http: u16,
    pub(super) admin: u16,
}

/// Every child, and the folder they share.
#[derive(Debug)]
pub(super) struct Fabric {
    program: PathBuf,
    folder: Folder,
    deaths: mpsc::Sender<String>,
    registry: Option<Child>,
    control: Option<Child>,
    proxies: Vec<Child>,
    apps: Vec<Child>,
}

#[derive(Debug)]
enum Folder {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

impl Fabric {
    /// No child yet. The receiver hears a line for every child that ends unasked.
    pub(super) fn new(data_dir: Option<PathBuf>) -> Result<(Self, mpsc::Receiver<String>), String> {
        let cannot = |error: std::io::Error| format!("data_dir: {error}");
        let folder = match data_dir {
            Some(path) => Folder::Kept(path),
            None => Folder::Temporary(tempfile::Builder::new().prefix("a8-up-").tempdir().map_err(cannot)?),
        };
        std::fs::create_dir_all(folder.path().join("logs")).map_err(cannot)?;
        let (sender, deaths) = mpsc::channel(DEATHS_MAX);
        let program =
            std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let (registry, control, proxies, apps) = (None, None, Vec::new(), Vec::new());
        Ok((Self { program, folder, deaths: sender, registry, control, proxies, apps }, deaths))
    }

    /// Starts everything and waits until every proxy knows every instance.
    pub(super) async fn start(&mut self, plan: &Plan) -> Result<(), String> {
        let host = plan.host;
        let registry = flags("registry", &[("api_host", &host), ("api_port", &plan.registry)]);
        self.registry = Some(self.child("registry", registry).await?);
        self.start_control(host, plan.control).await?;

        let mut sidecars = vec![self.proxy(plan, "gateway", "gateway:version=none", plan.http, plan.admin)];
        for (service, version, onward) in APPS {
            if onward == Onward::Sidecar {
                let identity = format!("{service}:version={version}");
                sidecars.push(self.proxy(plan, &format!("{service}-{version}"), &identity, 0, 0));
            }
        }
        self.proxies = self.children(sidecars).await?;
        let apps = APPS.map(|(service, version, _)| self.app(host, service, version));
        self.apps = self.children(apps.to_vec()).await?;
        self.ready().await
    }

    /// Control again, where and with the data it was before it was killed.
    pub(super) async fn restart_control(&mut self, at: SocketAddr) -> Result<(), String> {
        self.start_control(at.ip(), at.port()).await
    }

    /// Kills control with SIGKILL.
    pub(super) async fn kill_control(&mut self) {
        if let Some(control) = self.control.take() {
            control.kill().await;
        }
    }

    async fn start_control(&mut self, host: IpAddr, port: u16) -> Result<(), String> {
        let registry = format!("http://{}", self.registry());
        let control =
            flags("control", &[("api_host", &host), ("api_port", &port), ("registry_url", &registry)]);
        self.control = Some(self.child("control", control).await?);
        Ok(())
    }

    fn proxy(&self, plan: &Plan, node: &str, identity: &str, http: u16, admin: u16) -> Spec {
        let control = format!("http://{}", self.control());
        let args = flags(
            "proxy",
            &[
                ("node", &node),
                ("service", &identity),
                ("http_listener_host", &plan.host),
                ("http_listener_port", &http),
                ("admin_host", &plan.host),
                ("admin_port", &admin),
                ("controller_url", &control),
                ("threads", &1),
            ],
        );
        self.with_data_dir(node, args)
    }

    fn app(&self, host: IpAddr, service: &str, version: &str) -> Spec {
        let name = format!("{service} {version}");
        let registry = format!("http://{}", self.registry());
        let sidecar = self.proxies.iter().find(|proxy| proxy.name() == format!("{service}-{version}"));
        let mut args = vec!["demo".to_owned(), service.to_owned()];
        args.extend(pairs(&[
            ("app_version", &version),
            ("host", &host),
            ("port", &0),
            ("registry_url", &registry),
        ]));
        if let Some(sidecar) = sidecar {
            args.push(format!("--proxy_url=http://{}", sidecar.address("http")));
        }
        Spec { name, args }
    }

    fn with_data_dir(&self, name: &str, mut args: Vec<String>) -> Spec {
        args.push(format!("--data_dir={}", self.folder.path().join(name).display()));
        Spec { name: name.to_owned(), args }
    }

    async fn child(&self, name: &str, args: Vec<String>) -> Result<Child, String> {
        self.launch(self.with_data_dir(name, args)).await
    }

    /// Starts several at the same time; the first failure is the answer. Giving up on this takes those that
    /// are starting along.
    async fn children(&self, specs: Vec<Spec>) -> Result<Vec<Child>, String> {
        let mut launches = JoinSet::new();
        for (at, spec) in specs.into_iter().enumerate() {
            let launch = self.launch(spec);
            launches.spawn(async move { (at, launch.await) });
        }
        let mut children = Vec::new();
        while let Some(launched) = launches.join_next().await {
            let (at, child) = launched.map_err(|error| error.to_string())?;
            children.push((at, child?));
        }
        children.sort_by_key(|(at, _)| *at);
        Ok(children.into_iter().map(|(_, child)| child).collect())
    }

    fn launch(&self, spec: Spec) -> impl Future<Output = Result<Child, String>> + Send + use<> {
        let log = self.folder.path().join("logs").join(format!("{}.log", spec.name.replace(' ', "-")));
        let (program, deaths) = (self.program.clone(), self.deaths.clone());
        async move { Child::start(spec, &program, log, deaths).await }
    }

    /// Where the registry is.
    pub(super) fn registry(&self) -> SocketAddr {
        address(self.registry.as_ref(), "api")
    }

    /// Where control is; meaningless while it is not there.
    pub(super) fn control(&self) -> SocketAddr {
        address(self.control.as_ref(), "api")
    }

    /// Where the gateway serves.
    pub(super) fn gateway(&self) -> SocketAddr {
        address(self.proxies.first(), "http")
    }

    /// Where the gateway answers operators.
    pub(super) fn gateway_admin(&self) -> SocketAddr {
        address(self.proxies.first(), "admin")
    }

    /// Gateway and sidecars.
    pub(super) fn proxies(&self) -> &[Child] {
        &self.proxies
    }

    /// Everybody, in the order in which they started.
    pub(super) fn everybody(&self) -> impl Iterator<Item = &Child> {
        self.registry.iter().chain(&self.control).chain(&self.proxies).chain(&self.apps)
    }

    /// Where data and logs are.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client of control.
    pub(super) fn control_client(&self) -> Result<ControlClient, String> {
        ControlClient::new(&[format!("http://{}", self.control())], None).map_err(|error| error.to_string())
    }

    /// A caller of the gateway.
    pub(super) fn gateway_caller(&self) -> Result<Arc<Caller>, String> {
        let caller = Caller::new(&[format!("http://{}", self.gateway())], None);
        caller.map(Arc::new).map_err(|error| error.to_string())
    }

    async fn ready(&self) -> Result<(), String> {
        for proxy in &self.proxies {
            let admin = Caller::new(&[format!("http://{}", proxy.address("admin"))], None)
                .map_err(|error| error.to_string())?;
            let knows_all = async || match admin.call(Method::GET, "/state", None, LOOK_TIMEOUT).await {
                Ok(answer) if answer.status == StatusCode::OK => answer.json::<Value>().is_ok_and(|state| {
                    state["instances"].as_array().is_some_and(|all| all.len() == APPS.len())
                }),
                _ => false,
            };
            let missing = format!("{} does not know every instance", proxy.name());
            until(READY_LIMIT, &missing, knows_all).await?;
        }
        Ok(())
    }

    /// Ends everybody: callers before those they call, and the registry last. Removes the temporary folder.
    pub(super) async fn end(self) {
        let sidecars = self.proxies;
        for mut group in
            [self.apps, sidecars, self.control.into_iter().collect(), self.registry.into_iter().collect()]
        {
            group.iter_mut().for_each(Child::ask_to_end);
            for child in group {
                child.gone().await;
            }
        }
        if let Folder::Temporary(folder) = self.folder {
            // A file that resists stays where the system cleans up temporary ones.
            let _ = folder.close();
        }
    }
}

/// Waits until a condition holds, or says what is missing.
pub(super) async fn until(
    limit: Duration,
    missing: &str,
    holds: impl AsyncFn() -> bool,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    while !holds().await {
        if Instant::now() >= deadline {
            return Err(format!("{missing} after {} s", limit.as_secs()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

fn address(child: Option<&Child>, listener: &str) -> SocketAddr {
    child.map_or(SocketAddr::from(([127, 0, 0, 1], 0)), |child| child.address(listener))
}

fn flags(verb: &str, given: &[(&str, &dyn std::fmt::Display)]) -> Vec<String> {
    let mut args = vec![verb.to_owned()];
    args.extend(pairs(given));
    args
}

fn pairs(given: &[(&str, &dyn std::fmt::Display)]) -> Vec<String> {
    given.iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
}
