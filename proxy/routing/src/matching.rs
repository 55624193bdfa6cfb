//! A rule's `match`, compiled for one identity: who calls is decided here once, everything else per request
//! (spec 2.2). Rules that can never hold for this proxy do not come out of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use control_api::{Clause, HeaderMatch, HeaderPattern, Identity, Match, OneOrMany, PathTest, QueryMatch};
use control_api::{Source, TagTest};
use http::header::{HOST, HeaderName};

use crate::bigrams::{Bigrams, Bits, NOTHING};
use crate::head::RequestHead;
use crate::pattern::{Pattern, Patterns};

/// What is left to ask of a request: `every test of all, one element of any, no element of none`.
pub(crate) struct Matcher {
    all: Conjunction,
    /// Empty: nothing is asked.
    any: Box<[Conjunction]>,
    none: Box<[Conjunction]>,
}

/// Everything that must be so. Headers are apart: nearly all rules ask for them alone, and many rules are looked
/// through for one request.
#[derive(Default)]
pub(crate) struct Conjunction {
    headers: Box<[HeaderTest]>,
    others: Box<[Test]>,
}

/// One thing that must be so beside headers.
pub(crate) enum Test {
    Method(OneOrMany<String>),
    Path(PathTest, Option<Arc<Pattern>>),
    Authority(Asked),
    Query(Box<str>, Asked),
}

/// A pattern, ready and as written.
pub(crate) struct Asked {
    pattern: Arc<Pattern>,
    text: Box<str>,
}

/// One header that must match.
pub(crate) struct HeaderTest {
    field: usize,
    written: Box<str>,
    asked: Asked,
}

/// Why a rule does not apply to a request.
#[derive(Clone, Copy)]
pub(crate) enum Miss<'t> {
    /// This header is absent, or does not match.
    Header(&'t HeaderTest, Found),
    /// This is absent, or does not match.
    Test(&'t Test, Found),
    /// Its edge is another host, or another place below it.
    Edge,
    /// No element of `any` holds; these could, on this proxy.
    Any(&'t [Conjunction]),
    /// An element of `none` holds: this one, counted from 0 among those that could.
    None(&'t Conjunction),
}

/// Why a rule can never apply on this proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// A source that must be this proxy is not: that of the rule's own clause, or that of this element of `all`.
    Source(Option<usize>),
    /// Every element of `any` is for other sources.
    Any,
    /// This element of `none` is this proxy itself.
    None(usize),
}

/// What was found of what a test looks at.
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
        if let Some(place) = every().position(|clause| !here(&clause)) {
            return Err(Elsewhere::Source(place.checked_sub(1)));
        }
        let mut tests = |clauses: &mut dyn Iterator<Item = &Clause>| -> Conjunction {
            let (mut headers, mut others) = (Vec::new(), Vec::new());
            for clause in clauses {
                headers.extend(clause.headers.iter().map(|header| fields.test(header, patterns)));
                others.extend(Test::of(clause, patterns));
            }
            Conjunction { headers: headers.into(), others: others.into() }
        };
        let all = tests(&mut every());
        let mut each = |clauses: &[Clause]| -> Box<[Conjunction]> {
            clauses.iter().filter(here).map(|clause| tests(&mut std::iter::once(clause))).collect()
        };
        let (any, none) = (each(&matching.any), each(&matching.none));
        if any.is_empty() && !matching.any.is_empty() {
            return Err(Elsewhere::Any);
        }
        // An element that asks nothing else is true as soon as its source is us.
        if none.iter().any(|element| element.is_empty()) {
            let ours = |clause: &Clause| here(&clause) && clause.asks_for_source_only();
            return Err(Elsewhere::None(matching.none.iter().position(ours).unwrap_or_default()));
        }
        Ok(Self { all, any, none })
    }

    /// The pairs that the value of this field must hold, as far as they are known.
    pub(crate) fn needs(&self, field: usize) -> impl Iterator<Item = u16> {
        let tests = self.all.headers.iter().filter(move |test| test.field == field);
        tests.flat_map(|test| test.asked.pattern.needle().bits()).copied()
    }

    /// Whether the request fits; otherwise the first thing that it fails.
    pub(crate) fn holds(&self, values: &mut Values<'_>) -> Result<(), Miss<'_>> {
        for test in &self.all.others {
            match values.find(test) {
                Found::Matches => {}
                found => return Err(Miss::Test(test, found)),
            }
        }
        for test in &self.all.headers {
            match values.field(test) {
                Found::Matches => {}
                found => return Err(Miss::Header(test, found)),
            }
        }
        if !self.any.is_empty() && !self.any.iter().any(|element| values.fit(element)) {
            return Err(Miss::Any(&self.any));
        }
        match self.none.iter().find(|element| values.fit(element)) {
            Some(element) => Err(Miss::None(element)),
            None => Ok(()),
        }
    }
}

impl Test {
    /// The tests of a clause, those first that cost least.
    fn of(clause: &Clause, patterns: &Patterns) -> Vec<Self> {
        let path = |path: &PathTest| {
            let pattern = match path {
                PathTest::Regex(pattern) => Some(patterns.intern(pattern)),
                PathTest::Exact(_) | PathTest::Prefix(_) => None,
            };
            Self::Path(path.clone(), pattern)
        };
        let query =
            |test: &QueryMatch| Self::Query(test.name.as_str().into(), Asked::of(&test.pattern, patterns));
        let mut tests: Vec<_> = clause.method.clone().map(Self::Method).into_iter().collect();
        tests.extend(clause.path.as_ref().map(path));
        tests.extend(clause.authority.as_ref().map(|pattern| Self::Authority(Asked::of(pattern, patterns))));
        tests.extend(clause.query.iter().map(query));
        tests
    }

    /// What it looks at and what it wants of it.
    pub(crate) fn subject(&self) -> (String, String) {
        let (subject, wanted): (_, &str) = match self {
            Self::Method(methods) => return ("the method".to_owned(), methods.as_slice().join(" or ")),
            Self::Path(test, _) => match test {
                PathTest::Exact(path) => return ("the path".to_owned(), path.clone()),
                PathTest::Prefix(prefix) => return ("the path".to_owned(), format!("{prefix}..")),
                PathTest::Regex(pattern) => ("the path".to_owned(), pattern.as_str()),
            },
            Self::Authority(asked) => ("the authority".to_owned(), &asked.text),
            Self::Query(name, asked) => (format!("parameter {name}"), &asked.text),
        };
        (subject, wanted.to_owned())
    }
}

impl Conjunction {
    fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.others.is_empty()
    }

    /// What is looked at and what is wanted of it, in the words of an explanation.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = (String, String)> {
        let headers =
            self.headers.iter().map(|test| (format!("header {}", test.name()), test.pattern().to_owned()));
        self.others.iter().map(Test::subject).chain(headers)
    }
}

