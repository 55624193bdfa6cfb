//! Why a request goes where it goes: the decision retold, as JSON for programs and as text for people. It
//! asks the code that decides, and never repeats header values, since they hold credentials.

use control_api::{AbortCode, Draw};
use serde::Serialize;

use crate::backend::Attach;
use crate::decision::{Decision, Outcome};
use crate::head::RequestHead;
use crate::notes::{Notes, in_order};
use crate::seed::Seed;
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
