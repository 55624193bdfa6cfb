//! One checked rule: a route, actions or a health check for a destination (spec/control-and-proxy.md 2.1, 2.3). Whoever
//! holds a [`Rule`] need not check anything again.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use registry_api::{ContentHash, ServiceName};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::health::HealthCheck;
use crate::matching::Match;
use crate::route::Route;
use crate::wire::{RawAction, RawHealthCheck, RawMatch, RawRoute, RawRule};

/// Why a rule is refused (`error_invalid_rule`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadRule {
    /// The field, as a path of the wire's names.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl BadRule {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// Identity of a rule within its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(String);

impl RuleId {
    /// Any non-empty text, else `None`.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (!text.is_empty()).then_some(Self(text))
    }

    /// The id as it appears on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a rule does: one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Chooses backends.
    Route(Box<Route>),
    /// Delays, aborts, traces; at least one.
    Actions(Vec<Action>),
    /// Asks instances whether they are well.
    HealthCheck(HealthCheck),
}

/// A rule that is right by construction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawRule", into = "RawRule")]
pub struct Rule {
    /// Identity within the namespace.
    pub id: RuleId,
    /// Higher is evaluated first.
    pub priority: i64,
    /// Labels of the rule itself.
    pub tags: Vec<String>,
    /// The service the rule is about.
    pub destination: ServiceName,
    /// When it applies.
    pub matching: Match,
    /// What it does.
    pub body: Body,
}

impl Rule {
    /// Precedence: higher priority first, then smaller id, so that every proxy agrees (spec 2.7).
    pub fn precedence(&self, other: &Self) -> Ordering {
        other.priority.cmp(&self.priority).then_with(|| self.id.cmp(&other.id))
    }

    /// The route, when it is a route rule.
    pub fn route(&self) -> Option<&Route> {
        match &self.body {
            Body::Route(route) => Some(route),
            Body::Actions(_) | Body::HealthCheck(_) => None,
        }
    }

    /// The health check, when it is a rule of one.
    pub fn health_check(&self) -> Option<&HealthCheck> {
        match &self.body {
            Body::HealthCheck(check) => Some(check),
            Body::Route(_) | Body::Actions(_) => None,
        }
    }

    /// The actions; empty for any other rule.
    pub fn actions(&self) -> &[Action] {
        match &self.body {
            Body::Route(_) | Body::HealthCheck(_) => &[],
            Body::Actions(actions) => actions,
        }
    }

    /// The hash of the rule as written.
    pub fn content_hash(&self) -> ContentHash {
        ContentHash::of(&serde_json::to_vec(self).expect("a rule is plain data and always encodes"))
    }
}

impl TryFrom<RawRule> for Rule {
    type Error = BadRule;

    /// Checks in the order of spec 2.3. An `id` must be there: whoever accepts rules without one gives them one first.
    fn try_from(raw: RawRule) -> Result<Self, BadRule> {
        let destination = ServiceName::new(&raw.destination)
            .map_err(|_| BadRule::new("destination", "is missing or empty"))?;
        let body = match (raw.route, raw.actions.is_empty(), raw.health_check) {
            (Some(route), true, None) => Body::Route(Box::new(route.try_into()?)),
            (None, true, Some(check)) => Body::HealthCheck(check.try_into()?),
            (None, false, None) => {
                let actions = raw.actions.into_iter().map(Action::try_from);
                Body::Actions(fitting(actions.collect::<Result<Vec<_>, _>>()?))
            }
            (Some(_), false, _) => {
                return Err(BadRule::new("route", "a rule has a route or actions, not both"));
            }
            (_, _, Some(_)) => {
                return Err(BadRule::new("health_check", "goes with neither a route nor actions"));
            }
            (None, true, None) => return Err(BadRule::new("route", "a rule needs a route or actions")),
        };
        let matching = raw.matching.map(Match::try_from).transpose()?.unwrap_or_default();
        if matches!(body, Body::HealthCheck(_)) && !matching.is_of_source() {
            return Err(BadRule::new("match", "of a health check takes nothing but a source"));
        }
        let id = RuleId::new(raw.id).ok_or_else(|| BadRule::new("id", "is empty"))?;
        Ok(Self { id, priority: raw.priority, tags: fitting(raw.tags), destination, matching, body })
    }
}

impl From<&Rule> for RawRule {
    fn from(rule: &Rule) -> Self {
        Self {
            id: rule.id.to_string(),
            priority: rule.priority,
            tags: rule.tags.clone(),
            destination: rule.destination.to_string(),
            matching: (!rule.matching.is_everything()).then(|| RawMatch::from(&rule.matching)),
            route: rule.route().map(RawRoute::from),
            actions: rule.actions().iter().map(RawAction::from).collect(),
            health_check: rule.health_check().map(RawHealthCheck::from),
        }
    }
}

impl From<Rule> for RawRule {
    fn from(rule: Rule) -> Self {
        Self::from(&rule)
    }
}

/// The same list without room for more. Rules are kept by the ten thousand, and decoding makes room for four of everything.
pub(crate) fn fitting<T>(mut list: Vec<T>) -> Vec<T> {
    list.shrink_to_fit();
    list
}

/// Refuses duplicates.
pub(crate) fn distinct(field: &'static str, list: &[String]) -> Result<(), BadRule> {
    let set: BTreeSet<_> = list.iter().collect();
    if set.len() < list.len() { Err(BadRule::new(field, "holds a duplicate")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
