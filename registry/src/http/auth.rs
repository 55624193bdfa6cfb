//! Whose namespace a request is about: the token, and the chain of modes that turns it into a namespace
//! (spec/registry.md 4.1 to 4.3). It hands out no routes; handlers ask for a [`Caller`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Uri};
use registry_api::Namespace;
use registry_api::issuer::{Issuer, NotBelieved};
pub use registry_api::token::NAMESPACE_BYTES_MAX;

use super::error::Refusal;
use super::listen::OverTls;
use super::state::App;

/// One way of reading a token.
#[derive(Debug, Clone)]
pub enum Mode {
    /// No token, or the token `default`, is the default namespace.
    None,
    /// The token itself is the namespace.
    Trusted,
    /// A signed token names the namespace.
    Jwt(Arc<Issuer>),
}

/// The modes in the order in which they are tried; without any, [`Mode::None`] holds.
#[derive(Debug, Clone)]
pub struct Modes(Vec<Mode>);

impl Default for Modes {
    fn default() -> Self {
        Self(vec![Mode::None])
    }
}

/// Why a token leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAuthorized {
    /// The header is not `Bearer <token>`.
    #[error("the authorization header is not `Bearer <token>`")]
    Malformed,
    /// There is no token where one is needed.
    #[error("a token is needed")]
    Missing,
    /// No mode knows the token.
    #[error("the token is not valid")]
    Unrecognised,
    /// The keys to check the token with could not be had.
    #[error("the token cannot be checked: its issuer is out of reach")]
    Unreachable,
}

enum Outcome {
    Namespace(Namespace),
    NotMyKind,
    Unauthorized(NotAuthorized),
}

impl Modes {
    /// The modes to try; none at all means [`Mode::None`].
    pub fn new(modes: Vec<Mode>) -> Self {
        if modes.is_empty() { Self::default() } else { Self(modes) }
    }

    /// Those who sign tokens, for keeping their keys fresh.
    pub fn issuers(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.0.iter().filter_map(|mode| match mode {
            Mode::Jwt(issuer) => Some(issuer),
            Mode::None | Mode::Trusted => None,
        })
    }

    /// The namespace of a token. Only "not my kind of token" moves on to the next mode.
    /// `now` counts from the Unix epoch.
    pub async fn authenticate(&self, token: &str, now: Duration) -> Result<Namespace, NotAuthorized> {
        for mode in &self.0 {
            match mode.read(token, now).await {
                Outcome::Namespace(namespace) => return Ok(namespace),
                Outcome::Unauthorized(reason) => return Err(reason),
                Outcome::NotMyKind => {}
            }
        }
        Err(NotAuthorized::Unrecognised)
    }
}

impl Mode {
    async fn read(&self, token: &str, now: Duration) -> Outcome {
        match self {
            Self::None if token.is_empty() || token == "default" => Outcome::Namespace(Namespace::default()),
            Self::None => Outcome::NotMyKind,
            Self::Trusted if token.len() > NAMESPACE_BYTES_MAX => {
                Outcome::Unauthorized(NotAuthorized::Unrecognised)
            }
            Self::Trusted => match Namespace::new(token) {
                Ok(namespace) => Outcome::Namespace(namespace),
                Err(_) => Outcome::Unauthorized(NotAuthorized::Missing),
            },
            Self::Jwt(_) if token.is_empty() => Outcome::Unauthorized(NotAuthorized::Missing),
            // Boxed, since every request would have to hold the room for a fetch of keys, as long as it waits.
            Self::Jwt(issuer) => match Box::pin(issuer.namespace(token, now)).await {
                Ok(namespace) => Outcome::Namespace(namespace),
                Err(NotBelieved::Foreign) => Outcome::NotMyKind,
                Err(NotBelieved::Invalid) => Outcome::Unauthorized(NotAuthorized::Unrecognised),
                Err(NotBelieved::Unreachable) => Outcome::Unauthorized(NotAuthorized::Unreachable),
            },
        }
    }
}

/// The token of a request; empty when it carries none.
pub fn token(headers: &HeaderMap) -> Result<&str, NotAuthorized> {
    let Some(value) = headers.get(AUTHORIZATION).filter(|value| !value.is_empty()) else { return Ok("") };
    // The raw bytes: a token may be any UTF-8.
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| NotAuthorized::Malformed)?;
    match text.split_once(' ') {
        Some(("Bearer" | "bearer", token)) => Ok(token),
        _ => Err(NotAuthorized::Malformed),
    }
}

/// Who asks. A handler that takes it runs only for requests that are secure enough and authorized.
#[derive(Debug)]
pub struct Caller {
    /// The namespace everything is about.
    pub namespace: Namespace,
    /// The beginning of links to this server, `http://host:port`.
    pub base: String,
}

