//! Runs the real program: verbs to their end, roles until dropped. No port is fixed and no variable of the
//! caller reaches the program.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a role may take to start or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a verb printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program without any variable of ours.
pub(crate) fn a8() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_a8"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("A8_")) {
        command.env_remove(name);
    }
    command
}

/// Runs a verb to its end.
pub(crate) fn run(args: &[&str]) -> Ran {
    run_with(a8().args(args), "")
}

/// Runs a prepared command to its end, with this standard input.
pub(crate) fn run_with(command: &mut Command, input: &str) -> Ran {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A verb that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running role.
pub(crate) struct Role {
    child: Child,
    line: String,
}

impl Role {
    /// Starts a role and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = a8();
        command.args(args).args(["--log_level", "error", "--until_stdin_closes"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = tell.send(lines.next());
            // The rest is read so that the role never waits for us.
            lines.for_each(drop);
        });
        let line = told
            .recv_timeout(PATIENCE)
            .expect("the role listens in time")
            .expect("it prints a line")
            .unwrap();
        Self { child, line }
    }

    /// The line it printed.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// The port of one of its listeners.
    pub(crate) fn port(&self, listener: &str) -> u16 {
        let word = self.line.split(' ').find_map(|word| word.strip_prefix(&format!("{listener}="))).unwrap();
        word.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The URL of one of its listeners.
    pub(crate) fn url(&self, listener: &str) -> String {
        format!("http://127.0.0.1:{}", self.port(listener))
    }

    /// Closes its standard input, as the death of its parent does, and waits for its end.
    pub(crate) fn orphan(mut self) -> i32 {
        drop(self.child.stdin.take());
        self.wait()
    }

    /// Sends a signal and waits for its end.
    pub(crate) fn signal(mut self, signal: &str) -> i32 {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.wait()
    }

    fn wait(&mut self) -> i32 {
        eventually("the role ends", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition.
pub(crate) fn eventually<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let tries = PATIENCE.as_millis() / 20;
    for _ in 0..tries {
        if let Some(value) = holds() {
            return value;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within {PATIENCE:?}: {what}");
}
