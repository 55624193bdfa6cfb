//! The YAML file of `--config`: its keys, flattened to dotted paths, named as flags. It neither reads the
//! values nor knows which of them count; layering does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_yaml_ng::{Mapping, Value};

/// The values of a file by flag, each as the command line would write it.
pub(crate) type FileValues = BTreeMap<String, Vec<String>>;

/// `(path in the file, flag)`.
pub(crate) type FileKeys = &'static [(&'static str, &'static str)];

/// `(path in the file, fields)` of lists of mappings: each mapping is one value of the flag that the path leads to, the
/// values of its fields in this order with `=` between them.
pub(crate) type FileLists = &'static [(&'static str, &'static [&'static str])];

/// The largest file that is read.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Reads a file. `flags` are the flags of the role; `keys` further names for them; `lists` what may hold mappings.
pub(crate) fn read(
    path: &Path,
    keys: FileKeys,
    lists: FileLists,
    flags: &[String],
) -> Result<FileValues, String> {
    let unreadable = |error| format!("cannot read {}: {error}", path.display());
    let mut text = String::new();
    // Not every file says how long it is.
    let mut limited = File::open(path).map_err(unreadable)?.take(FILE_MAX_BYTES + 1);
    let size = limited.read_to_string(&mut text).map_err(unreadable)?;
    if size as u64 > FILE_MAX_BYTES {
        return Err(format!("{} is larger than {FILE_MAX_BYTES} bytes", path.display()));
    }
    values(&text, keys, lists, flags).map_err(|problem| format!("{}: {problem}", path.display()))
}

fn values(text: &str, keys: FileKeys, lists: FileLists, flags: &[String]) -> Result<FileValues, String> {
    let document: Value = serde_yaml_ng::from_str(text).map_err(|error| format!("no YAML: {error}"))?;
    let mut entries = Vec::new();
    match document {
        Value::Null => {}
        Value::Mapping(_) => flatten(String::new(), document, lists, &mut entries)?,
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

fn flatten(
    prefix: String,
    value: Value,
    lists: FileLists,
    into: &mut Vec<(String, Vec<String>)>,
) -> Result<(), String> {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                let Some(key) = scalar(&key) else {
                    return Err(format!("a key under `{prefix}` is no text"));
                };
                let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(path, value, lists, into)?;
            }
        }
        Value::Sequence(list) => {
            let fields = lists.iter().find(|(path, _)| *path == prefix).map(|(_, fields)| *fields);
            let word = |(at, value): (usize, &Value)| match (fields, value) {
                (Some(fields), Value::Mapping(map)) => joined(map, fields, &format!("{prefix}[{at}]")),
                _ => scalar(value).ok_or(format!("`{prefix}` is no list of plain values")),
            };
            let words = list.iter().enumerate().map(word).collect::<Result<_, _>>()?;
            into.push((prefix, words));
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

/// One value of a flag from all fields of a mapping.
fn joined(map: &Mapping, fields: &[&str], path: &str) -> Result<String, String> {
    let unknown = map.keys().find(|key| !fields.iter().any(|field| key.as_str() == Some(field)));
    if let Some(key) = unknown {
        let key = scalar(key).unwrap_or_default();
        return Err(format!("unknown key `{path}.{key}`"));
    }
    let words = fields.iter().map(|field| match map.get(field) {
        None | Some(Value::Null) => Err(format!("`{path}` has no `{field}`")),
        Some(value) => scalar(value).ok_or(format!("`{path}.{field}` is no plain value")),
    });
    Ok(words.collect::<Result<Vec<_>, _>>()?.join("="))
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
        ("proxy_config.listeners", "listeners"),
    ];
    const LISTS: FileLists = &[("proxy_config.listeners", &["whose", "port"])];

    fn read_text(text: &str) -> Result<FileValues, String> {
        let flags = ["registry_url", "http_listener_port", "service", "service_tags", "proxy", "listeners"];
        values(text, KEYS, LISTS, &flags.map(str::to_owned))
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
            (
                "proxy_config: {listeners: [{whose: 'a:v=1', port: 80}, {port: 0, whose: b}, c=1]}",
                "listeners",
                vec!["a:v=1=80", "b=0", "c=1"],
            ),
            ("proxy_config: {listeners: []}\nlisteners: [c=1]", "listeners", vec!["c=1"]),
        ] {
            let expected: Vec<String> = words.into_iter().map(str::to_owned).collect();
            assert_eq!(read_text(text).unwrap().get(flag), Some(&expected), "{text}");
        }
        assert_eq!(read_text("").unwrap().len(), 0);
        assert_eq!(read_text("registry: {url: }").unwrap().len(), 0);
    }

    #[test]
    fn a_file_without_an_end_is_too_large() {
        let problem = read(Path::new("/dev/zero"), KEYS, LISTS, &[]).unwrap_err();
        assert_eq!(problem, "/dev/zero is larger than 1048576 bytes");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, problem) in [
            ("registry: {uri: x}", "unknown key `registry.uri`"),
            ("nonsense: 1", "unknown key `nonsense`"),
            ("- a", "the document is no mapping of settings"),
            ("proxy: [[1]]", "`proxy` is no list of plain values"),
            ("registry: {url: [{a: b}]}", "`registry.url` is no list of plain values"),
            (
                "proxy_config: {listeners: [c=1, {whose: a, port: 1, x: 2}]}",
                "unknown key `proxy_config.listeners[1].x`",
            ),
            ("proxy_config: {listeners: [{whose: a}]}", "`proxy_config.listeners[0]` has no `port`"),
            ("proxy_config: {listeners: [{whose: , port: 1}]}", "`proxy_config.listeners[0]` has no `whose`"),
            (
                "proxy_config: {listeners: [{whose: [a], port: 1}]}",
                "`proxy_config.listeners[0].whose` is no plain value",
            ),
            ("{registry: {url: x}, registry_url: y}", "`registry_url` is given twice under different names"),
        ] {
            assert_eq!(read_text(text).unwrap_err(), problem, "{text}");
        }
        assert!(read_text("a: [").unwrap_err().starts_with("no YAML: "));
    }
}
