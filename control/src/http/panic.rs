//! The panic guard: a panic while a request is answered becomes an outcome, and the process goes on. It
//! hides nothing; the panic hook has already reported it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The guarded future panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked;

/// Runs a future up to its end or its panic.
pub(super) struct Guarded<'a, T>(Pin<Box<dyn Future<Output = T> + Send + 'a>>);

pub(super) fn guarded<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Guarded<'a, T> {
    Guarded(Box::pin(future))
}

impl<T> Future for Guarded<'_, T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Nothing of the future is looked at after a panic; it is only dropped.
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_outcome_and_anything_else_passes() {
        assert_eq!(guarded(async { 7 }).await, Ok(7));
        let broken = async {
            tokio::task::yield_now().await;
            panic!("a test panics on purpose")
        };
        assert_eq!(guarded::<()>(broken).await, Err(Panicked));
    }
}
