//! `GET /api/v1/watch`: the long poll of design.md 5. It reads the question, waits for the bell, and sends
//! the shared bytes; what there is to tell is decided in [`crate::news`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use registry_api::{Position, ServiceName, duration};
use tokio::time::Instant;

use super::auth::Caller;
use super::error::Refusal;
use super::openapi::{Error, Refusals, WatchAnswerSchema};
use super::state::App;
use super::{JSON, guard, native};
use crate::encodings::Shared;
use crate::news::{Held, Scope};
use crate::tenant::Told;

/// How long a poll waits that does not say: less than the idle limit of common load balancers.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(50);
/// The longest wait; more is clamped.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// The pause after a change that was none for the poll: a stream of changes elsewhere wakes a thousand
/// filtered polls only so often.
const LULL: Duration = Duration::from_millis(20);

const EPOCH: HeaderName = HeaderName::from_static("a8-epoch");
const INDEX: HeaderName = HeaderName::from_static("a8-index");
const HASH: HeaderName = HeaderName::from_static("a8-hash");

/// What a watcher asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What it holds.
    pub held: Held,
    /// What it cares about.
    pub scope: Scope,
    /// How long it waits.
    pub wait: Duration,
}

impl Question {
    /// Reads the parameters. Unknown ones are ignored; of a repeated one but `service` the first counts.
    /// `chance`, a number in 0..1, spreads polls that began together over a sixteenth more of their wait.
    pub fn parse(parameters: &[(String, String)], chance: f64) -> Result<Self, Refusal> {
        let first = |wanted: &str| {
            parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        let bad = |name, problem: &str| Refusal::Parameter { name, problem: problem.to_owned() };
        let index = first("index").unwrap_or("0").parse().map_err(|_| bad("index", "it is no number"))?;
        let hash = first("hash").map(str::parse).transpose();
        let hash = hash.map_err(|_| bad("hash", "it is not 32 hexadecimal digits"))?;
        let wait = first("wait").map_or(Ok(WAIT_DEFAULT), duration::parse);
        let wait = wait.map_err(|problem| bad("wait", &problem.to_string()))?.min(WAIT_MAX);
        let services = parameters.iter().filter(|(name, _)| name == "service");
        let services = services.map(|(_, value)| ServiceName::new(value));
        let services: std::collections::BTreeSet<_> =
            services.collect::<Result<_, _>>().map_err(|_| bad("service", "it is empty"))?;
        let epoch = first("epoch").filter(|epoch| !epoch.is_empty()).map(str::to_owned);
        Ok(Self {
            held: Held { epoch, index, hash },
            scope: if services.is_empty() { Scope::All } else { Scope::Only(services) },
            wait: wait + (wait / 16).mul_f64(chance.clamp(0.0, 1.0)),
        })
    }
}

/// Waits for news of the namespace.
#[utoipa::path(get, path = "/api/v1/watch", operation_id = "Watch",
    params(
        ("index" = Option<u64>, Query, description = "Where the watcher is; 0 holds nothing."),
        ("epoch" = Option<String>, Query, description = "The life of the registry that gave the index."),
        ("hash" = Option<String>, Query, description = "The hash of what the watcher holds."),
        ("wait" = Option<String>, Query, description = "How long to wait, as `500ms`, `30s` or `2m`; 50s, at most 10m."),
        ("service" = Option<Vec<String>>, Query, description = "Only these services."),
    ),
    responses(
        (status = 200, description = "News.", body = WatchAnswerSchema),
        (status = 304, description = "The wait passed without news; the headers say where the watcher is."),
        (status = 400, description = "A parameter cannot be read.", body = Error),
        Refusals,
    ))]
pub(super) async fn poll(
    State(app): State<Arc<App>>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Question { held, scope, wait } = Question::parse(&native::parameters(&uri)?, fastrand::f64())?;
    let deadline = Instant::now() + wait;
    let tenant = app.tenants.open(&caller.namespace)?;
    let mut closing = app.closing.clone();
    let _attendance = tenant.attend();
    let mut rest = Instant::now();
    loop {
        // Before the catalog is read, so that what happens in between is heard.
        let bell = tenant.listen();
        let position = match tenant.tell(&held, &scope) {
            Told::News(shared) => {
                app.metrics.told(if shared.is_full() { "full" } else { "delta" });
                return Ok(news(&shared, guard::takes_gzip(&headers)).await);
            }
            Told::Moved(position) => {
                app.metrics.told("unchanged");
                return Ok(unchanged(&position));
            }
            Told::Nothing(position) => position,
        };
        let rung = async {
            bell.await;
            tokio::time::sleep_until(rest).await;
        };
        // Biased towards the end of the process and then of the wait: a stream of changes elsewhere must
        // not keep a poll longer than it asked for.
        let over = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => true,
            () = tokio::time::sleep_until(deadline) => true,
            () = rung => false,
        };
        rest = Instant::now() + LULL;
        if over {
            app.metrics.told("unchanged");
            return Ok(unchanged(&position));
        }
    }
}

async fn news(shared: &Arc<Shared>, takes_gzip: bool) -> Response {
    let body = if takes_gzip { shared.gzipped().await } else { shared.plain().await };
    let mut response = Body::from(body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    if takes_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    place(headers, &shared.position());
    response
}

fn unchanged(position: &Position) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    place(response.headers_mut(), position);
    response
}

fn place(headers: &mut HeaderMap, position: &Position) {
    let values = [
        (EPOCH, position.epoch.clone()),
        (INDEX, position.index.to_string()),
        (HASH, position.hash.to_string()),
    ];
    for (name, value) in values {
        headers.insert(name, HeaderValue::try_from(value).expect("digits and letters of our own making"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, chance: f64) -> Result<Question, Refusal> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Question::parse(&pairs, chance)
    }

    #[test]
    fn the_wait_has_a_default_a_maximum_and_up_to_a_sixteenth_more() {
        for (text, chance, millis) in [
            ("", 0.0, 50_000),
            ("wait=30s", 0.0, 30_000),
            ("wait=500ms", 0.0, 500),
            ("wait=2", 0.0, 2_000),
            ("wait=0", 0.9, 0),
            ("wait=11m", 0.0, 600_000),
            ("wait=16s", 0.5, 16_500),
            ("wait=16s", 1.0, 17_000),
            ("wait=16s&wait=1s", 0.0, 16_000),
        ] {
            assert_eq!(parse(text, chance).unwrap().wait, Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn a_missing_or_empty_epoch_is_none_and_services_are_a_set() {
        let question = parse("epoch=&index=7&service=b&service=a&service=b&nonsense=1", 0.0).unwrap();
        assert_eq!(question.held, Held { epoch: None, index: 7, hash: None });
        let services = ["a", "b"].map(|name| ServiceName::new(name).unwrap());
        assert_eq!(question.scope, Scope::Only(services.into()));
        assert_eq!(parse("", 0.0).unwrap().scope, Scope::All);
    }

    #[test]
    fn bad_parameters_are_refused_by_name() {
        for (text, parameter) in [
            ("index=x", "index"),
            ("index=-1", "index"),
            ("index=", "index"),
            ("index=99999999999999999999999", "index"),
            ("hash=12", "hash"),
            ("hash=", "hash"),
            ("wait=soon", "wait"),
            ("wait=-1s", "wait"),
            ("wait=", "wait"),
            ("service=", "service"),
        ] {
            let refusal = parse(text, 0.0).unwrap_err();
            assert!(matches!(refusal, Refusal::Parameter { name, .. } if name == parameter), "{text}");
        }
    }
}
