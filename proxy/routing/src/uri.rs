//! Rules that capture requests by path, whatever its first segment, and what they make of the path (spec
//! 2.4). The index only finds candidates; whether their `match` holds is asked by the law.

use std::borrow::Cow;

use control_api::{Edge, PathMatch, UriMatch};

use crate::decision::RouteRuleRef;
use crate::head::RequestHead;

/// The `uri` of one rule.
pub(crate) struct Capture {
    condition: PathMatch,
    rewrite: Option<Box<str>>,
    edge: Option<Edge>,
}

impl Capture {
    pub(crate) fn new(uri: &UriMatch) -> Self {
        Self { condition: uri.path.clone(), rewrite: uri.rewrite.as_deref().map(path_text), edge: None }
    }

    pub(crate) fn of_edge(edge: &Edge) -> Self {
        let condition = PathMatch::Prefix(edge.path_prefix.clone());
        Self { condition, rewrite: edge.rewrite.as_deref().map(path_text), edge: Some(edge.clone()) }
    }

    /// What an edge asks beyond the path condition that the index has found to hold.
    pub(crate) fn fits(&self, head: &RequestHead<'_>) -> bool {
        self.edge.as_ref().is_none_or(|edge| edge.covers(head.authority, head.path))
    }

    pub(crate) fn is_edge(&self) -> bool {
        self.edge.is_some()
    }

    pub(crate) fn condition(&self) -> &PathMatch {
        &self.condition
    }

    /// The path on its way up: the matched part replaced, nothing else touched. Always begins with a slash.
    pub(crate) fn rewritten<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let Some(replacement) = &self.rewrite else { return Cow::Borrowed(path) };
        let rest = self.rest(path);
        let rest = match &self.edge {
            // Whole segments are replaced by whole segments.
            Some(_) if replacement.ends_with('/') => rest.strip_prefix('/').unwrap_or(rest),
            _ => rest,
        };
        let slash = if replacement.starts_with('/') { "" } else { "/" };
        Cow::Owned(format!("{slash}{replacement}{rest}"))
    }

    /// What follows the matched part.
    pub(crate) fn rest<'p>(&self, path: &'p str) -> &'p str {
        match &self.condition {
            PathMatch::Exact(_) => "",
            PathMatch::Prefix(prefix) => path.strip_prefix(prefix.as_str()).unwrap_or_default(),
        }
    }
}

/// The `uri` rules of a table, found by path without looking at all of them.
#[derive(Default)]
pub(crate) struct UriIndex {
    /// In overall precedence order; a place in it is a rule's rank.
    rules: Box<[RouteRuleRef]>,
    /// Sorted by path.
    exact: Box<[(Box<str>, Ranks)]>,
    /// Sorted by prefix, so that all prefixes of a path are ancestors of its predecessor.
    prefixes: Box<[Prefix]>,
}

/// Ascending.
type Ranks = Vec<u32>;

struct Prefix {
    text: Box<str>,
    /// The longest other entry that this one begins with.
    parent: Option<usize>,
    ranks: Ranks,
}

