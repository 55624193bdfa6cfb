//! Sentences of refusals in other languages, from files in the working directory (spec/registry.md 0.4, 5 and 8). A refusal
//! names its message; where there is no file, or nothing in it for that message, the program's own sentence stands.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_LENGTH;
use serde::Deserialize;

use super::error;

/// Where the files are, `<language>.json` or `<language>.<anything>.json`. They need not be there.
pub const DIRECTORY: &str = "locales";
/// What is spoken where a client wants nothing that there is.
const FALLBACK: &str = "en-us";
/// The language of the sentences that are not in any file.
const OWN: &str = "en";
/// How many of the languages that a client names are looked at.
const WANTED_MAX: usize = 16;

/// The message that an answer is about, for whoever translates it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message(pub(super) &'static str);

/// Sentences by language and message.
#[derive(Debug, Default)]
pub struct Messages(BTreeMap<String, HashMap<String, String>>);

#[derive(Deserialize)]
struct Entry {
    id: String,
    translation: String,
}

impl Messages {
    /// Reads every file of a directory. One that cannot be read is reported and passed over.
    pub fn load(directory: &Path) -> Self {
        let mut messages = Self::default();
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut paths: Vec<_> = files.map(|file| file.path()).collect();
        paths.sort_unstable();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let read = fs::read(&path).map_err(|problem| problem.to_string());
            let added =
                read.and_then(|bytes| messages.add(name, &bytes).map_err(|problem| problem.to_string()));
            if let Err(problem) = added {
                tracing::warn!(module = "API", file = %path.display(), %problem, "messages passed over");
            }
        }
        messages
    }

    fn add(&mut self, file: &str, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let entries: Vec<Entry> = serde_json::from_slice(bytes)?;
        let language = file.split('.').next().unwrap_or_default().replace('_', "-").to_ascii_lowercase();
        let said = entries.into_iter().filter(|entry| !entry.translation.is_empty());
        self.0.entry(language).or_default().extend(said.map(|entry| (entry.id, entry.translation)));
        Ok(())
    }

    /// The sentence for a message in the language that an `Accept-Language` prefers, if there is one.
    fn find(&self, accepted: &str, message: &str) -> Option<&str> {
        let mut wanted: Vec<(&str, f32)> = accepted
            .split(',')
            .take(WANTED_MAX)
            .map(|offer| {
                let (language, weight) = offer.split_once(';').unwrap_or((offer, "q=1"));
                let weight =
                    weight.trim().strip_prefix(['q', 'Q']).and_then(|weight| weight.strip_prefix('='));
                (language.trim(), weight.and_then(|weight| weight.trim().parse().ok()).unwrap_or(0.0))
            })
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        wanted.sort_by(|left, right| right.1.total_cmp(&left.1));
        for language in wanted.into_iter().map(|(language, _)| language.to_ascii_lowercase()) {
            // `de-CH` is content with `de`.
            let shorter = language.split('-').next().unwrap_or_default();
            let found =
                [language.as_str(), shorter].into_iter().find_map(|name| self.0.get(name)?.get(message));
            if found.is_some() {
                return found.map(String::as_str);
            }
            // Whoever would rather have this than what follows has it without a file.
            if shorter == OWN {
                break;
            }
        }
        self.0.get(FALLBACK)?.get(message).map(String::as_str)
    }

    /// The same answer in the language of the client.
    pub(super) fn translated(&self, response: Response, accepted: &str) -> Response {
        let message = response.extensions().get::<Message>().copied();
        let Some(sentence) = message.and_then(|Message(message)| self.find(accepted, message)) else {
            return response;
        };
        let body = Body::from(error::envelope_bytes(sentence));
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(CONTENT_LENGTH);
        Response::from_parts(parts, body)
    }

    /// Whether there is nothing to translate with.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_0_4_the_language_is_the_clients_else_its_shorter_form_else_american_english() {
        let mut messages = Messages::default();
        for (file, text) in [
            ("de.json", r#"[{"id":"m","translation":"deutsch"},{"id":"empty","translation":""}]"#),
            ("pt-BR.all.json", r#"[{"id":"m","translation":"brasileiro"}]"#),
            (
                "en_US.json",
                r#"[{"id":"m","translation":"american"},{"id":"n","translation":"only american"}]"#,
            ),
        ] {
            messages.add(file, text.as_bytes()).unwrap();
        }
        for (accepted, message, sentence) in [
            ("de", "m", Some("deutsch")),
            ("DE-ch", "m", Some("deutsch")),
            ("pt-br, de", "m", Some("brasileiro")),
            ("pt", "m", Some("american")),
            ("fr;q=0.9, de;q=0.5, pt-BR;q=0.7", "m", Some("brasileiro")),
            ("fr; q=0.9, de; Q=0.5", "m", Some("deutsch")),
            ("en,de;q=0.5", "m", Some("american")),
            ("en-GB,en;q=0.9,de;q=0.5", "empty", None),
            ("de;q=0", "m", Some("american")),
            ("", "m", Some("american")),
            ("*", "m", Some("american")),
            (";;q=,,", "m", Some("american")),
            ("de", "n", Some("only american")),
            ("de", "empty", None),
            ("de", "unknown", None),
        ] {
            assert_eq!(messages.find(accepted, message), sentence, "{accepted} {message}");
        }
        assert!(messages.add("x.json", b"{}").is_err());
    }

    #[test]
    fn section_5_a_directory_that_is_not_there_is_no_mistake() {
        assert!(Messages::load(Path::new("/nowhere/locales")).is_empty());
    }
}
