//! A client of control: the operator's rule calls and the proxy's poll. It retries nothing by itself.

use std::time::Duration;

use http::{Method, StatusCode};
use registry_api::Position;
use registry_api::client::{
    Answer, BadUrl, CALL_TIMEOUT, CallError, Caller, encode, poll_timeout, position_of, watch_query,
};
use serde::{Deserialize, Serialize};

use crate::proxies::{Applied, Identity, ProxyReport};
use crate::rule::Rule;
use crate::watch::{SnapshotAnswer, SnapshotUpdate};
use crate::wire::RawRule;

/// What a poll of control brought.
#[derive(Debug, Clone, PartialEq)]
pub enum Polled {
    /// The caller's content is current; adopt this position.
    Unchanged(Position),
    /// News.
    News(Position, SnapshotUpdate),
    /// News for this position that cannot be decoded, and why: a rule that does not compile, for example. The
    /// caller goes on with what it holds and says so in its next poll.
    Unreadable(Position, String),
}

/// Rules and the revision they were read at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleSet {
    /// In no particular order.
    pub rules: Vec<Rule>,
    /// Count of accepted writes.
    pub revision: u64,
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Written {
    /// Of the created rules, in request order; empty for other writes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// From the header `A8-Revision`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Only with a wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

/// Whether the faults of a namespace happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSwitch {
    /// Whether none happens, whatever the rules say.
    pub disabled: bool,
    /// Count of accepted writes.
    pub revision: u64,
}

/// Selects rules; kinds are ANDed, empty selects everything.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct RuleFilter {
    pub ids: Vec<String>,
    pub tags: Vec<String>,
    pub destinations: Vec<String>,
}

impl RuleFilter {
    fn query(&self) -> Vec<String> {
        [("id", &self.ids), ("tag", &self.tags), ("destination", &self.destinations)]
            .into_iter()
            .flat_map(|(key, values)| values.iter().map(move |value| format!("{key}={}", encode(value))))
            .collect()
    }
}

/// What a proxy says of itself with each poll.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Stable id.
    pub node: String,
    /// Whom it stands for.
    pub identity: Identity,
    /// The program's version.
    pub version: String,
}

/// Speaks to control.
#[derive(Debug)]
pub struct ControlClient {
    caller: Caller,
}

impl ControlClient {
    /// See [`Caller::new`].
    pub fn new<S: AsRef<str>>(urls: &[S], token: Option<&str>) -> Result<Self, BadUrl> {
        Ok(Self { caller: Caller::new(urls, token)? })
    }

    /// Reads rules.
    pub async fn rules(&self, filter: &RuleFilter) -> Result<RuleSet, CallError> {
        let path = with_query("/v1/rules", filter.query());
        self.caller.call(Method::GET, &path, None, CALL_TIMEOUT).await?.expect(&[StatusCode::OK])?.json()
    }

    /// Creates (or replaces by id) all rules or none. With `wait` the answer says where they are live.
    pub async fn create(&self, rules: &[RawRule], wait: Option<Duration>) -> Result<Written, CallError> {
        let path = with_query("/v1/rules", wait_query(wait));
        let answer = self.caller.call(Method::POST, &path, Some(body(rules)), call_timeout(wait)).await?;
        written(&answer.expect(&[StatusCode::CREATED])?)
    }

    /// Replaces existing rules by id, all or none.
    pub async fn update(&self, rules: &[RawRule], wait: Option<Duration>) -> Result<Written, CallError> {
        let path = with_query("/v1/rules", wait_query(wait));
        let answer = self.caller.call(Method::PUT, &path, Some(body(rules)), call_timeout(wait)).await?;
        written(&answer.expect(&[StatusCode::OK])?)
    }

    /// Deletes what the filter selects; an empty filter deletes every rule of the namespace.
    pub async fn delete(&self, filter: &RuleFilter, wait: Option<Duration>) -> Result<Written, CallError> {
        let mut query = filter.query();
        query.extend(wait_query(wait));
        let path = with_query("/v1/rules", query);
        let answer = self.caller.call(Method::DELETE, &path, None, call_timeout(wait)).await?;
        written(&answer.expect(&[StatusCode::OK])?)
    }

