//! The checked rules of one namespace, and how a write changes them (spec/control-and-proxy.md 1.4). It
//! stores nothing and answers nobody: an edit gives a new book, or says why not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use control_api::{BadRule, RawRule, Rule, RuleId};

/// How many rules a namespace may hold.
pub const RULES_MAX: usize = 100_000;
/// How many bytes its rules may take as JSON.
pub const RULES_BYTES_MAX: usize = 64 << 20;

/// Route rules or action rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rules that choose backends.
    Route,
    /// Rules that delay, abort and trace.
    Actions,
}

/// Selects rules: kinds of conditions are ANDed, an empty one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// The id is one of these.
    pub ids: BTreeSet<String>,
    /// The rule carries every one of these.
    pub tags: BTreeSet<String>,
    /// The destination is one of these.
    pub destinations: BTreeSet<String>,
    /// The rule is of this kind.
    pub kind: Option<Kind>,
}

impl Filter {
    /// Whether it selects the rule.
    pub fn selects(&self, rule: &Rule) -> bool {
        let among = |set: &BTreeSet<String>, value: &str| set.is_empty() || set.contains(value);
        among(&self.ids, rule.id.as_str())
            && among(&self.destinations, rule.destination.as_str())
            && self.carried_by(rule)
            && self.kind.is_none_or(|kind| match kind {
                Kind::Route => rule.route().is_some(),
                Kind::Actions => !rule.actions().is_empty(),
            })
    }

    /// Both lists come from outside and may be long.
    fn carried_by(&self, rule: &Rule) -> bool {
        self.tags.is_empty() || {
            let tags: BTreeSet<_> = rule.tags.iter().collect();
            self.tags.iter().all(|tag| tags.contains(tag))
        }
    }
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Adds rules; a rule whose id is there already replaces it. At least one.
    Upsert(Vec<RawRule>),
    /// Replaces whole rules, all of which must be there. At least one.
    Replace(Vec<RawRule>),
    /// Takes out what the filter selects, which may be nothing.
    Delete(Filter),
    /// Disables every fault of the namespace, or lets them happen again. The rules stay.
    Faults {
        /// Whether no fault happens.
        disabled: bool,
    },
}

impl Edit {
    /// Faults that are to last some time end so long after `now`.
    #[must_use]
    pub fn begun(mut self, now: SystemTime) -> Self {
        match &mut self {
            Self::Upsert(rules) | Self::Replace(rules) => rules.iter_mut().for_each(|rule| rule.begin(now)),
            Self::Delete(_) | Self::Faults { .. } => {}
        }
        self
    }
}

/// Why an edit changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The list is empty.
    #[error("no rules provided")]
    NoRules,
    /// A rule does not compile.
    #[error("rule {index} (id `{id}`): {why}")]
    Invalid {
        /// Its place in the request, from 0.
        index: usize,
        /// Its id, as far as it has one.
        id: String,
        /// What is wrong.
        why: BadRule,
    },
    /// The namespace would hold more than it may.
    #[error("a namespace holds at most {RULES_MAX} rules and {RULES_BYTES_MAX} bytes of them")]
    TooMuch,
    /// A rule that should be there is not.
    #[error("rule `{id}` does not exist")]
    NotFound {
        /// Its id; empty when it was missing.
        id: String,
    },
}

/// What one accepted edit did: all that a store or a snapshot has to repeat.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// The revision it led to.
    pub revision: u64,
    /// Added or replaced, by id.
    pub put: Vec<Arc<Rule>>,
    /// Taken out, by id.
    pub delete: Vec<RuleId>,
    /// Whether no fault happens from now on; `None` when that stays as it was.
    pub faults_disabled: Option<bool>,
}

/// An accepted edit.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The book after it.
    pub book: RuleBook,
    /// The way there.
    pub changes: Changes,
    /// The ids of the given rules, in the order of the request.
    pub ids: Vec<RuleId>,
}

/// The rules of one namespace and the count of accepted writes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RuleBook {
    revision: u64,
    rules: BTreeMap<RuleId, Arc<Rule>>,
    faults_disabled: bool,
    /// Of the rules as JSON.
    bytes: usize,
}

impl RuleBook {
    /// The book as a store kept it.
    pub fn restore(revision: u64, rules: impl IntoIterator<Item = Arc<Rule>>) -> Self {
        let mut this = Self { revision, ..Self::default() };
        rules.into_iter().for_each(|rule| this.put(rule));
        this
    }

