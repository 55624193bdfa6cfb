//! The catalog of a directory (spec/registry.md 7.4): a file per namespace, `<namespace>.json` or else
//! `<namespace>.conf`, read again when it changes. It writes nothing there, and what it found goes to a [`Sink`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use registry_api::instance::native_id;
use registry_api::{Endpoint, EndpointType, Instance, Namespace, Registration, ServiceName, Status};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::catalog_source::{CatalogSource, Sink, Source};

/// How often the directory is looked at, whether or not a change was announced: network file systems announce none.
pub const POLL_PERIOD: Duration = Duration::from_secs(30);
/// The longest file that is read.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// The pause after an announcement: one change of a file announces itself several times.
const SETTLE: Duration = Duration::from_millis(50);
/// The tag that every instance of a file carries beside its own.
const TAG: &str = "filesystem";

/// Follows a directory.
#[derive(Debug)]
pub struct FileCatalog {
    directory: PathBuf,
    seen: BTreeMap<Namespace, Seen>,
}

/// What of a namespace's file was handed over last.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    stamp: Stamp,
    /// The file cannot be read as it is; that was reported, and is tried again.
    damaged: bool,
}

/// Which file, and what it looked like: path, inode, time of change in nanoseconds, length.
type Stamp = (PathBuf, u64, i128, u64);

/// What a look has found of one namespace.
#[derive(Debug, PartialEq)]
enum Found {
    /// These instances, in place of all that was there.
    Instances(Vec<Instance>),
    /// Nothing that can be read yet; what was there stays.
    Damaged(String),
}

impl FileCatalog {
    /// Follows this directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, seen: BTreeMap::new() }
    }

    /// Looks at the directory and says what changed. Blocks on the disk. An unreadable directory changes nothing.
    fn look(&mut self) -> io::Result<Vec<(Namespace, Found)>> {
        let files = files(&self.directory)?;
        let mut found = Vec::new();
        let gone: Vec<_> =
            self.seen.keys().filter(|namespace| !files.contains_key(*namespace)).cloned().collect();
        for namespace in gone {
            self.seen.remove(&namespace);
            found.push((namespace, Found::Instances(Vec::new())));
        }
        for (namespace, path) in files {
            // It may have vanished since the directory was read; the next look notices.
            let Ok(stamp) = stamp(&path) else { continue };
            let seen = self.seen.get(&namespace);
            if seen.is_some_and(|seen| seen.stamp == stamp && !seen.damaged) {
                continue;
            }
            let known_as_damaged = seen.is_some_and(|seen| seen.stamp == stamp);
            let read = read(&path).map(|bytes| instances(&bytes));
            let (damaged, what) = match read {
                Ok(Ok(instances)) => (false, Some(Found::Instances(instances))),
                Ok(Err(problem)) => (
                    true,
                    (!known_as_damaged).then(|| Found::Damaged(format!("{}: {problem}", path.display()))),
                ),
                Err(error) => {
                    tracing::warn!(module = "FSADAPTER", path = %path.display(), %error, "the file cannot be read");
                    (false, Some(Found::Instances(Vec::new())))
                }
            };
            self.seen.insert(namespace.clone(), Seen { stamp, damaged });
            found.extend(what.map(|what| (namespace, what)));
        }
        Ok(found)
    }

    async fn run(mut self, sink: Sink) {
        let changed = Arc::new(Notify::new());
        // Lives as long as it is followed.
        let _watcher = watcher(&self.directory, Arc::clone(&changed));
        loop {
            let looked = tokio::task::spawn_blocking(move || {
                let found = self.look();
                (self, found)
            });
            // Only a runtime that is shutting down refuses.
            let Ok((catalog, found)) = looked.await else { return };
            self = catalog;
            match found {
                Ok(found) => hand_over(&sink, found),
                Err(error) => {
                    let directory = self.directory.display();
                    tracing::warn!(module = "FSADAPTER", %directory, %error, "the directory cannot be read");
                }
            }
            sink.loaded();
            if tokio::time::timeout(POLL_PERIOD, changed.notified()).await.is_ok() {
                tokio::time::sleep(SETTLE).await;
            }
        }
    }
}

