//! Reads the raw head of an HTTP/1 request strictly: what it refuses is refused before any engine sees a byte,
//! and what it accepts has one meaning. It repairs nothing, keeps nothing, and knows neither sockets nor routes.

use std::ops::Range;

use bytes::BytesMut;

pub(crate) use crate::fields::{Field, Fields};
use crate::fields::{Lines, find, is_token, length, tokens};
use crate::grpc;

/// A request head may be this long, request line included.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A request line may be this long.
pub(crate) const REQUEST_LINE_BYTES_MAX: usize = 16 * 1024;
/// A head may have this many fields; Pingora's own limit is 256.
pub(crate) const FIELDS_MAX: usize = 200;
/// No registered method is longer than 17 bytes.
const METHOD_BYTES_MAX: usize = 32;
/// A head in the lane may have this many fields.
const LANE_FIELDS_MAX: usize = 64;
/// A head in the lane may be this long.
const LANE_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Room for the fields that clients usually send.
const FIELDS_USUAL: usize = 16;

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

/// What has to be known about a head before an engine may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its length in bytes, the empty line included.
    pub(crate) len: usize,
    /// The framing of the body.
    pub(crate) body: Body,
    /// Where the method stands.
    pub(crate) method: Range<usize>,
    /// Where the target stands.
    pub(crate) target: Range<usize>,
    /// Nothing about it needs the general engine.
    pub(crate) ordinary: bool,
    /// The client does not ask for the connection to end.
    pub(crate) keep_alive: bool,
    fields: Vec<Field>,
}

impl Head {
    /// The fields; `bytes` is the head that was read.
    pub(crate) fn fields<'a>(&'a self, bytes: &'a [u8]) -> Fields<'a> {
        Fields::new(bytes, &self.fields)
    }

    /// Whether it says that it is a call of gRPC; `bytes` begins with the head that was read.
    pub(crate) fn is_call(&self, bytes: &[u8]) -> bool {
        &bytes[self.method.clone()] == b"POST"
            && self.fields(bytes).first("content-type").is_some_and(grpc::is_media_type)
    }
}

/// A head that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// 400, for this reason.
    Bad(&'static str),
    /// 431, for this reason.
    TooLarge(&'static str),
}

/// Looks for the end of the head in `bytes`, of which the first `seen` were looked at before; the position just
/// behind it. Linear over all calls together, whatever the sender's pace.
pub(crate) fn end_of_head(bytes: &[u8], seen: usize) -> Option<usize> {
    let mut at = seen.saturating_sub(3);
    while let Some(feed) = find(&bytes[at..], |byte| byte == b'\n') {
        let next = at + feed + 1;
        match &bytes[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => at = next,
        }
    }
    None
}

/// Whether `byte` may begin a request; anything else is not HTTP and need not be waited for.
pub(crate) fn may_begin(byte: u8) -> bool {
    is_token(byte) || byte == b'\r' || byte == b'\n'
}

/// Reads one complete head, `head` ending with its empty line.
pub(crate) fn read(head: &[u8]) -> Result<Head, Malformed> {
    if head.len() > HEAD_BYTES_MAX {
        return Err(Malformed::TooLarge("the head of the request is too large"));
    }
    let mut lines = Lines::new(head);
    let line = lines.line().map_err(Malformed::Bad)?.ok_or(Malformed::Bad("the request line is empty"))?;
    let (method, target, version) = request_line(head, line)?;
    let mut fields = Vec::with_capacity(FIELDS_USUAL);
    let mut meaning = Meaning::default();
    while let Some(field) = lines.field().map_err(Malformed::Bad)? {
        if fields.len() == FIELDS_MAX {
            return Err(Malformed::TooLarge("there are too many header fields"));
        }
        meaning.take(field.name(head), field.value(head))?;
        fields.push(field);
    }
    let body = meaning.body(version)?;
    if version == Version::Http11 && !meaning.host {
        return Err(Malformed::Bad("the Host field is missing"));
    }
    let ordinary = version == Version::Http11
        && !meaning.unusual
        && fields.len() <= LANE_FIELDS_MAX
        && head.len() <= LANE_HEAD_BYTES_MAX
        && is_normal(&head[target.clone()]);
    let keep_alive = version == Version::Http11 && !meaning.close;
    Ok(Head { len: head.len(), body, method, target, ordinary, keep_alive, fields })
}

/// The path and query of an absolute-form target, and its authority; `None` for the other forms.
pub(crate) fn absolute_form(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme))?;
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some((&rest[..end], &rest[end..]))
}

/// The method and the target of a head that may be broken elsewhere, for the log.
pub(crate) fn method_and_target(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let (method, target, _) = request_line(line, 0..line.len()).ok()?;
    Some((std::str::from_utf8(&line[method]).ok()?, std::str::from_utf8(&line[target]).ok()?))
}

