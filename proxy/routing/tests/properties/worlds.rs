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
    pub(crate) faults_disabled: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) authority: &'static str,
    pub(crate) path: String,
    pub(crate) query: Vec<(&'static str, &'static str)>,
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
    Switch,
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
            Self::Switch => world.faults_disabled = !world.faults_disabled,
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
        1 => Just(Step::Switch),
    ]
}

impl World {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let rules = self.rules.iter().map(|rule| serde_json::from_value::<Rule>(rule.clone()).unwrap());
        let instances =
            self.instances.iter().map(|instance| serde_json::from_value(instance.clone()).unwrap());
        let revision = self.rules.len() as u64;
        let mut snapshot = Snapshot::new(revision, rules.map(Arc::new), instances.map(Arc::new));
        snapshot.set_faults_disabled(self.faults_disabled);
        snapshot
    }
}

impl Request {
    pub(crate) fn query_text(&self) -> String {
        let pair = |(key, value): &(&str, &str)| {
            if value.is_empty() { (*key).to_owned() } else { format!("{key}={value}") }
        };
        self.query.iter().map(pair).collect::<Vec<_>>().join("&")
    }

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

/// Whom every request comes from.
pub(crate) const CLIENT: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 7);

const SERVICES: [&str; 4] = ["a", "b", "c", "two words"];
/// As rules write them.
const TAGS: [&str; 4] = ["t1", "t2", "v=^1.2", "t3"];
/// As instances carry them.
const CARRIED: [&str; 6] = ["t1", "t2", "t3", "v=1.1", "v=1.3", "v=2.0.0"];

pub(crate) fn world() -> impl Strategy<Value = World> {
    let identity =
        select(&["", "gateway", "gateway:t1", "a:t1,t2", "gateway:v=1.3"][..]).prop_map(Identity::parse);
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
    let disabled = prop::bool::weighted(0.1);
    (identity, rules, instances, disabled).prop_map(|(identity, rules, instances, faults_disabled)| World {
        identity,
        rules,
        instances,
        faults_disabled,
    })
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
    let field = (
        select(&["x", "Y", "cookie"][..]),
        select(&["1", "2", "12", "", "1, 2", "k=1", "a=b; k=2; k=3", "k="][..]),
    );
    let hosts = prop_oneof![
        3 => Just("gateway"),
        2 => select(&["a.a8", "b.default.a8:80", "C.A8", "c.A8", "b.other.a8", "nobody.a8", ".a8", "shop.example", "Shop.Example:8080", "x.shop.example"][..]),
    ];
    let method = (select(&["GET", "POST", "get"][..]), hosts);
    let parameter = (select(&["q", "p"][..]), select(&["1", "2", "12", ""][..]));
    let target = (select(&PATHS[..]), prop::collection::vec(parameter, 0..3));
    (method, target, prop::collection::vec(field, 0..4), "[a-z]{0,12}").prop_map(
        |((method, authority), (path, query), fields, id)| Request {
            authority,
            method,
            path: path.to_owned(),
            query,
            fields,
            id,
        },
    )
}

