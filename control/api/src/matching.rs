//! What a rule may ask of a request: who calls (fixed per proxy), headers (spec/control-and-proxy.md 2.2),
//! method, path, query and authority (docs/rules.md). It checks patterns; evaluating them is routing's.

use std::fmt::Display;

use registry_api::ServiceName;

use crate::rule::{BadRule, distinct, fitting};
use crate::tag::check_tags;
use crate::wire::{OneOrMany, RawClause, RawMatch, RawPathTest, RawSource};

/// Who calls: the identity of the proxy itself, never taken from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The proxy's service.
    pub name: ServiceName,
    /// Tags the proxy must carry, all of them; see [`TagTest`](crate::TagTest).
    pub tags: Vec<String>,
}

/// A regular expression that compiles and is matched against the whole value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderPattern(String);

impl HeaderPattern {
    /// The longest pattern that is taken, and the largest program it may compile to.
    pub const LENGTH_MAX_BYTES: usize = 4096;
    /// See [`Self::LENGTH_MAX_BYTES`].
    pub const PROGRAM_MAX_BYTES: usize = 1 << 20;

    /// Refuses what does not compile, alone and anchored.
    pub fn new(pattern: &str) -> Result<Self, BadRule> {
        Self::of_field("match.headers", pattern)
    }

    pub(crate) fn of_field(field: &'static str, pattern: &str) -> Result<Self, BadRule> {
        if pattern.len() > Self::LENGTH_MAX_BYTES {
            return Err(BadRule::new(field, "a pattern is longer than 4096 bytes"));
        }
        let this = Self(pattern.to_owned());
        let refused =
            |error: &dyn Display| BadRule::new(field, format!("`{pattern}` does not compile: {error}"));
        // Alone first: `a)(b` would become valid inside the anchoring group. Reading it is enough for that.
        let mut alone = regex_syntax::ParserBuilder::new().utf8(false).build();
        alone.parse(pattern).map_err(|error| refused(&error))?;
        regex::bytes::RegexBuilder::new(&this.anchored())
            .size_limit(Self::PROGRAM_MAX_BYTES)
            .build()
            .map_err(|error| refused(&error))?;
        Ok(this)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pattern that matches the whole value only. Compiles within [`Self::PROGRAM_MAX_BYTES`].
    pub fn anchored(&self) -> String {
        format!("^(?:{})$", self.0)
    }
}

/// One header that must be there and match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The field, compared without regard to case.
    pub name: http::HeaderName,
    /// The name as the operator wrote it.
    pub written: String,
    /// What the whole value must match. A field that occurs several times is joined first (spec 2.2).
    pub pattern: HeaderPattern,
}

/// What the path must be, as the client sent it: with the segment that names the service, without the query,
/// nothing decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathTest {
    /// The whole path.
    Exact(String),
    /// The beginning of the path, byte for byte.
    Prefix(String),
    /// An expression over the whole path.
    Regex(HeaderPattern),
}

/// One parameter of the query that must be there and match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    /// The name as the client writes it, nothing decoded.
    pub name: String,
    /// What one of its values must match as a whole; a parameter without `=` has an empty value.
    pub pattern: HeaderPattern,
}

/// One condition: true when everything it asks for is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clause {
    /// Who calls; absent matches everybody.
    pub source: Option<Source>,
    /// The method is one of these; compared as sent, with regard to case.
    pub method: Option<OneOrMany<String>>,
    /// What the path must be.
    pub path: Option<PathTest>,
    /// What `Host` or `:authority` must match as a whole, as sent.
    pub authority: Option<HeaderPattern>,
    /// Sorted by the written name.
    pub headers: Vec<HeaderMatch>,
    /// Sorted by name.
    pub query: Vec<QueryMatch>,
}

impl Clause {
    /// Whether nothing but the source is asked for: what is left is the same for every request.
    pub fn asks_for_source_only(&self) -> bool {
        let Self { source: _, method, path, authority, headers, query } = self;
        method.is_none() && path.is_none() && authority.is_none() && headers.is_empty() && query.is_empty()
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// When a rule applies: `own AND every all AND (any is empty or one of any) AND no none`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// The top-level `source` and `headers`: one more element of `all`.
    pub own: Clause,
    /// Every element must be true.
    pub all: Vec<Clause>,
    /// At least one element must be true, unless empty.
    pub any: Vec<Clause>,
    /// No element may be true.
    pub none: Vec<Clause>,
}

impl Match {
    /// Whether it holds for every request.
    pub fn is_everything(&self) -> bool {
        self.own.is_empty() && self.all.is_empty() && self.any.is_empty() && self.none.is_empty()
    }

