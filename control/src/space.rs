//! Everything control holds about one namespace: rules, the world, the published snapshot, the roster of
//! proxies. It joins the pure steps and wakes whoever waits; it speaks no HTTP and calls no registry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_api::{Applied, ProxyReport, RuleId};
use registry_api::{ContentHash, Followed, Namespace};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tracing::error;

use crate::clock::Clock;
use crate::closing::Closing;
use crate::edition::Edition;
use crate::metrics::{Levels, Metrics};
use crate::moment::Moment;
use crate::persist::RuleStore;
use crate::publish::Published;
use crate::roster::{CONNECTED_FOR, Caller, Roster};
use crate::rulebook::{Edit, Refused, RuleBook};
use crate::window::{self, Load, Pending};
use crate::world::{Heard, World};

mod poll;

pub(crate) use poll::Poll;

/// What one look at one proxy costs at most. Who waits for thousands looks after a proportional pause, and
/// not at every acknowledgement.
const LOOK_COST: Duration = Duration::from_micros(1);

/// What all namespaces of one running control share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: Arc<dyn RuleStore>,
    /// This life of control.
    pub(crate) epoch: Arc<str>,
    pub(crate) cores: usize,
}

/// Why a write was not accepted.
#[derive(Debug)]
pub(crate) enum NotWritten {
    Refused(Refused),
    /// The store failed; it was logged.
    Failed,
}

/// An accepted write.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) ids: Vec<RuleId>,
    pub(crate) revision: u64,
}

struct Ahead {
    world: World,
    pending: Pending,
    heard_at: Option<Moment>,
}

pub(crate) struct Space {
    pub(crate) namespace: Namespace,
    /// What logs call it. A namespace may be a token, so only the well-known one is written out.
    pub(crate) label: String,
    pub(crate) clock: Clock,
    pub(crate) changed: Notify,
    shared: Shared,
    created_at: Moment,
    book: Mutex<Arc<RuleBook>>,
    writing: tokio::sync::Mutex<()>,
    ahead: Mutex<Ahead>,
    published: watch::Sender<Option<Arc<Published>>>,
    roster: Mutex<Roster>,
    acknowledged: watch::Sender<()>,
}

