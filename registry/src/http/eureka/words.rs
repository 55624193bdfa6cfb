//! The statuses of Eureka and the order in which they win (spec/registry.md 3.9). Pure; where they are kept is
//! elsewhere.

use registry_api::Status;

/// No status, or none that is known.
pub const UNKNOWN: &str = "UNKNOWN";

const WORDS: [&str; 5] = [Status::UP, "DOWN", Status::STARTING, Status::OUT_OF_SERVICE, UNKNOWN];

/// Who speaks about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Itself, or an operator.
    Client,
    /// Another registry, which passes on what it was told.
    Peer,
}

/// One of the five statuses, in any case.
pub fn status(text: &str) -> Option<&'static str> {
    WORDS.into_iter().find(|word| word.eq_ignore_ascii_case(text))
}

/// A status that overrides; `UNKNOWN` overrides nothing.
pub fn overriding(text: &str) -> Option<&'static str> {
    status(text).filter(|status| *status != UNKNOWN)
}

/// The status that holds, given the one that comes in, the override (empty for none) and the status before.
pub fn effective<'a>(
    incoming: &'a str,
    overridden: &'a str,
    origin: Origin,
    before: Option<&'a str>,
) -> &'a str {
    let settled = |status: &str| status == Status::UP || status == Status::OUT_OF_SERVICE;
    if !settled(incoming) {
        return incoming;
    }
    if !overridden.is_empty() {
        return overridden;
    }
    match before {
        Some(before) if origin == Origin::Client && settled(before) => before,
        _ => incoming,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_3_9_the_first_rule_that_fits_decides_the_status() {
        use Origin::{Client, Peer};
        for (incoming, overridden, origin, before, expected) in [
            ("STARTING", "DOWN", Client, Some("UP"), "STARTING"),
            ("DOWN", "OUT_OF_SERVICE", Peer, None, "DOWN"),
            ("UNKNOWN", "", Client, Some("UP"), "UNKNOWN"),
            ("UP", "OUT_OF_SERVICE", Client, Some("UP"), "OUT_OF_SERVICE"),
            ("UP", "DOWN", Peer, None, "DOWN"),
            ("UP", "", Client, Some("OUT_OF_SERVICE"), "OUT_OF_SERVICE"),
            ("OUT_OF_SERVICE", "", Client, Some("UP"), "UP"),
            ("UP", "", Peer, Some("OUT_OF_SERVICE"), "UP"),
            ("UP", "", Client, Some("STARTING"), "UP"),
            ("UP", "", Client, Some("UNKNOWN"), "UP"),
            ("UP", "", Client, None, "UP"),
        ] {
            let found = effective(incoming, overridden, origin, before);
            assert_eq!(found, expected, "{incoming} {overridden} {origin:?} {before:?}");
        }
    }

    #[test]
    fn statuses_are_read_in_any_case_and_unknown_overrides_nothing() {
        assert_eq!(status("out_of_service"), Some("OUT_OF_SERVICE"));
        assert_eq!(status("SLEEPING"), None);
        assert_eq!(overriding("unknown"), None);
        assert_eq!(overriding("down"), Some("DOWN"));
    }
}
