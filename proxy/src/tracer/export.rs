//! Sends finished spans to a collector: OTLP over HTTP, in JSON, in batches. A collector that is away costs spans, which
//! are counted, and nothing else.

use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::IntCounter;
use registry_api::client::{Backoff, BadUrl, Caller};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::span::{Finished, encode};

/// How many spans are sent at once.
pub const BATCH_SPANS_MAX: usize = 512;
/// How long spans are gathered, unless there are enough before.
pub const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// How often a batch is sent before it is given up. The queue goes on filling meanwhile.
const ATTEMPTS_MAX: u32 = 4;
/// How long the last spans may take when the proxy ends.
const LAST_WITHIN: Duration = Duration::from_secs(2);
/// Below the collector's address.
const PATH: &str = "/v1/traces";

/// Sends what a tracer finishes.
#[derive(Debug)]
pub struct Exporter {
    caller: Caller,
    service_name: String,
    finished: Receiver<Finished>,
    batch: Vec<Finished>,
    exported: IntCounter,
    dropped: IntCounter,
    failing: bool,
}

impl Exporter {
    /// An exporter to the collector at `endpoint`, under this name of a service.
    pub fn new(
        endpoint: &str,
        service_name: String,
        finished: Receiver<Finished>,
        exported: IntCounter,
        dropped: IntCounter,
    ) -> Result<Self, BadUrl> {
        let caller = Caller::new(&[endpoint], None)?;
        let batch = Vec::with_capacity(BATCH_SPANS_MAX);
        Ok(Self { caller, service_name, finished, batch, exported, dropped, failing: false })
    }

    /// Sends for as long as spans may come.
    pub async fn run(&mut self) {
        while self.gather().await {
            self.send().await;
        }
    }

    /// Sends what is left, in a short time, and once.
    pub async fn finish(mut self) {
        let last = async {
            loop {
                while self.batch.len() < BATCH_SPANS_MAX
                    && let Ok(span) = self.finished.try_recv()
                {
                    self.batch.push(span);
                }
                if self.batch.is_empty() || self.call().await.is_err() {
                    break;
                }
                self.sent();
            }
        };
        let _in_time = timeout(LAST_WITHIN, last).await;
        self.dropped.inc_by((self.batch.len() + self.finished.len()) as u64);
    }

    /// Waits for the first span and a while for others; false when none will come any more.
    async fn gather(&mut self) -> bool {
        if self.finished.recv_many(&mut self.batch, BATCH_SPANS_MAX).await == 0 {
            return false;
        }
        let until = Instant::now() + GATHER;
        while self.batch.len() < BATCH_SPANS_MAX {
            let room = BATCH_SPANS_MAX - self.batch.len();
            match timeout_at(until, self.finished.recv_many(&mut self.batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        true
    }

    /// Sends the batch, several times if need be, and gives it up then.
    async fn send(&mut self) {
        let mut backoff = Backoff::default();
        for attempt in 1..=ATTEMPTS_MAX {
            match self.call().await {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("spans are taken again");
                    }
                    return self.sent();
                }
                Err(NotTaken { why, again }) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(why, "spans are not taken");
                    }
                    if !again || attempt == ATTEMPTS_MAX {
                        break;
                    }
                    sleep(backoff.after_failure(fastrand::f64())).await;
                }
            }
        }
        self.dropped.inc_by(self.batch.len() as u64);
        self.batch.clear();
    }

    async fn call(&self) -> Result<(), NotTaken> {
        let body = encode(&self.service_name, &self.batch);
        match self.caller.call(Method::POST, PATH, Some(body), CALL_WITHIN).await {
            Ok(answer) if answer.status.is_success() => Ok(()),
            // The statuses that mean later (OTLP specification, failures).
            Ok(answer) => Err(NotTaken {
                why: format!("the collector answered {}", answer.status),
                again: matches!(
                    answer.status,
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ),
            }),
            Err(error) => Err(NotTaken { why: error.to_string(), again: true }),
        }
    }

    fn sent(&mut self) {
        self.exported.inc_by(self.batch.len() as u64);
        self.batch.clear();
    }
}

struct NotTaken {
    why: String,
    again: bool,
}
