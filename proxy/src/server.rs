//! Starts the proxy's listeners and ends them in order: Pingora's services on threads of our own, because Pingora's
//! server sleeps through a fixed grace period whether anything is left to do or not.

use std::future::{Future, pending};
use std::io;
use std::iter::repeat_with;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use pingora::apps::ServerApp;
use pingora::listeners::ListenerConfig;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::{Fds, ListenFds, ShutdownWatch};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use registry_api::setting::BadSetting;
use tokio::sync::watch;

use crate::clock;
use crate::config::{Config, Engine, TCP_SETTING, TcpProxy, Upgrade};
use crate::connections::{Connections, cap_of, raise_open_files};
use crate::detection;
use crate::feed::Source;
use crate::gateway::Gateway;
use crate::general::General;
use crate::health;
use crate::http2::Http2;
use crate::lane::Lane;
use crate::live::Live;
use crate::mirror::{self, Mirrors};
use crate::reports::Reports;
use crate::service::Front;
use crate::shard::Shard;
use crate::tcp;
use crate::upgrade::{self, Estate, Predecessor, Succession};
use crate::upstream::Secure;

pub use crate::service::Limits;

/// Connections to instances that are kept open while unused, over all instances and threads.
const KEPT_CONNECTIONS_MAX: usize = 4096;
/// How long a proxy that takes over waits for its first table from control; then the last good one has to do.
const CONTROL_WITHIN: Duration = Duration::from_secs(5);
/// What is left of a runtime after draining is cut off.
const RUNTIME_ENDS_WITHIN: Duration = Duration::from_millis(200);

/// A proxy whose ports are open and which serves nobody yet.
pub struct Server {
    live: Live,
    http: Door,
    admin: Door,
    tcp: Vec<(TcpProxy, Door)>,
    threads: usize,
    engine: Engine,
    /// Whether gRPC calls of HTTP/1.1 clients go on in HTTP/2.
    bridges: bool,
    /// Whom this proxy stands for, `service:tag,tag`.
    src: String,
    limits: Limits,
    upgrade: Option<Upgrade>,
    /// Whose ports these were; it serves until it is told.
    predecessor: Option<Predecessor>,
}

/// Why a proxy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Told,
    /// A successor accepts from the same ports.
    Replaced,
}

/// An open port.
struct Door {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Opens everything that can fail, or takes it over from the proxy that serves; nothing is accepted yet.
    pub fn bind(config: &Config) -> Result<Self, BadSetting> {
        let inherited = match &config.upgrade {
            None => None,
            Some(Upgrade { sock, take_over: true, .. }) => upgrade::take_over(sock)?,
            Some(Upgrade { sock, .. }) => upgrade::refuse_served(sock).map(|()| None)?,
        };
        let wanted: Vec<_> = config.tcp.iter().map(|proxy| proxy.listen).collect();
        let inherited = inherited.map(|inherited| inherited.into_parts(config.http, config.admin, &wanted));
        let (http, admin, tcp, lock, predecessor) = match inherited {
            None => (None, None, vec![], None, None),
            Some(parts) => (parts.http, parts.admin, parts.tcp, Some(parts.lock), Some(parts.predecessor)),
        };
        let tcp = config.tcp.iter().zip(tcp.into_iter().chain(repeat_with(|| None)));
        Ok(Self {
            http: Door::open("http_listener_port", config.http, http)?,
            admin: Door::open("admin_port", config.admin, admin)?,
            tcp: tcp
                .map(|(proxy, inherited)| {
                    Ok((proxy.clone(), Door::open(TCP_SETTING, proxy.listen, inherited)?))
                })
                .collect::<Result<_, BadSetting>>()?,
            live: Live::inherit(config, lock, clock::now())?,
            upgrade: config.upgrade.clone(),
            predecessor,
            threads: config.threads,
            engine: config.engine,
            bridges: config.grpc_http1_bridge,
            src: config.identity.label(),
            limits: Limits::default(),
        })
    }

