//! What an action rule does to a request: delay, abort, trace (spec/control-and-proxy.md 2.6).

use std::time::Duration;

use crate::route::positive;
use crate::rule::{BadRule, distinct};
use crate::share::Share;
use crate::wire::RawAction;

/// The key under which a trace without one is logged.
pub const LOG_KEY_DEFAULT: &str = "trace";

/// How an abort ends the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortCode {
    /// Answer with this status, 100 to 599.
    Status(u16),
    /// Close the client's connection without an answer; the number, -5 to -1, is kept as written.
    Close(i8),
}

/// One action. `tags`: run only if the chosen backend's tags contain all of them.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Action {
    /// Hold the request before going on.
    Delay { duration: Duration, probability: Share, tags: Vec<String> },
    /// Answer at once; no instance is called.
    Abort { code: AbortCode, probability: Share, tags: Vec<String> },
    /// Add a pair to the request's line in the access log.
    Trace { log_key: String, log_value: String, tags: Vec<String> },
}

impl Action {
    /// The tags that the chosen backend must carry.
    pub fn tags(&self) -> &[String] {
        match self {
            Self::Delay { tags, .. } | Self::Abort { tags, .. } | Self::Trace { tags, .. } => tags,
        }
    }

    /// The word of the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Delay { .. } => "delay",
            Self::Abort { .. } => "abort",
            Self::Trace { .. } => "trace",
        }
    }
}

impl TryFrom<RawAction> for Action {
    type Error = BadRule;
    fn try_from(raw: RawAction) -> Result<Self, BadRule> {
        let tags = distinct("actions.tags", raw.tags)?;
        let probability =
            Share::new(raw.probability).map_err(|e| BadRule::new("actions.probability", e.to_string()))?;
        // Zero means unset, which is always (spec 2.6).
        let probability = if probability.fraction() == 0.0 { Share::ALL } else { probability };
        let duration = positive("actions.duration", raw.duration)?;
        let (delays, draws, aborts) = (raw.duration != 0.0, raw.probability != 0.0, raw.return_code != 0);
        let traces = !raw.log_key.is_empty() || !raw.log_value.is_empty();
        let foreign = |field| Err(BadRule::new("actions", format!("`{}` takes no {field}", raw.action)));
        match raw.action.as_str() {
            "delay" if aborts => foreign("return_code"),
            "delay" | "abort" if traces => foreign("log_key or log_value"),
            "abort" | "trace" if delays => foreign("duration"),
            "trace" if draws => foreign("probability"),
            "trace" if aborts => foreign("return_code"),
            "delay" => match duration {
                Some(duration) => Ok(Self::Delay { duration, probability, tags }),
                None => Err(BadRule::new("actions.duration", "is missing")),
            },
            "abort" => Ok(Self::Abort { code: abort_code(raw.return_code)?, probability, tags }),
            "trace" => {
                let log_key = if raw.log_key.is_empty() { LOG_KEY_DEFAULT.to_owned() } else { raw.log_key };
                Ok(Self::Trace { log_key, log_value: raw.log_value, tags })
            }
            other => Err(BadRule::new("actions.action", format!("`{other}` is unknown"))),
        }
    }
}

fn abort_code(code: i64) -> Result<AbortCode, BadRule> {
    let refuse = || BadRule::new("actions.return_code", format!("{code} is outside 100..=599 and -5..=-1"));
    match code {
        100..=599 => u16::try_from(code).map(AbortCode::Status).map_err(|_| refuse()),
        -5..=-1 => i8::try_from(code).map(AbortCode::Close).map_err(|_| refuse()),
        _ => Err(refuse()),
    }
}

impl From<&Action> for RawAction {
    fn from(action: &Action) -> Self {
        let base = Self { action: action.kind().to_owned(), tags: action.tags().to_vec(), ..Self::default() };
        match action {
            Action::Delay { duration, probability, .. } => {
                Self { duration: duration.as_secs_f64(), probability: probability.fraction(), ..base }
            }
            Action::Abort { code, probability, .. } => Self {
                return_code: match code {
                    AbortCode::Status(status) => i64::from(*status),
                    AbortCode::Close(code) => i64::from(*code),
                },
                probability: probability.fraction(),
                ..base
            },
            Action::Trace { log_key, log_value, .. } => {
                Self { log_key: log_key.clone(), log_value: log_value.clone(), ..base }
            }
        }
    }
}
