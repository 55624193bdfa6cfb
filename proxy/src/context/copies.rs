//! The copy of one request: who gets it, and what there is of it so far. How it is sent is not known here.

use std::sync::Arc;
use std::time::Instant;

use routing::Purpose;

use super::{Context, Target};
use crate::board::BoardView;
use crate::metrics::CopyLost;
use crate::mirror::{Addressee, Draft, Head, Mirrors};

impl Context {
    /// The request goes on: begins its copy, if its route wants one.
    pub(crate) fn begin_copy(&mut self, mirrors: &Arc<Mirrors>, now: Instant) {
        if self.decision.as_ref().is_none_or(|decision| decision.mirror.is_none()) {
            return;
        }
        let Some(to) = self.addressee(now) else { return };
        let draft = mirrors.draft(to);
        if self.upgrade {
            return draft.lose(CopyLost::Upgrade);
        }
        self.copy = Some(Box::new(draft));
    }

    /// Whether there is a copy that has no head yet.
    pub(crate) fn copy_lacks_head(&self) -> bool {
        self.copy.as_ref().is_some_and(|draft| !draft.has_head())
    }

    /// Gives the copy its head. `head` makes it, with the host name of an instance that registered one in the place of the
    /// client's. What came of the body is to come again.
    pub(crate) fn copy_head(&mut self, head: impl FnOnce(&Self, Option<&str>) -> Option<Head>) {
        let Some(draft) = &self.copy else { return };
        let head = head(self, draft.host());
        self.copied(|draft| draft.begin(head.ok_or(CopyLost::Failed)?));
    }

    /// Adds a piece of the body, `end`: the last one.
    pub(crate) fn copy_body(&mut self, piece: &[u8], end: bool) {
        self.copied(|draft| draft.take(piece, end));
    }

    fn copied(&mut self, step: impl FnOnce(&mut Draft) -> Result<(), CopyLost>) {
        let Some(mut draft) = self.copy.take() else { return };
        match step(&mut draft) {
            Err(why) => draft.lose(why),
            Ok(()) if draft.is_whole() => draft.send(),
            Ok(()) => self.copy = Some(draft),
        }
    }

    /// Picked like the instance of an attempt, by a draw of its own; counted nowhere.
    fn addressee(&self, now: Instant) -> Option<Addressee> {
        let decision = self.decision.as_ref()?;
        let (backend, rule) = (self.table.backend(decision.mirror?), self.table.route(decision.route?).id());
        let draw = self.seed.draw(Purpose::Pick(0), backend.key);
        let picked = routing::pick(backend, &BoardView::at(now), &[], backend.live.ticket(), draw)?;
        let endpoint = &backend.endpoints[picked];
        let within = self.timeout();
        let target = Target {
            address: endpoint.live.address()?,
            tls_name: endpoint.address.tls.then(|| endpoint.address.host.clone()),
            time_left: within,
            read_within: within,
            write_within: within,
            requests_per_connection: u32::MAX,
        };
        let host = endpoint.address.literal.is_none().then(|| endpoint.address.authority());
        let service = Arc::clone(&self.table.service(decision.service?).live);
        Some(Addressee { service, target, host, rule: rule.clone() })
    }
}
