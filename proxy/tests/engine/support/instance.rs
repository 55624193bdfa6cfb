//! An instance whose connections a test takes, or which answers by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Conn, field, ok, soon};

/// An instance: accepts connections and hands them to the test.
pub(crate) struct Instance {
    pub(crate) at: SocketAddr,
    accepted: mpsc::UnboundedReceiver<Conn>,
}

impl Instance {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (accept, accepted) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accept.send(Conn::new(stream)).is_err() {
                    return;
                }
            }
        });
        Self { at, accepted }
    }

    /// An instance that answers every request that has no body or a length, on every connection, with what `answer`
    /// makes of its head and body. An answer that says so ends the connection.
    pub(crate) async fn answering(
        answer: impl Fn(&str, &str) -> String + Send + Sync + 'static,
    ) -> SocketAddr {
        let mut instance = Self::start().await;
        let at = instance.at;
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Some(mut conn) = instance.accepted.recv().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    while let Some(head) = conn.try_head().await {
                        let body = conn.body_of(&head).await;
                        let answer = answer(&head, &body);
                        conn.send(&answer).await;
                        if field(&answer, "connection") == Some("close") {
                            return;
                        }
                    }
                });
            }
        });
        at
    }

    /// An instance that answers 200 with its name.
    pub(crate) async fn named(name: &'static str) -> SocketAddr {
        Self::answering(move |_, _| ok(name)).await
    }

    /// The next connection.
    pub(crate) async fn accept(&mut self) -> Conn {
        soon("a connection to the instance", self.accepted.recv()).await.unwrap()
    }

    /// The next connection and the head of its first request.
    pub(crate) async fn request(&mut self) -> (Conn, String) {
        let mut conn = self.accept().await;
        let head = conn.head().await;
        (conn, head)
    }

    /// The next request, on `conn` if that is used again, otherwise on a connection of its own.
    pub(crate) async fn next_request(&mut self, conn: &mut Conn) -> String {
        soon("the next request", async {
            tokio::select! {
                biased;
                Some(head) = conn.try_head() => head,
                fresh = self.accepted.recv() => {
                    *conn = fresh.unwrap();
                    conn.head().await
                }
            }
        })
        .await
    }

    /// Nothing has been accepted that was not taken.
    pub(crate) fn is_untouched(&mut self) -> bool {
        self.accepted.try_recv().is_err()
    }
}
