//! Header patterns ready to run, each distinct one compiled once and shared by all tables. Answers are those
//! of the regular expression; the short cuts only avoid running it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use control_api::HeaderPattern;
use memchr::{memchr, memchr_iter};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Dot, Hir, HirKind, Look};

use crate::bigrams::{Bigrams, Needle};

/// A compiled pattern, matched against whole values.
pub(crate) struct Pattern {
    test: Test,
    needle: Needle,
}

enum Test {
    /// The pattern is plain text.
    Equals(Box<[u8]>),
    /// The pattern asks for one part of a list, as `^(.*?;)?(user=jason)(;.*)?$` does for a cookie. The expression answers
    /// where a dot does not stand for every byte.
    Part(u8, Box<[u8]>, Regex),
    Regex(Regex),
}

impl Pattern {
    fn compile(pattern: &HeaderPattern) -> Self {
        let anchored = pattern.anchored();
        // The same dialect as that of `regex::bytes`, so that what is read here is what runs there.
        let hir = ParserBuilder::new().utf8(false).build().parse(&anchored).ok();
        let needle = Needle::of(&hir.as_ref().and_then(required).unwrap_or_default());
        if let Some(text) = hir.as_ref().and_then(plain_text) {
            return Self { test: Test::Equals(text), needle };
        }
        let regex = RegexBuilder::new(&anchored)
            .size_limit(HeaderPattern::PROGRAM_MAX_BYTES)
            .build()
            .expect("a HeaderPattern has compiled anchored, with the same limit");
        let test = match hir.as_ref().and_then(part) {
            Some((separator, text)) => Test::Part(separator, text, regex),
            None => Test::Regex(regex),
        };
        Self { test, needle }
    }

    /// What every value that matches contains.
    pub(crate) fn needle(&self) -> &Needle {
        &self.needle
    }

    /// Whether the whole value matches. `grams` are those of the value, where they were worth collecting.
    pub(crate) fn matches(&self, value: &[u8], grams: Option<&Bigrams>) -> bool {
        let may = || grams.is_none_or(|grams| grams.may_contain(&self.needle));
        match &self.test {
            Test::Equals(text) => **text == *value,
            Test::Part(separator, text, regex) if may() => {
                if grams.map_or_else(|| is_dotted(value), Bigrams::is_dotted) {
                    has_part(value, *separator, text)
                } else {
                    regex.is_match(value)
                }
            }
            Test::Regex(regex) if may() => regex.is_match(value),
            Test::Part(..) | Test::Regex(_) => false,
        }
    }
}

/// Whether a dot stands for each of its bytes.
pub(crate) fn is_dotted(value: &[u8]) -> bool {
    value.is_ascii() && memchr(b'\n', value).is_none()
}

/// Whether `text`, which holds no separator, is all that is between two separators, or between one and an end.
fn has_part(value: &[u8], separator: u8, text: &[u8]) -> bool {
    let ends = memchr_iter(separator, value).chain([value.len()]);
    let mut begin = 0;
    ends.into_iter().any(|end| value[std::mem::replace(&mut begin, end + 1)..end] == *text)
}

/// The patterns in use, carried from table to table. It is locked only while a table is compiled.
#[derive(Clone, Default)]
pub(crate) struct Patterns(Arc<Mutex<BTreeMap<Box<str>, Weak<Pattern>>>>);

impl Patterns {
    /// The compiled form, shared with whoever uses an equal pattern.
    pub(crate) fn intern(&self, pattern: &HeaderPattern) -> Arc<Pattern> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = known.get(pattern.as_str()).and_then(Weak::upgrade) {
            return compiled;
        }
        let compiled = Arc::new(Pattern::compile(pattern));
        known.insert(pattern.as_str().into(), Arc::downgrade(&compiled));
        compiled
    }

    /// Forgets what no table uses any more.
    pub(crate) fn prune(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, pattern| pattern.strong_count() > 0);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// The text, when anchors and one text are all there is.
