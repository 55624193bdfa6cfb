//! Laws that the readers of heads, chunks and answers keep for any input, as functions that a fuzzer can call. They find no
//! inputs themselves, and where they check a reader they read in a simpler way of their own.

use std::net::{IpAddr, Ipv4Addr};

use crate::answer::{self, ANSWER_FIELDS_MAX, ANSWER_HEAD_BYTES_MAX, Framing, Stated};
use crate::chunks::{Chunks, Stretch};
use crate::fields::Fields;
use crate::head::{self, Body, Malformed};
use crate::lines::{Onward, write_answer};
use crate::trace::{self, Carried};

/// The fields that are for one hop, whatever a message says.
const OF_ONE_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
];
/// Sizes of the pieces in which chunks come.
const PIECES: [usize; 5] = [1, 2, 3, 7, usize::MAX];

/// A name in small letters and a value.
type Pair = (String, Vec<u8>);

/// A request head: what is accepted has one meaning, and still has it when it was written onward. Says whether it was
/// accepted.
pub fn head(input: &[u8]) -> bool {
    let _whole = head::read(input);
    let _logged = head::method_and_target(input);
    let Some(end) = head::end_of_head(input, 0) else { return false };
    let bytes = &input[..end];
    let Ok(read) = head::read(bytes) else { return false };
    let pairs = same_pairs(bytes, read.fields(bytes));
    let body = match (sole(&pairs, "content-length"), sole(&pairs, "transfer-encoding")) {
        (None, None) => Body::None,
        (Some(length), None) => match number(length) {
            0 => Body::None,
            length => Body::Length(length),
        },
        (None, Some(coding)) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"));
            Body::Chunked
        }
        (Some(_), Some(_)) => panic!("two framings"),
    };
    assert_eq!(read.body, body);
    let old = bytes.split(|byte| *byte == b'\r').next().is_some_and(|line| line.ends_with(b" HTTP/1.0"));
    assert!(sole(&pairs, "host").is_some() || old, "there is no Host");
    if let Some(normal) = head::normal_form(bytes, &read) {
        assert!(!read.ordinary, "an ordinary head is in normal form");
        match head::read(&normal) {
            Ok(again) => {
                assert_eq!((&again.method, again.body), (&read.method, read.body));
                assert_eq!(head::normal_form(&normal, &again), None);
            }
            // Encoded characters take more room.
            Err(Malformed::TooLarge(_)) => {}
            Err(Malformed::Bad(why)) => panic!("the normal form is refused: {why}"),
        }
    }
    if read.ordinary {
        goes_on(bytes, &read, &pairs);
    }
    true
}

/// An ordinary head means the same to the instance, and its fields are those that have to arrive.
fn goes_on(bytes: &[u8], read: &head::Head, pairs: &[Pair]) {
    let text =
        |range: &std::ops::Range<usize>| std::str::from_utf8(&bytes[range.clone()]).expect("it is ASCII");
    let (method, target) = (text(&read.method), text(&read.target));
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let caller = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut out = Vec::new();
    let carried = Carried::of(pairs.iter().map(|(name, value)| (name.as_bytes(), &**value)));
    let trace = trace::Onward::unrecorded(carried, [0, 0, 1]);
    let onward = Onward {
        method,
        path,
        query: query.as_bytes(),
        fields: read.fields(bytes),
        host: None,
        request_id: b"fuzz",
        caller: Some(caller),
        scheme: "http",
        trace: &trace,
        edits: None,
    };
    onward.write(&mut out);
    assert_eq!(head::end_of_head(&out, 0), Some(out.len()));
    let again = head::read(&out).expect("what was written is accepted");
    assert_eq!(
        (&out[again.method.clone()], &out[again.target.clone()]),
        (method.as_bytes(), target.as_bytes())
    );
    assert_eq!((again.body, again.keep_alive), (read.body, true));
    let mut expected: Vec<Pair> = pairs
        .iter()
        .filter(|(name, _)| !OF_ONE_HOP.contains(&&**name))
        .filter(|(name, _)| name != "x-request-id" && name != "x-forwarded-for")
        .filter(|(name, _)| trace.parent.is_none() || name != "traceparent")
        .filter(|(name, _)| trace.keeps_state || name != "tracestate")
        .cloned()
        .map(one_form)
        .collect();
    expected.push(("x-request-id".to_owned(), b"fuzz".to_vec()));
    let before = pairs.iter().filter(|(name, value)| {
        name == "x-forwarded-for" && value.iter().all(|byte| *byte == b'\t' || (32..127).contains(byte))
    });
    let addresses: Vec<&[u8]> = before.map(|(_, value)| &**value).chain([&b"127.0.0.1"[..]]).collect();
    // An empty list before it is cut off with the blanks around the value.
    let merged = addresses.join(&b", "[..]).trim_ascii().to_vec();
    expected.push(("x-forwarded-for".to_owned(), merged));
    if first_of(pairs, "x-forwarded-proto").is_none() {
        expected.push(("x-forwarded-proto".to_owned(), b"http".to_vec()));
    }
    if let Some(parent) = trace.parent {
        expected.push(("traceparent".to_owned(), parent.to_vec()));
    }
    assert_eq!(same_pairs(&out, again.fields(&out)), expected);
}

