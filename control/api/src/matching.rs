//! What a rule may ask of a request: who calls (fixed per proxy) and header patterns
//! (spec/control-and-proxy.md 2.2). It checks patterns; evaluating them is routing's.

use registry_api::ServiceName;

use crate::rule::{BadRule, distinct};
use crate::wire::{RawClause, RawMatch, RawSource};

/// Who calls: the identity of the proxy itself, never taken from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The proxy's service.
    pub name: ServiceName,
    /// Tags the proxy must carry, all of them.
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
        if pattern.len() > Self::LENGTH_MAX_BYTES {
            return Err(BadRule::new("match.headers", "a pattern is longer than 4096 bytes"));
        }
        let this = Self(pattern.to_owned());
        // Alone first: `a)(b` would become valid inside the anchoring group.
        for text in [pattern.to_owned(), this.anchored()] {
            regex::bytes::RegexBuilder::new(&text).size_limit(Self::PROGRAM_MAX_BYTES).build().map_err(
                |error| BadRule::new("match.headers", format!("`{pattern}` does not compile: {error}")),
            )?;
        }
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

/// One condition: true when its source and all its headers match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clause {
    /// Who calls; absent matches everybody.
    pub source: Option<Source>,
    /// Sorted by the written name.
    pub headers: Vec<HeaderMatch>,
}

impl Clause {
    fn is_empty(&self) -> bool {
        self.source.is_none() && self.headers.is_empty()
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
}

impl TryFrom<RawMatch> for Match {
    type Error = BadRule;
    fn try_from(raw: RawMatch) -> Result<Self, BadRule> {
        let clauses = |list: Vec<RawClause>| list.into_iter().map(clause).collect::<Result<Vec<_>, _>>();
        let own = RawClause { source: raw.source, headers: raw.headers };
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
    let this = Clause { source: raw.source.map(source).transpose()?, headers };
    if this.is_empty() { Err(BadRule::new("match", "an element is empty")) } else { Ok(this) }
}

fn source(raw: RawSource) -> Result<Source, BadRule> {
    let name = ServiceName::new(&raw.name).map_err(|_| BadRule::new("match.source.name", "is missing"))?;
    Ok(Source { name, tags: distinct("match.source.tags", raw.tags)? })
}

impl From<&Match> for RawMatch {
    fn from(matching: &Match) -> Self {
        let own = RawClause::from(&matching.own);
        let list = |clauses: &[Clause]| clauses.iter().map(RawClause::from).collect();
        Self {
            source: own.source,
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
        Self { source, headers }
    }
}
