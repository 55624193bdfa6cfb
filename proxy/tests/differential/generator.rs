//! Makes what one client sends on one connection from a seed: some requests, ordinary or odd, perhaps bent out of shape
//! (see `hostile`), and the places where it is cut into writes. It knows nothing of how engines see them.

use std::fmt::Write as _;

use fastrand::Rng;

use crate::hostile;
use crate::instance::{FINE, WRONG};

/// What every case ends with; answered, it ends the connection.
pub(crate) const LAST: &[u8] = b"GET /nobody-at-all HTTP/1.1\r\nHost: end\r\nConnection: close\r\n\r\n";

/// What one client sends.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    /// The only service that it calls.
    pub(crate) service: String,
    pub(crate) bytes: Vec<u8>,
    /// Where a write ends and the next begins.
    cuts: Vec<usize>,
    /// What the instance is told, in order.
    pub(crate) scripts: Vec<&'static str>,
    /// How it was bent.
    pub(crate) bent: Vec<&'static str>,
}

impl Case {
    pub(crate) fn generate(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xa8);
        // Names that a changed byte does not turn into one another.
        let service = format!("s{:016x}", rng.u64(..));
        let mut scripts = Vec::new();
        let count = rng.usize(1..=4);
        let mut requests: Vec<Vec<u8>> = (0..count)
            .map(|number| {
                let wrong = if number + 1 == count { 100 } else { 12 };
                let scripts_here = if rng.u8(..) < wrong { WRONG } else { FINE };
                let script = pick(&mut rng, scripts_here);
                scripts.push(script);
                request(&mut rng, &service, number, script)
            })
            .collect();
        let mut bent = Vec::new();
        if rng.u8(..) < 110 {
            let at = rng.usize(..requests.len());
            bent.push(hostile::bend(&mut rng, &mut requests[at]));
        }
        let mut bytes = requests.concat();
        if rng.u8(..) < 25 {
            bent.push(hostile::scramble(&mut rng, &mut bytes));
        }
        bytes.extend_from_slice(LAST);
        let cuts = cuts(&mut rng, bytes.len());
        Self { seed, service, bytes, cuts, scripts, bent }
    }

    /// The writes.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().chain([self.bytes.len()]);
        starts.zip(ends).map(|(start, end)| &self.bytes[start..end])
    }

    /// All of it, readable.
    pub(crate) fn shown(&self) -> String {
        let mut text =
            format!("service {}, scripts {:?}, bent {:?}\n", self.service, self.scripts, self.bent);
        for piece in self.pieces() {
            let start = String::from_utf8_lossy(&piece[..piece.len().min(2_000)]).into_owned();
            writeln!(text, "    {start:?}, {} bytes", piece.len()).unwrap();
        }
        text
    }
}

