//! Bends requests out of shape, each way one that has fooled some server. It does not know what should become of them.

use fastrand::Rng;

/// Bytes that parsers disagree about.
const TRICKY: &[u8] = b"\0\t\n\r\x0b\x0c :;,/?#@[]\"%+-019aAfFxX\x7f\x80\xa0\xff";

type Bend = fn(&mut Rng, &str) -> String;

/// Changes one request in one way; which. What is not there to be bent is left as it is, and told so.
pub(crate) fn bend(rng: &mut Rng, request: &mut Vec<u8>) -> &'static str {
    let (name, bend) = BENDS[rng.usize(..BENDS.len())];
    let text = String::from_utf8_lossy(request).into_owned();
    let bent = bend(rng, &text);
    if bent == text {
        return "nothing";
    }
    *request = bent.into_bytes();
    name
}

/// Changes any bytes, or cuts the end off.
pub(crate) fn scramble(rng: &mut Rng, bytes: &mut Vec<u8>) -> &'static str {
    if rng.u8(0..4) == 0 {
        bytes.truncate(rng.usize(1..=bytes.len()));
        return "truncated";
    }
    for _ in 0..rng.usize(1..4) {
        // Most bytes are in bodies; heads are where it matters.
        let at = rng.usize(..bytes.len().min(400));
        match rng.u8(0..4) {
            0 => bytes[at] = TRICKY[rng.usize(..TRICKY.len())],
            1 => bytes.insert(at, TRICKY[rng.usize(..TRICKY.len())]),
            2 => drop(bytes.remove(at)),
            _ => {
                let end = (at + rng.usize(1..30)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
        if bytes.is_empty() {
            bytes.push(b'x');
        }
    }
    "scrambled"
}

/// Puts a line behind the request line.
fn with(text: &str, line: &str) -> String {
    text.replacen("\r\n", &format!("\r\n{line}\r\n"), if text.starts_with("\r\n") { 2 } else { 1 })
}

/// Replaces the value of the length.
fn length(text: &str, change: impl Fn(&str) -> String) -> String {
    let Some((before, after)) = text.split_once("Content-Length: ") else {
        return with(text, &format!("Content-Length: {}", change("4"))) + "abcd";
    };
    let Some((value, rest)) = after.split_once("\r\n") else { return text.to_owned() };
    format!("{before}Content-Length: {}\r\n{rest}", change(value))
}

/// Replaces the coding.
fn coding(text: &str, value: &str) -> String {
    let Some((before, after)) = text.split_once("Transfer-Encoding: ") else {
        return with(text, &format!("Transfer-Encoding: {value}")) + "0\r\n\r\n";
    };
    let Some((_, rest)) = after.split_once("\r\n") else { return text.to_owned() };
    format!("{before}Transfer-Encoding: {value}\r\n{rest}")
}

/// Replaces the body by another, in chunks.
fn chunked(text: &str, body: &str) -> String {
    let Some((head, _)) = text.split_once("\r\n\r\n").filter(|(head, _)| !head.is_empty()) else {
        return text.to_owned();
    };
    let lines = head.split("\r\n").filter(|line| {
        let line = line.to_ascii_lowercase();
        !line.starts_with("content-length") && !line.starts_with("transfer-encoding")
    });
    let head: Vec<_> = lines.collect();
    format!("{}\r\nTransfer-Encoding: chunked\r\n\r\n{body}", head.join("\r\n"))
}

/// Replaces one line end of the head, whichever.
fn line_end(rng: &mut Rng, text: &str, by: &str) -> String {
    let head = text.find("\r\n\r\n").map_or(text.len(), |end| end + 4);
    let ends: Vec<_> = text[..head].match_indices("\r\n").map(|(at, _)| at).collect();
    let Some(at) = ends.get(rng.usize(..ends.len().max(1))) else { return text.to_owned() };
    format!("{}{by}{}", &text[..*at], &text[at + 2..])
}

fn host(text: &str, value: &str) -> String {
    let start = text.to_ascii_lowercase().find("\nhost: ").map(|at| at + 7);
    let Some(start) = start else { return with(text, &format!("Host: {value}")) };
    let Some(end) = text[start..].find("\r\n") else { return text.to_owned() };
    format!("{}{value}{}", &text[..start], &text[start + end..])
}

fn version(text: &str, value: &str) -> String {
    let text = text.replacen("HTTP/1.1\r\n", &format!("{value}\r\n"), 1);
    text.replacen("HTTP/1.0\r\n", &format!("{value}\r\n"), 1)
}

/// Puts something into the target, before the version.
fn target(text: &str, addition: &str) -> String {
    text.replacen(" HTTP/1", &format!("{addition} HTTP/1"), 1)
}

const BENDS: &[(&str, Bend)] = &[
    ("length beside chunks", |_, text| with(&with(text, "Transfer-Encoding: chunked"), "Content-Length: 5")),
    ("chunks beside length", |_, text| length(&with(text, "Transfer-Encoding: chunked"), str::to_owned)),
    ("length with a sign", |_, text| length(text, |value| format!("+{value}"))),
    ("length below zero", |_, text| length(text, |value| format!("-{value}"))),
    ("length in hex", |_, text| length(text, |value| format!("0x{value}"))),
    ("length with zeros", |_, text| length(text, |value| format!("000{value}"))),
    ("length twice in one", |_, text| length(text, |value| format!("{value}, {value}"))),
    ("length with a rest", |_, text| length(text, |value| format!("{value};x"))),
    ("length with a fraction", |_, text| length(text, |value| format!("{value}.0"))),
    ("length of nothing", |_, text| length(text, |_| String::new())),
    ("length beyond all", |_, text| length(text, |_| "99999999999999999999".to_owned())),
    ("length too long", |_, text| length(text, |value| format!("{value}0"))),
    ("length too short", |_, text| length(text, |value| value[..value.len() / 2 + 1].to_owned())),
    ("length padded", |_, text| length(text, |value| format!(" \t{value} \t"))),
    ("two equal lengths", |_, text| length(text, |value| format!("{value}\r\nContent-Length: {value}"))),
    ("two lengths", |_, text| length(text, |value| format!("{value}\r\ncontent-length: 1{value}"))),
    ("coding twice in one", |_, text| coding(text, "chunked, chunked")),
    ("coding list", |_, text| coding(text, "gzip, chunked")),
    ("coding with a comma", |_, text| coding(text, "chunked,")),
    ("coding unknown", |_, text| coding(text, "xchunked")),
    ("coding identity", |_, text| coding(text, "identity")),
    ("coding empty", |_, text| coding(text, "")),
    ("coding quoted", |_, text| coding(text, "\"chunked\"")),
    ("coding with a parameter", |_, text| coding(text, "chunked;q=1")),
    ("coding after a tab", |_, text| coding(text, "\tchunked")),
    ("coding after a vertical tab", |_, text| coding(text, "\x0bchunked")),
    ("two codings", |_, text| coding(text, "chunked\r\nTransfer-Encoding: chunked")),
    ("coding hidden by a space", |_, text| text.replacen("Transfer-Encoding:", "Transfer-Encoding :", 1)),
    ("coding hidden by a fold", |_, text| coding(text, "\r\n chunked")),
    ("coding under another name", |_, text| with(text, "Transfer_Encoding: chunked")),
    ("bare feed", |rng, text| line_end(rng, text, "\n")),
    ("bare return", |rng, text| line_end(rng, text, "\r")),
    ("two returns", |rng, text| line_end(rng, text, "\r\r\n")),
    ("no line end", |rng, text| line_end(rng, text, "")),
    ("line end doubled", |rng, text| line_end(rng, text, "\r\n\r\n")),
    ("fold", |_, text| with(text, "X-Fold: a\r\n b")),
    ("fold first", |_, text| with(text, " X-Fold: a")),
    ("space before the colon", |_, text| with(text, "X-Space : a")),
    ("no colon", |_, text| with(text, "nothing")),
    ("no name", |_, text| with(text, ": nothing")),
    ("nul in a value", |_, text| with(text, "X: a\0b")),
    ("nul in a name", |_, text| with(text, "X\0: a")),
    ("return in a value", |_, text| with(text, "X: a\rY: b")),
    ("delete in a value", |_, text| with(text, "X: a\x7fb")),
    ("no host", |_, text| text.replacen("Host:", "X-Host:", 1).replacen("host:", "X-Host:", 1)),
    ("two hosts", |_, text| with(text, "Host: other")),
    ("host of nothing", |_, text| host(text, "")),
    ("host with a path", |_, text| host(text, "a/b")),
    ("host with a user", |_, text| host(text, "u@a")),
    ("host list", |_, text| host(text, "a, b")),
    ("host with a blank", |_, text| host(text, "a b")),
    ("host with two ports", |_, text| host(text, "a:1:2")),
    ("host cut open", |_, text| host(text, "[::1")),
    ("version 1.2", |_, text| version(text, "HTTP/1.2")),
    ("version 2.0", |_, text| version(text, "HTTP/2.0")),
    ("version 0.9", |_, text| version(text, "HTTP/0.9")),
    ("version in small letters", |_, text| version(text, "http/1.1")),
    ("version with a blank", |_, text| version(text, "HTTP/1.1 ")),
    ("version of more digits", |_, text| version(text, "HTTP/1.10")),
    ("no version", |_, text| text.replacen(" HTTP/1.1\r\n", "\r\n", 1)),
    ("blank in the target", |_, text| target(text, " x")),
    ("tab behind the target", |_, text| target(text, "\t")),
    ("fragment", |_, text| target(text, "#x")),
    ("letter beyond ASCII in the target", |_, text| target(text, "\u{e9}")),
    ("nul in the target", |_, text| target(text, "\0")),
    ("relative target", |_, text| text.replacen(" /", " ", 1)),
    ("target without a host", |_, text| text.replacen(" /", " http:///", 1)),
    ("target with a user", |_, text| text.replacen(" /", " http://u@a/", 1)),
    ("tunnel asked for", |_, text| text.replacen("GET /", "CONNECT /", 1)),
    ("two blanks", |_, text| text.replacen(" /", "  /", 1)),
    ("method in brackets", |_, text| format!("({text}")),
    ("feeds in front", |_, text| format!("\n\n{text}")),
    ("empty lines in front", |_, text| format!("\r\n\r\n\r\n{text}")),
    ("blanks in front", |_, text| format!(" {text}")),
    ("preface in front", |_, text| format!("PRI * HTTP/2.0\r\n\r\n{text}")),
    ("handshake in front", |_, text| format!("\x16\x03\x01{text}")),
    ("chunk extension", |_, text| chunked(text, "3;a=b\r\nabc\r\n0\r\n\r\n")),
    ("chunk extension, quoted", |_, text| chunked(text, "3;a=\"\\\"x\"\r\nabc\r\n0;last\r\n\r\n")),
    ("chunk extension with a feed", |_, text| chunked(text, "3;a\nb\r\nabc\r\n0\r\n\r\n")),
    ("blank behind a size", |_, text| chunked(text, "3 \r\nabc\r\n0\r\n\r\n")),
    ("blank before a size", |_, text| chunked(text, " 3\r\nabc\r\n0\r\n\r\n")),
    ("size in hex notation", |_, text| chunked(text, "0x3\r\nabc\r\n0\r\n\r\n")),
    ("size below zero", |_, text| chunked(text, "-3\r\nabc\r\n0\r\n\r\n")),
    ("size with a sign", |_, text| chunked(text, "+3\r\nabc\r\n0\r\n\r\n")),
    ("size beyond all", |_, text| chunked(text, "FFFFFFFFFFFFFFFF3\r\nabc\r\n0\r\n\r\n")),
    ("size missing", |_, text| chunked(text, "\r\nabc\r\n0\r\n\r\n")),
    ("size ends with a feed", |_, text| chunked(text, "3\nabc\r\n0\r\n\r\n")),
    ("chunk too long", |_, text| chunked(text, "3\r\nabcd\r\n0\r\n\r\n")),
    ("chunk too short", |_, text| chunked(text, "5\r\nabc\r\n0\r\n\r\n")),
    ("chunk ends with a feed", |_, text| chunked(text, "3\r\nabc\n0\r\n\r\n")),
    ("chunk without an end", |_, text| chunked(text, "3\r\nabc0\r\n\r\n")),
    ("last chunk ends with a feed", |_, text| chunked(text, "3\r\nabc\r\n0\n\r\n")),
    ("last chunk of zeros", |_, text| chunked(text, "3\r\nabc\r\n0000\r\n\r\n")),
    ("trailers", |_, text| chunked(text, "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")),
    ("trailers that frame", |_, text| chunked(text, "3\r\nabc\r\n0\r\nContent-Length: 5\r\nHost: b\r\n\r\n")),
    ("trailer without a colon", |_, text| chunked(text, "3\r\nabc\r\n0\r\nGET / HTTP/1.1\r\n\r\n")),
    ("trailers too long", |_, text| chunked(text, &format!("0\r\nX: {}\r\n\r\n", "y".repeat(20_000)))),
    ("field too long", |_, text| with(text, &format!("X: {}", "y".repeat(70_000)))),
    ("fields too many", |_, text| with(text, &"X: y\r\n".repeat(250))),
    ("request line too long", |_, text| target(text, &"y".repeat(17_000))),
];
