//! Turns the target of an attempt into a Pingora peer, and Pingora's errors into causes. What follows from a cause
//! is not known here.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pingora::connectors::TransportConnector;
use pingora::connectors::http::Connector;
use pingora::protocols::{ALPN, Stream};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, OrErr as _, Result, RetryType};

use crate::bridge;
use crate::context::{CONNECT_WITHIN, Cause, Target};
use crate::shortage::{NoRoots, Shortage};
use crate::strait::{self, StraitConnect};
use crate::throttle::Flow;
use crate::tls;
use crate::tunnel::TunnelConnect;

/// A connection to an instance is closed after this time without a request: below what servers usually allow.
pub(crate) const IDLE_WITHIN: Duration = Duration::from_secs(55);
/// The same for one that nobody will use again.
const SINGLE_IDLE_WITHIN: Duration = Duration::from_secs(1);
/// The most between two reads from the instance once another protocol is spoken.
pub(crate) const TUNNEL_IDLE_WITHIN: Duration = Duration::from_secs(3600);
/// For the connection and the TLS handshake together.
const TLS_WITHIN: Duration = Duration::from_secs(3);
/// Requests at once on one HTTP/2 connection; the library's default is 1.
const HTTP2_STREAMS_MAX: usize = 100;

/// What is spoken to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// HTTP/1.1 that may become something else.
    Tunnel,
    /// With prior knowledge, or by ALPN over TLS.
    Http2,
}

/// The peer for one attempt.
///
/// An empty server name would switch the verification of certificates off in Pingora; a target that speaks TLS
/// has a host, and without one there is no peer.
pub(crate) fn peer(target: &Target, protocol: Protocol) -> Option<Box<HttpPeer>> {
    let tls_name = target.tls_name.clone();
    if tls_name.as_deref() == Some("") {
        return None;
    }
    let tls = tls_name.is_some();
    // A socket address, never a name: names would be looked up here and now, blocking the thread.
    let mut peer = Box::new(HttpPeer::new(target.address, tls, tls_name.unwrap_or_default()));
    let single = target.requests_per_connection < u32::MAX;
    // Pingora's pool does not tell protocols apart; connections of one must not serve the other. It does not count
    // requests either: where that matters, nobody else gets the connection.
    peer.group_key = match protocol {
        Protocol::Http1 if single => 4,
        Protocol::Http1 => 1,
        Protocol::Http2 if single => fastrand::u64(5..),
        Protocol::Http2 => 2,
        Protocol::Tunnel => 3,
    };
    let options = &mut peer.options;
    options.connection_timeout = Some(CONNECT_WITHIN.min(target.time_left));
    options.total_connection_timeout =
        Some(if tls { TLS_WITHIN } else { CONNECT_WITHIN }.min(target.time_left));
    options.read_timeout = Some(target.read_within);
    options.write_timeout = Some(target.write_within);
    options.idle_timeout = Some(if single { SINGLE_IDLE_WITHIN } else { IDLE_WITHIN });
    match protocol {
        Protocol::Http1 => {}
        Protocol::Http2 => {
            options.alpn = ALPN::H2;
            // A connection that may carry more stays in Pingora's pool for whoever is next, and nobody comes for one's own.
            options.max_h2_streams = if single { 1 } else { HTTP2_STREAMS_MAX };
        }
        Protocol::Tunnel => {
            options.custom_l4 = Some(Arc::new(TunnelConnect));
            // A tunnel may be silent for longer than an answer may.
            options.read_timeout = Some(TUNNEL_IDLE_WITHIN);
            options.write_timeout = Some(TUNNEL_IDLE_WITHIN);
        }
    }
    Some(peer)
}

/// The peer for one attempt whose answer is held back, or watched for its beginning, by the connection. That is the
/// attempt's own.
pub(crate) fn narrow_peer(connect: StraitConnect) -> Option<Box<HttpPeer>> {
    let target = &connect.target;
    if target.tls_name.as_deref() == Some("") {
        return None;
    }
    let within = if target.tls_name.is_some() { TLS_WITHIN } else { CONNECT_WITHIN };
    // TLS is spoken below what slows the answer down; above it everything is plain text.
    let spoken = if connect.bridges.is_some() { Protocol::Http1 } else { connect.protocol };
    let mut peer = peer(&Target { tls_name: None, ..target.clone() }, spoken)?;
    peer.group_key = fastrand::u64(5..);
    peer.options.max_h2_streams = 1;
    peer.options.total_connection_timeout = Some(within.min(target.time_left));
    // Our own pauses are no silence of the instance.
    let pause = connect.limits.as_ref().map(|(_, limits)| Flow::new(*limits).pause_max());
    peer.options.read_timeout = Some(target.read_within + pause.unwrap_or_default());
    peer.options.idle_timeout = Some(SINGLE_IDLE_WITHIN);
    peer.options.custom_l4 = Some(Arc::new(connect));
    Some(peer)
}

/// Connects the lanes of all threads to instances that speak TLS. Made for the first of them: most proxies have none, and
/// the certificates of all authorities take memory.
#[derive(Default)]
pub(crate) struct Secure(OnceLock<TransportConnector>);

impl Secure {
    /// A new connection on which the instance has proven its name.
    pub(crate) async fn connect(&self, target: &Target, protocol: Protocol) -> Result<Stream> {
        let peer = peer(target, protocol).ok_or_else(|| Error::new_up(ErrorType::ConnectError))?;
        let connected = self.connector()?.new_stream(&*peer).await;
        connected.inspect_err(|error| tracing::debug!(%error, "no TLS with an instance"))
    }

