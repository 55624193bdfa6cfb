//! Lines as readers get them, and what happens when the writer cannot keep up.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime};

use prometheus::IntCounter;
use serde_json::Value;

use super::*;

const LONG: Duration = Duration::from_secs(10);

fn dropped() -> IntCounter {
    IntCounter::new("dropped", "Dropped.").unwrap()
}

fn record() -> Record<'static> {
    Record {
        status: 200,
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_607_200_123),
        duration: Duration::from_millis(7012),
        upstream_duration: Some(Duration::from_millis(9)),
        src: "reviews:version=v2",
        dst: "ratings:version=v1",
        traces: &[("gremlin_recipe_id", "9f0ea878")],
        method: "GET",
        path: "/ratings/ratings?x=1",
        protocol: "HTTP/1.1",
        flags: Flags::default(),
        x_forwarded: b"",
        user_agent: b"",
        request_id: b"id-1",
        authority: b"localhost:6379",
        upstream: Some("10.0.0.7:9080".parse().unwrap()),
        bytes: None,
        fault_rule: "",
    }
}

fn line(record: &Record<'_>) -> String {
    let mut text = Vec::new();
    record.write_to(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn a_line_has_the_fields_of_the_spec_in_their_order() {
    let mut record = record();
    record.flags.set(Flag::DelayInjected);
    record.fault_rule = "a-1";
    assert_eq!(
        line(&record),
        concat!(
            r#"{"status":"200","start_time":"2026-01-05T10:00:00.123Z","request_time":7012,"#,
            r#""upstream_response_time":"9","src":"reviews:version=v2","dst":"ratings:version=v1","#,
            r#""gremlin_recipe_id":"9f0ea878","message":"GET /ratings/ratings?x=1 200","module":"A8PROXY","#,
            r#""method":"GET","path":"/ratings/ratings?x=1","protocol":"HTTP/1.1","response_flags":"DI","#,
            r#""x_forwarded":"-","user_agent":"-","request_id":"id-1","auth":"localhost:6379","#,
            r#""upstream_host":"10.0.0.7:9080","upstream_response_time_s":0.009,"#,
            r#""timestamp_ms":1767607200123,"fault_rule":"a-1"}"#,
            "\n"
        )
    );
}

#[test]
fn a_connection_says_how_many_bytes_it_carried() {
    let line: Value = serde_json::from_str(&line(&Record {
        status: 0,
        method: "-",
        path: "-",
        protocol: "TCP",
        bytes: Some([17, u64::MAX]),
        ..record()
    }))
    .unwrap();
    assert_eq!((&line["protocol"], &line["message"]), (&"TCP".into(), &"- - 0".into()));
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&17.into(), &u64::MAX.into()));
}

#[test]
fn absent_values_are_dashes_and_the_untraced_keep_the_ancestors_key() {
    let bare =
        Record { status: 404, upstream_duration: None, dst: "", traces: &[], upstream: None, ..record() };
    let value: Value = serde_json::from_str(&line(&bare)).unwrap();
    for field in ["upstream_response_time", "dst", "gremlin_recipe_id", "response_flags", "upstream_host"] {
        assert_eq!(value[field], "-", "{field}");
    }
    assert_eq!(value["upstream_response_time_s"], 0);
}

#[test]
fn times_have_as_many_digits_as_needed() {
    for (micros, written) in [
        (0, "0"),
        (1, "0.000001"),
        (1_500, "0.0015"),
        (90_000, "0.09"),
        (10_000_000, "10"),
        (12_345_678, "12.345678"),
    ] {
        let timed = Record { upstream_duration: Some(Duration::from_micros(micros)), ..record() };
        let text = line(&timed);
        assert!(text.contains(&format!("\"upstream_response_time_s\":{written},")), "{micros}: {text}");
        let millis = micros / 1000;
        assert!(text.contains(&format!("\"upstream_response_time\":\"{millis}\",")), "{micros}: {text}");
    }
}

