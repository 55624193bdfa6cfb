//! One real process: started on free ports, learnt from its `listening` line, ended by its id. It knows the roles' names
//! only as words of the command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, thread};

use crate::{clock, eventually, program};

/// How long a process may take from start to its `listening` line.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a process may take to end after SIGTERM before it is killed; the proxy drains up to 3 s.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// Kept of each output for the report of a failure.
const OUTPUT_LIMIT_BYTES: usize = 1 << 20;

/// What to start. Nothing of this process's environment reaches it but what a program needs to run at all.
#[derive(Debug, Clone)]
pub struct Launch {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
}

/// A process that ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All it wrote to standard output.
    pub stdout: String,
    /// All it wrote to standard error.
    pub stderr: String,
}

impl Launch {
    /// `a8 <words>`.
    pub fn a8<S: Into<OsString>>(words: impl IntoIterator<Item = S>) -> Self {
        Self {
            program: program::a8().into(),
            args: words.into_iter().map(Into::into).collect(),
            envs: vec![],
        }
    }

    /// Another program: a peer in a bench.
    pub fn other(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), args: vec![], envs: vec![] }
    }

    /// One more word.
    #[must_use]
    pub fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.args.push(word.into());
        self
    }

    /// `--name value`.
    #[must_use]
    pub fn flag(self, name: &str, value: impl Into<OsString>) -> Self {
        self.arg(format!("--{name}")).arg(value)
    }

    /// One environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// The same through `taskset`: only on this core.
    #[must_use]
    pub fn pinned(self, core: usize) -> Self {
        let mut args = vec!["-c".into(), core.to_string().into(), self.program];
        args.extend(self.args);
        Self { program: "taskset".into(), args, envs: self.envs }
    }

    /// Starts it and returns at once; no line is awaited.
    ///
    /// # Panics
    /// When it cannot be started at all.
    pub fn spawn(&self, name: &str) -> Process {
        self.spawn_with(name, None)
    }

    fn spawn_with(&self, name: &str, lines: Option<mpsc::Sender<String>>) -> Process {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear();
        for kept in ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            if let Some(value) = env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stdout = collect(child.stdout.take(), lines);
        let stderr = collect(child.stderr.take(), None);
        Process { name: name.to_owned(), child, addresses: BTreeMap::new(), stdout, stderr }
    }

    /// Starts a role and waits for its `listening` line.
    ///
    /// # Panics
    /// When it ends or stays silent instead; with all that it wrote.
    pub fn start(&self, name: &str) -> Process {
        let (lines, listening) = mpsc::channel();
        let mut process = self.spawn_with(name, Some(lines));
        process.learn_addresses(&listening);
        process
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it is still there after the time in which every start fails or every verb answers.
    pub fn finish(&self) -> Finished {
        let mut process = self.spawn("a8");
        let status = process.wait(START_PATIENCE).unwrap_or_else(|| {
            panic!("still running after {START_PATIENCE:?}: {:?}\n{}", self.args, process.output())
        });
        process.finished(status)
    }
}

/// A running process; ended on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    addresses: BTreeMap<String, SocketAddr>,
    stdout: Output,
    stderr: Output,
}

impl Process {
    /// The address that the `listening` line gave this name.
    ///
    /// # Panics
    /// When there was no such name: the test asks for what the role does not have.
    pub fn address(&self, name: &str) -> SocketAddr {
        *self
            .addresses
            .get(name)
            .unwrap_or_else(|| panic!("{} has no `{name}`: {:?}", self.name, self.addresses))
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, as an operator would, and waits.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn terminate(&mut self) -> Finished {
        self.signal("TERM");
        let status = self
            .wait(STOP_PATIENCE)
            .unwrap_or_else(|| panic!("{} ignores SIGTERM\n{}", self.name, self.output()));
        self.finished(status)
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name, as in `HUP`.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        // The shell's own kill: the standard library sends no signal but SIGKILL.
        let _ = Command::new("sh").args(["-c", r#"kill -s "$0" "$1" 2>/dev/null"#, signal, &pid]).status();
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let started = clock::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                _ if started.elapsed() > patience => return None,
                _ => eventually::pause(Duration::from_millis(2)),
            }
        }
    }

    fn learn_addresses(&mut self, listening: &Receiver<String>) {
        let started = clock::now();
        while started.elapsed() < START_PATIENCE {
            match listening.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => {
                    if let Some(addresses) = addresses_of(&line) {
                        self.addresses = addresses;
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Its standard output is closed: it has ended.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.wait(Duration::from_secs(1));
        panic!("{} did not start ({status:?})\n{}", self.name, self.output());
    }

    fn finished(&mut self, status: ExitStatus) -> Finished {
        self.stdout.close();
        self.stderr.close();
        Finished { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    fn output(&self) -> String {
        format!("--- {} stdout\n{}--- {} stderr\n{}", self.name, self.stdout(), self.name, self.stderr())
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its processes said")]
    fn drop(&mut self) {
        if self.is_running() {
            self.signal("TERM");
            if self.wait(STOP_PATIENCE).is_none() {
                self.kill();
            }
        }
        if thread::panicking() {
            eprintln!("{}", self.output());
        }
    }
}

/// `listening role=proxy http=127.0.0.1:4000 admin=127.0.0.1:4001`.
fn addresses_of(line: &str) -> Option<BTreeMap<String, SocketAddr>> {
    let words = line.strip_prefix("listening role=")?.split_whitespace().skip(1);
    Some(words.filter_map(|word| word.split_once('=')).filter_map(address_of).collect())
}

fn address_of((name, text): (&str, &str)) -> Option<(String, SocketAddr)> {
    let mut address: SocketAddr = text.parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Some((name.to_owned(), address))
}

#[derive(Debug)]
struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Output {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until everything is read; only for a process that has ended.
    fn close(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn collect(from: Option<impl Read + Send + 'static>, lines: Option<mpsc::Sender<String>>) -> Output {
    let text = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&text);
    let reader = thread::spawn(move || {
        let Some(from) = from else { return };
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
            if let Some(lines) = &lines {
                // Nobody listens any more once the addresses are known.
                let _ = lines.send(String::from_utf8_lossy(&line).into_owned());
            }
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < OUTPUT_LIMIT_BYTES {
                kept.extend_from_slice(&line);
            }
            line.clear();
        }
    });
    Output { text, reader: Some(reader) }
}
