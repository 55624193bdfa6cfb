//! The one table that decides requests now, swapped without a pause. Old tables are dropped here, on a thread
//! of their own, never on a request thread; what a table says is routing's.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::board::Board;

/// A table with the proxy's live state attached.
pub type Table = routing::RouteTable<Board>;

/// How many old tables wait for their last request. Beyond it the oldest is left to that request: a stream of
/// hours must not make the proxy keep every table of those hours twice.
pub const RETIRED_MAX: usize = 64;
/// How soon a table that is still in use is looked at again; twice as late each time it still is.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A stream of hours must not wake a thread fifty times a second.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(2);

/// Holds the current table. Generic only so that its law about dropping can be tested by itself.
pub struct Tables<T: Send + Sync + 'static = Table> {
    current: ArcSwap<T>,
    retired: Mutex<Sender<Arc<T>>>,
}

impl<T: Send + Sync + 'static> fmt::Debug for Tables<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Tables<T> {
    /// Starts with `table`. Its old tables' thread ends with it.
    pub fn new(table: T) -> std::io::Result<Self> {
        let (retired, tables) = channel();
        std::thread::Builder::new().name("a8-old-tables".to_owned()).spawn(move || drop_unused(&tables))?;
        Ok(Self { current: ArcSwap::from_pointee(table), retired: Mutex::new(retired) })
    }

    /// The table for one request, retries included. No lock, no wait.
    pub fn pin(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Puts a table in place: the next [`Tables::pin`] sees it. Returns at once.
    pub fn swap(&self, table: T) {
        let old = self.current.swap(Arc::new(table));
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        // Without the thread (it never ends before us) the caller, who is no request thread, drops.
        let _ = retired.send(old);
    }
}

/// Drops each table once nobody else holds it. A count of one cannot rise again: nobody else is left to clone.
fn drop_unused<T>(tables: &Receiver<Arc<T>>) {
    let mut waiting: Vec<Arc<T>> = Vec::new();
    let mut look_again = LOOK_AGAIN;
    loop {
        if waiting.is_empty() {
            match tables.recv() {
                Ok(table) => {
                    waiting.push(table);
                    look_again = LOOK_AGAIN;
                }
                Err(_) => return,
            }
        }
        match tables.recv_timeout(look_again) {
            Ok(table) => {
                waiting.push(table);
                look_again = LOOK_AGAIN;
            }
            Err(RecvTimeoutError::Timeout) => look_again = (2 * look_again).min(LOOK_AGAIN_MAX),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        waiting.retain(|table| Arc::strong_count(table) > 1);
        if waiting.len() > RETIRED_MAX {
            drop(waiting.remove(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// Tells who dropped it.
    struct Told(u32, Sender<(u32, ThreadId)>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.1.send((self.0, thread::current().id()));
        }
    }

    #[test]
    fn an_old_table_is_dropped_by_the_thread_for_it_even_when_a_request_held_it_last() {
        let (tell, told) = channel();
        let tables = Arc::new(Tables::new(Told(0, tell.clone())).unwrap());
        let (pinned, is_pinned) = channel();
        let (go, wait) = channel::<()>();
        let request = {
            let tables = Arc::clone(&tables);
            thread::spawn(move || {
                let table = tables.pin();
                pinned.send(()).unwrap();
                wait.recv().unwrap();
                assert_eq!(table.0, 0);
                drop(table);
                thread::current().id()
            })
        };
        is_pinned.recv_timeout(LONG).unwrap();
        tables.swap(Told(1, tell));
        assert_eq!(tables.pin().0, 1);
        assert!(told.try_recv().is_err(), "the request still holds table 0");
        go.send(()).unwrap();
        let request = request.join().unwrap();
        let (table, dropper) = told.recv_timeout(LONG).unwrap();
        assert_eq!(table, 0);
        assert_ne!(dropper, request);
        assert_ne!(dropper, thread::current().id());
    }

    #[test]
    fn under_load_no_reader_ever_drops_a_table() {
        let (tell, told) = channel();
        let tables = Arc::new(Tables::new(Told(0, tell.clone())).unwrap());
        let (stop, stopped) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), 200);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (tables, stop) = (Arc::clone(&tables), Arc::clone(&stop));
                thread::spawn(move || {
                    let mut newest = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let table = tables.pin();
                        assert!(table.0 >= newest, "tables never go back");
                        newest = table.0;
                    }
                    thread::current().id()
                })
            })
            .collect();
        (1..=stopped).for_each(|number| tables.swap(Told(number, tell.clone())));
        let droppers: Vec<_> = (0..stopped).map(|_| told.recv_timeout(LONG).unwrap().1).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            let reader = reader.join().unwrap();
            assert!(droppers.iter().all(|dropper| *dropper != reader));
        }
        assert!(droppers.iter().all(|dropper| *dropper == droppers[0]));
    }

    #[test]
    fn tables_beyond_the_bound_are_left_to_whoever_holds_them() {
        let (tell, told) = channel();
        let tables = Tables::new(Told(0, tell.clone())).unwrap();
        let held: Vec<_> = (1..=2 * u32::try_from(RETIRED_MAX).unwrap())
            .map(|number| {
                let table = tables.pin();
                tables.swap(Told(number, tell.clone()));
                table
            })
            .collect();
        drop(held);
        let mut dropped: Vec<_> = (0..2 * RETIRED_MAX).map(|_| told.recv_timeout(LONG).unwrap().0).collect();
        dropped.sort_unstable();
        dropped.dedup();
        assert_eq!(dropped.len(), 2 * RETIRED_MAX);
    }
}
