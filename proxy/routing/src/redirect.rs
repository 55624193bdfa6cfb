//! Where a redirect leads. It writes nothing but the address; whether there is a redirect at all is the law's.

use control_api::{NewPath, Redirect};

use crate::head::RequestHead;

/// What a rule does not say is taken from the request; `rest` is what follows the matched part of its path. Without a scheme the client keeps its own.
pub(crate) fn location(redirect: &Redirect, rest: &str, head: &RequestHead<'_>) -> String {
    // A rule that only names the scheme means the host that was asked.
    let asked = || redirect.scheme.as_ref().map(|_| head.authority).filter(|authority| !authority.is_empty());
    let host = redirect.host.as_deref().or_else(asked);
    let mut location = match (&redirect.scheme, host) {
        (Some(scheme), Some(host)) => format!("{scheme}://{host}"),
        (None, Some(host)) => format!("//{host}"),
        (_, None) => String::new(),
    };
    let path = match &redirect.path {
        None => head.path.to_owned(),
        Some(NewPath::Whole(path)) => path.clone(),
        Some(NewPath::Prefix(prefix)) => format!("{prefix}{rest}"),
    };
    // Two slashes would begin a host, and it would be the client's choice.
    location.push('/');
    location.push_str(path.trim_start_matches(['/', '\\']));
    if !head.query.is_empty() && !path.contains('?') {
        location.push('?');
        location.push_str(head.query);
    }
    location
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::first_segment;
    use crate::uri::Capture;
    use control_api::Rule;
    use http::HeaderMap;
    use serde_json::{Value, json};

    fn leads(redirect: Value, uri: Value, path: &str, query: &str, authority: &str) -> String {
        let rule = json!({"id": "r", "destination": "d", "route": {"redirect": redirect, "uri": uri}});
        let rule: Rule = serde_json::from_value(rule).unwrap();
        let route = rule.route().unwrap();
        let Some(control_api::Answer::Redirect(redirect)) = route.answer.as_deref() else {
            panic!("no redirect")
        };
        let headers = HeaderMap::new();
        let head = RequestHead { method: "GET", path, query, authority, headers: &headers };
        let capture = route.uri.as_ref().map(Capture::new);
        let segment = || first_segment(path).map_or("", |(_, rest)| rest);
        location(redirect, capture.map_or_else(segment, |capture| capture.rest(path)), &head)
    }

    #[test]
    fn what_the_rule_does_not_say_is_taken_from_the_request() {
        let none = Value::Null;
        for (redirect, uri, path, query, expected) in [
            (json!({"scheme": "https"}), &none, "/s/a", "q=1", "https://h:80/s/a?q=1"),
            (json!({"host": "new:81"}), &none, "/s/a", "", "//new:81/s/a"),
            (json!({"scheme": "https", "host": "new"}), &none, "/s/a", "", "https://new/s/a"),
            (json!({"path": "/b"}), &none, "/s/a", "q=1", "/b?q=1"),
            (json!({"path": "/b?c=d"}), &none, "/s/a", "q=1", "/b?c=d"),
            (json!({"prefix_rewrite": "/t"}), &none, "/s/a/b", "", "/t/a/b"),
            (json!({"prefix_rewrite": "/t"}), &none, "/s", "", "/t"),
            (json!({"prefix_rewrite": "/t/"}), &json!({"prefix": "/old/"}), "/old/a", "", "/t/a"),
            (json!({"prefix_rewrite": "/t"}), &json!({"path": "/old"}), "/old", "q", "/t?q"),
        ] {
            assert_eq!(leads(redirect.clone(), uri.clone(), path, query, "h:80"), expected, "{redirect}");
        }
        assert_eq!(leads(json!({"scheme": "https"}), none, "/s", "", ""), "/s");
    }

    #[test]
    fn a_client_cannot_make_it_lead_to_a_host_of_its_own() {
        let every = json!({"prefix": "/"});
        for path in ["//evil.example/x", "///evil.example/x", "/\\evil.example/x"] {
            let kept = leads(json!({"scheme": "https"}), every.clone(), path, "", "");
            assert_eq!(kept, "/evil.example/x");
            let rewritten = leads(json!({"prefix_rewrite": "/"}), every.clone(), path, "", "");
            assert_eq!(rewritten, "/evil.example/x");
        }
        assert_eq!(
            leads(json!({"prefix_rewrite": "/"}), Value::Null, "/s//evil.example", "", ""),
            "/evil.example"
        );
    }
}
