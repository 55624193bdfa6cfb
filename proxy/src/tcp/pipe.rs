//! Carries bytes both ways between two connections until both sides have said all, one breaks off, or nobody says anything.
//! It looks at no byte, and holds memory only while bytes are on their way.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::buffers::Buffer;
use crate::metrics::{TcpEnd, TcpSeries};

/// Two connections, and what is on its way between them.
pub(super) struct Pipe<S = TcpStream> {
    pub(super) client: S,
    pub(super) instance: S,
    up: Way,
    down: Way,
    /// Which way goes first: neither may take all the time that the task has.
    down_first: bool,
    /// The instance did not take all of what the client said.
    is_unheard: bool,
}

/// How many bytes came from the client and went to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Moved {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What was read and not yet written; never empty.
    held: Option<Buffer>,
    /// The end was read.
    is_over: bool,
    /// And passed on.
    is_told: bool,
    read: u64,
    written: u64,
}

/// Whose connection broke.
enum Broken {
    From,
    To,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pipe<S> {
    pub(super) fn new(client: S, instance: S) -> Self {
        let (up, down) = (Way::default(), Way::default());
        Self { client, instance, up, down, down_first: false, is_unheard: false }
    }

    /// Whether the instance has said all, and the client was told.
    pub(super) fn is_answered(&self) -> bool {
        self.down.is_told
    }

    /// Carries to the end. The end of one direction is passed on and leaves the other as it is; `idle_within` is the
    /// longest without a byte in either.
    pub(super) async fn run(
        &mut self,
        idle_within: Duration,
        series: &TcpSeries,
        moved: &mut Moved,
    ) -> TcpEnd {
        let (mut alarm, mut last) = (Alarm::default(), Instant::now());
        poll_fn(|cx| {
            let before = *moved;
            let done = self.poll(cx);
            *moved = Moved { received: self.up.read, sent: self.down.written };
            if *moved != before {
                series.received.inc_by(moved.received - before.received);
                series.sent.inc_by(moved.sent - before.sent);
                last = Instant::now();
            }
            match done {
                Poll::Ready(end) => Poll::Ready(end),
                Poll::Pending => alarm.poll(last + idle_within, cx).map(|()| TcpEnd::Idle),
            }
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<TcpEnd> {
        self.down_first = !self.down_first;
        for down in [self.down_first, !self.down_first] {
            let (way, from, to, ends) = if down {
                let ends = [TcpEnd::InstanceReset, TcpEnd::ClientReset];
                (&mut self.down, &mut self.instance, &mut self.client, ends)
            } else {
                let ends = [TcpEnd::ClientReset, TcpEnd::InstanceReset];
                (&mut self.up, &mut self.client, &mut self.instance, ends)
            };
            match way.poll(from, to, cx) {
                Poll::Ready(Err(Broken::From)) => return Poll::Ready(ends[0]),
                // It may have said why before it stopped listening.
                Poll::Ready(Err(Broken::To)) if !down => {
                    way.give_up();
                    self.is_unheard = true;
                }
                Poll::Ready(Err(Broken::To)) => return Poll::Ready(ends[1]),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        match self.up.is_told && self.down.is_told {
            true if self.is_unheard => Poll::Ready(TcpEnd::InstanceReset),
            true => Poll::Ready(TcpEnd::Ended),
            false => Poll::Pending,
        }
    }
}

impl Way {
    /// What comes on this way is for nobody.
    fn give_up(&mut self) {
        self.held = None;
        self.is_told = true;
    }

    /// Ready once all was said and passed on. More is read only when everything was written: whoever takes nothing stops
    /// whoever sends.
    fn poll<S>(&mut self, from: &mut S, to: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        while !self.is_told {
            if let Some(buffer) = &mut self.held {
                while !buffer.is_empty() {
                    match ready!(Pin::new(&mut *to).poll_write(cx, buffer.filled())) {
                        Ok(written @ 1..) => {
                            buffer.consume(written);
                            self.written += written as u64;
                        }
                        Ok(0) | Err(_) => return Poll::Ready(Err(Broken::To)),
                    }
                }
            }
            if self.is_over {
                // What does not write by itself has to be asked to.
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Broken::To)?;
                self.is_told = true;
                break;
            }
            let mut buffer = self.held.take().unwrap_or_else(Buffer::take);
            // Where nothing is there to be read the buffer is given back.
            match ready!(buffer.poll_fill(|space| Pin::new(&mut *from).poll_read(cx, space))) {
                Ok(0) => self.is_over = true,
                Ok(read) => {
                    self.read += read as u64;
                    self.held = Some(buffer);
                }
                Err(_) => return Poll::Ready(Err(Broken::From)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::buffers;
    use crate::metrics::Metrics;

    const LONG: Duration = Duration::from_secs(3600);

    /// A pipe that runs, and its far ends: the client's and the instance's.
    fn piped(
        idle_within: Duration,
    ) -> (tokio::task::JoinHandle<(TcpEnd, Moved)>, DuplexStream, DuplexStream) {
        let ((client, far_client), (instance, far_instance)) = (duplex(64), duplex(64));
        let running = tokio::spawn(async move {
            let (mut pipe, mut moved) = (Pipe::new(client, instance), Moved::default());
            let series = Metrics::new().tcp("s", "");
            let end = pipe.run(idle_within, &series, &mut moved).await;
            assert_eq!((series.received.get(), series.sent.get()), (moved.received, moved.sent));
            (end, moved)
        });
        (running, far_client, far_instance)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_each_end_is_passed_on_by_itself() {
        let (running, mut client, mut instance) = piped(LONG);
        let question = vec![b'q'; 300_000];
        let asking = async {
            client.write_all(&question).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let answering = async {
            let mut heard = Vec::new();
            instance.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard.len(), 300_000);
            instance.write_all(b"all of it").await.unwrap();
            instance.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert_eq!(answer, b"all of it");
        assert_eq!(running.await.unwrap(), (TcpEnd::Ended, Moved { received: 300_000, sent: 9 }));
    }

    #[tokio::test]
    async fn whoever_takes_nothing_stops_whoever_sends_and_no_other_memory_is_held() {
        let (running, mut client, mut instance) = piped(LONG);
        let in_use = buffers::in_use();
        instance.write_all(b"hello").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!(in_use.load(Ordering::Relaxed), 0, "nothing is on its way");
        let flood = vec![b'x'; 1 << 20];
        let sent = tokio::select! {
            biased;
            _ = instance.write_all(&flood) => panic!("nobody reads"),
            () = async { for _ in 0..10_000 { tokio::task::yield_now().await } } => in_use.load(Ordering::Relaxed),
        };
        assert_eq!(sent, 1);
        // The other way is open all the same.
        client.write_all(b"stop").await.unwrap();
        let mut heard = [0; 4];
        instance.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"stop");
        drop((client, instance));
        assert!(matches!(running.await.unwrap().0, TcpEnd::ClientReset));
    }

    #[tokio::test]
    async fn what_the_instance_says_before_it_stops_listening_is_heard() {
        let (running, mut client, mut instance) = piped(LONG);
        instance.write_all(b"too many of you").await.unwrap();
        drop(instance);
        client.write_all(b"and more").await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "too many of you");
        assert_eq!(running.await.unwrap().0, TcpEnd::InstanceReset);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_has_moved_for_so_long_whichever_way_it_last_did() {
        let begun = Instant::now();
        let (running, mut client, mut instance) = piped(Duration::from_secs(10));
        for from_client in [true, false, true, false] {
            tokio::time::sleep(Duration::from_secs(9)).await;
            let (from, to) =
                if from_client { (&mut client, &mut instance) } else { (&mut instance, &mut client) };
            from.write_all(b"x").await.unwrap();
            to.read_exact(&mut [0; 1]).await.unwrap();
        }
        assert_eq!(running.await.unwrap(), (TcpEnd::Idle, Moved { received: 2, sent: 2 }));
        assert_eq!(begun.elapsed().as_secs(), 4 * 9 + 10);
    }
}
