//! Eureka's XML in both directions (spec/registry.md 3.8). Reading turns a document into the JSON that says the same,
//! so that only one reader judges; it knows no DTD and no entities but the predefined ones.

use std::fmt::Write;

use quick_xml::Reader;
use quick_xml::escape::{resolve_predefined_entity, unescape};
use quick_xml::events::{BytesStart, Event};
use serde_json::{Map, Value};

use super::show::{Shown, ShownLease, ShownPort};

/// How deep elements may be nested.
pub const DEPTH_MAX: usize = 16;
/// How many elements a document may have.
pub const ELEMENTS_MAX: usize = 4_096;

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadXml {
    /// It is no UTF-8.
    #[error("it is not UTF-8")]
    NotText,
    /// It is no XML.
    #[error("{0}")]
    Malformed(String),
    /// It declares a document type.
    #[error("a document type is not taken")]
    DocType,
    /// It refers to something that is not predefined.
    #[error("only the predefined entities are known")]
    Entity,
    /// Elements in elements in elements.
    #[error("it is nested deeper than {DEPTH_MAX} elements")]
    TooDeep,
    /// Too many elements.
    #[error("it has more than {ELEMENTS_MAX} elements")]
    TooMany,
    /// There is not exactly one element around everything.
    #[error("it has no single root element")]
    Rootless,
}

#[derive(Default)]
struct Element {
    name: String,
    text: String,
    // Attributes, as `@name`, and children.
    parts: Map<String, Value>,
    has_children: bool,
}

impl Element {
    fn begin(start: &BytesStart<'_>) -> Result<Self, BadXml> {
        let mut element = Self { name: start.name().as_ref().to_owned(), ..Self::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|problem| BadXml::Malformed(problem.to_string()))?;
            let value = unescape(&attribute.value).map_err(|_| BadXml::Entity)?;
            element.parts.insert(format!("@{}", attribute.key.as_ref()), value.into());
        }
        Ok(element)
    }

    /// Text alone is text; with attributes it is the member `$`, and beside children it means nothing.
    fn end(mut self) -> (String, Value) {
        if self.parts.is_empty() {
            return (self.name, Value::String(self.text));
        }
        if !self.has_children && !self.text.trim().is_empty() {
            self.parts.insert("$".to_owned(), Value::String(self.text));
        }
        (self.name, Value::Object(self.parts))
    }
}

/// The JSON that says the same as a document. Of equal elements in one place the last counts.
pub fn to_json(bytes: &[u8]) -> Result<Vec<u8>, BadXml> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadXml::NotText)?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut elements = 0;
    loop {
        match reader.read_event().map_err(|problem| BadXml::Malformed(problem.to_string()))? {
            Event::Start(start) => {
                elements += 1;
                if elements > ELEMENTS_MAX {
                    return Err(BadXml::TooMany);
                }
                if open.len() >= DEPTH_MAX {
                    return Err(BadXml::TooDeep);
                }
                if root.is_some() {
                    return Err(BadXml::Rootless);
                }
                open.push(Element::begin(&start)?);
            }
            // The reader has checked that the names fit.
            Event::End(_) => {
                let Some((name, value)) = open.pop().map(Element::end) else { return Err(BadXml::Rootless) };
                match open.last_mut() {
                    Some(parent) => {
                        parent.has_children = true;
                        parent.parts.insert(name, value);
                    }
                    None => root = Some((name, value)),
                }
            }
            Event::Text(text) => say(&mut open, &text)?,
            Event::CData(text) => say(&mut open, &text)?,
            Event::GeneralRef(reference) => {
                let said = match reference.resolve_char_ref() {
                    Ok(Some(character)) => character.to_string(),
                    Ok(None) => resolve_predefined_entity(&reference).ok_or(BadXml::Entity)?.to_owned(),
                    Err(_) => return Err(BadXml::Entity),
                };
                say(&mut open, &said)?;
            }
            Event::DocType(_) => return Err(BadXml::DocType),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Empty(_) => {}
            Event::Eof => break,
        }
    }
    let (name, value) = root.filter(|_| open.is_empty()).ok_or(BadXml::Rootless)?;
    let document = Value::Object(Map::from_iter([(name, value)]));
    Ok(serde_json::to_vec(&document).expect("a value always encodes"))
}

fn say(open: &mut [Element], text: &str) -> Result<(), BadXml> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(BadXml::Rootless),
    }
    Ok(())
}

/// Writes an element with text.
pub fn element(out: &mut String, name: &str, text: &str) {
    let _ = write!(out, "<{name}>");
    push_text(out, text);
    let _ = write!(out, "</{name}>");
}

/// Writes an instance.
pub fn instance(out: &mut String, shown: &Shown<'_>) {
    out.push_str("<instance>");
    element(out, "instanceId", &shown.instance_id);
    element(out, "hostName", &shown.host_name);
    element(out, "app", &shown.app);
    element(out, "appGroupName", &shown.app_group_name);
    element(out, "ipAddr", &shown.ip_addr);
    element(out, "status", shown.status);
    element(out, "overriddenstatus", &shown.overridden);
    port(out, "port", shown.port);
    port(out, "securePort", shown.secure_port);
    element(out, "countryId", &shown.country_id.to_string());
    object(out, "dataCenterInfo", &shown.data_center_info);
    lease(out, shown.lease_info);
    if shown.metadata.pairs().is_empty() {
        out.push_str("<metadata class=\"java.util.Collections$EmptyMap\"/>");
    } else {
        object(out, "metadata", shown.metadata.pairs());
    }
    for (name, text) in [
        ("homePageUrl", &shown.home_page_url),
        ("statusPageUrl", &shown.status_page_url),
        ("healthCheckUrl", &shown.health_check_url),
        ("secureHealthCheckUrl", &shown.secure_health_check_url),
        ("vipAddress", &shown.vip_address),
        ("secureVipAddress", &shown.secure_vip_address),
    ] {
        if !text.is_empty() {
            element(out, name, text);
        }
    }
    element(out, "isCoordinatingDiscoveryServer", shown.is_coordinating_discovery_server);
    element(out, "lastUpdatedTimestamp", &shown.last_updated_timestamp);
    element(out, "lastDirtyTimestamp", &shown.last_dirty_timestamp);
    element(out, "actionType", shown.action_type);
    for (name, text) in [("asgName", &shown.asg_name), ("sid", &shown.sid)] {
        if !text.is_empty() {
            element(out, name, text);
        }
    }
    out.push_str("</instance>");
}