/// Where the log finds the namespace of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Tag(pub(super) Arc<OnceLock<Namespace>>);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let secure = parts.extensions.get::<OverTls>().is_some() || is_secure(&parts.headers);
        let host = host(&parts.headers, &parts.uri);
        if app.require_https && !secure {
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            return Err(Refusal::Insecure { location: format!("https://{host}{target}") });
        }
        let token = token(&parts.headers)?;
        let namespace = app.modes.authenticate(token, app.clock.time_of_day()).await?;
        if let Some(Tag(tag)) = parts.extensions.get::<Tag>() {
            // Set once per request; a second extraction would say the same.
            let _ = tag.set(namespace.clone());
        }
        let scheme = if secure { "https" } else { "http" };
        Ok(Self { namespace, base: format!("{scheme}://{host}") })
    }
}

/// Whether the request came over HTTPS to a proxy in front of us.
fn is_secure(headers: &HeaderMap) -> bool {
    const WSSC: HeaderName = HeaderName::from_static("$wssc");
    const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-proto");
    [FORWARDED, WSSC].iter().any(|name| headers.get(name).is_some_and(|value| value == "https"))
}

/// The authority the client used. HTTP/2 clients name it in the target, HTTP/1.0 ones perhaps nowhere.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> &'a str {
    let header = headers.get(HOST).and_then(|value| value.to_str().ok()).filter(|host| !host.is_empty());
    header.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const NOW: Duration = Duration::from_secs(1_000);

    fn jwt() -> Mode {
        Mode::Jwt(Arc::new(Issuer::new("secret", None).unwrap()))
    }

    /// Section 9.4 A8 to A13; sections 4.2 and 4.3.
    #[tokio::test]
    async fn modes_turn_tokens_into_namespaces() {
        use Mode::{None, Trusted};
        let sign = |secret: &str, lifetime| {
            let namespace = Namespace::new("blue").unwrap();
            registry_api::token::sign(secret.as_bytes(), &namespace, NOW, Duration::from_secs(lifetime))
        };
        let (good, over, forged) = (sign("secret", 60), sign("secret", 0), sign("guess", 60));
        let tagged = format!("jwt.{good}");
        let long = "x".repeat(NAMESPACE_BYTES_MAX + 1);
        for (modes, token, namespace) in [
            (vec![], "", Ok("default")),
            (vec![], "default", Ok("default")),
            (vec![], "invalid-token", Err(NotAuthorized::Unrecognised)),
            (vec![Trusted], "valid-token", Ok("valid-token")),
            (vec![Trusted], "Default", Ok("Default")),
            (vec![Trusted], "jwt.x", Ok("jwt.x")),
            (vec![Trusted], "", Err(NotAuthorized::Missing)),
            (vec![Trusted], &long, Err(NotAuthorized::Unrecognised)),
            // A foreign token moves on; an empty one stops at the first that needs one.
            (vec![None, Trusted], "foreign", Ok("foreign")),
            (vec![None, Trusted], "", Ok("default")),
            (vec![Trusted, None], "", Err(NotAuthorized::Missing)),
            (vec![jwt()], &good, Ok("blue")),
            (vec![jwt()], &tagged, Ok("blue")),
            (vec![jwt()], "", Err(NotAuthorized::Missing)),
            (vec![jwt()], "text", Err(NotAuthorized::Unrecognised)),
            (vec![jwt()], &over, Err(NotAuthorized::Unrecognised)),
            (vec![jwt()], &forged, Err(NotAuthorized::Unrecognised)),
            // What looks like a signed token is never taken for anything else, unless somebody asked first.
            (vec![jwt(), Trusted], &good, Ok("blue")),
            (vec![jwt(), Trusted], "text", Ok("text")),
            (vec![jwt(), Trusted], "", Err(NotAuthorized::Missing)),
            (vec![jwt(), Trusted], &over, Err(NotAuthorized::Unrecognised)),
            (vec![jwt(), Trusted], &forged, Err(NotAuthorized::Unrecognised)),
            (vec![Trusted, jwt()], &good, Ok(good.as_str())),
            (vec![None, jwt()], &good, Ok("blue")),
            (vec![None, jwt()], "", Ok("default")),
            (vec![jwt(), None], "default", Ok("default")),
        ] {
            let outcome = Modes::new(modes.clone()).authenticate(token, NOW).await;
            assert_eq!(outcome, namespace.map(|text| Namespace::new(text).unwrap()), "{modes:?} {token}");
        }
    }

    /// Section 9.4 A3; section 4.1.
    #[test]
    fn the_header_is_split_at_its_first_blank() {
        for (header, expected) in [
            (None, Ok("")),
            (Some(""), Ok("")),
            (Some("Bearer t"), Ok("t")),
            (Some("bearer t"), Ok("t")),
            (Some("Bearer t u"), Ok("t u")),
            (Some("Bearer  t"), Ok(" t")),
            (Some("Bearer ä"), Ok("ä")),
            (Some("Bearer"), Err(NotAuthorized::Malformed)),
            (Some("BEARER t"), Err(NotAuthorized::Malformed)),
            (Some("Basic dTpw"), Err(NotAuthorized::Malformed)),
            (Some("t"), Err(NotAuthorized::Malformed)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(AUTHORIZATION, HeaderValue::from_bytes(header.as_bytes()).unwrap());
            }
            assert_eq!(token(&headers), expected, "{header:?}");
        }
    }
}
