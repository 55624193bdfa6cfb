use super::*;
use crate::world::Touched;
use control_api::Snapshot;
use std::sync::Arc;

fn caller(node: &str) -> Caller {
    Caller { node: node.to_owned(), identity: Identity::parse("reviews:v1"), ..Caller::default() }
}

fn serving(index: u64, revision: u64) -> Serving {
    Serving { index, revision }
}

fn at(seconds: u64) -> Moment {
    Moment::millis(seconds * 1_000)
}

fn polled(roster: &mut Roster, node: &str, serving: Serving, now: Moment) {
    roster.begin(caller(node), now);
    roster.acknowledge(node, serving);
    roster.end(node, now);
}

#[test]
fn a_write_is_applied_when_every_connected_proxy_serves_its_revision() {
    let mut roster = Roster::default();
    assert_eq!(roster.applied(7, at(0)), Applied { proxies: 0, serving: 0, laggards: vec![] });
    polled(&mut roster, "a", serving(3, 7), at(0));
    polled(&mut roster, "b", serving(2, 6), at(0));
    polled(&mut roster, "gone", serving(1, 5), at(0));
    roster.begin(caller("b"), at(4));
    roster.begin(caller("a"), at(4));
    let applied = roster.applied(7, at(5));
    assert_eq!(applied, Applied { proxies: 2, serving: 1, laggards: vec!["b".to_owned()] });
    assert_eq!(roster.applied(6, at(5)).laggards, [""; 0]);
}

#[test]
fn connected_is_a_poll_in_flight_or_one_that_ended_less_than_five_seconds_ago() {
    let mut roster = Roster::default();
    roster.begin(caller("a"), at(0));
    assert_eq!(roster.tally(None, at(600)).connected, 1);
    assert_eq!(roster.next_lapse(at(600)), None);
    roster.end("a", at(600));
    assert_eq!(roster.next_lapse(at(600)), Some(at(605)));
    assert_eq!(roster.tally(None, Moment::millis(604_999)).connected, 1);
    assert_eq!(roster.tally(None, at(605)).connected, 0);
}

#[test]
fn two_polls_of_one_proxy_overlap_when_it_reconnects() {
    let mut roster = Roster::default();
    roster.begin(caller("a"), at(0));
    roster.begin(caller("a"), at(10));
    roster.end("a", at(11));
    assert_eq!(roster.tally(None, at(100)).connected, 1);
}

#[test]
fn a_proxy_not_seen_for_a_minute_is_forgotten() {
    let mut roster = Roster::default();
    polled(&mut roster, "a", serving(1, 1), at(0));
    let reported = |now| roster.report(None, now, SystemTime::UNIX_EPOCH).len();
    assert_eq!(reported(Moment::millis(59_999)), 1);
    assert_eq!(reported(at(60)), 0);
}

#[test]
fn lag_counts_from_the_first_snapshot_that_does_not_serve_yet() {
    let publish = |edition: &Edition, now| {
        let revision = edition.snapshot().revision() + 1;
        edition.next(Arc::new(Snapshot::new(revision, [], [])), Touched::default(), now)
    };
    let first = Edition::first("e".into(), Arc::default(), at(0));
    let third = publish(&publish(&first, at(10)), at(11));
    let mut roster = Roster::default();
    for (index, lag_ms) in [(0, 13_000), (1, 3_000), (2, 2_000), (3, 0)] {
        polled(&mut roster, "a", serving(index, 0), at(13));
        let report = &roster.report(Some(&third), at(13), SystemTime::UNIX_EPOCH)[0];
        assert_eq!(report.lag_ms, lag_ms, "{index}");
    }
}

#[test]
fn a_rejection_is_reported_until_something_as_new_serves() {
    let mut roster = Roster::default();
    polled(&mut roster, "a", serving(4, 4), at(0));
    let rejection = Rejection { index: 5, reason: "too new".to_owned() };
    assert!(roster.reject("a", rejection.clone(), at(1)));
    assert!(!roster.reject("a", rejection, at(2)), "the same once more is no news");
    polled(&mut roster, "a", serving(4, 4), at(3));
    let report = &roster.report(None, at(3), SystemTime::UNIX_EPOCH + Duration::from_secs(3))[0];
    let rejected = report.rejected.as_ref().unwrap();
    assert_eq!((rejected.index, rejected.reason.as_str()), (5, "too new"));
    assert_eq!(rejected.at, "1970-01-01T00:00:01.000Z");
    polled(&mut roster, "a", serving(6, 5), at(4));
    assert_eq!(roster.report(None, at(4), SystemTime::UNIX_EPOCH)[0].rejected, None);
}

#[test]
fn only_a_step_from_something_of_this_life_is_a_measured_change() {
    let mut roster = Roster::default();
    roster.begin(caller("a"), at(0));
    assert_eq!(roster.acknowledge("a", serving(0, 0)), None);
    assert_eq!(roster.acknowledge("a", serving(3, 1)), None);
    assert_eq!(roster.acknowledge("a", serving(5, 2)), Some(3));
    assert_eq!(roster.acknowledge("a", serving(5, 2)), None);
    assert_eq!(roster.acknowledge("nobody", serving(5, 2)), None);
}

#[test]
fn a_revision_that_the_history_forgot_stays_known() {
    let mut roster = Roster::default();
    polled(&mut roster, "a", serving(3, 7), at(0));
    polled(&mut roster, "a", serving(3, 0), at(1));
    assert_eq!(roster.applied(7, at(1)).serving, 1);
    polled(&mut roster, "a", serving(0, 0), at(2));
    assert_eq!(roster.applied(7, at(2)).serving, 0);
}

#[test]
fn at_the_bound_the_one_away_longest_makes_room_and_connected_ones_do_not() {
    let mut roster = Roster::default();
    for n in 0..NODES_MAX {
        roster.begin(caller(&format!("n{n}")), at(0));
    }
    assert!(!roster.begin(caller("new"), at(10)));
    roster.end("n7", at(10));
    roster.end("n5", at(11));
    assert!(!roster.begin(caller("new"), at(14)));
    assert!(roster.begin(caller("new"), at(20)));
    assert_eq!(roster.nodes.len(), NODES_MAX);
    assert!(!roster.nodes.contains_key("n7"));
}
