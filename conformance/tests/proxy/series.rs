//! How many series a proxy has on its page of metrics: so many services, versions and rules are counted by themselves, and
//! the others together.

use conformance::{Cluster, Origin, eventually};
use serde_json::json;

#[test]
fn what_has_no_room_for_series_of_its_own_is_counted_together_and_the_page_says_so() {
    let cluster = Cluster::start();
    let origin = Origin::echo("o");
    for service in ["a", "b", "c", "d"] {
        cluster.registry.register(service, &["t"], origin.address());
    }
    let flags = [super::ENGINE[0], ("metrics_series_max", "3")];
    let proxy = cluster.proxy_with("gateway", &flags);
    proxy.await_instances(4);
    cluster.control.write(json!([
        {"id": "way", "destination": "d", "route": {"backends": [{"tags": ["t"]}]}},
        {"id": "fault", "destination": "d", "actions": [{"action": "abort", "return_code": 418}]},
    ]));
    for path in ["/a/x", "/b/x", "/c/x", "/d/x", "/d/some/raw/path"] {
        proxy.get(path);
    }
    eventually("all are counted", || match proxy.metrics().sum("a8_proxy_requests_total", &[]) {
        5.0 => Ok(()),
        count => Err(format!("{count}")),
    });
    let metrics = proxy.metrics();
    let overflow = [r#"service="__overflow__""#, r#"rule="__overflow__""#];
    assert!(metrics.sum("a8_proxy_requests_total", &overflow) > 1.5, "{:?}", metrics.series);
    assert!((metrics.sum("a8_proxy_faults_total", &overflow) - 2.0).abs() < 0.1);
    assert!(metrics.sum("a8_proxy_series_folded", &[]) >= 4.0);
    let own: std::collections::BTreeSet<_> = metrics
        .with("a8_proxy_requests_total", &[])
        .map(|(series, _)| series.to_owned())
        .filter(|series| !series.contains("__overflow__"))
        .collect();
    assert!(own.len() <= 3, "{own:?}");
    // Rules and services name series; what clients send does not.
    assert!(metrics.series.keys().all(|series| !series.contains("/x") && !series.contains("raw")));
}
