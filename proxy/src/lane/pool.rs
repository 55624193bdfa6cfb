//! The connections of one thread to instances: used again last in, first out, so that few stay warm, and only when
//! they are alive. Which instance a request goes to is decided elsewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio::time::timeout;

use crate::board::EndpointLive;
use crate::context::{CONNECT_WITHIN, Cause, Target};
use crate::shortage::Shortage;
use crate::upstream::{IDLE_WITHIN, Protocol, Secure, unconnected};

/// How often each thread looks after its unused connections.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// A connection to an instance.
#[derive(Debug)]
pub(super) enum Upstream {
    /// Nearly all of them.
    Plain(TcpStream),
    /// Made by Pingora's connector.
    Tls(Stream),
}

/// Where a connection may be used again: everything that makes one different from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    address: SocketAddr,
    /// The name that the certificate was checked for.
    tls_name: Option<String>,
}

/// Connections that carry no request.
pub(super) struct Pool {
    idle: HashMap<Key, Vec<Idle>, ahash::RandomState>,
    count: usize,
    max: usize,
    gauge: Arc<AtomicI64>,
}

struct Idle {
    upstream: Upstream,
    /// How many requests it has carried.
    used: u32,
    since: Instant,
    /// Gone once no table has the instance any more.
    endpoint: Weak<EndpointLive>,
}

thread_local! {
    static POOL: RefCell<Option<Pool>> = const { RefCell::new(None) };
}

/// The right to this thread's pool, which goes with it.
pub(super) struct Opened(Arc<AtomicI64>);

/// Gives this thread a pool of at most `max` unused connections.
pub(super) fn open(max: usize) -> Opened {
    let pool = Pool::new(max);
    let gauge = Arc::clone(&pool.gauge);
    POOL.set(Some(pool));
    Opened(gauge)
}

impl Opened {
    /// The number of unused connections.
    pub(super) fn gauge(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.0)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        POOL.set(None);
    }
}

/// A connection of this thread to the target, if there is one that is alive.
pub(super) fn take(key: &Key, used_below: u32) -> Option<(Upstream, u32)> {
    POOL.with_borrow_mut(|pool| pool.as_mut()?.take(key, used_below))
}

/// Keeps a connection that has carried `used` requests, and whose last answer was read to its end.
pub(super) fn put(key: Key, upstream: Upstream, used: u32, endpoint: Weak<EndpointLive>, now: Instant) {
    POOL.with_borrow_mut(|pool| {
        if let Some(pool) = pool {
            pool.put(key, Idle { upstream, used, since: now, endpoint });
        }
    });
}

/// Closes what is unused for too long, has ended, or leads to an instance that no table has any more.
pub(super) fn sweep(now: Instant) {
    POOL.with_borrow_mut(|pool| {
        if let Some(pool) = pool {
            pool.sweep(now);
        }
    });
}

/// A new connection.
pub(super) async fn connect(target: &Target, secure: &Secure) -> Result<Upstream, Cause> {
    if target.tls_name.is_some() {
        // In memory of its own: a handshake needs far more than all the rest of a request.
        let connected = Box::pin(secure.connect(target, Protocol::Http1)).await;
        return connected.map(Upstream::Tls).map_err(|error| unconnected(&error));
    }
    let within = CONNECT_WITHIN.min(target.time_left);
    let connected = timeout(within, TcpStream::connect(target.address)).await;
    let stream = connected
        .map_err(|_| Cause::Unreachable)?
        .map_err(|error| Shortage::of(&error).map_or(Cause::Unreachable, Cause::Lacking))?;
    stream.set_nodelay(true).map_err(|_| Cause::Unreachable)?;
    Ok(Upstream::Plain(stream))
}

impl Key {
    pub(super) fn of(target: &Target) -> Self {
        Self { address: target.address, tls_name: target.tls_name.clone() }
    }
}

impl Pool {
    fn new(max: usize) -> Self {
        Self { idle: HashMap::default(), count: 0, max, gauge: Arc::default() }
    }

