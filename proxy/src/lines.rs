//! Writes heads line by line in one form, from what was understood of those that came: no byte goes on because it was
//! not looked at. It judges nothing that was read, and sends nothing.

use std::io::Write as _;
use std::net::IpAddr;

use control_api::Edits;

use crate::answer::{Answer, Framing, Stated};
use crate::fields::Fields;
use crate::forward::{self, TRACEPARENT, is_of_framing, is_of_one_hop, stays_behind};
use crate::trace;

/// Room for what is added to a head.
const ADDED_BYTES: usize = 256;

/// The head of a request as an instance gets it. Its fields come from a head that is ordinary, so that its `Connection`
/// names no other field.
pub(crate) struct Onward<'a> {
    pub(crate) method: &'a str,
    /// Rewritten; never empty.
    pub(crate) path: &'a str,
    /// With its question mark, or empty.
    pub(crate) query: &'a [u8],
    /// As the client sent them.
    pub(crate) fields: Fields<'a>,
    /// Takes the place of what the client named.
    pub(crate) host: Option<&'a str>,
    /// Takes the place of the client's.
    pub(crate) request_id: &'a [u8],
    /// Whom the request came from.
    pub(crate) caller: Option<IpAddr>,
    /// Where nobody before has named it: what the client used.
    pub(crate) scheme: &'static str,
    /// What goes on of the trace.
    pub(crate) trace: &'a trace::Onward,
    /// What the route does to all of that.
    pub(crate) edits: Option<&'a Edits>,
}

impl Onward<'_> {
    /// Appends the head to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(ADDED_BYTES + self.fields.head_len() + self.path.len());
        for part in [self.method.as_bytes(), b" ", self.path.as_bytes(), self.query, b" HTTP/1.1\r\n"] {
            out.extend_from_slice(part);
        }
        let mut proto = false;
        for (name, value) in self.fields.iter() {
            match name.len() {
                4 if self.host.is_some() && name.eq_ignore_ascii_case(b"host") => {
                    line(out, name, self.host.unwrap_or_default().as_bytes());
                }
                12 if name.eq_ignore_ascii_case(b"x-request-id") => {}
                10 if !self.trace.keeps_state && name.eq_ignore_ascii_case(b"tracestate") => {}
                11 if self.trace.parent.is_some() && name.eq_ignore_ascii_case(b"traceparent") => {}
                14 if name.eq_ignore_ascii_case(b"http2-settings") => {}
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    line(out, name, without_zeros(value));
                }
                15 if self.caller.is_some() && name.eq_ignore_ascii_case(b"x-forwarded-for") => {}
                // Only this one was accepted, in whatever case.
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => line(out, name, b"chunked"),
                17 if name.eq_ignore_ascii_case(b"x-forwarded-proto") => {
                    proto = true;
                    line(out, name, value);
                }
                _ if is_of_one_hop(name) => {}
                _ => line(out, name, value),
            }
        }
        line(out, b"X-Request-Id", self.request_id);
        if let Some(caller) = self.caller {
            out.extend_from_slice(b"X-Forwarded-For: ");
            forward::forwarded_for(self.fields.all("x-forwarded-for"), caller, out);
            out.extend_from_slice(b"\r\n");
        }
        if !proto {
            line(out, b"X-Forwarded-Proto", self.scheme.as_bytes());
        }
        if let Some(parent) = &self.trace.parent {
            line(out, TRACEPARENT.as_str().as_bytes(), parent);
        }
        out.extend_from_slice(b"\r\n");
        if let Some(edits) = self.edits {
            edit(edits, start, out);
        }
    }
}

/// Appends the head of `answer`, read from `bytes`, as a client of HTTP/1.1 gets it. Its framing is written anew; a body
/// that ends with the instance's connection is announced in chunks. `close` tells the client that the connection ends.
pub(crate) fn write_answer(answer: &Answer, bytes: &[u8], close: bool, out: &mut Vec<u8>) {
    out.reserve(ADDED_BYTES + answer.len);
    status_line(answer.status, answer.reason(bytes), out);
    let fields = answer.fields(bytes);
    for (name, value) in fields.iter() {
        if !is_of_framing(name) && !stays_behind(name, fields.all("connection")) {
            line(out, name, value);
        }
    }
    // RFC 9110 8.6 and RFC 9112 6.1: neither field in an answer that never has a body.
    let bodiless = answer.is_interim() || answer.status == 204;
    match (answer.framing, answer.stated) {
        (Framing::None, _) if bodiless => {}
        (Framing::None, Stated::Nothing) => {}
        (Framing::Length(length), _) | (Framing::None, Stated::Length(length)) => {
            write!(out, "Content-Length: {length}\r\n").expect("memory takes everything");
        }
        (Framing::Chunked | Framing::UntilClose, _) | (Framing::None, Stated::Chunked) => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
    }
    // What is only announced says nothing about the connection.
    if !answer.is_interim() {
        out.extend_from_slice(connection(close));
    }
    out.extend_from_slice(b"\r\n");
}