/// One write, or some, or one for every few bytes.
fn cuts(rng: &mut Rng, len: usize) -> Vec<usize> {
    let count = match rng.u8(0..4) {
        0 | 1 => 0,
        2 => rng.usize(1..4),
        _ => rng.usize(1..24),
    };
    let mut cuts: Vec<_> = (0..count).map(|_| rng.usize(1..len)).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

fn request(rng: &mut Rng, service: &str, number: usize, script: &str) -> Vec<u8> {
    let mut method = pick(
        rng,
        &[
            "GET", "GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS",
            "M-SEARCH",
        ],
    );
    let mut version = if rng.u8(..) < 10 { "1.0" } else { "1.1" };
    let mut head = String::new();
    let mut field = |name: &str, value: &str| write!(head, "{name}: {value}\r\n").unwrap();
    let host = pick(rng, &["a", "shop.example:81", "[::1]:80", "A.b", "127.0.0.1"]);
    if version == "1.1" || rng.bool() {
        field(pick(rng, &["Host", "host", "HOST"]), host);
    }
    field("X-Script", script);
    field("X-Number", &number.to_string());
    for _ in 0..rng.usize(0..5) {
        let (name, value) = ORDINARY[rng.usize(..ORDINARY.len())];
        field(name, value);
    }
    if script == "switch" || rng.u8(..) < 8 {
        method = "GET";
        version = "1.1";
        field("Connection", pick(rng, &["Upgrade", "keep-alive, upgrade"]));
        field("Upgrade", pick(rng, &["websocket", "websocket", "h2c", "x, y"]));
    } else if rng.u8(..) < 60 {
        let (name, value) = ODD[rng.usize(..ODD.len())];
        field(name, value);
    }
    match rng.u8(..) {
        0..6 => (0..rng.usize(60..210)).for_each(|_| field("X-Filler", "y")),
        6..12 => field("X-Long", &"z".repeat(rng.usize(3_000..12_000))),
        12..15 => field("X-Fault", pick(rng, &["abort", "close", "delay"])),
        _ => {}
    }
    let body = match (method, rng.u8(0..10)) {
        ("GET" | "HEAD" | "DELETE" | "OPTIONS", 0..8) => String::new(),
        (_, 0..2) => String::new(),
        (_, 2) => {
            field("Content-Length", "0");
            String::new()
        }
        (_, 3..7) => {
            let len = length(rng);
            field("Content-Length", &len.to_string());
            text(rng, len)
        }
        _ if version == "1.0" => String::new(),
        _ => {
            field("Transfer-Encoding", pick(rng, &["chunked", "chunked", "Chunked"]));
            chunks(rng)
        }
    };
    if !body.is_empty() && rng.u8(..) < 10 {
        field("Expect", "100-continue");
    }
    let target = target(rng, service, number, method, host);
    let before = if rng.u8(..) < 6 { "\r\n" } else { "" };
    format!("{before}{method} {target} HTTP/{version}\r\n{head}\r\n{body}").into_bytes()
}

fn target(rng: &mut Rng, service: &str, number: usize, method: &str, host: &str) -> String {
    match rng.u8(0..40) {
        0 => format!("/{service}"),
        1 => format!("/{service}/"),
        2 => format!("/{service}?q={number}"),
        3 => format!("/{service}/a%2Fb//../c?q=/x?y"),
        4 => format!("/{service}/{{a}}|b^c\\d;e=[f]"),
        5 => format!("/{service}/<x>?q={{job=\"y\"}}&`"),
        6 => format!("/{service}//{number}"),
        7 => format!("/nobody-here/{number}"),
        8 => format!("http://{host}/{service}/absolute/{number}"),
        9 => format!("HTTP://b.example:8{number}/{service}?absolute"),
        10 => format!("/{service}/old/{number}?q"),
        11 => "/".to_owned(),
        12 if method == "OPTIONS" => "*".to_owned(),
        13 => format!("/{service}/{}", "p".repeat(rng.usize(100..3_000))),
        _ => format!("/{service}/{number}"),
    }
}

fn length(rng: &mut Rng) -> usize {
    match rng.u8(0..20) {
        0 => rng.usize(60_000..70_000),
        1 => rng.usize(100_000..200_000),
        2..5 => rng.usize(1_000..20_000),
        _ => rng.usize(1..200),
    }
}

/// Bodies that look like requests are the interesting ones.
fn text(rng: &mut Rng, len: usize) -> String {
    let seed = if rng.bool() { "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n" } else { "0123456789abcdef" };
    let mut text = seed.repeat(len / seed.len() + 1);
    text.truncate(len);
    text
}

fn chunks(rng: &mut Rng) -> String {
    let mut body = String::new();
    for _ in 0..rng.usize(0..5) {
        let len = length(rng).min(30_000);
        let data = text(rng, len);
        match rng.u8(0..4) {
            0 => write!(body, "{len:X}\r\n{data}\r\n"),
            1 => write!(body, "{len:06x}\r\n{data}\r\n"),
            _ => write!(body, "{len:x}\r\n{data}\r\n"),
        }
        .unwrap();
    }
    body.push_str("0\r\n\r\n");
    body
}

fn pick(rng: &mut Rng, from: &[&'static str]) -> &'static str {
    from[rng.usize(..from.len())]
}

/// Fields that go from end to end.
const ORDINARY: &[(&str, &str)] = &[
    ("User-Agent", "me/1.0"),
    ("Accept", "*/*"),
    ("accept-encoding", "gzip, br"),
    ("Cookie", "a=1"),
    ("Cookie", "b=2; c=3"),
    ("Authorization", "Basic eDp5"),
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-For", "203.0.113.9, 10.0.0.1"),
    ("X-Forwarded-Proto", "https"),
    ("X-Request-Id", "my-own-id"),
    ("X-Request-Id", ""),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"),
    ("tracestate", "a=1"),
    ("b3", "0"),
    ("X-B3-TraceId", "80f198ee56343ba8"),
    ("X-Empty", ""),
    ("X-Blank", "  \t "),
    ("X-Padded", " \t padded \t "),
    ("X-Tab", "a\tb"),
    ("X-High", "caf\u{e9} \u{20ac}"),
    ("X-Colons", "a:b: c"),
    ("!#$%&'*+-.^_`|~", "every character a name may hold"),
    ("Connection", "keep-alive"),
    ("If-None-Match", "\"x\""),
    ("Range", "bytes=0-1"),
    ("Content-Type", "text/plain"),
    ("Via", "1.1 other"),
    ("Forwarded", "for=1.2.3.4"),
    ("Max-Forwards", "3"),
    ("X-A8-Error", "mine"),
];

/// Fields of one hop, or that ask for something.
const ODD: &[(&str, &str)] = &[
    ("Connection", "close"),
    ("Connection", "Close"),
    ("Connection", "X-Mine"),
    ("Connection", "keep-alive, X-Empty, Cookie"),
    ("Connection", "close, keep-alive"),
    ("Connection", "Host"),
    ("Connection", "Content-Length"),
    ("Connection", "X-Script"),
    ("Connection", "Transfer-Encoding"),
    ("Connection", ""),
    ("Connection", ","),
    ("Connection", "b\u{e4}d"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("Proxy-Authorization", "Basic x"),
    ("TE", "trailers"),
    ("TE", "gzip, trailers;q=0.5"),
    ("TE", "deflate"),
    ("Trailer", "X-Sum"),
    ("Upgrade", "websocket"),
    ("Expect", "100-continue"),
    ("Expect", "something else"),
    ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ("X-Request-Id", "a\u{e9}"),
];

#[test]
fn a_seed_always_makes_the_same() {
    for seed in 0..50 {
        let (one, two) = (Case::generate(seed), Case::generate(seed));
        assert_eq!((&one.bytes, &one.cuts), (&two.bytes, &two.cuts));
        assert_eq!(one.pieces().flatten().copied().collect::<Vec<_>>(), one.bytes);
    }
}
