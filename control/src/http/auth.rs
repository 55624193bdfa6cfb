//! Who calls: the chain of authenticators, and the namespace a request acts on
//! (spec/control-and-proxy.md 1.3). It grants namespaces, not rights within one.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;
use registry_api::Namespace;
use registry_api::issuer::{Issuer, NotBelieved};
use registry_api::setting::BadSetting;

use super::App;
use super::error::Refusal;
use crate::config::{AuthMode, Keys};

/// A caller of this namespace names the one it acts on.
const ADMIN: &str = "admin";
const NAMESPACE_HEADER: &str = "a8-namespace";
/// The longest name of a namespace: it is a key of many maps.
const NAMESPACE_MAX_BYTES: usize = 1024;

/// What one authenticator says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The token stands for this namespace.
    Accepted(Namespace),
    /// Final: not with this token.
    Refused,
    /// Final: a token is needed.
    Missing,
    /// Final: whoever issued the token is out of reach.
    Unreachable,
    /// Another authenticator may know the token's shape.
    Unrecognised,
}

/// One way to read a token.
#[derive(Debug)]
pub(crate) enum Authenticator {
    /// Nobody needs a token; the namespace is `default`.
    Default,
    /// The token is the namespace; somebody in front has checked it.
    Trusted,
    /// The token is signed and names the namespace.
    Jwt(Arc<Issuer>),
    /// Always says the same, for the laws of the chain.
    #[cfg(test)]
    Says(Verdict),
}

impl Authenticator {
    async fn authenticate(&self, token: Option<&str>, now: Duration) -> Verdict {
        let token = token.unwrap_or_default();
        match self {
            Self::Default if token.is_empty() || token == "default" => {
                Verdict::Accepted(Namespace::default())
            }
            Self::Default => Verdict::Unrecognised,
            Self::Trusted if token.len() > NAMESPACE_MAX_BYTES => Verdict::Refused,
            Self::Trusted => Namespace::new(token).map_or(Verdict::Missing, Verdict::Accepted),
            Self::Jwt(_) if token.is_empty() => Verdict::Missing,
            // Boxed, since every request would have to hold the room for a fetch of keys, as long as it waits.
            Self::Jwt(issuer) => match Box::pin(issuer.namespace(token, now)).await {
                Ok(namespace) => Verdict::Accepted(namespace),
                Err(NotBelieved::Foreign) => Verdict::Unrecognised,
                Err(NotBelieved::Invalid) => Verdict::Refused,
                Err(NotBelieved::Unreachable) => Verdict::Unreachable,
            },
            #[cfg(test)]
            Self::Says(verdict) => verdict.clone(),
        }
    }
}

/// A chain needs at least one authenticator.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no authenticator was given")]
pub(crate) struct EmptyChain;

/// Authenticators in the order tried.
#[derive(Debug)]
pub(crate) struct Chain(Vec<Authenticator>);

impl Chain {
    pub(crate) fn new(authenticators: Vec<Authenticator>) -> Result<Self, EmptyChain> {
        if authenticators.is_empty() { Err(EmptyChain) } else { Ok(Self(authenticators)) }
    }

    /// What the settings ask for.
    pub(crate) fn of(modes: &[AuthMode], keys: &Keys) -> Result<Self, BadSetting> {
        let authenticator = |mode: &AuthMode| {
            Ok(match mode {
                AuthMode::None => Authenticator::Default,
                AuthMode::Trusted => Authenticator::Trusted,
                AuthMode::Jwt => Authenticator::Jwt(Arc::new(keys.issuer()?)),
            })
        };
        let authenticators = modes.iter().map(authenticator).collect::<Result<_, BadSetting>>()?;
        Self::new(authenticators).map_err(|error| BadSetting::new("auth_mode", error.to_string()))
    }

    /// Those who sign tokens, for keeping their keys fresh.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = Arc<Issuer>> {
        self.0.iter().filter_map(|authenticator| match authenticator {
            Authenticator::Jwt(issuer) => Some(Arc::clone(issuer)),
            _ => None,
        })
    }

    /// The namespace of a token: the first authenticator that recognises it decides.
    async fn authenticate(&self, token: Option<&str>, now: Duration) -> Result<Namespace, Refusal> {
        for authenticator in &self.0 {
            match authenticator.authenticate(token, now).await {
                Verdict::Accepted(namespace) => return Ok(namespace),
                Verdict::Refused => return Err(Refusal::NotAuthorized),
                Verdict::Missing => return Err(Refusal::AuthMissing),
                Verdict::Unreachable => return Err(Refusal::AuthUnreachable),
                Verdict::Unrecognised => {}
            }
        }
        Err(Refusal::NotAuthorized)
    }

    /// The namespace a request acts on.
    async fn namespace(&self, headers: &HeaderMap, now: Duration) -> Result<Namespace, Refusal> {
        let namespace = self.authenticate(token(headers)?, now).await?;
        if namespace.as_str() != ADMIN {
            return Ok(namespace);
        }
        let other = headers.get(NAMESPACE_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if other.len() > NAMESPACE_MAX_BYTES {
            return Err(Refusal::NotAuthorized);
        }
        Namespace::new(other).map_err(|_| Refusal::NamespaceMissing)
    }
}

fn token(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(AUTHORIZATION).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Refusal::AuthMalformed)?;
    match text.split_once(' ') {
        Some(("Bearer" | "bearer", token)) => Ok(Some(token)),
        _ => Err(Refusal::AuthMalformed),
    }
}

/// The namespace of an authenticated request.
pub(super) struct Tenant(pub(super) Namespace);

