//! What ties a client to a choice, read from one request and hashed. The hash is the same on every proxy; what is
//! chosen by it is decided elsewhere.

use std::net::IpAddr;

use control_api::Key;
use http::header::COOKIE;

use crate::head::RequestHead;
use crate::seed::stable_hash;

/// `None` when the request does not carry it, or carries it empty.
pub(crate) fn hashed(
    key: &Key,
    head: &RequestHead<'_>,
    client: impl FnOnce() -> Option<IpAddr>,
) -> Option<u64> {
    match key {
        Key::Header(name, _) => {
            let value = head.headers.joined(name)?;
            (!value.is_empty()).then(|| stable_hash(&value))
        }
        Key::Cookie(name) => {
            let cookies = head.headers.joined(&COOKIE)?;
            cookie(&cookies, name.as_bytes()).filter(|value| !value.is_empty()).map(stable_hash)
        }
        // An address and the same one mapped into IPv6 are one client.
        Key::Source => client().map(|address| match address.to_canonical() {
            IpAddr::V4(address) => stable_hash(&address.octets()),
            IpAddr::V6(address) => stable_hash(&address.octets()),
        }),
    }
}

/// The value of the first cookie of this name.
fn cookie<'c>(cookies: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name)?;
        value.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cookie_of_the_name_counts() {
        for (cookies, value) in [
            ("a=1; session=x; b=2", Some("x")),
            ("session=x;session=y", Some("x")),
            ("session=a=b", Some("a=b")),
            ("session=", Some("")),
            ("mysession=x", None),
            ("session", None),
            ("", None),
        ] {
            assert_eq!(cookie(cookies.as_bytes(), b"session"), value.map(str::as_bytes), "{cookies}");
        }
    }
}