    /// Changes how long clients are waited for.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The ports, by name: `http`, `admin`, and `tcp1` and so on in the order of the settings.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let own = [("http", self.http.address), ("admin", self.admin.address)];
        let tcp = (1..).zip(self.tcp()).map(|(number, proxy)| (format!("tcp{number}"), proxy.listen));
        own.into_iter().map(|(name, address)| (name.to_owned(), address)).chain(tcp).collect()
    }

    /// The listeners for plain TCP, each where it is.
    pub fn tcp(&self) -> impl Iterator<Item = TcpProxy> {
        self.tcp.iter().map(|(proxy, door)| TcpProxy { listen: door.address, ..proxy.clone() })
    }

    /// The address of the HTTP port.
    pub fn http(&self) -> SocketAddr {
        self.http.address
    }

    /// Waits for a table where a predecessor serves meanwhile: requests must not be worse off. With what control says now,
    /// or else with the last good snapshot. The feed has to run.
    pub fn await_table(&self) -> Result<(), BadSetting> {
        let status = &self.live.status;
        let is_there = self.predecessor.is_none()
            || status.wait(CONTROL_WITHIN, |seen| seen.source == Source::Control)
            || status.seen().is_ready();
        let lacking =
            || BadSetting::new("upgrade", "control gave no table in time, so the old proxy serves on");
        is_there.then_some(()).ok_or_else(lacking)
    }

    /// What outlives a table.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Serves until `stop`, then lets requests in progress end, for [`Limits::drain_within`] at most; until a successor
    /// serves, where one may come, and then for as long as clients may take to leave. Runs in the calling thread, which must
    /// not belong to a runtime.
    pub fn serve<A>(mut self, admin: A, stop: impl Future<Output = ()>) -> io::Result<()>
    where
        A: ServerApp + Send + Sync + 'static,
    {
        // Every thread has its own of each listener.
        let doors = (self.threads + 1) * self.tcp.len();
        let open_files = raise_open_files().saturating_sub(doors as u64);
        let connections = Arc::new(Connections::new(cap_of(open_files), Arc::clone(&self.live.metrics)));
        let drain_within = self.limits.drain_within;
        let kept_max = self.kept_max();
        // Ports are closed first, and connections that wait for a request end later.
        let (close, is_closed) = watch::channel(false);
        let (down, is_down) = watch::channel(false);
        let reports = self.reports();
        let pipes = self.pipes(&connections, &reports);
        let (mirrors, copies) = Mirrors::new();
        let mirror = Shard::start("a8-mirror", mirror::run(copies))?;
        let mut shards = self
            .fronts(&connections, &reports, &mirrors, &is_down)
            .map(|front| {
                let (door, is_closed) = (self.http.share()?, is_closed.clone());
                let pipes = pipes.iter().zip(&self.tcp);
                let pipes = pipes.map(|(pipe, (_, door))| Ok((Arc::clone(pipe), door.share()?.listener)));
                let pipes = pipes.collect::<io::Result<Vec<_>>>()?;
                Shard::start("a8-http", async move {
                    let lane = front.lane.clone();
                    let looked_after = async move {
                        match lane {
                            Some(lane) => lane.look_after(kept_max).await,
                            None => pending().await,
                        }
                    };
                    tokio::select! {
                        () = looked_after => {}
                        _served = async {
                            let pipes = tcp::serve(pipes, is_closed.clone());
                            tokio::join!(door.serve("http", front, is_closed), pipes)
                        } => {}
                    }
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let succession = self.succession()?;
        // From here on the ports are the shards' alone, and a successor's: the last of them closes each.
        drop((self.http, self.tcp));
        let operators = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("a8-admin")
            .enable_all()
            .build()?;
        operators.spawn(detection::run(Arc::clone(&self.live.tables)));
        operators.spawn(health::run(Arc::clone(&self.live.tables)));
        operators.spawn(self.admin.serve("admin", admin, is_closed));
        operators.block_on(async {
            let mut stop = pin!(stop);
            let end = tokio::select! {
                biased;
                () = stop.as_mut() => End::Told,
                () = replaced(succession) => End::Replaced,
            };
            tracing::info!(replaced = end == End::Replaced, "draining");
            self.live.drain.begin();
            close.send_replace(true);
            if end == End::Replaced {
                self.live.drain.replace();
                let within = self.upgrade.map_or(Duration::ZERO, |upgrade| upgrade.drain);
                tokio::select! {
                    () = stop => {}
                    _drained = connections.drained(within) => {}
                }
            }
            down.send_replace(true);
            // The listener is closed first, so that the last connection is the last.
            let _closed = tokio::time::timeout(drain_within, async {
                for shard in &mut shards {
                    shard.served().await;
                }
            })
            .await;
            if !connections.drained(drain_within).await {
                tracing::warn!("requests in progress were cut off");
            }
        });
        // All are told before any is waited for.
        let ending: Vec<_> = shards.into_iter().chain([mirror]).map(Shard::end).collect();
        ending.into_iter().for_each(|ending| ending.wait(RUNTIME_ENDS_WITHIN));
        operators.shutdown_timeout(RUNTIME_ENDS_WITHIN);
        Ok(())
    }

    fn reports(&self) -> Arc<Reports> {
        Arc::new(Reports {
            metrics: Arc::clone(&self.live.metrics),
            access_log: Arc::clone(&self.live.access_log),
            tracer: self.live.tracer.clone(),
            src: self.src.clone(),
        })
    }

    /// One for each listener of plain TCP, for all threads: whose turn it is, is one count.
    fn pipes(&self, connections: &Arc<Connections>, reports: &Arc<Reports>) -> Vec<Arc<tcp::Front>> {
        let pipe = |(proxy, door): &(TcpProxy, Door)| {
            let (tables, idle_within) = (&self.live.tables, self.limits.tcp_idle_within);
            tcp::Front::new(proxy.clone(), door.address, tables, connections, reports, idle_within)
        };
        self.tcp.iter().map(pipe).map(Arc::new).collect()
    }

    /// One engine per thread: their connections to instances are not shared, so that none is waited for in one thread and
    /// used in another.
    fn fronts(
        &self,
        connections: &Arc<Connections>,
        reports: &Arc<Reports>,
        mirrors: &Arc<Mirrors>,
        down: &ShutdownWatch,
    ) -> impl Iterator<Item = Front> {
        let delayed = Arc::new(AtomicUsize::new(0));
        let secure = Arc::new(Secure::default());
        (0..self.threads).map(move |_| {
            let gateway = Gateway {
                tables: Arc::clone(&self.live.tables),
                reports: Arc::clone(reports),
                delayed: Arc::clone(&delayed),
                counts: Arc::clone(&self.live.counts),
                mirrors: Arc::clone(mirrors),
                drain: Arc::clone(&self.live.drain),
                secure: Arc::clone(&secure),
                bridges: self.bridges.then(Arc::default),
            };
            let lane = (self.engine == Engine::Lane).then(|| {
                Arc::new(Lane {
                    tables: Arc::clone(&self.live.tables),
                    reports: Arc::clone(reports),
                    delayed: Arc::clone(&delayed),
                    drain: Arc::clone(&self.live.drain),
                    counts: Arc::clone(&self.live.counts),
                    secure: Arc::clone(&secure),
                    mirrors: Arc::clone(mirrors),
                })
            });
            let general = Arc::new(General::planned(gateway, self.kept_max()));
            if self.engine == Engine::General {
                general.make();
            }
            let http2 = Http2::new(Arc::clone(&general), lane.clone(), Arc::clone(reports), self.limits);
            Front {
                general,
                lane,
                http2: Arc::new(http2),
                bridges: self.bridges,
                tls: self.live.tls.clone(),
                connections: Arc::clone(connections),
                reports: Arc::clone(reports),
                limits: self.limits,
                down: down.clone(),
            }
        })
    }

    /// Has the predecessor leave, and waits for a successor at its place. That is taken only then: a proxy that stays keeps it.
    fn succession(&mut self) -> io::Result<Option<(Succession, Estate)>> {
        let Some(upgrade) = &self.upgrade else { return Ok(None) };
        let estate = Estate {
            http: self.http.listener.try_clone()?,
            admin: self.admin.listener.try_clone()?,
            tcp: self.tcp.iter().map(|(_, door)| door.listener.try_clone()).collect::<io::Result<_>>()?,
            lock: self.live.data_dir.share()?,
        };
        let Some(predecessor) = self.predecessor.take() else {
            return Ok(Some((Succession::open(&upgrade.sock)?, estate)));
        };
        predecessor.replace()?;
        tracing::info!("took over");
        // Nobody else serves now: what is wrong with the path must not end this proxy.
        Ok(Succession::open(&upgrade.sock)
            .inspect_err(|error| tracing::error!(%error, "no successor can take over from this proxy"))
            .ok()
            .map(|succession| (succession, estate)))
    }

    /// How many unused connections each thread keeps.
    fn kept_max(&self) -> usize {
        KEPT_CONNECTIONS_MAX.div_ceil(self.threads)
    }
}

/// Returns once a successor serves; what it was given is closed here then.
async fn replaced(succession: Option<(Succession, Estate)>) {
    let Some((mut succession, estate)) = succession else { return pending().await };
    if let Err(error) = succession.replaced(&estate).await {
        tracing::error!(%error, "no successor can take over from this proxy");
        // The ports still have to close when the proxy is told to end: nothing is kept for nobody.
        drop((succession, estate));
        pending().await
    }
}

impl Door {
    /// The port at this address, as it was inherited or else opened here.
    fn open(
        setting: &'static str,
        address: SocketAddr,
        inherited: Option<TcpListener>,
    ) -> Result<Self, BadSetting> {
        let open = || {
            let listener = inherited.map_or_else(|| TcpListener::bind(address), Ok)?;
            listener.set_nonblocking(true)?;
            Ok(Self { address: listener.local_addr()?, listener })
        };
        open().map_err(|error: io::Error| {
            let why = if error.kind() == io::ErrorKind::AddrInUse {
                "address in use".to_owned()
            } else {
                error.to_string()
            };
            BadSetting::new(setting, format!("cannot listen on {address}: {why}"))
        })
    }

    /// The same port for one more thread to accept from.
    fn share(&self) -> io::Result<Self> {
        Ok(Self { listener: self.listener.try_clone()?, address: self.address })
    }

    /// Serves until the watch says so. The open port is handed over as Pingora hands ports to its successor.
    async fn serve<A>(self, name: &'static str, app: A, down: ShutdownWatch)
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let address = self.address.to_string();
        let mut open = Fds::new();
        open.add(address.clone(), self.listener.into_raw_fd());
        let open: ListenFds = Arc::new(open.into());
        let mut service = Service::new(name.to_owned(), app);
        // Bytes go straight between the socket and whoever reads or writes: an idle connection holds no buffer.
        service.add_listener(ListenerConfig::tcp(address).l4_buffer(L4BufferSettings::unbuffered()));
        service.start_service(Some(open), down, 1).await;
    }
}
