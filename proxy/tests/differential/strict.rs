//! Reads HTTP/1.1 as narrowly as it can be read, independent of everything in the proxy: what is sent to an instance must
//! pass here. It accepts nothing that any two readers could disagree about.

use std::fmt;

/// A request that an instance got.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case, in order of name; without what belongs to one hop or is made by chance.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(usize),
    Chunked,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(80)]);
        write!(f, "{} {} {:?} {:?} ", self.method, self.target, self.fields, self.framing)?;
        write!(f, "{} bytes {body:?}", self.body.len())
    }
}

impl Request {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// What is wrong.
pub(crate) type Wrong = String;

/// The head at the start of `bytes` and its length; `None` when there is more to come.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<(Request, usize)>, Wrong> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        // A bare line feed must not hide behind a head that never ends.
        return if has_bare(bytes) { Err("a bare CR or LF".to_owned()) } else { Ok(None) };
    };
    let (text, len) = (&bytes[..end], end + 4);
    if has_bare(text) {
        return Err("a bare CR or LF".to_owned());
    }
    if text.iter().any(|byte| matches!(byte, 0..=8 | 11 | 12 | 14..=31 | 127)) {
        return Err("a control character".to_owned());
    }
    let text = String::from_utf8_lossy(text).into_owned();
    let mut lines = text.split("\r\n");
    let words: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else { return Err(format!("a request line of {words:?}")) };
    if version != "HTTP/1.1" {
        return Err(format!("version {version}"));
    }
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(format!("method {method}"));
    }
    if !(target.starts_with('/') || target == "*") || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("target {target}"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("name {name:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let framing = framing(&fields)?;
    if fields.iter().filter(|(name, _)| name == "host").count() > 1 {
        return Err("several hosts".to_owned());
    }
    fields.retain(|(name, value)| {
        let kept = name == "connection" && value.eq_ignore_ascii_case("keep-alive");
        !kept && name != "content-length" && name != "transfer-encoding"
    });
    for (name, value) in &mut fields {
        if name == "x-request-id" && is_uuid(value) {
            "made".clone_into(value);
        }
        // The generator's own are to be recorded.
        if name == "traceparent" && value.len() == 55 && value.ends_with("-00") {
            "made".clone_into(value);
        }
    }
    // Fields of one name keep their order: sorting is stable.
    fields.sort_by(|one, two| one.0.cmp(&two.0));
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Some((Request { method, target, fields, framing, body: Vec::new() }, len)))
}

/// The body at the start of `bytes` and its length; `None` when there is more to come.
pub(crate) fn body(framing: Framing, bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Wrong> {
    match framing {
        Framing::None => Ok(Some((Vec::new(), 0))),
        Framing::Length(len) => Ok(bytes.get(..len).map(|body| (body.to_vec(), len))),
        Framing::Chunked => chunks(bytes),
    }
}

fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Wrong> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let digits = rest.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(rest.len());
        if digits > 15 || digits == 0 && !rest.is_empty() {
            return Err(format!(
                "a chunk's size: {:?}",
                String::from_utf8_lossy(&rest[..rest.len().min(20)])
            ));
        }
        match &rest[digits..] {
            [] | b"\r" => return Ok(None),
            [b'\r', b'\n', ..] => {}
            other => {
                return Err(format!(
                    "behind a chunk's size: {:?}",
                    String::from_utf8_lossy(&other[..other.len().min(20)])
                ));
            }
        }
        let text = std::str::from_utf8(&rest[..digits]).unwrap();
        let size = usize::from_str_radix(text, 16).map_err(|error| error.to_string())?;
        let data = at + digits + 2;
        let Some(ending) = bytes.get(data..).and_then(|rest| rest.get(size..)) else { return Ok(None) };
        match ending {
            [] | b"\r" => return Ok(None),
            [b'\r', b'\n', ..] => {}
            _ => return Err("a chunk does not end with its data".to_owned()),
        }
        body.extend_from_slice(&bytes[data..data + size]);
        at = data + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn framing(fields: &[(String, String)]) -> Result<Framing, Wrong> {
    let all = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| &**value).collect()
    };
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Ok(Framing::None),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| format!("length {length}"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        other => Err(format!("framing {other:?}")),
    }
}

fn has_bare(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().any(|(at, byte)| match byte {
        b'\n' => at == 0 || bytes[at - 1] != b'\r',
        b'\r' => bytes.get(at + 1).is_some_and(|next| *next != b'\n'),
        _ => false,
    })
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn what_two_readers_could_disagree_about_does_not_pass() {
    let text = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nrest";
    let (request, len) = head(text.as_bytes()).unwrap().unwrap();
    assert_eq!((&*request.method, &*request.target, request.framing), ("POST", "/x", Framing::Chunked));
    assert_eq!(body(request.framing, &text.as_bytes()[len..]), Ok(Some((b"abc".to_vec(), 13))));
    for head in [
        "GET /x HTTP/1.1\nHost: a\r\n\r\n",
        "GET  /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ] {
        assert!(self::head(head.as_bytes()).is_err(), "{head:?}");
    }
    for chunks in
        ["3;x\r\nabc\r\n0\r\n\r\n", "3\nabc\r\n0\r\n\r\n", "x\r\n", "3\r\nabcd\r\n", "0\r\nT: x\r\n\r\n"]
    {
        assert!(body(Framing::Chunked, chunks.as_bytes()).is_err(), "{chunks:?}");
    }
}
