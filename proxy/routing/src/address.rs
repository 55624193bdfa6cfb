//! Where an instance is dialled, read from the endpoint it registered (spec 3.6). Host names are not
//! resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use registry_api::{Endpoint, EndpointType};

/// A place that can be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The host name or address, without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The socket address, unless the host is a name: that is resolved by the proxy, and the `Host` field
    /// is rewritten to it.
    pub literal: Option<SocketAddr>,
}

/// The longest host name that DNS can carry.
const HOST_MAX_BYTES: usize = 253;

impl Address {
    /// Whether endpoints of this type take HTTP requests at all.
    pub fn is_routable(kind: EndpointType) -> bool {
        matches!(kind, EndpointType::Http | EndpointType::Https | EndpointType::Tcp)
    }

    /// Reads `host:port` or `http(s)://host:port/..`, whose path is ignored. The port defaults to 80, or to
    /// 443 with TLS; `tcp` endpoints have no default. `None` when it cannot be dialled: `udp`, `user`, or
    /// anything that is no address.
    pub fn of(endpoint: &Endpoint) -> Option<Self> {
        let (scheme, authority) = authority(&endpoint.value)?;
        let tls = match endpoint.kind {
            EndpointType::Https => true,
            EndpointType::Http => scheme == Scheme::Https,
            EndpointType::Tcp => false,
            EndpointType::Udp | EndpointType::User => return None,
        };
        let default = match (endpoint.kind, tls) {
            (EndpointType::Tcp, _) => None,
            (_, true) => Some(443),
            (_, false) => Some(80),
        };
        let (host, port) = host_and_port(authority)?;
        let port = port.or(default)?;
        let literal = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        (literal.is_some() || is_host_name(host)).then(|| Self { host: host.to_owned(), port, tls, literal })
    }

    /// The `Host` field of a request to it: the port is left out where it is the scheme's own.
    pub fn authority(&self) -> String {
        let brackets = self.literal.is_some_and(|literal| literal.is_ipv6());
        let host = if brackets { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Address {
    /// `host:port`, with `https://` before it when TLS is spoken.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https://" } else { "" };
        match self.literal {
            Some(literal) => write!(f, "{scheme}{literal}"),
            None => write!(f, "{scheme}{}:{}", self.host, self.port),
        }
    }
}

#[derive(PartialEq)]
enum Scheme {
    None,
    Http,
    Https,
}

/// Splits off the scheme and whatever follows the authority.
fn authority(value: &str) -> Option<(Scheme, &str)> {
    let Some((scheme, rest)) = value.split_once("://") else { return Some((Scheme::None, value)) };
    let scheme = match scheme {
        http if http.eq_ignore_ascii_case("http") => Scheme::Http,
        https if https.eq_ignore_ascii_case("https") => Scheme::Https,
        _ => return None,
    };
    Some((scheme, rest.split(['/', '?', '#']).next().unwrap_or_default()))
}

fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(port(rest.strip_prefix(':')?)?))),
        };
    }
    if authority.parse::<Ipv6Addr>().is_ok() {
        return Some((authority, None));
    }
    match authority.split_once(':') {
        Some((host, text)) => Some((host, Some(port(text)?))),
        None => Some((authority, None)),
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok().filter(|port| *port != 0) } else { None }
}

/// Letters, digits, `-`, `_` and dots between labels. A last label of digits alone is a mistyped address.
fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= HOST_MAX_BYTES && host.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use EndpointType::{Http, Https, Tcp, Udp, User};

    fn read(kind: EndpointType, value: &str) -> Option<String> {
        Address::of(&Endpoint { kind, value: value.to_owned() }).map(|address| {
            let name = if address.literal.is_none() { " by name" } else { "" };
            format!("{address}{name} host {}", address.authority())
        })
    }

    #[test]
    fn every_form_of_3_6_is_read() {
        for (kind, value, expected) in [
            (Http, "10.0.0.1:9080", "10.0.0.1:9080 host 10.0.0.1:9080"),
            (Http, "10.0.0.1", "10.0.0.1:80 host 10.0.0.1"),
            (Https, "10.0.0.1", "https://10.0.0.1:443 host 10.0.0.1"),
            (Https, "10.0.0.1:8443", "https://10.0.0.1:8443 host 10.0.0.1:8443"),
            (Http, "http://10.0.0.1:9080/a/b?c#d", "10.0.0.1:9080 host 10.0.0.1:9080"),
            (Http, "http://10.0.0.1?x", "10.0.0.1:80 host 10.0.0.1"),
            (
                Http,
                "HTTPS://shop.example.org/api",
                "https://shop.example.org:443 by name host shop.example.org",
            ),
            (Https, "http://h:80", "https://h:80 by name host h:80"),
            (Tcp, "10.0.0.1:5050", "10.0.0.1:5050 host 10.0.0.1:5050"),
            (Tcp, "https://10.0.0.1:5050", "10.0.0.1:5050 host 10.0.0.1:5050"),
            (Http, "[::1]:8080", "[::1]:8080 host [::1]:8080"),
            (Http, "[2001:db8::1]", "[2001:db8::1]:80 host [2001:db8::1]"),
            (Http, "2001:db8::1", "[2001:db8::1]:80 host [2001:db8::1]"),
            (Https, "https://[::1]/", "https://[::1]:443 host [::1]"),
            (Http, "my_host-1.local:81", "my_host-1.local:81 by name host my_host-1.local:81"),
            (Http, "localhost", "localhost:80 by name host localhost"),
            (Http, "host.", "host.:80 by name host host."),
        ] {
            assert_eq!(read(kind, value).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_no_address() {
        for (kind, value) in [
            (Udp, "10.0.0.1:53"),
            (User, "10.0.0.1:53"),
            (Tcp, "10.0.0.1"),
            (Tcp, "http://10.0.0.1"),
            (Http, ""),
            (Http, ":80"),
            (Http, "host:"),
            (Http, "host:0"),
            (Http, "host:65536"),
            (Http, "host:+80"),
            (Http, "host:80:90"),
            (Http, "256.1.1.1:80"),
            (Http, "1.2.3:80"),
            (Http, "ftp://host:21"),
            (Http, "http://user:pass@host:80/"),
            (Http, "host name:80"),
            (Http, "a..b:80"),
            (Http, "[::1"),
            (Http, "[::1]80"),
            (Http, "[host]:80"),
            (Http, "[fe80::1%eth0]:80"),
            (Http, "höst:80"),
            (Http, "host/path"),
        ] {
            assert_eq!(read(kind, value), None, "{value}");
        }
        assert_eq!(read(Http, &format!("{}:80", "a.".repeat(127) + "a")), None);
    }
}