impl FromRequestParts<Arc<App>> for Tenant {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        app.auth.namespace(&parts.headers, app.clock.since_epoch()).await.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use registry_api::token;

    const NOW: Duration = Duration::from_secs(1_000);

    fn keys() -> Keys {
        Keys { secret: "secret".into(), published: String::new() }
    }

    fn signed(secret: &str, namespace: &str, lifetime_secs: u64) -> String {
        let namespace = Namespace::new(namespace).unwrap();
        token::sign(secret.as_bytes(), &namespace, NOW, Duration::from_secs(lifetime_secs))
    }

    fn accepts(namespace: &str) -> Verdict {
        Verdict::Accepted(Namespace::new(namespace).unwrap())
    }

    fn chain(verdicts: &[Verdict]) -> Result<Chain, EmptyChain> {
        Chain::new(verdicts.iter().cloned().map(Authenticator::Says).collect())
    }

    #[test]
    fn t01_a_chain_of_nothing_cannot_be_made() {
        assert_eq!(chain(&[]).err(), Some(EmptyChain));
    }

    #[tokio::test]
    async fn t02_and_t03_the_first_that_recognises_the_token_decides() {
        use Verdict::{Refused, Unrecognised};
        for (verdicts, expected) in [
            (vec![accepts("one")], Ok("one")),
            (vec![Refused], Err(Refusal::NotAuthorized)),
            (vec![Unrecognised], Err(Refusal::NotAuthorized)),
            (vec![accepts("one"), accepts("two")], Ok("one")),
            (vec![Refused, accepts("two")], Err(Refusal::NotAuthorized)),
            (vec![Unrecognised, accepts("two")], Ok("two")),
            (vec![Verdict::Missing, accepts("two")], Err(Refusal::AuthMissing)),
            (vec![Verdict::Unreachable, accepts("two")], Err(Refusal::AuthUnreachable)),
        ] {
            let namespace = chain(&verdicts).unwrap().authenticate(Some("t"), NOW).await;
            assert_eq!(namespace, expected.map(|name| Namespace::new(name).unwrap()), "{verdicts:?}");
        }
    }

    #[tokio::test]
    async fn t04_and_t05_each_mode_reads_its_tokens() {
        use AuthMode::{Jwt, None as Open, Trusted};
        let (good, over, forged) =
            (signed("secret", "blue", 9), signed("secret", "blue", 0), signed("x", "blue", 9));
        let refused = || Err(Refusal::NotAuthorized);
        for (modes, token, expected) in [
            (&[Open][..], None, Ok("default")),
            (&[Open], Some(""), Ok("default")),
            (&[Open], Some("default"), Ok("default")),
            (&[Open], Some("invalid-token"), refused()),
            (&[Trusted], Some("valid-token"), Ok("valid-token")),
            (&[Trusted], Some(""), Err(Refusal::AuthMissing)),
            (&[Trusted], None, Err(Refusal::AuthMissing)),
            (&[Open, Trusted], Some("valid-token"), Ok("valid-token")),
            (&[Open, Trusted], None, Ok("default")),
            (&[Trusted, Open], None, Err(Refusal::AuthMissing)),
            (&[Jwt], Some(&good), Ok("blue")),
            (&[Jwt], Some(&over), refused()),
            (&[Jwt], Some(&forged), refused()),
            (&[Jwt], Some("text"), refused()),
            (&[Jwt], None, Err(Refusal::AuthMissing)),
            (&[Jwt, Trusted], Some("text"), Ok("text")),
            (&[Jwt, Trusted], Some(&forged), refused()),
            (&[Open, Jwt], Some(&good), Ok("blue")),
        ] {
            let namespace = Chain::of(modes, &keys()).unwrap().authenticate(token, NOW).await;
            let expected = expected.map(|name| Namespace::new(name).unwrap());
            assert_eq!(namespace, expected, "{modes:?} {token:?}");
        }
        let endless = "x".repeat(NAMESPACE_MAX_BYTES + 1);
        let namespace = Chain::of(&[Trusted], &keys()).unwrap().authenticate(Some(&endless), NOW).await;
        assert_eq!(namespace, refused().map(|name: &str| Namespace::new(name).unwrap()));
    }

    #[test]
    fn the_header_is_read_exactly() {
        for (header, expected) in [
            (None, Ok(None)),
            (Some(""), Ok(None)),
            (Some("Bearer abc"), Ok(Some("abc"))),
            (Some("bearer abc"), Ok(Some("abc"))),
            (Some("Bearer a b"), Ok(Some("a b"))),
            (Some("Bearer  b"), Ok(Some(" b"))),
            (Some("BEARER abc"), Err(Refusal::AuthMalformed)),
            (Some("Basic abc"), Err(Refusal::AuthMalformed)),
            (Some("Bearer"), Err(Refusal::AuthMalformed)),
            (Some("abc"), Err(Refusal::AuthMalformed)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(AUTHORIZATION, HeaderValue::from_static(header));
            }
            assert_eq!(token(&headers), expected, "{header:?}");
        }
    }

    #[tokio::test]
    async fn an_admin_names_the_namespace_it_acts_on() {
        let chain = Chain::of(&[AuthMode::Trusted, AuthMode::Jwt], &keys()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer admin"));
        assert_eq!(chain.namespace(&headers, NOW).await, Err(Refusal::NamespaceMissing));
        headers.insert(NAMESPACE_HEADER, HeaderValue::from_static("blue"));
        assert_eq!(chain.namespace(&headers, NOW).await, Ok(Namespace::new("blue").unwrap()));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer green"));
        assert_eq!(chain.namespace(&headers, NOW).await, Ok(Namespace::new("green").unwrap()));
    }
}
