//! What the engine does with the client's session beside passing it on: its limits, an answer of our own, waiting while
//! watching the client. What is answered is decided elsewhere.

use bytes::Bytes;
use control_api::Edits;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, RETRY_AFTER, TRANSFER_ENCODING, UPGRADE};
use http::uri::Authority;
use http::{HeaderValue, Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use routing::RequestHead;

use crate::context::{CLIENT_WITHIN, Context, DRAIN_WITHIN, REPLAY_BYTES_MAX, Replay};
use crate::forward;
use crate::grpc;
use crate::head::is_host;
use crate::mirror;
use crate::respond::{Content, ERROR_HEADER, Reply, Says};
use crate::service::IDLE_WITHIN;
use crate::trace::Carried;
use crate::upstream::{Protocol, TUNNEL_IDLE_WITHIN};

/// Sets every limit of the session anew: Pingora resets some of them with each request it parses.
pub(super) fn limit(session: &mut Session, ctx: &mut Context) {
    // `Some(0)` would be for ever. Pingora looks at the first Connection field only.
    let closes = forward::asks_to_close(&session.req_header().headers);
    ctx.keepalive = session.get_keepalive().filter(|_| !closes).map(|_| IDLE_WITHIN.as_secs());
    session.set_keepalive(ctx.keepalive);
    let within = if ctx.upgrade { TUNNEL_IDLE_WITHIN } else { CLIENT_WITHIN };
    session.set_read_timeout(Some(within));
    session.set_write_timeout(Some(within));
    session.set_total_drain_timeout(Some(DRAIN_WITHIN));
    if session.req_header().version < Version::HTTP_11 {
        // They know no 1xx (RFC 9110 15.2).
        session.set_ignore_info_resp(true);
    }
}

/// Checks what both protocols share, and gives the request its id.
pub(super) fn admit(session: &mut Session, ctx: &mut Context) -> std::result::Result<(), Reply> {
    let request = session.req_header();
    if ctx.decision().is_none() {
        let given = forward::given_request_id(&request.headers).cloned();
        ctx.identify(given.unwrap_or_else(|| forward::new_request_id(fastrand::u128(..))));
    }
    if request.version == Version::HTTP_2 {
        let authority = authority_of(request);
        if !is_host(authority.as_bytes()) {
            return Err(Reply::bad_request("the authority is missing or malformed"));
        }
    }
    if ctx.bridged && Authority::try_from(authority_of(request)).is_err() {
        // More may stand in a Host field than in an authority.
        return Err(Reply::bad_request("the authority is missing or malformed"));
    }
    if (ctx.bridged || is_grpc(request))
        && let Some(timeout) = request.headers.get(grpc::TIMEOUT)
        && let Some(within) = grpc::timeout(timeout.as_bytes())
    {
        ctx.expires_after(within);
    }
    if !request.raw_path().is_ascii() {
        return Err(Reply::bad_request("the request target is malformed"));
    }
    ctx.upgrade = request.version == Version::HTTP_11 && forward::wants_upgrade(&request.headers);
    if !ctx.upgrade && request.headers.contains_key(UPGRADE) {
        // Otherwise Pingora would take it for one.
        session.req_header_mut().remove_header(&UPGRADE);
    }
    Ok(())
}

/// Whether the head of an answer was sent.
pub(super) fn has_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|answer| !answer.status.is_informational() || answer.status == 101)
}

pub(super) fn replay(session: &Session) -> Replay<'_> {
    Replay {
        method: session.req_header().method.as_str(),
        body: !session.as_ref().retry_buffer_truncated(),
        idempotent: session.req_header().method.is_idempotent(),
    }
}

/// Writes an answer of the proxy's own; always `Ok(true)`. Where the proxy is `ending`, so is the connection.
pub(super) async fn answer(
    session: &mut Session,
    reply: &Reply,
    ctx: &Context,
    ending: bool,
) -> Result<bool> {
    let grpc = is_grpc(session.req_header()) && matches!(reply.says, Says::Error { .. });
    let reply = if ctx.bridged { &*reply.bridged() } else { reply };
    let body = if grpc { Bytes::new() } else { reply.body() };
    let status = if grpc { 200 } else { reply.status };
    let mut header = ResponseHeader::build(status, Some(8))?;
    match &reply.says {
        Says::Error { id, description } => {
            header.insert_header(ERROR_HEADER, *id)?;
            if grpc || ctx.bridged {
                header.insert_header(grpc::STATUS, reply.grpc_status().to_string())?;
                header.insert_header(grpc::MESSAGE, description.as_ref())?;
            }
            if grpc {
                header.insert_header(CONTENT_TYPE, "application/grpc")?;
            } else if reply.content() == Content::Body {
                header.insert_header(CONTENT_TYPE, "application/json")?;
            }
        }
        Says::Given { fields, .. } => {
            for (name, value) in fields {
                header.append_header(name.clone(), value.clone())?;
            }
        }
    }
    if !grpc && reply.content() != Content::Unframed {
        header.insert_header(CONTENT_LENGTH, body.len())?;
    }
    if let Some(seconds) = reply.retry_after_s {
        header.insert_header(RETRY_AFTER, seconds)?;
    }
    // What only announces an answer cannot be one: the connection ends behind it.
    if header.status.is_informational() || ctx.upgrade || ending {
        session.set_keepalive(None);
    }
    if is_short(session.req_header()) {
        // The rest of a short body is read instead of ending the connection.
        session.set_close_on_response_before_downstream_finish(false);
    }
    let bodiless = body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(header), bodiless).await.map_err(Error::into_down)?;
    let body = if bodiless { Bytes::new() } else { body };
    session.write_response_body(Some(body), true).await.map_err(Error::into_down)?;
    Ok(true)
}

