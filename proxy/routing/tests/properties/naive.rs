//! The rules read aloud, straight from JSON, in the order of spec 2.7: slow, obvious, and written without
//! looking at the table. It shares with it the draws alone, since chance is an argument.

use control_api::{Draw, RuleId, Snapshot};
use routing::{Half, Purpose, Seed, rule_key};
use serde_json::Value;

use crate::worlds::{CLIENT, Request, World};

pub(crate) fn read_aloud(world: &World, request: &Request) -> String {
    let mut rules: Vec<&Value> = world.rules.iter().collect();
    rules.sort_by_key(|rule| (-rule["priority"].as_i64().unwrap(), text(&rule["id"])));
    let holds = |rule: &&&Value| matches(world, request, &rule["match"]);
    let is_route = |rule: &&&Value| !rule["route"].is_null();

    // 1. A rule with uri captures first, otherwise the first path segment names the destination.
    let captures = |rule: &&&Value| {
        uri_covers(&rule["route"]["uri"], &request.path) || edge_covers(&rule["route"]["edge"], request)
    };
    let captured = rules.iter().filter(is_route).filter(captures).find(holds);
    let segment =
        request.path.strip_prefix('/').map(|rest| rest.split('/').next().unwrap()).unwrap_or_default();
    let exists = |name: &str| {
        let is_it = |value: &Value| text(value) == name;
        world.instances.iter().any(|instance| is_it(&instance["service_name"]))
            || world.rules.iter().any(|rule| is_it(&rule["destination"]))
    };
    let host = match request.authority {
        "a.a8" => Some("a"),
        "b.default.a8:80" => Some("b"),
        "C.A8" => Some("C"),
        "c.A8" => Some("c"),
        _ => None,
    };
    let host = host.filter(|name| captured.is_none() && exists(name));
    let destination = match (captured, host) {
        (Some(rule), _) => text(&rule["destination"]),
        (None, Some(name)) => name.to_owned(),
        (None, None) => segment.replace("%20", " "),
    };
    // A rule that only names the service leaves the rest to the others.
    let names_only = |rule: &&&Value| {
        let route = &rule["route"];
        route["backends"].is_null() && route["response"].is_null() && route["redirect"].is_null()
    };
    let deciding = captured.filter(|rule| !names_only(rule));

    // 8. Unknown altogether.
    let is_ours = |rule: &&&Value| text(&rule["destination"]) == destination;
    let known = world.instances.iter().any(|instance| text(&instance["service_name"]) == destination);
    if !known && !rules.iter().any(|rule| is_ours(&rule)) {
        return "unknown_service".to_owned();
    }

    // 2 to 4. The first route rule that holds; none exists: default; none holds: no route.
    let ruled = rules.iter().filter(is_ours).any(|rule| is_route(&rule) && !names_only(&rule));
    let plain = |rule: &&&Value| rule["route"]["uri"].is_null() && rule["route"]["edge"].is_null();
    let route = deciding.or_else(|| rules.iter().filter(is_ours).filter(is_route).filter(plain).find(holds));
    if ruled && route.is_none() {
        return "no_route".to_owned();
    }

    // 5. The backend by weight, the instances by name and tags.
    let seed = Seed::of(request.id.as_bytes());
    let answer = route.map(|rule| &rule["route"]).filter(|route| route["backends"].is_null());
    let backend = route.filter(|_| answer.is_none()).map(|rule| {
        let backends = rule["route"]["backends"].as_array().unwrap();
        match said(&rule["route"]["sticky"], request) {
            Some(hash) => by_key(backends, &destination, hash),
            None => by_weight(backends, seed.draw(Purpose::Split, key(rule)).get()),
        }
    });
    let name = backend.and_then(|backend| backend["name"].as_str()).unwrap_or(&destination);
    let mut tags: Vec<String> = backend.map(|backend| list(&backend["tags"])).unwrap_or_default();
    tags.sort();
    let ids = instances(world, name, &tags);

    // 7. Checked before 6.
    if ids.is_empty() && answer.is_none() {
        return "no_instances".to_owned();
    }

    // 6. One action rule, its actions in order.
    let actions = rules.iter().filter(is_ours).filter(|rule| !is_route(rule)).find(holds);
    let (mut delay, mut abort, mut fired) = (0_u64, None, Vec::new());
    let (mut speeds, mut cuts) = (Vec::new(), Vec::new());
    for (place, action) in actions.iter().flat_map(|rule| rule["actions"].as_array().unwrap()).enumerate() {
        let probability = action["probability"].as_f64().filter(|share| *share > 0.0).unwrap_or(1.0);
        let number = u8::try_from(place).unwrap();
        let drawn = |purpose| seed.draw(purpose, key(actions.unwrap())).get();
        let tagged = list(&action["tags"]).iter().all(|tag| tags.contains(tag));
        // It is noon.
        let over = action["expires_at"].as_str().is_some_and(|end| end <= "1970-01-01T12:00:00Z");
        let counted = !action["first"].is_null() || !action["max_concurrent"].is_null();
        let full = counted && place % 2 == 1;
        let disabled = world.faults_disabled && action["action"] != "trace";
        let runs = !disabled && tagged && drawn(Purpose::Action(number)) < probability && !over && !full;
        if abort.is_some() || !runs {
            continue;
        }
        fired.push(place);
        let pair = [Half::First, Half::Second].map(|half| drawn(Purpose::Length(number, half)));
        delay += micros(action, pair);
        speeds.extend(action["bytes_per_s"].as_u64());
        cuts.extend(action["after_bytes"].as_u64());
        abort = match (&action["return_code"], &action["reset"], &action["grpc_status"]) {
            (Value::Number(code), _, _) => Some(code.to_string()),
            (_, Value::Bool(_), _) => Some("reset".to_owned()),
            (_, _, Value::Number(code)) => Some(format!("grpc {code}")),
            _ => None,
        };
    }
    let delay = delay as f64 / 1e6;
    let limits = (speeds.into_iter().min(), cuts.into_iter().min());
    let faults = actions
        .map_or_else(|| "none".to_owned(), |rule| format!("{} {fired:?} {limits:?}", text(&rule["id"])));

    let dst = if answer.is_some() {
        "nobody".to_owned()
    } else if tags.is_empty() {
        name.to_owned()
    } else {
        format!("{name}:{}", tags.join(","))
    };
    if let Some(code) = abort {
        return format!("abort {code} for {dst} after {delay} faults {faults}");
    }
    if let Some(route) = answer {
        let (status, location) = match route["response"]["status"].as_u64() {
            Some(status) => (status, String::new()),
            None => {
                let rest = match (captured, host) {
                    (Some(rule), _) => request.path[matched(&rule["route"]).len()..].to_owned(),
                    (None, Some(_)) => request.path.clone(),
                    (None, None) => {
                        request.path[1..].find('/').map_or("", |at| &request.path[1 + at..]).to_owned()
                    }
                };
                (route["redirect"]["status"].as_u64().unwrap_or(302), elsewhere(route, request, &rest))
            }
        };
        return format!("answer {status} {location} after {delay} faults {faults}");
    }
    let or = |value: &Value, default: f64| value.as_f64().filter(|number| *number > 0.0).unwrap_or(default);
    let times = |name: &str, default| route.map_or(default, |rule| or(&rule["route"][name], default));
    let policy = route.map(|rule| &rule["route"]["retries"]).filter(|policy| !policy.is_null());
    let retries = policy.and_then(|policy| policy["count"].as_f64());
    let (timeout, retries) =
        (times("http_req_timeout", 15.0), retries.unwrap_or_else(|| times("http_req_retries", 1.0)));
    let policy =
        policy.map(|policy| (list(&policy["methods"]), policy["budget_percent"].as_f64().unwrap_or(20.0)));
    let limit = route.map(|rule| &rule["route"]["rate_limit"]).filter(|limit| !limit.is_null());
    let limit = limit.map(|limit| {
        let rate = limit["requests_per_s"].as_f64().unwrap();
        // One second's worth, and one at least.
        let burst = limit["burst"].as_f64().unwrap_or(rate.ceil());
        (rate, burst, said(&limit["key"], request))
    });
    let lb = backend.and_then(|backend| backend["lb_type"].as_str()).filter(|lb| !lb.is_empty());
    let lb = lb.unwrap_or("round_robin");
    let copy = route.filter(|rule| !rule["route"]["mirror"].is_null()).and_then(|rule| {
        let mirror = &rule["route"]["mirror"];
        let percent = mirror["percent"].as_f64().unwrap_or(100.0);
        let (name, mut tags) = (mirror["service"].as_str().unwrap_or(&destination), list(&mirror["tags"]));
        tags.sort();
        let there = !instances(world, name, &tags).is_empty();
        let dst = if tags.is_empty() { name.to_owned() } else { format!("{name}:{}", tags.join(",")) };
        (there && seed.draw(Purpose::Mirror, key(rule)).get() * 100.0 < percent).then_some(dst)
    });
    let path = match (captured, host) {
        (Some(rule), _) if rule["route"]["edge"].is_null() => replaced(&rule["route"]["uri"], &request.path),
        (Some(_), _) | (None, Some(_)) => request.path.clone(),
        (None, None) => stripped(&request.path),
    };
    format!(
        "forward {path} to {dst} {lb} {ids:?} after {delay} within {timeout} retries {retries} {policy:?} limit {limit:?} copy {copy:?} faults {faults}"
    )
}

