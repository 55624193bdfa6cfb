//! What checks say of an instance: one that fails so many times in a row is unhealthy until it succeeds so many times in a
//! row. It asks nobody; who is asked, and when, is the proxy's to say.

use control_api::HealthCheck;

/// What is known of one instance. It is healthy until checks say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    healthy: bool,
    /// Checks in a row that spoke against what is so.
    against: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { healthy: true, against: 0 }
    }
}

impl Health {
    /// Whether it may have requests.
    pub fn is_healthy(self) -> bool {
        self.healthy
    }

    /// What follows from one more check.
    #[must_use]
    pub fn after(self, succeeded: bool, check: &HealthCheck) -> Self {
        if succeeded == self.healthy {
            return Self { against: 0, ..self };
        }
        let needed = if self.healthy { check.unhealthy_threshold } else { check.healthy_threshold };
        let against = self.against.saturating_add(1);
        if against >= needed { Self { healthy: succeeded, against: 0 } } else { Self { against, ..self } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(unhealthy: u32, healthy: u32) -> HealthCheck {
        let rule = serde_json::json!({"id": "r", "destination": "d", "health_check":
            {"type": "tcp", "unhealthy_threshold": unhealthy, "healthy_threshold": healthy}});
        serde_json::from_value::<control_api::Rule>(rule).unwrap().health_check().unwrap().clone()
    }

    proptest! {
        /// Told from the end: the last row that is long enough decides, and nothing before it matters.
        #[test]
        fn the_last_row_that_is_long_enough_decides(
            answers in prop::collection::vec(any::<bool>(), 0..60), unhealthy in 1..5_u32, healthy in 1..5_u32,
        ) {
            let check = check(unhealthy, healthy);
            let end = answers.iter().fold(Health::default(), |health, answer| health.after(*answer, &check));
            let mut expected = true;
            for start in 0..answers.len() {
                let row = |answer: bool| answers[start..].iter().take_while(|one| **one == answer).count() as u32;
                if row(false) >= unhealthy {
                    expected = false;
                } else if row(true) >= healthy {
                    expected = true;
                }
            }
            prop_assert_eq!(end.is_healthy(), expected);
        }
    }
}
