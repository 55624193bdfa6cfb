//! Asks one instance once whether it is well. How often, and what follows from the answer, is decided elsewhere.

use std::error::Error;
use std::io;
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
use crate::shortage::{NoRoots, Shortage};
use crate::upstream::{self, Aside, Protocol};

/// An answer to a gRPC check is shorter.
const GRPC_ANSWER_BYTES_MAX: usize = 4096;
/// What a check calls itself.
const NAME: &str = "a8-health-check";

/// What a check has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    Well,
    Unwell,
    /// Nothing: the proxy itself lacks what asking takes.
    Unasked(Shortage),
}

/// How a check ends that does not find its instance well.
struct Ended(Finding);

/// Whatever an instance does wrong.
const UNWELL: Ended = Ended(Finding::Unwell);

impl Ended {
    fn by(error: &(dyn Error + 'static)) -> Self {
        Self(Shortage::of(error).map_or(Finding::Unwell, Finding::Unasked))
    }
}

impl From<Box<pingora::Error>> for Ended {
    fn from(error: Box<pingora::Error>) -> Self {
        Self::by(error.root_cause())
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::by(&error)
    }
}

impl From<NoRoots> for Ended {
    fn from(error: NoRoots) -> Self {
        Self::by(&error)
    }
}

impl From<http::Error> for Ended {
    fn from(_: http::Error) -> Self {
        UNWELL
    }
}

/// Whether the instance that registered `address`, dialled at `at`, is well.
pub(super) async fn ask(check: &HealthCheck, address: &Address, at: SocketAddr, aside: &Aside) -> Finding {
    let at = SocketAddr::new(at.ip(), check.port.unwrap_or(at.port()));
    if check.probe != Probe::Tcp {
        // The first time it has to be made, which is not charged to the instance.
        let _made = aside.connector();
    }
    let asking = async {
        match &check.probe {
            Probe::Tcp => TcpStream::connect(at).await.map(drop).map_err(Ended::from),
            Probe::Http(path) => http(check, path, address, at, aside.connector()?).await,
            Probe::Grpc(service) => grpc(check, service, address, at, aside.connector()?).await,
        }
    };
    match timeout(check.timeout, asking).await {
        Ok(Ok(())) => Finding::Well,
        Ok(Err(Ended(finding))) => finding,
        Err(_) => Finding::Unwell,
    }
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
) -> Result<(), Ended> {
    let peer = upstream::peer(&target(check, address, at), Protocol::Http1).ok_or(UNWELL)?;
    let mut header = RequestHeader::build(Method::GET, path.as_bytes(), None)?;
    header.insert_header(HOST, address.authority())?;
    header.insert_header(USER_AGENT, NAME)?;
    header.insert_header(CONNECTION, "close")?;
    let (mut session, _) = connector.get_http_session(&*peer).await?;
    session.write_request_header(Box::new(header)).await?;
    session.finish_request_body().await?;
    loop {
        session.read_response_header().await?;
        let status = session.response_header().ok_or(UNWELL)?.status;
        if !status.is_informational() {
            return status.is_success().then_some(()).ok_or(UNWELL);
        }
    }
}

async fn grpc(
    check: &HealthCheck,
    service: &str,
    address: &Address,
    at: SocketAddr,
    connector: &Connector,
) -> Result<(), Ended> {
    let peer = upstream::peer(&target(check, address, at), Protocol::Http2).ok_or(UNWELL)?;
    let mut header = RequestHeader::build_no_case(Method::POST, grpc::PATH.as_bytes(), None)?;
    header.insert_header(CONTENT_TYPE, "application/grpc")?;
    header.insert_header(TE, "trailers")?;
    header.insert_header(USER_AGENT, NAME)?;
    let uri = Uri::builder()
        .scheme(if address.tls { "https" } else { "http" })
        .authority(address.authority())
        .path_and_query(PathAndQuery::from_static(grpc::PATH));
    header.set_uri(uri.build()?);
    let (session, _) = connector.get_http_session(&*peer).await?;
    // Whoever agreed on something else over TLS speaks no gRPC.
    let HttpSession::H2(mut session) = session else { return Err(UNWELL) };
    session.write_request_header(Box::new(header), false)?;
    session.write_request_body(grpc::question(service), true).await?;
    session.read_response_header().await?;
    let answer = session.response_header().ok_or(UNWELL)?;
    // A call that fails at once says so in its head.
    let failed = answer.headers.get("grpc-status").is_some_and(|status| status != "0");
    if failed || answer.status != 200 {
        return Err(UNWELL);
    }
    let mut message = Vec::new();
    while let Some(piece) = session.read_response_body().await? {
        message.extend_from_slice(&piece);
        if message.len() > GRPC_ANSWER_BYTES_MAX {
            return Err(UNWELL);
        }
    }
    let trailers = session.read_trailers().await?.ok_or(UNWELL)?;
    let is_whole = trailers.get("grpc-status").is_some_and(|status| status == "0");
    (is_whole && grpc::is_serving(&message)).then_some(()).ok_or(UNWELL)
}
