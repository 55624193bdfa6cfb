//! Who signs the tokens of a registry or a control: a shared secret, a published key set in a file or behind a URL, or
//! both. It keeps the published keys fresh and the old ones when new ones cannot be had; what a token says is read in
//! [`crate::token`].

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::connect::{BadTrust, Trust};
use crate::names::Namespace;
use crate::token::{self, KeySet, Unread};

/// The longest key set that is read.
pub const KEY_SET_BYTES_MAX: usize = 256 << 10;
/// How long fetching the key set may take.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a published key set is fetched although nobody asks for it.
pub const REFRESH_PERIOD: Duration = Duration::from_secs(300);
/// The shortest time from one fetch to the next, however many tokens name keys that are not known.
pub const REFETCH_PERIOD: Duration = Duration::from_secs(10);

/// Where published keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Url(Uri),
}

/// Why a token names no namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotBelieved {
    /// It is no signed token.
    #[error("the token is not a signed one")]
    Foreign,
    /// It must not be believed.
    #[error("the token is not valid")]
    Invalid,
    /// The keys to check it with could not be had yet.
    #[error("the keys of the issuer cannot be reached")]
    Unreachable,
}

/// Checks tokens of one issuer.
#[derive(Debug)]
pub struct Issuer {
    secret: KeySet,
    source: Option<Source>,
    // The secret's key and the published ones; `None` while the latter were never had.
    keys: RwLock<Option<Arc<KeySet>>>,
    // Held while fetching: whoever waits for it gets what the one before has fetched.
    fetched_at: tokio::sync::Mutex<Option<Instant>>,
    refetch_period: Duration,
}

/// What is wrong with the settings of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIssuer {
    /// Neither a secret nor a key set is named.
    #[error("signed tokens need a secret or a key set to check them with")]
    NoKeys,
    /// The key set's place is no URL that can be asked.
    #[error("`{0}` is neither a file nor an http or https URL with a host")]
    BadSource(String),
}

impl Issuer {
    /// Tokens are signed with `secret`, when it is not empty, or with a key of the set at `key_set`: a file, or an
    /// `http` or `https` URL.
    pub fn new(secret: &str, key_set: Option<&str>) -> Result<Self, BadIssuer> {
        let source = key_set.filter(|place| !place.is_empty()).map(Source::parse).transpose()?;
        if secret.is_empty() && source.is_none() {
            return Err(BadIssuer::NoKeys);
        }
        let secret = if secret.is_empty() { KeySet::default() } else { KeySet::of_secret(secret.as_bytes()) };
        let keys = source.is_none().then(|| Arc::new(secret.clone()));
        Ok(Self {
            secret,
            source,
            keys: RwLock::new(keys),
            fetched_at: tokio::sync::Mutex::default(),
            refetch_period: REFETCH_PERIOD,
        })
    }

    /// The same with another pause between two fetches than [`REFETCH_PERIOD`].
    #[must_use]
    pub fn refetching_after(mut self, pause: Duration) -> Self {
        self.refetch_period = pause;
        self
    }

    /// The namespace a token names at `now`, counted from the Unix epoch. A token of an unknown key has the keys
    /// fetched again first, if that was not just done.
    pub async fn namespace(&self, token: &str, now: Duration) -> Result<Namespace, NotBelieved> {
        let unread = match token::read(token, &self.current(), now) {
            Ok(namespace) => return Ok(namespace),
            Err(unread) => unread,
        };
        match unread {
            Unread::Foreign => Err(NotBelieved::Foreign),
            Unread::UnknownKey if self.source.is_some() => {
                self.refetch().await;
                match token::read(token, &self.current(), now) {
                    Ok(namespace) => Ok(namespace),
                    Err(_) if self.held().is_none() => Err(NotBelieved::Unreachable),
                    Err(_) => Err(NotBelieved::Invalid),
                }
            }
            Unread::Invalid | Unread::UnknownKey => Err(NotBelieved::Invalid),
        }
    }

    /// Fetches the keys now and then, for ever; returns at once when none are published.
    pub async fn keep_fresh(&self) {
        while self.source.is_some() {
            self.refetch().await;
            tokio::time::sleep(REFRESH_PERIOD).await;
        }
    }

    /// Fetches the keys unless that was just done, and keeps the old ones if it fails.
    pub async fn refetch(&self) {
        let Some(source) = &self.source else { return };
        let mut fetched_at = self.fetched_at.lock().await;
        if fetched_at.is_some_and(|last| last.elapsed() < self.refetch_period) {
            return;
        }
        // Before, so that a fetch whose request went away counts as well.
        *fetched_at = Some(Instant::now());
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, source.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err("it took too long".to_owned()));
        let keys = fetched.and_then(|bytes| KeySet::published(&bytes).map_err(|error| error.to_string()));
        match keys {
            Ok(keys) => {
                let keys = Arc::new(self.secret.and(&keys));
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
            }
            Err(problem) => {
                let stale = self.held().is_some();
                tracing::warn!(module = "AUTH", %problem, stale, "the key set cannot be had");
            }
        }
    }

    fn held(&self) -> Option<Arc<KeySet>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn current(&self) -> Arc<KeySet> {
        self.held().unwrap_or_else(|| Arc::new(self.secret.clone()))
    }
}

impl Source {
    fn parse(place: &str) -> Result<Self, BadIssuer> {
        let bad = || BadIssuer::BadSource(place.to_owned());
        if !place.contains("://") {
            return Ok(Self::File(place.into()));
        }
        let url: Uri = place.parse().map_err(|_| bad())?;
        let known = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
        // Credentials in a URL get into logs.
        let plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if known && plain { Ok(Self::Url(url)) } else { Err(bad()) }
    }

    async fn fetch(&self) -> Result<Bytes, String> {
        match self {
            Self::File(path) => {
                let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
                let mut bytes = Vec::new();
                let mut limited = file.take(KEY_SET_BYTES_MAX as u64 + 1);
                limited.read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
                if bytes.len() > KEY_SET_BYTES_MAX {
                    Err("it is too long".to_owned())
                } else {
                    Ok(bytes.into())
                }
            }
            Self::Url(url) => get(url, Trust::system).await,
        }
    }
}

/// The body of a 200; nothing is followed.
async fn get(url: &Uri, trust: impl FnOnce() -> Result<Trust, BadTrust>) -> Result<Bytes, String> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    if !secure {
        return exchange(stream, url).await;
    }
    let stream = trust().map_err(|error| error.to_string())?.greet(host, stream).await;
    exchange(stream.map_err(|error| error.to_string())?, url).await
}

async fn exchange<S>(stream: S, url: &Uri) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let request = Request::get(url.path_and_query().map_or("/", |target| target.as_str()))
        .header(HOST, url.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(text)?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), KEY_SET_BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
    };
    // The connection has to be driven, and ends with the answer.
    tokio::pin!(asking);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        ended = connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests;
