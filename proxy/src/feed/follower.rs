//! What the proxy holds of control's snapshots and what an answer does to it. Pure: it neither polls nor
//! compiles, and adopts nothing before it is told that it serves traffic.

use std::sync::Arc;

use control_api::client::Polled;
use control_api::{Snapshot, SnapshotUpdate};
use registry_api::Position;

/// The longest reason that is reported.
pub const REASON_MAX_CHARS: usize = 300;

/// A snapshot that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Whose.
    pub position: Position,
    /// Why, at most [`REASON_MAX_CHARS`].
    pub reason: String,
}

/// What to do about an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing: there is nothing newer than what was refused.
    Keep,
    /// Nothing but to say so: what serves is what control has.
    Confirm,
    /// Compile and swap, then tell [`Follower::applied`].
    Apply(Arc<Snapshot>, Position),
    /// Ask again at once: now for everything.
    AskAll,
    /// Report at once: this snapshot cannot be used; the old one goes on serving.
    Reject(Rejection),
    /// Ask again later: the answer makes no sense, or is one that was refused already.
    Later(&'static str),
}

/// The proxy's end of the watch.
#[derive(Debug, Clone, Default)]
pub struct Follower {
    held: Arc<Snapshot>,
    at: Position,
    ask_all: bool,
    rejected: Option<Rejection>,
}

impl Follower {
    /// Starts with a snapshot that serves already.
    pub fn new(held: Arc<Snapshot>, at: Position) -> Self {
        Self { held, at, ask_all: false, rejected: None }
    }

    /// What serves traffic.
    pub fn held(&self) -> &Arc<Snapshot> {
        &self.held
    }

    /// Where it was published.
    pub fn position(&self) -> &Position {
        &self.at
    }

    /// What the next poll says: the position it acknowledges, and what it refuses.
    pub fn ask(&self) -> (Position, Option<(u64, &str)>) {
        if self.ask_all {
            // Nothing is refused here: control holds the poll of a proxy that refused the newest.
            return (Position::default(), None);
        }
        let rejected = self.rejected.as_ref();
        (self.at.clone(), rejected.map(|rejection| (rejection.position.index, rejection.reason.as_str())))
    }

    /// Judges an answer to [`Follower::ask`].
    pub fn hear(&mut self, answer: Polled) -> Step {
        match answer {
            Polled::Unchanged(to) => self.unchanged(to),
            Polled::Unreadable(to, reason) if self.is_news(&to) => self.reject(to, &reason),
            Polled::News(to, update) if self.is_news(&to) => self.news(to, update),
            Polled::News(..) | Polled::Unreadable(..) => Step::Later("it was refused already"),
        }
    }

    /// The snapshot of [`Step::Apply`] serves traffic now.
    pub fn applied(&mut self, snapshot: Arc<Snapshot>, to: Position) {
        *self = Self::new(snapshot, to);
    }

    fn unchanged(&mut self, to: Position) -> Step {
        if self.at.index > 0 && !self.ask_all && to.hash == self.held.hash() {
            // The same content under another name: a control that restarted, or counted on without news.
            self.at = to;
            return Step::Confirm;
        }
        match &self.rejected {
            // Nothing newer than what was refused: control names that, or what this proxy said it holds.
            Some(rejected) if rejected.position == to || self.at == to => Step::Keep,
            _ => {
                self.ask_all = true;
                self.rejected = None;
                Step::Later("it says unchanged of something that is not held")
            }
        }
    }

    fn news(&mut self, to: Position, update: SnapshotUpdate) -> Step {
        let is_delta = matches!(update, SnapshotUpdate::Delta { .. });
        match update.lead(&self.held, &self.at, &to) {
            Ok(snapshot) if self.at.index > 0 && is_same(&snapshot, &self.held) => {
                let held = Arc::clone(&self.held);
                self.applied(held, to);
                Step::Confirm
            }
            Ok(snapshot) => Step::Apply(Arc::new(snapshot), to),
            Err(_) if is_delta && !self.ask_all => {
                self.ask_all = true;
                Step::AskAll
            }
            Err(mismatch) => self.reject(to, &mismatch.to_string()),
        }
    }