/// Takes a lock. What a panicking holder left is used on: every lock here is held over single assignments
/// or over values that are right after each of their own steps.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Space {
    pub(crate) fn new(namespace: Namespace, book: RuleBook, shared: Shared) -> Self {
        let label = if namespace == Namespace::default() {
            namespace.to_string()
        } else {
            ContentHash::of(namespace.as_str().as_bytes()).to_string().chars().take(8).collect()
        };
        let world = World::new(&namespace, &book);
        Self {
            namespace,
            label,
            clock: shared.clock,
            changed: Notify::new(),
            created_at: shared.clock.now(),
            book: Mutex::new(Arc::new(book)),
            writing: tokio::sync::Mutex::new(()),
            ahead: Mutex::new(Ahead { world, pending: Pending::default(), heard_at: None }),
            published: watch::Sender::new(None),
            roster: Mutex::default(),
            acknowledged: watch::Sender::new(()),
            shared,
        }
    }

    /// The rules as of the last acknowledged write.
    pub(crate) fn book(&self) -> Arc<RuleBook> {
        Arc::clone(&locked(&self.book))
    }

    /// Checks an edit, keeps it durably, and hands it to the publisher. Once begun it is finished, whether
    /// or not the caller stays to hear of it; its place among the writes is given back then.
    pub(crate) async fn edit(
        self: &Arc<Self>,
        edit: Edit,
        place: OwnedSemaphorePermit,
    ) -> Result<Written, NotWritten> {
        let this = Arc::clone(self);
        let finished = async move {
            let _place = place;
            this.edit_in_turn(edit).await
        };
        tokio::spawn(finished).await.unwrap_or(Err(NotWritten::Failed))
    }

    async fn edit_in_turn(self: Arc<Self>, edit: Edit) -> Result<Written, NotWritten> {
        let _turn = self.writing.lock().await;
        let (book, store, namespace) = (self.book(), Arc::clone(&self.shared.store), self.namespace.clone());
        let edit = edit.begun(self.clock.time_of_day());
        let work = move || {
            let accepted =
                book.edit(edit, || uuid::Uuid::new_v4().to_string()).map_err(NotWritten::Refused)?;
            store.commit(&namespace, &accepted).map_err(|error| {
                error!(%error, "rules cannot be kept");
                NotWritten::Failed
            })?;
            Ok(accepted)
        };
        let accepted = tokio::task::spawn_blocking(work).await.unwrap_or(Err(NotWritten::Failed))?;
        *locked(&self.book) = Arc::new(accepted.book);
        let mut ahead = locked(&self.ahead);
        ahead.world.edit(&accepted.changes);
        ahead.pending.rules.get_or_insert(self.clock.now());
        drop(ahead);
        self.changed.notify_one();
        Ok(Written { ids: accepted.ids, revision: accepted.changes.revision })
    }

    /// The registry answered what it was asked at `asked`.
    pub(crate) fn hear(&self, followed: &Followed, heard: &Heard, asked: Moment) {
        let now = self.clock.now();
        let mut ahead = locked(&self.ahead);
        let before = (ahead.world.is_loaded(), Arc::clone(ahead.world.snapshot()));
        ahead.world.follow(followed, heard, asked, now);
        ahead.heard_at = Some(now);
        if !before.0 || !Arc::ptr_eq(&before.1, ahead.world.snapshot()) {
            ahead.pending.instances.get_or_insert(now);
            self.changed.notify_one();
        }
    }

    /// When the next stale instance may go.
    pub(crate) fn stale_until(&self) -> Option<Moment> {
        locked(&self.ahead).world.stale_until()
    }

    /// Whether rules and instances were both loaded once.
    pub(crate) fn is_loaded(&self) -> bool {
        locked(&self.ahead).world.is_loaded()
    }

    /// When the next publication is due, if any.
    pub(crate) fn due(&self) -> Option<Moment> {
        let published = self.published.borrow().clone();
        let answer_bytes = published.as_ref().map_or(0, |last| last.answer_bytes());
        let load = Load { waiters: self.published.receiver_count(), answer_bytes, cores: self.shared.cores };
        let ahead = locked(&self.ahead);
        if !ahead.world.is_loaded() {
            return None;
        }
        window::due(ahead.pending, published.map(|last| last.edition.at()), window::window(load))
    }

    /// Publishes what has changed; `None` when the content is what it was.
    pub(crate) fn publish(&self) -> Option<Arc<Published>> {
        let (snapshot, touched) = {
            let mut ahead = locked(&self.ahead);
            ahead.pending = Pending::default();
            ahead.world.take()
        };
        let last = self.published.borrow().clone();
        let now = self.clock.now();
        let edition = match last {
            None => Edition::first(Arc::clone(&self.shared.epoch), snapshot, now),
            Some(last) if last.edition.hash() == snapshot.hash() => return None,
            Some(last) => last.edition.next(snapshot, touched, now),
        };
        let published = Arc::new(Published::new(edition));
        self.shared.metrics.publications.inc();
        self.published.send_replace(Some(Arc::clone(&published)));
        Some(published)
    }

    /// The published snapshots, from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.published.subscribe()
    }

    /// A proxy's poll begins; it ends when the guard is dropped.
    pub(crate) fn begin_poll(self: &Arc<Self>, caller: Caller) -> Poll {
        Poll::begin(Arc::clone(self), caller)
    }

    /// Waits until every connected proxy serves a revision, but no longer than until `deadline`.
    pub(crate) async fn wait_applied(
        &self,
        revision: u64,
        timeout: Duration,
        mut closing: Closing,
    ) -> Applied {
        let deadline = self.clock.now() + timeout;
        let mut acknowledged = self.acknowledged.subscribe();
        loop {
            let now = self.clock.now();
            let (applied, lapse) = {
                let roster = locked(&self.roster);
                (roster.applied(revision, now), roster.next_lapse(now))
            };
            if applied.laggards.is_empty() || now >= deadline || closing.is_announced() {
                return applied;
            }
            // Who is in the middle of a poll now lapses no earlier than this, should the poll break off.
            let wake = lapse.unwrap_or(now + CONNECTED_FOR).min(deadline);
            tokio::select! {
                // In any order: each only makes us look again.
                _ = acknowledged.changed() => self.clock.pause(LOOK_COST * applied.proxies as u32).await,
                () = closing.announced() => {}
                () = self.clock.sleep_until(wake) => {}
            }
        }
    }

    /// Every known proxy.
    pub(crate) fn report(&self) -> Vec<ProxyReport> {
        let published = self.published.borrow().clone();
        let edition = published.as_ref().map(|last| &last.edition);
        locked(&self.roster).report(edition, self.clock.now(), self.clock.time_of_day())
    }

    /// Adds what this namespace contributes to the metrics.
    pub(crate) fn add_to(&self, levels: &mut Levels) {
        let now = self.clock.now();
        let published = self.published.borrow().clone();
        let tally = locked(&self.roster).tally(published.as_ref().map(|last| &last.edition), now);
        let ahead = locked(&self.ahead);
        levels.namespaces += 1;
        levels.rules += ahead.world.snapshot().rules().len();
        levels.instances += ahead.world.snapshot().instances().len();
        levels.stale_instances += ahead.world.stale().len();
        levels.waiters += self.published.receiver_count();
        levels.proxies += tally.connected;
        levels.lag = levels.lag.max(tally.lag);
        levels.follow_age = levels.follow_age.max(now.since(ahead.heard_at.unwrap_or(self.created_at)));
    }
}
