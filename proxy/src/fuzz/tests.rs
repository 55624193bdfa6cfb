//! Runs every law over inputs made of sound ones by small changes, as many as `FUZZ_SEEDS` says. A seed makes the same
//! input everywhere, so that what fails can be repeated.

use std::panic::catch_unwind;

use fastrand::Rng;

const SEEDS_DEFAULT: u64 = 20_000;
/// Changes made to one input.
const CHANGES_MAX: usize = 6;

const HEADS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /reviews/0?x=1&y HTTP/1.1\r\nHost: a.example:6379\r\nUser-Agent: b\r\nAccept: */*\r\n\r\n",
    "POST /s HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 012\r\nX-Request-Id: 7\r\n\r\nbody of twel",
    "PUT /s/x HTTP/1.1\r\nhost:a\r\ntransfer-encoding: Chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n",
    "DELETE /s HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For:\r\nX-Forwarded-Proto: https\r\n\r\n",
    "GET http://a/s?\"<b>\" HTTP/1.1\r\nHost: b\r\nConnection: close, x\r\nX: \t y \t \r\n\r\n",
    "OPTIONS * HTTP/1.0\r\nCookie: a=1\r\nCookie: b=2\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\r\n",
    "GET /s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nExpect: 100-continue\r\n\r\n",
];

const BODIES: &[&str] = &[
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
    "A\r\n01234\r\n789\r\n00e\r\nhello\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
    "1\r\n-\r\n00\r\nX-Sum: 1\r\nY:\r\n\r\n",
    "000\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
    "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 007\r\nServer: x\r\n\r\n",
    "HTTP/1.1 503 \r\nContent-Length: 3\r\ncontent-length: 3, 3\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1234\r\nUpgrade: h2c\r\n\r\n",
];

const SCRAPS: &[&str] = &[
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "\0",
    "\r\n ",
    ":",
    ", ",
    ";x=y",
    "0",
    "5",
    "ffffffffffffffff",
    "close",
    "chunked",
    "HTTP/1.0",
    "HTTP/1.1",
    "Host: b\r\n",
    "host:c\r\n",
    "Content-Length: 5\r\n",
    "CONTENT-LENGTH: 0005\r\n",
    "Content-Length: 5, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "Connection: x-hop, close\r\n",
    "Connection: content-length\r\n",
    "X-Hop: 2\r\n",
    "X-Forwarded-For: \u{e9}\r\n",
    "X-Request-Id: 1\r\n",
    "Proxy-Authorization: x\r\n",
    "0\r\n\r\n",
];

const ODD: &[u8] = b"\0\t\n\r :,;/?#[]@%*aZ09\"<`\x7f\x80\xff";

fn input(corpus: &[&str], seed: u64) -> Vec<u8> {
    let mut chance = Rng::with_seed(seed);
    let mut input = corpus[chance.usize(..corpus.len())].as_bytes().to_vec();
    for _ in 0..chance.usize(..=CHANGES_MAX) {
        let at = chance.usize(..=input.len());
        let until = chance.usize(at..=input.len().min(at + 40));
        match chance.u8(..8) {
            0 => drop(input.drain(at..until.min(at + 1))),
            1 => drop(input.drain(at..until)),
            2 => input.insert(at, ODD[chance.usize(..ODD.len())]),
            3 if at < input.len() => input[at] = ODD[chance.usize(..ODD.len())],
            4 if at < input.len() => input[at] ^= 0x20,
            5 => {
                let twice = input[at..until].to_vec();
                drop(input.splice(at..at, twice));
            }
            6 => {
                let other = corpus[chance.usize(..corpus.len())].as_bytes();
                let from = chance.usize(..other.len());
                input.splice(at.., other[from..].iter().copied());
            }
            // Where lines begin scraps make new ones.
            _ => {
                let starts: Vec<usize> =
                    (0..input.len()).filter(|at| *at == 0 || input[at - 1] == b'\n').collect();
                let at = if chance.bool() { *chance.choice(&starts).unwrap_or(&0) } else { at };
                let scrap = SCRAPS[chance.usize(..SCRAPS.len())];
                input.splice(at..at, scrap.bytes());
            }
        }
    }
    input
}

/// At least every tenth input has to be accepted: laws about what is refused alone would hold for a reader of nothing.
fn run(law: fn(&[u8]) -> bool, corpus: &[&str]) {
    for sound in corpus {
        assert!(law(sound.as_bytes()), "{sound:?}");
    }
    let seeds =
        std::env::var("FUZZ_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS_DEFAULT);
    let mut accepted = 0;
    for seed in 0..seeds {
        let input = input(corpus, seed);
        match catch_unwind(|| law(&input)) {
            Ok(was) => accepted += u64::from(was),
            Err(_) => panic!("seed {seed}: {}", input.escape_ascii()),
        }
    }
    assert!(accepted >= seeds / 10, "only {accepted} of {seeds} were accepted");
    assert!(accepted < seeds.max(100), "all were accepted");
}

#[test]
fn heads_keep_their_meaning() {
    run(super::head, HEADS);
}

#[test]
fn chunks_end_where_a_decoder_finds_their_end() {
    run(super::chunks, BODIES);
}

#[test]
fn answers_keep_their_meaning() {
    run(super::answer, ANSWERS);
}