    fn reject(&mut self, position: Position, reason: &str) -> Step {
        let reason = reason.chars().take(REASON_MAX_CHARS).collect();
        let rejection = Rejection { position, reason };
        self.ask_all = false;
        self.rejected = Some(rejection.clone());
        Step::Reject(rejection)
    }

    fn is_news(&self, to: &Position) -> bool {
        self.rejected.as_ref().is_none_or(|rejected| rejected.position != *to)
    }
}

/// The hash does not cover whose it is.
fn is_same(one: &Snapshot, other: &Snapshot) -> bool {
    one.hash() == other.hash() && one.namespace() == other.namespace()
}

#[cfg(test)]
mod tests {
    use control_api::{Delta, Rule, SnapshotAnswer};
    use registry_api::{ContentHash, Reason};

    use super::*;

    fn snapshot(revision: u64) -> Snapshot {
        let rule = format!(
            r#"{{"id":"r","destination":"d","priority":{revision},"route":{{"backends":[{{"tags":["v1"]}}]}}}}"#
        );
        let rule: Rule = serde_json::from_str(&rule).unwrap();
        Snapshot::new(revision, [Arc::new(rule)], [])
    }

    fn full(index: u64, revision: u64) -> Polled {
        polled(SnapshotAnswer::full("e", index, &snapshot(revision)))
    }

    fn delta(from: u64, index: u64, old: u64, new: u64) -> Polled {
        let delta = snapshot(old).delta_to(&snapshot(new), |_| Reason::Expired);
        polled(SnapshotAnswer::delta("e", from, index, &snapshot(new), delta))
    }

    fn polled(answer: SnapshotAnswer) -> Polled {
        let (position, update) = answer.into_update().unwrap();
        Polled::News(position, update)
    }

    fn at(index: u64, revision: u64) -> Position {
        Position { epoch: "e".to_owned(), index, hash: snapshot(revision).hash() }
    }

    /// Takes the answer and says that it serves.
    fn apply(follower: &mut Follower, answer: Polled) {
        let Step::Apply(snapshot, to) = follower.hear(answer) else { panic!("not applied") };
        follower.applied(snapshot, to);
    }

    #[test]
    fn a_position_is_acknowledged_only_once_it_serves() {
        let mut follower = Follower::default();
        assert_eq!(follower.ask(), (Position::default(), None));
        let Step::Apply(first, to) = follower.hear(full(3, 1)) else { panic!() };
        assert_eq!(follower.ask().0.index, 0, "heard, but not applied");
        follower.applied(first, to);
        assert_eq!(follower.ask(), (at(3, 1), None));
        apply(&mut follower, delta(3, 4, 1, 2));
        assert_eq!((follower.ask().0, follower.held().revision()), (at(4, 2), 2));
    }

    #[test]
    fn a_delta_that_does_not_fit_asks_for_everything_and_a_full_one_that_lies_is_refused() {
        let mut follower = Follower::default();
        apply(&mut follower, full(3, 1));
        assert_eq!(follower.hear(delta(2, 5, 1, 2)), Step::AskAll);
        assert_eq!(follower.ask(), (Position::default(), None));
        let Polled::News(mut to, update) = full(5, 2) else { panic!() };
        to.hash = ContentHash::of(b"other");
        let Step::Reject(rejection) = follower.hear(Polled::News(to.clone(), update)) else { panic!() };
        assert_eq!(rejection.position, to);
        assert_eq!(follower.ask(), (at(3, 1), Some((5, rejection.reason.as_str()))));
        assert_eq!(follower.held().revision(), 1, "the old one serves on");
        assert_eq!(follower.hear(Polled::Unchanged(to)), Step::Keep, "nothing newer than what was refused");
        apply(&mut follower, full(6, 3));
        assert_eq!(follower.ask(), (at(6, 3), None), "the refusal is over");
    }