    /// Whether it asks for nothing of a request: for a source at most.
    pub fn is_of_source(&self) -> bool {
        let own = Clause { source: self.own.source.clone(), ..Clause::default() };
        *self == Self { own, ..Self::default() }
    }
}

impl TryFrom<RawMatch> for Match {
    type Error = BadRule;
    fn try_from(raw: RawMatch) -> Result<Self, BadRule> {
        let clauses =
            |list: Vec<RawClause>| list.into_iter().map(clause).collect::<Result<Vec<_>, _>>().map(fitting);
        let RawMatch { source, method, path, query, authority, headers, .. } = raw;
        let own = RawClause { source, method, path, query, authority, headers };
        let own = if own == RawClause::default() { Clause::default() } else { clause(own)? };
        let this = Self { own, all: clauses(raw.all)?, any: clauses(raw.any)?, none: clauses(raw.none)? };
        if this.is_everything() { Err(BadRule::new("match", "is empty")) } else { Ok(this) }
    }
}

fn clause(raw: RawClause) -> Result<Clause, BadRule> {
    let headers = raw
        .headers
        .into_iter()
        .map(|(written, pattern)| {
            let name = http::HeaderName::from_bytes(written.as_bytes())
                .map_err(|_| BadRule::new("match.headers", format!("`{written}` is no header name")))?;
            Ok(HeaderMatch { name, written, pattern: HeaderPattern::new(&pattern)? })
        })
        .collect::<Result<Vec<_>, BadRule>>()?;
    let query = raw.query.into_iter().map(parameter).collect::<Result<Vec<_>, _>>()?;
    let pattern = |pattern: String| HeaderPattern::of_field("match.authority", &pattern);
    let this = Clause {
        source: raw.source.map(source).transpose()?,
        method: raw.method.map(methods).transpose()?,
        path: raw.path.map(path).transpose()?,
        authority: raw.authority.filter(|text| !text.is_empty()).map(pattern).transpose()?,
        headers: fitting(headers),
        query: fitting(query),
    };
    if this.is_empty() { Err(BadRule::new("match", "an element is empty")) } else { Ok(this) }
}

fn methods(raw: OneOrMany<String>) -> Result<OneOrMany<String>, BadRule> {
    let field = "match.method";
    let list = raw.as_slice();
    if list.is_empty() {
        return Err(BadRule::new(field, "is empty"));
    }
    if let Some(odd) = list.iter().find(|method| http::Method::from_bytes(method.as_bytes()).is_err()) {
        return Err(BadRule::new(field, format!("`{odd}` is no method")));
    }
    distinct(field, list)?;
    Ok(raw)
}

fn path(raw: RawPathTest) -> Result<PathTest, BadRule> {
    let field = "match.path";
    let begins = |text: String| {
        if text.starts_with('/') { Ok(text) } else { Err(BadRule::new(field, "does not begin with a slash")) }
    };
    match (raw.exact.as_str(), raw.prefix.as_str(), raw.regex.as_str()) {
        (_, "", "") if !raw.exact.is_empty() => begins(raw.exact).map(PathTest::Exact),
        ("", _, "") if !raw.prefix.is_empty() => begins(raw.prefix).map(PathTest::Prefix),
        ("", "", regex) if !regex.is_empty() => HeaderPattern::of_field(field, regex).map(PathTest::Regex),
        _ => Err(BadRule::new(field, "needs one of exact, prefix and regex")),
    }
}

/// A name that cannot stand in a query would never match, which nobody means.
fn parameter((name, pattern): (String, String)) -> Result<QueryMatch, BadRule> {
    let field = "match.query";
    let can_be_sent = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'=' | b'#');
    if name.is_empty() || !name.bytes().all(can_be_sent) {
        return Err(BadRule::new(field, format!("`{name}` is no parameter name")));
    }
    Ok(QueryMatch { name, pattern: HeaderPattern::of_field(field, &pattern)? })
}

fn source(raw: RawSource) -> Result<Source, BadRule> {
    let name = ServiceName::new(&raw.name).map_err(|_| BadRule::new("match.source.name", "is missing"))?;
    Ok(Source { name, tags: check_tags("match.source.tags", raw.tags)? })
}

impl From<&Match> for RawMatch {
    fn from(matching: &Match) -> Self {
        let own = RawClause::from(&matching.own);
        let list = |clauses: &[Clause]| clauses.iter().map(RawClause::from).collect();
        Self {
            source: own.source,
            method: own.method,
            path: own.path,
            query: own.query,
            authority: own.authority,
            headers: own.headers,
            all: list(&matching.all),
            any: list(&matching.any),
            none: list(&matching.none),
        }
    }
}

impl From<&Clause> for RawClause {
    fn from(clause: &Clause) -> Self {
        let source = clause
            .source
            .as_ref()
            .map(|source| RawSource { name: source.name.to_string(), tags: source.tags.clone() });
        let headers =
            clause.headers.iter().map(|header| (header.written.clone(), header.pattern.0.clone())).collect();
        let query = clause.query.iter().map(|test| (test.name.clone(), test.pattern.0.clone())).collect();
        Self {
            source,
            method: clause.method.clone(),
            path: clause.path.as_ref().map(RawPathTest::from),
            query,
            authority: clause.authority.as_ref().map(|pattern| pattern.0.clone()),
            headers,
        }
    }
}

impl From<&PathTest> for RawPathTest {
    fn from(test: &PathTest) -> Self {
        match test {
            PathTest::Exact(path) => Self { exact: path.clone(), ..Self::default() },
            PathTest::Prefix(prefix) => Self { prefix: prefix.clone(), ..Self::default() },
            PathTest::Regex(pattern) => Self { regex: pattern.0.clone(), ..Self::default() },
        }
    }
}
