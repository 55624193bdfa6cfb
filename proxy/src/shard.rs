//! One thread that serves clients by itself, with a runtime of its own: nothing that one request waits for is noticed in
//! another thread. It does not know what is served, nor how clients are spread over the threads.

use std::future::{Future, pending};
use std::io;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

/// A thread that serves, and goes on with what it has begun until it is ended.
pub(crate) struct Shard {
    served: oneshot::Receiver<()>,
    end: oneshot::Sender<()>,
    ended: mpsc::Receiver<()>,
}

/// A thread that was told to end.
pub(crate) struct Ending(mpsc::Receiver<()>);

impl Shard {
    /// Starts a thread that runs `serve`, and whatever that spawns.
    pub(crate) fn start(name: &str, serve: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (serving, served) = oneshot::channel::<()>();
        let (end, told) = oneshot::channel();
        let (running, ended) = mpsc::channel::<()>();
        // Moved by its address: copies of all that is served would stay on the stack of the thread.
        let serve = Box::pin(serve);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                let serve = async {
                    serve.await;
                    drop(serving);
                    pending::<()>().await;
                };
                tokio::select! {
                    // Being told counts more than what goes on; nobody being left to tell is as good.
                    biased;
                    _ = told => {}
                    () = serve => {}
                }
            });
            // Its requests are dropped here; only then is the thread over.
            runtime.shutdown_background();
            drop(running);
        })?;
        Ok(Self { served, end, ended })
    }

    /// Waits until nothing new is served.
    pub(crate) async fn served(&mut self) {
        // Nothing is ever sent: it is over when the other end is dropped.
        let _over = (&mut self.served).await;
    }

    /// Cuts off what is left.
    pub(crate) fn end(self) -> Ending {
        // A thread that is over needs not be told.
        let _over = self.end.send(());
        Ending(self.ended)
    }
}

impl Ending {
    /// Waits for the thread to be over, for so long at most: a request that never yields must not hold up the rest.
    pub(crate) fn wait(self, within: Duration) {
        let _over = self.0.recv_timeout(within);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// Says so when it is dropped.
    struct Last(#[expect(dead_code, reason = "only dropped")] mpsc::Sender<()>);

    #[tokio::test]
    async fn what_was_begun_goes_on_when_nothing_new_is_served_and_is_cut_off_at_the_end() {
        let (dropped, is_dropped) = mpsc::channel();
        let (go_on, may_go_on) = oneshot::channel::<()>();
        let (went_on, has_gone_on) = oneshot::channel();
        let mut shard = Shard::start("shard", async move {
            tokio::spawn(async move {
                let _last = Last(dropped);
                let _may = may_go_on.await;
                let _heard = went_on.send(());
                pending::<()>().await;
            });
        })
        .unwrap();
        shard.served().await;
        go_on.send(()).unwrap();
        has_gone_on.await.unwrap();
        shard.end().wait(LONG);
        assert_eq!(is_dropped.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn an_end_comes_while_serving_too_and_is_waited_for_no_longer_than_allowed() {
        let (dropped, is_dropped) = mpsc::channel();
        let last = Last(dropped);
        let shard = Shard::start("shard", async move {
            let _last = last;
            pending().await
        });
        shard.unwrap().end().wait(LONG);
        assert_eq!(is_dropped.try_recv(), Err(mpsc::TryRecvError::Disconnected));

        let (free, stuck) = mpsc::channel::<()>();
        let shard = Shard::start("shard", async move { assert!(stuck.recv().is_err()) });
        shard.unwrap().end().wait(Duration::ZERO);
        drop(free);
    }
}
