//! The token of a Eureka request (spec/registry.md 3.1 and 4.1): clients put it into the path or, as a password,
//! into the server's address. It is brought into the form that the native API knows and judged there.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::route::decode_token;
use crate::http::App;
use crate::http::auth::{Caller, NotAuthorized};
use crate::http::error::Refusal;

/// Who asks, given the token of the path if the mount has one. A header of its own wins.
pub(super) async fn identify(
    parts: &mut Parts,
    token: Option<&str>,
    app: &Arc<App>,
) -> Result<Caller, Refusal> {
    let header = parts.headers.get(AUTHORIZATION).filter(|value| !value.is_empty());
    let token = match (header, token) {
        (None, Some(token)) => Some(decode_token(token).ok_or(NotAuthorized::Malformed)?),
        (Some(header), None) => password(header),
        _ => None,
    };
    match token {
        Some(token) if token.is_empty() => {
            parts.headers.remove(AUTHORIZATION);
        }
        Some(token) => {
            let bearer = HeaderValue::from_bytes(format!("Bearer {token}").as_bytes());
            let mut bearer = bearer.map_err(|_| NotAuthorized::Malformed)?;
            bearer.set_sensitive(true);
            parts.headers.insert(AUTHORIZATION, bearer);
        }
        None => {}
    }
    Caller::from_request_parts(parts, app).await
}

/// The password of basic authentication; `None` when it is another scheme or damaged, which is judged later.
fn password(header: &HeaderValue) -> Option<String> {
    let (scheme, code) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let text = String::from_utf8(base64(code.trim())?).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// Decodes base64, with or without its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_3_1_the_password_of_basic_authentication_is_the_token() {
        for (header, expected) in [
            ("Basic dTpw", Some("p")),
            ("basic dTpwdw==", Some("pw")),
            ("Basic dTpw dw==", None),
            ("Basic dTphOmI=", Some("a:b")),
            ("Basic dTo=", Some("")),
            ("Basic dQ==", None),
            ("Basic !", None),
            ("Basic /w==", None),
            ("Bearer dTpw", None),
            ("Basic", None),
        ] {
            assert_eq!(password(&HeaderValue::from_static(header)).as_deref(), expected, "{header}");
        }
    }
}