    fn take(&mut self, key: &Key, used_below: u32) -> Option<(Upstream, u32)> {
        let idle = self.idle.get_mut(key)?;
        let before = idle.len();
        let alive = std::iter::from_fn(|| idle.pop())
            .filter(|idle| idle.used < used_below)
            .find_map(|idle| Some((idle.upstream.if_alive()?, idle.used)));
        self.count -= before - idle.len();
        self.gauge.store(self.count as i64, Ordering::Relaxed);
        alive
    }

    fn put(&mut self, key: Key, idle: Idle) {
        if self.count < self.max {
            self.count += 1;
            self.gauge.store(self.count as i64, Ordering::Relaxed);
            self.idle.entry(key).or_default().push(idle);
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.idle.retain(|_, idle| {
            idle.retain_mut(|idle| {
                now.saturating_duration_since(idle.since) < IDLE_WITHIN
                    // The board holds what no table has any more for a while, too.
                    && idle.endpoint.strong_count() > 1
                    && idle.upstream.is_alive()
            });
            idle.shrink_to(2 * idle.len());
            !idle.is_empty()
        });
        self.count = self.idle.values().map(Vec::len).sum();
        self.gauge.store(self.count as i64, Ordering::Relaxed);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.gauge.store(0, Ordering::Relaxed);
    }
}

impl Upstream {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Sends what was written. Plain connections hold nothing back.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Neither ended nor speaking without having been asked.
    fn is_alive(&mut self) -> bool {
        let mut space = [0; 1];
        match self {
            // The runtime knows from the last short read that nothing is there: this costs no system call. It does not
            // count against what one poll of a task may do either, for then all would look alive.
            Self::Plain(stream) => {
                stream.try_read(&mut space).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(stream) => {
                let mut space = ReadBuf::new(&mut space);
                let read = std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut space));
                pin!(unconstrained(read)).poll(&mut Context::from_waker(Waker::noop())).is_pending()
            }
        }
    }

    fn if_alive(mut self) -> Option<Self> {
        self.is_alive().then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use routing::Address;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock;

    /// Both ends of a connection.
    async fn pair(listener: &TcpListener) -> (Upstream, TcpStream) {
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Upstream::Plain(near), listener.accept().await.unwrap().0)
    }

    fn key(tls_name: Option<&str>) -> Key {
        Key { address: "127.0.0.1:1".parse().unwrap(), tls_name: tls_name.map(str::to_owned) }
    }

    fn endpoint(now: Instant) -> Arc<EndpointLive> {
        let literal = "127.0.0.1:1".parse().ok();
        let address = Address { host: "127.0.0.1".to_owned(), port: 1, tls: false, literal };
        Arc::new(EndpointLive::new(&address, |_| unreachable!("no name"), now))
    }

    fn port(upstream: &Upstream) -> u16 {
        let Upstream::Plain(stream) = upstream else { panic!("plain") };
        stream.local_addr().unwrap().port()
    }

    /// Until what the other end did has arrived.
    async fn noticed(upstream: &mut Upstream) {
        let Upstream::Plain(stream) = upstream else { panic!("plain") };
        stream.readable().await.unwrap();
    }

