//! Where a path of the Eureka API leads (spec/registry.md 3.1 and 3.2): its mount with the token in it, and the
//! place below. Pure; methods are named here, what they do is elsewhere.

use http::Method;

use super::compat::Compat;

/// The mount with a token behind it.
const TOKEN_MOUNT: &str = "/api/eureka/";

/// A place below a mount. Names are decoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Place {
    Apps,
    Delta,
    App(String),
    Instance { app: String, id: String },
    InstanceStatus { app: String, id: String },
    InstanceMetadata { app: String, id: String },
    AnyInstance(String),
    Vip(String),
    SecureVip(String),
    Batch,
    ScalingGroup,
}

/// How a path is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It leads nowhere.
    Unknown,
    /// A name in it is empty.
    NameMissing,
    /// It is not UTF-8 after decoding.
    NotText,
}

/// A path cut at its mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mounted<'a> {
    /// The token in the path, still encoded; `None` on mounts without one.
    pub token: Option<&'a str>,
    /// What is below the mount, still encoded.
    pub rest: &'a str,
}

impl<'a> Mounted<'a> {
    /// Cuts a path, or says that it is of another protocol. A mount alone is cut too and leads nowhere.
    pub fn cut(path: &'a str) -> Option<Self> {
        if let Some(rest) = below(path, "/eureka") {
            let rest = below_version(rest).unwrap_or(rest);
            return Some(Self { token: None, rest });
        }
        let rest = path.strip_prefix(TOKEN_MOUNT)?;
        let (first, second) = rest.split_once('/').unwrap_or((rest, ""));
        // `v2/v2` is the version below a token that reads like one.
        match below_version_of(second) {
            Some(rest) => Some(Self { token: Some(first), rest }),
            None if first == "v2" => Some(Self { token: None, rest: second }),
            None => None,
        }
    }

    /// Where it leads.
    pub fn place(self, compat: Compat) -> Result<Place, Lost> {
        let rest = self.rest.strip_prefix('/').unwrap_or(self.rest);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let segments: Vec<_> = rest.split('/').map(|segment| decode(segment).ok_or(Lost::NotText)).collect();
        let segments = segments.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut names = segments.iter().map(String::as_str);
        let kind = names.next().unwrap_or_default();
        let names: Vec<&str> = names.collect();
        let owned = |name: &str| name.to_owned();
        let place = match (kind, names.as_slice()) {
            ("apps", []) => Place::Apps,
            ("apps", ["delta"]) if compat == Compat::Netflix => Place::Delta,
            ("apps", [app]) => Place::App(owned(app)),
            ("apps", [app, id]) => Place::Instance { app: owned(app), id: owned(id) },
            ("apps", [app, id, "status"]) => Place::InstanceStatus { app: owned(app), id: owned(id) },
            ("apps", [app, id, "metadata"]) => Place::InstanceMetadata { app: owned(app), id: owned(id) },
            ("instances", [id]) => Place::AnyInstance(owned(id)),
            ("vips", [vip]) => Place::Vip(owned(vip)),
            ("svips", [vip]) => Place::SecureVip(owned(vip)),
            ("peerreplication", ["batch"]) => Place::Batch,
            ("asg", [_, "status"]) => Place::ScalingGroup,
            _ => return Err(Lost::Unknown),
        };
        if names.contains(&"") { Err(Lost::NameMissing) } else { Ok(place) }
    }
}

/// The path with its token hidden, for logs; `None` when there is nothing to hide. What only looks like a mount is
/// hidden too: a misspelt path may hold a good token.
pub fn masked(path: &str) -> Option<String> {
    let rest = path.strip_prefix(TOKEN_MOUNT)?;
    let (first, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_version = first == "v2" && below(tail, "/v2").is_none();
    (!first.is_empty() && !is_version).then(|| format!("{TOKEN_MOUNT}***{tail}"))
}

fn below<'a>(path: &'a str, mount: &str) -> Option<&'a str> {
    path.strip_prefix(mount).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn below_version(rest: &str) -> Option<&str> {
    below(rest, "/v2")
}

fn below_version_of(rest: &str) -> Option<&str> {
    below(rest, "v2")
}

/// Decodes percent signs once; one that begins no code stands for itself. `None` when the result is no text.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// Decodes the token of a mount.
pub fn decode_token(token: &str) -> Option<String> {
    decode(token)
}

const OPERATIONS: &[(&str, Method, &str)] = &[
    ("apps", Method::GET, "ListServices"),
    ("delta", Method::GET, "ListChanges"),
    ("app", Method::POST, "Register"),
    ("app", Method::GET, "ListServiceInstances"),
    ("instance", Method::GET, "GetInstance"),
    ("instance", Method::PUT, "Renew"),
    ("instance", Method::DELETE, "Deregister"),
    ("status", Method::PUT, "SetStatus"),
    ("status", Method::DELETE, "SetStatus"),
    ("metadata", Method::PUT, "SetMetadata"),
    ("any", Method::GET, "GetInstance"),
    ("vip", Method::GET, "ListInstances"),
    ("batch", Method::POST, "Replicate"),
    ("asg", Method::PUT, "SetScalingGroup"),
];

