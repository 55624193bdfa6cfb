//! The recorder behind an explanation: what the law tells, kept in owned form and put in order. It judges
//! nothing.

use control_api::{AbortCode, Action, Clause, Draw, Host, Key, Length, PathMatch, Rule, RuleId};

use crate::explain::{ActionNote, AddressedBy, RuleNote};
use crate::fault::Fate;
use crate::matching::{Conjunction, Elsewhere, Found, Miss};
use crate::recorder::Recorder;
use crate::service::{RouteRule, Silenced};

/// What the law told, in owned form.
#[derive(Default)]
pub(crate) struct Notes {
    /// Rules that capture by path, as far as their condition held.
    pub(crate) captures: Vec<Noted>,
    /// Rules of the service that is named.
    pub(crate) rules: Vec<Noted>,
    /// What named it; `None` when a rule captured the request.
    pub(crate) named: Option<AddressedBy>,
    /// What the backend was drawn with.
    pub(crate) draw: Option<Draw>,
    /// What kept the backend.
    pub(crate) sticky: Option<String>,
    pub(crate) action_rules: Vec<Noted>,
    pub(crate) actions: Vec<ActionNote>,
}

/// A rule's note with what orders it.
pub(crate) struct Noted {
    priority: i64,
    id: RuleId,
    note: RuleNote,
}

impl Recorder for Notes {
    fn captures(&mut self, rule: &Rule, found: Result<(), Miss<'_>>) {
        self.captures.push(Noted::asked(rule, found));
    }

    fn named(&mut self, by: AddressedBy, routes: &[RouteRule], silenced: &[Silenced]) {
        self.named = Some(by);
        let captured = |rule: &Rule| self.captures.iter().any(|noted| noted.id == rule.id);
        let paths = routes.iter().filter(|route| !captured(&route.rule)).filter_map(|route| {
            let why = match route.capture.as_ref()?.condition() {
                PathMatch::Exact(path) => format!("the path is not {path}"),
                PathMatch::Prefix(prefix) => format!("the path does not begin with {prefix}"),
            };
            Some(Noted::of(&route.rule, Some(why)))
        });
        let others = silenced.iter().filter(|silenced| silenced.rule.route().is_some()).map(Noted::silenced);
        self.rules = paths.chain(others).collect();
    }

    fn route(&mut self, rule: &Rule, found: Result<(), Miss<'_>>) {
        self.rules.push(Noted::asked(rule, found));
    }

    fn sticky(&mut self, key: &Key, found: bool) {
        let absent = if found { "" } else { ", which is absent" };
        self.sticky = Some(format!("{}{absent}", key.describe()));
    }

    fn split(&mut self, draw: Draw) {
        self.draw = Some(draw);
    }

    fn actions(&mut self, silenced: &[Silenced]) {
        let others = silenced.iter().filter(|silenced| silenced.rule.route().is_none());
        self.action_rules = others.map(Noted::silenced).collect();
    }

    fn action_rule(&mut self, rule: &Rule, found: Result<(), Miss<'_>>) {
        self.action_rules.push(Noted::asked(rule, found));
    }

    fn action(&mut self, action: &Action, fate: Fate) {
        let (draw, why) = match fate {
            Fate::Fired(draw) => (draw, None),
            Fate::Spared(draw) => (Some(draw), Some("its draw is outside its share")),
            Fate::OtherTags => (None, Some("the chosen backend does not carry its tags")),
            Fate::AfterAbort => (None, Some("an abort came before it")),
            Fate::Disabled => (None, Some("the faults of the namespace are disabled")),
            Fate::Over(draw) => (Some(draw), Some("its time is over")),
            Fate::Full(draw) => (Some(draw), Some("as many as may meet it have met it")),
            Fate::Beyond => (None, Some("it stands beyond the 64 actions of a rule that run")),
        };
        let probability = action.chance().map(|chance| chance.probability.fraction());
        let fired = matches!(fate, Fate::Fired(_));
        let draw = draw.map(Draw::get);
        self.actions.push(ActionNote { action: described(action), probability, draw, fired, why });
    }
}

impl Noted {
    fn of(rule: &Rule, why: Option<String>) -> Self {
        let note = RuleNote {
            id: rule.id.to_string(),
            priority: rule.priority,
            destination: rule.destination.to_string(),
            matched: why.is_none(),
            why,
        };
        Self { priority: rule.priority, id: rule.id.clone(), note }
    }