/// Everything of a snapshot that a service is made of, as text: its rules, its instances, and those of the
/// services that its rules name.
pub(crate) fn made_of(snapshot: &Snapshot, name: &str) -> Vec<String> {
    let rules: Vec<_> = snapshot.rules().values().filter(|rule| rule.destination.as_str() == name).collect();
    let routes = || rules.iter().filter_map(|rule| rule.route());
    let backends = routes().flat_map(|route| &route.backends).filter_map(|backend| backend.name.as_ref());
    let mirrors = routes().filter_map(|route| route.mirror.as_ref()?.service.as_ref());
    let mut services: Vec<&str> = backends.chain(mirrors).map(AsRef::as_ref).collect();
    services.push(name);
    let instances =
        snapshot.instances().iter().filter(|instance| services.contains(&instance.service_name.as_str()));
    let switch = rules.iter().any(|rule| !rule.actions().is_empty()).then(|| snapshot.faults_disabled());
    let rules = rules.iter().map(|rule| serde_json::to_string(rule).unwrap());
    rules
        .chain(instances.map(|instance| serde_json::to_string(instance).unwrap()))
        .chain(switch.map(|on| on.to_string()))
        .collect()
}

/// How long one delay is, in microseconds.
fn micros(action: &Value, [first, second]: [f64; 2]) -> u64 {
    let number = |kind: &str, name: &str| action[kind][name].as_f64().unwrap_or(0.0);
    let seconds = if !action["uniform"].is_null() {
        let (min, max) = (number("uniform", "min"), number("uniform", "max"));
        min + first * (max - min)
    } else if !action["exponential"].is_null() {
        number("exponential", "mean") * -(1.0 - first).ln()
    } else if !action["normal"].is_null() {
        let standard = (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * second).cos();
        number("normal", "mean") + standard * number("normal", "stddev")
    } else {
        action["duration"].as_f64().unwrap_or(0.0)
    };
    (seconds.max(0.0) * 1e6).round() as u64
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().map(|list| list.iter().map(text).collect()).unwrap_or_default()
}

