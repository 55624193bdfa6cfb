//! `a8 up --tour`: walks through routing, splitting, faults and failures with real requests, and compares
//! what was measured with what the rules promise.

mod report;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use control_api::RawRule;
use control_api::client::{ControlClient, RuleFilter, Written};
use registry_api::client::{CallError, Caller};
use tokio::time::Instant;

use super::fabric::{Fabric, until};
use super::load::{Seen, Who, ask, page, review, status, tally};
use super::rules;
use crate::output;
use report::{Expected, Report, binomial};

const PAGE: &str = "/productpage/productpage";
const PAGES: usize = 200;
const SPLIT_REQUESTS: usize = 2_000;
const ABORT_REQUESTS: usize = 1_000;
/// Pages that wait out a delay; each takes about six seconds, all at the same time.
const DELAYED_PAGES: usize = 8;
/// productpage asks reviews twice for three seconds each (spec 5.2, step 3).
const DELAYED: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(8)];
const PROMPT: Duration = Duration::from_secs(2);
/// How long a change may take to be served everywhere.
const APPLIED_LIMIT: Duration = Duration::from_secs(10);
/// How long proxies may take to find a control that is back: their back-off, with room.
const RECONNECT_LIMIT: Duration = Duration::from_secs(30);

struct Tour<'a> {
    fabric: &'a mut Fabric,
    control: ControlClient,
    gateway: Arc<Caller>,
    report: Report,
}

/// Walks, prints the table, and fails unless every row holds.
pub(super) async fn walk(fabric: &mut Fabric) -> Result<(), String> {
    let begun = Instant::now();
    let (control, gateway) = (fabric.control_client()?, fabric.gateway_caller()?);
    say(&format!("gateway http://{}, control http://{}", fabric.gateway(), fabric.control()))?;
    let mut tour = Tour { fabric, control, gateway, report: Report::default() };
    let walked = tour.steps().await;
    say(&format!("\n{}", tour.report.table()))?;
    walked?;
    say(&format!("{} in {:.1} s", tour.report.summary(), begun.elapsed().as_secs_f64()))?;
    if tour.report.holds() { Ok(()) } else { Err("not every row of the tour holds".to_owned()) }
}

fn say(text: &str) -> Result<(), String> {
    output::line(text).map_err(|failure| failure.line)
}