fn plain_text(hir: &Hir) -> Option<Box<[u8]>> {
    match anchored(hir)? {
        [] => Some(Box::default()),
        [one] => literal(one).map(Into::into),
        _ => None,
    }
}

/// The separator and the part, when all there is asks for one part between separators, or between them and the ends.
fn part(hir: &Hir) -> Option<(u8, Box<[u8]>)> {
    let [before, text, after] = anchored(hir)? else { return None };
    let ([any_before, begin], [end, any_after]) = (optional(before)?, optional(after)?) else { return None };
    let ([separator], true) = (literal(begin)?, literal(begin) == literal(end)) else { return None };
    let text = literal(text)?;
    let is_part = separator.is_ascii() && !text.contains(separator);
    (is_part && is_anything(any_before) && is_anything(any_after)).then(|| (*separator, text.into()))
}

/// What lies between the anchors of both ends.
fn anchored(hir: &Hir) -> Option<&[Hir]> {
    let HirKind::Concat(parts) = hir.kind() else { return None };
    let starts = parts.iter().take_while(|part| is_look(part, Look::Start)).count();
    let ends = parts.iter().rev().take_while(|part| is_look(part, Look::End)).count();
    (starts > 0 && ends > 0).then(|| &parts[starts..parts.len() - ends])
}

/// `(..)?`, a concatenation.
fn optional(hir: &Hir) -> Option<&[Hir]> {
    let HirKind::Repetition(repetition) = hir.kind() else { return None };
    match uncaptured(&repetition.sub).kind() {
        HirKind::Concat(parts) if (repetition.min, repetition.max) == (0, Some(1)) => Some(parts),
        _ => None,
    }
}

/// `.*`, greedy or not.
fn is_anything(hir: &Hir) -> bool {
    let HirKind::Repetition(repetition) = hir.kind() else { return false };
    (repetition.min, repetition.max) == (0, None) && *repetition.sub == Hir::dot(Dot::AnyCharExceptLF)
}

fn literal(hir: &Hir) -> Option<&[u8]> {
    match uncaptured(hir).kind() {
        HirKind::Literal(text) => Some(&text.0),
        _ => None,
    }
}

fn is_look(hir: &Hir, look: Look) -> bool {
    matches!(hir.kind(), HirKind::Look(found) if *found == look)
}

fn uncaptured(hir: &Hir) -> &Hir {
    match hir.kind() {
        HirKind::Capture(capture) => uncaptured(&capture.sub),
        _ => hir,
    }
}

