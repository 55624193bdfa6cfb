//! Which requests from outside a service takes by their host and the beginning of their path. Finding the service is
//! routing's.

use crate::rule::BadRule;
use crate::wire::RawEdge;

/// The longest name that DNS can carry.
const HOST_MAX_BYTES: usize = 253;

/// A place at the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The host; `None` for every one.
    pub host: Option<Host>,
    /// Whole segments at the beginning of the path; `/` for every one.
    pub path_prefix: String,
    /// Replaces these segments; `None` leaves the path alone.
    pub rewrite: Option<String>,
    is_default_prefix: bool,
}

/// A host, or all hosts below a domain. Compared without regard to case, and without the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    written: String,
}

impl Host {
    /// Whether an authority is this host, or below this domain.
    pub fn covers(&self, authority: &str) -> bool {
        let host = without_port(authority);
        match self.written.strip_prefix('*') {
            None => host.eq_ignore_ascii_case(&self.written),
            Some(domain) => host.len().checked_sub(domain.len()).is_some_and(|start| {
                start > 0 && host.as_bytes()[start..].eq_ignore_ascii_case(domain.as_bytes())
            }),
        }
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    fn read(text: String) -> Result<Self, BadRule> {
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if text.len() <= HOST_MAX_BYTES && name.split('.').all(is_label) {
            Ok(Self { written: text })
        } else {
            Err(BadRule::new("route.edge.host", format!("`{text}` is no host name without a port")))
        }
    }
}

/// The host of an authority; brackets stay around an IPv6 address.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

impl Edge {
    /// Whether a request is for it.
    pub fn covers(&self, authority: &str, path: &str) -> bool {
        let rest = path.strip_prefix(self.path_prefix.as_str());
        let whole = |rest: &str| rest.is_empty() || rest.starts_with('/') || self.path_prefix.ends_with('/');
        rest.is_some_and(whole) && self.host.as_ref().is_none_or(|host| host.covers(authority))
    }
}

impl TryFrom<RawEdge> for Edge {
    type Error = BadRule;
    fn try_from(raw: RawEdge) -> Result<Self, BadRule> {
        let given = |text: String| (!text.is_empty()).then_some(text);
        let (host, prefix) = (given(raw.host), given(raw.path_prefix));
        if host.is_none() && prefix.is_none() {
            return Err(BadRule::new("route.edge", "needs a host or a path_prefix"));
        }
        let is_default_prefix = prefix.is_none();
        let path_prefix = prefix.unwrap_or_else(|| "/".to_owned());
        if !path_prefix.starts_with('/') {
            return Err(BadRule::new("route.edge.path_prefix", "does not begin with a slash"));
        }
        let host = host.map(Host::read).transpose()?;
        Ok(Self { host, path_prefix, rewrite: given(raw.prefix_rewrite), is_default_prefix })
    }
}

impl From<&Edge> for RawEdge {
    fn from(edge: &Edge) -> Self {
        Self {
            host: edge.host.as_ref().map(|host| host.written.clone()).unwrap_or_default(),
            path_prefix: if edge.is_default_prefix { String::new() } else { edge.path_prefix.clone() },
            prefix_rewrite: edge.rewrite.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(host: &str, path_prefix: &str) -> Edge {
        let raw = RawEdge { host: host.into(), path_prefix: path_prefix.into(), ..RawEdge::default() };
        Edge::try_from(raw).unwrap()
    }

    #[test]
    fn a_host_is_compared_without_case_and_port_and_a_domain_has_those_below_it() {
        for (host, authority, covers) in [
            ("shop.example", "shop.example", true),
            ("shop.example", "SHOP.Example:8443", true),
            ("Shop.Example", "shop.example", true),
            ("shop.example", "www.shop.example", false),
            ("shop.example", "shop.example.evil", false),
            ("shop.example", "", false),
            ("*.example", "shop.example", true),
            ("*.example", "a.b.EXAMPLE:80", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "badexample", false),
        ] {
            assert_eq!(edge(host, "").covers(authority, "/x"), covers, "{host} {authority}");
        }
        assert_eq!(
            [without_port("[::1]:80"), without_port("[::1]"), without_port("h:")],
            ["[::1]", "[::1]", "h"]
        );
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        for (prefix, path, covers) in [
            ("/shop", "/shop", true),
            ("/shop", "/shop/cart", true),
            ("/shop", "/shopping", false),
            ("/shop/", "/shop/cart", true),
            ("/shop/", "/shop", false),
            ("/", "/anything", true),
            ("/", "*", false),
        ] {
            assert_eq!(edge("", prefix).covers("h", path), covers, "{prefix} {path}");
        }
    }
}