/// A head as engines get it, where that differs from how it came; `head` was accepted by [`read`].
///
/// Absolute form becomes origin form, and the authority of the target takes the place of every Host field (RFC 9112
/// 3.2.2). Characters that no URI may hold and clients send all the same (`?query={job="x"}`) are encoded.
pub(crate) fn normal_form(head: &[u8], read: &Head) -> Option<BytesMut> {
    let target = &head[read.target.clone()];
    if is_normal(target) || target == b"*" {
        return None;
    }
    let absolute = absolute_form(target);
    let path = absolute.map_or(target, |(_, path)| path);
    let mut normal = BytesMut::with_capacity(head.len() + 64);
    normal.extend_from_slice(&head[..read.target.start]);
    if path.first() != Some(&b'/') && path != b"*" {
        normal.extend_from_slice(b"/");
    }
    for byte in path {
        if is_unfit(*byte) {
            normal.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            normal.extend_from_slice(&[*byte]);
        }
    }
    let mut lines = head[read.target.end..].split_inclusive(|byte| *byte == b'\n');
    normal.extend_from_slice(lines.next().unwrap_or_default());
    if let Some((authority, _)) = absolute {
        normal.extend_from_slice(b"Host: ");
        normal.extend_from_slice(authority);
        normal.extend_from_slice(b"\r\n");
    }
    let replaced = |line: &&[u8]| {
        absolute.is_some() && line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:"))
    };
    for line in lines.filter(|line| !replaced(line)) {
        normal.extend_from_slice(line);
    }
    Some(normal)
}

/// Whether `host` is what a Host field or an authority may hold: a name or an address, and perhaps a port.
pub(crate) fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.first() {
        None => return false,
        Some(b'[') => {
            let Some(end) = host.iter().position(|byte| *byte == b']') else { return false };
            let literal = &host[1..end];
            if literal.is_empty()
                || !literal.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
            {
                return false;
            }
            (&host[..=end], &host[end + 1..])
        }
        Some(_) => {
            let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
            (&host[..end], &host[end..])
        }
    };
    let named = name.first() == Some(&b'[') || name.iter().all(|byte| is_name(*byte)) && !name.is_empty();
    named && (port.is_empty() || port[1..].iter().all(u8::is_ascii_digit) && port[0] == b':')
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn request_line(head: &[u8], line: Range<usize>) -> Result<(Range<usize>, Range<usize>, Version), Malformed> {
    let bytes = &head[line.clone()];
    if bytes.len() > REQUEST_LINE_BYTES_MAX {
        return Err(Malformed::TooLarge("the request line is too long"));
    }
    let malformed = Malformed::Bad("the request line is malformed");
    let first = bytes.iter().position(|byte| *byte == b' ').ok_or(malformed)?;
    let last = bytes.iter().rposition(|byte| *byte == b' ').ok_or(malformed)?;
    if first == last {
        return Err(malformed);
    }
    let (method, target) = (&bytes[..first], &bytes[first + 1..last]);
    let version = match &bytes[last + 1..] {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(Malformed::Bad("the protocol version is not supported")),
    };
    if method.is_empty() || method.len() > METHOD_BYTES_MAX || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Malformed::Bad("the method is malformed"));
    }
    if !is_target(method, target) {
        return Err(Malformed::Bad("the request target is malformed"));
    }
    Ok((line.start..line.start + first, line.start + first + 1..line.start + last, version))
}

/// Origin form, absolute form, or `*` with OPTIONS; only visible ASCII.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    if target.is_empty() || !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return false;
    }
    match target {
        b"*" => method == b"OPTIONS",
        [b'/', ..] => method != b"CONNECT",
        _ => absolute_form(target).is_some_and(|(authority, _)| is_host(authority)) && method != b"CONNECT",
    }
}

/// What the fields say about framing, addressing and the connection.
#[derive(Default)]
struct Meaning {
    host: bool,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    /// One of them is not for the lane.
    unusual: bool,
}

impl Meaning {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        // The length tells most names apart before any comparison.
        match name.len() {
            2 => self.unusual |= name.eq_ignore_ascii_case(b"te"),
            4 if name.eq_ignore_ascii_case(b"host") => {
                if std::mem::replace(&mut self.host, true) {
                    return Err(Malformed::Bad("the Host field is repeated"));
                }
                if !is_host(value) {
                    return Err(Malformed::Bad("the Host field is malformed"));
                }
            }
            6 => self.unusual |= name.eq_ignore_ascii_case(b"expect"),
            7 => {
                self.unusual |=
                    name.eq_ignore_ascii_case(b"trailer") || name.eq_ignore_ascii_case(b"upgrade");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for token in tokens(value) {
                    let close = token.eq_ignore_ascii_case(b"close");
                    self.close |= close;
                    self.unusual |= !close && !token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Malformed::Bad("the Content-Length field is repeated"));
                }
                let length = length(value).ok_or(Malformed::Bad("the Content-Length is not a number"))?;
                self.length = Some(length);
            }
            14 => self.unusual |= name.eq_ignore_ascii_case(b"http2-settings"),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed::Bad("the Transfer-Encoding is not exactly `chunked`"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn body(&self, version: Version) -> Result<Body, Malformed> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Malformed::Bad("Content-Length and Transfer-Encoding are both present")),
            (true, None) if version == Version::Http10 => {
                Err(Malformed::Bad("HTTP/1.0 knows no Transfer-Encoding"))
            }
            (true, None) => Ok(Body::Chunked),
            (false, Some(0) | None) => Ok(Body::None),
            (false, Some(length)) => Ok(Body::Length(length)),
        }
    }
}

/// Whether a target is in origin form and holds nothing that [`normal_form`] would change.
fn is_normal(target: &[u8]) -> bool {
    target.first() == Some(&b'/') && find(target, is_unfit).is_none()
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Characters that RFC 3986 allows nowhere and the engines' URI type does not carry.
const fn is_unfit(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`')
}

/// RFC 3986 `reg-name` without the comma, which would let one Host be read as two.
const fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
        )
}

#[cfg(test)]
mod tests;
