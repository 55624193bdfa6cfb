//! Small worlds: few names, so that everything meets everything. It knows what may be written, not what it
//! means.

use std::sync::Arc;

use control_api::{Identity, Rule, Snapshot};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) identity: Identity,
    pub(crate) rules: Vec<Value>,
    pub(crate) instances: Vec<Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) fields: Vec<(&'static str, &'static str)>,
    pub(crate) id: String,
}

/// What happens to a world: most changes touch one half of it, and little of that.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Instances(Vec<Value>),
    Instance(Value),
    Rules(Vec<Value>),
    Rule(usize),
    Identity(Identity),
}

impl Step {
    pub(crate) fn from(&self, mut world: World) -> World {
        match self {
            Self::Instances(instances) => world.instances = instances.clone(),
            Self::Instance(instance) => {
                world.instances.retain(|old| old["id"] != instance["id"]);
                world.instances.push(instance.clone());
            }
            Self::Rules(rules) => world.rules = rules.clone(),
            Self::Rule(at) if *at < world.rules.len() => drop(world.rules.remove(*at)),
            Self::Rule(_) => {}
            Self::Identity(identity) => world.identity = identity.clone(),
        }
        world
    }
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => world().prop_map(|world| Step::Instances(world.instances)),
        4 => (0..6_u8, instance()).prop_map(|(id, mut instance)| {
            instance["id"] = json!(format!("i{id}"));
            Step::Instance(instance)
        }),
        2 => world().prop_map(|world| Step::Rules(world.rules)),
        2 => (0..9_usize).prop_map(Step::Rule),
        1 => world().prop_map(|world| Step::Identity(world.identity)),
    ]
}

impl World {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let rules = self.rules.iter().map(|rule| serde_json::from_value::<Rule>(rule.clone()).unwrap());
        let instances =
            self.instances.iter().map(|instance| serde_json::from_value(instance.clone()).unwrap());
        let revision = self.rules.len() as u64;
        Snapshot::new(revision, rules.map(Arc::new), instances.map(Arc::new))
    }
}

impl Request {
    pub(crate) fn headers(&self) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in self.fields.iter().map(field) {
            headers.append(name, value);
        }
        headers
    }
}

const SERVICES: [&str; 4] = ["a", "b", "c", "two words"];
const TAGS: [&str; 3] = ["t1", "t2", "t3"];

pub(crate) fn world() -> impl Strategy<Value = World> {
    let identity = select(&["", "gateway", "gateway:t1", "a:t1,t2"][..]).prop_map(Identity::parse);
    let rules = prop::collection::vec(rule(), 0..9).prop_map(|mut rules| {
        // Ids are unique in a snapshot; which of two wins is not routing's matter.
        for (at, rule) in rules.iter_mut().enumerate() {
            rule["id"] = json!(format!("{}{at}", rule["id"].as_str().unwrap()));
        }
        rules
    });
    let instances = prop::collection::btree_map(0..6_u8, instance(), 0..6).prop_map(|instances| {
        let numbered = |(id, mut instance): (u8, Value)| {
            instance["id"] = json!(format!("i{id}"));
            instance
        };
        instances.into_iter().map(numbered).collect()
    });
    (identity, rules, instances).prop_map(|(identity, rules, instances)| World { identity, rules, instances })
}

pub(crate) fn instances_of(service: &str, tags: &[&str]) -> Vec<Value> {
    let each = |(at, tag): (usize, &&str)| {
        json!({"id": format!("i{at}"), "service_name": service, "status": "UP", "tags": [tag],
            "endpoint": {"type": "http", "value": format!("10.0.0.{at}:80")}})
    };
    tags.iter().enumerate().map(each).collect()
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    const PATHS: [&str; 13] = [
        "/a",
        "/a/",
        "/a/x",
        "/a//x",
        "/b/x",
        "/c/x/y",
        "/two%20words/x",
        "/two%20words",
        "/nobody",
        "/",
        "//a",
        "*",
        "/b",
    ];
    let field = (select(&["x", "Y", "cookie"][..]), select(&["1", "2", "12", "", "1, 2"][..]));
    (select(&PATHS[..]), prop::collection::vec(field, 0..4), "[a-z]{0,12}")
        .prop_map(|(path, fields, id)| Request { path: path.to_owned(), fields, id })
}

