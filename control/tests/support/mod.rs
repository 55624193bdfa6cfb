//! What the tests of a served control share: a control on a free port, a registry that says what it is told
//! to say, and a plain HTTP caller. It asserts nothing about control.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod http;
pub mod registry;
pub mod rules;
pub mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use control::{Config, Settings};
use registry_api::setting::BadSetting;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use http::{Answer, Http};
pub use registry::Registry;

/// How long a condition may take to come true.
pub const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    settings: Settings,
}

/// A configuration on a free loopback port, in memory unless the flags say otherwise.
pub fn config(flags: &[&str]) -> Config {
    let base = ["--api_host=127.0.0.1", "--api_port=0", "--database_type=memory"];
    let name = |flag: &str| flag.split('=').next().unwrap().to_owned();
    let base = base.iter().filter(|own| !flags.iter().any(|flag| name(flag) == name(own)));
    let flags: Vec<_> = std::iter::once(&"control").chain(base).chain(flags).copied().collect();
    Program::try_parse_from(flags).unwrap().settings.check().unwrap()
}

/// A running control.
pub struct Control {
    pub http: Http,
    pub address: SocketAddr,
    close: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), BadSetting>>,
}

impl Control {
    /// Starts one that follows `registry`.
    pub async fn start(registry: &Registry, flags: &[&str]) -> Self {
        let url = format!("--registry_url={}", registry.url());
        let flags: Vec<_> = flags.iter().copied().chain([url.as_str()]).collect();
        Self::start_with(config(&flags)).await.unwrap()
    }

    /// Starts one with exactly this configuration.
    pub async fn start_with(config: Config) -> Result<Self, BadSetting> {
        let (close, closed) = oneshot::channel();
        let (ready, mut listening) = oneshot::channel();
        let serving =
            control::serve(config, move |addresses| ready.send(addresses[0].1).unwrap(), async move {
                let _ = closed.await;
            });
        let mut task = tokio::spawn(serving);
        tokio::select! {
            biased;
            Ok(address) = &mut listening => {
                Ok(Self { http: Http::new(address), address, close: Some(close), task })
            }
            ended = &mut task => Err(ended.unwrap().unwrap_err()),
        }
    }

    /// Announces the end.
    pub fn announce_end(&mut self) {
        self.close.take().unwrap().send(()).unwrap();
    }

    /// Waits for the end.
    pub async fn ended(self) {
        within(self.task).await.unwrap().unwrap();
    }

    /// Waits until the condition of a GET comes true.
    pub async fn eventually(&self, path: &str, condition: impl Fn(&Answer) -> bool) -> Answer {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        within(async {
            loop {
                ticks.tick().await;
                let answer = self.http.get(path).await;
                if condition(&answer) {
                    return answer;
                }
            }
        })
        .await
    }
}

/// Fails instead of waiting for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("the condition did not come true in time")
}

/// The repository's folder for what tests leave behind is the system's.
pub fn data_dir() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    (directory, path)
}