impl HeaderTest {
    pub(crate) fn name(&self) -> &str {
        &self.written
    }

    pub(crate) fn pattern(&self) -> &str {
        &self.asked.text
    }
}

impl Asked {
    fn of(pattern: &HeaderPattern, patterns: &Patterns) -> Self {
        Self { pattern: patterns.intern(pattern), text: pattern.as_str().into() }
    }

    fn is_met(&self, value: &str) -> bool {
        self.pattern.matches(value.as_bytes(), None)
    }
}

fn is_source(identity: &Identity, source: &Source) -> bool {
    let carries =
        |tag: &String| TagTest::new(tag).expect("a Source has checked its tags").is_held(&identity.tags);
    identity.service.as_ref() == Some(&source.name) && source.tags.iter().all(carries)
}

/// Whether one of the parameters of this name has a value that matches. Nothing is decoded.
fn parameter(query: &str, name: &str, asked: &Asked) -> Found {
    let mut found = Found::Absent;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == name {
            if asked.is_met(value) {
                return Found::Matches;
            }
            found = Found::Differs;
        }
    }
    found
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
            asked: Asked::of(&header.pattern, patterns),
        }
    }

    /// The one that is asked for most, where that is worth collecting the pairs of its value.
    pub(crate) fn busiest(&self) -> Option<usize> {
        let asked = self.list.iter().take(FIELDS_REMEMBERED).enumerate();
        let (place, field) = asked.max_by_key(|(_, field)| field.tests)?;
        (field.tests >= TESTS_WORTH_BIGRAMS).then_some(place)
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

    pub(crate) fn head(&self) -> &'r RequestHead<'r> {
        self.head
    }

    fn fit(&mut self, element: &Conjunction) -> bool {
        element.others.iter().all(|test| self.find(test) == Found::Matches)
            && element.headers.iter().all(|test| self.field(test) == Found::Matches)
    }

    fn find(&self, test: &Test) -> Found {
        let head = self.head;
        let holds = match test {
            Test::Query(name, asked) => return parameter(head.query, name, asked),
            Test::Authority(_) if head.authority.is_empty() => return Found::Absent,
            Test::Authority(asked) => asked.is_met(head.authority),
            Test::Method(methods) => methods.as_slice().iter().any(|method| method == head.method),
            Test::Path(test, pattern) => match (test, pattern) {
                (PathTest::Exact(path), _) => path == head.path,
                (PathTest::Prefix(prefix), _) => head.path.starts_with(prefix.as_str()),
                (PathTest::Regex(_), pattern) => {
                    pattern.as_ref().is_some_and(|pattern| pattern.matches(head.path.as_bytes(), None))
                }
            },
        };
        if holds { Found::Matches } else { Found::Differs }
    }

    /// The pairs of the value of a field that is worth collecting them; none where the field is absent, for then whoever
    /// asks for it misses, whatever else is asked.
    pub(crate) fn bits(&mut self, field: usize) -> &Bits {
        match self.slot(field) {
            Some(Slot::Collected(_, grams)) => grams.bits(),
            slot => {
                debug_assert!(matches!(slot, Some(Slot::Absent)), "the pairs of this field are collected");
                &NOTHING
            }
        }
    }

    /// The value of one of the fields that are remembered.
    fn slot(&mut self, field: usize) -> Option<&Slot<'r>> {
        let slot = self.slots.get_mut(field)?;
        if matches!(slot, Slot::Unread) {
            *slot = Slot::read(self.head, &self.fields.list[field]);
        }
        Some(slot)
    }

    #[inline]
    fn field(&mut self, test: &HeaderTest) -> Found {
        let (head, fields) = (self.head, self.fields);
        let fresh;
        let slot = match self.slot(test.field) {
            Some(slot) => slot,
            None => {
                fresh = Slot::read(head, &fields.list[test.field]);
                &fresh
            }
        };
        let matches = match slot {
            Slot::Unread | Slot::Absent => return Found::Absent,
            Slot::Plain(value) => test.asked.pattern.matches(value, None),
            Slot::Collected(value, grams) => test.asked.pattern.matches(value, Some(grams)),
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
