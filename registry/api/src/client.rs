//! A client of the registry, and the HTTP caller beneath it that control's client shares. It retries
//! nothing by itself: the caller knows what a failure means and when to come back ([`Backoff`]).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::change::{Position, Update, WatchAnswer};
use crate::connect::{Connector, Trust};
use crate::hash::ContentHash;
use crate::instance::{Instance, Registered, Registration};
use crate::names::InstanceId;

/// The largest answer that is read; a full snapshot of 100,000 instances is about 20 MB.
pub const ANSWER_LIMIT_BYTES: usize = 256 << 20;
/// How much is read at once, and the longest head of an answer. A connection keeps it while it waits.
const READ_BYTES_MAX: usize = 32 << 10;
/// How long an ordinary call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than `wait` a poll may take: the server adds up to a sixteenth.
const POLL_MARGIN: Duration = Duration::from_secs(10);
/// Shorter than the servers', so that no call meets a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why nobody can be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// A base URL that cannot be used.
    #[error("`{0}` is no http or https URL with a host")]
    Url(String),
    /// A token that no header can carry.
    #[error("a token with control characters")]
    Token,
    /// Nobody whom an https server could be believed for.
    #[error("{0}")]
    Trust(String),
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answered: refused, unresolvable, cut off, or too slow.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// The base URL that was tried.
        url: String,
        /// What went wrong, innermost cause last.
        reason: String,
    },
    /// The server said no.
    #[error("{url} answered {status}: {body}")]
    Refused {
        /// The base URL that was tried.
        url: String,
        /// Its status.
        status: StatusCode,
        /// Its body, at most 1,000 characters.
        body: String,
    },
    /// The answer is not what was promised.
    #[error("{url} gave an answer that cannot be read: {reason}")]
    Garbled {
        /// The base URL that was tried.
        url: String,
        /// What does not fit.
        reason: String,
    },
}

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The base URL that answered.
    pub url: String,
    /// Status code.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The answer itself when its status is one of `expected`, else [`CallError::Refused`].
    pub fn expect(self, expected: &[StatusCode]) -> Result<Self, CallError> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        let body = String::from_utf8_lossy(&self.body).chars().take(1_000).collect();
        Err(CallError::Refused { url: self.url, status: self.status, body })
    }

    /// Decodes the body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(|error| self.garbled(error.to_string()))
    }

    /// An error that says what in this answer does not fit.
    pub fn garbled(&self, reason: impl Into<String>) -> CallError {
        CallError::Garbled { url: self.url.clone(), reason: reason.into() }
    }

    /// A header as text, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// Calls one of several equal servers. Stays with the one that answers; moves on when it cannot be reached.
#[derive(Debug)]
pub struct Caller {
    client: Client<Connector, Full<Bytes>>,
    bases: Vec<String>,
    current: AtomicUsize,
    headers: HeaderMap,
}

impl Caller {
    /// `urls` must not be empty; `token` is sent as a bearer token when not empty. Who has an https URL is believed by
    /// the roots of the machine; reading them blocks on the disk.
    pub fn new<S: AsRef<str>>(urls: &[S], token: Option<&str>) -> Result<Self, BadUrl> {
        let trust = if needs_trust(urls)? {
            Trust::system().map_err(|problem| BadUrl::Trust(problem.to_string()))?
        } else {
            Trust::nobody()
        };
        Self::trusting(urls, token, trust)
    }

    /// The same with others to believe.
    pub fn trusting<S: AsRef<str>>(urls: &[S], token: Option<&str>, trust: Trust) -> Result<Self, BadUrl> {
        let bases = urls.iter().map(|url| base(url.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if bases.is_empty() {
            return Err(BadUrl::Url(String::new()));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| BadUrl::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_buf_size(READ_BYTES_MAX)
            .build(Connector::new(trust));
        Ok(Self { client, bases, current: AtomicUsize::new(0), headers })
    }

    /// The same with a header on every call.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// One call. `path` begins with a slash and may carry a query. A JSON body gets its content type.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        self.call_with(method, path, &HeaderMap::new(), json, timeout).await
    }

    /// The same with further header fields for this one call.
    pub async fn call_with(
        &self,
        method: Method,
        path: &str,
        fields: &HeaderMap,
        json: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let at = self.current.load(Ordering::Relaxed) % self.bases.len();
        let url = &self.bases[at];
        let unreachable = |reason: String| {
            // Whoever failed is tried last again.
            self.current.store(at + 1, Ordering::Relaxed);
            CallError::Unreachable { url: url.clone(), reason }
        };
        let mut request = Request::builder().method(method).uri(format!("{url}{path}"));
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
            headers.extend(fields.clone());
            if json.is_some() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
        }
        let request = request
            .body(Full::from(json.unwrap_or_default()))
            .map_err(|error| CallError::Garbled { url: url.clone(), reason: error.to_string() })?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| chain(&error))?;
            let (head, body) = response.into_parts();
            Ok::<_, String>((head, whole(body).await?))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok((head, body))) => {
                Ok(Answer { url: url.clone(), status: head.status, headers: head.headers, body })
            }
            Ok(Err(reason)) => Err(unreachable(reason)),
            Err(_) => Err(unreachable(format!("no answer within {timeout:?}"))),
        }
    }
}