fn key(rule: &Value) -> u64 {
    rule_key(&RuleId::new(text(&rule["id"])).unwrap())
}

fn matches(world: &World, request: &Request, matching: &Value) -> bool {
    let clause = |clause: &Value| is_true(world, request, clause);
    let each = |name: &str| matching[name].as_array().cloned().unwrap_or_default();
    let (all, any, none) = (each("all"), each("any"), each("none"));
    clause(matching)
        && all.iter().all(clause)
        && (any.is_empty() || any.iter().any(clause))
        && !none.iter().any(clause)
}

fn is_true(world: &World, request: &Request, clause: &Value) -> bool {
    let source = &clause["source"];
    let is_us = world.identity.service.as_ref().map(AsRef::as_ref) == source["name"].as_str()
        && list(&source["tags"]).iter().all(|tag| carries(&world.identity.tags, tag));
    let headers = clause["headers"].as_object().cloned().unwrap_or_default();
    let whole = |pattern: &Value, value: &str| {
        regex::Regex::new(&format!(r"\A(?:{})\z", text(pattern))).unwrap().is_match(value)
    };
    let methods =
        [list(&clause["method"]), clause["method"].as_str().map(str::to_owned).into_iter().collect()];
    let method = clause["method"].is_null() || methods.concat().contains(&request.method.to_owned());
    let path = match clause["path"].as_object().and_then(|path| path.iter().next()) {
        None => true,
        Some((kind, wanted)) if kind == "exact" => request.path == text(wanted),
        Some((kind, wanted)) if kind == "prefix" => request.path.starts_with(&text(wanted)),
        Some((_, wanted)) => whole(wanted, &request.path),
    };
    let authority = clause["authority"].is_null() || whole(&clause["authority"], request.authority);
    let parameters = clause["query"].as_object().cloned().unwrap_or_default();
    let query = parameters
        .iter()
        .all(|(name, pattern)| request.query.iter().any(|(key, value)| key == name && whole(pattern, value)));
    method
        && path
        && authority
        && query
        && (source.is_null() || is_us)
        && headers.iter().all(|(name, pattern)| {
            let values: Vec<&str> = request
                .fields
                .iter()
                .filter(|field| field.0.eq_ignore_ascii_case(name))
                .map(|field| field.1)
                .collect();
            let joined = values.join(if name == "Cookie" { "; " } else { ", " });
            let pattern = regex::Regex::new(&format!(r"\A(?:{})\z", text(pattern))).unwrap();
            !values.is_empty() && pattern.is_match(&joined)
        })
}

