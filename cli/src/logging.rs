//! Diagnostic messages: their level, their form, and the bridge from the `log` crate that Pingora speaks.
//! They go to standard error, and nobody waits for it; the proxy's access log is data and not written here.

mod queue;
mod text;

use std::fmt;
use std::io;
use std::str::FromStr;

use clap::ValueEnum;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// The least severe message that is written, in the words of the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level(LevelFilter);

impl FromStr for Level {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text.to_ascii_lowercase().as_str() {
            "debug" => LevelFilter::DEBUG,
            "info" => LevelFilter::INFO,
            "warn" | "warning" => LevelFilter::WARN,
            // Nothing here is more severe than an error: what is fatal ends the program with its own line.
            "error" | "fatal" | "panic" => LevelFilter::ERROR,
            _ => return Err("expected one of debug, info, warn, error, fatal, panic".to_owned()),
        }))
    }
}

/// The form of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// `key=value` for people.
    Text,
    /// One JSON object per line, with the field names of the ancestor (spec/registry.md 8).
    Json,
    /// The same with the field names that Logstash expects.
    Logstash,
}

/// What foreign libraries may say at most: their connection chatter is about clients, not about us.
const CHATTY: [(&str, LevelFilter); 6] = [
    // An instance that closes an idle connection is nobody's error: another connection is opened.
    ("pingora_core::connectors", LevelFilter::OFF),
    ("pingora", LevelFilter::WARN),
    ("h2", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
    ("rustls", LevelFilter::INFO),
    ("tower", LevelFilter::INFO),
];

/// Starts writing messages, and writes what is queued when the result is dropped. A second call changes nothing.
pub(crate) fn start(level: Level, format: LogFormat) -> impl Drop {
    let capped = CHATTY.map(|(target, most)| (target, most.min(level.0)));
    let targets = Targets::new().with_default(level.0).with_targets(capped);
    let (queue, written) = queue::start(io::stderr());
    let to_stderr = layer::<Registry>().with_writer(queue);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => to_stderr.event_format(text::Text).boxed(),
        LogFormat::Json => to_stderr.event_format(ANCESTOR).boxed(),
        LogFormat::Logstash => to_stderr.event_format(LOGSTASH).boxed(),
    };
    // Only a second subscriber fails, and then the first one goes on.
    let _ = tracing_subscriber::registry().with(layer).with(targets).try_init();
    written
}

/// What the fields of a message are called.
struct Names {
    time: &'static str,
    message: &'static str,
    version: Option<&'static str>,
}

const ANCESTOR: Names = Names { time: "time", message: "msg", version: None };
const LOGSTASH: Names = Names { time: "@timestamp", message: "message", version: Some("@version") };

impl<S, N> FormatEvent<S, N> for Names
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        // Messages of the `log` crate carry their own target.
        let bridged = fields.0.remove("log.target").and_then(|target| target.as_str().map(str::to_owned));
        for foreign in ["log.module_path", "log.file", "log.line"] {
            fields.0.remove(foreign);
        }
        let target = bridged.unwrap_or_else(|| event.metadata().target().to_owned());
        let said = fields.0.remove("message");
        let said = said.and_then(|said| said.as_str().map(str::to_owned)).unwrap_or_default();
        let level = event.metadata().level().to_string().to_ascii_lowercase();
        let own = [(self.time, time), (self.message, said), ("level", level), ("logger_name", target)];
        let version = self.version.map(|version| (version, "1".to_owned()));
        for (name, value) in own.into_iter().chain(version) {
            fields.0.insert(name.to_owned(), Value::String(value));
        }
        writeln!(to, "{}", Value::Object(fields.0))
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_spec_are_levels_and_others_are_refused() {
        for (word, level) in [
            ("debug", LevelFilter::DEBUG),
            ("INFO", LevelFilter::INFO),
            ("warning", LevelFilter::WARN),
            ("panic", LevelFilter::ERROR),
        ] {
            assert_eq!(word.parse(), Ok(Level(level)));
        }
        assert!("chatty".parse::<Level>().is_err());
        assert!("".parse::<Level>().is_err());
    }
}
