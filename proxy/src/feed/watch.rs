//! The loop that polls control, compiles what it says off the request threads, and swaps. It never stops
//! serving the old table; what an answer means is the follower's law.

use std::sync::Arc;
use std::time::Duration;

use control_api::client::{ControlClient, Node, Polled};
use control_api::{Identity, Snapshot};
use registry_api::Position;
use registry_api::client::{Backoff, CallError};
use tokio::time::{Instant, sleep};

use super::follower::{Follower, Step};
use super::last_good::Keeper;
use super::status::{Source, Status};
use crate::board::Board;
use crate::clock;
use crate::courtesy;
use crate::metrics::Metrics;
use crate::resolve::Resolver;
use crate::tables::{Table, Tables};

/// How long control may hold a poll.
pub const WAIT: Duration = Duration::from_secs(50);
/// How long it may hold the first one after silence: so that it is soon known to be there.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The least time between two polls that brought nothing: a control that holds no poll must not be hammered.
const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// How long a swap waits for the first addresses of new host names.
const FIRST_ADDRESSES: Duration = Duration::from_millis(500);

/// What a new snapshot is put into.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Whom the table is for.
    pub identity: Identity,
    /// Where tables go.
    pub tables: Arc<Tables>,
    /// What is attached to them.
    pub board: Arc<Board>,
    /// Finds the host names in them.
    pub resolver: Arc<Resolver>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What operators see.
    pub status: Arc<Status>,
}

impl Stage {
    /// Compiles on the calling thread, which must not be one that serves requests.
    pub fn compile(&self, old: &Snapshot, new: &Snapshot) -> Table {
        self.board.compiling(clock::now());
        self.tables.pin().recompile(old, new, &self.identity, &self.board)
    }

    /// Puts a table in place.
    pub fn swap(&self, table: Table, source: Source, snapshot: Arc<Snapshot>, position: Position) {
        let old = self.tables.pin();
        for service in table.apart_from(&old) {
            service.live.set_instances(service.endpoints().len());
        }
        for service in old.apart_from(&table).filter(|service| table.find(service.name.as_str()).is_none()) {
            service.live.set_instances(0);
        }
        drop(old);
        tracing::info!(
            source = source.as_str(),
            index = position.index,
            revision = snapshot.revision(),
            rules = snapshot.rules().len(),
            instances = snapshot.instances().len(),
            skipped = table.skipped(),
            "snapshot applied"
        );
        self.tables.swap(table);
        if source == Source::Control {
            self.board.settle();
        }
        self.metrics.table_swaps.inc();
        self.positioned(&position);
        self.metrics.snapshot_revision.set(i64::try_from(snapshot.revision()).unwrap_or(i64::MAX));
        self.status.applied(source, snapshot, position);
    }

    /// What serves is what control has, wherever it came from.
    fn confirmed(&self, position: &Position) {
        self.board.settle();
        self.positioned(position);
        self.status.confirmed(position.clone());
    }

    fn positioned(&self, position: &Position) {
        self.metrics.snapshot_index.set(i64::try_from(position.index).unwrap_or(i64::MAX));
    }
}

/// The proxy's end of `GET /v1/watch`.
#[derive(Debug)]
pub struct Watch {
    /// Speaks to control.
    pub client: ControlClient,
    /// What this proxy says of itself.
    pub node: Node,
    /// What it fills.
    pub stage: Stage,
    /// What it holds.
    pub follower: Follower,
    /// Saves what served.
    pub keeper: Keeper,
}

impl Watch {
    /// Polls for ever. Dropping the future ends it between two tables.
    pub async fn run(mut self) {
        let (mut backoff, mut heard) = (Backoff::default(), false);
        loop {
            let wait = if heard { WAIT } else { FIRST_WAIT };
            let (position, rejected) = self.follower.ask();
            let asked = Instant::now();
            match self.client.watch(&self.node, &position, wait, rejected).await {
                Ok(answer) => {
                    heard = true;
                    self.heard();
                    if let Err(why) = self.take(answer, asked).await {
                        tracing::warn!(why, "answer of control cannot be used");
                        sleep(backoff.after_failure(fastrand::f64())).await;
                    } else {
                        backoff.reset();
                    }
                }
                Err(error) => {
                    heard = false;
                    self.lost(&error);
                    sleep(backoff.after_failure(fastrand::f64())).await;
                }
            }
        }
    }

    /// Does what an answer asks for; the reason to be slow about the next poll.
    async fn take(&mut self, answer: Polled, asked: Instant) -> Result<(), &'static str> {
        courtesy::stand_aside();
        let step = self.follower.hear(answer);
        courtesy::stand_aside();
        match step {
            Step::Keep => sleep(IDLE_PAUSE.saturating_sub(asked.elapsed())).await,
            Step::Confirm => {
                self.stage.confirmed(self.follower.position());
                sleep(IDLE_PAUSE.saturating_sub(asked.elapsed())).await;
            }
            Step::AskAll => {
                let index = self.follower.position().index;
                tracing::warn!(index, "delta does not fit, asking for everything");
            }
            Step::Apply(snapshot, position) => self.apply(snapshot, position).await,
            Step::Reject(rejection) => {
                tracing::warn!(
                    index = rejection.position.index,
                    reason = rejection.reason,
                    "snapshot refused, the old one serves on"
                );
                self.stage.metrics.snapshot_rejected.inc();
                self.stage.status.rejected(rejection);
            }
            Step::Later(why) => return Err(why),
        }
        Ok(())
    }

    async fn apply(&mut self, snapshot: Arc<Snapshot>, position: Position) {
        let table = self.stage.compile(self.follower.held(), &snapshot);
        self.stage.resolver.first_answers(FIRST_ADDRESSES).await;
        courtesy::stand_aside();
        self.stage.swap(table, Source::Control, Arc::clone(&snapshot), position.clone());
        courtesy::stand_aside();
        self.keeper.keep(Arc::clone(&snapshot), position.clone());
        self.follower.applied(snapshot, position);
    }

    fn heard(&self) {
        let now = clock::wall();
        self.stage.metrics.heard_control(clock::unix_seconds(now));
        if self.stage.status.heard(now) {
            tracing::info!("control answers");
        }
    }

    fn lost(&self, error: &CallError) {
        if self.stage.status.lost(error.to_string()) {
            tracing::warn!(%error, "control does not answer, the table serves on");
        }
    }
}
