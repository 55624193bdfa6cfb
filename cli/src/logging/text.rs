//! Messages as `key=value`, as the ancestor has them (spec/registry.md 8): for people, and for `grep`. Whatever a client
//! says stays on its line and within its quotes.

use std::fmt::{self, Write};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Time, level and message, then what this message has, and who wrote it.
pub(super) struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut pairs = Pairs::default();
        event.record(&mut pairs);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warn",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        };
        to.write_str("time=")?;
        SystemTime.format_time(&mut to)?;
        write!(to, " level={level} msg=")?;
        put(&mut to, &pairs.message)?;
        to.write_str(&pairs.rest)?;
        to.write_str(" logger_name=")?;
        // Messages of the `log` crate carry their own target.
        put(&mut to, pairs.target.as_deref().unwrap_or(event.metadata().target()))?;
        to.write_char('\n')
    }
}

#[derive(Default)]
struct Pairs {
    message: String,
    target: Option<String>,
    rest: String,
}

impl Pairs {
    fn add(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            "log.target" => self.target = Some(value.to_owned()),
            "log.module_path" | "log.file" | "log.line" => {}
            name => {
                let written = write!(self.rest, " {name}=").and_then(|()| put(&mut self.rest, value));
                written.expect("writing to memory does not fail");
            }
        }
    }
}

impl Visit for Pairs {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }
}

/// A value as it is where nobody can misread it, and otherwise as in JSON.
fn put(to: &mut impl Write, value: &str) -> fmt::Result {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@^+:[]".contains(&byte);
    if !value.is_empty() && value.bytes().all(is_plain) {
        return to.write_str(value);
    }
    let text = Value::from(value).to_string();
    for c in text.chars() {
        // JSON leaves these as they are, and terminals do not.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            write!(to, "\\u{:04x}", u32::from(c))?;
        } else {
            to.write_char(c)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_8_a_value_is_quoted_where_it_could_be_misread() {
        for (value, written) in [
            ("blue.green", "blue.green"),
            ("a\u{7f}b\u{9b}c\u{2028}", r#""a\u007fb\u009bc\u2028""#),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("", r#""""#),
            ("two words", r#""two words""#),
            ("a\nlevel=error", r#""a\nlevel=error""#),
            ("\u{1b}[31m\"", r#""\u001b[31m\"""#),
        ] {
            let mut text = String::new();
            put(&mut text, value).unwrap();
            assert_eq!(text, written);
        }
    }
}