    /// Whether faults happen.
    pub async fn faults(&self) -> Result<FaultSwitch, CallError> {
        let answer = self.caller.call(Method::GET, "/v1/faults", None, CALL_TIMEOUT).await?;
        answer.expect(&[StatusCode::OK])?.json()
    }

    /// Disables every fault of the namespace, or lets them happen again; no rule is touched.
    pub async fn set_faults(&self, disabled: bool, wait: Option<Duration>) -> Result<Written, CallError> {
        #[derive(Serialize)]
        struct Switch {
            disabled: bool,
        }
        let path = with_query("/v1/faults", wait_query(wait));
        let body = serde_json::to_vec(&Switch { disabled }).expect("one boolean always encodes");
        let answer = self.caller.call(Method::PUT, &path, Some(body), call_timeout(wait)).await?;
        written(&answer.expect(&[StatusCode::OK])?)
    }

    /// Every proxy control knows of.
    pub async fn proxies(&self) -> Result<Vec<ProxyReport>, CallError> {
        #[derive(Deserialize)]
        struct List {
            proxies: Vec<ProxyReport>,
        }
        let answer = self.caller.call(Method::GET, "/v1/proxies", None, CALL_TIMEOUT).await?;
        Ok(answer.expect(&[StatusCode::OK])?.json::<List>()?.proxies)
    }

    /// One poll of `GET /v1/watch` (design.md 5). The position acknowledges: it is what serves traffic here.
    /// `rejected` is the index of a snapshot that could not be used, with the reason.
    pub async fn watch(
        &self,
        node: &Node,
        held: &Position,
        wait: Duration,
        rejected: Option<(u64, &str)>,
    ) -> Result<Polled, CallError> {
        let mut query = vec![watch_query(held, wait)];
        query.push(format!("node={}&version={}", encode(&node.node), encode(&node.version)));
        if let Some(service) = &node.identity.service {
            query.push(format!("service={}", encode(service.as_str())));
        }
        query.extend(node.identity.tags.iter().map(|tag| format!("tag={}", encode(tag))));
        if let Some((index, reason)) = rejected {
            query.push(format!("rejected={index}&reason={}", encode(reason)));
        }
        let path = with_query("/v1/watch", query);
        let answer = self.caller.call(Method::GET, &path, None, poll_timeout(wait)).await?;
        let answer = answer.expect(&[StatusCode::OK, StatusCode::NOT_MODIFIED])?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(Polled::Unchanged(position_of(&answer)?));
        }
        let update = match answer.json::<SnapshotAnswer>() {
            Ok(body) => body.into_update().map_err(str::to_owned),
            Err(error) => Err(error.to_string()),
        };
        match update {
            Ok((position, update)) => Ok(Polled::News(position, update)),
            // Without a readable position nobody could say what was refused: then the call itself failed.
            Err(reason) => position_of(&answer).map(|position| Polled::Unreadable(position, reason)),
        }
    }
}

fn body(rules: &[RawRule]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Rules<'a> {
        rules: &'a [RawRule],
    }
    serde_json::to_vec(&Rules { rules }).expect("rules are plain data and always encode")
}

fn with_query(path: &str, query: Vec<String>) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

fn wait_query(wait: Option<Duration>) -> Vec<String> {
    wait.map(|wait| format!("wait=applied&timeout={}ms", wait.as_millis())).into_iter().collect()
}

fn call_timeout(wait: Option<Duration>) -> Duration {
    CALL_TIMEOUT + wait.unwrap_or_default()
}

fn written(answer: &Answer) -> Result<Written, CallError> {
    let mut written: Written = if answer.body.is_empty() { Written::default() } else { answer.json()? };
    written.revision = answer.header("A8-Revision").parse().ok();
    Ok(written)
}