impl UriIndex {
    /// `rules` come in overall precedence order.
    pub(crate) fn new<'c>(rules: impl IntoIterator<Item = (RouteRuleRef, &'c Capture)>) -> Self {
        let (mut places, mut exact, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        for (rank, (rule, capture)) in rules.into_iter().enumerate() {
            places.push(rule);
            match &capture.condition {
                PathMatch::Exact(path) => exact.push((path.as_str(), rank as u32)),
                PathMatch::Prefix(prefix) => prefixes.push((prefix.as_str(), rank as u32)),
            }
        }
        let exact = grouped(exact);
        let mut tree: Vec<Prefix> = Vec::new();
        for (text, ranks) in grouped(prefixes) {
            let mut parent = tree.len().checked_sub(1);
            while let Some(at) = parent.filter(|at| !text.starts_with(&*tree[*at].text)) {
                parent = tree[at].parent;
            }
            tree.push(Prefix { text, parent, ranks });
        }
        Self { rules: places.into(), exact: exact.into(), prefixes: tree.into() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(crate) fn rule(&self, rank: u32) -> RouteRuleRef {
        self.rules[rank as usize]
    }

    /// The ranks of all rules whose path condition holds: ascending within a list, lists in no order.
    pub(crate) fn covering(&self, path: &str) -> impl Iterator<Item = &[u32]> {
        let exact = self.exact.binary_search_by(|(text, _)| (**text).cmp(path)).ok();
        let exact = exact.map(|at| self.exact[at].1.as_slice());
        let at_most = self.prefixes.partition_point(|prefix| &*prefix.text <= path);
        let ancestors = std::iter::successors(at_most.checked_sub(1), |at| self.prefixes[*at].parent)
            .map(|at| &self.prefixes[at])
            .filter(move |prefix| path.starts_with(&*prefix.text))
            .map(|prefix| prefix.ranks.as_slice());
        exact.into_iter().chain(ancestors)
    }
}

fn grouped(mut entries: Vec<(&str, u32)>) -> Vec<(Box<str>, Ranks)> {
    entries.sort_unstable();
    entries
        .chunk_by(|a, b| a.0 == b.0)
        .map(|group| (group[0].0.into(), group.iter().map(|e| e.1).collect()))
        .collect()
}

/// Encodes what cannot stand in a path: an operator's slip must not make a request that cannot be sent.
fn path_text(text: &str) -> Box<str> {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'#' | b'?' | b'"' | b'<' | b'>') => path.push(char::from(byte)),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::ServiceIndex;
    use proptest::prelude::*;

    fn capture(path: PathMatch, rewrite: Option<&str>) -> Capture {
        Capture::new(&UriMatch { path, rewrite: rewrite.map(str::to_owned) })
    }

    fn holds(condition: &PathMatch, path: &str) -> bool {
        match condition {
            PathMatch::Exact(text) => path == text,
            PathMatch::Prefix(prefix) => path.starts_with(prefix.as_str()),
        }
    }

    #[test]
    fn the_matched_part_is_replaced_and_nothing_else() {
        let prefix = |text: &str| PathMatch::Prefix(text.to_owned());
        for (condition, rewrite, path, up) in [
            (prefix("/api/"), Some("/"), "/api/a//b/../c%2F", "/a//b/../c%2F"),
            (prefix("/api"), Some("/v2"), "/api", "/v2"),
            (prefix("/api"), Some("v2/"), "/api/x", "/v2//x"),
            (prefix("/api/"), None, "/api/x", "/api/x"),
            (prefix("/a"), Some("/b c#?"), "/a/x", "/b%20c%23%3F/x"),
            (prefix("/a"), Some("/\r\nX: y"), "/a", "/%0D%0AX:%20y"),
            (PathMatch::Exact("/login".into()), Some("/session/new"), "/login", "/session/new"),
            (PathMatch::Exact("/login".into()), None, "/login", "/login"),
        ] {
            assert_eq!(capture(condition, rewrite).rewritten(path), up);
        }
    }

    proptest! {
        #[test]
        fn the_index_finds_exactly_the_rules_whose_condition_holds(
            rules in prop::collection::vec((any::<bool>(), "/[ab/]{0,5}"), 0..12),
            path in "/[ab/]{0,7}",
        ) {
            let captures: Vec<_> = rules.into_iter().map(|(exact, text)| {
                capture(if exact { PathMatch::Exact(text) } else { PathMatch::Prefix(text) }, None)
            }).collect();
            let places = (0..).map(|place| RouteRuleRef { service: ServiceIndex(0), place });
            let index = UriIndex::new(places.zip(&captures));
            let mut found: Vec<u32> = index.covering(&path).flatten().copied().collect();
            found.sort_unstable();
            let expected: Vec<u32> = (0..).zip(&captures).filter(|(_, c)| holds(&c.condition, &path)).map(|(at, _)| at).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
