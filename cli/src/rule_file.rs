//! Rule files: JSON or YAML, one rule, a list, or `rules:` (spec/control-and-proxy.md 4.1). Whether a rule
//! is a good one is for control to say.

use std::io::{IsTerminal, Read};
use std::path::Path;

use control_api::RawRule;
use serde_json::Value;

use crate::exit::Failure;
use crate::output;

/// The largest file or standard input that is read; control takes no larger body.
const INPUT_MAX_BYTES: u64 = 1 << 20;

/// Reads rules from a file, or from standard input for `-` or nothing.
pub(crate) fn read(file: Option<&Path>) -> Result<Vec<RawRule>, Failure> {
    match file.filter(|file| *file != Path::new("-")) {
        Some(file) => from_file(file),
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                output::complain("reading rules from standard input; end with Ctrl-D");
            }
            parse(&text(stdin.lock(), "standard input")?, Guess::JsonThenYaml)
                .map_err(|problem| Failure::new(format!("standard input: {problem}")))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Guess {
    Json,
    Yaml,
    JsonThenYaml,
}

fn from_file(path: &Path) -> Result<Vec<RawRule>, Failure> {
    let shown = path.display();
    let extension = path.extension().and_then(|text| text.to_str()).unwrap_or("").to_ascii_lowercase();
    let guess = match extension.as_str() {
        "json" => Guess::Json,
        "yaml" | "yml" => Guess::Yaml,
        _ => return Err(Failure::new(format!("{shown}: unsupported format: only .json and .yaml are read"))),
    };
    if path.is_dir() {
        return Err(Failure::new(format!("{shown}: invalid file: it is a directory")));
    }
    let file = std::fs::File::open(path).map_err(|error| Failure::new(format!("{shown}: {error}")))?;
    parse(&text(file, &shown.to_string())?, guess)
        .map_err(|problem| Failure::new(format!("{shown}: {problem}")))
}

fn text(from: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    from.take(INPUT_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("{name}: {error}")))?;
    if bytes.len() as u64 > INPUT_MAX_BYTES {
        return Err(Failure::new(format!("{name}: larger than {INPUT_MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::new(format!("{name}: no UTF-8")))
}

fn parse(text: &str, guess: Guess) -> Result<Vec<RawRule>, String> {
    if text.trim().is_empty() {
        return Err("no rules".to_owned());
    }
    let json = || serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"));
    let yaml = || serde_yaml_ng::from_str(text).map_err(|error| format!("no YAML: {error}"));
    let document: Value = match guess {
        Guess::Json => json()?,
        Guess::Yaml => yaml()?,
        Guess::JsonThenYaml => json().or_else(|_| yaml())?,
    };
    let list = match document {
        Value::Array(list) => list,
        Value::Object(mut object) => match object.remove("rules") {
            Some(Value::Array(list)) => list,
            Some(_) => return Err("`rules` is no list".to_owned()),
            None => vec![Value::Object(object)],
        },
        Value::Null => Vec::new(),
        _ => return Err("neither a rule nor a list of rules".to_owned()),
    };
    if list.is_empty() {
        return Err("no rules".to_owned());
    }
    let rule = |(at, value): (usize, Value)| {
        let id = value.get("id").and_then(Value::as_str).map(|id| format!(" ({id})")).unwrap_or_default();
        serde_json::from_value(value).map_err(|error| format!("rule {}{id}: {error}", at + 1))
    };
    list.into_iter().enumerate().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_shape_gives_the_same_rule() {
        for (text, guess) in [
            (r#"{"rules":[{"id":"r","destination":"d"}]}"#, Guess::Json),
            (r#"[{"id":"r","destination":"d"}]"#, Guess::Json),
            (r#"{"id":"r","destination":"d"}"#, Guess::JsonThenYaml),
            ("rules:\n- id: r\n  destination: d\n", Guess::Yaml),
            ("- id: r\n  destination: d\n", Guess::Yaml),
            ("id: r\ndestination: d\n", Guess::JsonThenYaml),
            ("---\nid: r\ndestination: d\n", Guess::Yaml),
        ] {
            let rules = parse(text, guess).unwrap();
            assert_eq!(rules.len(), 1, "{text}");
            assert_eq!((rules[0].id.as_str(), rules[0].destination.as_str()), ("r", "d"), "{text}");
        }
    }

    #[test]
    fn what_holds_no_rules_is_refused_by_name() {
        for (text, guess, problem) in [
            ("", Guess::JsonThenYaml, "no rules"),
            (" \n", Guess::Yaml, "no rules"),
            ("[]", Guess::Json, "no rules"),
            (r#"{"rules":[]}"#, Guess::Json, "no rules"),
            (r#"{"rules":1}"#, Guess::Json, "`rules` is no list"),
            ("7", Guess::Json, "neither a rule nor a list of rules"),
            ("# nothing\n", Guess::Yaml, "no rules"),
        ] {
            assert_eq!(parse(text, guess).unwrap_err(), problem, "{text}");
        }
        let wrong = parse(r#"[{"id":"a"},{"id":"b","priority":"high"}]"#, Guess::Json).unwrap_err();
        assert!(wrong.starts_with("rule 2 (b): invalid type: string \"high\""), "{wrong}");
        assert!(parse("{", Guess::Json).unwrap_err().starts_with("no JSON: "));
    }
}
