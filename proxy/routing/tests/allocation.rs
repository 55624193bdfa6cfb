//! Deciding costs no allocation: counted by an allocator of this test alone. Time is the bench's matter.

#![allow(clippy::unwrap_used, reason = "a test stops where its world is wrong")]
#![allow(
    unsafe_code,
    reason = "an allocator cannot be written without it; this one only counts and passes on"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use control_api::{Identity, Snapshot};
use http::{HeaderMap, HeaderValue};
use routing::{At, Outcome, RequestHead, RouteTable, Seed};
use serde_json::json;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is going away has no counter any more, and is not one of those that count.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(step: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    step();
    ALLOCATIONS.get() - before
}

fn world() -> Snapshot {
    let mut rules = vec![
        json!({"id": "split", "destination": "busy", "route": {"backends": [{"tags": ["v1"], "weight": 0.25}, {"tags": ["v2"]}]}}),
        json!({"id": "api", "destination": "other", "route": {"uri": {"prefix": "/api/", "prefix_rewrite": "/"}, "sticky": {"cookie": "theme"},
            "rate_limit": {"requests_per_s": 5, "key": {"cookie": "theme"}}, "mirror": {"service": "plain"}, "retries": {"on": ["5xx"]},
            "backends": [{"tags": ["v1"]}, {"tags": ["v2"], "lb_type": "ring_hash", "hash_on": {"header": "cookie"}}]}}),
        json!({"id": "faults", "destination": "busy", "actions": [{"action": "delay", "duration": 1, "probability": 0.5},
            {"action": "delay", "normal": {"mean": 1, "stddev": 1}, "expires_at": "9999-01-01T00:00:00Z"},
            {"action": "bandwidth", "bytes_per_s": 100, "first": 1},
            {"action": "trace", "log_key": "k", "log_value": "v"}, {"action": "abort", "return_code": 500, "probability": 0.5}]}),
    ];
    for user in 0..99 {
        rules.push(json!({"id": format!("user-{user}"), "priority": 1, "destination": "busy",
            "match": {"headers": {"Cookie": format!("^(.*?;)?(user=user-{user:02})(;.*)?$")}},
            "route": {"backends": [{"tags": ["v1"]}]}}));
    }
    let instance = |service: &str, number: usize| {
        json!({"id": format!("{service}-{number}"), "service_name": service, "status": "UP",
            "endpoint": {"type": "http", "value": "10.0.0.1:80"}, "tags": [format!("v{}", number % 2 + 1)]})
    };
    let instances =
        ["busy", "other", "plain"].into_iter().flat_map(|name| (0..4).map(move |n| instance(name, n)));
    Snapshot::new(
        1,
        rules.into_iter().map(|rule| Arc::new(serde_json::from_value(rule).unwrap())),
        instances.map(|instance| Arc::new(serde_json::from_value(instance).unwrap())),
    )
}

#[test]
fn a_decision_allocates_nothing() {
    let table: RouteTable = RouteTable::compile(&world(), &Identity::parse("gateway"), &());
    for (path, cookie, forwards) in [
        ("/plain/x", "", true),
        ("/busy/x", "user=user-98;theme=dark", true),
        ("/busy/x", "theme=dark", true),
        ("/busy/x", "", true),
        ("/api/x", "", true),
        ("/api/x", "a=b; theme=dark", true),
        ("/nobody%20here/x", "", false),
        ("/", "", false),
    ] {
        let mut headers = HeaderMap::new();
        if !cookie.is_empty() {
            headers.insert("cookie", HeaderValue::from_static(cookie));
        }
        let head = RequestHead { method: "GET", path, query: "", authority: "gateway", headers: &headers };
        // The first time on a thread an expression makes its scratch space.
        for id in 0..64_u8 {
            table.decide(&head, Seed::of(&[id]), &At(0));
        }
        let mut forwarded = 0;
        let counted = allocations(|| {
            for id in 0..64_u8 {
                let decision = table.decide(&head, Seed::of(&[id]), &At(0));
                forwarded += usize::from(matches!(decision.outcome, Outcome::Forward(_)));
            }
        });
        assert_eq!(counted, 0, "{path} {cookie}");
        assert_eq!(forwarded > 0, forwards, "{path} {cookie}");
    }
}

#[test]
fn the_counter_counts() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1]))) > 0);
}
