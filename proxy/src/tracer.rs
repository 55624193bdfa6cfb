//! Which requests are recorded as spans, and the bounded queue of those that are finished. Sending them is the
//! exporter's; a request never waits for either.

pub mod export;
pub mod sampler;
mod span;

use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use self::sampler::Sampler;
pub use self::span::Finished;
pub(crate) use self::span::cut;
use crate::trace::{Carried, Chance, Onward, joined};

/// How many finished spans may wait to be sent. What comes then is dropped and counted.
pub const QUEUE_SPANS_MAX: usize = 4096;

/// Records requests. There is none unless somebody is to get the spans.
#[derive(Debug)]
pub struct Tracer {
    sampler: Sampler,
    queue: Sender<Finished>,
    dropped: IntCounter,
}

/// A request that is being recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Never 0.
    pub trace: u128,
    /// Never 0.
    pub id: u64,
    /// The caller's span; `None` where the trace begins.
    pub parent: Option<u64>,
}

impl Tracer {
    /// A tracer, and what it finishes.
    pub fn new(sampler: Sampler, dropped: IntCounter) -> (Arc<Self>, Receiver<Finished>) {
        let (queue, finished) = channel(QUEUE_SPANS_MAX);
        (Arc::new(Self { sampler, queue, dropped }), finished)
    }

    /// Whether a request is recorded, and what goes on of its trace. One that is not goes on as if nobody recorded.
    pub(crate) fn join(&self, carried: Carried, chance: Chance) -> (Onward, Option<Span>) {
        let [high, low, id] = chance;
        let (trace, parent, asked) = match carried {
            Carried::Parent(caller) | Carried::Zipkin(caller) => {
                (caller.trace, Some(caller.span), caller.sampled)
            }
            Carried::Nothing(asked) => (joined(high, low), None, asked),
        };
        if !self.sampler.records(trace, asked) {
            return (Onward::unrecorded(carried, chance), None);
        }
        let span = Span { trace, id: id.max(1), parent };
        (Onward::below(carried, trace, span.id), Some(span))
    }

    /// Takes a finished span, unless too many wait.
    pub(crate) fn finish(&self, span: Finished) {
        if self.queue.try_send(span).is_err() {
            self.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests;
