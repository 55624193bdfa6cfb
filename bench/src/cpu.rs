//! What a process and its threads spent on a processor, from /proc. Nothing else about the process.

use std::fs;
use std::process::Command;
use std::time::Duration;

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

/// Time on a processor so far, over all living threads; `None` when the process is gone.
pub(crate) fn spent(pid: u32) -> Option<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        nanos += text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0_u64);
    }
    Some(Duration::from_nanos(nanos))
}

/// Proportional set size in KiB.
pub(crate) fn memory_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