/// A chunked body: it ends where a decoder finds its end, however it is cut, and without its trailer fields it is a body
/// as well. Says whether it was accepted.
pub fn chunks(input: &[u8]) -> bool {
    let decoded = decode(input);
    for piece in PIECES {
        let Some((kept, len)) = relayed(input, piece) else {
            assert_eq!(decoded, None, "a whole body is refused in pieces of {piece}");
            continue;
        };
        let (end, trailers) = decoded.clone().expect("half a body is taken for whole");
        assert_eq!(len, end);
        assert_eq!(kept, [&input[..trailers.start], &input[trailers.end..end]].concat());
        assert_eq!(relayed(&kept, usize::MAX), Some((kept.clone(), kept.len())));
        let mut followed = Chunks::new();
        let used = followed.sift(&mut input.to_vec()).map(|sifted| sifted.used);
        assert_eq!((used, followed.is_done()), (Ok(end), true));
    }
    decoded.is_some()
}

/// What is kept of a body that comes in pieces, and its length; `None` when it is malformed or has no end.
fn relayed(input: &[u8], piece: usize) -> Option<(Vec<u8>, usize)> {
    let (mut chunks, mut kept, mut len) = (Chunks::new(), Vec::new(), 0);
    for mut piece in input.chunks(piece) {
        while !piece.is_empty() && !chunks.is_done() {
            let step = match chunks.next(piece).ok()? {
                Stretch::Kept(step) => {
                    kept.extend_from_slice(&piece[..step]);
                    step
                }
                Stretch::Dropped(step) => step,
            };
            assert_ne!(step, 0, "it does not go on");
            len += step;
            piece = &piece[step..];
        }
    }
    chunks.is_done().then_some((kept, len))
}

/// Where a chunked body ends and where its trailer fields stand; `None` when it is malformed or has no end.
fn decode(input: &[u8]) -> Option<(usize, std::ops::Range<usize>)> {
    let line = |at: usize| {
        let len = input.get(at..)?.windows(2).position(|end| end == b"\r\n")?;
        Some(&input[at..at + len])
    };
    let mut at = 0;
    loop {
        let size = line(at)?;
        at += size.len() + 2;
        if size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        at = at.checked_add(size)?;
        if input.get(at..)?.get(..2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    let start = at;
    loop {
        let field = line(at)?;
        if field.is_empty() {
            return (at - start <= 16 * 1024).then_some((at + 2, start..at));
        }
        let (name, value) = field.split_at(field.iter().position(|byte| *byte == b':')?);
        if !is_name(name) || value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return None;
        }
        at += field.len() + 2;
    }
}

/// The head of an answer: what is accepted has one meaning, and still has it when it was written for the client. Says
/// whether it was accepted.
pub fn answer(input: &[u8]) -> bool {
    let _whole = answer::read(input, "GET");
    let Some(end) = head::end_of_head(input, 0) else { return false };
    let bytes = &input[..end];
    let mut accepted = false;
    for (method, close) in [("GET", true), ("GET", false), ("HEAD", false)] {
        let Ok(read) = answer::read(bytes, method) else { continue };
        accepted = true;
        let pairs = same_pairs(bytes, read.fields(bytes));
        let lengths: Vec<&[u8]> = values(&pairs, "content-length")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|length| !length.is_empty())
            .collect();
        let stated = match (lengths.first(), sole(&pairs, "transfer-encoding")) {
            (None, None) => Stated::Nothing,
            (Some(length), None) => {
                assert!(lengths.iter().all(|other| other == length), "two lengths");
                Stated::Length(number(length))
            }
            (None, Some(coding)) => {
                assert!(coding.eq_ignore_ascii_case(b"chunked"));
                Stated::Chunked
            }
            (Some(_), Some(_)) => panic!("two framings"),
        };
        assert_eq!(read.stated, stated);
        let bodiless = method == "HEAD" || read.status < 200 || matches!(read.status, 204 | 304);
        let framing = match stated {
            _ if bodiless => Framing::None,
            Stated::Nothing => Framing::UntilClose,
            Stated::Length(length) => Framing::Length(length),
            Stated::Chunked => Framing::Chunked,
        };
        assert_eq!(read.framing, framing);
        comes_back(bytes, &read, &pairs, method, close);
    }
    accepted
}

