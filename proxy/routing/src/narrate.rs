//! An explanation as text for people: one line per thing that was looked at, the outcome last. It adds
//! nothing to what the explanation holds.

use std::fmt;

use crate::explain::{ActionNote, AddressedBy, BackendNote, End, Explanation, RuleNote};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.service, self.addressed_by) {
            (Some(service), Some(AddressedBy::Uri)) => writeln!(f, "service {service}, captured by uri")?,
            (Some(service), Some(AddressedBy::Edge)) => writeln!(f, "service {service}, named by edge")?,
            (Some(service), Some(AddressedBy::Host)) => writeln!(f, "service {service}, named by host")?,
            (Some(service), _) => writeln!(f, "service {service}")?,
            (None, _) => writeln!(f, "no service")?,
        }
        self.rules.iter().try_for_each(|rule| self.rule(f, "rule", rule))?;
        self.sticky.iter().try_for_each(|key| writeln!(f, "sticky by {key}"))?;
        if let Some(draw) = self.draw.filter(|_| self.backends.len() > 1) {
            writeln!(f, "draw {draw:.4}")?;
        }
        self.backends.iter().try_for_each(|backend| writeln!(f, "{backend}"))?;
        self.policies.iter().try_for_each(|policy| writeln!(f, "{policy}"))?;
        self.headers.iter().try_for_each(|edit| writeln!(f, "header {edit}"))?;
        if let Some(lb) = self.lb_type.filter(|_| !self.instances.is_empty()) {
            let places = self.instances.iter().map(|instance| {
                let state = instance.state.map(|state| format!(" ({state})")).unwrap_or_default();
                format!("{} {}{state}", instance.id, instance.address)
            });
            writeln!(f, "{lb} over {}", places.collect::<Vec<_>>().join(", "))?;
        }
        self.action_rules.iter().try_for_each(|rule| self.rule(f, "action rule", rule))?;
        self.actions.iter().try_for_each(|action| writeln!(f, "{action}"))?;
        writeln!(f, "{}", self.outcome)
    }
}

impl Explanation {
    fn rule(&self, f: &mut fmt::Formatter<'_>, kind: &str, rule: &RuleNote) -> fmt::Result {
        write!(f, "{kind} {}", rule.id)?;
        if self.service.as_ref() != Some(&rule.destination) {
            write!(f, " of {}", rule.destination)?;
        }
        write!(f, " priority {}: ", rule.priority)?;
        match &rule.why {
            None => writeln!(f, "matches"),
            Some(why) => writeln!(f, "no, {why}"),
        }
    }
}

impl fmt::Display for BackendNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chosen = if self.chosen { " <- chosen" } else { "" };
        write!(f, "backend {} share {}{chosen}", self.dst, rounded(self.share))
    }
}

impl fmt::Display for ActionNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "action {}", self.action)?;
        if let (Some(probability), Some(draw)) = (self.probability, self.draw) {
            write!(f, ", share {} draw {draw:.4}", rounded(probability))?;
        }
        match self.why {
            None => write!(f, ": happens"),
            Some(why) => write!(f, ": no, {why}"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = |delay: f64| if delay > 0.0 { format!(" after {delay}s") } else { String::new() };
        match self {
            Self::Forward { dst, delay, timeout, retries, path } => {
                write!(f, "forward {path} to {dst}{}, timeout {timeout}s, retries {retries}", after(*delay))
            }
            Self::Abort { dst, delay, how, .. } => write!(f, "abort for {dst}{}: {how}", after(*delay)),
            Self::Answer { status, delay, location } => {
                write!(f, "answer{}: status {status}", after(*delay))?;
                location.as_ref().map_or(Ok(()), |location| write!(f, " location {location}"))
            }
            Self::Refuse { status, error } => write!(f, "refuse: {status} {error}"),
        }
    }
}

/// Four decimals: a third is `0.3333`, a quarter stays `0.25`. The smallest shares are written out.
fn rounded(share: f64) -> f64 {
    if share < 0.001 { share } else { (share * 10_000.0).round() / 10_000.0 }
}