/// Whether one of the base URLs is https; an error names the first that cannot be used.
pub fn needs_trust<S: AsRef<str>>(urls: &[S]) -> Result<bool, BadUrl> {
    let bases = urls.iter().map(|url| base(url.as_ref())).collect::<Result<Vec<_>, _>>()?;
    Ok(bases.iter().any(|base| base.starts_with("https:")))
}

fn base(url: &str) -> Result<String, BadUrl> {
    let bad = || BadUrl::Url(url.to_owned());
    let parsed: Uri = url.parse().map_err(|_| bad())?;
    let scheme = parsed.scheme_str().filter(|scheme| ["http", "https"].contains(scheme));
    let authority = parsed.authority().filter(|_| parsed.host().is_some_and(|host| !host.is_empty()));
    let (Some(scheme), Some(authority), None) = (scheme, authority, parsed.query()) else {
        return Err(bad());
    };
    Ok(format!("{scheme}://{authority}{}", parsed.path().trim_end_matches('/')))
}

/// All of a body, in one piece that is made once. To collect its pieces first would hold a large answer twice, and keep the
/// connection from reading into the same memory again.
async fn whole(body: Incoming) -> Result<Bytes, String> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut text = Vec::with_capacity(expected.min(ANSWER_LIMIT_BYTES));
    let mut body = Limited::new(body, ANSWER_LIMIT_BYTES);
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(|error| chain(&*error))?.into_data() {
            text.extend_from_slice(&piece);
        }
    }
    Ok(text.into())
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Percent-encodes one path segment or query value.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The common part of a watch's query.
pub fn watch_query(position: &Position, wait: Duration) -> String {
    let mut query = format!("index={}&wait={}ms", position.index, wait.as_millis());
    if !position.epoch.is_empty() {
        query.push_str(&format!("&epoch={}&hash={}", encode(&position.epoch), position.hash));
    }
    query
}

/// The position that the headers of a watch answer name.
pub fn position_of(answer: &Answer) -> Result<Position, CallError> {
    let index = answer.header("A8-Index").parse().map_err(|_| answer.garbled("A8-Index is no number"))?;
    let hash: ContentHash =
        answer.header("A8-Hash").parse().map_err(|_| answer.garbled("A8-Hash is no hash"))?;
    Ok(Position { epoch: answer.header("A8-Epoch").to_owned(), index, hash })
}

/// How long a poll that waits `wait` may take before it counts as lost.
pub fn poll_timeout(wait: Duration) -> Duration {
    wait + wait / 16 + POLL_MARGIN
}

/// What a poll of the registry brought.
#[derive(Debug, Clone, PartialEq)]
pub enum Polled {
    /// The caller's content is current; adopt this position.
    Unchanged(Position),
    /// News.
    News(Position, Update),
}

/// Speaks the native API of a registry.
#[derive(Debug)]
pub struct RegistryClient {
    caller: Caller,
}

impl RegistryClient {
    /// See [`Caller::new`].
    pub fn new<S: AsRef<str>>(urls: &[S], token: Option<&str>) -> Result<Self, BadUrl> {
        Ok(Self { caller: Caller::new(urls, token)? })
    }

    /// See [`Caller::trusting`].
    pub fn trusting<S: AsRef<str>>(urls: &[S], token: Option<&str>, trust: Trust) -> Result<Self, BadUrl> {
        Ok(Self { caller: Caller::trusting(urls, token, trust)? })
    }

    /// Registers or replaces an instance.
    pub async fn register(&self, registration: &Registration) -> Result<Registered, CallError> {
        let body = serde_json::to_vec(registration).expect("a registration is plain data and always encodes");
        let answer = self.caller.call(Method::POST, "/api/v1/instances", Some(body), CALL_TIMEOUT).await?;
        answer.expect(&[StatusCode::CREATED])?.json()
    }

