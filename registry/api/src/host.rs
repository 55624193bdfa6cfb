//! Whether a request says for which host it is, as HTTP wants it of every request (RFC 9112 3.2). hyper does not ask.

use http::header::HOST;
use http::uri::Authority;
use http::{Request, Version};

/// Whether the field `Host` is there at most once and well-formed, and in HTTP/1.1 at all.
pub fn is_named<T>(request: &Request<T>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() != Version::HTTP_11,
        (Some(host), None) => is_host(host.as_bytes()),
        // Whoever stands between may have gone by the other one.
        (Some(_), Some(_)) => false,
    }
}

/// A name or an address, and perhaps a port; empty for a target that has none.
fn is_host(host: &[u8]) -> bool {
    host.is_empty() || Authority::try_from(host).is_ok_and(|_| !host.contains(&b'@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_once_and_well_formed_and_only_older_and_newer_versions_may_leave_it_out() {
        for (version, hosts, expected) in [
            (Version::HTTP_11, &[][..], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_2, &[], true),
            (Version::HTTP_11, &["a"], true),
            (Version::HTTP_11, &["a.example:8080"], true),
            (Version::HTTP_11, &["[::1]:80"], true),
            (Version::HTTP_11, &["a_b"], true),
            (Version::HTTP_11, &[""], true),
            (Version::HTTP_11, &["a", "a"], false),
            (Version::HTTP_11, &["a", "b"], false),
            (Version::HTTP_10, &["a", "b"], false),
            (Version::HTTP_2, &["a", "b"], false),
            (Version::HTTP_11, &["a/b"], false),
            (Version::HTTP_11, &["a b"], false),
            (Version::HTTP_11, &["u@a"], false),
            (Version::HTTP_10, &["a/b"], false),
        ] {
            let mut request = Request::builder().version(version);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            assert_eq!(is_named(&request.body(()).unwrap()), expected, "{version:?} {hosts:?}");
        }
    }
}
