//! What an action rule does to a request: delay, abort, slow down, cut off, trace (spec/control-and-proxy.md 2.6,
//! docs/rules.md). It says what; drawing and performing are routing's and the engines'.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use crate::moment::Moment;
use crate::route::positive;
use crate::rule::{BadRule, distinct};
use crate::share::Share;
use crate::wire::{RawAction, RawExponential, RawNormal, RawUniform};

/// The key under which a trace without one is logged.
pub const LOG_KEY_DEFAULT: &str = "trace";
/// The highest `grpc_status` there is.
const GRPC_STATUS_MAX: i64 = 16;

/// How an abort ends the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortCode {
    /// Answer with this status, 100 to 599.
    Status(u16),
    /// Close the client's connection without an answer; the number, -5 to -1, is kept as written.
    Close(i8),
    /// Reset the client's connection.
    Reset,
    /// Answer as a gRPC call that ended with this status, 1 to 16.
    Grpc(u8),
}

/// How long a delay is; the lengths of different requests follow this distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Length {
    /// Always the same.
    Fixed(Duration),
    /// Every length between the two is equally likely.
    Uniform { min: Duration, max: Duration },
    /// The bell curve; what would be below zero is zero.
    Normal { mean: Duration, stddev: Duration },
    /// Mostly short, sometimes long.
    Exponential { mean: Duration },
}

/// Which requests meet a fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Chance {
    /// The share of those that the rule applies to.
    pub probability: Share,
    /// What ends it.
    pub limits: Limits,
}

/// What keeps a fault from happening although its chance says so. Proxies count each for themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Only the first so many requests that its chance chooses meet it.
    pub first: Option<NonZeroU64>,
    /// Only so many requests meet it at the same time.
    pub max_concurrent: Option<NonZeroU32>,
    /// It never happens at or after this moment.
    pub expires_at: Option<Moment>,
    /// How long it was to last, as written; already part of `expires_at`.
    pub duration: Option<Duration>,
}

/// One action. `tags`: run only if the chosen backend's tags contain all of them.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Action {
    /// Hold the request before going on.
    Delay { length: Length, chance: Chance, tags: Vec<String> },
    /// Answer at once; no instance is called.
    Abort { code: AbortCode, chance: Chance, tags: Vec<String> },
    /// Send the body of the answer no faster than this.
    Bandwidth { bytes_per_s: NonZeroU64, chance: Chance, tags: Vec<String> },
    /// End the connection after this much of the answer's body.
    Truncate { after_bytes: u64, chance: Chance, tags: Vec<String> },
    /// Add a pair to the request's line in the access log.
    Trace { log_key: String, log_value: String, tags: Vec<String> },
}

impl Action {
    /// The tags that the chosen backend must carry.
    pub fn tags(&self) -> &[String] {
        match self {
            Self::Delay { tags, .. }
            | Self::Abort { tags, .. }
            | Self::Bandwidth { tags, .. }
            | Self::Truncate { tags, .. }
            | Self::Trace { tags, .. } => tags,
        }
    }

    /// Which requests meet it; `None` for a trace, which is no fault and always happens.
    pub fn chance(&self) -> Option<&Chance> {
        match self {
            Self::Delay { chance, .. }
            | Self::Abort { chance, .. }
            | Self::Bandwidth { chance, .. }
            | Self::Truncate { chance, .. } => Some(chance),
            Self::Trace { .. } => None,
        }
    }

    /// The word of the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Delay { .. } => "delay",
            Self::Abort { .. } => "abort",
            Self::Bandwidth { .. } => "bandwidth",
            Self::Truncate { .. } => "truncate",
            Self::Trace { .. } => "trace",
        }
    }
}

impl Limits {
    /// Whether a proxy has to count requests for it.
    pub fn is_counted(&self) -> bool {
        self.first.is_some() || self.max_concurrent.is_some()
    }

    /// Whether it is over at this time, in seconds since 1970.
    pub fn is_over(&self, now_unix_s: impl FnOnce() -> u64) -> bool {
        self.expires_at.as_ref().is_some_and(|end| now_unix_s() >= end.unix_s())
    }
}

const LENGTHS: [&str; 4] = ["duration", "uniform", "normal", "exponential"];
const CODES: [&str; 3] = ["return_code", "reset", "grpc_status"];
const CHANCE: [&str; 5] = ["probability", "first", "max_concurrent", "duration_s", "expires_at"];
const LOG: [&str; 2] = ["log_key", "log_value"];

