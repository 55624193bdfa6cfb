//! `GET /v1/watch` (design.md 5): a poll says what serves traffic at the caller and is held until there is
//! something newer. What to tell whom is the edition's; encodings are shared by the publisher.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use control_api::Identity;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use registry_api::{ContentHash, ServiceName};

use super::auth::Tenant;
use super::error::Refusal;
use super::query::{Query, invalid};
use super::{App, JSON, Peer};
use crate::edition::{Edition, Held, Verdict};
use crate::publish::{NotEncoded, Published, form};
use crate::roster::{Caller, Rejection};
use crate::space::Poll;

/// How long a poll is held unless told.
const WAIT: Duration = Duration::from_secs(50);
/// And at most; more is cut to this. Up to a sixteenth is added.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How long a poll is held when the instances were never heard.
const LOADING_WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest text a proxy may say of itself: node, service, one tag, version, epoch.
const TEXT_MAX_BYTES: usize = 256;
/// How many tags it may carry.
const TAGS_MAX: usize = 64;
/// A longer reason is cut.
const REASON_MAX_CHARS: usize = 1_000;

/// What a poll says.
struct Question {
    held: Held,
    wait: Duration,
    caller: Caller,
    rejection: Option<Rejection>,
}

impl Question {
    fn of(uri: &Uri, Peer(peer): Peer) -> Result<Self, Refusal> {
        let query = Query::of(uri)?;
        let text = |name: &str| {
            let text = query.first(name).unwrap_or_default();
            if text.len() > TEXT_MAX_BYTES { Err(invalid(name, text)) } else { Ok(text.to_owned()) }
        };
        let tags = query.all("tag");
        if tags.len() > TAGS_MAX || tags.iter().any(|tag| tag.len() > TEXT_MAX_BYTES) {
            return Err(Refusal::InvalidParameter("too many tags, or too long ones".to_owned()));
        }
        let reason = query.first("reason").unwrap_or_default();
        let rejection = |index| Rejection { index, reason: reason.chars().take(REASON_MAX_CHARS).collect() };
        let hash = match query.first("hash") {
            None | Some("") => None,
            Some(_) => query.parsed::<ContentHash>("hash")?,
        };
        Ok(Self {
            held: Held { epoch: text("epoch")?, index: query.parsed("index")?.unwrap_or(0), hash },
            wait: query.duration("wait")?.unwrap_or(WAIT).min(WAIT_MAX),
            caller: Caller {
                node: text("node")?,
                identity: Identity { service: ServiceName::new(text("service")?).ok(), tags },
                address: peer.to_string(),
                version: text("version")?,
            },
            rejection: query.parsed("rejected")?.map(rejection),
        })
    }
}

/// `GET /v1/watch`
pub(super) async fn poll(
    State(app): State<Arc<App>>,
    Tenant(namespace): Tenant,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let Question { held, wait, caller, rejection } = Question::of(&uri, peer)?;
    let _waiter = app.waiters.try_acquire().map_err(|_| Refusal::TooMuch("polls"))?;
    let space = app.spaces.open(&namespace)?;
    let mut snapshots = space.subscribe();
    let mut closing = app.closing.clone();
    let rejected = rejection.as_ref().map(|rejection| rejection.index);
    let poll = space.begin_poll(caller);
    if let Some(rejection) = rejection {
        poll.reject(rejection);
    }
    let begun = app.clock.now();
    // Callers that began together do not come back together.
    let deadline = begun + wait + wait.mul_f64(fastrand::f64() / 16.0);
    let loading_deadline = deadline.min(begun + LOADING_WAIT_MAX);
    let mut acknowledged = false;
    loop {
        let current = snapshots.borrow_and_update().clone();
        if let Some(published) = &current {
            let edition = &published.edition;
            if !std::mem::replace(&mut acknowledged, true) {
                poll.acknowledge(edition, &held);
            }
            match edition.verdict(&held, rejected.filter(|index| is_ours(edition, &held, &poll, *index))) {
                Verdict::Full => return news(&app, published, None, &poll).await,
                Verdict::Delta(from) => return news(&app, published, Some(from), &poll).await,
                Verdict::Adopt => return Ok(unchanged(&app, edition, None)),
                Verdict::Wait => {}
            }
        }
        let until = if current.is_some() { deadline } else { loading_deadline };
        tokio::select! {
            biased; // News before the end of the wait: who is told something needs no second poll.
            Ok(()) = snapshots.changed() => continue,
            () = closing.announced() => {}
            () = app.clock.sleep_until(until) => {}
        }
        let Some(published) = current else { return Err(Refusal::NotReady) };
        // Who rejected the newest does not hold it, so it must not adopt its position.
        return Ok(unchanged(&app, &published.edition, rejected.map(|_| &held)));
    }
}

/// Whether the rejected index was one of this life. A proxy names the life of what it serves, which may be
/// an older one than that of what it rejects.
fn is_ours(edition: &Edition, held: &Held, poll: &Poll, rejected: u64) -> bool {
    held.epoch == edition.epoch() || poll.was_offered(rejected)
}

async fn news(
    app: &App,
    published: &Arc<Published>,
    from: Option<u64>,
    poll: &Poll,
) -> Result<Response, Refusal> {
    let bytes = published.encoded(from, &app.metrics).await.map_err(|NotEncoded| Refusal::Internal)?;
    let edition = &published.edition;
    poll.offer(edition.index());
    app.metrics.watch_answers.with_label_values(&[form(from)]).inc();
    let mut response = (StatusCode::OK, [(CONTENT_TYPE, JSON)], bytes).into_response();
    position(response.headers_mut(), edition.epoch(), edition.index(), edition.hash());
    response.headers_mut().insert("a8-revision", HeaderValue::from(edition.snapshot().revision()));
    Ok(response)
}

/// A 304 that names the position to go on from: the edition's, or the one the caller keeps.
fn unchanged(app: &App, edition: &Edition, kept: Option<&Held>) -> Response {
    app.metrics.watch_answers.with_label_values(&["unchanged"]).inc();
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    match kept {
        Some(held) => {
            position(response.headers_mut(), &held.epoch, held.index, held.hash.unwrap_or_default());
        }
        None => position(response.headers_mut(), edition.epoch(), edition.index(), edition.hash()),
    }
    response
}

fn position(headers: &mut HeaderMap, epoch: &str, index: u64, hash: ContentHash) {
    // A caller's epoch may hold anything; what no header can carry is no epoch of ours.
    headers.insert("a8-epoch", HeaderValue::try_from(epoch).unwrap_or(HeaderValue::from_static("")));
    headers.insert("a8-index", HeaderValue::from(index));
    let hash = HeaderValue::try_from(hash.to_string()).expect("a hash is hexadecimal digits");
    headers.insert("a8-hash", hash);
}