impl CatalogSource for FileCatalog {
    fn source(&self) -> Source {
        Source::File
    }

    fn follow(self: Box<Self>, sink: Sink) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.run(sink))
    }
}

/// Rings when something in the directory changes; `None` where the machine cannot tell.
fn watcher(directory: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event as well, and one that we cause ourselves.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    });
    let watching = made.and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(
            |error| tracing::warn!(module = "FSADAPTER", %error, "changes of files are polled for alone"),
        )
        .ok()
}

fn hand_over(sink: &Sink, found: Vec<(Namespace, Found)>) {
    for (namespace, found) in found {
        match found {
            Found::Instances(instances) => {
                if let Err(problem) = sink.replace(&namespace, instances) {
                    tracing::warn!(module = "FSADAPTER", %namespace, %problem, "a file is left aside");
                }
            }
            Found::Damaged(problem) => {
                tracing::warn!(module = "FSADAPTER", %namespace, %problem, "the file is damaged; what it said before stays");
            }
        }
    }
}

/// The file of every namespace that has one; `.json` before `.conf`.
fn files(directory: &Path) -> io::Result<BTreeMap<Namespace, PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        paths.insert(entry?.path());
    }
    let mut files = BTreeMap::new();
    for wanted in ["conf", "json"] {
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == wanted))
        {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            // A folder or a socket of that name is no file of ours.
            if let Some(Ok(namespace)) = stem.map(Namespace::new).filter(|_| path.is_file()) {
                files.insert(namespace, path.clone());
            }
        }
    }
    Ok(files)
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let found = fs::metadata(path)?;
    let changed = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    Ok((path.to_owned(), found.ino(), changed, found.len()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(io::Error::other("it is too long")) } else { Ok(bytes) }
}

/// The instances that a file names. An entry that names none is passed over with a warning.
fn instances(bytes: &[u8]) -> Result<Vec<Instance>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        instances: Vec<&'a RawValue>,
    }
    let Document { instances } = serde_json::from_slice(bytes)?;
    let read = instances.into_iter().enumerate().filter_map(|(number, entry)| match instance(entry) {
        Ok(instance) => Some(instance),
        Err(problem) => {
            tracing::warn!(module = "FSADAPTER", number, problem, "an entry of a file is passed over");
            None
        }
    });
    Ok(read.collect())
}

