//! Signed tokens that name a namespace (spec/registry.md 4.2): which keys there are, what a token says, and how one
//! is made. Pure: where keys come from and what time it is, the caller knows.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use ring::{error::Unspecified, hmac};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::names::Namespace;

/// The longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// The longest namespace that a token may name.
pub const NAMESPACE_BYTES_MAX: usize = 1_024;
/// How many keys of a published set are used; each may be tried for one token.
pub const KEYS_MAX: usize = 100;

/// The claim that names the namespace.
const CLAIM: &str = "namespace";

/// Why a token names no namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It is no signed token at all; somebody else may know what it is.
    #[error("the token is not a signed one")]
    Foreign,
    /// It is a signed token, and must not be believed.
    #[error("the token is not valid")]
    Invalid,
    /// It may be valid, but the key it was signed with is not among those given.
    #[error("the key of the token is unknown")]
    UnknownKey,
}

/// A document that holds no key to check tokens with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKeySet {
    /// It is not what RFC 7517 calls a key set.
    #[error("it is no set of keys: {0}")]
    NotASet(String),
    /// It is, but none of its keys is for a signature that is understood here.
    #[error("it holds no key for RS256, ES256 or EdDSA")]
    NoUsableKey,
}

/// Keys to check tokens with. Each key checks one algorithm, so a token cannot choose another one for it.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: Option<String>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Secret(hmac::Key),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Shows nothing of the key itself: a secret must not get into a log.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {:?}", self.material.algorithm(), self.id)
    }
}

/// A key as it is published.
#[derive(Deserialize)]
struct Published {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct PublishedSet {
    keys: Vec<Value>,
}

impl KeySet {
    /// The one key of tokens signed with HS256.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(vec![Key { id: None, material: Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret)) }])
    }

    /// Reads a published key set. Keys that are not understood are passed over, as RFC 7517 asks, and so are shared
    /// secrets: what is published is none.
    pub fn published(json: &[u8]) -> Result<Self, BadKeySet> {
        let set: PublishedSet =
            serde_json::from_slice(json).map_err(|error| BadKeySet::NotASet(error.to_string()))?;
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<_> = keys.filter_map(Key::understood).take(KEYS_MAX).collect();
        if keys.is_empty() { Err(BadKeySet::NoUsableKey) } else { Ok(Self(keys)) }
    }

    /// The keys of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }
}

impl Key {
    fn understood(key: Published) -> Option<Self> {
        if key.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
        let material = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => Material::Rsa {
                modulus: without_leading_zeros(bytes(key.n)?),
                exponent: without_leading_zeros(bytes(key.e)?),
            },
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(key.x)?, bytes(key.y)?);
                // The uncompressed point of SEC 1.
                let whole = x.len() == 32 && y.len() == 32;
                Material::P256(whole.then(|| [&[4][..], &x, &y].concat())?)
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(key.x).filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let fits = key.alg.is_none_or(|named| named == material.algorithm());
        fits.then_some(Self { id: key.kid, material })
    }

    fn may_have_signed(&self, algorithm: &str, id: Option<&str>) -> bool {
        let same_id = match (&self.id, id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.material.algorithm() == algorithm && same_id
    }
}

fn without_leading_zeros(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}

impl Material {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Secret(_) => "HS256",
            Self::Rsa { .. } => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// In constant time where there is a secret.
    fn verify(&self, message: &[u8], signed: &[u8]) -> Result<(), Unspecified> {
        match self {
            Self::Secret(key) => hmac::verify(key, message, signed),
            Self::Rsa { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }.verify(
                &signature::RSA_PKCS1_2048_8192_SHA256,
                message,
                signed,
            ),
            Self::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signed)
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signed),
        }
    }
}

/// The namespace that a token names at `now`, counted from the Unix epoch. `exp` and `nbf` hold to the second,
/// without leeway; `aud` and `iss` are not looked at.
pub fn read(token: &str, keys: &KeySet, now: Duration) -> Result<Namespace, Unread> {
    let parts = Parts::of(token).ok_or(Unread::Foreign)?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Unread::Invalid);
    }
    let header = object(parts.header).ok_or(Unread::Foreign)?;
    let claims = object(parts.claims).ok_or(Unread::Foreign)?;
    signed(&parts, &header, keys)?;
    let in_time = is_in_time(&claims, now.as_secs_f64()).ok_or(Unread::Invalid)?;
    let namespace =
        claims.get(CLAIM).and_then(Value::as_str).filter(|name| name.len() <= NAMESPACE_BYTES_MAX);
    match namespace.map(Namespace::new) {
        Some(Ok(namespace)) if in_time => Ok(namespace),
        _ => Err(Unread::Invalid),
    }
}

/// A token for a namespace, signed with HS256, that is believed for `lifetime` from `now` on.
pub fn sign(secret: &[u8], namespace: &Namespace, now: Duration, lifetime: Duration) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = json!({ CLAIM: namespace.as_str(), "exp": now.saturating_add(lifetime).as_secs() });
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

struct Parts<'a> {
    /// The first two parts as they stand in the token, which is what was signed.
    message: &'a str,
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    /// Three parts, or four of which the first is `jwt` (spec/registry.md 4.2).
    fn of(token: &'a str) -> Option<Self> {
        let token = match token.strip_prefix("jwt.") {
            Some(rest) if rest.split('.').nth(2).is_some() => rest,
            _ => token,
        };
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        (!claims.contains('.')).then_some(Self { message, header, claims, signature })
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn signed(parts: &Parts<'_>, header: &Map<String, Value>, keys: &KeySet) -> Result<(), Unread> {
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Unread::Invalid),
    };
    let algorithm = text("alg")?.ok_or(Unread::Invalid)?;
    let id = text("kid")?;
    // Whatever is critical is not understood here (RFC 7515, 4.1.11).
    if header.contains_key("crit") {
        return Err(Unread::Invalid);
    }
    let signed = URL_SAFE_NO_PAD.decode(parts.signature).map_err(|_| Unread::Invalid)?;
    let mut tried = keys.0.iter().filter(|key| key.may_have_signed(algorithm, id)).peekable();
    let none_fits = tried.peek().is_none();
    if tried.any(|key| key.material.verify(parts.message.as_bytes(), &signed).is_ok()) {
        return Ok(());
    }
    // A published key may have been replaced; a token without an id does not say by which.
    let may_be_new = ["RS256", "ES256", "EdDSA"].contains(&algorithm) && (none_fits || id.is_none());
    Err(if may_be_new { Unread::UnknownKey } else { Unread::Invalid })
}

/// Whether `now` lies within the times that the claims name; `None` when one of them is no number.
fn is_in_time(claims: &Map<String, Value>, now: f64) -> Option<bool> {
    let moment = |name: &str, absent: f64| claims.get(name).map_or(Some(absent), Value::as_f64);
    Some(moment("nbf", f64::NEG_INFINITY)? <= now && now < moment("exp", f64::INFINITY)?)
}

#[cfg(test)]
mod tests;
