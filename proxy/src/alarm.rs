//! A deadline that moves with every request of a connection, kept by one timer that is seldom moved: setting and removing
//! one per request would cost each of them two trips to the runtime's timers. What a deadline is for is not known here.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// One connection's timer. It may wake its task too early, never too late.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `until` has passed. A timer that is set for an earlier deadline is left as it is until it fires.
    pub(crate) fn poll(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= until {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whichever_way_the_deadline_moves_it_is_met_exactly() {
        let start = Instant::now();
        let mut alarm = Alarm::default();
        let mut fired = Vec::new();
        // Each is first looked at where the one before was met; the second time with the first one still in the timer.
        for until in [10, 70, 75, 20, 90].map(Duration::from_secs) {
            std::future::poll_fn(|cx| alarm.poll(start + until, cx)).await;
            fired.push(start.elapsed().as_secs());
        }
        assert_eq!(fired, [10, 70, 75, 75, 90], "one that has passed is met at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_given_up_for_a_later_or_an_earlier_one_is_forgotten() {
        for (given_up, until) in [(10, 30), (30, 10)] {
            let start = Instant::now();
            let [given_up, until] = [given_up, until].map(|secs| start + Duration::from_secs(secs));
            let mut alarm = Alarm::default();
            std::future::poll_fn(|cx| {
                assert!(alarm.poll(given_up, cx).is_pending());
                Poll::Ready(())
            })
            .await;
            std::future::poll_fn(|cx| alarm.poll(until, cx)).await;
            assert_eq!(Instant::now(), until);
        }
    }
}
