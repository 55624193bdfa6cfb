//! The query of a request as pairs, and the parameters that routes share. Unknown parameters are ignored.

use std::time::Duration;

use axum::extract::Query as Pairs;
use http::Uri;
use registry_api::duration;

use super::error::Refusal;
use crate::rulebook::{Filter, Kind};

/// How long a write waits to be applied unless told.
const APPLIED_TIMEOUT: Duration = Duration::from_secs(10);
/// And at most; more is cut to this.
const APPLIED_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Decoded pairs in order.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Result<Self, Refusal> {
        let pairs = Pairs::<Vec<(String, String)>>::try_from_uri(uri);
        pairs.map(|Pairs(pairs)| Self(pairs)).map_err(|error| Refusal::InvalidParameter(error.to_string()))
    }

    /// The first value of a parameter.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter. An empty one counts.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// The first value, read by `FromStr`.
    pub(super) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let parse = |text: &str| text.parse().map_err(|_| invalid(name, text));
        self.first(name).map(parse).transpose()
    }

    /// The first value, read as a duration.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Refusal> {
        let parse = |text: &str| duration::parse(text).map_err(|_| invalid(name, text));
        self.first(name).map(parse).transpose()
    }

    /// Which rules are meant.
    pub(super) fn filter(&self, kind: Option<Kind>) -> Filter {
        let set = |name| self.all(name).into_iter().collect();
        Filter { ids: set("id"), tags: set("tag"), destinations: set("destination"), kind }
    }

    /// How long a write waits to be applied; `None` when it does not (design.md 5, settled point 8).
    pub(super) fn applied_wait(&self) -> Result<Option<Duration>, Refusal> {
        let timeout = self.duration("timeout")?.unwrap_or(APPLIED_TIMEOUT).min(APPLIED_TIMEOUT_MAX);
        match self.first("wait") {
            None => Ok(None),
            Some("applied") => Ok(Some(timeout)),
            Some(other) => Err(invalid("wait", other)),
        }
    }
}

pub(super) fn invalid(name: &str, text: &str) -> Refusal {
    let shown: String = text.chars().take(64).collect();
    Refusal::InvalidParameter(format!("{name} cannot be `{shown}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn pairs_are_decoded_and_repeated_values_are_kept() {
        let query = query("id=a%20b&id=&tag=x+y&id=ü&other");
        assert_eq!(query.all("id"), ["a b", "", "ü"]);
        assert_eq!(query.first("tag"), Some("x y"));
        assert_eq!(query.first("nothing"), None);
    }

    #[test]
    fn a_wait_is_applied_or_nothing_and_its_timeout_has_an_upper_end() {
        let seconds = |text: &str| query(text).applied_wait().map(|wait| wait.map(|time| time.as_secs()));
        assert_eq!(seconds(""), Ok(None));
        assert_eq!(seconds("timeout=3s"), Ok(None));
        assert_eq!(seconds("wait=applied"), Ok(Some(10)));
        assert_eq!(seconds("wait=applied&timeout=3"), Ok(Some(3)));
        assert_eq!(seconds("wait=applied&timeout=10m"), Ok(Some(60)));
        for bad in ["wait=", "wait=yes", "wait=applied&timeout=soon", "timeout=-1s", "wait=applied&timeout="]
        {
            assert!(query(bad).applied_wait().is_err(), "{bad}");
        }
    }
}
