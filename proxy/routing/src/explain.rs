//! Why a request goes where it goes: the decision retold, as JSON for programs and as text for people. It is
//! recorded by the code that decides; header values are never repeated, since they hold credentials.

use control_api::{AbortCode, Action, Draw, PathMatch, Rule, RuleId};
use serde::Serialize;

use crate::backend::Attach;
use crate::decision::{Decision, Outcome};
use crate::fault::Fate;
use crate::head::RequestHead;
use crate::matching::{Elsewhere, Found, Miss};
use crate::recorder::Recorder;
use crate::seed::Seed;
use crate::service::{RouteRule, Silenced};
use crate::table::RouteTable;

/// A decision and how it came about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The decision itself.
    #[serde(skip)]
    pub decision: Decision,
    /// The revision of the rules decided by.
    pub revision: u64,
    /// The service the request is for; `None` when it names none that is known.
    pub service: Option<String>,
    /// What named the service.
    pub addressed_by: Option<AddressedBy>,
    /// The route rules tried, in order, up to the one that matched.
    pub rules: Vec<RuleNote>,
    /// The draw that chose among the backends of the rule.
    pub draw: Option<f64>,
    /// The backends of the rule that matched, or the default one.
    pub backends: Vec<BackendNote>,
    /// The instances among which the chosen backend balances.
    pub instances: Vec<InstanceNote>,
    /// How it balances.
    pub lb_type: Option<&'static str>,
    /// The action rules tried, in order, up to the one that matched.
    pub action_rules: Vec<RuleNote>,
    /// What became of the actions of the rule that matched, in order.
    pub actions: Vec<ActionNote>,
    /// The end of the matter.
    pub outcome: End,
}

/// What named the service of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressedBy {
    /// The `uri` of a rule.
    Uri,
    /// The first segment of the path.
    Segment,
}

/// One rule that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleNote {
    /// Its id.
    pub id: String,
    /// Its priority.
    pub priority: i64,
    /// Its destination; one that captures by path may have another than the service.
    pub destination: String,
    /// Whether it matched.
    pub matched: bool,
    /// The clause that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One backend that could be chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackendNote {
    /// `service:tags`, or the service alone.
    pub dst: String,
    /// Its exact share of the requests.
    pub share: f64,
    /// Whether it was chosen.
    pub chosen: bool,
}

/// One instance that can be picked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceNote {
    /// Its id.
    pub id: String,
    /// Where it is dialled.
    pub address: String,
}

/// What became of one action.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActionNote {
    /// What it does.
    pub action: String,
    /// The share of requests it happens to; absent for traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Its own draw, where it came to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draw: Option<f64>,
    /// Whether it happened.
    pub fired: bool,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
}

/// The end of the matter. Times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum End {
    /// It is sent to one of the instances.
    Forward { dst: String, delay: f64, timeout: f64, retries: u32, path: String },
    /// It is failed by an action; negative codes close the connection.
    Abort { dst: String, delay: f64, code: i32 },
    /// It is refused.
    Refuse { status: u16, error: &'static str },
}

impl<A: Attach> RouteTable<A> {
    /// Decides as [`Self::decide`] does, and tells how.
    pub fn explain(&self, head: &RequestHead<'_>, seed: Seed) -> Explanation {
        let mut notes = Notes::default();
        let decision = self.judge(head, seed, &mut notes);
        let service = decision.service.map(|at| self.service(at).name.to_string());
        let chosen = decision.backend.map(|at| self.backend(at));
        let instances = chosen.iter().flat_map(|backend| backend.endpoints.iter()).map(|endpoint| {
            InstanceNote { id: endpoint.instance.id.to_string(), address: endpoint.address.to_string() }
        });
        Explanation {
            revision: self.revision(),
            addressed_by: service.as_ref().map(|_| notes.addressed_by()),
            service,
            rules: in_order(notes.captures).into_iter().chain(in_order(notes.rules)).collect(),
            draw: notes.draw.map(Draw::get),
            backends: self.backend_notes(&decision),
            instances: instances.collect(),
            lb_type: chosen.map(|backend| backend.lb.as_str()),
            action_rules: in_order(notes.action_rules),
            actions: notes.actions,
            outcome: self.end(&decision, head),
            decision,
        }
    }