impl Place {
    fn kind(&self) -> &'static str {
        match self {
            Self::Apps => "apps",
            Self::Delta => "delta",
            Self::App(_) => "app",
            Self::Instance { .. } => "instance",
            Self::InstanceStatus { .. } => "status",
            Self::InstanceMetadata { .. } => "metadata",
            Self::AnyInstance(_) => "any",
            Self::Vip(_) | Self::SecureVip(_) => "vip",
            Self::Batch => "batch",
            Self::ScalingGroup => "asg",
        }
    }

    /// The operation's name in metrics and logs, if the method is one of this place.
    pub fn operation(&self, method: &Method) -> Option<&'static str> {
        let mut found = OPERATIONS.iter().filter(|(kind, verb, _)| *kind == self.kind() && verb == method);
        found.next().map(|(_, _, name)| *name)
    }

    /// The value of `Allow`.
    pub fn allowed(&self) -> &'static str {
        match self {
            Self::App(_) => "GET, POST",
            Self::Instance { .. } => "DELETE, GET, PUT",
            Self::InstanceStatus { .. } => "DELETE, PUT",
            Self::InstanceMetadata { .. } | Self::ScalingGroup => "PUT",
            Self::Batch => "POST",
            Self::Apps | Self::Delta | Self::AnyInstance(_) | Self::Vip(_) | Self::SecureVip(_) => "GET",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Result<Place, Lost> {
        Mounted::cut(path).ok_or(Lost::Unknown)?.place(Compat::Netflix)
    }

    #[test]
    fn section_3_1_every_mount_leads_to_the_same_places() {
        for (mount, token) in [
            ("/api/eureka/t%20k/v2", Some("t%20k")),
            ("/api/eureka//v2", Some("")),
            ("/api/eureka/v2/v2", Some("v2")),
            ("/api/eureka/v2", None),
            ("/eureka/v2", None),
            ("/eureka", None),
        ] {
            for (rest, expected) in [
                ("/apps", Ok(Place::Apps)),
                ("/apps/", Ok(Place::Apps)),
                ("/apps/delta", Ok(Place::Delta)),
                ("/apps/A%2fB/", Ok(Place::App("A/B".to_owned()))),
                ("/vips/v2", Ok(Place::Vip("v2".to_owned()))),
                ("/peerreplication/batch/", Ok(Place::Batch)),
                ("", Err(Lost::Unknown)),
                ("/", Err(Lost::Unknown)),
                ("/nothing", Err(Lost::Unknown)),
                ("/apps/a/b/c", Err(Lost::Unknown)),
            ] {
                let path = format!("{mount}{rest}");
                assert_eq!(place(&path), expected, "{path}");
                assert_eq!(Mounted::cut(&path).unwrap().token, token, "{path}");
            }
        }
        for path in ["/", "/api/v1/instances", "/eurekas/apps", "/api/eureka", "/api/eureka/t/v1/apps"] {
            assert_eq!(Mounted::cut(path), None, "{path}");
        }
    }

    #[test]
    fn names_are_decoded_exactly_once() {
        let instance = |id: &str| Ok(Place::Instance { app: "A".to_owned(), id: id.to_owned() });
        for (path, expected) in [
            ("/eureka/apps/A/h%3A10.0.0.1%3aA%3A80", instance("h:10.0.0.1:A:80")),
            ("/eureka/apps/A/a%2541", instance("a%41")),
            ("/eureka/apps/A/a%zz%", instance("a%zz%")),
            ("/eureka/apps/A/a+b", instance("a+b")),
            ("/eureka/apps/A/%ff", Err(Lost::NotText)),
            ("/eureka/apps//b", Err(Lost::NameMissing)),
            ("/eureka/apps//b/status", Err(Lost::NameMissing)),
        ] {
            assert_eq!(place(path), expected, "{path}");
        }
    }

    #[test]
    fn section_0_2_c7_delta_is_an_application_for_amalgam8() {
        let cut = Mounted::cut("/eureka/apps/delta").unwrap();
        assert_eq!(cut.place(Compat::Amalgam8), Ok(Place::App("delta".to_owned())));
    }

    #[test]
    fn a_token_is_never_in_the_masked_path() {
        for (path, masked) in [
            ("/api/eureka/secret/v2/apps/secret", Some("/api/eureka/***/v2/apps/secret")),
            ("/api/eureka/api/v2/apps", Some("/api/eureka/***/v2/apps")),
            ("/api/eureka/secret/v1/apps", Some("/api/eureka/***/v1/apps")),
            ("/api/eureka/secret", Some("/api/eureka/***")),
            ("/api/eureka/v2/v2/apps", Some("/api/eureka/***/v2/apps")),
            ("/api/eureka/v2/apps", None),
            ("/api/eureka//v2/apps", None),
            ("/eureka/apps", None),
        ] {
            assert_eq!(super::masked(path).as_deref(), masked, "{path}");
        }
    }

    #[test]
    fn what_is_described_leads_somewhere_and_every_place_is_described() {
        let described = crate::http::openapi::described();
        let mut found: Vec<_> = Vec::new();
        for (method, path) in described.iter().filter(|(_, path)| path.starts_with("/eureka/")) {
            let place = place(path).unwrap_or_else(|lost| panic!("{path}: {lost:?}"));
            let method: Method = method.parse().unwrap();
            assert!(place.operation(&method).is_some(), "{method} {path}");
            found.push((place.kind(), method));
        }
        for (kind, method, _) in OPERATIONS {
            assert!(found.contains(&(kind, method.clone())), "{method} {kind} is not described");
        }
    }

    #[test]
    fn every_operation_is_among_the_allowed_methods_of_its_place() {
        for path in ["apps", "apps/delta", "apps/a", "apps/a/i", "apps/a/i/status", "apps/a/i/metadata"] {
            let place = place(&format!("/eureka/{path}")).unwrap();
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD] {
                let named = place.operation(&method).is_some();
                let mut allowed = place.allowed().split(", ");
                assert_eq!(named, allowed.any(|verb| verb == method.as_str()), "{path} {method}");
            }
        }
    }
}