#[test]
fn a_moment_is_written_to_the_millisecond_whatever_was_written_before() {
    let from_1970 = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    for millis in
        [0, 999, 1_767_607_200_123, 1_767_607_200_007, 1_767_607_201_050, 1_767_607_199_999, 951_782_400_000]
    {
        let text = line(&Record { start: from_1970(millis), ..record() });
        let written = humantime::format_rfc3339_millis(from_1970(millis));
        assert!(text.contains(&format!("\"start_time\":\"{written}\",")), "{written}: {text}");
    }
    let before = line(&Record { start: SystemTime::UNIX_EPOCH - Duration::from_millis(1), ..record() });
    assert!(before.contains(r#""start_time":"1970-01-01T00:00:00.000Z""#), "{before}");
    let beyond = line(&Record { start: from_1970(253_402_300_800_000), ..record() });
    assert!(serde_json::from_str::<Value>(&beyond).is_ok(), "{beyond}");
}

#[test]
fn whatever_a_client_sends_stays_one_line_of_valid_json() {
    let nasty = "a\"b\\c\n\r\t\u{1}\u{7f}\u{2028}ü\u{1F600}";
    let odd = Record {
        path: nasty,
        method: "G\"T",
        user_agent: b"\xff\xfe\"\n",
        traces: &[("k\"", "v\n")],
        ..record()
    };
    let text = line(&odd);
    assert_eq!(text.matches('\n').count(), 1);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["path"], nasty);
    assert_eq!(value["message"], format!("G\"T {nasty} 200"));
    assert_eq!(value["user_agent"], "\u{fffd}\u{fffd}\"\n");
    assert_eq!(value["k\""], "v\n");
}

#[test]
fn long_values_are_cut_at_a_whole_character() {
    let long = "ü".repeat(VALUE_MAX_BYTES);
    let value: Value =
        serde_json::from_str(&line(&Record { path: &long, user_agent: &[b'x'; 9000], ..record() })).unwrap();
    assert_eq!(value["path"].as_str().unwrap().len(), VALUE_MAX_BYTES);
    assert_eq!(value["user_agent"].as_str().unwrap().len(), VALUE_MAX_BYTES);
}

#[test]
fn a_trace_neither_repeats_a_key_nor_takes_a_field_of_the_line() {
    let traced = Record { traces: &[("a", "1"), ("status", "x"), ("a", "2")], ..record() };
    let text = line(&traced);
    assert_eq!(text.matches("\"a\":").count(), 1);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&value["a"], &value["status"], &value["trace_status"]),
        (&"2".into(), &"200".into(), &"x".into())
    );
    assert_eq!(value.get("gremlin_recipe_id"), None);
}

#[test]
fn flags_are_written_in_a_fixed_order() {
    let mut flags = Flags::default();
    flags.set(Flag::FaultInjected);
    flags.set(Flag::DelayInjected);
    assert_eq!(flags.to_string(), "DI,FI");
    assert!(flags.has(Flag::DelayInjected) && !flags.has(Flag::NoRoute));
}

#[test]
fn lines_reach_the_file_in_order_and_its_folder_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let target = LogTarget::File(dir.path().join("deep/er/a8_access.log"));
    let log = AccessLog::open(&target, dropped()).unwrap();
    (200..250).for_each(|status| log.write(&Record { status, ..record() }));
    drop(log);
    let text = std::fs::read_to_string(dir.path().join("deep/er/a8_access.log")).unwrap();
    let statuses: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(statuses, (200..250).map(|status| status.to_string()).collect::<Vec<_>>());
}

#[test]
fn after_a_reopen_lines_go_to_a_new_file_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
    let counter = dropped();
    let log = AccessLog::open(&LogTarget::File(path.clone()), counter.clone()).unwrap();
    log.write(&record());
    assert!(log.flush(LONG));
    std::fs::rename(&path, &moved).unwrap();
    log.write(&record());
    assert!(log.flush(LONG));
    log.reopen();
    assert!(log.flush(LONG));
    assert!(path.exists(), "the new file is there before the next line");
    log.write(&record());
    assert!(log.flush(LONG));
    let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
    assert_eq!((lines(&moved), lines(&path)), (2, 1));
    assert_eq!(counter.get(), 0);
}

#[test]
fn a_log_that_is_off_takes_everything_and_starts_no_thread() {
    let log = AccessLog::off();
    log.write(&record());
    log.reopen();
    assert!(log.flush(Duration::ZERO), "nothing is queued");
    assert!(!log.is_on() && log.writer.is_none());
}

#[test]
fn a_file_that_cannot_be_written_names_the_setting() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let refused = AccessLog::open(&LogTarget::File(dir.path().join("file/log")), dropped()).unwrap_err();
    assert_eq!(refused.setting, "logging_dir");
}