    #[test]
    fn what_cannot_be_decoded_is_refused_once_with_a_bounded_reason() {
        let mut follower = Follower::default();
        apply(&mut follower, full(3, 1));
        let unreadable = || Polled::Unreadable(at(4, 9), "ü".repeat(1000));
        let Step::Reject(rejection) = follower.hear(unreadable()) else { panic!() };
        assert_eq!(rejection.reason.chars().count(), REASON_MAX_CHARS);
        assert!(matches!(follower.hear(unreadable()), Step::Later(_)), "no hot loop");
        assert_eq!(follower.ask().0, at(3, 1));
        apply(&mut follower, delta(3, 5, 1, 2));
    }

    #[test]
    fn a_proxy_that_refused_its_first_snapshot_waits_for_a_newer_one() {
        let mut follower = Follower::default();
        follower.hear(Polled::Unreadable(at(4, 9), "no".to_owned()));
        assert_eq!(follower.hear(Polled::Unchanged(Position::default())), Step::Keep);
        assert_eq!(follower.ask(), (Position::default(), Some((4, "no"))));
        apply(&mut follower, full(5, 1));
    }

    #[test]
    fn equal_content_under_another_name_is_adopted_without_a_swap() {
        let mut follower = Follower::default();
        apply(&mut follower, full(3, 1));
        let renamed = Position { epoch: "f".to_owned(), index: 1, hash: snapshot(1).hash() };
        assert_eq!(follower.hear(Polled::Unchanged(renamed.clone())), Step::Confirm);
        assert_eq!(follower.ask().0, renamed);
        assert_eq!(follower.hear(full(9, 1)), Step::Confirm);
        assert_eq!(follower.ask().0, at(9, 1));
    }

    #[test]
    fn equal_content_that_is_somebody_elses_is_applied() {
        let mut follower = Follower::new(Arc::new(snapshot(1)), at(3, 1));
        let mut blue = snapshot(1);
        blue.set_namespace(registry_api::Namespace::new("blue").unwrap());
        apply(&mut follower, polled(SnapshotAnswer::full("f", 1, &blue)));
        assert_eq!(follower.held().namespace().as_str(), "blue");
    }

    #[test]
    fn unchanged_of_something_else_asks_for_everything_later() {
        for start in [Follower::default(), Follower::new(Arc::new(snapshot(1)), at(3, 1))] {
            let mut follower = start;
            assert!(matches!(follower.hear(Polled::Unchanged(at(4, 2))), Step::Later(_)));
            assert_eq!(follower.ask(), (Position::default(), None));
        }
    }

    #[test]
    fn a_refusal_is_dropped_when_control_begins_a_new_life() {
        let mut follower = Follower::new(Arc::new(snapshot(1)), at(3, 1));
        follower.hear(Polled::Unreadable(at(40, 9), "no".to_owned()));
        let reborn = Position { epoch: "f".to_owned(), index: 2, hash: snapshot(5).hash() };
        assert!(matches!(follower.hear(Polled::Unchanged(reborn)), Step::Later(_)));
        assert_eq!(follower.ask(), (Position::default(), None), "index 40 means nothing there");
    }

    #[test]
    fn the_first_snapshot_is_applied_even_when_it_is_empty() {
        let empty = SnapshotAnswer::full("e", 1, &Snapshot::default());
        let mut follower = Follower::default();
        apply(&mut follower, polled(empty));
        assert_eq!(follower.position().index, 1);
        let same = SnapshotAnswer::delta("e", 1, 2, &Snapshot::default(), Delta::default());
        assert_eq!(follower.hear(polled(same)), Step::Confirm);
    }
}