    fn asked(rule: &Rule, found: Result<(), Miss<'_>>) -> Self {
        let why = found.err().map(|miss| match miss {
            Miss::Header(test, Found::Absent) => format!("header {} is absent", test.name()),
            Miss::Header(test, _) => format!("header {} does not match {}", test.name(), test.pattern()),
            Miss::Test(test, Found::Absent) => format!("{} is absent", test.subject().0),
            Miss::Test(test, _) => {
                let (subject, wanted) = test.subject();
                format!("{subject} does not match {wanted}")
            }
            Miss::Edge => format!("its edge {} is elsewhere", edge_of(rule)),
            Miss::Any(elements) => {
                let elements = elements.iter().map(wanted);
                format!("no element of any holds: {}", elements.collect::<Vec<_>>().join("; or "))
            }
            Miss::None(element) => format!("an element of none holds: {}", wanted(element)),
        });
        Self::of(rule, why)
    }

    fn silenced(silenced: &Silenced) -> Self {
        let matching = &silenced.rule.matching;
        let why = match silenced.why {
            Elsewhere::Source(place) => {
                let clause = place.map_or(Some(&matching.own), |place| matching.all.get(place));
                format!("its source {} is not this proxy", clause.map(source_of).unwrap_or_default())
            }
            Elsewhere::Any => {
                let sources = matching.any.iter().map(source_of).collect::<Vec<_>>().join("; or ");
                format!("every element of any is for another source: {sources}")
            }
            Elsewhere::None(place) => {
                let source = matching.none.get(place).map(source_of).unwrap_or_default();
                format!("an element of none is this proxy: {source}")
            }
        };
        Self::of(&silenced.rule, Some(why))
    }
}

/// Host and path of a rule's edge, as far as it names them.
fn edge_of(rule: &Rule) -> String {
    let edge = rule.route().and_then(|route| route.edge.as_ref());
    let host = edge.and_then(|edge| edge.host.as_ref()).map_or("", Host::as_str);
    format!("{host}{}", edge.map_or("", |edge| &edge.path_prefix))
}

/// What an element asks for beside its source.
fn wanted(element: &Conjunction) -> String {
    let tests = element.subjects().map(|(subject, wanted)| format!("{subject} matches {wanted}"));
    tests.collect::<Vec<_>>().join(", ")
}

/// Whom a clause is for: `service:tag,tag`.
fn source_of(clause: &Clause) -> String {
    let Some(source) = &clause.source else { return String::new() };
    let separator = if source.tags.is_empty() { "" } else { ":" };
    format!("{}{separator}{}", source.name, source.tags.join(","))
}

/// In order of precedence, up to the first that matched: whatever comes after it was not needed.
pub(crate) fn in_order(mut notes: Vec<Noted>) -> Vec<RuleNote> {
    notes.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.id.cmp(&b.id)));
    let tried = notes.iter().position(|noted| noted.note.matched).map_or(notes.len(), |at| at + 1);
    notes.into_iter().take(tried).map(|noted| noted.note).collect()
}

fn described(action: &Action) -> String {
    let s = |time: &std::time::Duration| time.as_secs_f64();
    match action {
        Action::Delay { length, .. } => match length {
            Length::Fixed(duration) => format!("delay {}s", s(duration)),
            Length::Uniform { min, max } => format!("delay uniform {}s to {}s", s(min), s(max)),
            Length::Normal { mean, stddev } => format!("delay normal {}s +- {}s", s(mean), s(stddev)),
            Length::Exponential { mean } => format!("delay exponential {}s", s(mean)),
        },
        Action::Abort { code, .. } => match code {
            AbortCode::Status(status) => format!("abort {status}"),
            AbortCode::Close(code) => format!("abort {code}"),
            AbortCode::Reset => "abort reset".to_owned(),
            AbortCode::Grpc(status) => format!("abort grpc {status}"),
        },
        Action::Bandwidth { bytes_per_s, .. } => format!("bandwidth {bytes_per_s} bytes/s"),
        Action::Truncate { after_bytes, .. } => format!("truncate after {after_bytes} bytes"),
        Action::Trace { log_key, log_value, .. } => format!("trace {log_key}={log_value}"),
    }
}
