//! The figures that both engines are to reach, what was measured, and whether that is reached. The general engine has one
//! limit; the lane has one that it must keep and one that it is meant for. It fails nothing.

use serde_json::{Value, json};

use super::Measured;
use super::rounds::{Load, Phase, Results};
use crate::report::{Table, cell, number};

const GENERAL: &str = "a8-general";
const LANE: &str = "a8-lane";
/// Nothing is asked for.
const NO_LIMIT: f64 = f64::NAN;
/// As the figures were taken that the limits come from.
const KIB_PER_MIB: f64 = 1_024.0;

/// Which side of a limit is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    AtMost,
    AtLeast,
}

/// One figure of both engines.
#[derive(Debug, Clone)]
struct Goal {
    figure: &'static str,
    good: Good,
    /// General, lane must, lane meant.
    limits: [f64; 3],
    general: f64,
    lane: f64,
}

/// All figures.
#[derive(Debug, Clone)]
pub(super) struct Goals(Vec<Goal>);

/// Compares what was measured with the figures.
pub(super) fn judge(measured: &Measured) -> Goals {
    const CPU: fn(&Phase) -> f64 = |phase| phase.cpu_us;
    let (plain, feature) = (&measured.plain, &measured.feature);
    let ratio = |results: &Results, to: &'static str, load: Load, what: fn(&Phase) -> f64| {
        [GENERAL, LANE].map(|name| results.ratio(name, to, load, what))
    };
    let held = |what: fn(&super::memory::Held) -> f64| {
        [GENERAL, LANE].map(|name| measured.memory.of(name).map_or(f64::NAN, what))
    };
    let at_most = |figure, limits, [general, lane]: [f64; 2]| Goal {
        figure,
        good: Good::AtMost,
        limits,
        general,
        lane,
    };
    let at_least = |figure, limits, values| Goal { good: Good::AtLeast, ..at_most(figure, limits, values) };
    Goals(vec![
        at_most("feature CPU / haproxy", [1.5, 0.8, 0.62], ratio(feature, "haproxy", Load::CLOSED, CPU)),
        at_most("feature CPU / envoy", [0.42, 0.25, 0.17], ratio(feature, "envoy", Load::CLOSED, CPU)),
        at_most("plain CPU / haproxy", [1.85, 0.95, 0.8], ratio(plain, "haproxy", Load::CLOSED, CPU)),
        at_least(
            "feature req/s / haproxy",
            [0.65, 1.2, 1.6],
            ratio(feature, "haproxy", Load::CLOSED, |p| p.per_second),
        ),
        at_most(
            "feature p50 at 2,000/s / haproxy",
            [1.05, 1.02, 1.0],
            ratio(feature, "haproxy", Load::OPEN, |p| p.p50_us),
        ),
        at_most("64 KiB CPU / haproxy", [1.45, 1.0, 0.8], ratio(plain, "haproxy", Load::BIG, CPU)),
        at_most("1 MiB CPU / haproxy", [1.15, 1.0, 0.6], ratio(plain, "haproxy", Load::HUGE, CPU)),
        at_most("HTTP/2 CPU / envoy", [0.65, NO_LIMIT, 0.27], ratio(plain, "envoy", Load::HTTP2, CPU)),
        at_most("HTTP/2 CPU / haproxy", [2.4, NO_LIMIT, 1.0], ratio(plain, "haproxy", Load::HTTP2, CPU)),
        at_most("KiB per idle client", [28.0, 4.0, 2.0], held(super::memory::Held::per_client)),
        at_most("MiB at start, 100 services", [16.0, 16.0, 10.0], held(|held| held.start / KIB_PER_MIB)),
    ])
}

impl Goal {
    fn reached(&self, value: f64, limit: f64) -> &'static str {
        let is_reached = match self.good {
            Good::AtMost => value <= limit,
            Good::AtLeast => value >= limit,
        };
        match is_reached {
            _ if value.is_nan() || limit.is_nan() => "-",
            true => "yes",
            false => "no",
        }
    }

    /// Measured, limit, reached: for the general engine, the lane's must, and what it is meant for.
    fn verdicts(&self) -> [(f64, f64, &'static str); 3] {
        let [general, must, meant] = self.limits;
        [(self.general, general), (self.lane, must), (self.lane, meant)]
            .map(|(value, limit)| (value, limit, self.reached(value, limit)))
    }
}

impl Goals {
    /// For people.
    pub(super) fn text(&self) -> String {
        let columns =
            ["goals", "a8-general", "due", "reached", "a8-lane", "must", "reached", "goal", "reached"];
        let mut table = Table::new(&columns);
        for goal in &self.0 {
            let sign = if goal.good == Good::AtMost { "<=" } else { ">=" };
            let limit = |limit: f64| if limit.is_nan() { "-".to_owned() } else { format!("{sign} {limit}") };
            let [general, must, meant] = goal.verdicts();
            table.row(vec![
                goal.figure.to_owned(),
                cell(general.0, 2),
                limit(general.1),
                general.2.to_owned(),
                cell(must.0, 2),
                limit(must.1),
                must.2.to_owned(),
                limit(meant.1),
                meant.2.to_owned(),
            ]);
        }
        format!("{}\nThe tail under table swaps: `bench swap`.\n", table.text())
    }

    /// For machines.
    pub(super) fn json(&self) -> Value {
        let goals = self.0.iter().map(|goal| {
            let [general, must, meant] = goal.verdicts();
            json!({
                "figure": goal.figure, "general": number(general.0), "due": general.1, "general_reached": general.2,
                "lane": number(must.0), "must": number(must.1), "must_reached": must.2, "goal": meant.1, "goal_reached": meant.2,
            })
        });
        goals.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Held, Memory};
    use super::*;

    #[test]
    fn a_figure_is_reached_on_its_good_side_and_unknown_when_not_measured() {
        let held = |name, kib| Held { name, start: kib, loaded: 0.0, with_idle: 300.0, clients: 100 };
        let of = || Results::of(&[(GENERAL, &[15.0]), (LANE, &[7.0]), ("haproxy", &[10.0])]);
        let memory = Memory(vec![held(GENERAL, 20_000.0), held(LANE, 11_000.0)]);
        let goals = judge(&Measured { plain: of(), feature: of(), memory });
        let reached = |figure: &str| {
            let goal = goals.0.iter().find(|goal| goal.figure == figure).unwrap();
            goal.verdicts().map(|verdict| verdict.2)
        };
        assert_eq!(reached("feature CPU / haproxy"), ["yes", "yes", "no"]);
        assert_eq!(reached("feature CPU / envoy"), ["-", "-", "-"]);
        assert_eq!(reached("HTTP/2 CPU / haproxy"), ["yes", "-", "yes"]);
        assert_eq!(reached("feature req/s / haproxy"), ["yes", "yes", "no"]);
        assert_eq!(reached("KiB per idle client"), ["yes", "yes", "no"]);
        assert_eq!(reached("MiB at start, 100 services"), ["no", "yes", "no"]);
    }
}
