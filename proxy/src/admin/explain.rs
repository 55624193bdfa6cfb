//! `GET /explain`: reads a request from a query and lets the table that serves explain it, by the code path
//! that decides. It sends nothing anywhere.

use std::time::Instant;

use control_api::unix_s;
use http::header::{HOST, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use routing::{Explanation, RequestHead, Seed, panics};
use serde::Serialize;

use super::{Answer, TEXT};
use crate::counts::{Asked, Counts};
use crate::tables::{Table, Tables};

/// The most header fields that a question may carry.
const HEADERS_MAX: usize = 100;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The explanation and the id whose draws it shows: the same id meets the same fate in the proxy.
#[derive(Serialize)]
struct Explained {
    request_id: String,
    #[serde(flatten)]
    explanation: Explanation,
}

/// The request that is asked about.
#[derive(Debug, PartialEq)]
struct Question {
    method: String,
    path: String,
    query: String,
    authority: String,
    headers: HeaderMap,
    request_id: String,
    text: bool,
}

/// Answers `path=..&method=..&header=Name:value&authority=..&request_id=..&format=text`. Only the path is
/// needed; the authority is the `Host` among the headers unless it is given; without an id the draws are those of a new
/// request.
pub(super) fn explain(tables: &Tables, counts: &Counts, query: &str) -> Result<Answer, String> {
    let question = Question::read(query, || uuid::Uuid::new_v4().to_string())?;
    let head = RequestHead {
        method: &question.method,
        path: &question.path,
        query: &question.query,
        authority: &question.authority,
        headers: &question.headers,
    };
    let now = Asked { counts, unix_s: unix_s(crate::clock::wall()) };
    let table = tables.pin();
    let mut explanation = table.explain(&head, Seed::of(question.request_id.as_bytes()), &now);
    add_states(&mut explanation, &table, crate::clock::now());
    if question.text {
        let body = format!("request id {}\n{explanation}\n", question.request_id).into_bytes();
        return Ok(Answer { status: StatusCode::OK, media: TEXT, body });
    }
    Ok(Answer::json(StatusCode::OK, &Explained { request_id: question.request_id, explanation }))
}

/// Which instances get no requests right now, and whether that is ignored.
fn add_states(explanation: &mut Explanation, table: &Table, now: Instant) {
    let Some(backend) = explanation.decision.backend.map(|at| table.backend(at)) else { return };
    for (note, endpoint) in explanation.instances.iter_mut().zip(backend.endpoints.iter()) {
        note.state = endpoint.live.state(now);
    }
    let usable = explanation.instances.iter().filter(|note| note.state.is_none()).count();
    let threshold = backend.resilience.panic_threshold_percent.unwrap_or(0);
    if panics(usable, explanation.instances.len(), threshold) {
        explanation.policies.push(format!("less than {threshold}% are usable: all are used"));
    }
}

impl Question {
    fn read(query: &str, new_id: impl FnOnce() -> String) -> Result<Self, String> {
        let (mut path, mut request_id) = (None, None);
        let mut headers = HeaderMap::new();
        let (mut method, mut authority, mut text) = ("GET".to_owned(), None, false);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| format!("`{key}` is not percent-encoded text"))?;
            match key {
                "path" => path = Some(value),
                "method" => method = value,
                "authority" => authority = Some(value),
                "request_id" => request_id = Some(value),
                "format" => text = value == "text",
                "header" => header(&mut headers, &value)?,
                _ => return Err(format!("`{key}` is no parameter of explain")),
            }
        }
        let path = path.ok_or("`path` is missing")?;
        if !path.starts_with('/') {
            return Err("`path` does not begin with a slash".to_owned());
        }
        // Given apart it goes before the header, as `:authority` does.
        let host = || Some(headers.get(HOST)?.to_str().ok()?.to_owned());
        let authority = authority.or_else(host).unwrap_or_default();
        // The id is a header of the request, for rules that match on it; made here as the proxy makes it.
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let request_id = request_id.or(given).unwrap_or_else(new_id);
        let id = HeaderValue::from_str(&request_id).map_err(|_| "`request_id` is no header text")?;
        headers.insert(REQUEST_ID, id);
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        Ok(Self { method, path, query, authority, headers, request_id, text })
    }
}

fn header(headers: &mut HeaderMap, text: &str) -> Result<(), String> {
    let bad = || format!("`{text}` is no header; write Name:value");
    let (name, value) = text.split_once(':').ok_or_else(bad)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
    let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| bad())?;
    if headers.len() >= HEADERS_MAX {
        return Err(format!("more than {HEADERS_MAX} headers"));
    }
    headers.append(name, value);
    Ok(())
}

/// Undoes percent-encoding. A plus is a plus: cookies and patterns hold them.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (high, low) = (digit()?, digit()?);
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Question, String> {
        Question::read(query, || "new".to_owned())
    }

    #[test]
    fn a_question_is_read_from_the_query() {
        let question =
            read("path=/reviews/x%3Fy=1&method=POST&header=Cookie:user%3Djason&header=a:%20b+c&request_id=id-1&authority=h:1")
                .unwrap();
        assert_eq!((question.method.as_str(), question.path.as_str()), ("POST", "/reviews/x"));
        assert_eq!(question.query, "y=1");
        assert_eq!((question.authority.as_str(), question.request_id.as_str()), ("h:1", "id-1"));
        assert_eq!(question.headers["cookie"], "user=jason");
        assert_eq!(question.headers["a"], "b+c");
        assert_eq!(question.headers["x-request-id"], "id-1");
    }

    #[test]
    fn the_authority_is_the_parameter_then_the_host_then_none() {
        for (query, authority) in [
            ("path=/&authority=a:1&header=Host:b", "a:1"),
            ("path=/&header=hOST:%20b:2", "b:2"),
            ("path=/", ""),
        ] {
            assert_eq!(read(query).unwrap().authority, authority, "{query}");
        }
    }

    #[test]
    fn the_request_id_is_the_parameter_then_the_header_then_a_new_one() {
        for (query, id) in [
            ("path=/&request_id=a&header=X-Request-Id:b", "a"),
            ("path=/&header=X-Request-Id:b", "b"),
            ("path=/", "new"),
        ] {
            let question = read(query).unwrap();
            assert_eq!(question.request_id, id);
            assert_eq!(question.headers["x-request-id"], id);
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        for query in [
            "",
            "method=GET",
            "path=reviews",
            "path=/%2",
            "path=/%zz",
            "path=/%ff",
            "path=/&header=nocolon",
            "path=/&header=bad%20name:x",
            "path=/&header=a:b%0ac",
            "path=/&request_id=a%0ab",
            "path=/&paht=/",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
        let many = |count| format!("path=/{}", "&header=a:b".repeat(count));
        assert!(read(&many(HEADERS_MAX)).is_ok() && read(&many(HEADERS_MAX + 1)).is_err());
    }
}
