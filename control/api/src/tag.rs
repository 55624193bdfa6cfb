//! What a tag in a rule asks of the tags of an instance or of a proxy: the same text, or a version within a
//! range. It knows neither instances nor rules.

use semver::{Version, VersionReq};

use crate::rule::{BadRule, distinct, fitting};

/// One tag of a backend or of a source, ready to compare.
///
/// A tag is held when the same text is among the tags. `key=RANGE`, where the range begins with one of
/// `^ ~ > <` (or `>=`, `<=`) and a digit, is also held by `key=VERSION` when the version lies in the range. Several
/// comparisons stand one after the other, with blanks between them, and must all hold: `version=>=1.2 <2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagTest<'a> {
    text: &'a str,
    range: Option<(&'a str, VersionReq)>,
}

impl<'a> TagTest<'a> {
    /// Refuses what begins like a range and is none.
    pub fn new(text: &'a str) -> Result<Self, semver::Error> {
        let Some((key, range)) = text.split_once('=').filter(|(_, range)| is_range(range)) else {
            return Ok(Self { text, range: None });
        };
        let comparisons = range.split([' ', ',']).filter(|part| !part.is_empty()).collect::<Vec<_>>();
        Ok(Self { text, range: Some((key, VersionReq::parse(&comparisons.join(", "))?)) })
    }

    /// Whether one of the tags is what this one asks for.
    pub fn is_held(&self, tags: &[String]) -> bool {
        let in_range = |tag: &String| match &self.range {
            Some((key, range)) => tag
                .split_once('=')
                .filter(|(name, _)| name == key)
                .and_then(|(_, version)| lenient(version))
                .is_some_and(|version| range.matches(&version)),
            None => false,
        };
        tags.iter().any(|tag| tag == self.text || in_range(tag))
    }
}

/// Opaque tags may hold anything; only what cannot be meant otherwise is read as a range.
fn is_range(text: &str) -> bool {
    let number = text.trim_start_matches(['^', '~', '>', '<', '=']).trim_start();
    text.starts_with(['^', '~', '>', '<']) && number.starts_with(|c: char| c.is_ascii_digit())
}

/// `1`, `1.4`, `v1.4.2`, `1.4.2-rc.1`: a leading `v` is skipped, parts that are left out are zero.
fn lenient(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let missing = 3_usize.checked_sub(numbers.split('.').count())?;
    Version::parse(&format!("{numbers}{}{rest}", ".0".repeat(missing))).ok()
}

/// Refuses duplicates and ranges that cannot be read; order is kept.
pub(crate) fn check_tags(field: &'static str, tags: Vec<String>) -> Result<Vec<String>, BadRule> {
    distinct(field, &tags)?;
    for tag in &tags {
        TagTest::new(tag).map_err(|error| BadRule::new(field, format!("`{tag}` is no range: {error}")))?;
    }
    Ok(fitting(tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_held(test: &str, tag: &str) -> bool {
        TagTest::new(test).unwrap().is_held(&["zone=a".to_owned(), tag.to_owned()])
    }

    #[test]
    fn a_range_is_held_by_the_versions_in_it() {
        for (test, tag, held) in [
            ("version=^1.4", "version=1.4.0", true),
            ("version=^1.4", "version=1.9", true),
            ("version=^1.4", "version=v1.5.2", true),
            ("version=^1.4", "version=1.3.9", false),
            ("version=^1.4", "version=2.0.0", false),
            ("version=^1.4", "version=1", false),
            ("version=^1.4", "other=1.4.0", false),
            ("version=^1.4", "version", false),
            ("version=^1.4", "version=blue", false),
            ("version=^1.4", "version=1.5.0-rc.1", false),
            ("version=~1.4.2", "version=1.4.9", true),
            ("version=~1.4.2", "version=1.5.0", false),
            ("version=>=1.2 <2", "version=1.99.0", true),
            ("version=>=1.2 <2", "version=2.0.0", false),
            ("version=>=1.2, <2", "version=1.2", true),
            ("version=<1", "version=0.9.1+build.7", true),
        ] {
            assert_eq!(is_held(test, tag), held, "{test} by {tag}");
        }
    }

    #[test]
    fn whatever_is_no_range_is_only_held_by_the_same_text() {
        for test in ["v1", "version=1.4", "version=v1", "a=<b>", "=", "x==1", "version=^x", "version=^1.4"] {
            assert!(is_held(test, test), "{test}");
            assert!(!is_held(test, "version=0.0.1"), "{test}");
        }
        assert!(!is_held("version=1.4", "version=1.4.0"));
    }

    #[test]
    fn what_begins_like_a_range_and_is_none_is_refused() {
        for test in ["version=^1.x.y", "version=>=1.2 <", "version=~1 beta", "version=^1.2.3.4"] {
            assert!(TagTest::new(test).is_err(), "{test}");
        }
    }
}
