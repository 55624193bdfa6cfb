//! What an action rule does to a request once it applies: delays, an abort, traces (spec 2.6). It decides;
//! waiting and failing is the engine's.

use std::sync::Arc;

use control_api::{AbortCode, Action, Draw, Rule, RuleId};

use crate::decision::{ActionRuleRef, Faults, Fired};
use crate::matching::Matcher;
use crate::recorder::Recorder;
use crate::seed::{Purpose, Seed, rule_key};

/// An action rule that can apply on this proxy.
pub struct ActionRule {
    pub(crate) rule: Arc<Rule>,
    pub(crate) matcher: Matcher,
    key: u64,
}

/// What became of one action.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    /// It happened, with this draw; traces draw nothing.
    Fired(Option<Draw>),
    /// Its draw lies outside its share.
    Spared(Draw),
    /// The chosen backend does not carry its tags.
    OtherTags,
    /// An abort before it ended the request.
    AfterAbort,
    /// It stands beyond [`Fired::ACTIONS_MAX`].
    Beyond,
}

impl ActionRule {
    pub(crate) fn new(rule: &Arc<Rule>, matcher: Matcher) -> Self {
        Self { rule: Arc::clone(rule), matcher, key: rule_key(&rule.id) }
    }

    /// The rule's id.
    pub fn id(&self) -> &RuleId {
        &self.rule.id
    }

    /// The rule's actions; a place in [`Fired`] is a place here.
    pub fn actions(&self) -> &[Action] {
        self.rule.actions()
    }

    /// The actions that happened, in order.
    pub fn fired(&self, fired: Fired) -> impl Iterator<Item = &Action> {
        self.actions().iter().enumerate().filter(move |(place, _)| fired.contains(*place)).map(|(_, a)| a)
    }

    /// The pairs to add to the access log, in order.
    pub fn traces(&self, fired: Fired) -> impl Iterator<Item = (&str, &str)> {
        self.fired(fired).filter_map(|action| match action {
            Action::Trace { log_key, log_value, .. } => Some((log_key.as_str(), log_value.as_str())),
            Action::Delay { .. } | Action::Abort { .. } => None,
        })
    }

    /// Runs the actions in order, each with its own draw, up to the first abort that happens. `tags` are
    /// those of the chosen backend; without a chosen one there are none, and only untagged actions run.
    pub(crate) fn run<R: Recorder>(
        &self,
        at: ActionRuleRef,
        tags: &[String],
        seed: Seed,
        notes: &mut R,
    ) -> (Faults, Option<AbortCode>) {
        let mut faults = Faults { rule: Some(at), ..Faults::default() };
        let mut abort = None;
        for (place, action) in self.actions().iter().enumerate() {
            let fate = self.fate(place, action, tags, seed, abort.is_some());
            notes.action(action, fate);
            if let Fate::Fired(_) = fate {
                faults.fired.insert(place);
                match action {
                    Action::Delay { duration, .. } => faults.delay = faults.delay.saturating_add(*duration),
                    Action::Abort { code, .. } => abort = Some(*code),
                    Action::Trace { .. } => {}
                }
            }
        }
        (faults, abort)
    }

    fn fate(&self, place: usize, action: &Action, tags: &[String], seed: Seed, aborted: bool) -> Fate {
        let Some(number) = u8::try_from(place).ok().filter(|_| place < Fired::ACTIONS_MAX) else {
            return Fate::Beyond;
        };
        if aborted {
            return Fate::AfterAbort;
        }
        if !action.tags().iter().all(|tag| tags.contains(tag)) {
            return Fate::OtherTags;
        }
        match action {
            Action::Trace { .. } => Fate::Fired(None),
            Action::Delay { probability, .. } | Action::Abort { probability, .. } => {
                let draw = seed.draw(Purpose::Action(number), self.key);
                if probability.contains(draw) { Fate::Fired(Some(draw)) } else { Fate::Spared(draw) }
            }
        }
    }
}
