//! Finds an instance for one connection of plain TCP and connects to it. Who may be chosen is routing's, what a failure
//! means for the instance the board's; nothing is sent.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use control_api::TagTest;
use routing::{TIMEOUT_DEFAULT, pick_in_turn};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Front;
use crate::board::{BoardView, EndpointLive, InFlight, Limits, ServiceLive};
use crate::clock;
use crate::context::{ATTEMPTS_MAX, CONNECT_WITHIN};
use crate::metrics::{Ejection, TcpEnd};
use crate::shortage::Shortage;

/// How long a client waits for an instance in all, as long as a request for its answer: one after the other may not say
/// anything.
const DIAL_WITHIN: Duration = TIMEOUT_DEFAULT;

/// A connection to an instance.
pub(super) struct Dialled {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// How long it took.
    pub(super) took: Duration,
    /// Counts it among those of the instance.
    pub(super) in_flight: InFlight,
}

/// Connects to the instance whose turn it is, or to the next one that can be connected to.
///
/// One table says who there is; it is let go with the last attempt, because a connection may outlive many.
pub(super) async fn dial(front: &Front) -> Result<Dialled, TcpEnd> {
    let table = front.tables.pin();
    let at = table.find(front.proxy.service.as_str()).ok_or(TcpEnd::UnknownService)?;
    let service = table.service(at);
    let tests: Vec<_> = front
        .proxy
        .tags
        .iter()
        .map(|tag| TagTest::new(tag).expect("the settings have been checked"))
        .collect();
    let endpoints = service.carrying(&tests);
    let (ticket, began) = (front.ticket.fetch_add(1, Ordering::Relaxed), clock::now());
    let (mut tried, mut end) = (Vec::new(), TcpEnd::NoInstances);
    while tried.len() < endpoints.len().min(ATTEMPTS_MAX as usize) {
        let now = clock::now();
        if now.saturating_duration_since(began) >= DIAL_WITHIN {
            break;
        }
        let Some(picked) = pick_in_turn(&endpoints, &BoardView::at(now), &tried, ticket) else { break };
        tried.push(picked);
        end = TcpEnd::ConnectFailed;
        let endpoint = &endpoints[picked].live;
        // A host name that was never resolved.
        let Some(address) = endpoint.address() else { continue };
        let in_flight = endpoint.begin();
        let connected = connect(address).await;
        let then = clock::now();
        match connected {
            Ok(stream) => {
                endpoint.succeeded(&Limits::default());
                let took = then.saturating_duration_since(now);
                return Ok(Dialled { stream, address, took, in_flight });
            }
            Err(error) => match Shortage::of(&error) {
                None => failed(endpoint, &service.live, address, then),
                // What is wrong in here must not be held against anybody out there.
                Some(shortage) => {
                    service.live.series().lacked(shortage);
                    end = TcpEnd::Shortage;
                    if !shortage.is_of_one_instance() {
                        break;
                    }
                    endpoint.look_elsewhere();
                }
            },
        }
    }
    Err(end)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_WITHIN, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Tells the board, which counts it together with what requests have met there. No rule says how many failures eject, so
/// the defaults do, by which all instances may be.
fn failed(endpoint: &EndpointLive, service: &ServiceLive, address: SocketAddr, now: Instant) {
    if endpoint.unreachable(now, &Limits::default(), || Some(())) {
        service.series().ejected(Ejection::ConsecutiveErrors);
        tracing::warn!(instance = %address, "instance ejected");
    }
}
