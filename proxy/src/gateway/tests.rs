//! The engine's own choices: every failure is decided, and a body ends once.

use std::sync::Arc;

use control_api::{Identity, Snapshot};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::board::Board;
use crate::metrics::Metrics;
use crate::resolve::Resolver;
use crate::tables::Table;

/// A request for a service with two instances that nobody listens at.
async fn request(text: &str) -> (Session, Context) {
    let (mut client, server) = tokio::io::duplex(1024);
    client.write_all(text.as_bytes()).await.unwrap();
    let mut session = Session::new_h1(Box::new(server));
    session.read_request().await.unwrap();
    let instances = r#"[{"id":"1","service_name":"s","status":"UP","endpoint":{"type":"http","value":"127.0.0.1:1"}},
        {"id":"2","service_name":"s","status":"UP","endpoint":{"type":"http","value":"127.0.0.1:2"}}]"#;
    let instances: Vec<_> = serde_json::from_str(instances).unwrap();
    let board = Board::new(Arc::new(Metrics::new()), Arc::new(Resolver::default()), clock::now());
    let table = Table::compile(&Snapshot::new(1, [], instances), &Identity::default(), &board);
    let mut ctx = Context::new(Arc::new(table), clock::now(), clock::wall());
    assert!(admit(&mut session, &mut ctx).is_ok());
    let counts = Counts::new(clock::now());
    ctx.decide(&head_of(session.req_header()), None, &counts);
    assert_eq!(ctx.course(&head_of(session.req_header()), &counts, clock::now()), Course::Forward);
    ctx.body_came(false, true, clock::now);
    assert!(ctx.begin_attempt(clock::now()).is_ok());
    (session, ctx)
}

/// A forgotten decision is a panic in Pingora when the mark is read, and some errors come marked to be tried again whatever
/// the method was. That is right of those alone that say that nobody looked at the request.
#[tokio::test]
async fn every_failure_of_an_attempt_is_decided_by_the_law_alone() {
    let etypes = || {
        [
            ErrorType::ConnectTimedout,
            ErrorType::ConnectRefused,
            ErrorType::TLSHandshakeTimedout,
            ErrorType::InvalidCert,
            ErrorType::SocketError,
            ErrorType::InvalidHTTPHeader,
            ErrorType::H2Error,
            ErrorType::H2Downgrade,
            ErrorType::InvalidH2,
            ErrorType::ReadError,
            ErrorType::WriteError,
            ErrorType::ReadTimedout,
            ErrorType::WriteTimedout,
            ErrorType::ConnectionClosed,
            ErrorType::InternalError,
            ErrorType::UnknownError,
        ]
    };
    let unsent = |error: &Error| upstream::cause(error) == Some(Cause::Unreachable);
    let makers: [fn(ErrorType) -> Box<Error>; 3] = [Error::new_up, Error::new_down, Error::new_in];
    for (method, idempotent) in [("GET", true), ("PUT", true), ("POST", false), ("PATCH", false)] {
        for (make, marked) in makers.into_iter().flat_map(|make| [(make, true), (make, false)]) {
            for etype in etypes() {
                let (session, mut ctx) = request(&format!("{method} /s HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                let mut error = make(etype.clone());
                error.set_retry(marked);
                let from_upstream = *error.esource() == ErrorSource::Upstream;
                let timed_out = matches!(etype, ErrorType::ReadTimedout | ErrorType::WriteTimedout);
                let unseen = marked && etype == ErrorType::H2Error;
                let again = from_upstream && !timed_out && (idempotent || unseen || unsent(&error));
                let judged = judged(&session, &mut ctx, error, Cause::Unanswered);
                assert_eq!(judged.retry(), again, "{method} {etype:?} {from_upstream} {marked}");

                let (session, mut ctx) = request(&format!("{method} /s HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                let mut error = make(etype.clone());
                error.set_retry(marked);
                let judged = super::judged(&session, &mut ctx, error, Cause::Unreachable);
                assert!(judged.retry(), "nothing was sent: {method} {etype:?}");
            }
        }
    }
}

#[tokio::test]
async fn attempts_end_with_the_budget_and_go_to_another_instance() {
    let (session, mut ctx) = request("GET /s HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let first = ctx.host();
    assert!(judged(&session, &mut ctx, Error::new_up(ErrorType::ConnectRefused), Cause::Unreachable).retry());
    assert!(ctx.take_wait() <= routing::BACKOFF_BASE);
    let target = ctx.begin_attempt(clock::now()).unwrap();
    assert_eq!(first, None, "a literal address keeps the client's host");
    assert!(target.time_left > Duration::ZERO);
    assert!(
        !judged(&session, &mut ctx, Error::new_up(ErrorType::ConnectRefused), Cause::Unreachable).retry()
    );
    assert_eq!(ctx.reply(), Reply::unreachable());
}

#[test]
fn a_body_ends_once_and_never_before_its_end() {
    for (piece, end, left) in [
        (Some("x"), false, Some("x")),
        (Some("x"), true, Some("x")),
        (Some(""), true, None),
        (Some(""), false, Some("")),
        (None, true, None),
    ] {
        let mut body = piece.map(Bytes::from);
        end_once(&mut body, end);
        assert_eq!(body, left.map(Bytes::from), "{piece:?} {end}");
    }
}