/// The longest text that every match contains; `None` when none is found, which says nothing.
fn required(hir: &Hir) -> Option<Vec<u8>> {
    match hir.kind() {
        HirKind::Literal(text) => Some(text.0.to_vec()),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().filter_map(required).max_by_key(Vec::len),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compile(pattern: &str) -> Pattern {
        Pattern::compile(&HeaderPattern::new(pattern).unwrap())
    }

    fn required_of(pattern: &str) -> String {
        let hir = ParserBuilder::new().utf8(false).build().parse(&format!("^(?:{pattern})$")).unwrap();
        String::from_utf8(required(&hir).unwrap_or_default()).unwrap()
    }

    #[test]
    fn a_pattern_matches_the_whole_value() {
        for (pattern, value, matches) in [
            ("bar", "bar", true),
            ("bar", "barn", false),
            ("bar", "a bar", false),
            ("^bar$", "bar", true),
            ("a|b", "b", true),
            ("a|b", "ab", false),
            ("", "", true),
            ("", "x", false),
            ("(?i)BAR", "bar", true),
            ("user=.*", "user=", true),
            (r"\d{3}", "123", true),
            (r"\d{3}", "1234", false),
            (".*?user=jason", "a=b; user=jason", true),
            (".*?user=jason", "user=jason;x", false),
            ("^(.*?;)?(user=jason)(;.*)?$", "foo=bar;user=jason;x", true),
            ("^(.*?;)?(user=jason)(;.*)?$", "foo=bar; user=jason", false),
            (r"^(.*?;\s*)?(user=jason)(;.*)?$", "foo=bar; user=jason", true),
            ("^(.*?;)?(user=jason)(;.*)?$", "user=jasonx", false),
        ] {
            let compiled = compile(pattern);
            assert_eq!(compiled.matches(value.as_bytes(), None), matches, "{pattern} on {value}");
            let grams = Bigrams::of(value.as_bytes());
            assert_eq!(compiled.matches(value.as_bytes(), Some(&grams)), matches, "{pattern} on {value}");
        }
        assert!(matches!(compile("^(bar)$").test, Test::Equals(_)));
    }

    #[test]
    fn a_part_of_a_list_is_found_without_the_expression_and_as_it_would() {
        let compiled = compile("^(.*?;)?(user=jason)(;.*)?$");
        assert!(matches!(compiled.test, Test::Part(b';', ..)));
        for other in
            ["^(.*?;)?(user;jason)(;.*)?$", "^(.*?;)?(a)(,.*)?$", "^(.*;)(a)(;.*)?$", "(.+;)?a(;.*)?"]
        {
            assert!(!matches!(compile(other).test, Test::Part(..)), "{other}");
        }
        for (value, matches) in [
            (&b"user=jason"[..], true),
            (b"a=b;user=jason;", true),
            (b";user=jason", true),
            (b"a=b; user=jason", false),
            (b"user=jasons;user=jaso", false),
            (b"a\nb;user=jason", false),
            ("\u{e9};user=jason".as_bytes(), true),
            (b"\xff;user=jason", false),
            (b"user=jason;\xff", false),
            (b"", false),
        ] {
            assert_eq!(compiled.matches(value, None), matches, "{value:?}");
        }
    }

    #[test]
    fn a_required_text_is_only_claimed_where_every_match_contains_it() {
        for (pattern, text) in [
            ("^(.*?;)?(user=jason)(;.*)?$", "user=jason"),
            ("(abc)+x", "abc"),
            ("(abc)*x", "x"),
            ("abc|abd", "ab"),
            ("cat|dog", ""),
            ("(?i)abc", ""),
            ("[0-9]+", ""),
        ] {
            assert!(text.len() >= required_of(pattern).len(), "{pattern} claims {}", required_of(pattern));
        }
        assert_eq!(required_of("^(.*?;)?(user=jason)(;.*)?$"), "user=jason");
    }

    #[test]
    fn equal_patterns_are_compiled_once_and_forgotten_when_unused() {
        let patterns = Patterns::default();
        let pattern = HeaderPattern::new("a.*").unwrap();
        let first = patterns.intern(&pattern);
        assert!(Arc::ptr_eq(&first, &patterns.clone().intern(&pattern)));
        patterns.prune();
        assert_eq!(patterns.len(), 1);
        drop(first);
        patterns.prune();
        assert_eq!(patterns.len(), 0);
    }

    proptest! {
        #[test]
        fn short_cuts_answer_as_the_expression_does(
            pattern in r"(\^)?(a|b|ab|\(a\|b\)|\(ab\)\?|\.\*|\(ab\)\+|\[ab\]|a\{2\}|\(\?i:ab\)){0,5}(\$)?",
            value in "[abAB;]{0,8}",
            parts in any::<bool>(),
        ) {
            let pattern = if parts { format!("^(.*?B)?({pattern})(B.*)?$") } else { pattern };
            let Ok(checked) = HeaderPattern::new(&pattern) else { return Ok(()) };
            let plain = Regex::new(&checked.anchored()).unwrap().is_match(value.as_bytes());
            let compiled = Pattern::compile(&checked);
            prop_assert_eq!(compiled.matches(value.as_bytes(), None), plain);
            prop_assert_eq!(compiled.matches(value.as_bytes(), Some(&Bigrams::of(value.as_bytes()))), plain);
        }
    }
}
