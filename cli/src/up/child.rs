//! One child process: started from this same program, known by the addresses it prints, ended by closing
//! its standard input. A child whose parent is killed sees the same and ends by itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How long a child may take to say where it listens.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a child may take to end after its standard input closed.
const END_LIMIT: Duration = Duration::from_secs(4);
/// How much of a log's end is read to find its last line.
const LOG_TAIL_BYTES: u64 = 4096;

/// What to start.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// The name in messages and of the log.
    pub(super) name: String,
    /// The command line after the program.
    pub(super) args: Vec<String>,
}

/// A child that has said where it listens.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    pid: Option<u32>,
    listeners: BTreeMap<String, SocketAddr>,
    stdin: Option<ChildStdin>,
    kill: Option<oneshot::Sender<()>>,
    /// Set before the end is asked for: its end is then no news.
    expected: Arc<AtomicBool>,
    ended: JoinHandle<()>,
}

impl Child {
    /// Starts a child and waits for its `listening` line. `deaths` hears when it ends unasked.
    pub(super) async fn start(
        spec: Spec,
        program: &Path,
        log: PathBuf,
        deaths: mpsc::Sender<String>,
    ) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("{} did not start: {error}", spec.name);
        let stderr = File::options().create(true).append(true).open(&log).map_err(cannot)?;
        let mut command = Command::new(program);
        command.args(&spec.args).arg("--until_stdin_closes");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        // Its own group: Ctrl-C in the terminal ends the parent, which ends its children in order.
        command.process_group(0);
        // What the user set for roles of their own must not change the demonstration.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("A8_")) {
            command.env_remove(name);
        }
        let mut process = command.spawn().map_err(cannot)?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let mut lines = BufReader::new(stdout.ok_or("the child has no standard output")?).lines();
        let Ok(listeners) = tokio::time::timeout(START_LIMIT, listening(&mut lines)).await else {
            return Err(format!("{} did not start within {START_LIMIT:?}", spec.name));
        };
        let Some(listeners) = listeners else {
            // Its output is closed: the process has ended or is about to.
            let _ = tokio::time::timeout(END_LIMIT, process.wait()).await;
            return Err(not_started(&spec.name, &last_words(&log)));
        };
        let expected = Arc::new(AtomicBool::new(false));
        let (kill, killed) = oneshot::channel();
        let pid = process.id();
        let watch = Watch { name: spec.name.clone(), log, expected: Arc::clone(&expected), deaths };
        let ended = tokio::spawn(watch.until_the_end(process, lines, killed));
        Ok(Self { name: spec.name, pid, listeners, stdin, kill: Some(kill), expected, ended })
    }

    /// The name it was started under.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid.unwrap_or(0)
    }

    /// Where one of its listeners is reached, as `host:port`.
    pub(super) fn address(&self, listener: &str) -> SocketAddr {
        let address = self.listeners.get(listener).copied();
        address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Every listener with its address.
    pub(super) fn listeners(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.listeners.iter().map(|(name, address)| (name.as_str(), *address))
    }

    /// Asks it to end, without waiting.
    pub(super) fn ask_to_end(&mut self) {
        self.expected.store(true, Ordering::Relaxed);
        self.stdin = None;
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(super) async fn kill(mut self) {
        self.expected.store(true, Ordering::Relaxed);
        self.kill_now().await;
    }

    /// Waits until it is gone, killing it when it takes too long. [`Self::ask_to_end`] comes first.
    pub(super) async fn gone(mut self) {
        if tokio::time::timeout(END_LIMIT, &mut self.ended).await.is_err() {
            self.kill_now().await;
        }
    }

    async fn kill_now(&mut self) {
        if let Some(kill) = self.kill.take() {
            // It may have ended in this moment; then nobody listens.
            let _ = kill.send(());
        }
        let _ = (&mut self.ended).await;
    }
}

struct Watch {
    name: String,
    log: PathBuf,
    expected: Arc<AtomicBool>,
    deaths: mpsc::Sender<String>,
}

impl Watch {
    async fn until_the_end(
        self,
        mut process: tokio::process::Child,
        mut lines: Lines<BufReader<ChildStdout>>,
        killed: oneshot::Receiver<()>,
    ) {
        let status = tokio::select! {
            biased;
            Ok(()) = killed => {
                // Gone already, or gone soon.
                let _ = process.start_kill();
                process.wait().await
            }
            status = process.wait() => status,
            // Its output is read so that it never blocks on it; the end of it says nothing.
            never = drained(&mut lines) => match never {},
        };
        if !self.expected.load(Ordering::Relaxed) {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            let words = last_words(&self.log);
            // The receiver goes away only when everything ends.
            let _ = self.deaths.send(format!("{} ended with {status}: {words}", self.name)).await;
        }
    }
}

async fn drained(lines: &mut Lines<BufReader<ChildStdout>>) -> std::convert::Infallible {
    while let Ok(Some(_)) = lines.next_line().await {}
    std::future::pending().await
}

/// The listeners of the `listening` line, or `None` when the output ends without one.
async fn listening(
    lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>,
) -> Option<BTreeMap<String, SocketAddr>> {
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(listeners) = parse(&line) {
            return Some(listeners);
        }
    }
    None
}

/// Reads `listening role=<role> <name>=<address> ..`.
fn parse(line: &str) -> Option<BTreeMap<String, SocketAddr>> {
    let mut words = line.strip_prefix("listening ")?.split(' ');
    words.next().filter(|word| word.starts_with("role="))?;
    words
        .map(|word| {
            let (name, address) = word.split_once('=')?;
            Some((name.to_owned(), address.parse().ok()?))
        })
        .collect()
}

fn not_started(name: &str, words: &str) -> String {
    let hint = if words.contains("address in use") { "; --ports free takes others" } else { "" };
    format!("{name} did not start: {words}{hint}")
}

/// The last line of a log, without what only makes sense to whoever started the child by hand.
fn last_words(log: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let line = line.strip_suffix(" (from the command line)").unwrap_or(line);
    let own = line.strip_prefix("a8 ").and_then(|line| line.split_once(": ")).map(|(_, problem)| problem);
    own.unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listening_line_names_every_listener() {
        let listeners = parse("listening role=proxy http=127.0.0.1:6379 admin=[::1]:6380").unwrap();
        assert_eq!(listeners["http"], "127.0.0.1:6379".parse().unwrap());
        assert_eq!(listeners["admin"], "[::1]:6380".parse().unwrap());
        for other in ["", "listening", "listening on port 1", "listening role=x http=nowhere"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
