//! What is told apart by labels with few values: faults, ejections, checks, copies. Names of services and rules are others'.

/// What an injected fault did, as in the label `action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request was held.
    Delay,
    /// The request was failed.
    Abort,
    /// The body of the answer was slowed down.
    Bandwidth,
    /// The body of the answer was cut off.
    Truncate,
}

impl Fault {
    /// Each.
    pub const ALL: [Self; 4] = [Self::Delay, Self::Abort, Self::Bandwidth, Self::Truncate];

    /// As in the label `action`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Bandwidth => "bandwidth",
            Self::Truncate => "truncate",
        }
    }
}

/// What a check found, as in the label `result`.
pub(super) const HEALTH_RESULTS: [&str; 2] = ["failure", "success"];

/// Why an instance was ejected, as in the label `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejection {
    /// It failed so many times in a row.
    ConsecutiveErrors,
    /// It failed more often than the others.
    SuccessRate,
}

impl Ejection {
    pub(super) const ALL: [Self; 2] = [Self::ConsecutiveErrors, Self::SuccessRate];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_errors",
            Self::SuccessRate => "success_rate",
        }
    }
}

/// Why a copy of a request did not reach its mirror, as in the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyLost {
    /// The request's body is longer than what is kept.
    BodyTooLarge,
    /// All copies together hold too much.
    NoRoom,
    /// Too many wait already.
    QueueFull,
    /// The request ended before its body did.
    Incomplete,
    /// The request asked for another protocol.
    Upgrade,
    /// The request is a copy itself.
    Copy,
    /// The mirror could not be reached, or did not answer in time.
    Failed,
}

impl CopyLost {
    pub(super) const ALL: [Self; 7] = [
        Self::BodyTooLarge,
        Self::NoRoom,
        Self::QueueFull,
        Self::Incomplete,
        Self::Upgrade,
        Self::Copy,
        Self::Failed,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::BodyTooLarge => "body_too_large",
            Self::NoRoom => "no_room",
            Self::QueueFull => "queue_full",
            Self::Incomplete => "incomplete",
            Self::Upgrade => "upgrade",
            Self::Copy => "copy",
            Self::Failed => "failed",
        }
    }
}
