//! Addresses of instances that registered a host name: looked up by the system's resolver off the request
//! threads, refreshed, and kept when a lookup fails. It knows nothing of instances or of load.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// How long an answer counts before it is asked for again; the system's resolver hides the record's own time.
pub const REFRESH: Duration = Duration::from_secs(30);
/// How soon a lookup that failed is repeated.
pub const RETRY: Duration = Duration::from_secs(5);
/// How long one lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How many lookups run at once.
const LOOKUPS_MAX: usize = 16;
/// How many addresses of one name are used.
const ADDRESSES_MAX: usize = 64;

/// The outcome of one lookup.
pub type Answer = io::Result<Vec<IpAddr>>;
/// Finds the addresses of a host name.
pub type Lookup = dyn Fn(String) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync;

/// A host name and where it is right now.
#[derive(Debug)]
pub struct Host {
    name: String,
    found: ArcSwapOption<Found>,
}

#[derive(Debug)]
struct Found {
    addresses: Vec<IpAddr>,
    /// The one in use.
    at: AtomicUsize,
}

impl Host {
    /// Where to dial; `None` until the first lookup succeeded.
    pub fn address(&self, port: u16) -> Option<SocketAddr> {
        let found = self.found.load();
        let found = found.as_ref()?;
        let at = found.at.load(Ordering::Relaxed) % found.addresses.len();
        Some(SocketAddr::new(found.addresses[at], port))
    }

