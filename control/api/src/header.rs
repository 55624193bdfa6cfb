//! Header fields that a route adds, sets and removes, ready to be written. It refuses what would break the framing
//! of a message; applying edits is the engines'.

use std::collections::BTreeMap;

use http::header::{self, HeaderName, HeaderValue};

use crate::rule::BadRule;
use crate::wire::{RawEdits, RawHeaderEdits};

/// The most names in one list of edits.
pub const EDITS_MAX: usize = 32;
/// The longest value.
pub const VALUE_MAX_BYTES: usize = 4096;

/// Fields that frame a message, name its place or concern one connection: the engines' own.
const RESERVED: [HeaderName; 10] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Reserved as well, and without a constant.
const RESERVED_TOO: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];

/// A field as it is written.
pub type Field = (HeaderName, HeaderValue);

/// What a route does to the header of one direction: `remove`, then `set`, then `add`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edits {
    /// Taken out, all of their values.
    pub remove: Vec<HeaderName>,
    /// Put in the place of all values that are there.
    pub set: Vec<Field>,
    /// Put beside what is there.
    pub add: Vec<Field>,
    written: RawEdits,
}

/// What a route does to the headers that pass it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    /// Those of the request, on the way to the instance.
    pub request: Option<Edits>,
    /// Those of the answer, on the way to the client.
    pub response: Option<Edits>,
}

impl TryFrom<RawHeaderEdits> for HeaderEdits {
    type Error = BadRule;
    fn try_from(raw: RawHeaderEdits) -> Result<Self, BadRule> {
        let request = raw.request.map(|raw| edits("route.headers.request", raw)).transpose()?;
        let response = raw.response.map(|raw| edits("route.headers.response", raw)).transpose()?;
        if request.is_none() && response.is_none() {
            return Err(BadRule::new("route.headers", "is empty"));
        }
        Ok(Self { request, response })
    }
}

impl From<&HeaderEdits> for RawHeaderEdits {
    fn from(edits: &HeaderEdits) -> Self {
        let raw = |edits: &Option<Edits>| edits.as_ref().map(|edits| edits.written.clone());
        Self { request: raw(&edits.request), response: raw(&edits.response) }
    }
}

fn edits(field: &'static str, raw: RawEdits) -> Result<Edits, BadRule> {
    if raw == RawEdits::default() {
        return Err(BadRule::new(field, "is empty"));
    }
    let remove = raw.remove.iter().map(|written| name(field, written)).collect::<Result<Vec<_>, _>>()?;
    distinct(field, remove.iter())?;
    if remove.len() > EDITS_MAX {
        return Err(BadRule::new(field, format!("holds more than {EDITS_MAX} names")));
    }
    Ok(Edits { remove, set: fields(field, &raw.set)?, add: fields(field, &raw.add)?, written: raw })
}

/// Fields in the order of their written names.
pub(crate) fn fields(field: &'static str, written: &BTreeMap<String, String>) -> Result<Vec<Field>, BadRule> {
    if written.len() > EDITS_MAX {
        return Err(BadRule::new(field, format!("holds more than {EDITS_MAX} names")));
    }
    let read = |(written, text): (&String, &String)| Ok((name(field, written)?, value(field, text)?));
    let fields = written.iter().map(read).collect::<Result<Vec<_>, BadRule>>()?;
    distinct(field, fields.iter().map(|(name, _)| name))?;
    Ok(fields)
}

fn name(field: &'static str, written: &str) -> Result<HeaderName, BadRule> {
    let name = HeaderName::from_bytes(written.as_bytes())
        .map_err(|_| BadRule::new(field, format!("`{written}` is no header name")))?;
    if RESERVED.contains(&name) || RESERVED_TOO.contains(&name.as_str()) {
        return Err(BadRule::new(field, format!("`{written}` is the proxy's own")));
    }
    Ok(name)
}

fn value(field: &'static str, text: &str) -> Result<HeaderValue, BadRule> {
    if text.len() > VALUE_MAX_BYTES {
        return Err(BadRule::new(field, format!("a value is longer than {VALUE_MAX_BYTES} bytes")));
    }
    if text.trim() != text {
        return Err(BadRule::new(field, "a value begins or ends with a blank"));
    }
    HeaderValue::from_str(text).map_err(|_| BadRule::new(field, "a value holds what no header can"))
}

/// Names that differ in case alone are one field.
fn distinct<'a>(field: &'static str, names: impl Iterator<Item = &'a HeaderName>) -> Result<(), BadRule> {
    let mut names: Vec<&str> = names.map(HeaderName::as_str).collect();
    names.sort_unstable();
    match names.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(BadRule::new(field, "holds a duplicate")),
        false => Ok(()),
    }
}