/// The hash of what a key looks at, if the request has it.
fn said(key: &Value, request: &Request) -> Option<u64> {
    let all = |name: &str, between: &str| {
        let values = request.fields.iter().filter(|field| field.0.eq_ignore_ascii_case(name));
        values.map(|field| field.1).collect::<Vec<_>>().join(between)
    };
    let text = if let Some(name) = key["header"].as_str() {
        all(name, ", ")
    } else if let Some(name) = key["cookie"].as_str() {
        let cookies = all("cookie", "; ");
        let mut pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(other, _)| *other == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    } else if key["source"] == true {
        return Some(hash(&CLIENT.octets()));
    } else {
        return None;
    };
    (!text.is_empty()).then(|| hash(text.as_bytes()))
}

/// The backend that waits least, where each waits the shorter the more it is to get.
fn by_key<'r>(backends: &'r [Value], destination: &str, hashed: u64) -> &'r Value {
    let mut first: Option<(&Value, f64)> = None;
    for (backend, share) in backends.iter().zip(shares(backends)).filter(|(_, share)| *share > 0.0) {
        let mut tags = list(&backend["tags"]);
        tags.sort();
        let name = backend["name"].as_str().unwrap_or(destination);
        let dst = if tags.is_empty() { name.to_owned() } else { format!("{name}:{}", tags.join(",")) };
        let draw = Draw::from_bits(mixed(hashed ^ mixed(hash(dst.as_bytes())))).get();
        let wait = -(1.0 - draw).ln() / share;
        if first.is_none_or(|(_, least)| wait < least) {
            first = Some((backend, wait));
        }
    }
    first.expect("somebody has a share").0
}

/// Eight bytes at a time, and the length before them.
fn hash(bytes: &[u8]) -> u64 {
    let mut state = mixed(bytes.len() as u64);
    // What is left over counts even when it is nothing.
    for at in (0..=bytes.len() / 8).map(|word| word * 8) {
        let mut word = [0; 8];
        let end = bytes.len().min(at + 8);
        word[..end - at].copy_from_slice(&bytes[at..end]);
        state = mixed(state ^ u64::from_le_bytes(word));
    }
    state
}

