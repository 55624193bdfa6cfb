//! What a process with its threads and children spent on a processor and holds in memory, from /proc, and how many files
//! this one may open. Nothing else about a process.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// How many processors this process may use, as found before it was pinned.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Moves this process, with all that it starts from now on, to one processor. `false` where that cannot be done.
pub(crate) fn pin_self(core: usize) -> bool {
    let id = std::process::id().to_string();
    let status = Command::new("taskset").args(["-acp", &core.to_string(), &id]).output();
    status.is_ok_and(|output| output.status.success())
}

/// Raises the limit on open files, for this process and those it starts; how many it is then.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // It may fail; what holds then is what it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lets the other threads go before this one: what it does beside a load must not look like a slow proxy.
pub(crate) fn stand_back() {
    // Niceness is a thread's own here; elsewhere it would be the process's.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, 19);
}

/// Time on a processor so far, over all living threads of the process and its descendants; `None` when it is gone.
pub(crate) fn spent(pid: u32) -> Option<Duration> {
    let mut nanos = 0;
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        nanos += first_number(&read("schedstat"));
        children.extend(read("children").split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    Some(children.into_iter().filter_map(spent).fold(Duration::from_nanos(nanos), |sum, child| sum + child))
}

/// Time of this thread on a processor so far, to the nanosecond.
pub(crate) fn spent_here() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(tv_sec.unsigned_abs(), u32::try_from(tv_nsec).unwrap_or_default())
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Proportional set size in KiB. Pages that two processes share count half for each: a second process of the same
/// program makes the first one look smaller.
pub(crate) fn memory_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(first_number(line))
}

/// Tells when a process has nothing more to do.
#[derive(Debug)]
pub(crate) struct Quiet {
    pid: u32,
    until: Instant,
    looked: Instant,
    spent: Duration,
}

impl Quiet {
    /// How long nearly nothing must be done.
    const FOR: Duration = Duration::from_millis(150);
    /// Nearly nothing.
    const WORK: Duration = Duration::from_millis(1);
    /// A process that never rests is taken as it is.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// From now on.
    pub(crate) fn of(pid: u32, now: Instant) -> Self {
        Self { pid, until: now + Self::PATIENCE, looked: now, spent: spent(pid).unwrap_or_default() }
    }

    /// To be asked again and again.
    pub(crate) fn is_there(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.looked) < Self::FOR {
            return false;
        }
        let spent = spent(self.pid).unwrap_or_default();
        let rested = spent.saturating_sub(self.spent) <= Self::WORK;
        (self.looked, self.spent) = (now, spent);
        rested || now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn time_of_children_counts() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let (started, this) = (clock::now(), std::process::id());
        let enough = Duration::from_millis(20);
        while spent(child.id()).unwrap() < enough && started.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        let (child_alone, all) = (spent(child.id()).unwrap(), spent(this).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(child_alone >= enough && all > child_alone, "{child_alone:?} {all:?}");
    }

    #[test]
    fn a_process_holds_memory_and_a_missing_one_is_none() {
        assert!(memory_kib(std::process::id()).unwrap() > 100);
        assert_eq!((memory_kib(u32::MAX), spent(u32::MAX)), (None, None));
    }

    #[test]
    fn the_limit_on_files_does_not_sink() {
        assert_eq!(raise_open_files(), raise_open_files());
    }
}