impl Tour<'_> {
    async fn steps(&mut self) -> Result<(), String> {
        self.no_rules().await?;
        self.everything_to_v1().await?;
        self.a_split().await?;
        self.jason_gets_v2().await?;
        self.a_delay_for_jason().await?;
        self.aborts().await?;
        self.back_to_normal().await?;
        let control = self.control_killed().await?;
        self.control_back(control).await
    }

    async fn no_rules(&mut self) -> Result<(), String> {
        self.step("no rules")?;
        // A data directory of an earlier run may hold some.
        self.delete(&[]).await?;
        self.all_versions("none").await;
        Ok(())
    }

    async fn everything_to_v1(&mut self) -> Result<(), String> {
        self.step("all to v1")?;
        self.put(rules::all_to_v1()).await?;
        self.pages(Who::Shriram, "v1", "all-to-v1").await;
        Ok(())
    }

    async fn a_split(&mut self) -> Result<(), String> {
        self.step("split 25/75")?;
        self.put(rules::split()).await?;
        let seen = ask(&self.gateway, "/reviews/reviews", Who::Shriram, "split", SPLIT_REQUESTS).await;
        let counts = tally(&seen, review);
        let first = binomial(SPLIT_REQUESTS, rules::SPLIT);
        let rest = [SPLIT_REQUESTS - first[1], SPLIT_REQUESTS - first[0]];
        let what = format!("{SPLIT_REQUESTS} requests");
        self.report.row(what, Expected::within(&[("v1", first), ("v3 red", rest)]), &counts);
        Ok(())
    }

    async fn jason_gets_v2(&mut self) -> Result<(), String> {
        self.step("jason to v2")?;
        self.put([rules::no_split(), rules::jason_to_v2()].concat()).await?;
        self.pages(Who::Jason, "v2 black", "jason").await;
        self.pages(Who::Shriram, "v1", "jason").await;
        Ok(())
    }

    async fn a_delay_for_jason(&mut self) -> Result<(), String> {
        self.step("7 s delay for jason")?;
        self.put(rules::delay_for_jason()).await?;
        let (jason, others) = tokio::join!(
            ask(&self.gateway, PAGE, Who::Jason, "delay", DELAYED_PAGES),
            ask(&self.gateway, PAGE, Who::Shriram, "delay", PAGES),
        );
        let counts = tally(&jason, page);
        self.report.row(
            pages_of(Who::Jason, &jason),
            Expected::all("without reviews", DELAYED_PAGES),
            &counts,
        );
        self.report.times("time of these pages", &jason, DELAYED);
        self.report.row(pages_of(Who::Shriram, &others), Expected::all("v1", PAGES), &tally(&others, page));
        self.report.times("time of these pages", &others, [Duration::ZERO, PROMPT]);

        self.step("delay deleted")?;
        self.delete(&[rules::DELAY]).await?;
        let jason = self.pages(Who::Jason, "v2 black", "delay-deleted").await;
        self.report.times("time of these pages", &jason, [Duration::ZERO, PROMPT]);
        Ok(())
    }

    async fn aborts(&mut self) -> Result<(), String> {
        self.step("abort with 50 %")?;
        self.put(rules::abort_details()).await?;
        let seen = ask(&self.gateway, "/details/details", Who::Shriram, "abort", ABORT_REQUESTS).await;
        let aborted = binomial(ABORT_REQUESTS, rules::ABORTED);
        let passed = [ABORT_REQUESTS - aborted[1], ABORT_REQUESTS - aborted[0]];
        let abort = format!("status {}", rules::ABORT_STATUS);
        let expected = Expected::within(&[(&abort, aborted), ("status 200", passed)]);
        self.report.row(format!("{ABORT_REQUESTS} requests for details"), expected, &tally(&seen, status));
        Ok(())
    }

    async fn back_to_normal(&mut self) -> Result<(), String> {
        self.step("rules removed")?;
        self.delete(&[]).await?;
        self.all_versions("removed").await;
        Ok(())
    }

    async fn control_killed(&mut self) -> Result<SocketAddr, String> {
        self.step("control killed")?;
        self.put([rules::all_to_v1(), rules::jason_to_v2()].concat()).await?;
        let control = self.fabric.control();
        self.fabric.kill_control().await;
        let answers = match self.control.proxies().await {
            Err(CallError::Unreachable { .. }) => "no",
            _ => "yes",
        };
        self.report.word("control answers", "no", answers);
        self.pages(Who::Jason, "v2 black", "control-killed").await;
        self.pages(Who::Shriram, "v1", "control-killed").await;
        Ok(control)
    }

    async fn control_back(&mut self, at: SocketAddr) -> Result<(), String> {
        self.step("control back")?;
        self.fabric.restart_control(at).await?;
        let proxies = self.fabric.proxies().len();
        let complete = async || connected(&self.control).await == proxies;
        // The row says how many there are; that not all came is no reason to stop.
        let _ = until(RECONNECT_LIMIT, "proxies are missing", complete).await;
        let counts = BTreeMap::from([("connected".to_owned(), connected(&self.control).await)]);
        self.report.row("proxies".to_owned(), Expected::all("connected", proxies), &counts);
        self.pages(Who::Shriram, "v1", "control-back").await;
        self.put(rules::all_to_v3()).await?;
        self.pages(Who::Shriram, "v3 red", "new-rule").await;
        Ok(())
    }

    fn step(&mut self, name: &'static str) -> Result<(), String> {
        self.report.step(name);
        say(&format!("  {name}"))
    }

    async fn pages(&mut self, who: Who, expected: &str, step: &'static str) -> Vec<Seen> {
        let seen = ask(&self.gateway, PAGE, who, step, PAGES).await;
        self.report.row(pages_of(who, &seen), Expected::all(expected, PAGES), &tally(&seen, page));
        seen
    }

    async fn all_versions(&mut self, step: &'static str) {
        let seen = ask(&self.gateway, PAGE, Who::Jason, step, PAGES).await;
        let some = [1, PAGES];
        let expected = Expected::within(&[("v1", some), ("v2 black", some), ("v3 red", some)]);
        self.report.row(format!("{PAGES} pages"), expected, &tally(&seen, page));
    }

    async fn put(&mut self, rules: Vec<RawRule>) -> Result<(), String> {
        let begun = Instant::now();
        let written = self.control.create(&rules, Some(APPLIED_LIMIT)).await.map_err(|e| e.to_string())?;
        self.applied(&written, begun);
        Ok(())
    }

    /// Deletes rules by id, or every rule.
    async fn delete(&mut self, ids: &[&str]) -> Result<(), String> {
        let begun = Instant::now();
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let filter = RuleFilter { ids, ..RuleFilter::default() };
        let written = self.control.delete(&filter, Some(APPLIED_LIMIT)).await.map_err(|e| e.to_string())?;
        self.applied(&written, begun);
        Ok(())
    }

    fn applied(&mut self, written: &Written, begun: Instant) {
        let took = begun.elapsed();
        let serving = written.applied.as_ref().map_or(0, |applied| applied.serving);
        self.report.applied(self.fabric.proxies().len(), serving, took);
    }
}

fn pages_of(who: Who, seen: &[Seen]) -> String {
    format!("{} pages of {}", seen.len(), if who == Who::Jason { "jason" } else { "shriram" })
}

async fn connected(control: &ControlClient) -> usize {
    let proxies = control.proxies().await.unwrap_or_default();
    proxies.iter().filter(|proxy| proxy.connected).count()
}
