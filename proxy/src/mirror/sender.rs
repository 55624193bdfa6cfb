//! Sends copies with Pingora's client, several at a time, and throws their answers away. Which requests are copied, and
//! how much may wait, is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::{PathAndQuery, Uri};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{COPY_WITHIN, Letter, Queue};
use crate::metrics::CopyLost;
use crate::upstream::{self, Aside, Protocol};

/// Copies that are being sent or answered; the others wait.
const COPIES_AT_ONCE: usize = 128;
/// More of an answer is not read; its connection ends instead.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// A connection is closed after this time without a copy.
const IDLE_WITHIN: Duration = Duration::from_secs(30);

/// Sends what comes out of the queue until nobody is left to put anything in.
pub(crate) async fn run(mut queue: Queue) {
    let room = Arc::new(Semaphore::new(COPIES_AT_ONCE));
    let aside = Arc::new(Aside::default());
    while let Some(letter) = queue.recv().await {
        let Ok(turn) = Arc::clone(&room).acquire_owned().await else { return };
        let aside = Arc::clone(&aside);
        tokio::spawn(async move {
            let service = Arc::clone(&letter.to.service);
            let sent = match aside.connector() {
                Ok(connector) => timeout(COPY_WITHIN, letter.send(connector)).await.ok().flatten(),
                Err(error) => {
                    tracing::debug!(%error, "a copy was not sent");
                    None
                }
            };
            match sent {
                Some(()) => service.series().copied(),
                None => service.series().copy_lost(CopyLost::Failed),
            }
            drop(turn);
        });
    }
}

impl Letter {
    /// Sends it and reads its answer; `None` when either could not be done.
    async fn send(self, connector: &Connector) -> Option<()> {
        let Self { to, head, body, _room } = self;
        let peer = upstream::peer(&to.target, head.protocol)?;
        let failed = |error: Box<pingora::Error>| {
            tracing::debug!(%error, instance = %to.target.address, "a copy was not sent");
        };
        let header = {
            let (method, protocol, target) = (head.method.clone(), head.protocol, head.target.clone());
            let host = head.fields.get(HOST).cloned();
            let mut header = RequestHeader::build_no_case(method, &target, None).ok()?;
            for (name, value) in &head.fields_of_copy(&to.rule, body.len()) {
                header.append_header(name.clone(), value.clone()).ok()?;
            }
            if protocol == Protocol::Http2 {
                let scheme = if to.target.tls_name.is_some() { "https" } else { "http" };
                let path = PathAndQuery::try_from(&target[..]).ok()?;
                let uri = Uri::builder().scheme(scheme).authority(host?.as_bytes()).path_and_query(path);
                header.set_uri(uri.build().ok()?);
            }
            header
        };
        let (mut session, _) = connector.get_http_session(&*peer).await.map_err(failed).ok()?;
        session.write_request_header(Box::new(header)).await.map_err(failed).ok()?;
        if !body.is_empty() {
            session.write_request_body(body, true).await.map_err(failed).ok()?;
        }
        session.finish_request_body().await.map_err(failed).ok()?;
        loop {
            session.read_response_header().await.map_err(failed).ok()?;
            // Answers before the answer: each is read like one.
            if session.response_header().is_some_and(|answer| !answer.status.is_informational()) {
                break;
            }
        }
        let mut read = 0;
        while let Some(piece) = session.read_response_body().await.map_err(failed).ok()? {
            read += piece.len();
            if read > ANSWER_BYTES_MAX {
                session.shutdown().await;
                return Some(());
            }
        }
        connector.release_http_session(session, &*peer, Some(IDLE_WITHIN)).await;
        Some(())
    }
}
