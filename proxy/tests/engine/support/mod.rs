//! A proxy in a thread, instances and clients on raw sockets. Every wait has an end.

mod answer;
mod conn;
mod instance;
mod proxy;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::time::timeout;

pub(crate) use answer::{Answer, field, fields, goes_on, status_of};
pub(crate) use conn::Conn;
pub(crate) use instance::Instance;
pub(crate) use proxy::Proxy;

/// No single wait of a test lasts longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for `future`, and fails the test when it does not come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// An address that refuses connections for as long as this process lives: its port is held, so that no other test's
/// listener gets it.
pub(crate) async fn nobody() -> SocketAddr {
    let held = TcpSocket::new_v4().unwrap();
    held.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let at = held.local_addr().unwrap();
    std::mem::forget(held);
    at
}

pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

pub(crate) fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A route rule for `s`: everything to tag v1.
pub(crate) fn route(fields: Value) -> Value {
    let mut route = json!({"backends": [{"tags": ["v1"]}]});
    for (key, value) in fields.as_object().unwrap() {
        route[key] = value.clone();
    }
    json!({"id": "r", "destination": "s", "route": route})
}

/// An action rule for `s`.
pub(crate) fn actions(actions: Value) -> Value {
    json!({"id": "a", "destination": "s", "actions": actions})
}
