//! Host and port in the value of a native endpoint (spec/registry.md 3.6). Values are free text, so everything
//! reads as something: what is no address is a host without a port.

/// A host, and a port if the value names one.
pub fn split(value: &str) -> (&str, Option<u16>) {
    let authority = value.split_once("://").map_or(value, |(_, rest)| rest);
    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    let authority = &authority[..end];
    let authority = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    if authority.is_empty() {
        return (value, None);
    }
    if let Some((host, rest)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return match rest.strip_prefix(':').map(str::parse) {
            Some(Ok(port)) => (host, Some(port)),
            _ if rest.is_empty() || rest == ":" => (host, None),
            _ => (authority, None),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) if !host.is_empty() && !port.contains(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) if port.is_empty() => (host, None),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

/// A host and a port as one text.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_3_6_values_are_split_into_host_and_port() {
        for (value, expected) in [
            ("10.0.0.1:80", ("10.0.0.1", Some(80))),
            ("h", ("h", None)),
            ("h:", ("h", None)),
            ("[::1]:8080", ("::1", Some(8080))),
            ("[::1]", ("::1", None)),
            ("::1", ("::1", None)),
            ("http://h:9080/path?q#f", ("h", Some(9080))),
            ("https://u:p@h:443", ("h", Some(443))),
            ("http://h", ("h", None)),
            ("h:http", ("h:http", None)),
            ("h:99999", ("h:99999", None)),
            (":80", (":80", None)),
            ("http://", ("http://", None)),
            ("[::1", ("[::1", None)),
            ("[::1]x", ("[::1]x", None)),
            ("/var/run/socket", ("/var/run/socket", None)),
        ] {
            assert_eq!(split(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_joined_is_split_again() {
        for (host, port) in [("h", 1), ("10.0.0.1", 65_535), ("fe80::1", 80)] {
            let joined = join(host, port);
            assert_eq!(split(&joined), (host, Some(port)));
        }
    }
}
