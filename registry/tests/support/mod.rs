//! A registry that really serves, on a free port and in a directory of its own, and a client that sends
//! exactly the bytes it is given.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use registry::Settings;
use registry_api::setting::BadSetting;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything here takes, shorter than the patience of CI.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    settings: Settings,
}

/// The settings of a command line; the API listens on a free loopback port.
pub fn settings(home: &Path, arguments: &[&str]) -> Settings {
    let fixed = ["registry", "--api_host=127.0.0.1", "--api_port=0", "--data_dir", home.to_str().unwrap()];
    Program::try_parse_from(fixed.iter().chain(arguments)).unwrap().settings
}

pub struct Running {
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), BadSetting>>,
    home: Option<tempfile::TempDir>,
}

impl Running {
    pub async fn start(arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let running = Self::start_in(home.path(), arguments).await;
        Self { home: Some(home), ..running }
    }

    pub async fn start_in(home: &Path, arguments: &[&str]) -> Self {
        let config = settings(home, arguments).check().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (ready, address) = oneshot::channel();
        let served = tokio::spawn(async move {
            let ready = move |listening: &[(&str, SocketAddr)]| {
                assert_eq!(listening[0].0, "api");
                ready.send(listening[0].1).unwrap();
            };
            registry::serve(config, ready, async {
                let _ = stopped.await;
            })
            .await
        });
        Self { address: address.await.unwrap(), stop, served, home: None }
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.served).await.unwrap().unwrap().unwrap();
        drop(self.home);
    }

    /// One request on a connection of its own.
    pub async fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Reply {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: h:8080\r\nConnection: close\r\n");
        if !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        for header in headers {
            text.push_str(&format!("{header}\r\n"));
        }
        self.raw(format!("{text}\r\n{body}").as_bytes()).await
    }

    /// A body with its length and the right type.
    pub async fn json(&self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, &["Content-Type: application/json"], body).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    /// Exactly these bytes; the answer ends with the connection.
    pub async fn raw(&self, bytes: &[u8]) -> Reply {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            Reply::parse(&answer)
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
    }

    /// Registers and returns the id.
    pub async fn register(&self, service: &str, value: &str, more: &str) -> String {
        let body =
            format!(r#"{{"service_name":"{service}","endpoint":{{"type":"tcp","value":"{value}"}}{more}}}"#);
        let reply = self.json("POST", "/api/v1/instances", &body).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.value()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until asking brings what is wanted.
    pub async fn eventually(&self, path: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
        let asking = async {
            loop {
                let reply = self.get(path).await;
                if wanted(&reply) {
                    return reply;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("the condition in time")
    }
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a complete head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap_or((line.trim_end_matches(':'), "")));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Self { status, headers, body: bytes[end + 4..].to_vec() }
    }

    /// The only value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(header, _)| header == name);
        let value = values.next().map_or("", |(_, value)| value);
        assert!(values.next().is_none(), "{name} came twice");
        value
    }

    pub fn value(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The envelope of spec/registry.md 0.4: one key, not empty.
    pub fn is_error(&self) -> bool {
        let value = self.value();
        let envelope = value.as_object().unwrap();
        envelope.len() == 1 && !envelope["Error"].as_str().unwrap().is_empty()
    }
}
