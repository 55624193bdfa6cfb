//! The series of plain TCP. Their labels come from the settings, so there are never more than listeners.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Maker;

/// How a connection of plain TCP ended, as in the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpEnd {
    /// Both sides have said all.
    Ended,
    /// The client broke off.
    ClientReset,
    /// The instance broke off.
    InstanceReset,
    /// Nobody said anything for too long.
    Idle,
    /// The proxy ended first.
    CutOff,
    /// No table knows the service.
    UnknownService,
    /// The service has no instance with these tags.
    NoInstances,
    /// No instance could be connected to.
    ConnectFailed,
    /// The proxy lacked what a connection takes.
    Shortage,
}

impl TcpEnd {
    /// As in the label `outcome`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::ClientReset => "client_reset",
            Self::InstanceReset => "instance_reset",
            Self::Idle => "idle",
            Self::CutOff => "cut_off",
            Self::UnknownService => "unknown_service",
            Self::NoInstances => "no_instances",
            Self::ConnectFailed => "connect_failed",
            Self::Shortage => "shortage",
        }
    }
}

/// The families; none of them is on the page before a listener is.
pub(super) struct TcpFamilies {
    connections: IntCounterVec,
    active: IntGaugeVec,
    bytes: IntCounterVec,
}

/// The series of one listener. Two of the same service and tags share theirs.
#[derive(Debug)]
pub struct TcpSeries {
    connections: IntCounterVec,
    labels: [String; 2],
    /// Connections that clients hold.
    pub active: IntGauge,
    /// Bytes from clients.
    pub received: IntCounter,
    /// Bytes to clients.
    pub sent: IntCounter,
}

impl TcpFamilies {
    pub(super) fn new(make: &Maker<'_>) -> Self {
        Self {
            connections: make.counters(
                "a8_proxy_tcp_connections_total",
                "Connections of plain TCP by how they ended.",
                &["service", "backend", "outcome"],
            ),
            active: make.gauges(
                "a8_proxy_tcp_active_connections",
                "Open client connections of plain TCP.",
                &["service", "backend"],
            ),
            bytes: make.counters(
                "a8_proxy_tcp_bytes_total",
                "Bytes of plain TCP, received from clients and sent to them.",
                &["service", "backend", "direction"],
            ),
        }
    }

    /// `backend` is the tags, joined with commas.
    pub(super) fn of(&self, service: &str, backend: &str) -> TcpSeries {
        TcpSeries {
            active: self.active.with_label_values(&[service, backend]),
            received: self.bytes.with_label_values(&[service, backend, "received"]),
            sent: self.bytes.with_label_values(&[service, backend, "sent"]),
            connections: self.connections.clone(),
            labels: [service.to_owned(), backend.to_owned()],
        }
    }
}

impl TcpSeries {
    /// Counts a connection that is over.
    pub fn ended(&self, end: TcpEnd) {
        let [service, backend] = &self.labels;
        self.connections.with_label_values(&[service, backend, end.label()]).inc();
    }
}