/// An answer means the same to the client, and its fields are those that may arrive.
fn comes_back(bytes: &[u8], read: &answer::Answer, pairs: &[Pair], method: &str, close: bool) {
    let mut out = Vec::new();
    write_answer(read, bytes, close, &mut out);
    assert_eq!(head::end_of_head(&out, 0), Some(out.len()));
    if out.len() > ANSWER_HEAD_BYTES_MAX || pairs.len() + 2 > ANSWER_FIELDS_MAX {
        return;
    }
    let again = answer::read(&out, method).expect("what was written is accepted");
    assert_eq!((again.status, again.reason(&out)), (read.status, read.reason(bytes)));
    let framing = if read.framing == Framing::UntilClose { Framing::Chunked } else { read.framing };
    assert_eq!(again.framing, framing);
    assert_eq!(again.keep_alive, read.status < 200 || !close);
    let named: Vec<String> = values(pairs, "connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect();
    let is_of_framing = |name: &str| ["content-length", "transfer-encoding"].contains(&name);
    let mut expected: Vec<Pair> = pairs
        .iter()
        .filter(|(name, _)| !OF_ONE_HOP[..8].contains(&&**name))
        .filter(|(name, _)| !named.contains(name) && !is_of_framing(name))
        .cloned()
        .collect();
    match (framing, read.stated) {
        (Framing::None, _) if read.status < 200 || read.status == 204 => {}
        (Framing::None, Stated::Nothing) => {}
        (Framing::None, Stated::Length(length)) | (Framing::Length(length), _) => {
            expected.push(("content-length".to_owned(), length.to_string().into_bytes()));
        }
        _ => expected.push(("transfer-encoding".to_owned(), b"chunked".to_vec())),
    }
    if read.status >= 200 {
        let stays = if close { &b"close"[..] } else { b"keep-alive" };
        expected.push(("connection".to_owned(), stays.to_vec()));
    }
    assert_eq!(same_pairs(&out, again.fields(&out)), expected);
}

/// The fields of an accepted head, which are those that a simple reader finds, and hold nothing that they must not.
fn same_pairs(bytes: &[u8], fields: Fields<'_>) -> Vec<Pair> {
    let small = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    let simple: Vec<Pair> = bytes
        .split(|byte| *byte == b'\n')
        .skip(1)
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| line.split_at(line.iter().position(|byte| *byte == b':').expect("a field has a colon")))
        .map(|(name, value)| (small(name), value[1..].trim_ascii().to_vec()))
        .collect();
    let pairs: Vec<Pair> = fields
        .iter()
        .inspect(|(name, value)| {
            assert!(is_name(name), "a name is odd");
            assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "a value is odd");
        })
        .map(|(name, value)| (small(name), value.to_vec()))
        .collect();
    assert_eq!(pairs, simple);
    for (name, value) in &pairs {
        assert!(fields.all(name).any(|other| other == value));
        assert_eq!(fields.first(name), first_of(&pairs, name));
    }
    pairs
}

fn values<'p>(pairs: &'p [Pair], name: &str) -> impl Iterator<Item = &'p [u8]> {
    pairs.iter().filter(move |(other, _)| other == name).map(|(_, value)| &**value)
}

fn first_of<'p>(pairs: &'p [Pair], name: &str) -> Option<&'p [u8]> {
    values(pairs, name).next()
}

fn sole<'p>(pairs: &'p [Pair], name: &str) -> Option<&'p [u8]> {
    assert!(values(pairs, name).count() <= 1, "{name} is repeated");
    first_of(pairs, name)
}

fn number(digits: &[u8]) -> u64 {
    assert!(digits.iter().all(u8::is_ascii_digit), "a length is odd");
    std::str::from_utf8(digits).expect("digits are text").parse().expect("a length has few digits")
}

fn one_form((name, value): Pair) -> Pair {
    let value = match &*name {
        "content-length" => number(&value).to_string().into_bytes(),
        "transfer-encoding" => value.to_ascii_lowercase(),
        _ => value,
    };
    (name, value)
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte))
}

#[cfg(test)]
mod tests;
