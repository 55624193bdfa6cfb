//! The proxies side by side: how each is started for the same work. Where a peer is not installed it is left out and named.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, io};

use conformance::{Feed, Launch, Process, Proxy};

use crate::args::Args;
use crate::clock;
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
    /// Where it takes HTTP/2 without TLS; `None` for `direct`.
    pub(crate) http2: Option<SocketAddr>,
    /// `None` for `direct`.
    pub(crate) process: Option<Process>,
}

/// What a peer is started for and on.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// Tells the files of this stage from those of others.
    pub(crate) name: &'static str,
    /// Services, instances and rules.
    pub(crate) world: &'a World,
    /// The processor for every proxy; `None` where pinning is not possible.
    pub(crate) core: Option<usize>,
    /// For configuration files and data.
    pub(crate) dir: &'a Path,
    /// The control that `a8` follows.
    pub(crate) feed: &'a Feed,
}

/// The proxies that are wanted. With logs there is one more that writes none, to tell what the log costs.
pub(crate) fn wanted(args: &Args) -> Vec<&'static str> {
    let ours: &[_] =
        if args.logs { &["a8-lane", "a8-lane+log", "a8-general+log"] } else { &["a8-lane", "a8-general"] };
    let all = ours.iter().chain(&["nginx", "haproxy", "envoy"]);
    all.copied().filter(|name| args.wants(name)).collect()
}

impl Stage<'_> {
    /// No proxy at all.
    pub(crate) fn direct(&self) -> Peer {
        Peer { name: "direct", address: self.world.origins()[0], http2: None, process: None }
    }

    /// Starts a proxy; it listens and has its table, and has served nothing. `None` when it is not installed.
    pub(crate) fn start(&self, name: &'static str) -> io::Result<Option<Peer>> {
        match name {
            "nginx" => self.nginx(),
            "haproxy" => self.haproxy(),
            "envoy" => self.envoy(),
            ours => Ok(Some(self.a8(ours))),
        }
    }

    /// Ours, as in `a8-lane+log`. It is fed by a fixed control, so that nothing but the proxy runs.
    fn a8(&self, name: &'static str) -> Peer {
        let (engine, access_log) = match name.strip_suffix("+log") {
            Some(engine) => (engine, "on"),
            None => (name, "off"),
        };
        let engine = engine.trim_start_matches("a8-");
        let data_dir = self.dir.join(format!("{name}-{}", self.name));
        let flags =
            [("threads", "1"), ("log_level", "error"), ("engine", engine), ("access_log", access_log)];
        let launch = Proxy::launch(&data_dir, "gateway:version=none", "bench", self.feed.address(), &flags);
        let process = self.pinned(launch).start(name);
        let admin = process.address("admin");
        conformance::within(START_PATIENCE, "the proxy has its table", || {
            match conformance::get("/readyz").send(admin) {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        let address = process.address("http");
        Peer { name, address, http2: Some(address), process: Some(process) }
    }

    fn nginx(&self) -> io::Result<Option<Peer>> {
        let Some(program) = find("nginx") else { return Ok(None) };
        let (address, prefix) = (free_port()?, self.dir.join(format!("nginx-{}", self.name)));
        fs::create_dir_all(&prefix)?;
        // It takes one protocol per port.
        let http2 = free_port()?;
        let config = self.file("nginx.conf", &self.world.nginx([address, http2], &prefix))?;
        let launch = Launch::other(program).arg("-p").arg(&prefix).arg("-c").arg(config);
        let peer = self.spawn(launch.arg("-e").arg("stderr"), "nginx", address)?;
        Ok(Some(Peer { http2: Some(http2), ..peer }))
    }

    fn haproxy(&self) -> io::Result<Option<Peer>> {
        let Some(program) = find("haproxy") else { return Ok(None) };
        let address = free_port()?;
        let config = self.file("haproxy.cfg", &self.world.haproxy(address))?;
        let log = self.dir.join(format!("haproxy-{}.log", self.name));
        // Its log goes to its standard output, which must not be read by the processor of the generator.
        let shell = Launch::other("sh").arg("-c").arg(r#"exec "$0" -db -f "$1" >"$2""#);
        self.spawn(shell.arg(program).arg(config).arg(log), "haproxy", address).map(Some)
    }

    fn envoy(&self) -> io::Result<Option<Peer>> {
        let Some(program) = envoy() else { return Ok(None) };
        let (address, log) = (free_port()?, self.dir.join(format!("envoy-{}.log", self.name)));
        let config = self.file("envoy.json", &self.world.envoy(address, &log).to_string())?;
        let launch = Launch::other(program).arg("-c").arg(config).flag("concurrency", "1");
        let launch = launch.arg("--disable-hot-restart").flag("log-level", "error");
        self.spawn(launch, "envoy", address).map(Some)
    }

    fn pinned(&self, launch: Launch) -> Launch {
        self.core.map_or(launch.clone(), |core| launch.pinned(core))
    }

    fn file(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.dir.join(format!("{}-{name}", self.name));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts another's program and waits until it listens.
    fn spawn(&self, launch: Launch, name: &'static str, address: SocketAddr) -> io::Result<Peer> {
        let mut process = self.pinned(launch).spawn(name);
        let started = clock::now();
        while let Err(error) = TcpStream::connect(address) {
            if !process.is_running() || started.elapsed() > START_PATIENCE {
                let said = process.stderr();
                return Err(io::Error::other(format!("{name} does not listen: {error}\n{said}")));
            }
            conformance::eventually::pause(Duration::from_millis(5));
        }
        Ok(Peer { name, address, http2: Some(address), process: Some(process) })
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
