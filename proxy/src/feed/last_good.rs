//! The last snapshot that served, on disk, so that a proxy starts without control. It reads only what it
//! wrote itself, whole and unchanged; anything else is reported and ignored.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use control_api::{Snapshot, SnapshotAnswer, SnapshotUpdate};
use registry_api::hash::HashingWriter;
use registry_api::{ContentHash, Position};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::courtesy;

/// The file's name inside the data folder.
pub const FILE: &str = "last-good.json";
/// The largest file that is read.
pub const FILE_MAX_BYTES: u64 = 512 << 20;
/// The least time between two writes: a storm of changes must not become a storm of syncs.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after a write in units of the time that the write took: a large snapshot that changes all the time must not
/// keep a processor busy.
const PAUSE_PER_WRITE: u32 = 20;
/// The longest pause, however long a write took: what is saved must not be much older than what serves.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Raised when the file's form changes; unknown forms are ignored.
const FORMAT: u32 = 1;
const HEADER_MAX_BYTES: usize = 256;
/// How much is written at once.
const WRITE_BYTES: usize = 32 << 10;

/// The first line of the file; the snapshot, as control encodes it, is the second.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    a8_last_good: u32,
    /// The snapshot says whose it is; those of programs before this one may not.
    #[serde(default)]
    named: bool,
    checksum: ContentHash,
}

/// Why there is no last good snapshot although there is a file.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file is not what was written.
    #[error("{0}")]
    Odd(String),
}

/// Reads the last good snapshot; `None` when there is none yet.
pub fn load(dir: &Path) -> Result<Option<(Snapshot, Position)>, Damaged> {
    let file = match File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(odd("is larger than anything that was written"));
    }
    decode(&bytes).map(Some)
}

/// Writes the last good snapshot: aside, synced, then put in place. Readable by the owner only. Leaves nothing else.
pub fn save(dir: &Path, snapshot: &Snapshot, at: &Position) -> io::Result<()> {
    // By process: a predecessor may save its last one at the same time.
    let aside = dir.join(format!("{FILE}.{}", std::process::id()));
    let saved = save_aside(&aside, snapshot, at).and_then(|()| fs::rename(&aside, dir.join(FILE)));
    if let Err(error) = saved {
        let _not_there = fs::remove_file(&aside);
        return Err(error);
    }
    File::open(dir)?.sync_all()
}

/// Removes what others have left that did not get to the end. Nobody else may use the folder.
pub fn tidy(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(FILE)?.strip_prefix('.'));
        if process.is_some_and(|process| process.parse::<u32>().is_ok()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn save_aside(aside: &Path, snapshot: &Snapshot, at: &Position) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = Piecewise(options.open(aside)?);
    // A place for the checksum, which is always as long: the text itself is never held, however large it is.
    file.write_all(&header(ContentHash::default())?)?;
    let mut body = BufWriter::with_capacity(WRITE_BYTES, HashingWriter::new(file));
    serde_json::to_writer(&mut body, &SnapshotAnswer::full(&at.epoch, at.index, snapshot))?;
    let (mut file, checksum) = body.into_inner().map_err(io::IntoInnerError::into_error)?.finish();
    file.0.rewind()?;
    file.write_all(&header(checksum)?)?;
    file.0.sync_all()
}

/// A file that lets requests go first after every write.
struct Piecewise(File);

impl Write for Piecewise {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes);
        courtesy::stand_aside();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The first line.
fn header(checksum: ContentHash) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Header { a8_last_good: FORMAT, named: true, checksum })?;
    line.push(b'\n');
    Ok(line)
}

fn decode(bytes: &[u8]) -> Result<(Snapshot, Position), Damaged> {
    let end = bytes.iter().take(HEADER_MAX_BYTES).position(|byte| *byte == b'\n');
    let (header, body) = bytes.split_at(end.ok_or_else(|| odd("has no header"))?);
    let body = &body[1..];
    let header: Header = serde_json::from_slice(header).map_err(|_| odd("has no header"))?;
    if header.a8_last_good != FORMAT {
        return Err(odd(format!("has the unknown form {}", header.a8_last_good)));
    }
    if header.checksum != ContentHash::of(body) {
        return Err(odd("does not have its checksum"));
    }
    let answer: SnapshotAnswer = serde_json::from_slice(body).map_err(|error| odd(error.to_string()))?;
    match answer.into_update().map_err(odd)? {
        (position, SnapshotUpdate::Full(snapshot)) if snapshot.hash() == position.hash => {
            // Whose it is no delta tells: nothing is acknowledged, so that control says everything.
            Ok((snapshot, if header.named { position } else { Position::default() }))
        }
        _ => Err(odd("does not lead to its own hash")),
    }
}

/// The pause after a write that took so long.
fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(PAUSE_PER_WRITE).clamp(PAUSE, PAUSE_MAX)
}

/// Lets every other thread go first: nobody waits for this one, and a large snapshot takes it a while.
fn stand_back() {
    // Niceness is a thread's own here; elsewhere it would be the process's.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, 19);
}

fn odd(what: impl Into<String>) -> Damaged {
    Damaged::Odd(what.into())
}

/// Saves the newest of what it is given, on its own thread, and tries again what could not be saved. Dropping it saves what
/// is left, if that can be done.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: Option<(Arc<Snapshot>, Position)>,
    stop: bool,
}

