//! What is kept of a request, what is left out of its copy, and what is lost when.

use registry_api::ServiceName;
use routing::Attach;

use super::*;
use crate::board::Board;
use crate::metrics::Metrics;
use crate::resolve::Resolver;

struct World {
    metrics: Arc<Metrics>,
    board: Board,
    mirrors: Arc<Mirrors>,
    queue: Queue,
}

fn world() -> World {
    let (mirrors, queue) = Mirrors::new();
    let metrics = Arc::new(Metrics::new());
    let board = Board::new(Arc::clone(&metrics), Arc::new(Resolver::default()), crate::clock::now());
    World { metrics, board, mirrors, queue }
}

impl World {
    fn draft(&self) -> Draft {
        let name = ServiceName::new("s").unwrap();
        let within = Duration::from_secs(1);
        let target = Target {
            address: "127.0.0.1:1".parse().unwrap(),
            tls_name: None,
            time_left: within,
            read_within: within,
            write_within: within,
            requests_per_connection: u32::MAX,
        };
        self.mirrors.draft(Addressee {
            service: self.board.service(&name),
            target,
            host: None,
            rule: RuleId::new("r").unwrap(),
        })
    }

    fn lost(&self, reason: &str) -> usize {
        let series = format!(r#"a8_proxy_mirror_lost_total{{reason="{reason}",service="s"}} "#);
        let page = String::from_utf8(self.metrics.encode()).unwrap();
        page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
    }

    fn held(&self) -> usize {
        self.mirrors.held.load(Ordering::Relaxed)
    }
}

fn head(text: &str) -> Head {
    Head::read(text.as_bytes()).unwrap()
}

#[test]
fn a_copy_is_handed_over_when_its_head_and_all_of_its_body_are_there() {
    let mut world = world();
    let mut draft = world.draft();
    draft.take(b"hello", true).unwrap();
    let posted = head("POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    let whole = posted.bytes() + 5;
    draft.begin(posted).unwrap();
    assert!(!draft.is_whole(), "the body comes again");
    draft.take(b"hel", false).unwrap();
    assert!(!draft.is_whole());
    draft.take(b"lo", true).unwrap();
    assert!(draft.is_whole());
    assert_eq!(world.held(), whole);
    draft.send();
    let letter = world.queue.try_recv().unwrap();
    assert_eq!((&letter.body[..], &letter.head.target[..]), (&b"hello"[..], &b"/a?b"[..]));
    assert_eq!(world.held(), whole, "until its answer is read");
    drop(letter);
    assert_eq!(world.held(), 0);
    drop(world.draft());
    assert_eq!((world.lost("incomplete"), world.queue.try_recv().is_err()), (1, true));
}

#[test]
fn what_is_of_one_hop_stays_behind_and_the_copy_is_marked() {
    let read = head(
        "POST /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nTE: trailers\r\nExpect: 100-continue\r\nX-A: 1\r\n\
         X-A: 2\r\nTransfer-Encoding: chunked\r\nX-A8-Mirror: forged\r\n\r\n",
    );
    assert!(read.framed);
    let fields = read.fields_of_copy(&RuleId::new("r-1").unwrap(), 7);
    let mut names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "host", "x-a", "x-a8-mirror"]);
    assert_eq!(fields.get_all("x-a").iter().count(), 2);
    assert_eq!(
        (&fields["x-a8-mirror"], &fields["content-length"]),
        (&"r-1".parse().unwrap(), &"7".parse().unwrap())
    );
    let get = head("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").fields_of_copy(&RuleId::new("\u{e9}\n").unwrap(), 0);
    assert_eq!((get.get("content-length"), &get["x-a8-mirror"]), (None, &"-".parse().unwrap()));
    let empty = head("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(empty.fields_of_copy(&RuleId::new("r").unwrap(), 0)["content-length"], "0");
}

#[test]
fn bounds_are_kept_and_whoever_is_beyond_them_is_counted() {
    let world = world();
    let full = vec![b'x'; COPY_BODY_BYTES_MAX];
    let mut draft = world.draft();
    draft.take(&full, false).unwrap();
    assert_eq!(draft.take(b"x", true), Err(CopyLost::BodyTooLarge));
    drop(draft);
    assert_eq!(world.held(), 0);
    let mut drafts: Vec<_> = (0..COPIES_BYTES_MAX / COPY_BODY_BYTES_MAX).map(|_| world.draft()).collect();
    for draft in &mut drafts {
        draft.take(&full, false).unwrap();
    }
    let mut late = world.draft();
    assert_eq!(late.take(b"x", true), Err(CopyLost::NoRoom));
    late.lose(CopyLost::NoRoom);
    drop(drafts);
    assert_eq!((world.held(), world.lost("no_room")), (0, 1));
    for _ in 0..COPIES_WAITING_MAX + 3 {
        let mut draft = world.draft();
        draft.begin(head("GET /a HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        draft.take(b"", true).unwrap();
        draft.send();
    }
    assert_eq!(world.lost("queue_full"), 3);
    let of_a_copy = head("GET /a HTTP/1.1\r\nHost: h\r\nX-A8-Mirror: r\r\n\r\n");
    assert_eq!(world.draft().begin(of_a_copy), Err(CopyLost::Copy));
}

#[test]
fn heads_count_against_the_bound_as_bodies_do() {
    let world = world();
    let large = format!("GET /a HTTP/1.1\r\nHost: h\r\nX-Large: {}\r\n\r\n", "x".repeat(60_000));
    let (mut drafts, mut begun) = (Vec::new(), Ok(()));
    while begun.is_ok() && drafts.len() < 2 * COPIES_BYTES_MAX / 60_000 {
        let mut draft = world.draft();
        begun = draft.begin(head(&large));
        drafts.push(draft);
    }
    assert_eq!((begun, drafts.len() - 1), (Err(CopyLost::NoRoom), COPIES_BYTES_MAX / head(&large).bytes()));
    drop(drafts);
    assert_eq!(world.held(), 0);
}

#[test]
fn chunks_lose_their_framing_however_they_are_cut() {
    assert_eq!(unframed(b"5\r\nhello\r\n1;").as_deref(), None);
    assert_eq!(unframed(b"5\r\nhello\r\n0\r\n\r\n").as_deref(), Some(&b"hello"[..]));
    assert_eq!(unframed(b"1\r\n\r\r\n00A\r\n0123456789\r\n0\r\n\r\n").as_deref(), Some(&b"\r0123456789"[..]));
    assert_eq!(unframed(b"0\r\n\r\n").as_deref(), Some(&b""[..]));
    for cut in 0..14 {
        assert_eq!(unframed(&b"5\r\nhello\r\n0\r\n\r\n"[..cut]), None, "{cut}");
    }
}