impl TryFrom<RawAction> for Action {
    type Error = BadRule;
    fn try_from(raw: RawAction) -> Result<Self, BadRule> {
        distinct("actions.tags", &raw.tags)?;
        let own: &[&[&str]] = match raw.action.as_str() {
            "delay" => &[&LENGTHS, &CHANCE],
            "abort" => &[&CODES, &CHANCE],
            "bandwidth" => &[&["bytes_per_s"], &CHANCE],
            "truncate" => &[&["after_bytes"], &CHANCE],
            "trace" => &[&LOG],
            other => return Err(BadRule::new("actions.action", format!("`{other}` is unknown"))),
        };
        let given = given(&raw);
        if let Some(foreign) = given.iter().find(|field| !own.iter().any(|list| list.contains(field))) {
            return Err(BadRule::new("actions", format!("`{}` takes no {foreign}", raw.action)));
        }
        let one_of = |fields: &[&str]| {
            let count = given.iter().filter(|field| fields.contains(field)).count();
            let problem = || format!("`{}` takes one of {}", raw.action, fields.join(", "));
            if count > 1 { Err(BadRule::new("actions", problem())) } else { Ok(()) }
        };
        one_of(&LENGTHS)?;
        one_of(&CODES)?;
        Ok(match raw.action.as_str() {
            "delay" => Self::Delay { length: length(&raw)?, chance: chance(&raw)?, tags: raw.tags },
            "abort" => Self::Abort { code: abort_code(&raw)?, chance: chance(&raw)?, tags: raw.tags },
            "bandwidth" => Self::Bandwidth {
                bytes_per_s: count("actions.bytes_per_s", raw.bytes_per_s)?
                    .ok_or_else(|| BadRule::new("actions.bytes_per_s", "is missing"))?,
                chance: chance(&raw)?,
                tags: raw.tags,
            },
            "truncate" => Self::Truncate {
                after_bytes: u64::try_from(
                    raw.after_bytes.ok_or_else(|| BadRule::new("actions.after_bytes", "is missing"))?,
                )
                .map_err(|_| BadRule::new("actions.after_bytes", "is negative"))?,
                chance: chance(&raw)?,
                tags: raw.tags,
            },
            _ => {
                let log_key = if raw.log_key.is_empty() { LOG_KEY_DEFAULT.to_owned() } else { raw.log_key };
                Self::Trace { log_key, log_value: raw.log_value, tags: raw.tags }
            }
        })
    }
}

/// The fields that are there, beside `action` and `tags`.
fn given(raw: &RawAction) -> Vec<&'static str> {
    [
        ("duration", raw.duration != 0.0),
        ("uniform", raw.uniform.is_some()),
        ("normal", raw.normal.is_some()),
        ("exponential", raw.exponential.is_some()),
        ("return_code", raw.return_code != 0),
        ("reset", raw.reset),
        ("grpc_status", raw.grpc_status != 0),
        ("bytes_per_s", raw.bytes_per_s != 0),
        ("after_bytes", raw.after_bytes.is_some()),
        ("probability", raw.probability != 0.0),
        ("first", raw.first != 0),
        ("max_concurrent", raw.max_concurrent != 0),
        ("duration_s", raw.duration_s != 0.0),
        ("expires_at", !raw.expires_at.is_empty()),
        ("log_key", !raw.log_key.is_empty()),
        ("log_value", !raw.log_value.is_empty()),
    ]
    .into_iter()
    .filter_map(|(field, is_given)| is_given.then_some(field))
    .collect()
}

fn length(raw: &RawAction) -> Result<Length, BadRule> {
    let time = |field, seconds| Ok(positive(field, seconds)?.unwrap_or_default());
    let some = |field, seconds| positive(field, seconds)?.ok_or_else(|| BadRule::new(field, "is missing"));
    if let Some(uniform) = &raw.uniform {
        let field = "actions.uniform";
        let (min, max) = (time(field, uniform.min)?, some(field, uniform.max)?);
        return if min <= max {
            Ok(Length::Uniform { min, max })
        } else {
            Err(BadRule::new(field, "min is more than max"))
        };
    }
    if let Some(normal) = &raw.normal {
        let field = "actions.normal";
        return Ok(Length::Normal { mean: some(field, normal.mean)?, stddev: time(field, normal.stddev)? });
    }
    if let Some(exponential) = &raw.exponential {
        return Ok(Length::Exponential { mean: some("actions.exponential", exponential.mean)? });
    }
    Ok(Length::Fixed(some("actions.duration", raw.duration)?))
}

