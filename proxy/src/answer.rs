//! Reads the head of an answer as strictly as requests are read: CRLF only, one framing or none, every name a token. It
//! repairs nothing, keeps nothing, and knows neither sockets nor what becomes of the answer.

use std::ops::Range;

use crate::fields::{Field, Fields, Lines, is_control, tokens};
use crate::forward::{AnswerFraming, check_answer};

/// A head may be this long, status line included.
pub(crate) const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// A head may have this many fields.
pub(crate) const ANSWER_FIELDS_MAX: usize = 200;
/// All `Connection` fields together may be this long: each other field is looked up in them.
const CONNECTION_BYTES_MAX: usize = 1024;
/// Room for the fields that instances usually send.
const FIELDS_USUAL: usize = 16;

/// What is known of an answer once its head is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The length of the head in bytes, the empty line included.
    pub(crate) len: usize,
    /// 100 to 999.
    pub(crate) status: u16,
    /// Where its body ends.
    pub(crate) framing: Framing,
    /// What the framing fields say, body or not.
    pub(crate) stated: Stated,
    /// The connection can carry another request.
    pub(crate) keep_alive: bool,
    reason: Range<usize>,
    fields: Vec<Field>,
}

/// Where the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What the framing fields of an answer say. In an answer without a body it is about the one that a GET would bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stated {
    /// Nothing.
    Nothing,
    /// A length.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// An answer that could be read in two ways, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is malformed: {0}")]
pub(crate) struct BadAnswer(pub(crate) &'static str);

impl Answer {
    /// The fields; `bytes` is the head that was read.
    pub(crate) fn fields<'a>(&'a self, bytes: &'a [u8]) -> Fields<'a> {
        Fields::new(bytes, &self.fields)
    }

    /// The reason phrase, often empty; `bytes` is the head that was read.
    pub(crate) fn reason<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.reason.clone()]
    }

    /// Another answer to the same request follows.
    pub(crate) fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// Reads one complete head, `head` ending with its empty line, of an answer to a request with `method`.
