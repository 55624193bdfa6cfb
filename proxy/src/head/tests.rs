//! Heads that are accepted, heads that are refused, and why.

use super::*;

fn parse(text: &str) -> Result<Head, Malformed> {
    read(text.as_bytes())
}

#[test]
fn ordinary_heads_are_read() {
    for (head, body) in [
        ("GET /reviews/0 HTTP/1.1\r\nHost: a:6379\r\n\r\n", Body::None),
        ("GET /reviews HTTP/1.0\r\n\r\n", Body::None),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Body::None),
        ("GET http://a.example/reviews/0?x HTTP/1.1\r\nHost: b\r\n\r\n", Body::None),
        ("GET HTTP://a HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Body::None),
        ("POST /r HTTP/1.1\r\nhost:a\r\ncontent-length:  12 \r\n\r\n", Body::Length(12)),
        ("POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Body::None),
        ("POST /r HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", Body::Chunked),
        ("GET /r HTTP/1.1\r\nHost: a\r\nX: \u{e9}\tb\r\n\r\n", Body::None),
    ] {
        let read = parse(head).unwrap_or_else(|refused| panic!("{head:?}: {refused:?}"));
        assert_eq!((read.body, read.len), (body, head.len()), "{head:?}");
    }
    let head = "PUT /a?b HTTP/1.1\r\nHost: h\r\n\r\n";
    let read = parse(head).unwrap();
    assert_eq!((&head[read.method], &head[read.target]), ("PUT", "/a?b"));
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let get = |fields: &str| format!("GET /r HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let host = |host: &str| format!("GET /r HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut heads = vec![
        "GET /r HTTP/1.1\r\n\r\n".to_owned(),
        "GET /r HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
        "GET /r HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
        "GET /r HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
        "POST /r HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    ];
    heads.extend(
        [
            "Host: a\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 9999999999999999999\r\n",
            "Transfer-Encoding: x, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "X : y\r\n",
            " folded\r\n",
            "X: y\r\n folded\r\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            "no colon\r\n",
            ": no name\r\n",
        ]
        .map(get),
    );
    heads.extend(
        [
            "GET /r",
            "GET  /r HTTP/1.1",
            "GET /r  HTTP/1.1",
            " GET /r HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /r HTTP/1.2",
            "GET /r HTTP/2.0",
            "GET /r http/1.1",
            "G(T /r HTTP/1.1",
            "GET : HTTP/1.1",
            "GET javascript:x HTTP/1.1",
            "GET name/x HTTP/1.1",
            "GET * HTTP/1.1",
            "GET a:80 HTTP/1.1",
            "CONNECT a:80 HTTP/1.1",
            "CONNECT /r HTTP/1.1",
            "GET http:///r HTTP/1.1",
            "GET http://u@a/r HTTP/1.1",
            "GET http://a b/r HTTP/1.1",
            "GET /r#x HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
        ]
        .map(line),
    );
    heads.extend(
        [
            "", "a b", "a/b", "a?b", "a,b", "u@a", "\u{e9}", "<a>", "a:b", "a:80:80", "[::1", "[]", "[x]",
            ":80",
        ]
        .map(host),
    );
    for head in heads {
        assert!(matches!(parse(&head), Err(Malformed::Bad(_))), "{head:?}: {:?}", parse(&head));
    }
}

#[test]
fn absolute_form_becomes_origin_form_and_what_no_uri_may_hold_is_encoded() {
    for (head, normal) in [
        (
            "GET http://a:80/r?x HTTP/1.1\r\nHOST: b\r\nX: y\r\n\r\n",
            Some("GET /r?x HTTP/1.1\r\nHost: a:80\r\nX: y\r\n\r\n"),
        ),
        ("GET https://a HTTP/1.0\r\n\r\n", Some("GET / HTTP/1.0\r\nHost: a\r\n\r\n")),
        ("GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n", Some("GET /?x HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("GET /r HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (r"GET /a%2Fb//../{c}|d^e\f?g=[h]&{i} HTTP/1.1|Host: a||", None),
        (
            "GET /a?q={b=\"c\"}&<d>` HTTP/1.1\r\nHost: a\r\n\r\n",
            Some("GET /a?q={b=%22c%22}&%3Cd%3E%60 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ),
    ] {
        let head = head.replace("HTTP/1.1|Host: a||", "HTTP/1.1\r\nHost: a\r\n\r\n");
        let made = normal_form(head.as_bytes(), &parse(&head).unwrap());
        assert_eq!(made.as_deref(), normal.map(str::as_bytes), "{head:?}");
    }
}

#[test]
fn what_is_too_large_is_told_apart() {
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(REQUEST_LINE_BYTES_MAX));
    assert!(matches!(parse(&line), Err(Malformed::TooLarge(_))));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX));
    assert!(matches!(parse(&many), Err(Malformed::TooLarge(_))));
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\na: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    assert!(matches!(parse(&head), Err(Malformed::TooLarge(_))));
}

#[test]
fn the_end_is_found_at_any_pace() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n";
    let end = head.len() - 8;
    assert_eq!(end_of_head(head, 0), Some(end));
    for cut in 0..end {
        assert_eq!(end_of_head(&head[..cut], 0), None, "{cut}");
        assert_eq!(end_of_head(&head[..end], cut), Some(end), "{cut}");
    }
    assert_eq!(end_of_head(b"a\n\nb", 0), Some(3));
}

#[test]
fn only_an_ordinary_head_is_for_the_lane() {
    let get = |fields: &str| format!("GET /r HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let fields = |count: usize| get(&"a: b\r\n".repeat(count - 1));
    let long = |len: usize| get(&format!("a: {}\r\n", "x".repeat(len - get("a: \r\n").len())));
    assert_eq!(long(300).len(), 300);
    for (head, ordinary) in [
        (get(""), true),
        (get("Connection: close\r\n"), true),
        (get("connection: Keep-Alive\r\nCONNECTION: , CLOSE,close\r\nConnection:\r\n"), true),
        (get("Content-Length: 5\r\nTE2: x\r\nupgrades: x\r\nKeep-Alive: timeout=5\r\n"), true),
        (get("Transfer-Encoding: chunked\r\n"), true),
        (get("Connection: keep-alive, x-secret\r\n"), false),
        (get("Connection: close\r\nConnection: te\r\n"), false),
        (get("Connection: upgrade\r\n"), false),
        (get("UPGRADE: websocket\r\n"), false),
        (get("Expect: 100-continue\r\n"), false),
        (get("te: trailers\r\n"), false),
        (get("Trailer:\r\n"), false),
        (get("HTTP2-Settings: AAMAAABkAAQAAP__\r\n"), false),
        ("GET /r HTTP/1.0\r\nHost: a\r\n\r\n".to_owned(), false),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), false),
        (target("/%2F//../{c}|d^e?f[g]"), true),
        (target("http://a/r"), false),
        (target("/a?b=\"c\""), false),
        (target("/<a>"), false),
        (target("/0123456789abcdef`"), false),
        (fields(LANE_FIELDS_MAX), true),
        (fields(LANE_FIELDS_MAX + 1), false),
        (long(LANE_HEAD_BYTES_MAX), true),
        (long(LANE_HEAD_BYTES_MAX + 1), false),
    ] {
        assert_eq!(parse(&head).unwrap().ordinary, ordinary, "{head:?}");
    }
}

#[test]
fn a_connection_goes_on_unless_it_is_to_end() {
    for (head, keep_alive) in [
        ("GET /r HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET /r HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", true),
        ("GET /r HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", true),
        ("GET /r HTTP/1.1\r\nHost: a\r\nConnection: x ,Close\r\n\r\n", false),
        ("GET /r HTTP/1.1\r\nHost: a\r\nconnection: close\r\nConnection: keep-alive\r\n\r\n", false),
        ("GET /r HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", false),
    ] {
        assert_eq!(parse(head).unwrap().keep_alive, keep_alive, "{head:?}");
    }
}

#[test]
fn the_fields_of_a_head_are_those_that_came() {
    let head = b"GET /r HTTP/1.1\r\nHost: a\r\nx:y\r\n\r\n";
    let read = read(head).unwrap();
    let fields: Vec<(&[u8], &[u8])> = read.fields(head).iter().collect();
    assert_eq!(fields, [(&b"Host"[..], &b"a"[..]), (b"x", b"y")]);
}

/// Whatever comes over the wire, reading it ends well; and what is accepted has exactly one of everything.
#[test]
fn no_bytes_are_too_odd() {
    let valid = b"POST /s/x?y HTTP/1.1\r\nHost: a:80\r\nContent-Length: 12\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let odd = b"\0\t\n\r :,/?#[]@%*aZ09\x7f\x80\xff";
    let mut chance = fastrand::Rng::with_seed(7);
    let mut accepted = 0;
    for _ in 0..50_000 {
        let mut head = valid.to_vec();
        for _ in 0..chance.usize(0..4) {
            let at = chance.usize(..head.len());
            match chance.u8(0..3) {
                0 => head[at] = odd[chance.usize(..odd.len())],
                1 => head.insert(at, odd[chance.usize(..odd.len())]),
                _ => drop(head.remove(at)),
            }
        }
        let Some(end) = end_of_head(&head, 0) else { continue };
        let Ok(read) = read(&head[..end]) else { continue };
        accepted += 1;
        let _normal = normal_form(&head[..end], &read);
        let text = String::from_utf8_lossy(&head[..end]).to_lowercase();
        assert_eq!(text.matches("\nhost:").count(), 1, "{text:?}");
        assert!(text.matches("\ncontent-length:").count() <= 1, "{text:?}");
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{text:?}");
    }
    assert!(accepted > 1000, "{accepted}");
}
