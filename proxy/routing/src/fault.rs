//! What an action rule does to a request once it applies: delays, an abort, limits on the answer, traces (spec
//! 2.6, docs/rules.md). It decides; waiting and failing is the engine's.

use std::sync::Arc;
use std::time::Duration;

use control_api::{AbortCode, Action, Draw, Length, Rule, RuleId};

use crate::circumstances::{Circumstances, LimitedFault};
use crate::decision::{ActionRuleRef, Faults, Fired};
use crate::length;
use crate::matching::Matcher;
use crate::recorder::Recorder;
use crate::seed::{Half, Purpose, Seed, rule_key};

/// An action rule that can apply on this proxy.
pub struct ActionRule {
    pub(crate) rule: Arc<Rule>,
    pub(crate) matcher: Matcher,
    key: u64,
    disabled: bool,
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
    /// No fault of the namespace happens.
    Disabled,
    /// Its time is over.
    Over(Draw),
    /// As many requests as may meet it have met it, or do so now.
    Full(Draw),
    /// It stands beyond [`Fired::ACTIONS_MAX`].
    Beyond,
}

impl ActionRule {
    pub(crate) fn new(rule: &Arc<Rule>, matcher: Matcher, disabled: bool) -> Self {
        Self { rule: Arc::clone(rule), matcher, key: rule_key(&rule.id), disabled }
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
            _ => None,
        })
    }

    /// Runs the actions in order, each with its own draw, up to the first abort that happens. `tags` are
    /// those of the chosen backend; without a chosen one there are none, and only untagged actions run.
    pub(crate) fn run<R: Recorder>(
        &self,
        at: ActionRuleRef,
        tags: &[String],
        seed: Seed,
        now: &impl Circumstances,
        notes: &mut R,
    ) -> (Faults, Option<AbortCode>) {
        let mut faults = Faults { rule: Some(at), ..Faults::default() };
        let mut abort = None;
        for (place, action) in self.actions().iter().enumerate() {
            let fate = match u8::try_from(place).ok().filter(|_| place < Fired::ACTIONS_MAX) {
                None => Fate::Beyond,
                Some(_) if abort.is_some() => Fate::AfterAbort,
                Some(number) => self.fate(number, action, tags, seed, now),
            };
            notes.action(action, fate);
            if let Fate::Fired(_) = fate {
                faults.fired.insert(place);
                match action {
                    Action::Delay { length, .. } => {
                        let delay = self.length(place as u8, *length, seed);
                        faults.delay = faults.delay.saturating_add(delay);
                    }
                    Action::Abort { code, .. } => abort = Some(*code),
                    Action::Bandwidth { bytes_per_s, .. } => {
                        faults.bytes_per_s = Some(tighter(faults.bytes_per_s, *bytes_per_s));
                    }
                    Action::Truncate { after_bytes, .. } => {
                        faults.after_bytes = Some(tighter(faults.after_bytes, *after_bytes));
                    }
                    Action::Trace { .. } => {}
                }
            }
        }
        (faults, abort)
    }

    fn length(&self, place: u8, length: Length, seed: Seed) -> Duration {
        let draw = |half| seed.draw(Purpose::Length(place, half), self.key);
        length::drawn(length, || draw(Half::First), || draw(Half::Second))
    }

    fn fate(
        &self,
        place: u8,
        action: &Action,
        tags: &[String],
        seed: Seed,
        now: &impl Circumstances,
    ) -> Fate {
        if !action.tags().iter().all(|tag| tags.contains(tag)) {
            return Fate::OtherTags;
        }
        let Some(chance) = action.chance() else { return Fate::Fired(None) };
        if self.disabled {
            return Fate::Disabled;
        }
        let (draw, limits) = (seed.draw(Purpose::Action(place), self.key), &chance.limits);
        let limited = LimitedFault { rule: &self.rule.id, place: place.into(), limits };
        if !chance.probability.contains(draw) {
            Fate::Spared(draw)
        } else if limits.is_over(|| now.now_unix_s()) {
            Fate::Over(draw)
        } else if limits.is_counted() && !now.admits(&limited) {
            Fate::Full(draw)
        } else {
            Fate::Fired(Some(draw))
        }
    }
}

fn tighter<T: Ord + Copy>(so_far: Option<T>, limit: T) -> T {
    so_far.map_or(limit, |so_far| so_far.min(limit))
}