/// Does to the fields of the head that is written from `start` on what its route says. No edit names a field that frames
/// the message or is for one hop.
pub(crate) fn edit(edits: &Edits, start: usize, out: &mut Vec<u8>) {
    let written = out.split_off(start);
    let name = |line: &[u8]| line.iter().position(|byte| *byte == b':').unwrap_or(0);
    let goes = |line: &[u8]| {
        forward::replaced(edits)
            .any(|other| line[..name(line)].eq_ignore_ascii_case(other.as_str().as_bytes()))
    };
    // No value holds the end of a line.
    let mut lines = written.split_inclusive(|byte| *byte == b'\n').filter(|line| *line != b"\r\n");
    out.extend_from_slice(lines.next().unwrap_or_default());
    lines.filter(|line| !goes(line)).for_each(|line| out.extend_from_slice(line));
    for (name, value) in forward::put(edits) {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// The line that tells the client what becomes of the connection. Saying that it stays is not needed, but usual.
pub(crate) fn connection(close: bool) -> &'static [u8] {
    if close { b"Connection: close\r\n" } else { b"Connection: keep-alive\r\n" }
}

/// Appends a status line; `status` has three digits.
pub(crate) fn status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    let digit = |place: u16| b'0' + (status / place % 10) as u8;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends a field.
pub(crate) fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// One form for one number: some readers take a zero in front for another base.
fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros.min(digits.len().saturating_sub(1))..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{answer, head};

    fn onward(head: &str, host: Option<&str>, caller: Option<&str>) -> String {
        onward_by("http", head, host, caller)
    }

    fn onward_by(scheme: &'static str, head: &str, host: Option<&str>, caller: Option<&str>) -> String {
        let read = head::read(head.as_bytes()).unwrap();
        let mut out = b"before ".to_vec();
        let fields = read.fields(head.as_bytes());
        let carried = trace::Carried::of(fields.iter());
        Onward {
            method: &head[read.method.clone()],
            path: "/up",
            query: b"?q=1",
            fields,
            host,
            request_id: b"id-1",
            caller: caller.map(|caller| caller.parse().unwrap()),
            scheme,
            trace: &trace::Onward::unrecorded(carried, [0, 1, 2]),
            edits: None,
        }
        .write(&mut out);
        let text = String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned();
        text.replace("traceparent: 00-00000000000000000000000000000001-0000000000000002-00\r\n", "{TRACE}")
    }

    #[test]
    fn a_request_goes_on_in_one_form_with_what_is_added() {
        let head = "POST /s/up?q=1 HTTP/1.1\r\nhost:a:80\r\nX-A: \t 1 \r\nX-Request-ID: 1\r\nX-B:\r\nx-a: 2\r\n\
                    TRANSFER-ENCODING: Chunked\r\n\r\n";
        assert_eq!(
            onward(head, None, Some("::ffff:10.0.0.9")),
            "POST /up?q=1 HTTP/1.1\r\nhost: a:80\r\nX-A: 1\r\nX-B: \r\nx-a: 2\r\nTRANSFER-ENCODING: chunked\r\n\
             X-Request-Id: id-1\r\nX-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Proto: http\r\n{TRACE}\r\n"
        );
        let head = "GET /s HTTP/1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nHost: a\r\n\
                    x-forwarded-for: 3.3.3.3\r\nContent-Length: 007\r\n\r\n";
        assert_eq!(
            onward(head, Some("b.example"), Some("::1")),
            "GET /up?q=1 HTTP/1.1\r\nX-Forwarded-Proto: https\r\nHost: b.example\r\nContent-Length: 7\r\n\
             X-Request-Id: id-1\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, ::1\r\n{TRACE}\r\n"
        );
        assert!(
            onward_by("https", "GET /s HTTP/1.1\r\nHost: a\r\n\r\n", None, None)
                .contains("\r\nX-Forwarded-Proto: https\r\n")
        );
        // A caller that is not known hides nobody before it.
        let head = "GET /s HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nContent-Length: 000\r\n\r\n";
        assert_eq!(
            onward(head, None, None),
            "GET /up?q=1 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nContent-Length: 0\r\n\
             X-Request-Id: id-1\r\nX-Forwarded-Proto: http\r\n{TRACE}\r\n"
        );
    }

    #[test]
    fn what_is_for_one_hop_does_not_go_on() {
        let fields = [
            "Connection: keep-alive",
            "Keep-Alive: timeout=5",
            "proxy-connection: keep-alive",
            "Proxy-Authenticate: x",
            "PROXY-AUTHORIZATION: x",
            "TE: trailers",
            "trailer: x",
            "Upgrade: x",
            "HTTP2-Settings: x",
        ];
        let head = format!("GET /s HTTP/1.1\r\nHost: a\r\n{}\r\nX: y\r\n\r\n", fields.join("\r\n"));
        assert_eq!(
            onward(&head, None, None),
            "GET /up?q=1 HTTP/1.1\r\nHost: a\r\nX: y\r\nX-Request-Id: id-1\r\nX-Forwarded-Proto: http\r\n{TRACE}\r\n"
        );
    }

    #[test]
    fn edits_take_out_and_put_in_whole_fields_and_nothing_else() {
        let rule = serde_json::json!({"id": "r", "destination": "d", "route": {"backends": [{"tags": ["v1"]}],
            "headers": {"request": {"remove": ["X-A"], "set": {"X-B": "new", "X-C": "c"}, "add": {"X-D": "2"}}}}});
        let rule: control_api::Rule = serde_json::from_value(rule).unwrap();
        let edits = rule.route().unwrap().headers.as_ref().unwrap().request.as_ref().unwrap();
        let mut out = b"X-A: before\r\nGET /x-a: HTTP/1.1\r\nx-a: 1\r\nX-AA: x-a: 1\r\nX-b: 1\r\nX-D: 1\r\nX-B: 2\r\n\r\n".to_vec();
        edit(edits, 13, &mut out);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "X-A: before\r\nGET /x-a: HTTP/1.1\r\nX-AA: x-a: 1\r\nX-D: 1\r\nx-b: new\r\nx-c: c\r\nx-d: 2\r\n\r\n"
        );
    }

    #[test]
    fn a_trace_goes_on_with_its_state_or_not_at_all() {
        let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let state = "tracestate: a=1";
        for (fields, goes_on, begins) in [
            (vec![parent, state], vec![parent, state], false),
            (vec![state], vec![], true),
            (vec!["traceparent: x", state], vec![], true),
            (vec![parent, state, parent], vec![], true),
            (vec!["b3: 0", state], vec!["b3: 0"], true),
            (vec!["x-b3-traceid: 1"], vec!["x-b3-traceid: 1"], true),
        ] {
            let lines =
                |fields: &[&str]| fields.iter().map(|field| format!("{field}\r\n")).collect::<String>();
            let head = format!("GET /s HTTP/1.1\r\nHost: a\r\n{}\r\n", lines(&fields));
            let trace = if begins { "{TRACE}" } else { "" };
            assert_eq!(
                onward(&head, None, None),
                format!(
                    "GET /up?q=1 HTTP/1.1\r\nHost: a\r\n{}X-Request-Id: id-1\r\nX-Forwarded-Proto: http\r\n{trace}\r\n",
                    lines(&goes_on)
                )
            );
        }
    }

    fn answered(head: &str, method: &str, close: bool) -> String {
        let read = answer::read(head.as_bytes(), method).unwrap();
        let mut out = b"before ".to_vec();
        write_answer(&read, head.as_bytes(), close, &mut out);
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
    }

    #[test]
    fn an_answer_goes_on_in_one_form_with_its_framing_written_anew() {
        for (head, method, close, written) in [
            (
                "HTTP/1.0 200 Fine  by me\r\ncontent-length:005\r\nX-A:1\r\nx-a:\t2\r\n\r\n",
                "GET",
                false,
                "HTTP/1.1 200 Fine  by me\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
            ),
            (
                "HTTP/1.1 200\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\n",
                "GET",
                true,
                "HTTP/1.1 200 \r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n",
                "GET",
                false,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nX: y\r\n\r\n",
                "GET",
                false,
                "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                "HEAD",
                false,
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HEAD",
                false,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n",
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", "HEAD", false, "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n"),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n",
                "GET",
                true,
                "HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 None\r\nContent-Length: 0\r\n\r\n",
                "GET",
                false,
                "HTTP/1.1 204 None\r\nConnection: keep-alive\r\n\r\n",
            ),
            (
                "HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n",
                "HEAD",
                false,
                "HTTP/1.1 204 None\r\nConnection: keep-alive\r\n\r\n",
            ),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                "GET",
                true,
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
            ),
        ] {
            assert_eq!(answered(head, method, close), written, "{head:?}");
        }
    }

    #[test]
    fn an_answer_loses_what_was_for_one_hop_and_never_its_framing() {
        let head = "HTTP/1.1 200 OK\r\nConnection: X-Secret, content-length, keep-alive\r\nx-secret: 1\r\nX-Kept: 1\r\n\
                    Keep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nTrailer: x\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\
                    connection: x-other\r\nX-Other: 1\r\nX-Secret2: 1\r\n\r\n";
        assert_eq!(
            answered(head, "GET", false),
            "HTTP/1.1 200 OK\r\nX-Kept: 1\r\nX-Secret2: 1\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"
        );
    }
}