    /// Moves to the name's next address, after the one in use could not be reached.
    pub fn advance(&self) {
        if let Some(found) = self.found.load().as_ref() {
            found.at.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes an answer. An address that is in use and still there stays in use.
    fn learn(&self, mut addresses: Vec<IpAddr>) {
        let mut seen = Vec::new();
        addresses.retain(|address| {
            !seen.contains(address) && seen.len() < ADDRESSES_MAX && {
                seen.push(*address);
                true
            }
        });
        if addresses.is_empty() {
            return;
        }
        let used = self.address(0).map(|address| address.ip());
        let at = addresses.iter().position(|address| Some(*address) == used).unwrap_or(0);
        self.found.store(Some(Arc::new(Found { addresses, at: AtomicUsize::new(at) })));
    }
}

/// Every host name that an endpoint uses.
pub struct Resolver {
    hosts: Mutex<HashMap<String, Entry>>,
    news: Notify,
    /// How many names were never looked up.
    unknown: watch::Sender<usize>,
    lookup: Box<Lookup>,
}

struct Entry {
    host: Arc<Host>,
    /// `None`: at once, for the first time.
    due: Option<Instant>,
    asked: bool,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Default for Resolver {
    /// Asks the system.
    fn default() -> Self {
        Self::new(Box::new(|name| Box::pin(system(name))))
    }
}

async fn system(name: String) -> Answer {
    Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

impl Resolver {
    /// Asks `lookup`.
    pub fn new(lookup: Box<Lookup>) -> Self {
        Self { hosts: Mutex::default(), news: Notify::new(), unknown: watch::channel(0).0, lookup }
    }

    /// The host of this name; a new name is looked up at once. A host that nobody holds is forgotten.
    pub fn host(&self, name: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = hosts.get(name) {
            return Arc::clone(&entry.host);
        }
        let host = Arc::new(Host { name: name.to_owned(), found: ArcSwapOption::empty() });
        hosts.insert(name.to_owned(), Entry { host: Arc::clone(&host), due: None, asked: false });
        self.unknown.send_modify(|count| *count += 1);
        self.news.notify_one();
        host
    }

    /// Waits until every name was looked up once, successfully or not, at most `within`.
    pub async fn first_answers(&self, within: Duration) {
        let mut unknown = self.unknown.subscribe();
        // Both ends of the wait are fine: what is not known by then is not usable yet.
        let _ = timeout(within, unknown.wait_for(|count| *count == 0)).await;
    }

    /// Looks names up, for ever. Dropping the future ends it.
    pub async fn run(&self) {
        let mut lookups = JoinSet::new();
        loop {
            let next = self.start_due(&mut lookups);
            tokio::select! {
                // Answers first: they make room for further lookups.
                biased;
                Some(done) = lookups.join_next() => {
                    if let Ok((host, answer)) = done {
                        self.finish(&host, answer);
                    }
                }
                () = self.news.notified() => {}
                () = sleep_until(next), if lookups.len() < LOOKUPS_MAX => {}
            }
        }
    }

    /// Starts what is due and says when the next is.
    fn start_due(&self, lookups: &mut JoinSet<(Arc<Host>, Answer)>) -> Instant {
        let now = Instant::now();
        let mut next = now + REFRESH;
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, entry| {
            let held = Arc::strong_count(&entry.host) > 1;
            if !held && !entry.asked {
                self.unknown.send_modify(|count| *count -= 1);
            }
            held
        });
        for entry in hosts.values_mut() {
            if entry.due.is_none_or(|due| due <= now) {
                if lookups.len() >= LOOKUPS_MAX {
                    break;
                }
                // Not again while it runs.
                entry.due = Some(now + LOOKUP_TIMEOUT + RETRY);
                let (host, answer) = (Arc::clone(&entry.host), (self.lookup)(entry.host.name.clone()));
                lookups.spawn(async move {
                    let answer = timeout(LOOKUP_TIMEOUT, answer).await;
                    (host, answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
                });
            }
            next = next.min(entry.due.unwrap_or(next));
        }
        next
    }

    fn finish(&self, host: &Host, answer: Answer) {
        let good = match answer {
            Ok(addresses) if !addresses.is_empty() => {
                host.learn(addresses);
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(host = host.name, %error, "host name cannot be resolved");
                false
            }
        };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = hosts.get_mut(&host.name) {
            entry.due = Some(Instant::now() + if good { REFRESH } else { RETRY });
            if !std::mem::replace(&mut entry.asked, true) {
                self.unknown.send_modify(|count| *count -= 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn host() -> Host {
        Host { name: "h".to_owned(), found: ArcSwapOption::empty() }
    }

    #[test]
    fn an_unknown_host_has_no_address_and_the_first_of_an_answer_is_used() {
        let host = host();
        assert_eq!(host.address(80), None);
        host.advance();
        host.learn(vec![ip(1), ip(2)]);
        assert_eq!(host.address(80), Some(SocketAddr::new(ip(1), 80)));
    }

    #[test]
    fn a_refresh_keeps_the_address_in_use_while_it_is_there() {
        let host = host();
        host.learn(vec![ip(1), ip(2), ip(1)]);
        host.advance();
        host.learn(vec![ip(3), ip(2)]);
        assert_eq!(host.address(1).unwrap().ip(), ip(2));
        host.advance();
        assert_eq!(host.address(1).unwrap().ip(), ip(3));
        host.learn(vec![ip(4)]);
        assert_eq!(host.address(1).unwrap().ip(), ip(4));
        host.learn(vec![]);
        assert_eq!(host.address(1).unwrap().ip(), ip(4));
    }

    /// Answers in turn; the last one for ever.
    fn resolver(answers: Vec<Answer>) -> Arc<Resolver> {
        let answers = Mutex::new(answers.into_iter().rev().collect::<Vec<_>>());
        Arc::new(Resolver::new(Box::new(move |_| {
            let mut answers = answers.lock().unwrap();
            let answer = if answers.len() > 1 {
                answers.pop().unwrap()
            } else {
                match &answers[0] {
                    Ok(addresses) => Ok(addresses.clone()),
                    Err(error) => Err(error.kind().into()),
                }
            };
            Box::pin(async { answer })
        })))
    }

    fn in_virtual_time(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn names_are_looked_up_at_once_refreshed_and_kept_when_a_lookup_fails() {
        in_virtual_time(async {
            let failed = || Err(io::ErrorKind::NotFound.into());
            let resolver = resolver(vec![failed(), Ok(vec![ip(1)]), failed(), Ok(vec![ip(2)])]);
            let host = resolver.host("h");
            let runner = tokio::spawn({
                let resolver = Arc::clone(&resolver);
                async move { resolver.run().await }
            });
            resolver.first_answers(LOOKUP_TIMEOUT).await;
            assert_eq!(host.address(1), None);
            for (wait, expected) in [(RETRY, 1), (REFRESH, 1), (RETRY, 2)] {
                tokio::time::sleep(wait + Duration::from_millis(10)).await;
                assert_eq!(host.address(1).unwrap().ip(), ip(expected));
            }
            runner.abort();
        });
    }

    #[test]
    fn a_name_that_hangs_holds_up_neither_the_others_nor_whoever_waits() {
        in_virtual_time(async {
            let resolver = Arc::new(Resolver::new(Box::new(|name| {
                Box::pin(async move {
                    if name == "hangs" { std::future::pending().await } else { Ok(vec![ip(9)]) }
                })
            })));
            let (hangs, works) = (resolver.host("hangs"), resolver.host("works"));
            let running = Arc::clone(&resolver);
            let runner = tokio::spawn(async move { running.run().await });
            let began = Instant::now();
            resolver.first_answers(Duration::from_millis(300)).await;
            assert_eq!(began.elapsed(), Duration::from_millis(300));
            assert_eq!((hangs.address(1), works.address(1).unwrap().ip()), (None, ip(9)));
            resolver.first_answers(Duration::from_secs(60)).await;
            assert_eq!(began.elapsed().as_secs(), LOOKUP_TIMEOUT.as_secs(), "given up, and counted as asked");
            runner.abort();
        });
    }

    #[test]
    fn a_host_that_nobody_holds_is_forgotten() {
        in_virtual_time(async {
            let resolver = resolver(vec![Ok(vec![ip(1)])]);
            drop(resolver.host("h"));
            let running = Arc::clone(&resolver);
            let runner = tokio::spawn(async move { running.run().await });
            resolver.first_answers(LOOKUP_TIMEOUT).await;
            assert!(resolver.hosts.lock().unwrap().is_empty());
            assert_eq!(*resolver.unknown.borrow(), 0);
            runner.abort();
        });
    }

    #[test]
    fn the_system_knows_its_own_name() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let resolver = Arc::new(Resolver::default());
            let host = resolver.host("localhost");
            let running = Arc::clone(&resolver);
            let runner = tokio::spawn(async move { running.run().await });
            resolver.first_answers(LOOKUP_TIMEOUT).await;
            assert!(host.address(80).unwrap().ip().is_loopback());
            runner.abort();
        });
    }
}
