//! The settings of listeners for plain TCP: `name:tag,tag=port`, read and checked against each other and the other
//! listeners. Nothing is opened here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use control_api::{Identity, TagTest};
use registry_api::ServiceName;
use registry_api::setting::BadSetting;

/// The setting.
pub(crate) const SETTING: &str = "tcp_proxies";
/// What stands between two of them in one text: tags may hold any other usual sign.
pub(super) const SEPARATOR: char = ';';
/// The most listeners of one proxy. A message between processes carries the ports of 253 at once.
pub const TCP_PROXIES_MAX: usize = 128;

/// One listener and whose instances its connections go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpProxy {
    /// The service.
    pub service: ServiceName,
    /// What its instances have to carry: sorted, each once, and readable as a [`TagTest`].
    pub tags: Vec<String>,
    /// Where clients connect to; port 0 is any free one.
    pub listen: SocketAddr,
}

impl fmt::Display for TcpProxy {
    /// `name:tag,tag`, or the name alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.tags.is_empty() { "" } else { ":" };
        write!(f, "{}{separator}{}", self.service, self.tags.join(","))
    }
}

/// Reads all of them. They listen at the host of the HTTP listener, and nobody at the port of another.
pub(super) fn read(
    texts: &[String],
    http: SocketAddr,
    admin: SocketAddr,
) -> Result<Vec<TcpProxy>, BadSetting> {
    let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    let proxies = texts.map(|text| one(text, http.ip()).map_err(|why| bad(&format!("`{text}`: {why}"))));
    let proxies = proxies.collect::<Result<Vec<_>, _>>()?;
    if proxies.len() > TCP_PROXIES_MAX {
        return Err(bad(&format!("{} are more than {TCP_PROXIES_MAX}", proxies.len())));
    }
    for (at, proxy) in proxies.iter().enumerate() {
        let earlier = proxies[..at].iter().map(|earlier| ("another of them", earlier.listen));
        let others = [("`http_listener_port`", http), ("`admin_port`", admin)];
        if let Some((whose, _)) =
            others.into_iter().chain(earlier).find(|(_, other)| collide(*other, proxy.listen))
        {
            return Err(bad(&format!("port {} of `{proxy}` is that of {whose}", proxy.listen.port())));
        }
    }
    Ok(proxies)
}

fn one(text: &str, host: IpAddr) -> Result<TcpProxy, String> {
    let (whose, port) = text.rsplit_once('=').ok_or("there is no `=port`")?;
    let port = port.parse().map_err(|_| format!("`{port}` is no port of 0 to 65535"))?;
    let Identity { service, mut tags } = Identity::parse(whose);
    let service = service.ok_or("it names no service")?;
    for tag in &tags {
        TagTest::new(tag).map_err(|error| format!("`{tag}` is no range: {error}"))?;
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(TcpProxy { service, tags, listen: SocketAddr::new(host, port) })
}

/// Whether only one of them can listen. A free port is nobody's yet.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && overlap
}

fn bad(problem: &str) -> BadSetting {
    BadSetting::new(SETTING, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_at(texts: &[&str], http: &str, admin: &str) -> Result<Vec<String>, String> {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let read = read(&texts, http.parse().unwrap(), admin.parse().unwrap());
        let shown = |proxy: TcpProxy| format!("{proxy} at {}", proxy.listen);
        read.map(|read| read.into_iter().map(shown).collect()).map_err(|bad| {
            assert_eq!(bad.setting, SETTING);
            bad.problem
        })
    }

    fn read_all(texts: &[&str]) -> Result<Vec<String>, String> {
        read_at(texts, "0.0.0.0:6379", "127.0.0.1:6380")
    }

    #[test]
    fn a_listener_is_a_service_its_tags_and_a_port() {
        for (text, read) in [
            ("mysql=3306", "mysql at 0.0.0.0:3306"),
            ("reviews:v1=80", "reviews:v1 at 0.0.0.0:80"),
            ("reviews:version=v1=80", "reviews:version=v1 at 0.0.0.0:80"),
            ("reviews:zone=b,version=v1,zone=b=80", "reviews:version=v1,zone=b at 0.0.0.0:80"),
            ("reviews:version=>=1.2 <2=65535", "reviews:version=>=1.2 <2 at 0.0.0.0:65535"),
            ("reviews:=0", "reviews at 0.0.0.0:0"),
            (" reviews=0 ", "reviews at 0.0.0.0:0"),
        ] {
            assert_eq!(read_all(&[text]).unwrap(), [read], "{text}");
        }
        assert_eq!(read_all(&[]).unwrap().len(), 0);
        assert_eq!(read_all(&["", " "]).unwrap().len(), 0);
        // P08 of spec 6.
        let two = read_at(&["service1=80", "service2=90"], "[::1]:6379", "127.0.0.1:6380");
        assert_eq!(two.unwrap(), ["service1 at [::1]:80", "service2 at [::1]:90"]);
    }

    #[test]
    fn what_cannot_be_a_listener_is_named() {
        for (text, problem) in [
            ("mysql", "`mysql`: there is no `=port`"),
            ("reviews:version=v1", "`reviews:version=v1`: `v1` is no port of 0 to 65535"),
            ("mysql=", "`mysql=`: `` is no port of 0 to 65535"),
            ("mysql=65536", "`mysql=65536`: `65536` is no port of 0 to 65535"),
            ("mysql=-1", "`mysql=-1`: `-1` is no port of 0 to 65535"),
            ("=80", "`=80`: it names no service"),
            (":v1=80", "`:v1=80`: it names no service"),
        ] {
            assert_eq!(read_all(&[text]).unwrap_err(), problem, "{text}");
        }
        assert!(read_all(&["a:version=^1.x.y=80"]).unwrap_err().contains("`version=^1.x.y` is no range"));
        let many: Vec<_> = (1..=TCP_PROXIES_MAX + 1).map(|port| format!("a={port}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(read_all(&many[1..]).unwrap().len(), TCP_PROXIES_MAX);
        assert_eq!(read_all(&many).unwrap_err(), "129 are more than 128");
    }

    #[test]
    fn no_port_has_two_listeners() {
        for (texts, http, admin, whose) in [
            (&["a=1", "b=1"][..], "0.0.0.0:2", "0.0.0.0:3", Some("port 1 of `b` is that of another of them")),
            (&["a=2"], "0.0.0.0:2", "0.0.0.0:3", Some("port 2 of `a` is that of `http_listener_port`")),
            (&["a:x=3"], "0.0.0.0:2", "127.0.0.1:3", Some("port 3 of `a:x` is that of `admin_port`")),
            (&["a=3"], "127.0.0.2:2", "127.0.0.1:3", None),
            (&["a=0", "b=0"], "0.0.0.0:0", "0.0.0.0:0", None),
            (&["a=1", "a=4"], "0.0.0.0:2", "0.0.0.0:3", None),
        ] {
            assert_eq!(read_at(texts, http, admin).err().as_deref(), whose, "{texts:?}");
        }
    }
}
