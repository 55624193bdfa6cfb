//! A rule's `match`, compiled for one identity: who calls is decided here once, headers per request
//! (spec 2.2). Rules that can never hold for this proxy do not come out of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use control_api::{Clause, HeaderMatch, Identity, Match, Source};
use http::header::{HOST, HeaderName};

use crate::bigrams::Bigrams;
use crate::head::RequestHead;
use crate::pattern::{Pattern, Patterns};

/// What is left to ask of a request: `every header of all, one element of any, no element of none`.
pub(crate) struct Matcher {
    all: Conjunction,
    /// Empty: nothing is asked.
    any: Box<[Conjunction]>,
    none: Box<[Conjunction]>,
}

type Conjunction = Box<[HeaderTest]>;

/// One header that must match.
pub(crate) struct HeaderTest {
    field: usize,
    written: Box<str>,
    pattern: Arc<Pattern>,
    text: Box<str>,
}

/// Why a rule does not apply to a request.
#[derive(Clone, Copy)]
pub(crate) enum Miss<'t> {
    /// This header is absent, or does not match.
    Header(&'t HeaderTest, Found),
    /// No element of `any` holds.
    Any,
    /// An element of `none` holds: this one, counted from 0 among those that could.
    None(&'t [HeaderTest]),
}

/// Why a rule can never apply on this proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// A source that must be this proxy is not.
    Source,
    /// Every element of `any` is for other sources.
    Any,
    /// An element of `none` is this proxy itself.
    None,
}

/// What was found of a header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Absent,
    Differs,
    Matches,
}

impl Matcher {
    pub(crate) fn compile(
        matching: &Match,
        identity: &Identity,
        fields: &mut Fields,
        patterns: &Patterns,
    ) -> Result<Self, Elsewhere> {
        let here = |clause: &&Clause| clause.source.as_ref().is_none_or(|source| is_source(identity, source));
        let every = || std::iter::once(&matching.own).chain(&matching.all);
        if !every().all(|clause| here(&clause)) {
            return Err(Elsewhere::Source);
        }
        let mut tests = |clauses: &mut dyn Iterator<Item = &Clause>| -> Conjunction {
            clauses.flat_map(|clause| &clause.headers).map(|header| fields.test(header, patterns)).collect()
        };
        let all = tests(&mut every());
        let mut each = |clauses: &[Clause]| -> Box<[Conjunction]> {
            clauses.iter().filter(here).map(|clause| tests(&mut std::iter::once(clause))).collect()
        };
        let (any, none) = (each(&matching.any), each(&matching.none));
        if any.is_empty() && !matching.any.is_empty() {
            return Err(Elsewhere::Any);
        }
        // An element without headers is true as soon as its source is us.
        if none.iter().any(|element| element.is_empty()) {
            return Err(Elsewhere::None);
        }
        Ok(Self { all, any, none })
    }

    /// Whether the request fits; otherwise the first thing that it fails.
    pub(crate) fn holds(&self, values: &mut Values<'_>) -> Result<(), Miss<'_>> {
        for test in &self.all {
            match values.find(test) {
                Found::Matches => {}
                found => return Err(Miss::Header(test, found)),
            }
        }
        if !self.any.is_empty() && !self.any.iter().any(|element| values.fit(element)) {
            return Err(Miss::Any);
        }
        match self.none.iter().find(|element| values.fit(element)) {
            Some(element) => Err(Miss::None(element)),
            None => Ok(()),
        }
    }
}

impl HeaderTest {
    pub(crate) fn name(&self) -> &str {
        &self.written
    }

    pub(crate) fn pattern(&self) -> &str {
        &self.text
    }
}

fn is_source(identity: &Identity, source: &Source) -> bool {
    identity.service.as_ref() == Some(&source.name)
        && source.tags.iter().all(|tag| identity.tags.contains(tag))
}

/// The header fields that the rules of one service ask for.
#[derive(Default)]
pub(crate) struct Fields {
    list: Vec<Field>,
    /// Only while rules are added.
    places: BTreeMap<Box<str>, usize>,
}

struct Field {
    name: HeaderName,
    tests: usize,
}

/// Fields whose values are remembered while one request is decided; further ones are looked up each time.
const FIELDS_REMEMBERED: usize = 8;
/// From so many tests of one field on it pays to collect the pairs of its value first.
const TESTS_WORTH_BIGRAMS: usize = 4;

impl Fields {
    fn test(&mut self, header: &HeaderMatch, patterns: &Patterns) -> HeaderTest {
        let list = &mut self.list;
        let place = *self.places.entry(header.name.as_str().into()).or_insert_with(|| {
            list.push(Field { name: header.name.clone(), tests: 0 });
            list.len() - 1
        });
        list[place].tests += 1;
        HeaderTest {
            field: place,
            written: header.written.as_str().into(),
            pattern: patterns.intern(&header.pattern),
            text: header.pattern.as_str().into(),
        }
    }

    /// Gives back what only adding needed.
    pub(crate) fn finish(mut self) -> Self {
        self.places = BTreeMap::new();
        self.list.shrink_to_fit();
        self
    }
}

/// The header values of one request, read when first asked for.
pub(crate) struct Values<'r> {
    head: &'r RequestHead<'r>,
    fields: &'r Fields,
    slots: [Slot<'r>; FIELDS_REMEMBERED],
}

enum Slot<'r> {
    Unread,
    Absent,
    Plain(Cow<'r, [u8]>),
    Collected(Cow<'r, [u8]>, Bigrams),
}

impl<'r> Values<'r> {
    pub(crate) fn new(head: &'r RequestHead<'r>, fields: &'r Fields) -> Self {
        Self { head, fields, slots: [const { Slot::Unread }; FIELDS_REMEMBERED] }
    }

    fn fit(&mut self, element: &[HeaderTest]) -> bool {
        element.iter().all(|test| self.find(test) == Found::Matches)
    }

    fn find(&mut self, test: &HeaderTest) -> Found {
        let field = &self.fields.list[test.field];
        let fresh;
        let slot = match self.slots.get_mut(test.field) {
            Some(slot) => {
                if matches!(slot, Slot::Unread) {
                    *slot = Slot::read(self.head, field);
                }
                &*slot
            }
            None => {
                fresh = Slot::read(self.head, field);
                &fresh
            }
        };
        let matches = match slot {
            Slot::Unread | Slot::Absent => return Found::Absent,
            Slot::Plain(value) => test.pattern.matches(value, None),
            Slot::Collected(value, grams) => test.pattern.matches(value, Some(grams)),
        };
        if matches { Found::Matches } else { Found::Differs }
    }
}

impl<'r> Slot<'r> {
    fn read(head: &'r RequestHead<'r>, field: &Field) -> Self {
        let authority =
            || (field.name == HOST && !head.authority.is_empty()).then_some(head.authority.as_bytes());
        let value = head.headers.joined(&field.name).or_else(|| authority().map(Cow::Borrowed));
        match value {
            None => Self::Absent,
            Some(value) if field.tests >= TESTS_WORTH_BIGRAMS => {
                let grams = Bigrams::of(&value);
                Self::Collected(value, grams)
            }
            Some(value) => Self::Plain(value),
        }
    }
}