/// Waits until the client leaves. A short body is read meanwhile, for that is the only way to see past it.
pub(super) async fn left(session: &mut Session) -> Box<Error> {
    if session.as_http2().is_some() {
        return match session.as_downstream_mut().watch_h2_stream_close() {
            Some(close) => {
                let _reason = close.await;
                Error::new_down(ErrorType::ConnectionClosed)
            }
            None => std::future::pending().await,
        };
    }
    if !session.is_body_empty() && !is_short(session.req_header()) {
        return std::future::pending().await;
    }
    session.enable_retry_buffering();
    loop {
        let done = session.is_body_done();
        if let Err(error) = session.as_downstream_mut().read_body_or_idle(done).await {
            return error.into_down();
        }
    }
}

/// Does to the header of a request what its route says.
pub(super) fn edit_request(request: &mut RequestHeader, edits: &Edits) -> Result<()> {
    for name in forward::replaced(edits) {
        request.remove_header(name);
    }
    for (name, value) in forward::put(edits) {
        request.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// Does to the header of an answer what the route says.
pub(super) fn edit_answer(answer: &mut ResponseHeader, edits: &Edits) -> Result<()> {
    for name in forward::replaced(edits) {
        answer.remove_header(name);
    }
    for (name, value) in forward::put(edits) {
        answer.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// The head of the copy of a request that came as `received` and goes on as `request`; `None` when `host`, which takes the
/// place of what the client named, is no field value.
pub(super) fn copy_of(
    request: &RequestHeader,
    received: &RequestHeader,
    host: Option<&str>,
    protocol: Protocol,
) -> Option<mirror::Head> {
    let mut fields = request.headers.clone();
    fields.insert(HOST, HeaderValue::from_str(host.unwrap_or(authority_of(received))).ok()?);
    let (path, query) = split_target(request.raw_path());
    Some(mirror::Head {
        method: request.method.clone(),
        target: [path.as_bytes(), query].concat(),
        fields,
        protocol,
        framed: false,
    })
}

/// Fits an answer to its client: version, framing, and whether the connection goes on; not where the proxy is `ending`.
pub(super) fn fit(session: &mut Session, answer: &mut ResponseHeader, ctx: &Context, ending: bool) {
    if session.req_header().headers.contains_key(EXPECT) {
        // Pingora gives the connection up when it passes on the interim answer.
        session.set_keepalive(ctx.keepalive);
    }
    answer.set_version(Version::HTTP_11);
    if session.req_header().version < Version::HTTP_11 && answer.headers.contains_key(TRANSFER_ENCODING) {
        // The end of the connection is the end of the body.
        answer.remove_header(&TRANSFER_ENCODING);
        session.set_keepalive(None);
    }
    if ctx.upgrade || ending {
        session.set_keepalive(None);
    }
}

/// Whether the body has a length that Pingora can keep, and comes without being asked for.
pub(super) fn is_short(request: &RequestHeader) -> bool {
    length_of(request).is_some_and(|length| length <= REPLAY_BYTES_MAX)
        && !request.headers.contains_key(EXPECT)
}

/// Whether the body is said to be longer than what connections take without being read.
pub(super) fn is_long(request: &RequestHeader) -> bool {
    length_of(request).is_some_and(|length| length > REPLAY_BYTES_MAX)
}

fn length_of(request: &RequestHeader) -> Option<u64> {
    request.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn head_of(request: &RequestHeader) -> RequestHead<'_> {
    RequestHead {
        method: request.method.as_str(),
        path: path_of(request),
        query: query_of(request),
        authority: authority_of(request),
        headers: &request.headers,
    }
}

/// What a request carries of a trace.
pub(super) fn carried(request: &RequestHeader) -> Carried {
    Carried::of(request.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
}

/// What the client speaks.
pub(super) fn scheme(session: &Session) -> &'static str {
    forward::scheme(session.digest().is_some_and(|digest| digest.ssl_digest.is_some()))
}

pub(super) fn path_of(request: &RequestHeader) -> &str {
    split_target(request.raw_path()).0
}

fn query_of(request: &RequestHeader) -> &str {
    let query = split_target(request.raw_path()).1;
    query.strip_prefix(b"?").and_then(|query| std::str::from_utf8(query).ok()).unwrap_or_default()
}

/// The path, and the query with its question mark. Checked to be ASCII before anything asks.
pub(super) fn split_target(target: &[u8]) -> (&str, &[u8]) {
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    (std::str::from_utf8(&target[..end]).unwrap_or_default(), &target[end..])
}

pub(crate) fn authority_of(request: &RequestHeader) -> &str {
    let host = || request.headers.get(HOST).and_then(|host| host.to_str().ok());
    request.uri.authority().map(|authority| authority.as_str()).or_else(host).unwrap_or_default()
}

pub(crate) fn is_grpc(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_2
        && request
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether it is a call of gRPC in HTTP/1.1.
pub(super) fn is_bridged(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_11
        && request.method == Method::POST
        && !forward::wants_upgrade(&request.headers)
        && request.headers.get(CONTENT_TYPE).is_some_and(|kind| grpc::is_media_type(kind.as_bytes()))
}

pub(super) fn protocol_of(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_11 => "HTTP/1.1",
        _ => "HTTP/1.0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split_at_the_first_question_mark() {
        for (target, path, query) in [("/a/b", "/a/b", ""), ("/a?b?c", "/a", "?b?c"), ("?x", "", "?x")] {
            assert_eq!(split_target(target.as_bytes()), (path, query.as_bytes()));
        }
    }
}