/// SplitMix64, its output step.
fn mixed(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn uri_covers(uri: &Value, path: &str) -> bool {
    match (uri["path"].as_str(), uri["prefix"].as_str()) {
        (Some(whole), _) => path == whole,
        (_, Some(prefix)) => path.starts_with(prefix),
        _ => false,
    }
}

fn replaced(uri: &Value, path: &str) -> String {
    let Some(new) = uri["prefix_rewrite"].as_str() else { return path.to_owned() };
    let matched = uri["path"].as_str().or(uri["prefix"].as_str()).unwrap();
    let path = path.replacen(matched, new, 1);
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// The part of the path that a rule with `uri` or `edge` has matched.
fn matched(route: &Value) -> String {
    [&route["uri"]["path"], &route["uri"]["prefix"], &route["edge"]["path_prefix"]]
        .into_iter()
        .find_map(|part| part.as_str())
        .unwrap()
        .to_owned()
}

/// Whole segments of the path, and one of the few hosts of these worlds.
fn edge_covers(edge: &Value, request: &Request) -> bool {
    if edge.is_null() {
        return false;
    }
    let below = match text(&edge["host"]).as_str() {
        "shop.example" => ["shop.example", "Shop.Example:8080"].contains(&request.authority),
        "*.example" => request.authority.to_lowercase().contains("shop.example"),
        "*.shop.example" => request.authority == "x.shop.example",
        host => request.authority == host,
    };
    let prefix = text(&edge["path_prefix"]);
    let path = format!("{}/", request.path);
    let whole = if prefix.ends_with('/') { prefix.clone() } else { format!("{prefix}/") };
    below && path.starts_with(&whole) && request.path.starts_with(&prefix)
}

/// These worlds redirect with a scheme and a host, or to another prefix.
fn elsewhere(route: &Value, request: &Request, rest: &str) -> String {
    let redirect = &route["redirect"];
    let before = redirect["host"].as_str().map(|host| format!("https://{host}")).unwrap_or_default();
    let path = match redirect["prefix_rewrite"].as_str() {
        None => request.path.clone(),
        Some(new) => format!("{new}{rest}"),
    };
    let query = request.query_text();
    let query = if query.is_empty() { query } else { format!("?{query}") };
    format!("{before}/{}{query}", path.trim_start_matches('/'))
}

fn stripped(path: &str) -> String {
    let mut parts = path.splitn(3, '/');
    format!("/{}", parts.nth(2).unwrap_or_default())
}

fn by_weight(backends: &[Value], draw: f64) -> &Value {
    let weight = |backend: &Value| backend["weight"].as_f64();
    let given: f64 = backends.iter().filter_map(weight).sum();
    let unset = backends.iter().filter(|backend| weight(backend).is_none()).count() as f64;
    // What all of them have together: all that is left over goes to the unset ones, if there are any.
    let whole = if unset > 0.0 { 1.0 } else { given };
    let mut passed = 0.0;
    for backend in backends {
        passed += weight(backend).unwrap_or((1.0 - given) / unset);
        if draw * whole < passed {
            return backend;
        }
    }
    panic!("a draw is below one")
}

/// The part of all requests that each gets.
fn shares(backends: &[Value]) -> Vec<f64> {
    let weight = |backend: &Value| backend["weight"].as_f64();
    let given: f64 = backends.iter().filter_map(weight).sum();
    let unset = backends.iter().filter(|backend| weight(backend).is_none()).count() as f64;
    let whole = if unset > 0.0 { 1.0 } else { given };
    backends.iter().map(|backend| weight(backend).unwrap_or((1.0 - given) / unset) / whole).collect()
}

/// The only range of these worlds is `v=^1.2`; the versions are `v=1.1`, `v=1.3` and `v=2.0.0`.
fn carries(tags: &[String], tag: &String) -> bool {
    tags.contains(tag) || (tag == "v=^1.2" && tags.iter().any(|tag| tag == "v=1.3"))
}

fn instances(world: &World, service: &str, tags: &[String]) -> Vec<String> {
    let usable = |instance: &&Value| {
        let (kind, value) = (text(&instance["endpoint"]["type"]), text(&instance["endpoint"]["value"]));
        let dialable = match kind.as_str() {
            "http" | "https" => value != "nonsense:x",
            "tcp" => value != "nonsense:x" && value != "host",
            _ => false,
        };
        text(&instance["service_name"]) == service && instance["status"] == "UP" && dialable
    };
    let carries = |instance: &&Value| tags.iter().all(|tag| carries(&list(&instance["tags"]), tag));
    let mut ids: Vec<_> =
        world.instances.iter().filter(usable).filter(carries).map(|i| text(&i["id"])).collect();
    ids.sort();
    ids
}
