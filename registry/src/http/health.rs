//! The three routes without authentication: alive, uptime with the machine's load, metrics (spec/registry.md
//! 0.5). They say nothing about any tenant but counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::JSON;
use super::openapi::Component;
use super::state::App;
use crate::checks::Health;
use crate::clock::Clock;
use crate::metrics;

/// Whether the registry runs.
#[utoipa::path(get, path = "/", operation_id = "GetHealth", responses((status = 200, description = "It runs.")))]
pub(super) async fn alive() -> StatusCode {
    StatusCode::OK
}

/// How long it has run, and how its components are.
#[utoipa::path(get, path = "/uptime", operation_id = "GetInfo",
    responses(
        (status = 200, description = "The components by name, all of them healthy.", body = HashMap<String, Component>),
        (status = 503, description = "The components by name, not all of them healthy.", body = HashMap<String, Component>),
    ))]
pub(super) async fn uptime(State(app): State<Arc<App>>) -> Response {
    told(&app.checks.run().await)
}

fn told(components: &BTreeMap<String, Health>) -> Response {
    let well = components.values().all(|health| health.healthy);
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_vec(components).expect("components are plain data and always encode");
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}

/// The component that is always there and always healthy: how long the registry has run, which one it is, and how much its
/// machine has to do.
pub fn running(clock: &Clock) -> Health {
    // Absent where there is no /proc; zeros then.
    let loads = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let [load_1m, load_5m, load_15m] = load_averages(&loads);
    Health::well()
        .with("uptime", go_duration(clock.uptime()))
        .with("load_1m", load_1m)
        .with("load_5m", load_5m)
        .with("load_15m", load_15m)
        .with("build_version", env!("CARGO_PKG_VERSION"))
        .with("build_revision", option_env!("A8_BUILD_REVISION").unwrap_or("unknown"))
        .with("build_date", option_env!("A8_BUILD_DATE").unwrap_or("unknown"))
        // The key is part of the interface; the language is not.
        .with("build_goversion", concat!("rust", env!("CARGO_PKG_RUST_VERSION")))
}

/// Series for Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "GetMetrics",
    responses((status = 200, description = "Text format 0.0.4.", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.text()).into_response()
}

/// The first three numbers of the text, to three decimals.
fn load_averages(text: &str) -> [f64; 3] {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse::<f64>().unwrap_or(0.0));
    [(); 3].map(|()| (numbers.next().unwrap_or(0.0) * 1_000.0).round() / 1_000.0)
}

/// As Go prints a duration: `1h2m3.5s`, `2m0s`, `15ms`, to the millisecond.
fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}") };
    let seconds = format!("{seconds}{}s", fraction.trim_end_matches('0'));
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 9.11 U5.
    #[tokio::test]
    async fn one_unhealthy_component_is_enough_for_503_and_all_are_named() {
        let unwell = || Health::unwell("m", "c");
        for (case, components, status) in [
            ("U5 all healthy", [Health::well(), Health::well()], 200),
            ("U5 one failing", [Health::well(), unwell()], 503),
            ("U5 all failing", [unwell(), unwell()], 503),
        ] {
            let components = ["A".to_owned(), "B".to_owned()].into_iter().zip(components).collect();
            let response = told(&components);
            assert_eq!(response.status(), status, "{case}");
            let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
            let shown: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(shown, serde_json::to_value(&components).unwrap(), "{case}");
        }
    }

    #[test]
    fn durations_print_as_in_go() {
        for (millis, text) in [
            (0, "0s"),
            (15, "15ms"),
            (1_000, "1s"),
            (3_500, "3.5s"),
            (3_050, "3.05s"),
            (120_000, "2m0s"),
            (3_723_500, "1h2m3.5s"),
            (360_000_000, "100h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn loads_are_real_and_absent_ones_are_zero() {
        assert_eq!(load_averages("0.52 1.25 13.37 1/234 5678\n"), [0.52, 1.25, 13.37]);
        assert_eq!(load_averages(""), [0.0; 3]);
    }
}
