//! A rule in the cells of a table, in the notation of spec/control-and-proxy.md 4.1. Only for people: the
//! JSON and YAML outputs carry the rule itself.

use control_api::{AbortCode, Action, Answer, Backend, Body, Clause, Length, Match, PathMatch, PathTest};
use control_api::{Route, Rule, Share, Source};

/// The table of some rules, in the order of their evaluation per destination.
pub(crate) fn table(rules: &[Rule]) -> String {
    let mut rules: Vec<&Rule> = rules.iter().collect();
    rules.sort_by(|a, b| a.destination.cmp(&b.destination).then_with(|| a.precedence(b)));
    let row = |rule: &&Rule| {
        vec![
            rule.destination.to_string(),
            rule.priority.to_string(),
            matching(&rule.matching),
            does(&rule.body),
            rule.tags.join(", "),
            rule.id.to_string(),
        ]
    };
    let rows: Vec<_> = rules.iter().map(row).collect();
    crate::table::draw(&["Destination", "Priority", "Match", "Does", "Tags", "Rule ID"], &rows)
}

fn does(body: &Body) -> String {
    match body {
        Body::Route(route) => routes(route),
        Body::Actions(actions) => join(actions.iter().map(action)),
        Body::HealthCheck(check) => format!("health={}", check.describe()),
    }
}

fn routes(route: &Route) -> String {
    let mut parts = match route.answer.as_deref() {
        Some(Answer::Response(response)) => vec![format!("response={}", response.status)],
        Some(Answer::Redirect(redirect)) => vec![format!("redirect={}", redirect.status)],
        None if route.names_only() => Vec::new(),
        None => vec![join(route.backends.iter().map(backend))],
    };
    parts.extend(route.edge.as_ref().map(|edge| {
        let host = edge.host.as_ref().map(|host| host.as_str()).unwrap_or_default();
        format!("edge={host}{}", edge.path_prefix)
    }));
    if let Some(uri) = &route.uri {
        let path = match &uri.path {
            PathMatch::Exact(path) => format!("path={path}"),
            PathMatch::Prefix(prefix) => format!("prefix={prefix}"),
        };
        parts.push(uri.rewrite.as_ref().map_or(path.clone(), |to| format!("{path}->{to}")));
    }
    parts.extend(route.timeout.map(|timeout| format!("timeout={}s", timeout.as_secs_f64())));
    parts.extend(route.retries.map(|retries| format!("retries={retries}")));
    parts.join("; ")
}

fn backend(backend: &Backend) -> String {
    let name = backend.name.as_ref().map(|name| format!("{name}:")).unwrap_or_default();
    let weight = backend.weight.map(Share::fraction).filter(|weight| *weight > 0.0);
    let weight = weight.map(|weight| format!("(weight={weight})")).unwrap_or_default();
    format!("{name}{}{weight}", backend.tags.join(","))
}

fn action(action: &Action) -> String {
    let what = match action {
        Action::Delay { length, .. } => match length {
            Length::Fixed(duration) => format!("delay={}", duration.as_secs_f64()),
            Length::Uniform { min, max } => {
                format!("delay={}..{}", min.as_secs_f64(), max.as_secs_f64())
            }
            Length::Normal { mean, stddev } => {
                format!("delay={}+-{}", mean.as_secs_f64(), stddev.as_secs_f64())
            }
            Length::Exponential { mean } => format!("delay~{}", mean.as_secs_f64()),
        },
        Action::Abort { code, .. } => match code {
            AbortCode::Status(status) => format!("abort={status}"),
            AbortCode::Close(code) => format!("abort={code}"),
            AbortCode::Reset => "abort=reset".to_owned(),
            AbortCode::Grpc(status) => format!("abort=grpc {status}"),
        },
        Action::Bandwidth { bytes_per_s, .. } => format!("bandwidth={bytes_per_s}"),
        Action::Truncate { after_bytes, .. } => format!("truncate={after_bytes}"),
        Action::Trace { .. } => "trace".to_owned(),
    };
    let tags = action.tags().join(",");
    match action.chance() {
        Some(chance) => format!("{tags}({}->{what})", chance.probability.fraction()),
        None => format!("{tags}({what})"),
    }
}

