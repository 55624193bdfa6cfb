//! JSON or XML: which one a request carries and which one it wants back (spec/registry.md 3.3). What is in
//! them is for others.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use super::compat::Compat;

/// How bodies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Format {
    Json,
    Xml,
}

impl Format {
    /// The format of the answer; the first rule that fits.
    pub fn wanted(headers: &HeaderMap, compat: Compat) -> Self {
        let says = |name, word| {
            headers.get_all(name).iter().any(|value| {
                let text = value.to_str().unwrap_or_default();
                text.to_ascii_lowercase().contains(word)
            })
        };
        if says(ACCEPT, "json") {
            Self::Json
        } else if says(ACCEPT, "xml") {
            Self::Xml
        } else if says(CONTENT_TYPE, "json") || compat == Compat::Amalgam8 {
            Self::Json
        } else {
            Self::Xml
        }
    }

    /// The format of the request's body; which types are let in at all was decided before.
    pub fn sent(headers: &HeaderMap) -> Self {
        let label = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = label.split(';').next().unwrap_or_default().trim();
        if is_xml(media_type) { Self::Xml } else { Self::Json }
    }

    /// The content type.
    pub fn label(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::Xml => "application/xml; charset=utf-8",
        }
    }
}

/// Whether a media type without parameters is XML.
pub fn is_xml(media_type: &str) -> bool {
    ["application/xml", "text/xml"].iter().any(|xml| media_type.eq_ignore_ascii_case(xml))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn section_3_3_the_first_rule_that_fits_decides() {
        use Compat::{Amalgam8, Netflix};
        for (accept, content_type, compat, format) in [
            ("application/json", "", Netflix, Format::Json),
            ("application/json, application/*+json", "application/xml", Netflix, Format::Json),
            ("application/xml", "application/json", Netflix, Format::Xml),
            ("text/xml, application/json", "", Netflix, Format::Json),
            ("", "application/json", Netflix, Format::Json),
            ("*/*", "application/json", Netflix, Format::Json),
            ("*/*", "", Netflix, Format::Xml),
            ("", "", Netflix, Format::Xml),
            ("", "", Amalgam8, Format::Json),
            ("application/xml", "", Amalgam8, Format::Xml),
        ] {
            let mut headers = HeaderMap::new();
            for (name, text) in [(ACCEPT, accept), (CONTENT_TYPE, content_type)] {
                if !text.is_empty() {
                    headers.insert(name, HeaderValue::from_static(text));
                }
            }
            assert_eq!(Format::wanted(&headers, compat), format, "{accept} {content_type} {compat:?}");
        }
    }
}