    /// Renews a lease; `false` when the registry does not know the instance (any more).
    pub async fn heartbeat(&self, id: &InstanceId) -> Result<bool, CallError> {
        let path = format!("/api/v1/instances/{}/heartbeat", encode(id.as_str()));
        let answer = self.caller.call(Method::PUT, &path, None, CALL_TIMEOUT).await?;
        let answer = answer.expect(&[StatusCode::OK, StatusCode::GONE])?;
        Ok(answer.status == StatusCode::OK)
    }

    /// Deregisters; `false` when the registry did not know the instance.
    pub async fn deregister(&self, id: &InstanceId) -> Result<bool, CallError> {
        let path = format!("/api/v1/instances/{}", encode(id.as_str()));
        let answer = self.caller.call(Method::DELETE, &path, None, CALL_TIMEOUT).await?;
        let answer = answer.expect(&[StatusCode::OK, StatusCode::GONE])?;
        Ok(answer.status == StatusCode::OK)
    }

    /// Every instance of every status.
    pub async fn instances(&self) -> Result<Vec<Instance>, CallError> {
        #[derive(serde::Deserialize)]
        struct List {
            instances: Vec<Instance>,
        }
        let path = "/api/v1/instances?status=ALL";
        let answer = self.caller.call(Method::GET, path, None, CALL_TIMEOUT).await?;
        Ok(answer.expect(&[StatusCode::OK])?.json::<List>()?.instances)
    }

    /// The names of all services with at least one instance.
    pub async fn services(&self) -> Result<Vec<String>, CallError> {
        #[derive(serde::Deserialize)]
        struct List {
            services: Vec<String>,
        }
        let answer = self.caller.call(Method::GET, "/api/v1/services", None, CALL_TIMEOUT).await?;
        Ok(answer.expect(&[StatusCode::OK])?.json::<List>()?.services)
    }

    /// One poll of `GET /api/v1/watch` (design.md 5).
    pub async fn watch(&self, held: &Position, wait: Duration) -> Result<Polled, CallError> {
        let path = format!("/api/v1/watch?{}", watch_query(held, wait));
        let answer = self.caller.call(Method::GET, &path, None, poll_timeout(wait)).await?;
        let answer = answer.expect(&[StatusCode::OK, StatusCode::NOT_MODIFIED])?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(Polled::Unchanged(position_of(&answer)?));
        }
        let body: WatchAnswer = answer.json()?;
        let (position, update) = body.into_update().map_err(|reason| answer.garbled(reason))?;
        Ok(Polled::News(position, update))
    }
}

/// Waits between failures: from 0.1 s doubling to 30 s, with full jitter (design.md 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(30);

    /// Counts one failure and says how long to wait; `chance` is a number in 0..1.
    pub fn after_failure(&mut self, chance: f64) -> Duration {
        let ceiling = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::MAX);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_to_thirty_seconds_and_starts_over_after_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.after_failure(1.0).as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[11], 30_000);
        backoff.reset();
        assert_eq!(backoff.after_failure(0.5).as_millis(), 50);
    }

    #[test]
    fn only_absolute_http_and_https_urls_are_taken() {
        for bad in ["", "123", "ftp://h:1", "http://", "/x", "http://h/?q", "https://", "https://h?q"] {
            assert_eq!(needs_trust(&[bad]), Err(BadUrl::Url(bad.to_owned())), "{bad}");
            assert!(Caller::new(&[bad], None).is_err(), "{bad}");
        }
        for (url, kept, secure) in [
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080", false),
            ("http://h/a/b/", "http://h/a/b", false),
            ("https://[::1]:8443", "https://[::1]:8443", true),
            ("HTTPS://h/", "https://h", true),
        ] {
            let caller = Caller::trusting(&[url], Some("t"), Trust::nobody()).unwrap();
            assert_eq!((caller.bases[0].as_str(), needs_trust(&[url])), (kept, Ok(secure)), "{url}");
        }
        assert!(Caller::new::<&str>(&[], None).is_err());
        assert_eq!(Caller::new(&["http://h"], Some("a\nb")).err(), Some(BadUrl::Token));
    }

    #[test]
    fn encoding_leaves_only_unreserved_bytes() {
        assert_eq!(encode("a b/ü~"), "a%20b%2F%C3%BC~");
    }
}
