//! How long a rule write takes until the first request obeys it, through a real registry, control and proxy.

use std::io;
use std::thread;
use std::time::Duration;

use conformance::caller::Connection;
use conformance::{Cluster, Origin, get, post};
use serde_json::{Value, json};

use crate::args::Args;
use crate::clock;
use crate::histogram::Histogram;
use crate::report::{Table, cell, micros, say};

const CHANGES: u32 = 200;
const CHANGES_SMOKE: u32 = 40;
/// A change that is not obeyed by then is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// The figures of the bench's owner: median and 99th percentile.
const FIGURE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(200)];
/// Generous on purpose: what breaks it is no slow machine.
const GATE_P99: Duration = Duration::from_secs(1);

/// Runs it; `Err` when a gate is broken.
pub(crate) fn run(args: &Args) -> io::Result<Result<Value, String>> {
    let cluster = Cluster::start();
    let origins = [Origin::echo("v1"), Origin::echo("v2")];
    for (origin, tag) in origins.iter().zip(["v1", "v2"]) {
        cluster.registry.register("s", &[tag], origin.address());
    }
    let proxy = cluster.proxy("gateway:version=none");
    proxy.await_instances(2);
    cluster.control.write(json!([rule("v1")]));

    let (mut obeyed, mut acknowledged, mut waited) =
        (Histogram::default(), Histogram::default(), Histogram::default());
    let changes = if args.smoke { CHANGES_SMOKE } else { CHANGES };
    let mut connection = Connection::open(proxy.http)?;
    for change in 1..=changes {
        let tag = if change % 2 == 0 { "v1" } else { "v2" };
        // Uneven pauses, so that changes meet control's coalescing window at every point of it.
        thread::sleep(Duration::from_millis(u64::from(change * 37 % 90)));
        let started = clock::now();
        let _ =
            post("/v1/rules", &json!({"rules": [rule(tag)]})).send(cluster.control.address())?.expect(201);
        acknowledged.add(started.elapsed());
        loop {
            connection.send(&get("/s/x"))?;
            if connection.answer("GET")?.by() == tag {
                break;
            }
            if started.elapsed() > PATIENCE {
                return Ok(Err(format!("change {change} was not obeyed within {PATIENCE:?}")));
            }
        }
        obeyed.add(started.elapsed());
    }
    for change in 0..changes {
        let started = clock::now();
        cluster.control.write(json!([rule(if change % 2 == 0 { "v2" } else { "v1" })]));
        waited.add(started.elapsed());
    }
    Ok(report(
        changes,
        &[("acknowledged", acknowledged), ("obeyed", obeyed), ("wait=applied answered", waited)],
    ))
}

fn rule(tag: &str) -> Value {
    json!({"id": "r", "destination": "s", "route": {"backends": [{"tags": [tag]}]}})
}

fn report(changes: u32, histograms: &[(&str, Histogram)]) -> Result<Value, String> {
    let mut table = Table::new(&["rule write until ... (ms)", "p50", "p90", "p99", "max"]);
    let mut json = serde_json::Map::new();
    for (name, histogram) in histograms {
        let at = |part: f64| micros(histogram.quantile(part)) / 1e3;
        let mut row = vec![(*name).to_owned()];
        row.extend([0.5, 0.9, 0.99, 1.0].map(|part| cell(at(part), 2)));
        table.row(row);
        json.insert(
            (*name).to_owned(),
            json!({"p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": at(1.0)}),
        );
    }
    say(&table.text());
    let obeyed = &histograms[1].1;
    let (p50, p99) = (obeyed.quantile(0.5), obeyed.quantile(0.99));
    let reached = if p50 <= FIGURE[0] && p99 <= FIGURE[1] { "reached" } else { "missed" };
    say(&format!("{changes} changes; figure p50 <= {:?}, p99 <= {:?}: {reached}\n", FIGURE[0], FIGURE[1]));
    json.insert("changes".to_owned(), json!(changes));
    json.insert("figure_reached".to_owned(), json!(reached == "reached"));
    if p99 > GATE_P99 {
        Err(format!("p99 is {p99:?}, more than {GATE_P99:?}"))
    } else {
        Ok(Value::Object(json))
    }
}