/// Blocks the writer until told; then takes everything, or nothing.
struct Gate(Receiver<()>, io::Result<()>);

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        match &self.1 {
            Ok(()) => Ok(bytes.len()),
            Err(error) => Err(error.kind().into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_writer_blocks_no_request_and_every_dropped_line_is_counted() {
    let (open, gate) = mpsc::channel();
    let counter = dropped();
    let sink = Sink { to: Box::new(Gate(gate, Ok(()))), target: None };
    let log = AccessLog::start(sink, counter.clone()).unwrap();
    let written = 3 * QUEUE_LINES_MAX;
    (0..written).for_each(|_| log.write(&record()));
    let lost = usize::try_from(counter.get()).unwrap();
    assert!(lost >= written - 2 * QUEUE_LINES_MAX && lost < written, "{lost}");
    assert!(!log.flush(Duration::ZERO));
    drop(open);
    drop(log);
    assert_eq!(usize::try_from(counter.get()).unwrap(), lost, "what was queued is written");
}

#[test]
fn big_lines_are_bounded_by_their_bytes() {
    let (open, gate) = mpsc::channel();
    let counter = dropped();
    let log =
        AccessLog::start(Sink { to: Box::new(Gate(gate, Ok(()))), target: None }, counter.clone()).unwrap();
    let long = "x".repeat(VALUE_MAX_BYTES);
    let big = Record { path: &long, user_agent: long.as_bytes(), request_id: long.as_bytes(), ..record() };
    let fit = QUEUE_BYTES_MAX / line(&big).len() + 1;
    (0..2 * fit).for_each(|_| log.write(&big));
    assert!(usize::try_from(counter.get()).unwrap() >= fit / 2, "{}", counter.get());
    drop(open);
}

#[test]
fn lines_that_a_full_disk_refuses_are_counted() {
    let (open, gate) = mpsc::channel();
    drop(open);
    let counter = dropped();
    let sink = Sink { to: Box::new(Gate(gate, Err(io::ErrorKind::StorageFull.into()))), target: None };
    let log = AccessLog::start(sink, counter.clone()).unwrap();
    (0..10).for_each(|_| log.write(&record()));
    drop(log);
    assert_eq!(counter.get(), 10);
}

#[test]
fn a_stuck_writer_is_left_behind_at_the_end() {
    let (open, gate) = mpsc::channel();
    let sink = Sink { to: Box::new(Gate(gate, Ok(()))), target: None };
    let log = AccessLog::start(sink, dropped()).unwrap();
    log.write(&record());
    let (end, ended) = mpsc::channel();
    std::thread::spawn(move || {
        drop(log);
        end.send(()).unwrap();
    });
    ended.recv_timeout(LONG).unwrap();
    drop(open);
}

/// Takes so many bytes in all, and more once there is room again.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (text, size) = &mut *self.0.lock().unwrap();
        let room = bytes.len().min(*size - text.len());
        text.extend_from_slice(&bytes[..room]);
        if room == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(room) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_was_full_breaks_no_line_and_what_was_written_is_not_counted_as_lost() {
    let (disk, counter) = (Disk::default(), dropped());
    let sink = Sink { to: Box::new(disk.clone()), target: None };
    let log = AccessLog::start(sink, counter.clone()).unwrap();
    let write = |statuses: std::ops::Range<u16>, room: usize| {
        disk.0.lock().unwrap().1 += room;
        let mut queue = log.shared.as_ref().unwrap().queue();
        for status in statuses {
            let text = line(&Record { status, ..record() });
            queue.text.extend_from_slice(text.as_bytes());
            queue.lines += 1;
        }
        drop(queue);
        assert!(log.flush(LONG));
    };
    let len = line(&record()).len();
    // Two lines and a half, of four; nothing; a little more of the third; the rest of it and two.
    write(200..204, 2 * len + len / 2);
    assert_eq!(counter.get(), 1);
    write(204..205, 0);
    write(205..206, 3);
    assert_eq!(counter.get(), 3);
    write(206..208, 3 * len);
    drop(log);
    let text = String::from_utf8(disk.0.lock().unwrap().0.clone()).unwrap();
    let statuses: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(statuses, ["200", "201", "202", "206", "207"]);
    assert_eq!(counter.get(), 3);
}
