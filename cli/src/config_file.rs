//! The YAML file of `--config`: its keys, flattened to dotted paths, named as flags. It neither reads the
//! values nor knows which of them count; layering does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_yaml_ng::Value;

/// The values of a file by flag, each as the command line would write it.
pub(crate) type FileValues = BTreeMap<String, Vec<String>>;

/// `(path in the file, flag)`.
pub(crate) type FileKeys = &'static [(&'static str, &'static str)];

/// The largest file that is read.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Reads a file. `flags` are the flags of the role; `keys` further names for them.
pub(crate) fn read(path: &Path, keys: FileKeys, flags: &[String]) -> Result<FileValues, String> {
    let unreadable = |error| format!("cannot read {}: {error}", path.display());
    let mut text = String::new();
    // Not every file says how long it is.
    let mut limited = File::open(path).map_err(unreadable)?.take(FILE_MAX_BYTES + 1);
    let size = limited.read_to_string(&mut text).map_err(unreadable)?;
    if size as u64 > FILE_MAX_BYTES {
        return Err(format!("{} is larger than {FILE_MAX_BYTES} bytes", path.display()));
    }
    values(&text, keys, flags).map_err(|problem| format!("{}: {problem}", path.display()))
}

fn values(text: &str, keys: FileKeys, flags: &[String]) -> Result<FileValues, String> {
    let document: Value = serde_yaml_ng::from_str(text).map_err(|error| format!("no YAML: {error}"))?;
    let mut entries = Vec::new();
    match document {
        Value::Null => {}
        Value::Mapping(_) => flatten(String::new(), document, &mut entries)?,
        _ => return Err("the document is no mapping of settings".to_owned()),
    }
    let mut values = FileValues::new();
    for (path, given) in entries {
        let mapped = keys.iter().find(|(key, _)| *key == path).map(|(_, flag)| (*flag).to_owned());
        let Some(flag) = mapped.or_else(|| flags.contains(&path).then(|| path.clone())) else {
            return Err(format!("unknown key `{path}`"));
        };
        if given.is_empty() {
            continue;
        }
        if values.insert(flag, given).is_some() {
            return Err(format!("`{path}` is given twice under different names"));
        }
    }
    Ok(values)
}

fn flatten(prefix: String, value: Value, into: &mut Vec<(String, Vec<String>)>) -> Result<(), String> {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                let Some(key) = scalar(&key) else {
                    return Err(format!("a key under `{prefix}` is no text"));
                };
                let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(path, value, into)?;
            }
        }
        Value::Sequence(list) => {
            let words: Option<Vec<String>> = list.iter().map(scalar).collect();
            into.push((prefix.clone(), words.ok_or(format!("`{prefix}` is no list of plain values"))?));
        }
        Value::Null => into.push((prefix, Vec::new())),
        Value::Tagged(_) => return Err(format!("`{prefix}` carries a tag")),
        other => {
            let word = scalar(&other).ok_or_else(|| format!("`{prefix}` is no plain value"))?;
            into.push((prefix, vec![word]));
        }
    }
    Ok(())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: FileKeys = &[
        ("registry.url", "registry_url"),
        ("proxy_config.http_listener_port", "http_listener_port"),
        ("service.name", "service"),
        ("service.tags", "service_tags"),
    ];

    fn read_text(text: &str) -> Result<FileValues, String> {
        let flags =
            ["registry_url", "http_listener_port", "service", "service_tags", "proxy"].map(str::to_owned);
        values(text, KEYS, &flags)
    }

    #[test]
    fn nested_keys_and_flag_names_lead_to_the_same_flag() {
        for (text, flag, words) in [
            ("registry: {url: [http://a, http://b]}", "registry_url", vec!["http://a", "http://b"]),
            ("registry_url: http://a", "registry_url", vec!["http://a"]),
            ("proxy_config:\n  http_listener_port: 0\n", "http_listener_port", vec!["0"]),
            ("proxy: true", "proxy", vec!["true"]),
            ("service: reviews:v1", "service", vec!["reviews:v1"]),
            ("service: {name: reviews, tags: [v1, x]}", "service", vec!["reviews"]),
            ("service: {name: reviews, tags: [v1, x]}", "service_tags", vec!["v1", "x"]),
        ] {
            let expected: Vec<String> = words.into_iter().map(str::to_owned).collect();
            assert_eq!(read_text(text).unwrap().get(flag), Some(&expected), "{text}");
        }
        assert_eq!(read_text("").unwrap().len(), 0);
        assert_eq!(read_text("registry: {url: }").unwrap().len(), 0);
    }

    #[test]
    fn a_file_without_an_end_is_too_large() {
        let problem = read(Path::new("/dev/zero"), KEYS, &[]).unwrap_err();
        assert_eq!(problem, "/dev/zero is larger than 1048576 bytes");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, problem) in [
            ("registry: {uri: x}", "unknown key `registry.uri`"),
            ("nonsense: 1", "unknown key `nonsense`"),
            ("- a", "the document is no mapping of settings"),
            ("proxy: [[1]]", "`proxy` is no list of plain values"),
            ("{registry: {url: x}, registry_url: y}", "`registry_url` is given twice under different names"),
        ] {
            assert_eq!(read_text(text).unwrap_err(), problem, "{text}");
        }
        assert!(read_text("a: [").unwrap_err().starts_with("no YAML: "));
    }
}
