//! The proxies side by side: how each is configured for the same work and started. Where a peer is not installed it is
//! left out and named.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, io};

use conformance::{Feed, Launch, Process, Proxy};

use crate::world::World;

/// How long a peer may take until it serves.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(20);

/// One proxy under test.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Where it listens; the origin itself for `direct`.
    pub(crate) address: SocketAddr,
    /// `None` for `direct`.
    pub(crate) process: Option<Process>,
}

/// What a peer is started for and on.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// Services, instances and rules.
    pub(crate) world: &'a World,
    /// The processor for every proxy; `None` where pinning is not possible.
    pub(crate) core: Option<usize>,
    /// For configuration files and data.
    pub(crate) dir: &'a Path,
    /// The control that `a8` follows.
    pub(crate) feed: &'a Feed,
}

impl Stage<'_> {
    fn start(&self, launch: Launch, name: &'static str, address: SocketAddr) -> Peer {
        let launch = self.core.map_or(launch.clone(), |core| launch.pinned(core));
        Peer { name, address, process: Some(launch.spawn(name)) }
    }

    fn file(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.dir.join(format!("{}-{name}", self.world.name()));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// No proxy at all.
    pub(crate) fn direct(&self) -> Peer {
        Peer { name: "direct", address: self.world.origins()[0], process: None }
    }

    /// Ours. It is fed by a fixed control, so that nothing but the proxy runs.
    pub(crate) fn a8(&self) -> Peer {
        let data_dir = self.dir.join(format!("a8-{}", self.world.name()));
        let flags = [("threads", "1"), ("log_level", "error")];
        let launch = Proxy::launch(&data_dir, "gateway:version=none", "bench", self.feed.address(), &flags);
        let launch = self.core.map_or(launch.clone(), |core| launch.pinned(core));
        let process = launch.start("a8");
        Peer { name: "a8", address: process.address("http"), process: Some(process) }
    }

    /// nginx, if it is there.
    pub(crate) fn nginx(&self) -> io::Result<Option<Peer>> {
        let Some(program) = find("nginx") else { return Ok(None) };
        let (address, prefix) = (free_port()?, self.dir.join(format!("nginx-{}", self.world.name())));
        fs::create_dir_all(&prefix)?;
        let config = self.file("nginx.conf", &self.world.nginx(address, &prefix))?;
        let launch = Launch::other(program).arg("-p").arg(&prefix).arg("-c").arg(config);
        Ok(Some(self.start(launch.arg("-e").arg("stderr"), "nginx", address)))
    }

    /// HAProxy, if it is there.
    pub(crate) fn haproxy(&self) -> io::Result<Option<Peer>> {
        let Some(program) = find("haproxy") else { return Ok(None) };
        let address = free_port()?;
        let config = self.file("haproxy.cfg", &self.world.haproxy(address))?;
        let log = self.dir.join(format!("haproxy-{}.log", self.world.name()));
        // Its log goes to its standard output, which must not be read by the processor of the generator.
        let shell = Launch::other("sh").arg("-c").arg(r#"exec "$0" -db -f "$1" >"$2""#);
        let launch = shell.arg(program).arg(config).arg(log);
        Ok(Some(self.start(launch, "haproxy", address)))
    }

    /// Envoy, if it is there.
    pub(crate) fn envoy(&self) -> io::Result<Option<Peer>> {
        let Some(program) = envoy() else { return Ok(None) };
        let (address, log) = (free_port()?, self.dir.join(format!("envoy-{}.log", self.world.name())));
        let config = self.file("envoy.json", &self.world.envoy(address, &log).to_string())?;
        let launch = Launch::other(program).arg("-c").arg(config).flag("concurrency", "1");
        let launch = launch.arg("--disable-hot-restart").flag("log-level", "error");
        Ok(Some(self.start(launch, "envoy", address)))
    }
}

/// A port that was free a moment ago. The peers cannot be told to take one and say which.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn find(program: &str) -> Option<OsString> {
    let path = env::var_os("PATH")?;
    let dirs = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file()).map(Into::into)
}

/// The binary itself where it came in the Python wheel: the script on the path would only start it through an interpreter.
fn envoy() -> Option<OsString> {
    let code = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let wheel = Command::new("python3").args(["-c", code]).output().ok();
    let wheel =
        wheel.and_then(|output| String::from_utf8(output.stdout).ok()).map(|text| PathBuf::from(text.trim()));
    wheel.filter(|path| path.is_file()).map(Into::into).or_else(|| find("envoy"))
}
