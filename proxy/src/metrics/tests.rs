//! The page as Prometheus reads it: types, names, labels, and what is not there.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;

fn page(metrics: &Metrics) -> String {
    String::from_utf8(metrics.encode()).unwrap()
}

fn exercised() -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::new());
    let service = metrics.service("reviews");
    service.observe(0.004);
    service.retried();
    let rule = metrics.rule("reviews", "a-1");
    rule.faulted(Fault::Delay);
    rule.faulted(Fault::Abort);
    rule.rate_limited();
    metrics.rule("reviews", "gone").answered(503);
    service.ejected(Ejection::ConsecutiveErrors);
    service.budget_exhausted();
    service.set_instances(3);
    service.count(503);
    metrics.backend(["reviews", "version=v1,zone=\"a\"", "rule-1"].map(str::to_owned)).count(200);
    metrics.count_unrouted(404);
    let tcp = metrics.tcp("mysql", "zone=a");
    tcp.active.inc();
    tcp.received.inc_by(7);
    tcp.ended(TcpEnd::InstanceReset);
    metrics.heard_control(1_700_000_000.5);
    metrics
}

#[test]
fn every_series_of_the_spec_is_there_with_its_labels() {
    let page = page(&exercised());
    for line in [
        r#"a8_proxy_requests_total{backend="",code="404",rule="",service=""} 1"#,
        r#"a8_proxy_requests_total{backend="",code="503",rule="",service="reviews"} 1"#,
        r#"a8_proxy_requests_total{backend="version=v1,zone=\"a\"",code="200",rule="rule-1",service="reviews"} 1"#,
        r#"a8_proxy_request_duration_seconds_bucket{service="reviews",le="0.005"} 1"#,
        r#"a8_proxy_request_duration_seconds_bucket{service="reviews",le="+Inf"} 1"#,
        r#"a8_proxy_request_duration_seconds_sum{service="reviews"} 0.004"#,
        r#"a8_proxy_request_duration_seconds_count{service="reviews"} 1"#,
        r#"a8_proxy_retries_total{service="reviews"} 1"#,
        r#"a8_proxy_faults_total{action="delay",rule="a-1",service="reviews"} 1"#,
        r#"a8_proxy_faults_total{action="abort",rule="a-1",service="reviews"} 1"#,
        r#"a8_proxy_requests_total{backend="",code="503",rule="gone",service="reviews"} 1"#,
        r#"a8_proxy_rate_limited_total{rule="a-1",service="reviews"} 1"#,
        r#"a8_proxy_ejections_total{kind="consecutive_errors",service="reviews"} 1"#,
        r#"a8_proxy_retry_budget_exhausted_total{service="reviews"} 1"#,
        "a8_proxy_series_folded 0",
        r#"a8_proxy_instances{service="reviews"} 3"#,
        "a8_proxy_active_connections 0",
        r#"a8_proxy_tcp_connections_total{backend="zone=a",outcome="instance_reset",service="mysql"} 1"#,
        r#"a8_proxy_tcp_active_connections{backend="zone=a",service="mysql"} 1"#,
        r#"a8_proxy_tcp_bytes_total{backend="zone=a",direction="received",service="mysql"} 7"#,
        r#"a8_proxy_tcp_bytes_total{backend="zone=a",direction="sent",service="mysql"} 0"#,
        r#"a8_control_last_success_timestamp_seconds{source="rules"} 1700000000.5"#,
        r#"a8_control_last_success_timestamp_seconds{source="discovery"} 1700000000.5"#,
        "a8_proxy_table_swaps_total 0",
        "a8_proxy_snapshot_index 0",
        "a8_proxy_snapshot_revision 0",
        "a8_proxy_snapshot_rejected_total 0",
        "a8_proxy_connections_refused_total 0",
        "a8_proxy_tls_failures_total 0",
        "a8_proxy_parse_failures_total 0",
        "a8_proxy_access_log_dropped_total 0",
    ] {
        assert!(page.lines().any(|have| have == line), "{line}\nis not in\n{page}");
    }
}

#[test]
fn every_series_has_a_type_line_before_it_and_none_comes_twice() {
    let page = page(&exercised());
    let (mut typed, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(typed.insert(rest.split(' ').next().unwrap().to_owned()), "typed twice: {line}");
        } else if !line.starts_with('#') {
            let series = line.rsplit_once(' ').unwrap().0;
            assert!(seen.insert(series.to_owned()), "twice: {series}");
            let name = series.split('{').next().unwrap();
            let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(typed.contains(name) || stem.is_some_and(|stem| typed.contains(stem)), "untyped: {line}");
        }
    }
    assert!(typed.len() >= 14, "{typed:?}");
}

#[test]
fn codes_of_an_inventive_upstream_make_a_bounded_number_of_series() {
    let metrics = Arc::new(Metrics::new());
    let codes = metrics.backend(["s", "", ""].map(str::to_owned));
    (0..=999).for_each(|code| codes.count(code));
    let page = page(&metrics);
    let series: Vec<_> = page.lines().filter(|line| line.starts_with("a8_proxy_requests_total")).collect();
    assert_eq!(series.len(), 500 + 1 + 1);
    assert!(page.contains(r#"code="(other)",rule="",service="s"} 499"#), "{page}");
    assert!(page.contains(r#"code="0""#) && page.contains(r#"code="100""#) && page.contains(r#"code="599""#));
}

#[test]
fn counts_of_many_threads_and_codes_add_up() {
    let metrics = Arc::new(Metrics::new());
    let codes = Arc::new(metrics.backend(["s", "", ""].map(str::to_owned)));
    std::thread::scope(|scope| {
        for thread in 0..4_u16 {
            let codes = Arc::clone(&codes);
            scope.spawn(move || (0..4_000_u16).for_each(|i| codes.count(200 + (i + thread) % 20)));
        }
    });
    let page = page(&metrics);
    for code in 200..220 {
        assert!(page.contains(&format!(r#"code="{code}",rule="",service="s"}} 800"#)), "{page}");
    }
}

#[test]
fn a_service_that_is_gone_leaves_no_series() {
    let metrics = Arc::new(Metrics::new());
    let (service, backend) =
        (metrics.service("gone"), metrics.backend(["gone", "v1", "r"].map(str::to_owned)));
    service.observe(1.0);
    service.retried();
    let rule = metrics.rule("gone", "a");
    rule.faulted(Fault::Abort);
    rule.answered(200);
    rule.rate_limited();
    service.budget_exhausted();
    service.ejected(Ejection::ConsecutiveErrors);
    service.set_instances(1);
    service.count(404);
    (200..230).for_each(|code| backend.count(code));
    backend.count(900);
    assert!(page(&metrics).contains("gone"));
    service.remove();
    rule.remove();
    backend.remove();
    assert!(!page(&metrics).contains("gone"), "{}", page(&metrics));
}
