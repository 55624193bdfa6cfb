//! Answers that a route gives by itself: a fixed response, or a redirect. Sending them is the engines'.

use http::Uri;

use crate::header::{Field, fields};
use crate::rule::BadRule;
use crate::wire::{RawRedirect, RawResponse};

/// The longest body of a response in a rule.
pub const BODY_MAX_BYTES: usize = 64 << 10;
/// The status of a redirect that names none.
const REDIRECT_DEFAULT: u16 = 302;

/// What a route answers instead of calling an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Response(Response),
    /// That it is to be found elsewhere.
    Redirect(Redirect),
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// The whole body; empty for the statuses that have none.
    pub body: String,
    /// Beside those that frame the body.
    pub headers: Vec<Field>,
    written: std::collections::BTreeMap<String, String>,
}

/// Where else it is to be found. What is absent stays as in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host, with its port if it has one.
    pub host: Option<String>,
    /// The path.
    pub path: Option<NewPath>,
    is_default: bool,
}

/// What becomes of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewPath {
    /// It is replaced. One with a query replaces that, too; otherwise the query of the request stays.
    Whole(String),
    /// The matched part is replaced: that of `uri`, or the segment that names the service.
    Prefix(String),
}

impl Answer {
    /// The status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Response(response) => response.status,
            Self::Redirect(redirect) => redirect.status,
        }
    }
}

impl TryFrom<RawResponse> for Response {
    type Error = BadRule;
    fn try_from(raw: RawResponse) -> Result<Self, BadRule> {
        let status = u16::try_from(raw.status).ok().filter(|status| (200..=599).contains(status));
        let Some(status) = status else {
            let problem = format!("{} is outside 200..=599", raw.status);
            return Err(BadRule::new("route.response.status", problem));
        };
        if matches!(status, 204 | 205 | 304) && !raw.body.is_empty() {
            return Err(BadRule::new("route.response.body", format!("a {status} has no body")));
        }
        if raw.body.len() > BODY_MAX_BYTES {
            let problem = format!("is longer than {BODY_MAX_BYTES} bytes");
            return Err(BadRule::new("route.response.body", problem));
        }
        let headers = fields("route.response.headers", &raw.headers)?;
        Ok(Self { status, body: raw.body, headers, written: raw.headers })
    }
}

impl From<&Response> for RawResponse {
    fn from(response: &Response) -> Self {
        Self {
            status: response.status.into(),
            body: response.body.clone(),
            headers: response.written.clone(),
        }
    }
}

impl TryFrom<RawRedirect> for Redirect {
    type Error = BadRule;
    fn try_from(raw: RawRedirect) -> Result<Self, BadRule> {
        let status = match raw.status {
            0 => REDIRECT_DEFAULT,
            301 => 301,
            302 => 302,
            303 => 303,
            307 => 307,
            308 => 308,
            other => {
                let problem = format!("{other} is none of 301, 302, 303, 307, 308");
                return Err(BadRule::new("route.redirect.status", problem));
            }
        };
        if !matches!(raw.scheme.as_str(), "" | "http" | "https") {
            let problem = format!("`{}` is neither http nor https", raw.scheme);
            return Err(BadRule::new("route.redirect.scheme", problem));
        }
        if !raw.host.is_empty() && !is_authority(&raw.host) {
            return Err(BadRule::new("route.redirect.host", format!("`{}` is no host", raw.host)));
        }
        let path = match (raw.path.is_empty(), raw.prefix_rewrite.is_empty()) {
            (true, true) => None,
            (false, true) => Some(NewPath::Whole(place("route.redirect.path", raw.path)?)),
            (true, false) if raw.prefix_rewrite.contains('?') => {
                return Err(BadRule::new("route.redirect.prefix_rewrite", "holds a query"));
            }
            (true, false) => {
                Some(NewPath::Prefix(place("route.redirect.prefix_rewrite", raw.prefix_rewrite)?))
            }
            (false, false) => {
                return Err(BadRule::new("route.redirect", "takes either path or prefix_rewrite"));
            }
        };
        let given = |text: String| (!text.is_empty()).then_some(text);
        let (scheme, host) = (given(raw.scheme), given(raw.host));
        if scheme.is_none() && host.is_none() && path.is_none() {
            return Err(BadRule::new("route.redirect", "leads nowhere else"));
        }
        Ok(Self { status, scheme, host, path, is_default: raw.status == 0 })
    }
}

fn is_authority(text: &str) -> bool {
    !text.contains(['@', '/', '?', '#'])
        && format!("http://{text}/").parse::<Uri>().is_ok_and(|uri| {
            uri.authority()
                .is_some_and(|authority| authority.as_str() == text && !authority.host().is_empty())
        })
}

/// A path that can stand in a `Location` as it is, and cannot be taken for a host.
fn place(field: &'static str, text: String) -> Result<String, BadRule> {
    let is_plain =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'`');
    if !text.starts_with('/') || text.starts_with("//") {
        return Err(BadRule::new(field, "does not begin with one slash"));
    }
    if text.bytes().all(is_plain) { Ok(text) } else { Err(BadRule::new(field, "holds what must be encoded")) }
}

impl From<&Redirect> for RawRedirect {
    fn from(redirect: &Redirect) -> Self {
        let (path, prefix_rewrite) = match &redirect.path {
            None => Default::default(),
            Some(NewPath::Whole(path)) => (path.clone(), String::new()),
            Some(NewPath::Prefix(prefix)) => (String::new(), prefix.clone()),
        };
        Self {
            status: if redirect.is_default { 0 } else { redirect.status.into() },
            scheme: redirect.scheme.clone().unwrap_or_default(),
            host: redirect.host.clone().unwrap_or_default(),
            path,
            prefix_rewrite,
        }
    }
}
