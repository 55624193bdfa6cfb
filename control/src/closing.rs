//! The announcement that control ends: whoever holds a request gives it back. It ends nothing itself.

use tokio::sync::watch;

/// Makes the announcement.
#[derive(Debug)]
pub(crate) struct Announcer(watch::Sender<bool>);

impl Announcer {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn announce(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn listen(&self) -> Closing {
        Closing(self.0.subscribe())
    }
}

/// Hears the announcement, also when it was made before.
#[derive(Debug, Clone)]
pub(crate) struct Closing(watch::Receiver<bool>);

impl Closing {
    pub(crate) fn is_announced(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the end is announced, or when nobody is left to announce it.
    pub(crate) async fn announced(&mut self) {
        // An error means that the announcer is gone, which is an end as well.
        let _ = self.0.wait_for(|announced| *announced).await;
    }
}