    fn connector(&self) -> Result<&TransportConnector> {
        if self.0.get().is_none() {
            // They could be read at the start, and may have gone since.
            tls::check_roots()
                .map_err(NoRoots)
                .inspect_err(|error| tracing::debug!(%error, "no TLS with an instance"))
                .or_err(ErrorType::InternalError, "before connecting to an instance")?;
        }
        Ok(self.0.get_or_init(|| TransportConnector::new(None)))
    }
}

/// Speaks to instances beside the requests, in either protocol, with connections of its own. Made when it is first needed:
/// most proxies never do, and the certificates of all authorities take memory.
#[derive(Default)]
pub(crate) struct Aside(OnceLock<Connector>);

impl Aside {
    /// Fails while there is nobody to verify instances by.
    pub(crate) fn connector(&self) -> std::result::Result<&Connector, NoRoots> {
        if self.0.get().is_none() {
            tls::check_roots().map_err(NoRoots)?;
        }
        Ok(self.0.get_or_init(|| Connector::new(None)))
    }
}

/// Why no connection came about.
pub(crate) fn unconnected(error: &Error) -> Cause {
    Shortage::of(error.root_cause()).map_or(Cause::Unreachable, Cause::Lacking)
}

/// What an error of the upstream side means; `None` when the instance is not to blame, or a rule wanted it so.
pub(crate) fn cause(error: &Error) -> Option<Cause> {
    if *error.esource() != ErrorSource::Upstream || strait::is_cut(error) {
        return None;
    }
    if let Some(cause) = bridge::cause(error) {
        return Some(cause);
    }
    Some(match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Cause::Late,
        ErrorType::ConnectTimedout
        | ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::SocketError
        | ErrorType::BindError
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::TLSWantX509Lookup => Cause::Unreachable,
        ErrorType::H2Error if is_unseen(error) => Cause::RefusedStream,
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 | ErrorType::H1Error => Cause::Unintelligible,
        _ => Cause::Unanswered,
    })
}

/// Whether the instance did not look at the request: it refused the stream, or went away and named an earlier one as the
/// last that it took (RFC 9113 6.8, 8.7). Pingora marks both, and among errors of this type no other.
pub(crate) fn is_unseen(error: &Error) -> bool {
    *error.etype() == ErrorType::H2Error && matches!(error.retry, RetryType::Decided(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::upstreams::peer::Peer;

    fn target(tls_name: Option<&str>) -> Target {
        Target {
            address: "127.0.0.1:9080".parse().unwrap(),
            tls_name: tls_name.map(str::to_owned),
            time_left: Duration::from_millis(400),
            read_within: Duration::from_secs(15),
            write_within: Duration::from_secs(15),
            requests_per_connection: u32::MAX,
        }
    }

    #[test]
    fn a_peer_that_speaks_tls_always_names_the_server() {
        let peer_of = |name| peer(&target(name), Protocol::Http1);
        let tls = peer_of(Some("shop.example")).unwrap();
        assert!(tls.is_tls() && tls.verify_cert() && tls.verify_hostname());
        assert_eq!(tls.sni(), "shop.example");
        assert!(peer_of(Some("")).is_none());
        assert!(!peer_of(None).unwrap().is_tls());
    }

    #[test]
    fn protocols_do_not_share_connections_and_no_wait_outlasts_the_deadline() {
        let (one, two) =
            (peer(&target(None), Protocol::Http1).unwrap(), peer(&target(None), Protocol::Http2).unwrap());
        assert_ne!(one.reuse_hash(), two.reuse_hash());
        assert_eq!(two.options.max_h2_streams, HTTP2_STREAMS_MAX);
        for peer in [one, two] {
            let left = Duration::from_millis(400);
            assert_eq!(peer.options.connection_timeout, Some(left));
            assert_eq!(peer.options.total_connection_timeout, Some(left));
        }
    }

    #[test]
    fn connections_whose_requests_are_counted_are_nobody_elses() {
        let counted = Target { requests_per_connection: 3, ..target(None) };
        let hash = |target: &Target, protocol| peer(target, protocol).unwrap().reuse_hash();
        for protocol in [Protocol::Http1, Protocol::Http2] {
            assert_ne!(hash(&counted, protocol), hash(&target(None), protocol), "{protocol:?}");
        }
        assert_ne!(hash(&counted, Protocol::Http2), hash(&counted, Protocol::Http2));
    }

    #[test]
    fn every_error_of_the_upstream_side_has_a_cause_and_no_other_has() {
        for (etype, expected) in [
            (ErrorType::ConnectRefused, Cause::Unreachable),
            (ErrorType::ConnectTimedout, Cause::Unreachable),
            (ErrorType::ConnectNoRoute, Cause::Unreachable),
            (ErrorType::ConnectError, Cause::Unreachable),
            (ErrorType::TLSHandshakeFailure, Cause::Unreachable),
            (ErrorType::TLSHandshakeTimedout, Cause::Unreachable),
            (ErrorType::InvalidCert, Cause::Unreachable),
            (ErrorType::ReadTimedout, Cause::Late),
            (ErrorType::WriteTimedout, Cause::Late),
            (ErrorType::ConnectionClosed, Cause::Unanswered),
            (ErrorType::ReadError, Cause::Unanswered),
            (ErrorType::WriteError, Cause::Unanswered),
            (ErrorType::H2Error, Cause::Unanswered),
            (ErrorType::InvalidHTTPHeader, Cause::Unintelligible),
            (ErrorType::InvalidH2, Cause::Unintelligible),
        ] {
            assert_eq!(cause(&Error::new_up(etype.clone())), Some(expected), "{etype:?}");
            assert_eq!(cause(&Error::new_down(etype.clone())), None);
            assert_eq!(cause(&Error::new_in(etype)), None);
        }
    }
}