impl Keeper {
    /// Starts the thread.
    pub fn start(dir: PathBuf) -> io::Result<Self> {
        let shared = Arc::new(Shared { dir, state: Mutex::default(), news: Condvar::new() });
        let working = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("a8-last-good".to_owned()).spawn(move || working.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Saves this, soon, unless something newer comes first. Never waits for the disk.
    pub fn keep(&self, snapshot: Arc<Snapshot>, at: Position) {
        let replaced = self.shared.lock().next.replace((snapshot, at));
        drop(replaced);
        self.shared.news.notify_all();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.news.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        stand_back();
        // Said once, however often it is tried.
        let mut failing = false;
        loop {
            let mut state = self
                .news
                .wait_while(self.lock(), |state| state.next.is_none() && !state.stop)
                .unwrap_or_else(PoisonError::into_inner);
            let Some((snapshot, at)) = state.next.take() else { return };
            let last = state.stop;
            drop(state);
            let started = clock::now();
            match save(&self.dir, &snapshot, &at) {
                Ok(()) => {
                    tracing::debug!(index = at.index, "last good snapshot saved");
                    failing = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "last good snapshot cannot be saved");
                    }
                    if last {
                        return;
                    }
                    self.lock().next.get_or_insert((snapshot, at));
                }
            }
            let took = clock::now().saturating_duration_since(started);
            let pause = self.news.wait_timeout_while(self.lock(), pause_after(took), |state| !state.stop);
            drop(pause.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> (Snapshot, Position) {
        let rule = r#"{"id":"r","destination":"d","route":{"backends":[{"tags":["v1"]}]}}"#;
        let instance = r#"{"id":"i","service_name":"d","endpoint":{"type":"http","value":"127.0.0.1:1"},
                           "metadata":{ "b" : 1 }}"#;
        let snapshot = Snapshot::new(
            7,
            [serde_json::from_str(rule).unwrap()],
            [serde_json::from_str(instance).unwrap()],
        );
        let at = Position { epoch: "e".to_owned(), index: 42, hash: snapshot.hash() };
        (snapshot, at)
    }

    #[test]
    fn the_pause_after_a_write_grows_with_it_and_has_an_end() {
        for (took_ms, pause_ms) in [(0, 1000), (50, 1000), (200, 4000), (60_000, 30_000), (u64::MAX, 30_000)]
        {
            assert_eq!(
                pause_after(Duration::from_millis(took_ms)),
                Duration::from_millis(pause_ms),
                "{took_ms}"
            );
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_only_the_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).unwrap().is_none());
        let (snapshot, at) = content();
        save(dir.path(), &Snapshot::default(), &Position::default()).unwrap();
        save(dir.path(), &snapshot, &at).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some((snapshot, at)));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FILE]);
    }

    #[test]
    fn every_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshot, at) = content();
        save(dir.path(), &snapshot, &at).unwrap();
        let good = fs::read(dir.path().join(FILE)).unwrap();
        let flipped = |place: usize| {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            bytes
        };
        let mut bad: Vec<Vec<u8>> = vec![vec![], b"\n".to_vec(), b"{}\n{}".to_vec(), vec![b'x'; 5000]];
        bad.extend((0..good.len()).map(flipped));
        bad.extend((0..good.len()).map(|length| good[..length].to_vec()));
        bad.push([&good[..], b" "].concat());
        for bytes in bad {
            fs::write(dir.path().join(FILE), &bytes).unwrap();
            assert!(load(dir.path()).is_err(), "{}", String::from_utf8_lossy(&bytes));
        }
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::create_dir(dir.path().join(FILE)).unwrap();
        assert!(matches!(load(dir.path()), Err(Damaged::Unreadable(_))));
    }

    #[test]
    fn a_snapshot_that_lies_about_its_hash_is_not_served_though_its_checksum_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshot, at) = content();
        let body = serde_json::to_string(&SnapshotAnswer::full(&at.epoch, at.index, &snapshot)).unwrap();
        let body = body.replace("\"revision\":7", "\"revision\":8");
        let header = Header { a8_last_good: FORMAT, named: true, checksum: ContentHash::of(body.as_bytes()) };
        let text = format!("{}\n{body}", serde_json::to_string(&header).unwrap());
        fs::write(dir.path().join(FILE), text).unwrap();
        assert!(matches!(load(dir.path()), Err(Damaged::Odd(_))));
    }

    #[test]
    fn the_keeper_saves_the_newest_before_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(dir.path().to_owned()).unwrap();
        let (snapshot, at) = content();
        for index in 1..=500 {
            keeper.keep(Arc::new(snapshot.clone()), Position { index, ..at.clone() });
        }
        drop(keeper);
        assert_eq!(load(dir.path()).unwrap().unwrap().1.index, 500);
    }

    #[test]
    fn what_cannot_be_saved_leaves_nothing_behind_and_is_saved_when_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshot, at) = content();
        // Nothing takes the place of a folder that is not empty.
        let obstacle = dir.path().join(FILE);
        fs::create_dir_all(obstacle.join("x")).unwrap();
        save(dir.path(), &snapshot, &at).unwrap_err();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FILE]);

        let keeper = Keeper::start(dir.path().to_owned()).unwrap();
        keeper.keep(Arc::new(snapshot.clone()), at.clone());
        // Until it was tried; if that is missed, it is tried again all the same.
        let until = clock::now() + PAUSE / 2;
        while keeper.shared.lock().next.is_some() && clock::now() < until {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        fs::remove_dir_all(&obstacle).unwrap();
        drop(keeper);
        assert_eq!(load(dir.path()).unwrap(), Some((snapshot, at)));
    }

    #[test]
    fn only_what_was_left_half_saved_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ours = ["last-good.json", "last-good.json.bak", "last-good.json.", "access.log.7"];
        for name in ours.into_iter().chain(["last-good.json.1", "last-good.json.4194304"]) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        tidy(dir.path()).unwrap();
        assert!(ours.iter().all(|name| dir.path().join(name).exists()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), ours.len());
    }
}
