//! One request through the law as both engines take it, without an engine, a socket or a clock: what `benches/gates.rs`
//! counts. No part of the program.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use control_api::{Identity, Snapshot};
use http::{HeaderMap, HeaderValue};
use routing::RequestHead;

use crate::access_log::AccessLog;
use crate::board::Board;
use crate::clock;
use crate::context::{Context, Course, Replay};
use crate::counts::Counts;
use crate::metrics::Metrics;
use crate::reports::{Received, Reports};
use crate::resolve::Resolver;
use crate::tables::Table;
use crate::trace::Carried;

/// A table with live state, and what a request needs beside it. Time stands still.
pub struct Law {
    table: Arc<Table>,
    counts: Counts,
    reports: Reports,
    now: Instant,
    wall: SystemTime,
}

impl std::fmt::Debug for Law {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Law").finish_non_exhaustive()
    }
}

impl Law {
    /// The law of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let (metrics, now) = (Arc::new(Metrics::new()), clock::now());
        let board = Board::new(Arc::clone(&metrics), Arc::new(Resolver::default()), now);
        let table = Arc::new(Table::compile(snapshot, &Identity::parse("gateway"), &board));
        let reports = Reports {
            metrics,
            access_log: Arc::new(AccessLog::off()),
            tracer: None,
            src: "gateway".to_owned(),
        };
        Self { table, counts: Counts::new(now), reports, now, wall: clock::wall() }
    }

    /// One request from its head to its report, answered 200 by the first instance; whether it came so far.
    pub fn request(&self, path: &str, headers: &HeaderMap, id: &HeaderValue) -> bool {
        let head = RequestHead { method: "GET", path, query: "", authority: "gateway", headers };
        let mut context = Context::new(Arc::clone(&self.table), self.now, self.wall);
        context.identify(id.clone());
        context.join(Carried::Nothing(None), None);
        let _delay = context.decide(&head, None, &self.counts);
        context.body_came(false, true, || self.now);
        if context.course(&head, &self.counts, self.now) != Course::Forward {
            return false;
        }
        let Ok(_target) = context.begin_attempt(self.now) else { return false };
        let replay = Replay { method: "GET", body: true, idempotent: true };
        let again = context.answered(200, replay, self.now);
        let received = Received {
            method: "GET",
            scheme: "http",
            path,
            protocol: "HTTP/1.1",
            authority: b"gateway",
            x_forwarded: b"",
            user_agent: b"",
        };
        self.reports.finished(&context, received, 200, self.now);
        !again
    }
}