/// One entry: a registration of which nothing but the identity is checked, and without a lease.
fn instance(entry: &RawValue) -> Result<Instance, String> {
    let Registration { service_name, endpoint, status, metadata, tags, .. } =
        serde_json::from_str(entry.get()).map_err(|error| error.to_string())?;
    let service_name = ServiceName::new(service_name).map_err(|_| "it has no service name")?;
    let endpoint = endpoint.ok_or("it has no endpoint")?;
    let kind = EndpointType::parse(&endpoint.kind).ok_or("its endpoint is of no known type")?;
    if endpoint.value.is_empty() {
        return Err("its endpoint has no value".to_owned());
    }
    let endpoint = Endpoint { kind, value: endpoint.value };
    let status = status.filter(|status| !status.is_empty());
    let tags = tags.unwrap_or_default().into_iter().chain([TAG.to_owned()]);
    Ok(Instance {
        id: native_id(&service_name, &endpoint),
        service_name,
        endpoint,
        ttl: 0,
        status: Status::new(status.as_deref().unwrap_or(Status::UP)),
        tags: tags.collect(),
        metadata,
        last_heartbeat: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(directory: &Path, name: &str, text: &str) {
        // In the way of those who replace files as a whole.
        let aside = directory.join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, directory.join(name)).unwrap();
    }

    fn of(value: &str) -> String {
        format!(r#"{{"instances":[{{"service_name":"s","endpoint":{{"type":"tcp","value":"{value}"}}}}]}}"#)
    }

    fn values(found: &[(Namespace, Found)]) -> Vec<(String, Vec<String>)> {
        let shown = |found: &Found| match found {
            Found::Instances(instances) => instances.iter().map(|i| i.endpoint.value.clone()).collect(),
            Found::Damaged(_) => vec!["damaged".to_owned()],
        };
        found.iter().map(|(namespace, found)| (namespace.to_string(), shown(found))).collect()
    }

    #[test]
    fn entries_are_read_as_the_spec_says_and_invalid_ones_passed_over() {
        let text = r#"{"more":1,"instances":[
            {"service_name":"s","endpoint":{"type":"http","value":"h:1"},"ttl":77,"tags":["a"],"metadata":{ "k" : 1 }},
            {"service_name":"s","endpoint":{"type":"tcp","value":"192.168.1.1:8087"},"status":"dOwN"},
            {"service_name":"s"},
            {"service_name":"","endpoint":{"type":"tcp","value":"h"}},
            {"service_name":"s","endpoint":{"type":"icmp","value":"h"}},
            {"service_name":"s","endpoint":{"type":"tcp","value":""}},
            {"service_name":7}, null, "text", []
        ]}"#;
        let read = instances(text.as_bytes()).unwrap();
        let shown: Vec<_> = read.iter().map(|i| serde_json::to_value(i).unwrap()).collect();
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[0]["tags"], serde_json::json!(["a", "filesystem"]));
        assert_eq!((shown[0].get("ttl"), shown[0]["status"].as_str()), (None, Some("UP")));
        assert_eq!(read[0].metadata.as_ref().unwrap().as_json(), r#"{ "k" : 1 }"#);
        assert_eq!(
            (shown[1]["status"].as_str(), shown[1]["tags"][0].as_str()),
            (Some("dOwN"), Some("filesystem"))
        );
        for damaged in ["", "[]", "{}", r#"{"instances":7}"#, r#"{"instances":[{}"#, "\u{0}"] {
            assert!(instances(damaged.as_bytes()).is_err(), "{damaged}");
        }
    }

    #[test]
    fn only_what_changed_is_handed_over_and_a_damaged_file_leaves_what_was_there() {
        let home = tempfile::tempdir().unwrap();
        let mut catalog = FileCatalog::new(home.path().to_owned());
        let look = |catalog: &mut FileCatalog| values(&catalog.look().unwrap());
        let one = |namespace: &str, value: &str| vec![(namespace.to_owned(), vec![value.to_owned()])];
        assert_eq!(look(&mut catalog), []);
        put(home.path(), "blue.json", &of("h:1"));
        put(home.path(), "notes.txt", "mine");
        fs::create_dir(home.path().join("folder.json")).unwrap();
        assert_eq!(look(&mut catalog), one("blue", "h:1"));
        assert_eq!(look(&mut catalog), []);
        put(home.path(), "blue.json", &of("h:2"));
        assert_eq!(look(&mut catalog), one("blue", "h:2"));
        put(home.path(), "blue.json", "{\"instances\":[");
        assert_eq!(look(&mut catalog), one("blue", "damaged"));
        assert_eq!(look(&mut catalog), [], "it is reported once");
        put(home.path(), "blue.json", &of("h:3"));
        assert_eq!(look(&mut catalog), one("blue", "h:3"));
        // The older extension counts as long as the newer is not there.
        put(home.path(), "green.conf", &of("g:1"));
        assert_eq!(look(&mut catalog), one("green", "g:1"));
        put(home.path(), "green.json", &of("g:2"));
        assert_eq!(look(&mut catalog), one("green", "g:2"));
        fs::remove_file(home.path().join("green.json")).unwrap();
        assert_eq!(look(&mut catalog), one("green", "g:1"));
        fs::remove_file(home.path().join("green.conf")).unwrap();
        assert_eq!(look(&mut catalog), [("green".to_owned(), vec![])]);
        fs::remove_dir_all(home.path()).unwrap();
        assert!(catalog.look().is_err(), "a directory that cannot be read says nothing about its files");
    }
}
