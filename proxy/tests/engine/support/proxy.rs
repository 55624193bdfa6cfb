//! A proxy in a thread, whose tables are put in place directly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use control_api::Snapshot;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use proxy::config::Settings;
use proxy::feed::Stage;
use proxy::server::{Limits, Server};
use proxy::tls::Tls;
use proxy::tracer::export::Exporter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Answer, Conn, soon};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

/// A proxy that serves.
pub(crate) struct Proxy {
    pub(crate) http: SocketAddr,
    /// The listeners of plain TCP, in the order of the settings.
    pub(crate) tcp: Vec<SocketAddr>,
    pub(crate) stage: Stage,
    /// The certificates, where it speaks TLS.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Sends spans, once somebody runs it.
    pub(crate) exporter: Option<Exporter>,
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct NoAdmin;

#[async_trait]
impl ServerApp for NoAdmin {
    async fn process_new(self: &Arc<Self>, _: Stream, _: &ShutdownWatch) -> Option<Stream> {
        None
    }
}

impl Proxy {
    /// A proxy with the engine under test for one service `s` with these instances, and no rules.
    pub(crate) fn of(instances: &[SocketAddr]) -> Self {
        Self::with(&[], &instances.iter().map(|at| ("s", "v1", at.to_string())).collect::<Vec<_>>())
    }

    /// A proxy with rules, and instances as service, tag and endpoint.
    pub(crate) fn with(rules: &[Value], instances: &[(&str, &str, String)]) -> Self {
        Self::patient(Limits::default(), rules, instances)
    }

    pub(crate) fn patient(limits: Limits, rules: &[Value], instances: &[(&str, &str, String)]) -> Self {
        Self::running(crate::chosen::ENGINE, limits, rules, instances)
    }

    /// A proxy with an engine of one's own choice.
    pub(crate) fn running(
        engine: &str,
        limits: Limits,
        rules: &[Value],
        instances: &[(&str, &str, String)],
    ) -> Self {
        Self::told(&[format!("--engine={engine}")], limits, rules, instances)
    }

    /// A proxy with further flags.
    pub(crate) fn told(
        flags: &[String],
        limits: Limits,
        rules: &[Value],
        instances: &[(&str, &str, String)],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = format!("--data_dir={}", dir.path().display());
        let line = [
            "a8",
            "--service=caller:v9",
            "--http_listener_host=127.0.0.1",
            "--http_listener_port=0",
            "--admin_port=0",
            "--threads=2",
            &data_dir,
        ];
        let line = line.into_iter().chain(flags.iter().map(|flag| &**flag));
        let config = Line::try_parse_from(line).unwrap().settings.check().unwrap();
        let server = Server::bind(&config).unwrap().with_limits(limits);
        let exporter = server.live().exporter.lock().unwrap().take();
        let tcp = server.tcp().map(|proxy| proxy.listen).collect();
        let (stop, stopped) = oneshot::channel();
        let (http, stage, tls) = (server.http(), server.live().stage.clone(), server.live().tls.clone());
        let thread = std::thread::spawn(move || {
            server
                .serve(NoAdmin, async {
                    let _stop = stopped.await;
                })
                .unwrap();
        });
        let proxy = Self { http, tcp, stage, tls, exporter, dir, stop: Some(stop), thread: Some(thread) };
        proxy.apply(rules, instances);
        proxy
    }

    /// Puts other rules and instances in place.
    pub(crate) fn apply(&self, rules: &[Value], instances: &[(&str, &str, String)]) {
        self.apply_with(rules, instances, |_| {});
    }

    /// The same with something else about the snapshot.
    pub(crate) fn apply_with(
        &self,
        rules: &[Value],
        instances: &[(&str, &str, String)],
        change: impl FnOnce(&mut Snapshot),
    ) {
        let rules = rules.iter().map(|rule| Arc::new(serde_json::from_value(rule.clone()).unwrap()));
        let instances = instances.iter().enumerate().map(|(at, (service, tag, endpoint))| {
            let kind = if endpoint.starts_with("https") { "https" } else { "http" };
            let instance = json!({"id": format!("i{at}"), "service_name": service, "status": "UP", "tags": [tag],
                "endpoint": {"type": kind, "value": endpoint}});
            Arc::new(serde_json::from_value(instance).unwrap())
        });
        let mut snapshot = Snapshot::new(1, rules, instances);
        change(&mut snapshot);
        self.stage.tables.swap(self.stage.compile(&Snapshot::default(), &snapshot));
    }

    pub(crate) async fn connect(&self) -> Conn {
        Conn::new(soon("the proxy", TcpStream::connect(self.http)).await.unwrap())
    }

    /// A connection to the listener of plain TCP with this number, from 0.
    pub(crate) async fn connect_tcp(&self, number: usize) -> Conn {
        Conn::new(soon("the proxy", TcpStream::connect(self.tcp[number])).await.unwrap())
    }

    /// Sends a request on a connection of its own and reads all of the answer; `Connection: close` is up to it.
    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let mut conn = self.connect().await;
        conn.send(request).await;
        conn.answer().await
    }

    /// The lines of the access log, once there are `count`.
    pub(crate) async fn log(&self, count: usize) -> Vec<Value> {
        let path = self.dir.path().join("a8_access.log");
        soon("the access log", async {
            loop {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<Value> =
                    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// The value of a metric, by its line without the number.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let page = String::from_utf8(self.stage.metrics.encode()).unwrap();
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Waits until a metric has this value.
    pub(crate) async fn metric_becomes(&self, series: &str, value: f64) {
        soon(series, async {
            while self.metric(series) != Some(value) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Tells it to end.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(mut self) {
        self.stop();
        let thread = self.thread.take().unwrap();
        soon("the end", tokio::task::spawn_blocking(move || thread.join().unwrap())).await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            thread.join().unwrap();
        }
    }
}