    #[tokio::test]
    async fn the_last_connection_is_used_first_and_only_where_it_leads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (now, mut pool) = (clock::now(), Pool::new(8));
        let endpoint = endpoint(now);
        let ((first, _one), (second, _two)) = (pair(&listener).await, pair(&listener).await);
        let ports = [port(&first), port(&second)];
        for upstream in [first, second] {
            pool.put(key(None), Idle { upstream, used: 1, since: now, endpoint: Arc::downgrade(&endpoint) });
        }
        assert!(pool.take(&key(Some("name")), 9).is_none());
        assert_eq!(pool.gauge.load(Ordering::Relaxed), 2);
        let taken = [pool.take(&key(None), 9).unwrap().0, pool.take(&key(None), 9).unwrap().0];
        assert_eq!(taken.each_ref().map(port), [ports[1], ports[0]]);
        assert!(pool.take(&key(None), 9).is_none());
        assert_eq!((pool.count, pool.gauge.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn one_that_carried_enough_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (now, mut pool) = (clock::now(), Pool::new(8));
        let endpoint = endpoint(now);
        let mut far = Vec::new();
        for used in [2, 3] {
            let (upstream, other) = pair(&listener).await;
            far.push(other);
            pool.put(key(None), Idle { upstream, used, since: now, endpoint: Arc::downgrade(&endpoint) });
        }
        assert_eq!(pool.take(&key(None), 3).map(|(_, used)| used), Some(2));
        assert_eq!(pool.count, 0);
        assert_eq!(tokio::io::AsyncReadExt::read(&mut far[1], &mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn one_that_ended_or_speaks_unasked_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (now, mut pool) = (clock::now(), Pool::new(8));
        let endpoint = endpoint(now);
        let (alive, _stays) = pair(&listener).await;
        let alive_port = port(&alive);
        let (mut ended, gone) = pair(&listener).await;
        drop(gone);
        let (mut loud, mut speaker) = pair(&listener).await;
        speaker.write_all(b"surplus").await.unwrap();
        noticed(&mut ended).await;
        noticed(&mut loud).await;
        for upstream in [alive, ended, loud] {
            pool.put(key(None), Idle { upstream, used: 1, since: now, endpoint: Arc::downgrade(&endpoint) });
        }
        assert_eq!(port(&pool.take(&key(None), 9).unwrap().0), alive_port);
        assert_eq!(pool.count, 0);
    }

    #[tokio::test]
    async fn a_sweep_closes_what_is_old_or_ended_or_leads_to_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (now, mut pool) = (clock::now(), Pool::new(8));
        let (stays, goes) = (endpoint(now), endpoint(now));
        // The board holds them all for a while.
        let _board = [&stays, &goes].map(Arc::clone);
        let later = now + Duration::from_secs(1);
        let mut kept = Vec::new();
        for (since, endpoint) in [(now, &stays), (later, &stays), (later, &goes)] {
            let (upstream, far) = pair(&listener).await;
            kept.push(far);
            pool.put(key(None), Idle { upstream, used: 1, since, endpoint: Arc::downgrade(endpoint) });
        }
        let (mut ended, far) = pair(&listener).await;
        drop(far);
        noticed(&mut ended).await;
        pool.put(
            key(None),
            Idle { upstream: ended, used: 1, since: later, endpoint: Arc::downgrade(&stays) },
        );
        drop(goes);
        pool.sweep(now + IDLE_WITHIN);
        assert_eq!((pool.count, pool.gauge.load(Ordering::Relaxed)), (1, 1));
        pool.sweep(later + IDLE_WITHIN);
        assert_eq!((pool.count, pool.idle.len()), (0, 0));
    }

    /// One poll of a task may not do more than so much; looking at connections must not depend on that.
    #[tokio::test]
    async fn a_sweep_looks_at_all_however_many() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (now, mut pool) = (clock::now(), Pool::new(1000));
        let endpoint = endpoint(now);
        let _board = Arc::clone(&endpoint);
        for _ in 0..300 {
            let (mut ended, far) = pair(&listener).await;
            drop(far);
            noticed(&mut ended).await;
            pool.put(
                key(None),
                Idle { upstream: ended, used: 1, since: now, endpoint: Arc::downgrade(&endpoint) },
            );
        }
        pool.sweep(now);
        assert_eq!(pool.count, 0);
    }

    #[tokio::test]
    async fn beyond_the_bound_connections_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (now, mut pool) = (clock::now(), Pool::new(1));
        let endpoint = endpoint(now);
        let ((first, _one), (second, mut two)) = (pair(&listener).await, pair(&listener).await);
        for upstream in [first, second] {
            pool.put(key(None), Idle { upstream, used: 1, since: now, endpoint: Arc::downgrade(&endpoint) });
        }
        assert_eq!(pool.count, 1);
        assert_eq!(tokio::io::AsyncReadExt::read(&mut two, &mut [0; 1]).await.unwrap(), 0);
    }
}