fn port(out: &mut String, name: &str, port: ShownPort) {
    let _ = write!(out, "<{name} enabled=\"{}\">{}</{name}>", port.enabled, port.number);
}

fn lease(out: &mut String, lease: ShownLease) {
    out.push_str("<leaseInfo>");
    for (name, number) in [
        ("renewalIntervalInSecs", lease.renewal_interval_in_secs.into()),
        ("durationInSecs", lease.duration_in_secs.into()),
        ("registrationTimestamp", lease.registration_timestamp),
        ("lastRenewalTimestamp", lease.last_renewal_timestamp),
        ("evictionTimestamp", lease.eviction_timestamp),
        ("serviceUpTimestamp", lease.service_up_timestamp),
    ] {
        let _ = write!(out, "<{name}>{number}</{name}>");
    }
    out.push_str("</leaseInfo>");
}

/// Members as elements, those with `@` as attributes. What has no legal name is left out.
fn object(out: &mut String, name: &str, map: &Map<String, Value>) {
    let _ = write!(out, "<{name}");
    for (key, value) in map {
        if let (Some(key), Some(text)) = (key.strip_prefix('@').filter(|key| is_name(key)), scalar(value)) {
            let _ = write!(out, " {key}=\"");
            push_text(out, &text);
            out.push('"');
        }
    }
    out.push('>');
    for (key, value) in map.iter().filter(|(key, _)| is_name(key)) {
        content(out, key, value);
    }
    let _ = write!(out, "</{name}>");
}

fn content(out: &mut String, name: &str, value: &Value) {
    match value {
        Value::Object(map) => object(out, name, map),
        Value::Array(items) => items.iter().for_each(|item| content(out, name, item)),
        other => element(out, name, &scalar(other).unwrap_or_default()),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => Some(String::new()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A colon would name a namespace that nobody declares, so it is none of the letters here.
fn is_name(text: &str) -> bool {
    let begins = |first: char| first.is_ascii_alphabetic() || first == '_';
    text.chars().next().is_some_and(begins)
        && text.chars().all(|letter| begins(letter) || letter.is_ascii_digit() || matches!(letter, '-' | '.'))
}

/// Text and attribute values alike; characters that no XML document can hold are left out.
fn push_text(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\r' => out.push_str("&#13;"),
            '\n' | '\t' => out.push(character),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, BadXml> {
        to_json(text.as_bytes()).map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn section_3_8_a_document_becomes_the_json_that_says_the_same() {
        let text = r#"<?xml version="1.0"?><!-- c --><instance><hostName>a&amp;b &#x41;</hostName><app/>
            <port enabled="true">80</port><leaseInfo><durationInSecs>90</durationInSecs></leaseInfo>
            <metadata class="java.util.Collections$EmptyMap"/><sid><![CDATA[<x>]]></sid></instance>"#;
        let expected = json!({"instance": {
            "hostName": "a&b A", "app": "", "port": {"@enabled": "true", "$": "80"},
            "leaseInfo": {"durationInSecs": "90"},
            "metadata": {"@class": "java.util.Collections$EmptyMap"}, "sid": "<x>"}});
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn what_could_harm_is_refused() {
        let deep = "<a>".repeat(DEPTH_MAX + 1) + &"</a>".repeat(DEPTH_MAX + 1);
        let wide = format!("<a>{}</a>", "<b/>".repeat(ELEMENTS_MAX));
        for (text, problem) in [
            (r#"<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>"#, BadXml::DocType),
            ("<a>&x;</a>", BadXml::Entity),
            ("<a b='&x;'/>", BadXml::Entity),
            ("<a>&#0;</a>", BadXml::Entity),
            (&deep, BadXml::TooDeep),
            (&wide, BadXml::TooMany),
            ("<a/><b/>", BadXml::Rootless),
            ("text", BadXml::Rootless),
            ("", BadXml::Rootless),
            ("<a>", BadXml::Rootless),
        ] {
            assert_eq!(read(text), Err(problem), "{:.60}", text);
        }
        for text in ["<a></b>", "<a", "</a>", "<a b=c/>", "<a b='1' b='2'/>"] {
            assert!(matches!(read(text), Err(BadXml::Malformed(_))), "{text}");
        }
        assert_eq!(to_json(b"<a>\xff</a>"), Err(BadXml::NotText));
    }

    #[test]
    fn what_has_no_legal_name_is_left_out_and_texts_are_escaped() {
        let map = json!({"a.b-c": "<&>\"'\r\u{1}", "1a": "x", "a:b": "x", "": "x", "a b": "x", "@class": "c\"d",
            "n": {"m": [1, true, null]}});
        let mut out = String::new();
        object(&mut out, "metadata", map.as_object().unwrap());
        assert_eq!(
            out,
            "<metadata class=\"c&quot;d\"><a.b-c>&lt;&amp;&gt;&quot;&apos;&#13;</a.b-c>\
             <n><m>1</m><m>true</m><m></m></n></metadata>"
        );
    }
}
