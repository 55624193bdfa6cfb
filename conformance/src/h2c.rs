//! A client for HTTP/2 in clear text with prior knowledge. For the few tests that need it; everything else speaks HTTP/1.1
//! through [`crate::caller`].

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::caller::ANSWER_PATIENCE;

/// An answer over HTTP/2.
#[derive(Debug, Clone)]
pub struct H2Answer {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// What came behind it.
    pub trailers: HeaderMap,
}

/// Sends the requests at once as streams of one connection; answers come in the order of the requests.
///
/// # Panics
/// When the connection or a stream fails: the test cannot go on.
pub fn exchange(address: SocketAddr, requests: Vec<Request<Bytes>>) -> Vec<H2Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    runtime.block_on(async {
        let all = tokio::time::timeout(ANSWER_PATIENCE, streams(address, requests)).await;
        all.expect("the answers come in time").expect("the connection holds")
    })
}

async fn streams(address: SocketAddr, requests: Vec<Request<Bytes>>) -> Result<Vec<H2Answer>, hyper::Error> {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the proxy accepts");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let sent: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
                let body = body.collect().await?;
                let trailers = body.trailers().cloned().unwrap_or_default();
                let (status, body) = (head.status.as_u16(), body.to_bytes());
                Ok::<_, hyper::Error>(H2Answer { status, headers: head.headers, body, trailers })
            })
        })
        .collect();
    let mut answers = Vec::new();
    for stream in sent {
        answers.push(stream.await.expect("a stream's task does not panic")?);
    }
    driver.abort();
    Ok(answers)
}
