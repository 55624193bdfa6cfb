//! Who calls: the chain of authenticators, and the namespace a request acts on
//! (spec/control-and-proxy.md 1.3). It grants namespaces, not rights within one.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;
use registry_api::Namespace;

use super::App;
use super::error::Refusal;
use crate::config::AuthMode;

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
    /// Another authenticator may know the token's shape.
    Unrecognised,
}

/// One way to read a token.
pub(crate) trait Authenticator: Send + Sync {
    fn authenticate(&self, token: Option<&str>) -> Verdict;
}

/// Nobody needs a token; the namespace is `default`.
struct Default;

impl Authenticator for Default {
    fn authenticate(&self, token: Option<&str>) -> Verdict {
        match token {
            None | Some("" | "default") => Verdict::Accepted(Namespace::default()),
            Some(_) => Verdict::Unrecognised,
        }
    }
}

/// The token is the namespace; somebody in front has checked it.
struct Trusted;

impl Authenticator for Trusted {
    fn authenticate(&self, token: Option<&str>) -> Verdict {
        let token = token.unwrap_or_default();
        if token.len() > NAMESPACE_MAX_BYTES {
            return Verdict::Refused;
        }
        Namespace::new(token).map_or(Verdict::Missing, Verdict::Accepted)
    }
}

/// A chain needs at least one authenticator.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no authenticator was given")]
pub(crate) struct EmptyChain;

/// Authenticators in the order tried.
pub(crate) struct Chain(Vec<Box<dyn Authenticator>>);

impl Chain {
    pub(crate) fn new(authenticators: Vec<Box<dyn Authenticator>>) -> Result<Self, EmptyChain> {
        if authenticators.is_empty() { Err(EmptyChain) } else { Ok(Self(authenticators)) }
    }

    pub(crate) fn of_modes(modes: &[AuthMode]) -> Result<Self, EmptyChain> {
        let authenticator = |mode: &AuthMode| -> Box<dyn Authenticator> {
            match mode {
                AuthMode::None => Box::new(Default),
                AuthMode::Trusted => Box::new(Trusted),
            }
        };
        Self::new(modes.iter().map(authenticator).collect())
    }

    /// The namespace of a token: the first authenticator that recognises it decides.
    fn authenticate(&self, token: Option<&str>) -> Result<Namespace, Refusal> {
        for authenticator in &self.0 {
            match authenticator.authenticate(token) {
                Verdict::Accepted(namespace) => return Ok(namespace),
                Verdict::Refused => return Err(Refusal::NotAuthorized),
                Verdict::Missing => return Err(Refusal::AuthMissing),
                Verdict::Unrecognised => {}
            }
        }
        Err(Refusal::NotAuthorized)
    }

    /// The namespace a request acts on.
    fn namespace(&self, headers: &HeaderMap) -> Result<Namespace, Refusal> {
        let namespace = self.authenticate(token(headers)?)?;
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
        app.auth.namespace(&parts.headers).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    struct Says(Verdict);

    impl Authenticator for Says {
        fn authenticate(&self, _: Option<&str>) -> Verdict {
            self.0.clone()
        }
    }

    fn accepts(namespace: &str) -> Verdict {
        Verdict::Accepted(Namespace::new(namespace).unwrap())
    }

    fn chain(verdicts: &[Verdict]) -> Result<Chain, EmptyChain> {
        let one = |verdict: &Verdict| -> Box<dyn Authenticator> { Box::new(Says(verdict.clone())) };
        Chain::new(verdicts.iter().map(one).collect())
    }

    #[test]
    fn t01_a_chain_of_nothing_cannot_be_made() {
        assert_eq!(chain(&[]).err(), Some(EmptyChain));
    }

    #[test]
    fn t02_and_t03_the_first_that_recognises_the_token_decides() {
        use Verdict::{Refused, Unrecognised};
        for (verdicts, expected) in [
            (vec![accepts("one")], Ok("one")),
            (vec![Refused], Err(Refusal::NotAuthorized)),
            (vec![Unrecognised], Err(Refusal::NotAuthorized)),
            (vec![accepts("one"), accepts("two")], Ok("one")),
            (vec![Refused, accepts("two")], Err(Refusal::NotAuthorized)),
            (vec![Unrecognised, accepts("two")], Ok("two")),
            (vec![Verdict::Missing, accepts("two")], Err(Refusal::AuthMissing)),
        ] {
            let namespace = chain(&verdicts).unwrap().authenticate(Some("t"));
            assert_eq!(namespace, expected.map(|name| Namespace::new(name).unwrap()), "{verdicts:?}");
        }
    }

    #[test]
    fn t04_and_t05_each_mode_reads_its_tokens() {
        use AuthMode::{None as Open, Trusted};
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
        ] {
            let namespace = Chain::of_modes(modes).unwrap().authenticate(token);
            let expected = expected.map(|name| Namespace::new(name).unwrap());
            assert_eq!(namespace, expected, "{modes:?} {token:?}");
        }
        let endless = "x".repeat(NAMESPACE_MAX_BYTES + 1);
        let namespace = Chain::of_modes(&[Trusted]).unwrap().authenticate(Some(&endless));
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

    #[test]
    fn an_admin_names_the_namespace_it_acts_on() {
        let chain = Chain::of_modes(&[AuthMode::Trusted]).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer admin"));
        assert_eq!(chain.namespace(&headers), Err(Refusal::NamespaceMissing));
        headers.insert(NAMESPACE_HEADER, HeaderValue::from_static("blue"));
        assert_eq!(chain.namespace(&headers), Ok(Namespace::new("blue").unwrap()));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer green"));
        assert_eq!(chain.namespace(&headers), Ok(Namespace::new("green").unwrap()));
    }
}