pub(crate) fn read(head: &[u8], method: &str) -> Result<Answer, BadAnswer> {
    if head.len() > ANSWER_HEAD_BYTES_MAX {
        return Err(BadAnswer("its head is too large"));
    }
    let mut lines = Lines::new(head);
    let line = lines.line().map_err(BadAnswer)?.ok_or(BadAnswer("the status line is empty"))?;
    let (version, status, reason) = status_line(head, line)?;
    let mut list = Vec::with_capacity(FIELDS_USUAL);
    while let Some(field) = lines.field().map_err(BadAnswer)? {
        if list.len() == ANSWER_FIELDS_MAX {
            return Err(BadAnswer("there are too many header fields"));
        }
        list.push(field);
    }
    let fields = Fields::new(head, &list);
    let stated = match check_answer(fields.all("transfer-encoding"), fields.all("content-length")) {
        AnswerFraming::Unstated => Stated::Nothing,
        AnswerFraming::Chunked if version == Version::Http10 => {
            return Err(BadAnswer("HTTP/1.0 knows no Transfer-Encoding"));
        }
        AnswerFraming::Chunked => Stated::Chunked,
        AnswerFraming::Length { length, .. } => Stated::Length(length),
        AnswerFraming::Ambiguous => return Err(BadAnswer("its framing is ambiguous")),
    };
    let framing = match stated {
        _ if matches!(status, 100..=199 | 204 | 304) || method == "HEAD" => Framing::None,
        Stated::Nothing => Framing::UntilClose,
        Stated::Length(length) => Framing::Length(length),
        Stated::Chunked => Framing::Chunked,
    };
    let keep_alive = keeps_alive(fields, version)? && framing != Framing::UntilClose;
    Ok(Answer { len: head.len(), status, framing, stated, keep_alive, reason, fields: list })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn status_line(head: &[u8], line: Range<usize>) -> Result<(Version, u16, Range<usize>), BadAnswer> {
    let bytes = &head[line.clone()];
    let (version, rest) = match bytes.split_at_checked(9) {
        Some((b"HTTP/1.1 ", rest)) => (Version::Http11, rest),
        Some((b"HTTP/1.0 ", rest)) => (Version::Http10, rest),
        _ => return Err(BadAnswer("this is no HTTP/1 answer")),
    };
    let [first @ b'1'..=b'9', second @ b'0'..=b'9', third @ b'0'..=b'9', rest @ ..] = rest else {
        return Err(BadAnswer("its status is no number of three digits"));
    };
    let status =
        [first, second, third].iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0'));
    let reason = match rest {
        [] => rest,
        [b' ', reason @ ..] => reason,
        _ => return Err(BadAnswer("its status is no number of three digits")),
    };
    if reason.iter().any(|byte| is_control(*byte)) {
        return Err(BadAnswer("its reason holds a control character"));
    }
    Ok((version, status, line.end - reason.len()..line.end))
}

fn keeps_alive(fields: Fields<'_>, version: Version) -> Result<bool, BadAnswer> {
    let (mut close, mut keep, mut len) = (false, version == Version::Http11, 0);
    for value in fields.all("connection") {
        len += value.len();
        if len > CONNECTION_BYTES_MAX {
            return Err(BadAnswer("its Connection field is too long"));
        }
        for token in tokens(value) {
            close |= token.eq_ignore_ascii_case(b"close");
            keep |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    Ok(keep && !close)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, method: &str) -> Result<Answer, BadAnswer> {
        read(text.as_bytes(), method)
    }

    #[test]
    fn ordinary_answers_are_read() {
        for (head, status, reason, framing, keep_alive) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, "OK", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, "OK", Framing::Length(0), true),
            (
                "HTTP/1.1 404 Not  \tat\u{e9} all \r\nTransfer-Encoding: Chunked\r\n\r\n",
                404,
                "Not  \tat\u{e9} all ",
                Framing::Chunked,
                true,
            ),
            ("HTTP/1.1 200\r\n\r\n", 200, "", Framing::UntilClose, false),
            ("HTTP/1.1 999 \r\nConnection: x, Close\r\n\r\n", 999, "", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", 200, "OK", Framing::Length(5), true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\ncontent-length:5\r\n\r\n",
                200,
                "OK",
                Framing::Length(5),
                true,
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", 200, "OK", Framing::Length(5), false),
            (
                "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\n",
                200,
                "OK",
                Framing::Length(5),
                true,
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n\r\n",
                200,
                "OK",
                Framing::UntilClose,
                false,
            ),
        ] {
            let read = parse(head, "GET").unwrap_or_else(|refused| panic!("{head:?}: {refused:?}"));
            assert_eq!((read.status, read.reason(head.as_bytes())), (status, reason.as_bytes()), "{head:?}");
            assert_eq!((read.framing, read.keep_alive), (framing, keep_alive), "{head:?}");
            assert_eq!(read.len, head.len());
        }
        let head = "HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        let read = parse(head, "GET").unwrap();
        assert_eq!(read.fields(head.as_bytes()).first("a"), Some(&b"b"[..]));
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for (status, method) in [
            (100, "GET"),
            (101, "GET"),
            (103, "GET"),
            (199, "POST"),
            (204, "GET"),
            (304, "GET"),
            (200, "HEAD"),
        ] {
            for (fields, stated) in [
                ("", Stated::Nothing),
                ("Content-Length: 5\r\n", Stated::Length(5)),
                ("Transfer-Encoding: chunked\r\n", Stated::Chunked),
            ] {
                let read = parse(&format!("HTTP/1.1 {status} X\r\n{fields}\r\n"), method).unwrap();
                assert_eq!(
                    (read.framing, read.stated),
                    (Framing::None, stated),
                    "{status} {method} {fields}"
                );
                assert_eq!(read.is_interim(), status < 200);
            }
            let odd = format!("HTTP/1.1 {status} X\r\nContent-Length: x\r\n\r\n");
            assert!(parse(&odd, method).is_err(), "{odd:?}");
        }
        // Only the method itself counts.
        assert_eq!(parse("HTTP/1.1 200 X\r\n\r\n", "head").unwrap().framing, Framing::UntilClose);
        assert_eq!(parse("HTTP/1.1 205 X\r\n\r\n", "GET").unwrap().framing, Framing::UntilClose);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let line = |line: &str| format!("{line}\r\nContent-Length: 5\r\n\r\n");
        let mut heads = vec![
            "\r\n".to_owned(),
            String::new(),
            "HTTP/1.1 200 OK\r\nA: b\r\n".to_owned(),
            "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n".to_owned(),
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "HTTP/1.0 304 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        ];
        heads.extend(
            [
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                "Content-Length: 5, 6\r\n",
                "Content-Length: 5 5\r\n",
                "Content-Length: +5\r\n",
                "Content-Length: -5\r\n",
                "Content-Length: 0x5\r\n",
                "Content-Length:\r\n",
                "Content-Length: ,\r\n",
                "Content-Length: 9999999999999999999\r\n",
                "Transfer-Encoding: gzip, chunked\r\n",
                "Transfer-Encoding: chunked, chunked\r\n",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "Transfer-Encoding: identity\r\n",
                "Transfer-Encoding:\r\n",
                "X : y\r\n",
                " folded\r\n",
                "X: y\r\n\tfolded\r\n",
                "X: a\rb\r\n",
                "X: a\0b\r\n",
                "no colon\r\n",
                ": no name\r\n",
            ]
            .map(ok),
        );
        heads.extend(
            [
                "HTTP/1.1",
                "HTTP/1.1 ",
                "HTTP/1.1 20 OK",
                "HTTP/1.1 099 OK",
                "HTTP/1.1 2000 OK",
                "HTTP/1.1 200OK",
                "HTTP/1.1 200\tOK",
                "HTTP/1.1 +20 OK",
                "HTTP/1.1  200 OK",
                "HTTP/1.1\t200 OK",
                "HTTP/1.2 200 OK",
                "HTTP/2 200",
                "http/1.1 200 OK",
                " HTTP/1.1 200 OK",
                "ICY 200 OK",
                "HTTP/1.1 200 O\rK",
                "HTTP/1.1 200 O\0K",
                "HTTP/1.1 200 O\u{7f}K",
            ]
            .map(line),
        );
        for head in heads {
            assert!(parse(&head, "GET").is_err(), "{head:?}: {:?}", parse(&head, "GET"));
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let many = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(parse(&many(ANSWER_FIELDS_MAX), "GET").is_ok());
        assert!(parse(&many(ANSWER_FIELDS_MAX + 1), "GET").is_err());
        let long = |name: &str, len: usize| format!("HTTP/1.1 200 OK\r\n{name}: {}\r\n\r\n", "x".repeat(len));
        let rest = long("a", 0).len();
        assert!(parse(&long("a", ANSWER_HEAD_BYTES_MAX - rest), "GET").is_ok());
        assert!(parse(&long("a", ANSWER_HEAD_BYTES_MAX - rest + 1), "GET").is_err());
        assert!(parse(&long("connection", CONNECTION_BYTES_MAX), "GET").is_ok());
        assert!(parse(&long("connection", CONNECTION_BYTES_MAX + 1), "GET").is_err());
    }
}
