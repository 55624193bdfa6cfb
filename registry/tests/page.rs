//! `docs/registry.md` names what there is: every route, every setting, every series.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use std::collections::BTreeSet;

use clap::{Args, Command};
use registry::Settings;
use support::Running;

const PAGE: &str = include_str!("../../docs/registry.md");

/// What stands between backticks.
fn named() -> BTreeSet<&'static str> {
    PAGE.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[tokio::test]
async fn the_page_names_every_route_and_every_series() {
    let registry = Running::start(&["--fs_catalog", "."]).await;
    registry.register("s", "h:1", r#","tags":["t"],"metadata":1"#).await;
    registry.get("/api/v1/watch?wait=0").await;
    let named = named();
    let document = registry.get("/openapi.json").await.value();
    for path in document["paths"].as_object().unwrap().keys() {
        let route = path.strip_prefix("/eureka/v2").unwrap_or(path);
        let health = format!("GET {route}");
        assert!(named.contains(route) || named.contains(health.as_str()), "{path}");
    }
    let metrics = registry.get("/metrics").await;
    let series = metrics.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let series: Vec<_> = series.collect();
    for series in &series {
        assert!(named.contains(series), "{series}");
    }
    for name in named.iter().filter(|name| name.starts_with("a8_registry_")) {
        assert!(series.contains(name), "{name} is not there");
    }
    registry.stop().await;
}

#[test]
fn the_page_names_every_setting_and_no_other() {
    let named = named();
    let command = Settings::augment_args(Command::new("registry"));
    let settings: BTreeSet<_> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    for setting in &settings {
        assert!(named.contains(setting), "{setting}");
    }
    let of_the_program = ["config", "log_level", "log_format"];
    for flag in named.iter().filter_map(|name| name.split(' ').next()?.strip_prefix("--")) {
        assert!(settings.contains(flag) || of_the_program.contains(&flag), "{flag} is no setting");
    }
}
