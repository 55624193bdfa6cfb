//! Asks one instance once whether it is well. How often, and what follows from the answer, is decided elsewhere.

use std::net::SocketAddr;

use control_api::{HealthCheck, Probe};
use http::Method;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::uri::{PathAndQuery, Uri};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use routing::Address;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::grpc;
use crate::context::Target;
use crate::upstream::{self, Aside, Protocol};

/// An answer to a gRPC check is shorter.
const GRPC_ANSWER_BYTES_MAX: usize = 4096;
/// What a check calls itself.
const NAME: &str = "a8-health-check";

/// Whether the instance that registered `address`, dialled at `at`, is well.
pub(super) async fn is_well(check: &HealthCheck, address: &Address, at: SocketAddr, aside: &Aside) -> bool {
    let at = SocketAddr::new(at.ip(), check.port.unwrap_or(at.port()));
    // The first time it has to be made, which is not charged to the instance.
    let connector = if check.probe == Probe::Tcp { None } else { aside.connector() };
    let asking = async {
        match (&check.probe, connector) {
            (Probe::Tcp, _) => TcpStream::connect(at).await.ok().map(drop),
            (Probe::Http(path), Some(connector)) => http(check, path, address, at, connector).await,
            (Probe::Grpc(service), Some(connector)) => grpc(check, service, address, at, connector).await,
            (_, None) => None,
        }
    };
    timeout(check.timeout, asking).await.ok().flatten().is_some()
}

/// A connection of its own: that one comes about is part of the question.
fn target(check: &HealthCheck, address: &Address, at: SocketAddr) -> Target {
    Target {
        address: at,
        tls_name: address.tls.then(|| address.host.clone()),
        time_left: check.timeout,
        read_within: check.timeout,
        write_within: check.timeout,
        requests_per_connection: 1,
    }
}

async fn http(
    check: &HealthCheck,
    path: &str,
    address: &Address,
    at: SocketAddr,
    connector: &Connector,
) -> Option<()> {
    let peer = upstream::peer(&target(check, address, at), Protocol::Http1)?;
    let mut header = RequestHeader::build(Method::GET, path.as_bytes(), None).ok()?;
    header.insert_header(HOST, address.authority()).ok()?;
    header.insert_header(USER_AGENT, NAME).ok()?;
    header.insert_header(CONNECTION, "close").ok()?;
    let (mut session, _) = connector.get_http_session(&*peer).await.ok()?;
    session.write_request_header(Box::new(header)).await.ok()?;
    session.finish_request_body().await.ok()?;
    loop {
        session.read_response_header().await.ok()?;
        let status = session.response_header()?.status;
        if !status.is_informational() {
            return status.is_success().then_some(());
        }
    }
}

async fn grpc(
    check: &HealthCheck,
    service: &str,
    address: &Address,
    at: SocketAddr,
    connector: &Connector,
) -> Option<()> {
    let peer = upstream::peer(&target(check, address, at), Protocol::Http2)?;
    let mut header = RequestHeader::build_no_case(Method::POST, grpc::PATH.as_bytes(), None).ok()?;
    header.insert_header(CONTENT_TYPE, "application/grpc").ok()?;
    header.insert_header(TE, "trailers").ok()?;
    header.insert_header(USER_AGENT, NAME).ok()?;
    let uri = Uri::builder()
        .scheme(if address.tls { "https" } else { "http" })
        .authority(address.authority())
        .path_and_query(PathAndQuery::from_static(grpc::PATH));
    header.set_uri(uri.build().ok()?);
    let (session, _) = connector.get_http_session(&*peer).await.ok()?;
    // Whoever agreed on something else over TLS speaks no gRPC.
    let HttpSession::H2(mut session) = session else { return None };
    session.write_request_header(Box::new(header), false).ok()?;
    session.write_request_body(grpc::question(service), true).await.ok()?;
    session.read_response_header().await.ok()?;
    let answer = session.response_header()?;
    // A call that fails at once says so in its head.
    let failed = answer.headers.get("grpc-status").is_some_and(|status| status != "0");
    if failed || answer.status != 200 {
        return None;
    }
    let mut message = Vec::new();
    while let Some(piece) = session.read_response_body().await.ok()? {
        message.extend_from_slice(&piece);
        if message.len() > GRPC_ANSWER_BYTES_MAX {
            return None;
        }
    }
    let trailers = session.read_trailers().await.ok()??;
    (trailers.get("grpc-status")? == "0" && grpc::is_serving(&message)).then_some(())
}