fn abort_code(raw: &RawAction) -> Result<AbortCode, BadRule> {
    if raw.reset {
        return Ok(AbortCode::Reset);
    }
    if raw.grpc_status != 0 {
        let problem = || format!("{} is outside 1..={GRPC_STATUS_MAX}", raw.grpc_status);
        return match u8::try_from(raw.grpc_status) {
            Ok(status) if i64::from(status) <= GRPC_STATUS_MAX => Ok(AbortCode::Grpc(status)),
            _ => Err(BadRule::new("actions.grpc_status", problem())),
        };
    }
    let code = raw.return_code;
    let refuse = || BadRule::new("actions.return_code", format!("{code} is outside 100..=599 and -5..=-1"));
    match code {
        100..=599 => u16::try_from(code).map(AbortCode::Status).map_err(|_| refuse()),
        -5..=-1 => i8::try_from(code).map(AbortCode::Close).map_err(|_| refuse()),
        _ => Err(refuse()),
    }
}

fn chance(raw: &RawAction) -> Result<Chance, BadRule> {
    let probability =
        Share::new(raw.probability).map_err(|e| BadRule::new("actions.probability", e.to_string()))?;
    // Zero means unset, which is always (spec 2.6).
    let probability = if probability.fraction() == 0.0 { Share::ALL } else { probability };
    let max_concurrent = count("actions.max_concurrent", raw.max_concurrent)?;
    let max_concurrent = max_concurrent.map(|count| NonZeroU32::try_from(count).unwrap_or(NonZeroU32::MAX));
    let moment = || {
        let problem = format!("`{}` is no moment; write 2026-01-31T12:00:00Z", raw.expires_at);
        Moment::parse(&raw.expires_at).ok_or_else(|| BadRule::new("actions.expires_at", problem))
    };
    let expires_at = if raw.expires_at.is_empty() { None } else { Some(moment()?) };
    let duration = positive("actions.duration_s", raw.duration_s)?;
    if duration.is_some() && expires_at.is_none() {
        // Otherwise a proxy that is handed the rule later would begin to count anew.
        return Err(BadRule::new("actions.duration_s", "needs the expires_at that control adds to it"));
    }
    let first = count("actions.first", raw.first)?;
    Ok(Chance { probability, limits: Limits { first, max_concurrent, expires_at, duration } })
}

/// Zero is absent.
fn count(field: &'static str, number: i64) -> Result<Option<NonZeroU64>, BadRule> {
    u64::try_from(number).map(NonZeroU64::new).map_err(|_| BadRule::new(field, "is negative"))
}

impl From<&Action> for RawAction {
    fn from(action: &Action) -> Self {
        let base = Self { action: action.kind().to_owned(), tags: action.tags().to_vec(), ..Self::default() };
        let base = action.chance().map_or(base.clone(), |chance| with_chance(base, chance));
        match action {
            Action::Delay { length, .. } => with_length(base, *length),
            Action::Abort { code, .. } => match code {
                AbortCode::Status(status) => Self { return_code: i64::from(*status), ..base },
                AbortCode::Close(code) => Self { return_code: i64::from(*code), ..base },
                AbortCode::Reset => Self { reset: true, ..base },
                AbortCode::Grpc(status) => Self { grpc_status: i64::from(*status), ..base },
            },
            Action::Bandwidth { bytes_per_s, .. } => Self { bytes_per_s: signed(bytes_per_s.get()), ..base },
            Action::Truncate { after_bytes, .. } => Self { after_bytes: Some(signed(*after_bytes)), ..base },
            Action::Trace { log_key, log_value, .. } => {
                Self { log_key: log_key.clone(), log_value: log_value.clone(), ..base }
            }
        }
    }
}

fn with_chance(base: RawAction, chance: &Chance) -> RawAction {
    let Limits { first, max_concurrent, expires_at, duration } = &chance.limits;
    RawAction {
        probability: chance.probability.fraction(),
        first: first.map_or(0, |count| signed(count.get())),
        max_concurrent: max_concurrent.map_or(0, |count| i64::from(count.get())),
        expires_at: expires_at.as_ref().map(|end| end.as_str().to_owned()).unwrap_or_default(),
        duration_s: duration.map_or(0.0, |time| time.as_secs_f64()),
        ..base
    }
}

fn with_length(base: RawAction, length: Length) -> RawAction {
    let s = |time: Duration| time.as_secs_f64();
    match length {
        Length::Fixed(duration) => RawAction { duration: s(duration), ..base },
        Length::Uniform { min, max } => {
            RawAction { uniform: Some(RawUniform { min: s(min), max: s(max) }), ..base }
        }
        Length::Normal { mean, stddev } => {
            RawAction { normal: Some(RawNormal { mean: s(mean), stddev: s(stddev) }), ..base }
        }
        Length::Exponential { mean } => {
            RawAction { exponential: Some(RawExponential { mean: s(mean) }), ..base }
        }
    }
}

/// Read from a signed number, so it fits.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