    fn backend_notes(&self, decision: &Decision) -> Vec<BackendNote> {
        let Some(chosen) = decision.backend else { return Vec::new() };
        let service = self.service(chosen.service);
        let route = service.routes.iter().rfind(|route| route.first <= chosen.place);
        let route = route.and_then(|route| Some((route.first, route.rule.route()?.shares())));
        let (first, shares) = route.unwrap_or_else(|| (0, vec![1.0]));
        (first..)
            .zip(shares)
            .map(|(place, share)| BackendNote {
                dst: service.backends[place as usize].dst.clone(),
                share,
                chosen: place == chosen.place,
            })
            .collect()
    }

    fn end(&self, decision: &Decision, head: &RequestHead<'_>) -> End {
        let delay = decision.faults.delay.as_secs_f64();
        match decision.outcome {
            Outcome::Forward(backend) => End::Forward {
                dst: self.backend(backend).dst.clone(),
                delay,
                timeout: decision.timeout.as_secs_f64(),
                retries: decision.retries,
                path: self.upstream_path(decision, head.path).into_owned(),
            },
            Outcome::Abort(backend, code) => End::Abort {
                dst: self.backend(backend).dst.clone(),
                delay,
                code: match code {
                    AbortCode::Status(status) => i32::from(status),
                    AbortCode::Close(code) => i32::from(code),
                },
            },
            Outcome::Refuse(refusal) => {
                let (status, error) = refusal.status_and_id();
                End::Refuse { status, error }
            }
        }
    }
}

/// What the law told, in owned form.
#[derive(Default)]
struct Notes {
    captures: Vec<Noted>,
    rules: Vec<Noted>,
    is_named: bool,
    draw: Option<Draw>,
    action_rules: Vec<Noted>,
    actions: Vec<ActionNote>,
}

/// A rule's note with what orders it.
struct Noted {
    priority: i64,
    id: RuleId,
    note: RuleNote,
}

impl Recorder for Notes {
    fn captures(&mut self, rule: &Rule, found: Result<(), Miss<'_>>) {
        self.captures.push(Noted::asked(rule, found));
    }

    fn named(&mut self, routes: &[RouteRule], silenced: &[Silenced]) {
        self.is_named = true;
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
            Fate::Beyond => (None, Some("it stands beyond the 64 actions of a rule that run")),
        };
        let probability = match action {
            Action::Delay { probability, .. } | Action::Abort { probability, .. } => {
                Some(probability.fraction())
            }
            Action::Trace { .. } => None,
        };
        let fired = matches!(fate, Fate::Fired(_));
        let draw = draw.map(Draw::get);
        self.actions.push(ActionNote { action: described(action), probability, draw, fired, why });
    }
}

impl Notes {
    fn addressed_by(&self) -> AddressedBy {
        if self.is_named { AddressedBy::Segment } else { AddressedBy::Uri }
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
            Miss::Any => "no element of any holds".to_owned(),
            Miss::None(element) => {
                let tests = element.iter().map(|test| format!("{} matches {}", test.name(), test.pattern()));
                format!("an element of none holds: {}", tests.collect::<Vec<_>>().join(", "))
            }
        });
        Self::of(rule, why)
    }

    fn silenced(silenced: &Silenced) -> Self {
        let why = match silenced.why {
            Elsewhere::Source => "its source is not this proxy",
            Elsewhere::Any => "every element of any is for another source",
            Elsewhere::None => "an element of none is this proxy",
        };
        Self::of(&silenced.rule, Some(why.to_owned()))
    }
}

/// In order of precedence, up to the first that matched: whatever comes after it was not needed.
fn in_order(mut notes: Vec<Noted>) -> Vec<RuleNote> {
    notes.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.id.cmp(&b.id)));
    let tried = notes.iter().position(|noted| noted.note.matched).map_or(notes.len(), |at| at + 1);
    notes.into_iter().take(tried).map(|noted| noted.note).collect()
}

fn described(action: &Action) -> String {
    match action {
        Action::Delay { duration, .. } => format!("delay {}s", duration.as_secs_f64()),
        Action::Abort { code: AbortCode::Status(status), .. } => format!("abort {status}"),
        Action::Abort { code: AbortCode::Close(code), .. } => format!("abort {code}"),
        Action::Trace { log_key, log_value, .. } => format!("trace {log_key}={log_value}"),
    }
}
