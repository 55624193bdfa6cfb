//! The rules read aloud, straight from JSON, in the order of spec 2.7: slow, obvious, and written without
//! looking at the table. It shares with it the draws alone, since chance is an argument.

use control_api::{RuleId, Snapshot};
use routing::{Purpose, Seed, rule_key};
use serde_json::Value;

use crate::worlds::{Request, World};

pub(crate) fn read_aloud(world: &World, request: &Request) -> String {
    let mut rules: Vec<&Value> = world.rules.iter().collect();
    rules.sort_by_key(|rule| (-rule["priority"].as_i64().unwrap(), text(&rule["id"])));
    let holds = |rule: &&&Value| matches(world, request, &rule["match"]);
    let is_route = |rule: &&&Value| !rule["route"].is_null();

    // 1. A rule with uri captures first, otherwise the first path segment names the destination.
    let captures = |rule: &&&Value| uri_covers(&rule["route"]["uri"], &request.path);
    let captured = rules.iter().filter(is_route).filter(captures).find(holds);
    let segment =
        request.path.strip_prefix('/').map(|rest| rest.split('/').next().unwrap()).unwrap_or_default();
    let destination = captured.map_or_else(|| segment.replace("%20", " "), |rule| text(&rule["destination"]));

    // 8. Unknown altogether.
    let is_ours = |rule: &&&Value| text(&rule["destination"]) == destination;
    let known = world.instances.iter().any(|instance| text(&instance["service_name"]) == destination);
    if !known && !rules.iter().any(|rule| is_ours(&rule)) {
        return "unknown_service".to_owned();
    }

    // 2 to 4. The first route rule that holds; none exists: default; none holds: no route.
    let ruled = rules.iter().filter(is_ours).any(|rule| is_route(&rule));
    let plain = |rule: &&&Value| rule["route"]["uri"].is_null();
    let route = captured.or_else(|| rules.iter().filter(is_ours).filter(is_route).filter(plain).find(holds));
    if ruled && route.is_none() {
        return "no_route".to_owned();
    }

    // 5. The backend by weight, the instances by name and tags.
    let seed = Seed::of(request.id.as_bytes());
    let backend = route.map(|rule| {
        let draw = seed.draw(Purpose::Split, key(rule)).get();
        by_weight(rule["route"]["backends"].as_array().unwrap(), draw)
    });
    let name = backend.and_then(|backend| backend["name"].as_str()).unwrap_or(&destination);
    let mut tags: Vec<String> = backend.map(|backend| list(&backend["tags"])).unwrap_or_default();
    tags.sort();
    let ids = instances(world, name, &tags);

    // 7. Checked before 6.
    if ids.is_empty() {
        return "no_instances".to_owned();
    }

    // 6. One action rule, its actions in order.
    let actions = rules.iter().filter(is_ours).filter(|rule| !is_route(rule)).find(holds);
    let (mut delay, mut abort, mut fired) = (0.0, None, Vec::new());
    for (place, action) in actions.iter().flat_map(|rule| rule["actions"].as_array().unwrap()).enumerate() {
        let probability = action["probability"].as_f64().filter(|share| *share > 0.0).unwrap_or(1.0);
        let draw = seed.draw(Purpose::Action(u8::try_from(place).unwrap()), key(actions.unwrap())).get();
        let runs = list(&action["tags"]).iter().all(|tag| tags.contains(tag)) && draw < probability;
        if abort.is_some() || !runs {
            continue;
        }
        fired.push(place);
        delay += action["duration"].as_f64().unwrap_or(0.0);
        abort = action["return_code"].as_i64();
    }
    let faults = actions.map_or_else(|| "none".to_owned(), |rule| format!("{} {fired:?}", text(&rule["id"])));

    let dst = if tags.is_empty() { name.to_owned() } else { format!("{name}:{}", tags.join(",")) };
    if let Some(code) = abort {
        return format!("abort {code} for {dst} after {delay} faults {faults}");
    }
    let or = |value: &Value, default: f64| value.as_f64().filter(|number| *number > 0.0).unwrap_or(default);
    let times = |name: &str, default| route.map_or(default, |rule| or(&rule["route"][name], default));
    let (timeout, retries) = (times("http_req_timeout", 15.0), times("http_req_retries", 1.0));
    let lb = backend.and_then(|backend| backend["lb_type"].as_str()).filter(|lb| !lb.is_empty());
    let lb = lb.unwrap_or("round_robin");
    let path = match captured {
        Some(rule) => replaced(&rule["route"]["uri"], &request.path),
        None => stripped(&request.path),
    };
    format!(
        "forward {path} to {dst} {lb} {ids:?} after {delay} within {timeout} retries {retries} faults {faults}"
    )
}

/// Everything of a snapshot that a service is made of, as text: its rules, its instances, and those of the
/// services that its rules name.
pub(crate) fn made_of(snapshot: &Snapshot, name: &str) -> Vec<String> {
    let rules: Vec<_> = snapshot.rules().values().filter(|rule| rule.destination.as_str() == name).collect();
    let backends = rules.iter().filter_map(|rule| rule.route()).flat_map(|route| &route.backends);
    let mut services: Vec<&str> =
        backends.filter_map(|backend| backend.name.as_ref()).map(AsRef::as_ref).collect();
    services.push(name);
    let instances =
        snapshot.instances().values().filter(|instance| services.contains(&instance.service_name.as_str()));
    let rules = rules.iter().map(|rule| serde_json::to_string(rule).unwrap());
    rules.chain(instances.map(|instance| serde_json::to_string(instance).unwrap())).collect()
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
        && list(&source["tags"]).iter().all(|tag| world.identity.tags.contains(tag));
    let headers = clause["headers"].as_object().cloned().unwrap_or_default();
    (source.is_null() || is_us)
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
    let carries = |instance: &&Value| tags.iter().all(|tag| list(&instance["tags"]).contains(tag));
    let mut ids: Vec<_> =
        world.instances.iter().filter(usable).filter(carries).map(|i| text(&i["id"])).collect();
    ids.sort();
    ids
}