fn matching(matching: &Match) -> String {
    let own = (matching.own != Clause::default()).then(|| clause(&matching.own));
    let list = |name: &str, clauses: &[Clause]| {
        let inner = clauses.iter().map(clause).collect::<Vec<_>>().join(" | ");
        (!clauses.is_empty()).then(|| format!("{name}[{inner}]"))
    };
    join(
        [own, list("all", &matching.all), list("any", &matching.any), list("none", &matching.none)]
            .into_iter()
            .flatten(),
    )
}

fn clause(clause: &Clause) -> String {
    let source = clause.source.as_ref().map(source);
    let method = clause.method.as_ref().map(|methods| format!("method={}", methods.as_slice().join("|")));
    let path = clause.path.as_ref().map(|path| match path {
        PathTest::Exact(path) => format!("path={path}"),
        PathTest::Prefix(prefix) => format!("path={prefix}.."),
        PathTest::Regex(pattern) => format!("path~{}", pattern.as_str()),
    });
    let authority = clause.authority.as_ref().map(|pattern| format!("authority~{}", pattern.as_str()));
    let headers =
        clause.headers.iter().map(|header| format!("{}:{}", header.written, header.pattern.as_str()));
    let query = clause.query.iter().map(|test| format!("?{}={}", test.name, test.pattern.as_str()));
    join([source, method, path, authority].into_iter().flatten().chain(headers).chain(query))
}

fn source(source: &Source) -> String {
    if source.tags.is_empty() {
        format!("source={}", source.name)
    } else {
        format!("source={}:{}", source.name, source.tags.join(","))
    }
}

fn join(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_in_the_notation_of_the_earlier_clients() {
        for (rule, when, what) in [
            (
                r#"{"id":"r","destination":"d","route":{"backends":[{"tags":["v2"],"weight":0.25},{"tags":["v1"]}]}}"#,
                "",
                "v2(weight=0.25), v1",
            ),
            (
                r#"{"id":"r","destination":"d","match":{"source":{"name":"reviews","tags":["v2"]},"headers":{"Foo":"bar"}},
                  "actions":[{"action":"delay","duration":7,"tags":["v1"]},{"action":"abort","return_code":400,"probability":0.5},{"action":"trace"}]}"#,
                "source=reviews:v2, Foo:bar",
                "v1(1->delay=7), (0.5->abort=400), (trace)",
            ),
            (
                r#"{"id":"r","destination":"d","match":{"method":["PUT","POST"],"path":{"prefix":"/a"},"authority":"h","query":{"q":"1"}},
                  "actions":[{"action":"trace"}]}"#,
                "method=PUT|POST, path=/a.., authority~h, ?q=1",
                "(trace)",
            ),
            (
                r#"{"id":"r","destination":"d","match":{"any":[{"headers":{"A":"1"}},{"source":{"name":"s"}}]},
                  "route":{"backends":[{"name":"e","tags":["v1"]}],"uri":{"prefix":"/a","prefix_rewrite":"/b"},"http_req_timeout":2.5,"http_req_retries":3}}"#,
                "any[A:1 | source=s]",
                "e:v1; prefix=/a->/b; timeout=2.5s; retries=3",
            ),
            (
                r#"{"id":"r","destination":"d","health_check":{"type":"http","path":"/healthz"}}"#,
                "",
                "health=http /healthz",
            ),
        ] {
            let rule: Rule = serde_json::from_str(rule).unwrap();
            assert_eq!(matching(&rule.matching), when);
            assert_eq!(does(&rule.body), what);
        }
    }
}