fn instance() -> impl Strategy<Value = Value> {
    let status = prop_oneof![4 => Just("UP"), 1 => select(&["STARTING", "OUT_OF_SERVICE", "DOWN"][..])];
    let kind = prop_oneof![4 => Just("http"), 1 => select(&["https", "tcp", "udp", "user"][..])];
    let value =
        prop_oneof![6 => Just("10.0.0.1:80"), 1 => select(&["host", "nonsense:x", "http://h:1/x"][..])];
    (select(&SERVICES[..]), status, kind, value, tags(0)).prop_map(|(service, status, kind, value, tags)| {
        json!({"service_name": service, "status": status, "tags": tags, "endpoint": {"type": kind, "value": value}})
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let head = (select(&["r", "s", "q"][..]), -1..2_i64, select(&SERVICES[..]), prop::option::of(matching()));
    let body = prop_oneof![
        3 => route().prop_map(|route| ("route", route)),
        2 => prop::collection::vec(action(), 1..4).prop_map(|actions| ("actions", json!(actions))),
    ];
    (head, body).prop_map(|((id, priority, destination, matching), (kind, body))| {
        let mut rule = json!({"id": id, "priority": priority, "destination": destination, kind: body});
        if let Some(matching) = matching {
            rule["match"] = matching;
        }
        rule
    })
}

fn matching() -> impl Strategy<Value = Value> {
    let lists = (list("all"), list("any"), list("none"));
    (prop::option::of(clause()), lists).prop_filter_map(
        "a match asks something",
        |(own, (all, any, none))| {
            let mut matching = own.unwrap_or_else(|| json!({}));
            for (name, list) in [all, any, none] {
                if !list.is_empty() {
                    matching[name] = json!(list);
                }
            }
            (matching != json!({})).then_some(matching)
        },
    )
}

fn list(name: &'static str) -> impl Strategy<Value = (&'static str, Vec<Value>)> {
    let lists = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(clause(), 1..3)];
    lists.prop_map(move |list| (name, list))
}

fn clause() -> impl Strategy<Value = Value> {
    let pattern = select(&["1", "2|12", ".*", "1.*", "^(.*, )?(2)$", "(1)", "[0-9]", ""][..]);
    let headers = prop::collection::btree_map(select(&["X", "y", "Cookie"][..]), pattern, 0..3);
    let source = (select(&["gateway", "a", "other"][..]), subsequence(&TAGS[..2], 0..2));
    (prop::option::of(source), headers).prop_filter_map("a clause asks something", |(source, headers)| {
        let mut clause = json!({});
        if let Some((name, tags)) = source {
            clause["source"] = json!({"name": name, "tags": tags});
        }
        if !headers.is_empty() {
            clause["headers"] = json!(headers);
        }
        (clause != json!({})).then_some(clause)
    })
}

fn route() -> impl Strategy<Value = Value> {
    let rewrite = || prop::option::of(select(&["/", "/new/", "bare"][..]));
    let place = select(&["/a/", "/a", "/", "/b/x", "/c/", "/a//"][..]);
    let uri = prop::option::weighted(0.3, (select(&["path", "prefix"][..]), place, rewrite()));
    let times = (select(&[0.0, 2.5, 3.0][..]), 0..3_u32);
    let weights = select(vec![
        json!([0.25]),
        json!([null]),
        json!([0.25, null]),
        json!([0.5, 0.25, null]),
        json!([0.25, 0.25]),
        json!([1, null]),
    ]);
    let weights = weights.prop_flat_map(|weights| {
        weights.as_array().unwrap().iter().cloned().map(backend).collect::<Vec<_>>()
    });
    (weights, uri, times).prop_map(|(backends, uri, (timeout, retries))| {
        let mut route =
            json!({"backends": backends, "http_req_timeout": timeout, "http_req_retries": retries});
        if let Some((kind, place, rewrite)) = uri {
            route["uri"] = json!({kind: place, "prefix_rewrite": rewrite});
        }
        route
    })
}

fn backend(weight: Value) -> impl Strategy<Value = Value> {
    let name = prop::option::weighted(0.4, select(&SERVICES[..]));
    let lb = select(&["", "round_robin", "random", "least_request"][..]);
    (name, tags(1), lb).prop_map(
        move |(name, tags, lb)| json!({"name": name, "tags": tags, "weight": weight, "lb_type": lb}),
    )
}

fn action() -> impl Strategy<Value = Value> {
    let probability = || select(&[0.0, 0.25, 0.5, 1.0][..]);
    prop_oneof![
        (1..4_u32, probability(), tags(0)).prop_map(|(duration, probability, tags)| {
            json!({"action": "delay", "duration": duration, "probability": probability, "tags": tags})
        }),
        (select(&[500, 418, -1][..]), probability(), tags(0)).prop_map(|(code, probability, tags)| {
            json!({"action": "abort", "return_code": code, "probability": probability, "tags": tags})
        }),
        tags(0).prop_map(|tags| json!({"action": "trace", "log_key": "k", "log_value": "v", "tags": tags})),
    ]
}

fn tags(least: usize) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(&TAGS[..], least..3)
}
