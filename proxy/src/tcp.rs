//! Listeners for plain TCP (spec/control-and-proxy.md 3.7): accepts, and sees each connection to its end and into the log.
//! Which instance it gets is `dial`'s matter, the bytes are `pipe`'s. No rule about requests is asked.

mod dial;
mod pipe;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use pingora::server::ShutdownWatch;
use rustix::net::sockopt::set_socket_linger;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::pipe::{Moved, Pipe};
use crate::access_log::Flag;
use crate::clock;
use crate::config::TcpProxy;
use crate::connections::Connections;
use crate::metrics::{TcpEnd, TcpSeries};
use crate::reports::{Piped, Reports};
use crate::service::ended;
use crate::tables::Tables;

/// After a failure to accept, which lasts while too many files are open.
const PAUSE: Duration = Duration::from_secs(1);

/// One listener, for all threads that accept from it.
pub(crate) struct Front {
    /// The service, and the tags that its instances have to carry.
    proxy: TcpProxy,
    /// The same as the access log writes it.
    dst: String,
    /// Where it listens.
    at: String,
    tables: Arc<Tables>,
    /// Together with those of the HTTP listener: all need the same files.
    connections: Arc<Connections>,
    reports: Arc<Reports>,
    series: TcpSeries,
    /// Counts connections, for whose turn it is.
    ticket: AtomicU64,
    idle_within: Duration,
}

impl Front {
    pub(crate) fn new(
        proxy: TcpProxy,
        at: SocketAddr,
        tables: &Arc<Tables>,
        connections: &Arc<Connections>,
        reports: &Arc<Reports>,
        idle_within: Duration,
    ) -> Self {
        Self {
            dst: proxy.to_string(),
            at: at.to_string(),
            tables: Arc::clone(tables),
            connections: Arc::clone(connections),
            reports: Arc::clone(reports),
            series: reports.metrics.tcp(proxy.service.as_str(), &proxy.tags.join(",")),
            ticket: AtomicU64::new(0),
            idle_within,
            proxy,
        }
    }
}

/// Accepts from these ports until the watch says so; what was begun goes on.
pub(crate) async fn serve(doors: Vec<(Arc<Front>, std::net::TcpListener)>, closed: ShutdownWatch) {
    let mut accepting = JoinSet::new();
    for (front, listener) in doors {
        match TcpListener::from_std(listener) {
            Ok(listener) => drop(accepting.spawn(accept(front, listener, ended(closed.clone())))),
            Err(error) => tracing::error!(%error, at = front.at, "nobody accepts plain TCP"),
        }
    }
    while accepting.join_next().await.is_some() {}
}

async fn accept(front: Arc<Front>, listener: TcpListener, closed: impl Future<Output = ()>) {
    let mut closed = pin!(closed);
    loop {
        let accepted = tokio::select! {
            // A successor accepts what is still waiting.
            biased;
            () = closed.as_mut() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                // Beyond the cap it is closed at once, as by the HTTP listener.
                let Some(connection) = front.connections.enter() else { continue };
                let front = Arc::clone(&front);
                tokio::spawn(async move {
                    front.carry(client).await;
                    drop(connection);
                });
            }
            // The client left while it waited.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, at = front.at, "a connection could not be accepted");
                tokio::select! {
                    () = closed.as_mut() => return,
                    () = sleep(PAUSE) => {}
                }
            }
        }
    }
}

impl Front {
    async fn carry(&self, client: TcpStream) {
        let mut carried = Carried::begin(self);
        // Without it small pieces would wait for each other.
        let _as_it_is = client.set_nodelay(true);
        ends_with_reset(&client, true);
        // In memory of its own, which an idle connection does not hold.
        let dialled = match Box::pin(dial::dial(self)).await {
            Ok(dialled) => dialled,
            Err(end) => {
                carried.end = end;
                return;
            }
        };
        carried.upstream = Some((dialled.address, dialled.took));
        ends_with_reset(&dialled.stream, true);
        let mut pipe = Pipe::new(client, dialled.stream);
        carried.end = pipe.run(self.idle_within, &self.series, &mut carried.moved).await;
        ends_with_reset(&pipe.instance, carried.end != TcpEnd::Ended);
        // What the instance has said to its end is still on its way.
        ends_with_reset(&pipe.client, !pipe.is_answered());
        drop(dialled.in_flight);
    }
}

/// Whether the close of a connection is a reset. Whoever gets nothing, or not all, must not take that for an orderly end; so it is
/// one from the beginning until everything was said, whatever ends the proxy meanwhile.
fn ends_with_reset(stream: &TcpStream, resets: bool) {
    // Otherwise it is closed in order, which is the next best.
    let _closed = set_socket_linger(stream, resets.then_some(Duration::ZERO));
}

/// A connection for as long as it is there. It is told of when it is dropped: at the end of the proxy nobody else could.
struct Carried<'f> {
    front: &'f Front,
    started: Instant,
    wall: SystemTime,
    /// The instance, and how long it took to be connected to.
    upstream: Option<(SocketAddr, Duration)>,
    moved: Moved,
    end: TcpEnd,
}

impl<'f> Carried<'f> {
    fn begin(front: &'f Front) -> Self {
        front.series.active.inc();
        Self {
            front,
            started: clock::now(),
            wall: clock::wall(),
            upstream: None,
            moved: Moved::default(),
            end: TcpEnd::CutOff,
        }
    }
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        let front = self.front;
        front.series.active.dec();
        front.series.ended(self.end);
        front.reports.piped(&Piped {
            start: self.wall,
            duration: clock::now().saturating_duration_since(self.started),
            dst: &front.dst,
            listener: &front.at,
            flag: flag(self.end),
            upstream: self.upstream,
            received: self.moved.received,
            sent: self.moved.sent,
        });
    }
}

fn flag(end: TcpEnd) -> Option<Flag> {
    match end {
        TcpEnd::UnknownService => Some(Flag::NoRoute),
        TcpEnd::NoInstances => Some(Flag::NoHealthyUpstream),
        TcpEnd::ConnectFailed => Some(Flag::ConnectFailure),
        TcpEnd::Shortage => Some(Flag::Shortage),
        TcpEnd::InstanceReset => Some(Flag::UpstreamReset),
        TcpEnd::Ended | TcpEnd::ClientReset | TcpEnd::Idle | TcpEnd::CutOff => None,
    }
}
