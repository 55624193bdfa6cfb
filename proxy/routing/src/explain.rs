//! Why a request goes where it goes: the decision retold, as JSON for programs and as text for people. It
//! asks the code that decides, and never repeats header values, since they hold credentials.

use control_api::{AbortCode, Answer, Draw, Edits, HeaderEdits};
use http::HeaderName;
use serde::Serialize;

use crate::backend::Attach;
use crate::circumstances::Circumstances;
use crate::decision::{Decision, Outcome};
use crate::head::RequestHead;
use crate::notes::{Notes, in_order};
use crate::seed::Seed;
use crate::table::RouteTable;
use crate::uri::Capture;

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
    /// What tied the client to a backend of the rule; the draw is absent then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// The draw that chose among the backends of the rule.
    pub draw: Option<f64>,
    /// The backends of the rule that matched, or the default one.
    pub backends: Vec<BackendNote>,
    /// How the route rule treats what it forwards, beyond time and tries.
    pub policies: Vec<String>,
    /// What the route rule does to the headers that pass.
    pub headers: Vec<String>,
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
    /// The `edge` of a rule.
    Edge,
    /// The host, below the domain of the fabric.
    Host,
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
    /// Why it gets no requests while others can, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
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
    /// It is failed by an action; negative codes close the connection. `code` is absent for other ways.
    Abort {
        dst: String,
        delay: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        how: String,
    },
    /// It is answered by the route rule.
    Answer {
        status: u16,
        delay: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        location: Option<String>,
    },
    /// It is refused.
    Refuse { status: u16, error: &'static str },
}

impl<A: Attach> RouteTable<A> {
    /// Decides as [`Self::decide`] does, and tells how.
    pub fn explain(&self, head: &RequestHead<'_>, seed: Seed, now: &impl Circumstances) -> Explanation {
        let mut notes = Notes::default();
        let decision = self.judge(head, seed, now, &mut notes);
        let service = decision.service.map(|at| self.service(at).name.to_string());
        let capture = decision.route.and_then(|at| self.route(at).capture.as_deref());
        let captured =
            if capture.is_some_and(Capture::is_edge) { AddressedBy::Edge } else { AddressedBy::Uri };
        let chosen = decision.backend.map(|at| self.backend(at));
        let instances = chosen.iter().flat_map(|backend| backend.endpoints.iter()).map(|endpoint| {
            let (id, address) = (endpoint.instance.id.to_string(), endpoint.address.to_string());
            InstanceNote { id, address, state: None }
        });
        Explanation {
            revision: self.revision(),
            addressed_by: service.as_ref().map(|_| notes.named.unwrap_or(captured)),
            service,
            rules: in_order(notes.captures).into_iter().chain(in_order(notes.rules)).collect(),
            sticky: notes.sticky,
            draw: notes.draw.map(Draw::get),
            backends: self.backend_notes(&decision),
            policies: self.policies(&decision),
            headers: decision
                .route
                .and_then(|at| self.route(at).headers())
                .map(header_notes)
                .unwrap_or_default(),
            instances: instances.collect(),
            lb_type: chosen.map(|backend| backend.lb.as_str()),
            action_rules: in_order(notes.action_rules),
            actions: notes.actions,
            outcome: self.end(&decision, head),
            decision,
        }
    }

    fn policies(&self, decision: &Decision) -> Vec<String> {
        let Some(route) = decision.route.map(|at| self.route(at)) else { return Vec::new() };
        let limit = route.rate_limit().map(|limit| {
            let by = limit.key.as_ref().map(|key| format!(" by {}", key.describe())).unwrap_or_default();
            format!("at most {}/s, burst {}{by}", limit.requests_per_s, limit.burst)
        });
        let retries = route.retries().map(|retries| {
            let on = retries.on.iter().map(|on| format!(" {on}")).collect::<String>();
            let methods = retries.methods.iter().map(|method| format!(" {method}")).collect::<String>();
            let on = if on.is_empty() { " 5xx" } else { &on };
            let methods = if methods.is_empty() { String::new() } else { format!(" for{methods}") };
            format!("retries on{on}{methods} within {}% of those in flight", retries.budget_percent)
        });
        let each = route.retries().and_then(|retries| retries.per_try_timeout);
        let each = each.map(|time| format!("each try within {}s", time.as_secs_f64()));
        let mirror = decision.mirror.map(|at| format!("copy to {}", self.backend(at).dst));
        let affinity = decision.backend.and_then(|at| self.backend(at).hash_on.as_ref());
        let affinity = affinity.map(|key| {
            let absent = if decision.affinity.is_none() { ", which is absent" } else { "" };
            format!("instance by {}{absent}", key.describe())
        });
        [limit, retries, each, mirror, affinity].into_iter().flatten().collect()
    }

    fn backend_notes(&self, decision: &Decision) -> Vec<BackendNote> {
        let Some(chosen) = decision.backend else { return Vec::new() };
        let service = self.service(chosen.service);
        let route = service.routes.iter().rfind(|route| route.first <= chosen.place && !route.names_only());
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
        // Whole and broken seconds do not add up to what is nearest to both.
        let delay = decision.faults.delay.as_micros() as f64 / 1e6;
        match decision.outcome {
            Outcome::Forward(backend) => End::Forward {
                dst: self.backend(backend).dst.clone(),
                delay,
                timeout: decision.timeout.as_secs_f64(),
                retries: decision.retries,
                path: self.upstream_path(decision, head.path).into_owned(),
            },
            Outcome::Answer(rule) => End::Answer {
                status: self.route(rule).answer().map_or(0, Answer::status),
                delay,
                location: self.location(decision, head),
            },
            Outcome::Abort(code) => End::Abort {
                dst: match (decision.backend, decision.service) {
                    (Some(backend), _) => self.backend(backend).dst.clone(),
                    (None, Some(service)) => self.service(service).name.to_string(),
                    (None, None) => String::new(),
                },
                delay,
                code: match code {
                    AbortCode::Status(status) => Some(i32::from(status)),
                    AbortCode::Close(code) => Some(i32::from(code)),
                    AbortCode::Reset | AbortCode::Grpc(_) => None,
                },
                how: match code {
                    AbortCode::Status(status) => format!("status {status}"),
                    AbortCode::Close(code) => format!("close the connection ({code})"),
                    AbortCode::Reset => "reset the connection".to_owned(),
                    AbortCode::Grpc(status) => format!("gRPC status {status}"),
                },
            },
            Outcome::Refuse(refusal) => {
                let (status, error) = refusal.status_and_id();
                End::Refuse { status, error }
            }
        }
    }
}

/// Names alone: values hold credentials.
fn header_notes(edits: &HeaderEdits) -> Vec<String> {
    let side = |side: &str, edits: &Option<Edits>| {
        let note = |what: &str, name: &HeaderName| format!("{what} {side} {name}");
        let Some(edits) = edits else { return Vec::new() };
        let removed = edits.remove.iter().map(|name| note("remove", name));
        let set = edits.set.iter().map(|(name, _)| note("set", name));
        removed.chain(set).chain(edits.add.iter().map(|(name, _)| note("add", name))).collect()
    };
    [side("request", &edits.request), side("response", &edits.response)].concat()
}
