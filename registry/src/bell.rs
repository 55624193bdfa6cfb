//! What watchers wait for, and the order in which they are woken: a slice, and the next when that one is done, so that
//! whatever else comes meanwhile has its turn. It does not know what happened; whoever is woken looks for himself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

/// How many watchers are woken at once. To tell one costs some 20 us, so a heartbeat that comes while thousands are told
/// waits a millisecond or two instead of all of their time (notes/scale.md 4.3).
pub const SLICE_MAX: usize = 16;
/// How long the next slice waits for one that is not done.
pub const SLICE_PATIENCE: Duration = Duration::from_millis(10);

/// A bell; whoever listens hears it once.
#[derive(Debug, Default)]
pub struct Bell {
    slices: Mutex<Slices>,
    // Whenever the last listener of a slice is done.
    done: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Slices {
    // Who listens; the last one has room for so many more. One whose listeners have left goes when the next is opened, so
    // there are never more slices than listeners, and one.
    listening: Vec<Arc<Slice>>,
    room: usize,
    // Who listened when it rang and has not been woken yet. Later listeners know what it rang for.
    rung: VecDeque<Arc<Slice>>,
    is_ringing: bool,
}

/// At most [`SLICE_MAX`] listeners, each of which holds it until it was woken and is done with that.
#[derive(Debug)]
struct Slice {
    bell: Arc<Notify>,
    done: Arc<Notify>,
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.done.notify_one();
    }
}

impl Bell {
    /// Completes after the next ring. What happens from this call on is heard, also before it is first polled.
    pub fn listen(&self) -> impl Future<Output = ()> + Send + use<> {
        let slice = self.place();
        let rung = Arc::clone(&slice.bell).notified_owned();
        async move {
            // Until the end: it is what the ringing waits for.
            let _slice = slice;
            rung.await;
        }
    }

    fn place(&self) -> Arc<Slice> {
        let mut slices = self.slices();
        if slices.room == 0 {
            slices.listening.retain(|slice| Arc::strong_count(slice) > 1);
            slices.listening.push(Arc::new(Slice { bell: Arc::default(), done: Arc::clone(&self.done) }));
            slices.room = SLICE_MAX;
        }
        slices.room -= 1;
        Arc::clone(slices.listening.last().expect("a slice with room is there or was just opened"))
    }

    /// Wakes everybody who listens: the first slice now, and the others by a task of the runtime, each when the one before
    /// is done or [`SLICE_PATIENCE`] has passed. Without a runtime all are woken now.
    pub fn ring(self: &Arc<Self>) {
        {
            let mut slices = self.slices();
            let listening = std::mem::take(&mut slices.listening);
            slices.room = 0;
            slices.rung.extend(listening);
            if std::mem::replace(&mut slices.is_ringing, true) {
                return;
            }
        }
        let Some(first) = self.wake_slice() else { return };
        let bell = Arc::clone(self);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { bell.wake_others(first).await })),
            Err(_) => while bell.wake_slice().is_some() {},
        }
    }

    async fn wake_others(&self, first: Weak<Slice>) {
        let mut woken = first;
        loop {
            let done = async {
                while woken.strong_count() > 0 {
                    self.done.notified().await;
                }
            };
            // Too late is as good as done: somebody else is slow, and the others need not be.
            let _ = tokio::time::timeout(SLICE_PATIENCE, done).await;
            // Goes on only when the runtime has looked for what came over the network meanwhile.
            tokio::task::yield_now().await;
            match self.wake_slice() {
                Some(next) => woken = next,
                None => return,
            }
        }
    }

    /// Wakes the next slice; `None` when there is none.
    fn wake_slice(&self) -> Option<Weak<Slice>> {
        let slice = {
            let mut slices = self.slices();
            let slice = slices.rung.pop_front();
            slices.is_ringing = slice.is_some();
            slice?
        };
        // The lock is not held: the woken may listen again at once.
        slice.bell.notify_waiters();
        Some(Arc::downgrade(&slice))
    }

    fn slices(&self) -> MutexGuard<'_, Slices> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Waker};

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    type Listening = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn is_heard(listening: &mut Listening) -> bool {
        listening.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn listen(bell: &Bell) -> Listening {
        Box::pin(bell.listen())
    }

    #[test]
    fn whoever_listened_before_it_rang_hears_it_once_and_nobody_else() {
        let bell = Arc::new(Bell::default());
        let mut before: Vec<_> = (0..SLICE_MAX * 3 + 1).map(|_| listen(&bell)).collect();
        let mut polled = listen(&bell);
        assert!(!is_heard(&mut polled));
        bell.ring();
        let mut after = listen(&bell);
        assert!(before.iter_mut().all(is_heard) && is_heard(&mut polled) && !is_heard(&mut after));
        bell.ring();
        assert!(is_heard(&mut after));
    }

    #[test]
    fn those_who_left_take_no_room_for_ever() {
        let bell = Bell::default();
        let stayed = bell.listen();
        for _ in 0..SLICE_MAX * 100 {
            drop(bell.listen());
        }
        assert!(bell.slices().listening.len() <= 3);
        drop(stayed);
    }

    /// However many are woken, and however much work each makes, others that are ready wait for a few slices at most.
    #[tokio::test]
    async fn others_have_their_turn_while_many_are_woken() {
        const MANY: usize = SLICE_MAX * 50;
        const STEPS: usize = 3;
        let (bell, steps) = (Arc::new(Bell::default()), Arc::new(AtomicUsize::new(0)));
        let mut watchers = JoinSet::new();
        for _ in 0..MANY {
            let (listening, steps) = (bell.listen(), Arc::clone(&steps));
            watchers.spawn(async move {
                listening.await;
                for _ in 0..STEPS {
                    steps.fetch_add(1, Ordering::Relaxed);
                    tokio::task::consume_budget().await;
                }
            });
        }
        yield_now().await;
        bell.ring();
        let (mut seen, mut most) = (0, 0);
        while seen < MANY * STEPS {
            let now = steps.load(Ordering::Relaxed);
            most = most.max(now - seen);
            seen = now;
            yield_now().await;
        }
        assert!(most <= SLICE_MAX * STEPS * 3, "{most} at a stretch");
        while watchers.join_next().await.is_some() {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_who_does_nothing_with_it_holds_up_nobody() {
        let bell = Arc::new(Bell::default());
        let idle: Vec<_> = (0..SLICE_MAX * 2).map(|_| listen(&bell)).collect();
        let awake = bell.listen();
        let began = tokio::time::Instant::now();
        bell.ring();
        awake.await;
        assert!(began.elapsed() <= SLICE_PATIENCE * 2 + Duration::from_millis(2), "{:?}", began.elapsed());
        drop(idle);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_ring_is_lost_on_those_who_come_back_while_it_rings() {
        const ROUNDS: usize = 200;
        let (bell, news) = (Arc::new(Bell::default()), Arc::new(AtomicUsize::new(0)));
        let mut watchers = JoinSet::new();
        for _ in 0..SLICE_MAX * 4 {
            let (bell, news) = (Arc::clone(&bell), Arc::clone(&news));
            watchers.spawn(async move {
                let mut heard = 0;
                while heard < ROUNDS {
                    // As the polls do: listen, look, and wait only if there was nothing.
                    let listening = bell.listen();
                    match news.load(Ordering::SeqCst) {
                        now if now > heard => heard = now,
                        _ => listening.await,
                    }
                }
            });
        }
        for _ in 0..ROUNDS {
            news.fetch_add(1, Ordering::SeqCst);
            bell.ring();
            yield_now().await;
        }
        let all = async { while watchers.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("everybody hears the last ring");
    }
}