    /// The same book with the switch as a store kept it.
    #[must_use]
    pub fn with_faults_disabled(self, disabled: bool) -> Self {
        Self { faults_disabled: disabled, ..self }
    }

    /// Whether no fault happens.
    pub fn faults_disabled(&self) -> bool {
        self.faults_disabled
    }

    /// Count of accepted writes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Every rule, by id.
    pub fn rules(&self) -> &BTreeMap<RuleId, Arc<Rule>> {
        &self.rules
    }

    /// How many bytes the rules take as JSON.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rules the filter selects, by id.
    pub fn select(&self, filter: &Filter) -> Vec<Arc<Rule>> {
        self.rules.values().filter(|rule| filter.selects(rule)).cloned().collect()
    }

    /// The first id the filter names that is not there.
    pub fn missing<'a>(&self, filter: &'a Filter) -> Option<&'a str> {
        let is_there = |id: &str| RuleId::new(id).is_some_and(|id| self.rules.contains_key(&id));
        filter.ids.iter().map(String::as_str).find(|id| !is_there(id))
    }

    fn put(&mut self, rule: Arc<Rule>) {
        self.bytes += size(&rule);
        if let Some(before) = self.rules.insert(rule.id.clone(), rule) {
            self.bytes -= size(&before);
        }
    }

    fn delete(&mut self, id: &RuleId) {
        if let Some(rule) = self.rules.remove(id) {
            self.bytes -= size(&rule);
        }
    }

    /// Applies an edit as a whole or not at all. Every accepted edit adds one to the revision, also a
    /// delete that matched nothing. `new_id` names rules that come without an id.
    pub fn edit(&self, edit: Edit, new_id: impl FnMut() -> String) -> Result<Accepted, Refused> {
        let mut book = self.clone();
        book.revision += 1;
        let mut changes = Changes { revision: book.revision, ..Changes::default() };
        let mut ids = Vec::new();
        match edit {
            Edit::Upsert(raw) => {
                let rules = checked(raw, new_id)?;
                ids = rules.iter().map(|rule| rule.id.clone()).collect();
                changes.put = last_of_each(rules);
            }
            Edit::Replace(raw) => {
                // A rule without an id is checked like any other first: 400 comes before 404.
                let unnamed = raw.iter().any(|rule| rule.id.is_empty());
                let rules = checked(raw, || "-".to_owned())?;
                let unknown = rules.iter().find(|rule| !self.rules.contains_key(&rule.id));
                if unnamed {
                    return Err(Refused::NotFound { id: String::new() });
                }
                if let Some(rule) = unknown {
                    return Err(Refused::NotFound { id: rule.id.to_string() });
                }
                ids = rules.iter().map(|rule| rule.id.clone()).collect();
                changes.put = last_of_each(rules);
            }
            Edit::Faults { disabled } => {
                book.faults_disabled = disabled;
                changes.faults_disabled = Some(disabled);
            }
            Edit::Delete(filter) => {
                changes.delete = self.select(&filter).into_iter().map(|rule| rule.id.clone()).collect();
            }
        }
        changes.put.iter().for_each(|rule| book.put(Arc::clone(rule)));
        changes.delete.iter().for_each(|id| book.delete(id));
        // Whoever holds more already, from a store that allowed it, may make it less.
        if book.rules.len() > RULES_MAX.max(self.rules.len()) || book.bytes > RULES_BYTES_MAX.max(self.bytes)
        {
            return Err(Refused::TooMuch);
        }
        Ok(Accepted { book, changes, ids })
    }
}

fn checked(raw: Vec<RawRule>, mut new_id: impl FnMut() -> String) -> Result<Vec<Arc<Rule>>, Refused> {
    if raw.is_empty() {
        return Err(Refused::NoRules);
    }
    let check = |(index, mut raw): (usize, RawRule)| {
        let id = raw.id.clone();
        if raw.id.is_empty() {
            raw.id = new_id();
        }
        Rule::try_from(raw).map(Arc::new).map_err(|why| Refused::Invalid { index, id, why })
    };
    raw.into_iter().enumerate().map(check).collect()
}

fn size(rule: &Rule) -> usize {
    serde_json::to_vec(rule).expect("a rule is plain data and always encodes").len()
}

/// Of two rules with one id in one request the last wins.
fn last_of_each(rules: Vec<Arc<Rule>>) -> Vec<Arc<Rule>> {
    let by_id: BTreeMap<_, _> = rules.into_iter().map(|rule| (rule.id.clone(), rule)).collect();
    by_id.into_values().collect()
}

#[cfg(test)]
mod tests;