fn instance() -> impl Strategy<Value = Value> {
    let status = prop_oneof![4 => Just("UP"), 1 => select(&["STARTING", "OUT_OF_SERVICE", "DOWN"][..])];
    let kind = prop_oneof![4 => Just("http"), 1 => select(&["https", "tcp", "udp", "user"][..])];
    let value =
        prop_oneof![6 => Just("10.0.0.1:80"), 1 => select(&["host", "nonsense:x", "http://h:1/x"][..])];
    let tags = subsequence(&CARRIED[..], 0..4);
    (select(&SERVICES[..]), status, kind, value, tags).prop_map(|(service, status, kind, value, tags)| {
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
    let source = (select(&["gateway", "a", "other"][..]), subsequence(&TAGS[..3], 0..2));
    let rare = |values: &[&str]| {
        let values: Vec<Value> = values.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        prop::option::weighted(0.2, select(values))
    };
    let target = (
        rare(&[r#""GET""#, r#"["POST"]"#, r#"["GET", "POST"]"#]),
        rare(&[
            r#"{"exact": "/a/x"}"#,
            r#"{"prefix": "/a"}"#,
            r#"{"prefix": "/"}"#,
            r#"{"regex": "/[ab]/.*"}"#,
        ]),
        rare(&[r#"{"q": "1"}"#, r#"{"q": ".*"}"#, r#"{"p": "1.*", "q": "|2"}"#]),
        rare(&[r#""gate.*""#, r#""other""#]),
    );
    (prop::option::of(source), headers, target).prop_filter_map(
        "a clause asks something",
        |(source, headers, target)| {
            let mut clause = json!({});
            let (method, path, query, authority) = target;
            for (name, asked) in
                [("method", method), ("path", path), ("query", query), ("authority", authority)]
            {
                if let Some(asked) = asked {
                    clause[name] = asked;
                }
            }
            if let Some((name, tags)) = source {
                clause["source"] = json!({"name": name, "tags": tags});
            }
            if !headers.is_empty() {
                clause["headers"] = json!(headers);
            }
            (clause != json!({})).then_some(clause)
        },
    )
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
    let answers = select(vec![
        json!({"response": {"status": 503, "body": "closed"}}),
        json!({"redirect": {"scheme": "https", "host": "elsewhere"}}),
        json!({"redirect": {"status": 308, "prefix_rewrite": "/new"}}),
    ]);
    let answer = prop::option::weighted(0.2, answers);
    let host = select(&["shop.example", "*.example", "*.shop.example", "gateway"][..]);
    let edge = prop::option::weighted(0.15, (host, select(&["/", "/a", "/a/", "/b/x"][..])));
    let mirrors = select(vec![
        json!({"service": "b"}),
        json!({"tags": ["t2", "t1"], "percent": 50}),
        json!({"service": "c", "tags": ["t1"], "percent": 75}),
    ]);
    let mirror = prop::option::weighted(0.3, mirrors);
    let keys = || {
        select(vec![
            json!({"header": "X"}),
            json!({"header": "absent"}),
            json!({"cookie": "k"}),
            json!({"source": true}),
        ])
    };
    let sticky = prop::option::weighted(0.3, keys());
    let policies = select(vec![
        json!({"count": 3}),
        json!({"count": 2, "methods": ["GET", "PUT"], "budget_percent": 10}),
        json!({"on": ["connect-failure"], "methods": ["POST"]}),
    ]);
    let policy = prop::option::weighted(0.3, policies);
    let limit = prop::option::weighted(
        0.3,
        (select(&[0.5, 10.0][..]), prop::option::of(1..9_u32), prop::option::of(keys())),
    );
    (weights, (uri, edge, any::<bool>()), times, answer, (mirror, sticky, policy, limit)).prop_map(
        |(backends, (uri, edge, names_only), (timeout, retries), answer, (mirror, sticky, policy, limit))| {
            let mut route = answer.unwrap_or_else(
                || json!({"backends": backends, "http_req_timeout": timeout, "http_req_retries": retries}),
            );
            let forwards = !route["backends"].is_null();
            if let Some(mirror) = mirror.filter(|_| forwards) {
                route["mirror"] = mirror;
            }
            if let Some(sticky) = sticky.filter(|_| forwards) {
                route["sticky"] = sticky;
            }
            if let Some(policy) = policy.filter(|_| forwards) {
                // How often is said in one place.
                if !policy["count"].is_null() {
                    route.as_object_mut().unwrap().remove("http_req_retries");
                }
                route["retries"] = policy;
            }
            if let Some((rate, burst, key)) = limit.filter(|_| forwards) {
                route["rate_limit"] = json!({"requests_per_s": rate});
                for (name, value) in [("burst", burst.map(|burst| json!(burst))), ("key", key)] {
                    if let Some(value) = value {
                        route["rate_limit"][name] = value;
                    }
                }
            }
            match (uri, edge) {
                (_, Some((host, prefix))) => {
                    route["edge"] = json!({"host": host, "path_prefix": prefix});
                    if names_only {
                        route = json!({"edge": route["edge"]});
                    }
                }
                (Some((kind, place, rewrite)), None) => {
                    route["uri"] = json!({kind: place, "prefix_rewrite": rewrite});
                }
                (None, None) => {}
            }
            route
        },
    )
}

fn backend(weight: Value) -> impl Strategy<Value = Value> {
    let name = prop::option::weighted(0.4, select(&SERVICES[..]));
    let lb = select(&["", "round_robin", "random", "least_request"][..]);
    (name, tags(1), lb).prop_map(
        move |(name, tags, lb)| json!({"name": name, "tags": tags, "weight": weight, "lb_type": lb}),
    )
}

fn action() -> impl Strategy<Value = Value> {
    let probability = select(&[0.0, 0.25, 0.5, 1.0][..]);
    let end = select(&["1970-01-01T11:59:59Z", "1970-01-01T12:00:00Z", "1970-01-01T12:00:01Z"][..]);
    let limits = prop_oneof![
        6 => Just(json!({})),
        1 => end.prop_map(|end| json!({"expires_at": end})),
        1 => Just(json!({"first": 3})),
        1 => Just(json!({"max_concurrent": 3, "expires_at": "9999-01-01T00:00:00Z"})),
    ];
    let faults = select(vec![
        json!({"action": "delay", "duration": 2}),
        json!({"action": "delay", "uniform": {"min": 1, "max": 3}}),
        json!({"action": "delay", "normal": {"mean": 1, "stddev": 2}}),
        json!({"action": "delay", "exponential": {"mean": 1}}),
        json!({"action": "abort", "return_code": 500}),
        json!({"action": "abort", "return_code": -1}),
        json!({"action": "abort", "reset": true}),
        json!({"action": "abort", "grpc_status": 14}),
        json!({"action": "bandwidth", "bytes_per_s": 1000}),
        json!({"action": "bandwidth", "bytes_per_s": 10}),
        json!({"action": "truncate", "after_bytes": 0}),
        json!({"action": "truncate", "after_bytes": 7}),
    ]);
    prop_oneof![
        4 => (faults, probability, limits, tags(0)).prop_map(|(mut fault, probability, limits, tags)| {
            fault["probability"] = json!(probability);
            fault["tags"] = json!(tags);
            for (name, limit) in limits.as_object().unwrap() {
                fault[name] = limit.clone();
            }
            fault
        }),
        1 => tags(0).prop_map(|tags| json!({"action": "trace", "log_key": "k", "log_value": "v", "tags": tags})),
    ]
}

fn tags(least: usize) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(&TAGS[..], least..3)
}
