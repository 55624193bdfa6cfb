//! What a role says about a setting it cannot work with. The program adds where the value came from.

/// A setting that cannot be used; `setting` is the flag's name without dashes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct BadSetting {
    /// The flag's name, with underscores, as in `min_ttl`.
    pub setting: &'static str,
    /// What is wrong with it, as a lower-case fragment.
    pub problem: String,
}

impl BadSetting {
    /// Names the setting and the problem.
    pub fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}
