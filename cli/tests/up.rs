//! `a8 up` from outside: one screen, a line per rule change, and an end that leaves nothing behind. The tour
//! is run on its own.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use support::{PATIENCE, a8, eventually, run, run_with};

struct Up {
    process: Child,
    lines: Receiver<String>,
    screen: Vec<String>,
}

impl Up {
    fn start(data_dir: &Path) -> Self {
        let mut command = a8();
        command.args(["up", "--ports", "free", "--data_dir"]).arg(data_dir);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, lines) = channel();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        std::thread::spawn(move || output.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut up = Self { process, lines, screen: Vec::new() };
        loop {
            let line = up.line();
            let last = line.contains("Ctrl-C ends everything");
            up.screen.push(line);
            if last {
                return up;
            }
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the next line comes in time")
    }

    /// The process ids on the screen, by name.
    fn children(&self) -> Vec<(String, u32)> {
        let child = |line: &String| {
            let (front, pid) = line.rsplit_once(" pid ")?;
            Some((front.trim().split("  ").next()?.to_owned(), pid.trim().parse().ok()?))
        };
        self.screen.iter().filter_map(child).collect()
    }

    fn child(&self, name: &str) -> u32 {
        self.children().into_iter().find(|(known, _)| known == name).map(|(_, pid)| pid).unwrap()
    }

    /// The value that the screen tells to export.
    fn exported(&self, variable: &str) -> String {
        let line = self.screen.iter().find(|line| line.trim().starts_with("export ")).unwrap();
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(&format!("{variable}=")));
        word.unwrap().to_owned()
    }

    fn signal(&self, signal: &str) {
        assert!(kill(signal, self.process.id()));
    }

    /// The exit status and what it said last.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = eventually("it ends", || self.process.try_wait().unwrap());
        let mut said = String::new();
        for line in BufReader::new(self.process.stderr.take().unwrap()).lines() {
            said.push_str(&line.unwrap());
        }
        (status.code(), said)
    }
}

fn kill(signal: &str, pid: u32) -> bool {
    Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

fn all_gone(children: &[(String, u32)]) {
    eventually("every child is gone", || {
        children.iter().all(|(_, pid)| !Path::new(&format!("/proc/{pid}/exe")).exists()).then_some(())
    });
}

#[test]
fn everything_runs_on_one_screen_and_ends_with_nothing_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let children = up.children();
    assert_eq!(children.len(), 13, "{:?}", up.screen);

    let mut command = a8();
    command.args(["rule", "create", "--wait"]).env("A8_CONTROLLER_URL", up.exported("A8_CONTROLLER_URL"));
    let rule = r#"{"id":"r","destination":"reviews","route":{"backends":[{"tags":["version=v3"]}]}}"#;
    let created = run_with(&mut command, rule);
    assert!(created.stdout.contains("live on 5/5 proxies: gateway, productpage-v1, "), "{created:?}");
    let line = up.line();
    assert!(line.starts_with("rule r put (revision 1): live on 5/5 proxies in "), "{line}");

    let gateway = up.screen.iter().find_map(|line| line.trim().strip_prefix("curl ")).unwrap();
    assert!(gateway.ends_with("/productpage/productpage"), "{gateway}");
    let page = get(gateway);
    assert_eq!(page["reviews"]["version"], "v3", "{page}");
    assert_eq!(page["reviews"]["reviews"][0]["rating"]["color"], "red", "{page}");

    up.signal("-INT");
    assert_eq!(up.ended(), (Some(0), String::new()));
    all_gone(&children);
}

#[test]
fn every_way_of_ending_takes_the_temporary_folder_along_at_any_moment() {
    for (signal, whole_screen) in [("-TERM", true), ("-HUP", true), ("-INT", false)] {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = a8();
        command.args(["up", "--ports", "free"]).env("TMPDIR", temporary.path());
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        eventually("its folder is there", || temporary.path().read_dir().unwrap().next().map(drop));
        if whole_screen {
            let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
            assert!(lines.any(|line| line.contains("Ctrl-C ends everything")));
        }
        assert!(kill(signal, process.id()));
        let status = eventually("it ends", || process.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{signal}");
        assert_eq!(temporary.path().read_dir().unwrap().count(), 0, "{signal}");
    }
}

#[test]
fn children_of_a_killed_parent_end_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let children = up.children();
    up.signal("-KILL");
    up.ended();
    all_gone(&children);
}

#[test]
fn a_child_that_dies_is_named_and_ends_everything() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let children = up.children();
    assert!(kill("-KILL", up.child("reviews-v2")));
    let (status, said) = up.ended();
    assert_eq!(status, Some(1));
    assert!(said.starts_with("a8 up: reviews-v2 ended with signal: 9"), "{said}");
    all_gone(&children);
}

#[test]
fn a_port_in_use_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ran = run(&["up", "--ports", "free", "--registry_port", &port.to_string()]);
    assert_eq!(ran.status, 1);
    let expected = format!(
        "a8 up: registry did not start: api_port: cannot listen on 127.0.0.1:{port}: address in use; --ports free takes others\n"
    );
    assert_eq!((ran.stdout.as_str(), ran.stderr), ("", expected));
}

/// One plain HTTP request; the page is small and comes whole.
fn get(url: &str) -> Value {
    use std::io::{Read, Write};
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(&body[body.find('{').unwrap()..=body.rfind('}').unwrap()]).unwrap()
}
